"""Sealed packs on their way to another place: moved to where the settings say, or copied to a place of one's choice.

    move    each sealed pack of the vault's folder: sent, read back there and compared in full, and only then removed here
    copy    each sealed pack, wherever it is: the same, and nothing is removed

A pack is in either place or in both at every moment, and they are the same bytes; so whatever was cut short is finished
by running again. A collection may go on beside: a pack that was collected while it was moved is taken away again. Which
packs a copy has proven to be in their new place is work, not fact: it lies in the state, and who deletes that only has them
read back once more.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from holdfast.blocks.backends import HeldPack, PackBackend, add_pack, open_backend
from holdfast.blocks.backends.backend import pack_id_of, pack_name
from holdfast.blocks.backends.posix import PosixBackend, PosixPack, remove_file
from holdfast.blocks.packs import pack_path
from holdfast.catalog import packs
from holdfast.elsewhere import check_mounted, remove_pack, unknown_packs
from holdfast.errors import HoldfastError, IntegrityError, UsageError, VaultError
from holdfast.reports import Moved, PackRow, Report, Silent, Stage, StoreReport, Watch
from holdfast.state import Tracker
from holdfast.vault import Vault, opened, owned

T = TypeVar("T")
STORE = "copies"
"""The tracker of packs that were proven to be in another place."""


# -- moving


def push(folder: Path, watch: Watch | None = None) -> StoreReport:
    """Move every sealed pack of the vault's folder to the place that the settings name.

    Raises `UsageError` when they name none, or it refuses for want of credentials or of the bucket.
    """
    report = StoreReport(vault=str(folder))
    with owned(folder, "store push", report.warnings.append) as vault:
        if not vault.settings.blocks.store:
            raise UsageError(
                "the settings name no other place for packs",
                place=str(folder / "holdfast.toml"),
                expected='[blocks] store = "s3://bucket/prefix"',
                found="nothing",
                hint="write it there; or copy the packs first: holdfast store copy --to URL",
            )
        moved = move_packs(vault, report, watch or Silent())
    for problem in moved.problems:
        if isinstance(problem, UsageError):
            raise problem
    report.to, report.packs, report.size_bytes, report.errors = moved.to, moved.packs, moved.size_bytes, moved.problems
    return report


def move_packs(vault: Vault, report: Report, watch: Watch) -> Moved:
    """Move the sealed packs of the vault's folder; the vault must be ours, and its settings name another place.

    A pack with a problem stays, as it is. When the place itself has one, the others are not tried. Raises nothing but
    `UsageError` for settings that are wrong.
    """
    backend = vault.packs.backend()
    assert backend is not None, "the caller has looked"
    moved = Moved(to=backend.url)
    left = _local_packs(vault)
    with watch.stage("move", 2 * sum(left.values())) as stage:
        try:
            if left:
                _refuse_own_folder(vault, backend)
                check_mounted(vault)
            for pack_id, size_bytes in left.items():
                _move(vault, backend, pack_id, size_bytes, stage, moved)
        except HoldfastError as problem:
            moved.problems.append(problem)
        report.stages.append(stage.done())
    if moved.packs:
        watch.say(f"moved {moved.packs} packs to {moved.to}" if moved.packs > 1 else f"moved 1 pack to {moved.to}")
    return moved


def _local_packs(vault: Vault) -> dict[uuid.UUID, int]:
    """The sealed packs in the vault's folder, and their sizes."""
    with vault.catalog.reading() as connection:
        sealed = packs.sealed_packs(connection)
    here = (pack_id_of(path.name) for path in vault.settings.packs_folder.iterdir())
    return {pack_id: sealed[pack_id] for pack_id in here if pack_id is not None and pack_id in sealed}


def _move(vault: Vault, backend: PackBackend, pack_id: uuid.UUID, size_bytes: int, stage: Stage, moved: Moved) -> None:
    """Law 1 and 5: proven to be there, byte for byte, before it is gone here; what is there already is never changed."""
    folder = vault.settings.packs_folder
    try:
        with closing(PosixPack(pack_path(folder, pack_id))) as pack:
            sent = add_pack(backend, pack_id, pack, stage.advance, take_away=True)
    except (IntegrityError, OSError) as error:
        if _is_kept(vault, pack_id):
            moved.problems.append(_unread(vault, pack_id, error))
        return
    if not _is_kept(vault, pack_id):
        remove_pack(vault, backend, pack_id)  # collected while it was on its way: nobody else would ever take it away
        return
    if not sent:
        _refuse_own_folder(vault, backend, pack_id)
    try:
        remove_file(folder, pack_id)
    except OSError as error:
        moved.problems.append(_not_removed(vault, pack_id, error))
        return
    moved.packs += 1
    moved.size_bytes += size_bytes


def _is_kept(vault: Vault, pack_id: uuid.UUID) -> bool:
    """Whether the pack is still one of the store: a collection goes on beside whoever works on the vault."""
    with vault.catalog.reading() as connection:
        return packs.pack_is_kept(connection, pack_id)


def _not_removed(vault: Vault, pack_id: uuid.UUID, error: OSError) -> VaultError:
    return VaultError(
        "a pack is in the other place by now, and its local file cannot be removed",
        place=str(pack_path(vault.settings.packs_folder, pack_id)),
        found=error.strerror or str(error),
        hint="mend what is named; then: holdfast store push",
    )


def _unread(vault: Vault, pack_id: uuid.UUID, error: IntegrityError | OSError) -> IntegrityError:
    if isinstance(error, IntegrityError):
        return error
    return IntegrityError(
        "a pack of the block store cannot be opened",
        place=vault.packs.place_of(pack_id),
        found=error.strerror or str(error),
        hint="holdfast scrub puts its blocks right from the tapes",
    )


def _refuse_own_folder(vault: Vault, backend: PackBackend, pack_id: uuid.UUID | None = None) -> None:
    """Raise `UsageError` if the other place is the vault's own folder, by whatever name: a pack moved there were gone."""
    if isinstance(backend, PosixBackend) and backend.is_within(vault.settings.packs_folder, pack_id):
        raise UsageError(
            "packs cannot be moved or copied to the vault's own folder",
            place=backend.url,
            hint="name another folder: [blocks] store in holdfast.toml, or --to",
        )


# -- copying


def copy(folder: Path, to: str, options: Mapping[str, str] | None = None, watch: Watch | None = None) -> StoreReport:
    """Copy every sealed pack, from wherever it lies, to the place `to`; each is read back there and compared in full.

    `options` as in `[blocks.store_options]`; None: those of the vault. What was proven to be there before, and is still
    listed with its size and tag, is not read again. What is sealed while the others are copied is copied, too. Raises
    `UsageError` for a wrong place, and `BackendError` when one of the two places cannot be reached; packs with a problem of
    their own are in the report, and that the catalog does not know all packs of the vault.
    """
    watch = watch or Silent()
    with opened(folder) as vault:
        backend = open_backend(to, vault.settings.blocks.store_options if options is None else options)
        _refuse_own_folder(vault, backend)
        report = StoreReport(vault=str(folder), to=backend.url)
        with vault.catalog.reading() as connection:
            sizes = packs.sealed_packs(connection)
        report.errors += unknown_packs(vault)
        there = {held.pack_id: held for held in backend.packs()}
        proven = _Proven(vault.settings.state_folder, backend.url, report)
        with watch.stage("copy", 2 * sum(sizes.values())) as stage, closing(proven):
            for pack_id, size_bytes in _and_sealed_meanwhile(vault, sizes):
                if proven.is_known(there.get(pack_id), size_bytes):
                    stage.advance(2 * size_bytes)
                elif not _copy(vault, backend, pack_id, stage, report):
                    continue
                elif held := backend.held(pack_id):
                    proven.note(held)
                report.packs += 1
                report.size_bytes += size_bytes
            report.stages.append(stage.done())
    return report


def _and_sealed_meanwhile(vault: Vault, sizes: dict[uuid.UUID, int]) -> Iterator[tuple[uuid.UUID, int]]:
    """These packs, and those that were sealed, and perhaps moved, by the time that these are done."""
    seen = set[uuid.UUID]()
    while sizes:
        yield from sorted(sizes.items())
        seen |= sizes.keys()
        with vault.catalog.reading() as connection:
            sizes = {pack_id: size for pack_id, size in packs.sealed_packs(connection).items() if pack_id not in seen}


def _copy(vault: Vault, backend: PackBackend, pack_id: uuid.UUID, stage: Stage, report: StoreReport) -> bool:
    try:
        with closing(vault.packs.open(pack_id)) as pack:
            report.sent += add_pack(backend, pack_id, pack, stage.advance, take_away=False)
    except (IntegrityError, OSError) as error:
        if _is_kept(vault, pack_id):
            report.errors.append(_unread(vault, pack_id, error))
        return False
    return True


class _Proven:
    """Which packs were proven to be at a place, and their tags then: another disk or bucket may be called the same.

    A state that cannot be used is told, and all are proven again.
    """

    def __init__(self, folder: Path, url: str, report: Report) -> None:
        self._url = url
        self._report = report
        self._tracker: Tracker | None = None
        self._tracker = self._safely(lambda: Tracker(folder, store=STORE))

    def _safely(self, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 (a damaged state may be anything, and must stop nothing)
            self._tracker = None
            self._report.warnings.append(
                HoldfastError(
                    "which packs were copied cannot be noted: the next copy reads all of them back",
                    found=str(error),
                    hint="look at the disk, and move the vault's folder 'state' away if it is damaged",
                )
            )
            return None

    def _key(self, pack_id: uuid.UUID) -> str:
        return f"{self._url}/{pack_name(pack_id)}"

    def is_known(self, held: HeldPack | None, size_bytes: int) -> bool:
        """Whether what is listed is the very pack that was proven."""
        tracker = self._tracker
        if tracker is None or held is None or held.size_bytes != size_bytes or not held.tag:
            return False
        noted = self._safely(lambda: tracker.get(self._key(held.pack_id)))
        return noted is not None and noted.get("tag") == held.tag

    def note(self, held: HeldPack) -> None:
        tracker = self._tracker
        if tracker is not None:
            self._safely(lambda: tracker.update({self._key(held.pack_id): {"_done": True, "tag": held.tag}}))

    def close(self) -> None:
        if self._tracker is not None:
            self._safely(self._tracker.close)


# -- listing


def list_packs(folder: Path) -> list[PackRow]:
    """Every pack of the vault, and every one at the place that its settings name, by where they are."""
    with opened(folder) as vault:
        with vault.catalog.reading() as connection:
            sealed = packs.sealed_packs(connection)
        here = {held.pack_id: held.size_bytes for held in PosixBackend(vault.settings.packs_folder).packs()}
        backend = vault.packs.backend()
        there = {} if backend is None else {held.pack_id: held.size_bytes for held in backend.packs()}
    return list(_rows(sealed, here, there))


def _rows(
    sealed: Mapping[uuid.UUID, int], here: Mapping[uuid.UUID, int], there: Mapping[uuid.UUID, int]
) -> Iterator[PackRow]:
    for pack_id in sorted({*sealed, *here, *there}):
        where = " and ".join(name for name, held in (("folder", here), ("store", there)) if pack_id in held)
        size_bytes = here.get(pack_id) or there.get(pack_id) or sealed.get(pack_id) or 0
        yield PackRow(str(pack_id), where or "missing", size_bytes, pack_id in sealed)
