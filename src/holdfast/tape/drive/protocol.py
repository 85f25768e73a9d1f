"""What a tape drive can do, and what its tape may answer. The words are those of `st` and the SCSI standards.

A record is one block written in one operation; a tape file is the records up to a file mark; a block number counts
records and file marks from the begin of the tape. Every driver behaves as Linux's `st` does in variable-block mode
without rewinding (kernel documentation, Documentation/scsi/st.rst).
"""

from __future__ import annotations

from typing import Protocol

from holdfast.errors import MediaError


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

    def read_record(self, buffer: memoryview) -> int:
        """Read the next record into `buffer`; returns its size, or 0 for a file mark, which is passed.

        Raises `EndOfData`, and `MediaError` when the record is longer than the buffer or cannot be read.
        """
        ...

    def rewind(self) -> None: ...

    def locate(self, block: int) -> None:
        """Go to a block number. Raises `MediaError` when the tape ends before it."""
        ...

    def space_file_marks(self, count: int) -> None:
        """Go forward over `count` file marks. Raises `EndOfData` when there are fewer."""
        ...

    def tell(self) -> int:
        """The block number of the next record or mark."""
        ...

    def used_bytes(self) -> int:
        """Bytes of records before this point; marks count nothing."""
        ...
