"""Holdfast archives scientific measurements to pairs of verified tapes."""

__version__ = "0.1.0"
