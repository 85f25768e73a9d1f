"""What can go wrong in the fault tools themselves, apart from what they do to others."""

from __future__ import annotations


class FaultToolError(Exception):
    """Root of the errors of this room."""


class UnsupportedPlatform(FaultToolError):
    """System calls cannot be traced here; the text says why. A test may skip with it."""


class UntraceableCall(FaultToolError):
    """The command did something that would change a watched file unseen; the command has been killed."""


class CommandTimedOut(FaultToolError):
    """The command ran longer than it was given; it has been killed."""


class ImpossibleEvent(FaultToolError):
    """A recording does not fit itself: something changed the watched folders behind the recorder's back."""
