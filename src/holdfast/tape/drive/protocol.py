"""What a tape drive can do, and what its tape may answer. The words are those of `st` and the SCSI standards.

A record is one block written in one operation; a tape file is the records up to a file mark; a block number counts
records and file marks from the begin of the tape. Every driver behaves as Linux's `st` does in variable-block mode
without rewinding (kernel documentation, Documentation/scsi/st.rst).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdfast.errors import MediaError


@dataclass(frozen=True, slots=True)
class Position:
    """A place on a tape, told in both ways: by file marks, and by blocks.

    `record` is counted from the begin of the tape file, `block` from the begin of the tape. A drive that can locate
    goes by the block; one that cannot rewinds, and spaces over file marks and records.
    """

    tape_file: int
    record: int
    block: int

    def forward(self, records: int) -> Position:
        """So many records further in the same tape file."""
        return Position(self.tape_file, self.record + records, self.block + records)


BEGIN_OF_TAPE = Position(0, 0, 0)


class EarlyWarning(Exception):
    """The end of the medium is near and the record was *not* written; the next write is let through (st: ENOSPC)."""


class EndOfMedium(MediaError):
    """The physical end: nothing more can be written."""


class EndOfData(Exception):
    """There is nothing behind this point of the tape."""


class TapeDrive(Protocol):
    """One drive with a loaded cartridge. Owned by one thread at a time."""

    @property
    def serial(self) -> str:
        """The drive's serial number: what evidence names."""
        ...

    def write_record(self, data: memoryview) -> None:
        """Write one record here; whatever lay behind this point is gone. Durable after a synchronous mark.

        Raises `EarlyWarning` (nothing written), `EndOfMedium`, `MediaError`.
        """
        ...

    def write_file_mark(self, *, synchronous: bool) -> None:
        """End the tape file. A synchronous mark returns when it and all before it are on the medium."""
        ...

    def erase(self) -> None:
        """Make the tape blank, in the short way, and stand at its begin; on the medium on return, wherever it stood.

        A drive that cannot do so writes one synchronous file mark at the begin: a tape with nothing but that is blank,
        too (`tape.scan.is_blank`). Raises `MediaError`, also for a write-protected cartridge.
        """
        ...

    def read_record(self, buffer: memoryview) -> int:
        """Read the next record into `buffer`; returns its size, or 0 for a file mark, which is passed.

        Raises `EndOfData`, and `MediaError` when the record is longer than the buffer or cannot be read.
        """
        ...

    def rewind(self) -> None: ...

    def locate(self, position: Position) -> None:
        """Go to a place whose tape file, record and block agree. Raises `MediaError` when the tape ends before it."""
        ...

    def space_file_marks(self, count: int) -> None:
        """Go forward over `count` file marks. Raises `EndOfData` when there are fewer."""
        ...

    def tell(self) -> Position:
        """Where the next record or mark is."""
        ...
