"""Reading contents back from tape, from whichever copy is good."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from holdfast.catalog import TapePlace
from holdfast.errors import HoldfastError, IntegrityError, MediaError
from holdfast.tape.drive import EndOfData, Position, TapeDrive
from holdfast.tape.library import MountedPair
from holdfast.tape.scan import RecordBuffer
from holdfast.values import Content

Sink = Callable[[memoryview], None]


class TapeContents:
    """Reads contents from a mounted pair. Contents asked for in tape order are read in one sweep."""

    def __init__(self, mounted: MountedPair) -> None:
        self._drives = {
            cartridge.barcode: _RecordReader(drive, mounted.pair.record_bytes) for cartridge, drive in mounted.sides
        }

    def read(self, place: TapePlace, content: Content, sink: Sink) -> None:
        """Hand the bytes of a content to `sink`.

        Raises `IntegrityError` or `MediaError` when they are not what the catalog says; the sink has had bytes by
        then, and must not have believed them.
        """
        digest = hashlib.sha256()
        try:
            for piece in self._drives[place.barcode].pieces(place, content.size_bytes):
                digest.update(piece)
                sink(piece)
        except EndOfData:
            raise _damaged(place, content, "end of data") from None
        if digest.digest() != content.sha256:
            raise _damaged(place, content, f"SHA-256 {digest.hexdigest()}")

    def read_any(
        self,
        places: Iterable[TapePlace],
        content: Content,
        make_sink: Callable[[], Sink],
        failed: Callable[[HoldfastError], None],
    ) -> bool:
        """Try the copies on this pair one after the other, each into a fresh sink; whether one of them was good."""
        for place in places:
            if place.barcode not in self._drives:
                continue
            try:
                self.read(place, content, make_sink())
            except (IntegrityError, MediaError) as error:
                failed(error)
            else:
                return True
        return False


def _damaged(place: TapePlace, content: Content, found: str) -> IntegrityError:
    return IntegrityError(
        "a file on tape is not what was written",
        place=f"{place.barcode} tape file {place.tape_file} byte {place.data_offset}",
        expected=f"SHA-256 {content.sha256.hex()}",
        found=found,
        hint="its twin is tried next; holdfast verify shows what else is damaged",
    )


class _RecordReader:
    """Records of one drive; the last one is kept, as many small files may lie in it."""

    def __init__(self, drive: TapeDrive, record_bytes: int) -> None:
        self._drive = drive
        self._record_bytes = record_bytes
        self._buffer = RecordBuffer(record_bytes)
        self._held: Position | None = None
        self._count = 0

    def pieces(self, place: TapePlace, size_bytes: int) -> Iterator[memoryview]:
        """The bytes of a content, record by record, each good until the next."""
        skip_records, skip_bytes = divmod(place.data_offset, self._record_bytes)
        position = Position(place.tape_file, skip_records, place.first_block + skip_records)
        left = size_bytes
        while left:
            record = self._record_at(position)
            piece = record[skip_bytes : skip_bytes + left]
            if not piece:
                raise EndOfData(place.barcode)
            left -= len(piece)
            position, skip_bytes = position.forward(1), 0
            yield piece

    def _record_at(self, position: Position) -> memoryview:
        if position != self._held:
            self._held = None
            if self._drive.tell() != position:
                self._drive.locate(position)
            self._count = self._drive.read_record(self._buffer.view)
            self._held = position
        return self._buffer.view[: self._count]
