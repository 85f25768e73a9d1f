"""Tape drives: one protocol, and a driver for each kind. Nothing above this room may know which one it has."""

from holdfast.tape.drive.protocol import (
    BEGIN_OF_TAPE,
    EarlyWarning,
    EndOfData,
    EndOfMedium,
    Position,
    TapeDrive,
)
from holdfast.tape.drive.virtual import VirtualDrive

__all__ = ["BEGIN_OF_TAPE", "EarlyWarning", "EndOfData", "EndOfMedium", "Position", "TapeDrive", "VirtualDrive"]
