"""Giving contents back, whole or in part, every byte checked.

`BlockReader` gives ranges of contents as memory; `ContentFile` is one content as a file that can be read from anywhere.
A read of a few bytes reads and checks the pieces of 64 KiB that they lie in, and no more of the block.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from holdfast.blocks.packfile import PackReader
from holdfast.blocks.packs import Packs
from holdfast.errors import IntegrityError
from holdfast.values import BlockPlace, Content, Locator, Segment

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_BYTES = 1024 * 1024
"""So much is read at once."""


class BlockIndex(Protocol):
    """Where the durable blocks and contents lie; the catalog is one."""

    def find_block(self, locator: Locator) -> BlockPlace | None:
        """The place of a durable block, or None."""
        ...

    def find_block_to_name(self, locator: Locator) -> BlockPlace | None:
        """The same for a block that a new manifest may name: not one that may be given up soon."""
        ...

    def find_segments(self, content: Content) -> tuple[Segment, ...] | None:
        """The segments of a durable, non-empty content, or None."""
        ...


class BlockReader:
    """Gives contents back from the store, every piece checked. Owned by one thread; use as a context manager.

    `packs`: where they are; a folder stands for those in it.
    """

    def __init__(self, packs: Packs | Path, index: BlockIndex) -> None:
        self._index = index
        self._packs = PackReader(packs)
        self._last: BlockPlace | None = None

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the packs. It may be used again, and opens them again then."""
        self._packs.close()

    def read(self, segments: tuple[Segment, ...]) -> Iterator[memoryview]:
        """The bytes of a content in order, in pieces of up to 1 MiB, each good until the next is asked for.

        Raises `IntegrityError` when a block is missing or a piece damaged.
        """
        for segment in segments:
            yield from self.read_part(segment, 0, segment.length_bytes)

    def read_part(self, segment: Segment, begin: int, end: int) -> Iterator[memoryview]:
        """The same for the bytes from `begin` to before `end` of one segment."""
        offset, end = segment.offset_bytes + begin, segment.offset_bytes + end
        while offset < end:
            length = min(READ_BYTES - offset % READ_BYTES, end - offset)
            yield self._read(segment.locator, offset, length)
            offset += length

    def _read(self, locator: Locator, offset: int, length: int) -> memoryview:
        place = self._place(locator)
        try:
            return self._packs.read(place, offset, length)
        except IntegrityError:
            self._last = None
            if self._place(locator) == place:
                raise
            return self._packs.read(self._place(locator), offset, length)  # it was copied elsewhere meanwhile

    def _place(self, locator: Locator) -> BlockPlace:
        if self._last is None or self._last.locator != locator:
            self._last = self._index.find_block(locator)
        if self._last is None:
            raise IntegrityError("a block is missing from the store", place=str(locator), expected="a place in a pack")
        return self._last


class ContentFile(io.RawIOBase):
    """A content as a file that is read from anywhere. Not for two threads at once; owns the reader, and closes it."""

    def __init__(self, reader: BlockReader, segments: tuple[Segment, ...]) -> None:
        super().__init__()
        self._reader = reader
        self._segments = segments
        self._ends = list(accumulate(segment.length_bytes for segment in segments))
        self.size_bytes = self._ends[-1] if self._ends else 0
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, _: object, /) -> NoReturn:
        raise io.UnsupportedOperation("a content is only read")

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Behind the end nothing is read. Raises `ValueError` for a place before the begin."""
        self._check_open()
        begins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}
        if whence not in begins or begins[whence] + offset < 0:
            raise ValueError(f"no place in a file of {self.size_bytes} bytes: {offset} from {whence}")
        self._position = begins[whence] + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill the buffer, unless the file ends before. Raises `IntegrityError`; nothing is given of a damaged piece."""
        room = memoryview(buffer).cast("B")
        done = 0
        for piece in self.pieces(self._position, self._position + len(room)):
            room[done : done + len(piece)] = piece
            done += len(piece)
        self._position += done
        return done

    def readall(self) -> bytes:
        data = self.part(self._position, self.size_bytes)
        self._position += len(data)
        return data

    def part(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` to before `end`, as far as there are any, wherever the file stands."""
        return b"".join(map(bytes, self.pieces(begin, end)))  # a piece is good until the next one is read

    def pieces(self, begin: int, end: int) -> Iterator[memoryview]:
        """The bytes from `begin` to before `end`, as far as there are any; each good until the next one is asked for."""
        self._check_open()
        end = min(end, self.size_bytes)
        number = bisect_right(self._ends, begin)
        while begin < end:
            segment, segment_end = self._segments[number], self._ends[number]
            first = segment_end - segment.length_bytes
            part_end = min(end, segment_end)
            yield from self._reader.read_part(segment, begin - first, part_end - first)
            begin, number = part_end, number + 1

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("this file is closed")
