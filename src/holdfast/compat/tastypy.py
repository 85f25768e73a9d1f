"""tastypy's names, as of its release 0.0.3, on `holdfast.state`: `from holdfast.compat import tastypy`.

What was meant is what is done, not its bugs (`try_items` goes through all items, not only the first). It differs in
this: every write survives the end of the process when it returns; `keys`, `values` and `items` are lists, as in Python
2; nothing is read whole at opening. A folder that tastypy has written is taken over when it is opened, and its files
stay as they are. `clone` means nothing any more: all who open a path see one state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast import state
from holdfast.errors import DuplicateKeyError, IntegrityError, StateError
from holdfast.state import Key, tastypy_format

DEFAULT_FILE_SIZE = 1000
DEFAULT_SYNC_AT = 1000
ITERITEMS_CHUNK_SIZE = 1000
ITERKEYS_CHUNK_SIZE = 1000
DEFAULT_PROGRESS_TRACKER_MAPPING = (("_tries", 0), ("_done", False), ("_aborted", False))

PersistentOrderedDictException = StateError
PersistentOrderedDictIntegrityError = IntegrityError
CalledClosedTrackerError = StateError

_Init = Mapping[Any, Any] | Iterable[tuple[Any, Any]]


class _AsInPython2:
    """Lists where Python 2 had lists, and the lazy ones beside them."""

    def keys(self: Any) -> list[Key]:
        return list(self)

    def values(self: Any) -> list[Any]:
        return [value for _, value in self.iteritems()]

    def items(self: Any) -> list[tuple[Key, Any]]:
        return list(self.iteritems())

    def iterkeys(self: Any) -> Iterator[Key]:
        return iter(self)

    def itervalues(self: Any) -> Iterator[Any]:
        return (value for _, value in self.iteritems())

    def iteritems(self: Any) -> Iterator[tuple[Key, Any]]:
        return iter(state.POD.items(self))


class PersistentOrderedDict(_AsInPython2, state.POD):  # type: ignore[misc]
    """`holdfast.state.POD` with tastypy's parameters."""

    def __init__(
        self,
        path: str | Path,
        init: _Init = (),
        gzipped: bool = False,
        file_size: int = DEFAULT_FILE_SIZE,
        sync_at: int = DEFAULT_SYNC_AT,
        clone: bool = True,  # noqa: ARG002 (all who open a path see one state)
    ) -> None:
        super().__init__(path, init, gzipped, file_size, sync_at, migrate=True)


class ProgressTracker(_AsInPython2, state.Tracker):  # type: ignore[misc]
    """`holdfast.state.Tracker` with tastypy's parameters."""

    def __init__(
        self,
        path: str | Path,
        max_tries: int = 0,
        init: _Init = (),
        gzipped: bool = False,
        file_size: int = DEFAULT_FILE_SIZE,
        sync_at: int = DEFAULT_SYNC_AT,
        clone: bool = True,  # noqa: ARG002 (all who open a path see one state)
    ) -> None:
        super().__init__(path, max_tries, init, gzipped, file_size, sync_at, migrate=True)


POD = SharedPOD = SharedPersistentOrderedDict = PersistentOrderedDict
Tracker = SharedTracker = SharedProgressTracker = ProgressTracker


class JSONSerializer:
    """The lines of tastypy's files."""

    @staticmethod
    def read_items(lines: Iterable[str]) -> Iterator[tuple[Key, Any]]:
        return (tastypy_format.entry_of(line.encode(), "a line") for line in lines if line)

    @staticmethod
    def dump_items(items: Iterable[tuple[Key, Any]]) -> Iterator[str]:
        return (tastypy_format.line_of(key, value).decode() for key, value in items)


def normalize_path(path: str | Path) -> str:
    """Whose home `~` is, and where links lead."""
    return os.path.realpath(os.path.expanduser(path))


__all__ = [
    "DEFAULT_FILE_SIZE",
    "DEFAULT_PROGRESS_TRACKER_MAPPING",
    "DEFAULT_SYNC_AT",
    "ITERITEMS_CHUNK_SIZE",
    "ITERKEYS_CHUNK_SIZE",
    "POD",
    "CalledClosedTrackerError",
    "DuplicateKeyError",
    "JSONSerializer",
    "PersistentOrderedDict",
    "PersistentOrderedDictException",
    "PersistentOrderedDictIntegrityError",
    "ProgressTracker",
    "SharedPOD",
    "SharedPersistentOrderedDict",
    "SharedProgressTracker",
    "SharedTracker",
    "Tracker",
    "normalize_path",
]
