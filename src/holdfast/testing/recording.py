"""A recording: the tree before a command ran, and what the command did to it, in order."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from holdfast.testing.events import Event, Said

SINGLE_ROOT = "."
"""The label of the root when there is only one: its own path in the recording."""


@dataclass(frozen=True, slots=True)
class StartFile:
    """A file that was there before; a second path with the same `file_id` is a hard link."""

    path: str
    file_id: int
    data: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class StartFolder:
    """A folder that was there before."""

    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class StartSymlink:
    """A symbolic link that was there before."""

    path: str
    file_id: int
    target: str


StartNode: TypeAlias = StartFile | StartFolder | StartSymlink


@dataclass(frozen=True)
class Recording:
    """Everything `record` saw.

    `roots` are the labels of the watched folders ("." for a single one), `start` the tree before, folders ahead of
    what they hold; all of `start` counts as durable. `events` are in the order in which they took effect.
    `returncode` is negative for a signal, as in `subprocess`.
    """

    roots: tuple[str, ...]
    start: tuple[StartNode, ...]
    events: tuple[Event, ...]
    returncode: int = 0
    stderr: bytes = b""

    @property
    def stdout(self) -> bytes:
        """All that was said."""
        return self.said(len(self.events))

    def said(self, prefix: int) -> bytes:
        """What had been written to standard output by the first `prefix` events."""
        return b"".join(event.data for event in self.events[:prefix] if isinstance(event, Said))

    def save(self, path: Path) -> None:
        """Write the recording to a file, to be shared between tests."""
        path.write_bytes(pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL))

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` wrote. Only for files of one's own making: the format is pickle."""
        loaded = pickle.loads(path.read_bytes())
        if not isinstance(loaded, cls):
            raise TypeError(f"{path} holds no recording")
        return loaded
