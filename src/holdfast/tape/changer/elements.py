"""What a changer says of itself: the output of `mtx status`, and the names of the drives in it. Pure.

`mtx` (1.3.12, mtx.c, function Status) prints a line for each drive and each slot, numbered from 0 and from 1:

      Storage Changer /dev/sg2:2 Drives, 4 Slots ( 1 Import/Export )
    Data Transfer Element 0:Full (Storage Element 3 Loaded):VolumeTag = HFA003L6
    Data Transfer Element 1:Empty
          Storage Element 1:Full :VolumeTag=HFA001L6
          Storage Element 4 IMPORT/EXPORT:Empty

It does not say which drive of the host an element is; READ ELEMENT STATUS with DVCID does, in libraries that know it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.errors import MediaError

_HEADER = re.compile(r"\s*Storage Changer .*:(\d+) Drives, (\d+) Slots")
_DRIVE = re.compile(
    r"Data Transfer Element (\d+):(Full|Empty)(?: \((?:Unknown Storage Element|Storage Element (\d+)) Loaded\))?"
)
_SLOT = re.compile(r"\s*Storage Element (\d+)( IMPORT/EXPORT)?:(Full|Empty)")
_BARCODE = re.compile(r":VolumeTag ?=([^:]*)")
_DRIVE_ELEMENTS = 4
"""Data transfer elements in the reply to READ ELEMENT STATUS (SMC-3, 6.11)."""


@dataclass(frozen=True, slots=True)
class DriveElement:
    """A place for a drive. `slot`: from where its cartridge came, None if nobody knows; `barcode`: None if unread."""

    number: int
    is_full: bool
    barcode: str | None
    slot: int | None


@dataclass(frozen=True, slots=True)
class SlotElement:
    """A place for a cartridge; `is_port`: one through which people put cartridges in and take them out."""

    number: int
    is_full: bool
    barcode: str | None
    is_port: bool


@dataclass(frozen=True, slots=True)
class Elements:
    """All places of a library, in the order in which they were told."""

    drives: tuple[DriveElement, ...]
    slots: tuple[SlotElement, ...]

    def slot_of(self, barcode: str) -> SlotElement | None:
        return next((slot for slot in self.slots if slot.barcode == barcode), None)

    def home_of(self, drive: DriveElement) -> SlotElement | None:
        """Where the drive's cartridge goes: the slot it came from, else the first free one; never into a port."""
        free = [slot for slot in self.slots if not slot.is_full and not slot.is_port]
        return next((slot for slot in free if slot.number == drive.slot), next(iter(free), None))


def parse_status(text: str) -> Elements:
    """The places that `mtx status` tells of. Raises `MediaError` when its output is not whole or not understood."""
    drives: list[DriveElement] = []
    slots: list[SlotElement] = []
    counts: tuple[int, int] | None = None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            counts = (int(header[1]), int(header[2]))
        elif drive := _DRIVE.match(line):
            slot = None if drive[3] is None else int(drive[3])
            drives.append(DriveElement(int(drive[1]), drive[2] == "Full", _barcode(line), slot))
        elif found := _SLOT.match(line):
            slots.append(SlotElement(int(found[1]), found[3] == "Full", _barcode(line), found[2] is not None))
        elif "Element" in line:
            raise _not_understood(line.strip())
    if counts != (len(drives), len(slots)):
        raise _not_understood(f"{len(drives)} drives and {len(slots)} slots of {counts or 'an unknown number'}")
    return Elements(tuple(drives), tuple(slots))


def _barcode(line: str) -> str | None:
    """Padded with spaces to 32 or 36 characters; empty in an empty place, and where the reader saw nothing."""
    found = _BARCODE.search(line)
    return (found[1].strip() or None) if found else None


def _not_understood(found: str) -> MediaError:
    return MediaError(
        "the changer's answer is not understood",
        place="mtx status",
        expected="a line for each drive and slot, and their numbers",
        found=found,
        hint="run `mtx -f <changer> status` and see what is wrong",
    )


def drive_serials(reply: bytes) -> list[str | None]:
    """The serial numbers of the drives in a reply to READ ELEMENT STATUS with DVCID, in the order of their elements.

    SMC-3, 6.11.2: a header of 8 bytes; pages of elements of one kind, each with a header of 8 bytes; descriptors of
    12 bytes, 36 more for each kind of barcode, then a device identifier (SPC-4, 7.8.6.1). None where there is none in
    letters. What is cut off counts as missing.
    """
    found: list[str | None] = []
    end = min(len(reply), 8 + int.from_bytes(reply[5:8]))
    at = 8
    while at + 8 <= end:
        kind, flags, size = reply[at], reply[at + 1], int.from_bytes(reply[at + 2 : at + 4])
        page_end = at + 8 + int.from_bytes(reply[at + 5 : at + 8])
        places = range(at + 8, min(page_end, end), size) if size and kind == _DRIVE_ELEMENTS else ()
        barcodes_bytes = 36 * bool(flags & 0x80) + 36 * bool(flags & 0x40)
        found += [_identifier(reply[place + 12 + barcodes_bytes : place + size]) for place in places]
        at = page_end
    return found


def _identifier(descriptor: bytes) -> str | None:
    """The serial number in an identifier of ASCII: the whole (kind 0), or what follows vendor and product (kind 1)."""
    if len(descriptor) < 4 or descriptor[0] & 0x0F != 2 or descriptor[1] & 0x0F > 1:
        return None
    text = descriptor[4 : 4 + descriptor[3]].decode("ascii", "replace")
    if descriptor[1] & 0x0F == 1:  # T10: 8 characters of vendor, 16 of product
        text = text[24:]
    text = text.strip(" \0")
    return text if text and text.isprintable() else None
