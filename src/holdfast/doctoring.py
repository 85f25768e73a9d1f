"""Whether packs and catalog agree: what each pack says is in it against what the catalog knows, and the catalog made whole.

    look      every pack's own index and manifests, which is a small part of it, against the catalog; nothing is locked
    repair    every pack is read in full and taken over again, as if it had just been found: blocks, names, ends, releases

The packs have the last word: what they say and the catalog does not know is told to it. Nothing that the catalog knows is
forgotten here. Whether blocks are whole is `holdfast scrub`'s question, and what tapes hold is `holdfast rebuild`'s.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.blocks import Fence, Manifest, recover_packs
from holdfast.blocks import manifest as manifests
from holdfast.blocks.packfile import PACK_SUFFIX, list_records, own_pack, pack_path, read_footer, read_record
from holdfast.blocks.packformat import IndexEntry, RecordType
from holdfast.catalog import Catalog, files, packs
from holdfast.config import open_vault
from holdfast.errors import HoldfastError, IntegrityError, VaultError
from holdfast.reports import DoctorReport, Silent, Watch, counted
from holdfast.values import BlockPlace, Content, Locator, Segment
from holdfast.vault import Vault, opened, owned


def examine(folder: Path, watch: Watch | None = None) -> DoctorReport:
    """Look at every pack; what does not agree are the report's errors, what is only noteworthy its warnings.

    Raises `VaultError` when the folder of packs is gone.
    """
    watch = watch or Silent()
    report = DoctorReport(vault=str(folder))
    with opened(folder) as vault:
        with vault.catalog.reading() as connection:
            known = packs.known_packs(connection)
        _check_mounted(vault.settings.packs_folder)
        found = dict(_found(vault.settings.packs_folder, report))
        with watch.stage("look", sum(map(_size_bytes, found.values()))) as stage:
            for pack_id, path in sorted(found.items()):
                size_bytes = _size_bytes(path)
                if not known.get(pack_id):  # an emptied one is only waiting to be removed
                    _examine(vault, pack_id, path, report)
                stage.advance(size_bytes)
            report.stages.append(stage.done())
        for pack_id in sorted(known.keys() - found.keys()):
            if not known[pack_id] and _is_missing(vault, pack_id):
                report.errors.append(_missing(vault, pack_id))
        report.packs = len(found)
    return report


def _check_mounted(folder: Path) -> None:
    if not folder.is_dir():
        raise VaultError(
            "the folder of packs is gone: is its disk mounted?", place=str(folder), hint="mount it, and run this again"
        )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # collected since it was listed


def _is_missing(vault: Vault, pack_id: uuid.UUID) -> bool:
    """Whether the catalog still knows the pack, and its file is not there: it may have been collected meanwhile."""
    with vault.catalog.reading() as connection:
        is_emptied = packs.known_packs(connection).get(pack_id, True)
    return not is_emptied and not pack_path(vault.settings.packs_folder, pack_id).exists()


def repair(folder: Path, watch: Watch | None = None) -> DoctorReport:
    """Take every pack over again, and look once more. Raises `BusyError` when somebody else works on the vault."""
    watch = watch or Silent()
    warnings: list[HoldfastError] = []
    before = _before(folder)
    fence = Fence(open_vault(folder).fence_folder)
    with fence.collecting(), owned(folder, "doctor", warnings.append) as vault:
        _check_mounted(vault.settings.packs_folder)
        recover_packs(vault.settings.packs_folder, known=_Unsettled(vault.catalog), sink=vault.catalog, fence=fence)
        gained = {name: count - before[name] for name, count in _counts(vault).items() if count > before[name]}
    watch.say("taken over: " + (", ".join(counted(count, name) for name, count in gained.items()) or "nothing new"))
    report = examine(folder, watch)
    report.warnings += warnings
    report.totals = gained
    return report


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """The catalog, as if no pack had been taken over yet; those that are only waiting to be removed are let go."""

    catalog: Catalog

    def pack_is_sealed(self, pack_id: uuid.UUID) -> bool:
        with self.catalog.reading() as connection:
            return packs.pack_is_emptied(connection, pack_id)

    def find_block(self, locator: Locator) -> BlockPlace | None:
        return self.catalog.find_block(locator)

    def find_segments(self, content: Content) -> tuple[Segment, ...] | None:
        return self.catalog.find_segments(content)

    def was_released(self, content: Content) -> bool:
        return self.catalog.was_released(content)


def _before(folder: Path) -> dict[str, int]:
    """What the catalog knows; nothing, if it is lost: opening the vault to work on it fills it."""
    if not open_vault(folder).catalog_path.exists():
        return {"block": 0, "version": 0}
    with opened(folder) as vault:
        return _counts(vault)


def _counts(vault: Vault) -> dict[str, int]:
    with vault.catalog.reading() as connection:
        store = packs.count_store(connection)
        return {"block": store["blocks"], "version": files.count_versions(connection)}


# -- looking


def _found(folder: Path, report: DoctorReport) -> Iterator[tuple[uuid.UUID, Path]]:
    """The packs in the folder; what else is there is told and left alone."""
    for path in sorted(folder.iterdir()):
        try:
            pack_id = uuid.UUID(path.stem)
        except ValueError:
            pack_id = None
        if pack_id is not None and path.name == f"{pack_id}{PACK_SUFFIX}":
            yield pack_id, path
        else:
            report.foreign += 1
            report.warnings.append(HoldfastError("not a pack, and left alone", place=str(path)))


def _examine(vault: Vault, pack_id: uuid.UUID, path: Path, report: DoctorReport) -> None:
    with _opened(path) as descriptor:
        if descriptor is None:
            return  # collected since it was listed
        is_known = vault.catalog.pack_is_sealed(pack_id)
        if not is_known and not own_pack(descriptor):
            report.warnings.append(HoldfastError("somebody is writing this pack", place=str(path)))
            return
        if not is_known:
            report.errors.append(_disagreement(path, "the catalog does not know the pack"))
        try:
            records = list_records(descriptor, pack_id)
            named = [_decode(descriptor, pack_id, entry) for entry in records if entry.type is RecordType.MANIFEST]
        except (IntegrityError, OSError) as error:
            is_open = read_footer(descriptor) is None
            found = "it was not sealed" if is_open else str(error)
            report.errors.append(_disagreement(path, found, "its index and all its manifests"))
            return
    report.blocks += sum(1 for entry in records if entry.type is RecordType.BLOCK)
    report.versions += sum(len(manifest.versions) for manifest in named)
    _compare_blocks(vault, pack_id, path, records, report)
    _compare_names(vault, path, named, report)


@contextmanager
def _opened(path: Path) -> Generator[int | None, None, None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _decode(descriptor: int, pack_id: uuid.UUID, entry: IndexEntry) -> Manifest:
    return manifests.decode(read_record(descriptor, pack_id, entry))


def _compare_blocks(
    vault: Vault, pack_id: uuid.UUID, path: Path, records: list[IndexEntry], report: DoctorReport
) -> None:
    """Each block that the catalog reads from here must be here; and each that is here must be known."""
    here = {(Locator(e.blake3, e.payload_bytes), e.offset_bytes) for e in records if e.type is RecordType.BLOCK}
    with vault.catalog.reading() as connection:
        said = {(place.locator, place.offset_bytes) for place in packs.blocks_of_pack(connection, pack_id)}
        known = packs.known_blocks(connection, [locator for locator, _ in here])
    if astray := said - here:
        what = f"{counted(len(astray), 'block')} that the catalog reads from here"
        report.errors.append(_disagreement(path, f"{what} {_are(astray)} not here"))
    if unknown := {locator for locator, _ in here} - known:
        report.errors.append(_disagreement(path, f"{counted(len(unknown), 'block')} that the catalog does not know"))


def _compare_names(vault: Vault, path: Path, named: list[Manifest], report: DoctorReport) -> None:
    ids = {stored.version.id for manifest in named for stored in manifest.versions}
    with vault.catalog.reading() as connection:
        unknown = ids - files.version_row_numbers(connection, list(ids)).keys()
    if unknown:
        report.errors.append(_disagreement(path, f"{counted(len(unknown), 'version')} that the catalog does not know"))


def _are(items: set[tuple[Locator, int]]) -> str:
    return "is" if len(items) == 1 else "are"


def _disagreement(path: Path, found: str, expected: str = "what the catalog knows") -> IntegrityError:
    return IntegrityError(
        "a pack and the catalog do not agree",
        place=str(path),
        expected=expected,
        found=found,
        hint="holdfast doctor --repair takes every pack into the catalog again",
    )


def _missing(vault: Vault, pack_id: uuid.UUID) -> IntegrityError:
    return IntegrityError(
        "a pack of the store is missing",
        place=str(pack_path(vault.settings.packs_folder, pack_id)),
        hint="is its disk mounted? If the pack is lost for good: holdfast scrub --replace-lost",
    )
