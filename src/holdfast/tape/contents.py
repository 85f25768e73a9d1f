"""Where the dump takes the bytes of a version from: the block store, or the source itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from holdfast.blocks import BlockReader
from holdfast.catalog import Catalog, PresentVersion
from holdfast.values import EMPTY_CONTENT


class OpenContent(Protocol):
    """The bytes of one version, read once from begin to end; a context manager."""

    def __enter__(self) -> OpenContent: ...

    def __exit__(self, *_: object) -> None: ...

    def read_into(self, room: memoryview) -> int:
        """Put the next bytes into `room`; returns how many, 0 at the end.

        Raises `HoldfastError` or OSError when the bytes cannot be had or must not be believed.
        """
        ...

    def check(self) -> None:
        """After the last byte: raise `HoldfastError` if what was read must not be believed."""
        ...


class ContentSource(Protocol):
    """Opens contents for the dump."""

    def open(self, item: PresentVersion) -> OpenContent: ...


class StoredContents:
    """Takes bytes from the block store where they are, and from `elsewhere` (the source itself) where they are not."""

    def __init__(self, catalog: Catalog, reader: BlockReader, elsewhere: ContentSource) -> None:
        self._catalog = catalog
        self._reader = reader
        self._elsewhere = elsewhere

    def open(self, item: PresentVersion) -> OpenContent:
        content = item.version.content
        if content == EMPTY_CONTENT:
            return StoredContent(iter(()))  # known whole by its name: whatever became of the source
        segments = self._catalog.find_segments(content) if content is not None else None
        return self._elsewhere.open(item) if segments is None else StoredContent(self._reader.read(segments))


class StoredContent:
    """A content of the block store, in pieces that the store has checked."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def __enter__(self) -> StoredContent:
        return self

    def __exit__(self, *_: object) -> None:
        self._piece = memoryview(b"")

    def read_into(self, room: memoryview) -> int:
        if not self._piece:
            self._piece = next(self._pieces, memoryview(b""))
        count = min(len(room), len(self._piece))
        room[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def check(self) -> None:
        """Nothing to add: the store checks every piece, and the dump the whole."""
