"""What lies on a tape, found by spacing over it: the first record of each tape file says which one it is.

A drive cannot always be relied on to tell where the data ends: what it reads there may be left from an earlier use of
the tape. So nothing is believed but what begins with the name of a tape file of this very pair, not met before.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass

from holdfast.errors import MediaError
from holdfast.tape import layout
from holdfast.tape.drive import EndOfData, Position, TapeDrive
from holdfast.tape.layout import TapeFileName
from holdfast.tape.scan import RecordBuffer


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A tape file with its mark. `name` is None where its begin tells none, or is `unreadable`."""

    number: int
    first_block: int
    records: int
    name: TapeFileName | None
    unreadable: bool = False

    @property
    def begin(self) -> Position:
        return Position(self.number, 0, self.first_block)


def survey(
    drive: TapeDrive, buffer: RecordBuffer, pair_id: uuid.UUID, known: Collection[uuid.UUID] = ()
) -> list[SeenFile]:
    """The tape files from here to the end of what is this pair's; only the first record of each is read.

    `known` are the ids of tape files before this point. The last tape file in the list has a name, or a begin that the
    drive cannot read: it may be anything.
    """
    met = set(known)
    found: list[SeenFile] = []
    while (seen := _next(drive, buffer)) is not None:
        if seen.name is not None and not _belongs(seen.name, found, pair_id, met):
            break
        found.append(seen)
        met |= {seen.name.id} if seen.name is not None else set()
    while found and found[-1].name is None and not found[-1].unreadable:
        found.pop()
    return found


def _belongs(name: TapeFileName, before: list[SeenFile], pair_id: uuid.UUID, met: set[uuid.UUID]) -> bool:
    """A catalog stands twice, so its id is met again, behind nothing but itself or what cannot be read."""
    if name.pair_id != pair_id:
        return False
    last = next((item.name for item in reversed(before) if item.name is not None), None)
    return name.id not in met or (name.kind == "catalog" and last == name)


def _next(drive: TapeDrive, buffer: RecordBuffer) -> SeenFile | None:
    """The tape file that begins here; None when there is none, or none with a mark at its end."""
    begin = drive.tell()
    try:
        record = _first_record(drive, buffer, begin)
    except EndOfData:
        return None
    if record == b"":
        return None
    name = layout.name_of(record) if record is not None else None
    try:
        drive.space_file_marks(1)
    except (EndOfData, MediaError):
        return None
    return SeenFile(begin.tape_file, begin.block, drive.tell().block - begin.block - 1, name, record is None)


def _first_record(drive: TapeDrive, buffer: RecordBuffer, begin: Position) -> bytes | None:
    """The begin of the record that stands here; b"" for a mark, None where it cannot be read, tried twice.

    What follows a damaged record may be whole.
    """
    for is_again in (False, True):
        try:
            if is_again:
                drive.locate(begin)
            return bytes(buffer.view[: min(drive.read_record(buffer.view), 1024)])
        except MediaError:
            pass
    return None
