"""The command line: parse, call one function, show, and turn errors into text and an exit code.

Each command is a short module; nothing of Holdfast is decided here, and nobody imports this room.
"""

from holdfast.cli.app import main

__all__ = ["main"]
