"""What a loaded cartridge says that it is: our label, another tape file of ours, a blank, or somebody else's tape."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.errors import IntegrityError, MediaError
from holdfast.tape import label as labels
from holdfast.tape import layout
from holdfast.tape.drive import EndOfData, TapeDrive
from holdfast.tape.foreign import identify
from holdfast.tape.scan import RecordBuffer, read_label_volume

LARGEST_RECORD_BYTES = 2 * 2**20
"""Foreign tapes may have longer records than ours; few systems write longer ones than this."""


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at the begin of a cartridge: our label, or words for what else, and its first record."""

    label: labels.Label | None
    words: str
    begin: bytes = b""


def look_at(drive: TapeDrive) -> Found:
    """What the loaded cartridge says that it is. Reads only; raises `MediaError` when its begin cannot be read."""
    buffer = RecordBuffer(LARGEST_RECORD_BYTES)
    try:
        volume = read_label_volume(drive, buffer)
        if volume is None:
            return Found(None, "a blank tape")
        label = labels.decode_volume(volume)
        return Found(label, f"side {label.side.value} of a pair of Holdfast, written for {label.barcode}")
    except IntegrityError as error:
        return Found(None, f"{error.message}: {error.found}", _first_record(drive, buffer) or b"")
    except MediaError as error:
        begin = _first_record(drive, buffer)
        return Found(None, error.message) if begin is None else Found(None, _words(begin), begin)


def _first_record(drive: TapeDrive, buffer: RecordBuffer) -> bytes | None:
    """The record at the begin, b"" for a file mark, None where there is nothing."""
    drive.rewind()
    try:
        return bytes(buffer.view[: drive.read_record(buffer.view)])
    except EndOfData:
        return None


def _words(record: bytes) -> str:
    """What begins with this record, which is no label that can be read; b"" is a file mark."""
    name = layout.name_of(record[:1024])
    if name is not None:
        return f"the begin of Holdfast's {name.kind} {name.id}, pair {name.pair_id}"
    return identify(record) if record else "a tape that begins with a file mark"
