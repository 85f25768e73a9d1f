"""Tape drives: one protocol, and a driver for each kind. Nothing above this room may know which one it has."""

from holdfast.tape.drive.protocol import EarlyWarning, EndOfData, EndOfMedium, TapeDrive
from holdfast.tape.drive.virtual import VirtualDrive

__all__ = ["EarlyWarning", "EndOfData", "EndOfMedium", "TapeDrive", "VirtualDrive"]
