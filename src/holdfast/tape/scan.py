"""Reading one tape file from a drive, from its first record to its file mark."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from holdfast.errors import HoldfastError, IntegrityError, MediaError
from holdfast.tape import layout
from holdfast.tape.drive import EndOfData, TapeDrive
from holdfast.tape.layout import MemberHeader, TapeFileName
from holdfast.tape.reader import ReadMember, TarReader


class ForeignTape(MediaError):
    """The tape begins with something else than a label of ours."""


class UnmarkedBegin(ForeignTape):
    """The tape begins with records that no file mark ends. `name`: what they begin, if they are of Holdfast.

    A label is like that whose writing was cut off; so is what another program left when it was.
    """

    def __init__(self, name: TapeFileName | None) -> None:
        super().__init__("the tape begins with data that no file mark ends")
        self.name = name


class RecordBuffer:
    """One record's worth of reused memory."""

    def __init__(self, record_bytes: int) -> None:
        self.view = memoryview(mmap.mmap(-1, record_bytes))


def _ignore(_: object) -> None:
    """Nobody asked."""


def read_tape_file(
    drive: TapeDrive,
    buffer: RecordBuffer,
    *,
    on_member: Callable[[ReadMember], None] = _ignore,
    on_data: Callable[[MemberHeader, memoryview], None] | None = None,
    on_bytes: Callable[[int], None] = _ignore,
) -> TarReader:
    """Read from here to the next file mark, and pass it; returns the finished reader.

    Raises `EndOfData` when there is no tape file here, or no mark at its end, and `MediaError` as the drive does.
    """
    reader = TarReader(on_member, on_data)
    while count := drive.read_record(buffer.view):
        reader.feed(buffer.view[:count])
        on_bytes(count)
    reader.finish()
    return reader


def is_blank(drive: TapeDrive, buffer: RecordBuffer) -> bool:
    """Whether there is nothing on the tape, or nothing but a file mark at its begin, as some drives erase.

    Goes to the begin first. Raises `MediaError` as the drive does.
    """
    drive.rewind()
    try:
        return drive.read_record(buffer.view) == 0 and nothing_follows(drive, buffer)
    except EndOfData:
        return True


def nothing_follows(drive: TapeDrive, buffer: RecordBuffer) -> bool:
    """Whether the tape stands at its end of data; if not, the next record or mark was passed."""
    try:
        drive.read_record(buffer.view)
    except EndOfData:
        return True
    return False


def read_label_volume(drive: TapeDrive, buffer: RecordBuffer) -> bytes | None:
    """`VOLUME.json` of the loaded cartridge, from its begin; None when the tape is blank (see `is_blank`).

    Raises `ForeignTape` when something else than a Holdfast label stands there, `UnmarkedBegin` when that has no file
    mark, and `MediaError` as the drive does.
    """
    volume = bytearray()

    def collect(header: MemberHeader, piece: memoryview) -> None:
        if header.name == b"VOLUME.json":
            volume.extend(piece)

    drive.rewind()
    try:
        label = read_tape_file(drive, buffer, on_data=collect)
    except EndOfData:
        return _blank_or_unmarked(drive, buffer)
    if label.size_bytes == 0 and nothing_follows(drive, buffer):
        return None
    if not volume:
        raise ForeignTape("the tape holds data that Holdfast did not write")
    return bytes(volume)


def _blank_or_unmarked(drive: TapeDrive, buffer: RecordBuffer) -> None:
    drive.rewind()
    try:
        count = drive.read_record(buffer.view)
    except EndOfData:
        return
    raise UnmarkedBegin(layout.name_of(bytes(buffer.view[: min(count, 1024)])))


def read_again_if_needed(drive: TapeDrive, read: Callable[[], HoldfastError | None]) -> HoldfastError | None:
    """What `read` finds wrong with a tape file, None for nothing. What a drive fails with once is tried again.

    Raises `MediaError` when the drive cannot even rewind: one that died says nothing about the tape.
    """
    failed: MediaError | None = None
    for _ in range(2):
        try:
            return read()
        except MediaError as error:
            failed = error
            drive.rewind()
        except IntegrityError as error:
            return error
        except EndOfData:
            return IntegrityError("end of data")
    return failed
