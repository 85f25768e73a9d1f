"""Handling cartridges by hand: what is where, moving them, looking at one, taking one out of use, erasing one.

Each function owns the library while it works, so it waits for nobody: it is refused while another command has it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holdfast.catalog import tapes
from holdfast.errors import BusyError, HoldfastError, IntegrityError, MediaError, SourceError, UsageError
from holdfast.tape.changer import Changer
from holdfast.tape.changer.opening import open_changer
from holdfast.tape.drive import EndOfData, TapeDrive
from holdfast.tape.library import TapeLibrary
from holdfast.tape.looking import LARGEST_RECORD_BYTES, Found, look_at
from holdfast.tape.scan import RecordBuffer, is_blank
from holdfast.vault import opened, owned
from holdfast.work import look_at_work


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
            runs = look_at_work(vault.settings.state_folder).runs
    owner = next((run for run in runs if run.outcome == "running"), None)
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
    with _changer(folder) as changer, _in_a_drive(changer, barcode) as drive:
        yield drive


@contextmanager
def _in_a_drive(changer: Changer, barcode: str) -> Generator[TapeDrive, None, None]:
    """The cartridge, freshly loaded; it goes back whatever happens."""
    for name, loaded in changer.inventory().drives.items():
        if loaded == barcode:
            changer.unload(name)
    drive = _empty_drive(changer)
    opened = changer.load(barcode, drive)
    try:
        yield opened
    finally:
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


def _ignore(trouble: HoldfastError) -> None:
    """What is done could not be noted; it was done."""


def fence(folder: Path, barcode: str, reason: str, warn: Callable[[HoldfastError], object] = _ignore) -> None:
    """Take a cartridge out of use, for ever: it is not written again, and proves nothing. What it holds stays readable.

    The next `archive` copies its twin to another cartridge. `warn`: see `owned`.
    """
    with owned(folder, "tape fence", warn) as vault, TapeLibrary(vault.settings, vault.catalog) as library:
        library.adopt_pairs()
        with vault.catalog.reading() as connection:
            known = tapes.all_barcodes(connection)
        if barcode not in known:
            raise SourceError("no such cartridge", place=barcode, hint="holdfast tape list shows those of the vault")
        library.fence(barcode, MediaError(reason, place=barcode))


# -- erasing


def erase(
    folder: Path,
    barcode: str,
    confirm: Callable[[Found], None],
    *,
    labelled: str | None = None,
    warn: Callable[[HoldfastError], object] = _ignore,
) -> Found:
    """Erase a cartridge that is of no use as it is, so that it can be taken as a new one; what stood on it.

    `confirm` is told what stands on it, and raises unless that may go. `labelled`: the barcode in its label, where its
    sticker has another one. When this returns, the tape was read and found blank. Killed in the middle, it is done
    again by the same call.

    Law 5: raises `UsageError` for every cartridge that catalog or journals know, fenced and replaced ones too, and for
    one whose label is this vault's, whatever its sticker says. Raises `MediaError` for one that is write-protected, or
    whose begin cannot be read.
    """
    with owned(folder, "tape erase", warn) as vault, TapeLibrary(vault.settings, vault.catalog) as library:
        _refuse_known(library, barcode)
        with _in_a_drive(library.changer, barcode) as drive:
            found = look_at(drive)
            _refuse_volume(library, barcode, found)
            _refuse_relabelled(barcode, found, labelled)
            confirm(found)
            drive.erase()
            if not is_blank(drive, RecordBuffer(LARGEST_RECORD_BYTES)):
                raise _not_erased(barcode)
    return found


def _refuse_known(library: TapeLibrary, barcode: str) -> None:
    with library.catalog.reading() as connection:
        is_known = barcode in tapes.all_barcodes(connection)
    if is_known or library.journal(barcode).path.exists():
        raise UsageError(
            "a cartridge of this vault is never erased",
            place=barcode,
            expected="a cartridge that neither its catalog nor its journals know",
            found=f"{barcode} is known; it counts also when it is fenced or was replaced",
            hint=f"keep it; to have it out of the way: holdfast tape export {barcode}",
        )


def _refuse_volume(library: TapeLibrary, barcode: str, found: Found) -> None:
    """The sticker may be another one's; and a label of ours may be damaged, but for its first bytes."""
    volumes = _known_volumes(library)
    if found.label is not None:
        is_ours = found.label.vault_id == library.settings.id or found.label.volume_id in volumes
    else:
        is_ours = any(str(known).encode() in found.begin for known in {*volumes, library.settings.id})
    if is_ours:
        raise UsageError(
            "a cartridge that this vault wrote is never erased",
            place=barcode,
            expected="the label of another vault, or none",
            found=found.words,
            hint="keep it; to make it known, if this vault does not know it any more: holdfast rebuild",
        )


def _known_volumes(library: TapeLibrary) -> set[uuid.UUID]:
    """Of every cartridge that catalog or journals know."""
    with library.catalog.reading() as connection:
        known = [item for pair in tapes.all_pairs(connection) for item in pair.cartridges]
        volumes = {item.volume_id for item in [*known, *tapes.replaced_cartridges(connection)]}
    paths = set(library.settings.journals_folder.glob("*.jsonl")) - {library.evidence_journal.path}
    states = (library.journal(path.stem).state() for path in paths)
    return volumes | {state.identity.volume_id for state in states if state is not None}


def _refuse_relabelled(barcode: str, found: Found, labelled: str | None) -> None:
    if found.label is not None and found.label.barcode not in (barcode, labelled):
        other = found.label.barcode
        raise UsageError(
            "the label of the cartridge carries another barcode than its sticker; nothing was erased",
            place=barcode,
            expected=f"the label of {barcode}",
            found=f"the label of {other}, of vault {found.label.vault_id}",
            hint=f"see which cartridge it is; to erase it: holdfast tape erase {barcode} --labelled {other}",
        )


def _not_erased(barcode: str) -> MediaError:
    return MediaError(
        "the cartridge was erased, and is not blank",
        place=barcode,
        expected="nothing, or a file mark and nothing else, at its begin",
        found="data",
        hint="try it in the other drive; if it stays so, take the cartridge out of the library",
    )
