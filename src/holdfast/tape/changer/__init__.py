"""Changers: one protocol, and a driver for each kind. Nothing above this room may know which one it has."""

from holdfast.tape.changer.protocol import Changer, Inventory
from holdfast.tape.changer.virtual import VirtualChanger

__all__ = ["Changer", "Inventory", "VirtualChanger"]
