"""Whether packs and catalog agree: what each pack says is in it against what the catalog knows, and the catalog made whole.

    look      every pack's own index and manifests, which is a small part of it, against the catalog; nothing is locked
    repair    every pack is read in full and taken over again, as if it had just been found: blocks, names, ends, releases

The packs have the last word, wherever they lie: what they say and the catalog does not know is told to it. Of packs elsewhere
a repair, too, reads no more than what they say. Nothing that the catalog knows is forgotten here. Whether blocks are whole is
`holdfast scrub`'s question, and what tapes hold is `holdfast rebuild`'s.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.blocks import Manifest
from holdfast.blocks import manifest as manifests
from holdfast.blocks.backends import OpenPack
from holdfast.blocks.backends.backend import pack_id_of
from holdfast.blocks.fence import Fence
from holdfast.blocks.packfile import asked_twice, list_records, own_pack, read_footer, read_record, read_superblock
from holdfast.blocks.packformat import IndexEntry, RecordType
from holdfast.blocks.packs import pack_path
from holdfast.catalog import Catalog, files, packs
from holdfast.config import open_vault
from holdfast.errors import HoldfastError, IntegrityError, VaultError
from holdfast.reports import DoctorReport, Silent, Watch, counted
from holdfast.values import BlockPlace, Content, Locator, Segment
from holdfast.vault import Vault, opened, owned, take_over


def examine(folder: Path, watch: Watch | None = None) -> DoctorReport:
    """Look at every pack; what does not agree are the report's errors, what is only noteworthy its warnings.

    Raises `VaultError` when the folder of packs is gone, and what backends raise when packs lie there.
    """
    watch = watch or Silent()
    report = DoctorReport(vault=str(folder))
    with opened(folder) as vault:
        with vault.catalog.reading() as connection:
            known = packs.known_packs(connection)
        _check_mounted(vault.settings.packs_folder)
        found = dict(_found(vault.settings.packs_folder, report))
        found = dict(_found_elsewhere(vault)) | found  # that of the folder counts: a pack may be in both places
        found = {pack_id: size for pack_id, size in found.items() if not known.get(pack_id)}  # emptied ones are to go
        with watch.stage("look", sum(found.values())) as stage:
            for pack_id, size_bytes in sorted(found.items()):
                _examine(vault, pack_id, report)
                stage.advance(size_bytes)
            report.stages.append(stage.done())
        for pack_id in sorted(known.keys() - found.keys()):
            if not known[pack_id] and _is_missing(vault, pack_id):
                report.errors.append(_missing(vault, pack_id))
    return report


def _check_mounted(folder: Path) -> None:
    if not folder.is_dir():
        raise VaultError(
            "the folder of packs is gone: is its disk mounted?", place=str(folder), hint="mount it, and run this again"
        )


def _is_missing(vault: Vault, pack_id: uuid.UUID) -> bool:
    """Whether the catalog still knows the pack, and it is nowhere: it may have been collected meanwhile."""
    with vault.catalog.reading() as connection:
        is_emptied = packs.pack_is_emptied(connection, pack_id)
    return is_emptied is False and not vault.packs.has(pack_id)


def repair(folder: Path, watch: Watch | None = None) -> DoctorReport:
    """Take every pack over again, and look once more.

    Raises `BusyError` when somebody else works on the vault, or collects: a pack that is being read could go meanwhile, and
    the catalog would learn of blocks that are nowhere.
    """
    watch = watch or Silent()
    warnings: list[HoldfastError] = []
    before = _before(folder)
    fence = Fence(open_vault(folder).fence_folder)
    with fence.collecting(), owned(folder, "doctor", warnings.append) as vault:
        _check_mounted(vault.settings.packs_folder)
        take_over(vault, _Unsettled(vault.catalog), warnings.append)
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
            return bool(packs.pack_is_emptied(connection, pack_id))

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


def _found(folder: Path, report: DoctorReport) -> Iterator[tuple[uuid.UUID, int]]:
    """The packs in the folder, and their sizes; what else is there is told and left alone."""
    for path in sorted(folder.iterdir()):
        pack_id = pack_id_of(path.name)
        if pack_id is not None:
            with suppress(FileNotFoundError):  # moved or collected since it was listed
                yield pack_id, path.stat().st_size
        else:
            report.foreign += 1
            report.warnings.append(HoldfastError("not a pack, and left alone", place=str(path)))


def _found_elsewhere(vault: Vault) -> Iterator[tuple[uuid.UUID, int]]:
    """Where packs are moved to; those of other vaults may lie there, too."""
    backend = vault.packs.backend()
    for held in backend.packs() if backend is not None else ():
        yield held.pack_id, held.size_bytes


def _examine(vault: Vault, pack_id: uuid.UUID, report: DoctorReport) -> None:
    path, is_known = pack_path(vault.settings.packs_folder, pack_id), vault.catalog.pack_is_sealed(pack_id)
    if not is_known and _is_being_written(path):
        report.packs += 1
        report.warnings.append(HoldfastError("somebody is writing this pack", place=str(path)))
        return
    try:
        pack = vault.packs.open(pack_id)
    except FileNotFoundError:
        return  # collected since it was listed
    with closing(pack):
        if not is_known and not _is_ours(vault, pack_id, pack):
            if path.exists():
                report.foreign += 1
                report.warnings.append(HoldfastError("a pack of another vault, and left alone", place=str(path)))
            return
        problems = list(_disagreements(vault, pack_id, pack, report, is_known=is_known))
        if (
            not is_known or not problems or vault.catalog.pack_is_kept(pack_id)
        ):  # else it was collected while it was read
            report.packs += 1
            report.errors += problems


def _is_being_written(path: Path) -> bool:
    """Whether it is in the folder, and somebody else has it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not own_pack(descriptor)
    finally:
        os.close(descriptor)


def _is_ours(vault: Vault, pack_id: uuid.UUID, pack: OpenPack) -> bool:
    """Whether a pack may be this vault's; in another place, others may keep theirs, too."""
    try:
        superblock = asked_twice(pack, lambda: read_superblock(pack))
    except IntegrityError:
        return True
    return (superblock.vault_id, superblock.pack_id) == (vault.settings.id, pack_id)


def _disagreements(
    vault: Vault, pack_id: uuid.UUID, pack: OpenPack, report: DoctorReport, *, is_known: bool
) -> Iterator[IntegrityError]:
    if not is_known:
        yield _disagreement(pack, "the catalog does not know the pack")
    try:
        records = asked_twice(pack, lambda: list_records(pack, pack_id))
        named = [_decode(pack, pack_id, entry) for entry in records if entry.type is RecordType.MANIFEST]
    except (IntegrityError, OSError) as error:
        found = "it was not sealed" if read_footer(pack) is None else str(error)
        yield _disagreement(pack, found, "its index and all its manifests")
        return
    report.blocks += sum(1 for entry in records if entry.type is RecordType.BLOCK)
    report.versions += sum(len(manifest.versions) for manifest in named)
    yield from _compare_blocks(vault, pack_id, pack, records)
    yield from _compare_names(vault, pack, named)


def _decode(pack: OpenPack, pack_id: uuid.UUID, entry: IndexEntry) -> Manifest:
    return manifests.decode(asked_twice(pack, lambda: read_record(pack, pack_id, entry)))


def _compare_blocks(
    vault: Vault, pack_id: uuid.UUID, pack: OpenPack, records: list[IndexEntry]
) -> Iterator[IntegrityError]:
    """Each block that the catalog reads from here must be here; and each that is here must be known."""
    here = {(Locator(e.blake3, e.payload_bytes), e.offset_bytes) for e in records if e.type is RecordType.BLOCK}
    with vault.catalog.reading() as connection:
        said = {(place.locator, place.offset_bytes) for place in packs.blocks_of_pack(connection, pack_id)}
        known = packs.known_blocks(connection, [locator for locator, _ in here])
    if astray := said - here:
        what = f"{counted(len(astray), 'block')} that the catalog reads from here"
        yield _disagreement(pack, f"{what} {_are(astray)} not here")
    if unknown := {locator for locator, _ in here} - known:
        yield _disagreement(pack, f"{counted(len(unknown), 'block')} that the catalog does not know")


def _compare_names(vault: Vault, pack: OpenPack, named: list[Manifest]) -> Iterator[IntegrityError]:
    ids = {stored.version.id for manifest in named for stored in manifest.versions}
    with vault.catalog.reading() as connection:
        unknown = ids - files.version_row_numbers(connection, list(ids)).keys()
    if unknown:
        yield _disagreement(pack, f"{counted(len(unknown), 'version')} that the catalog does not know")


def _are(items: set[tuple[Locator, int]]) -> str:
    return "is" if len(items) == 1 else "are"


def _disagreement(pack: OpenPack, found: str, expected: str = "what the catalog knows") -> IntegrityError:
    return IntegrityError(
        "a pack and the catalog do not agree",
        place=pack.place,
        expected=expected,
        found=found,
        hint="holdfast doctor --repair takes every pack into the catalog again",
    )


def _missing(vault: Vault, pack_id: uuid.UUID) -> IntegrityError:
    return IntegrityError(
        "a pack of the store is missing",
        place=vault.packs.place_of(pack_id),
        hint="is its disk mounted? If the pack is lost for good: holdfast scrub --replace-lost",
    )
