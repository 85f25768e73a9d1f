"""Handling cartridges by hand: what is where, moving them, looking at one, taking one out of use.

Each function owns the library while it works, so it waits for nobody: it is refused while another command has it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holdfast.catalog import tapes
from holdfast.errors import BusyError, IntegrityError, MediaError, SourceError
from holdfast.state import RunLog
from holdfast.tape.changer import Changer
from holdfast.tape.changer.opening import open_changer
from holdfast.tape.drive import EndOfData, TapeDrive
from holdfast.tape.library import TapeLibrary
from holdfast.tape.looking import LARGEST_RECORD_BYTES, Found, look_at
from holdfast.tape.scan import RecordBuffer
from holdfast.vault import opened, owned


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cartridge is, and what the vault knows of it.

    `drive` is a serial number, None: in a slot, or in one of those for import and export (`port`). `device`: that of
    a real drive.
    """

    barcode: str | None
    drive: str | None
    known_as: str
    port: bool = False
    device: str | None = None


def inventory(folder: Path) -> list[Place]:
    """Every drive, with its cartridge if it has one, and then every cartridge in a slot, and in a port."""
    with opened(folder) as vault, vault.catalog.reading() as connection:
        names = {item.barcode: item for pair in tapes.all_pairs(connection) for item in pair.cartridges}
        gone = {item.barcode for item in tapes.replaced_cartridges(connection)}
    with _changer(folder) as changer:
        found, devices = changer.inventory(), changer.devices()

    def known_as(barcode: str | None) -> str:
        if barcode in gone:
            return "replaced"
        item = names.get(barcode or "")
        return "" if item is None else f"side {item.side.value}" + (", fenced" if item.fenced else "")

    drives = [
        Place(barcode, drive, known_as(barcode), device=str(devices[drive]) if drive in devices else None)
        for drive, barcode in sorted(found.drives.items())
    ]
    slots = [Place(barcode, None, known_as(barcode)) for barcode in sorted(found.slots)]
    return drives + slots + [Place(barcode, None, known_as(barcode), port=True) for barcode in sorted(found.ports)]


@dataclass(frozen=True, slots=True)
class DriveStatus:
    """The drives, each with its cartridge; or none, and who has the library."""

    drives: list[Place]
    owner: str | None


def drive_status(folder: Path) -> DriveStatus:
    """What is in the drives, and what the vault knows of it. Moves and reads no tape, and waits for nobody."""
    try:
        return DriveStatus([place for place in inventory(folder) if place.drive is not None], None)
    except BusyError:
        with opened(folder) as vault:
            runs = RunLog(vault.settings.state_path).latest(5)
    owner = next((run for run in runs if run.outcome is None and Path(f"/proc/{run.pid}").exists()), None)
    if owner is None:
        return DriveStatus([], "another command")
    return DriveStatus([], f"'holdfast {owner.command}', process {owner.pid} on {owner.host}")


def export(folder: Path, barcode: str) -> None:
    """Put a cartridge into a port, where a person takes it out. Until it is brought in, whoever wants it needs one."""
    with _changer(folder) as changer:
        changer.export(barcode)


def bring_in(folder: Path, barcode: str) -> None:
    """Put a cartridge that a person has put into a port into a slot."""
    with _changer(folder) as changer:
        changer.bring_in(barcode)


@contextmanager
def _changer(folder: Path) -> Generator[Changer, None, None]:
    with opened(folder) as vault:
        changer = open_changer(vault.settings)
    try:
        yield changer
    finally:
        changer.close()


def load(folder: Path, barcode: str, drive: str | None = None) -> str:
    """Put a cartridge into a drive, the first empty one unless told; the serial number of the drive."""
    with _changer(folder) as changer:
        drive = drive or _empty_drive(changer)
        changer.load(barcode, drive)
        return drive


def _empty_drive(changer: Changer) -> str:
    drives = changer.inventory().drives
    for drive, barcode in sorted(drives.items()):
        if barcode is None:
            return drive
    raise MediaError("all drives are full", found=", ".join(map(str, drives.values())), hint="holdfast tape unload")


def unload(folder: Path, drive: str | None = None) -> list[str]:
    """Put what a drive holds, or what all of them hold, back into slots; the barcodes of what was moved."""
    with _changer(folder) as changer:
        held = changer.inventory().drives
        wanted = sorted(held) if drive is None else [drive]
        for name in wanted:
            changer.unload(name)
        return [barcode for name in wanted if (barcode := held[name]) is not None]


def look(folder: Path, barcode: str) -> Found:
    """Load a cartridge, read what it says it is, and put it back. Nothing is written."""
    with _loaded(folder, barcode) as drive:
        return look_at(drive)


@contextmanager
def _loaded(folder: Path, barcode: str) -> Generator[TapeDrive, None, None]:
    with _changer(folder) as changer:
        for name, loaded in changer.inventory().drives.items():
            if loaded == barcode:
                changer.unload(name)
        drive = _empty_drive(changer)
        yield changer.load(barcode, drive)
        changer.unload(drive)


def copy_tape_file(folder: Path, barcode: str, number: int, out: BinaryIO) -> int:
    """Write the bytes of one tape file, as they lie on the cartridge, to `out`; how many.

    Raises `SourceError` when there is none, `IntegrityError` when it ends without its file mark.
    """
    with _loaded(folder, barcode) as drive:
        buffer = RecordBuffer(LARGEST_RECORD_BYTES)
        total = 0
        try:
            drive.rewind()
            drive.space_file_marks(number)
            while count := drive.read_record(buffer.view):
                out.write(buffer.view[:count])
                total += count
        except EndOfData:
            place = f"{barcode} tape file {number}"
            if total == 0:
                raise SourceError(
                    "the cartridge has no such tape file", place=place, hint="holdfast tape list"
                ) from None
            raise IntegrityError(
                "a tape file ends without its file mark: what was read may not be all of it",
                place=place,
                found=f"end of data after {total} bytes",
                hint="holdfast verify; its twin may have it whole",
            ) from None
        return total


def fence(folder: Path, barcode: str, reason: str) -> None:
    """Take a cartridge out of use, for ever: it is not written again, and proves nothing. What it holds stays readable.

    The next `archive` copies its twin to another cartridge.
    """
    with owned(folder, "tape fence") as vault, TapeLibrary(vault.settings, vault.catalog) as library:
        library.adopt_pairs()
        with vault.catalog.reading() as connection:
            known = tapes.all_barcodes(connection)
        if barcode not in known:
            raise SourceError("no such cartridge", place=barcode, hint="holdfast tape list shows those of the vault")
        library.fence(barcode, MediaError(reason, place=barcode))
