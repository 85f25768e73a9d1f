"""Rebuilding: the catalog and the journals of cartridges again, from the tapes alone.

    look       the label of every cartridge in the library: whose is it, and which is its twin?
    settle     a vault that knows nothing yet becomes the one that wrote the tapes
    take       pair after pair, oldest first, into catalog and journals (`holdfast.tape.rebuild`)
    tell       ends and readings, which may be about any of them; which cartridges are missing

What is known stays as it is; running again is resuming.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path

from holdfast.catalog import adopting, files, proof, tapes
from holdfast.config import take_identity
from holdfast.errors import BusyError, HoldfastError, IntegrityError, MediaError, OperatorNeeded, VaultError
from holdfast.reports import FoundTape, RebuildReport, Silent, Stage, Watch, counted
from holdfast.tape.drive import TapeDrive
from holdfast.tape.feeding import Carried
from holdfast.tape.library import TapeLibrary
from holdfast.tape.rebuild import FoundCartridge, TakenPair, find_cartridge, take_pair
from holdfast.tape.verify import adopt_evidence
from holdfast.values import Side
from holdfast.vault import Vault, owned

UNREADABLE = (MediaError, IntegrityError, OperatorNeeded, BusyError)
"""What keeps one cartridge from being read, and no other."""


def rebuild(folder: Path, barcodes: tuple[str, ...] = (), watch: Watch | None = None) -> RebuildReport:
    """Fill catalog and journals from the cartridges in the library: all of them, or these and their twins.

    What cannot be read is in the report, and the rest is done. Raises `VaultError` when a vault that knows nothing
    finds tapes of several vaults.
    """
    watch = watch or Silent()
    report = RebuildReport(vault=str(folder))
    with (
        owned(folder, "rebuild", report.warnings.append) as vault,
        TapeLibrary(vault.settings, vault.catalog) as library,
    ):
        library.adopt_pairs()
        with watch.stage("look") as stage:
            found = _look(library, barcodes, report, stage)
            report.stages.append(stage.done())
        found = _settle(vault, library, found, report)
        with watch.stage("rebuild") as stage:
            carried = Carried(library)
            pairs = _by_pair(library, found)
            _report_replaced(found, pairs, report)
            for sides in pairs:
                _take(library, sides, carried, report, stage, watch)
            report.evidence = carried.tell()
            adopt_evidence(library)
            report.stages.append(stage.done())
        _conclude(vault, library, found, report)
    return report


# -- 1. look


def _look(library: TapeLibrary, barcodes: tuple[str, ...], report: RebuildReport, stage: Stage) -> list[FoundCartridge]:
    """Read the labels, those of twins too; what has none that can be read is reported."""
    library.unload_all()
    present = sorted(library.changer.inventory().slots)
    left = list(dict.fromkeys(barcodes)) or present
    found: list[FoundCartridge] = []
    for barcode in left:
        one = _look_at(library, barcode, report)
        stage.count()
        if one is not None:
            found.append(one)
            twin = one.label.twin_barcode
            if twin not in left and twin in present:
                left.append(twin)
    return found


def _look_at(library: TapeLibrary, barcode: str, report: RebuildReport) -> FoundCartridge | None:
    try:
        with _loaded(library, [barcode]) as (drive,):
            found = find_cartridge(drive, barcode)
    except UNREADABLE as error:
        _report_unreadable(report, barcode, error)
        return None
    if found is None:
        report.cartridges.append(FoundTape(barcode, "blank"))
    return found


@contextmanager
def _loaded(library: TapeLibrary, barcodes: Iterable[str]) -> Generator[list[TapeDrive], None, None]:
    """Cartridges in drives, in their order; taken out again whatever happens, as they are only read."""
    with ExitStack() as stack:
        stack.callback(library.unload_all)
        yield [library.changer.load(name, drive) for name, drive in zip(barcodes, library.drives(), strict=False)]


def _report_unreadable(report: RebuildReport, barcode: str, error: HoldfastError) -> None:
    error.place = error.place or barcode
    report.cartridges.append(FoundTape(barcode, "not read", error.message))
    report.errors.append(error)


# -- 2. whose are they?


def _settle(
    vault: Vault, library: TapeLibrary, found: list[FoundCartridge], report: RebuildReport
) -> list[FoundCartridge]:
    """Those of this vault. A vault that knows nothing yet becomes the one whose tapes these are."""
    owners = {item.label.vault_id for item in found}
    if owners and vault.settings.id not in owners and _is_fresh(vault):
        if len(owners) > 1:
            raise _several_vaults(found)
        library.settings = take_identity(vault.settings, owners.pop())
        report.adopted_id = str(library.settings.id)
    for item in found:
        if item.label.vault_id != library.settings.id:
            _report_unreadable(report, item.barcode, _other_vault(item, library.settings.id))
    return [item for item in found if item.label.vault_id == library.settings.id]


def _is_fresh(vault: Vault) -> bool:
    """Whether the vault knows nothing: no source, no pair, no pack, no journal."""
    with vault.catalog.reading() as connection:
        knows_nothing = adopting.is_fresh(connection)
    settings = vault.settings
    rooms = (settings.packs_folder.glob("*.pack"), settings.journals_folder.glob("*.jsonl"))
    return knows_nothing and not any(path.stat().st_size for room in rooms for path in room)


def _several_vaults(found: list[FoundCartridge]) -> VaultError:
    owners: dict[uuid.UUID, list[str]] = {}
    for item in found:
        owners.setdefault(item.label.vault_id, []).append(item.barcode)
    return VaultError(
        "the cartridges in the library are of several vaults; nothing was rebuilt",
        expected="cartridges of one vault",
        found="; ".join(f"vault {owner}: {', '.join(barcodes)}" for owner, barcodes in owners.items()),
        hint="name those of one vault: holdfast rebuild BARCODE...",
    )


def _other_vault(item: FoundCartridge, expected: uuid.UUID) -> IntegrityError:
    return IntegrityError(
        "the cartridge is of another vault; nothing was taken from it",
        place=item.barcode,
        expected=f"vault {expected}",
        found=f"vault {item.label.vault_id}",
        hint="rebuild it into a vault of its own: holdfast init --vault DIR, then holdfast rebuild --vault DIR",
    )


# -- 3. take


def _by_pair(library: TapeLibrary, found: list[FoundCartridge]) -> list[list[FoundCartridge]]:
    """The sides that were found of each pair, A first; the oldest pair first.

    Of several cartridges for one side of a pair the one that counts is that which no other one replaces.
    """
    pairs: dict[uuid.UUID, dict[Side, list[FoundCartridge]]] = {}
    for item in sorted(found, key=lambda item: (item.label.created, item.label.side, item.barcode)):
        pairs.setdefault(item.label.pair_id, {}).setdefault(item.label.side, []).append(item)
    replaces = {item.barcode: _replaced_by(library, item) for item in found}
    return [[_last(sides[side], replaces) for side in Side if side in sides] for sides in pairs.values()]


def _last(found: list[FoundCartridge], replaces: dict[str, str]) -> FoundCartridge:
    """The one that took its side last, of cartridges in the order of their labels' times.

    A label of an older release does not say what it replaces: then one that says so is newer, and else the later one,
    though times are in seconds only.
    """
    replaced = {replaces[item.barcode] for item in found}
    left = [item for item in found if item.barcode not in replaced] or found
    return max(reversed(left), key=lambda item: bool(replaces[item.barcode]))  # of equals `max` takes the first


def _replaced_by(library: TapeLibrary, item: FoundCartridge) -> str:
    """The barcode that a cartridge replaces, as its label says, or the journal of the same cartridge."""
    state = library.journal(item.barcode).state()
    if item.label.replaces or state is None or state.identity.volume_id != item.label.volume_id:
        return item.label.replaces
    return state.identity.replaces


def _report_replaced(found: list[FoundCartridge], pairs: list[list[FoundCartridge]], report: RebuildReport) -> None:
    used = {item.barcode for sides in pairs for item in sides}
    gone = [item.barcode for item in found if item.barcode not in used]
    report.cartridges += [FoundTape(barcode, "replaced", "another cartridge took its place") for barcode in gone]


def _take(
    library: TapeLibrary,
    sides: list[FoundCartridge],
    carried: Carried,
    report: RebuildReport,
    stage: Stage,
    watch: Watch,
) -> None:
    names = [item.barcode for item in sides]
    try:
        with _loaded(library, names) as drives:
            taken = take_pair(library, list(zip(sides, drives, strict=True)), carried, stage.advance)
    except UNREADABLE as error:
        report.errors.append(error)
        report.cartridges += [FoundTape(name, "not rebuilt", error.message) for name in names]
        return
    _count(taken, names, report)
    new = sum(taken.tape_files.values())
    watch.say(f"rebuilt {' and '.join(names)}: {counted(new, 'new tape file')}")


def _count(taken: TakenPair, names: list[str], report: RebuildReport) -> None:
    report.pairs += 1
    report.objects += taken.objects
    report.scanned += taken.scanned
    report.errors += taken.problems
    for name in names:
        new = taken.tape_files[name]
        text = counted(new, "new tape file") if new else ""
        report.cartridges.append(FoundTape(name, "rebuilt" if new else "known", text))


# -- 4. tell


def _conclude(vault: Vault, library: TapeLibrary, found: list[FoundCartridge], report: RebuildReport) -> None:
    """Which cartridges are named and were not found; what is known now."""
    present = {*library.changer.inventory().slots}
    named = {name for item in found for name in (*item.ledger, item.label.twin_barcode)}
    report.missing = sorted(named - present)
    report.cartridges.sort(key=lambda item: item.barcode)
    with vault.catalog.reading() as connection:
        report.totals = tapes.count_tapes(connection) | proof.count_proven(connection)
        report.totals["sources"] = len(files.all_sources(connection))
