"""Collecting: the room of blocks that only released contents needed is given back.

    condemn   blocks that no content names any more: from now on nothing new may name them
    fence     wait until whoever may have found one before has ended: an archive that runs, now, is never held up
    gather    what is still needed of a pack that is mostly waste is copied to a new one, with the names of all files
    remove    the catalog reads from there; what nothing named meanwhile is given up; then the pack's file goes

Nobody is locked out, and killed at any point, running again goes on. What is in doubt stays: a damaged pack, or a block that
nothing ever named. Packs may lie elsewhere: they are read and removed there, and a place that cannot be reached ends the
collection, as no pack counts as removed before that place has said so.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from holdfast import durable
from holdfast.blocks.fence import Fence
from holdfast.blocks.gather import DamagedNames, Gathered, Gatherer
from holdfast.blocks.packs import pack_path
from holdfast.blocks.recover import has_left_packs
from holdfast.catalog import packs, releasing
from holdfast.catalog.releasing import Waste
from holdfast.elsewhere import check_mounted, remove_pack, unknown_packs
from holdfast.errors import IntegrityError
from holdfast.reports import CollectReport, Silent, Stage, Watch, counted
from holdfast.values import Locator, show_bytes
from holdfast.vault import Vault, opened, owned

WASTE_SHARE = 0.5
"""A pack is collected when so much of its blocks' bytes is not needed any more: one byte is copied for each that is freed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRequest:
    """`everything`: packs with any waste at all; `wait`: for whoever may still name what nothing names now."""

    everything: bool = False
    wait: bool = False


def collect(folder: Path, request: CollectRequest, watch: Watch | None = None) -> CollectReport:
    """Give back the room of what was released; beside whoever works on the vault.

    What could not be collected, as it is damaged, is in the report's errors; `waiting`, that somebody is still at work who
    began before. Raises `BusyError` when another collection is under way, or packs of a killed run must be adopted first and
    somebody else has the vault; `CapacityError` when there is no room to copy what is needed; and, when packs lie there, what
    backends raise, and `VaultError` when the place is not the one that they were moved to. Nothing is collected, and that is
    an error, when the place has packs of the vault that the catalog does not know: they may name what seems unneeded.
    Whatever it raises, what is needed can be read, and running again goes on.
    """
    watch = watch or Silent()
    report = CollectReport(vault=str(folder))
    with opened(folder) as vault, (fence := Fence(vault.settings.fence_folder)).collecting():
        _adopt_left(vault, report)
        if unknown := unknown_packs(vault):
            report.errors += unknown
            return report
        check_mounted(vault)
        _remove_emptied(vault, report)
        with vault.catalog.transaction() as connection:
            generation = releasing.condemn(connection, fence.newest() + 1)
            releasing.begin_to_carry(connection)
            wasteful = releasing.wasteful_packs(connection)
        chosen = [item for item in wasteful if request.everything or _is_mostly_waste(item)]
        report.wasteful_packs = len(wasteful)
        fence.raise_to(generation)
        if chosen and not fence.is_clear(generation, wait=request.wait):
            report.waiting = True
            return report
        with watch.stage("collect", sum(item.needed_bytes for item in chosen)) as stage:
            _collect(vault, chosen, stage, report, watch)
            report.stages.append(stage.done())
    return report


def _is_mostly_waste(item: Waste) -> bool:
    return item.block_bytes - item.needed_bytes >= WASTE_SHARE * item.block_bytes


def _adopt_left(vault: Vault, report: CollectReport) -> None:
    """What a killed run left may name blocks that the catalog takes for unneeded."""
    if has_left_packs(vault.settings.packs_folder, vault.settings.id, vault.catalog):
        with owned(vault.settings.folder, "collect", report.warnings.append):
            pass  # whoever opens the vault to work on it adopts them


def _collect(vault: Vault, chosen: list[Waste], stage: Stage, report: CollectReport, watch: Watch) -> None:
    """Batch by batch: each fills one new pack, and then its packs go."""
    left = chosen[::-1]
    while left:
        with Gatherer(vault.packs, vault.settings.id) as gatherer:
            with vault.catalog.reading() as connection:
                for page in releasing.releases_to_carry(connection):
                    gatherer.add_releases(page)
            while left and gatherer.size_bytes < vault.settings.blocks.pack_bytes:
                _gather(vault, gatherer, left.pop(), stage, report)
            if gatherer.is_idle():
                continue
            gathered = gatherer.seal()
        _switch(vault, gathered)
        report.copied_bytes += gathered.block_bytes
        report.written_bytes += gathered.size_bytes
        report.collected += len(gathered.packs)
        removed_bytes = _remove_emptied(vault, report)
        watch.say(f"removed {counted(report.packs, 'pack')} so far; {show_bytes(removed_bytes)} this time")


def _gather(vault: Vault, gatherer: Gatherer, item: Waste, stage: Stage, report: CollectReport) -> None:
    with vault.catalog.reading() as connection:
        needed = releasing.needed_blocks(connection, item.pack_id)
    try:
        gatherer.add_pack(item.pack_id, needed, vault.catalog.find_block, partial(_known, vault))
    except IntegrityError as error:
        report.errors.append(error)
    except DamagedNames as damaged:  # nobody can mend it, and it stays: no reason to fail each time
        report.warnings.append(damaged.error)
    stage.advance(item.needed_bytes)


def _known(vault: Vault, locators: Iterable[Locator]) -> set[Locator]:
    with vault.catalog.reading() as connection:
        return packs.known_blocks(connection, locators)


def _switch(vault: Vault, gathered: Gathered) -> None:
    """Read from the new pack, which is sealed, and give up what nothing needs: one transaction."""
    with vault.catalog.transaction() as connection:
        row = packs.record_pack(connection, gathered.pack_id, gathered.size_bytes)
        packs.seal_pack(connection, gathered.pack_id, gathered.size_bytes, gathered.block_bytes)
        releasing.record_moves(connection, row, gathered.moved)
        releasing.record_carried(connection)
        for pack_id in gathered.packs:
            releasing.empty_pack(connection, pack_id)


def _remove_emptied(vault: Vault, report: CollectReport) -> int:
    """Remove the files of packs from which nothing is read; how many bytes they had. Theirs may be gone already.

    Raises what backends raise; then those that are not known to be gone stay known, to be removed by the next collection.
    """
    with vault.catalog.reading() as connection:
        emptied = releasing.emptied_packs(connection)
    for pack_id in emptied:
        _remove(vault, pack_id)
    gone = dict[uuid.UUID, int]()
    if emptied:
        durable.sync_folder(vault.settings.packs_folder)
        try:
            for pack_id in _removed_elsewhere(vault, emptied):
                gone[pack_id] = emptied[pack_id]
        finally:
            _forget(vault, gone)
    report.packs += len(gone)
    report.removed_bytes += sum(gone.values())
    return sum(gone.values())


def _remove(vault: Vault, pack_id: uuid.UUID) -> None:
    pack_path(vault.settings.packs_folder, pack_id).unlink(missing_ok=True)


def _removed_elsewhere(vault: Vault, pack_ids: Iterable[uuid.UUID]) -> Iterator[uuid.UUID]:
    """Each when it is durably gone from where packs are moved to: a move that was cut short leaves it in both places."""
    backend = vault.packs.backend()
    for pack_id in pack_ids:
        if backend is not None:
            remove_pack(vault, backend, pack_id)
        yield pack_id


def _forget(vault: Vault, pack_ids: Iterable[uuid.UUID]) -> None:
    with vault.catalog.transaction() as connection:
        for pack_id in pack_ids:
            releasing.forget_pack(connection, pack_id)
