"""Scrubbing the block store: every block is read back before anybody needs it, and what rotted is put right from tape.

    read      pack after pack, the one that was read longest ago first; no lock is held, an archive may go on beside
    repair    what is damaged in a pack, before the next one is read: the good pieces of a block, and for the bad ones the
              contents that lie there, from the tapes; together they must have the very digest that names the block, and
              are laid down in another pack

Which pack was read when is work, not fact: it lies in the state, and who deletes that only begins anew. A pack counts as
read when nothing in it is damaged any more. So running again, after an interruption or with a time limit, goes on with
what is due, and first with what is known to be damaged.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from holdfast import durable
from holdfast.blocks.packs import Packs, pack_path
from holdfast.blocks.scrub import DamagedBlock, RepairPack, look_again, scrub_pack
from holdfast.catalog import files
from holdfast.errors import HoldfastError, IntegrityError, VaultError
from holdfast.reports import ScrubReport, Silent, Stage, Watch, counted
from holdfast.restoring.pieces import Piece, read_pieces
from holdfast.state import Tracker
from holdfast.values import Content
from holdfast.vault import Vault, opened, owned

T = TypeVar("T")
STORE = "scrub"
"""The tracker of packs, beside the one of the journey's work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubRequest:
    """How much, and how fast. `rate_bytes_s` and `for_s`: None for no limit; a pack that was begun is ended."""

    rate_bytes_s: int | None = None
    for_s: float | None = None
    repair: bool = True


def scrub(folder: Path, request: ScrubRequest, watch: Watch | None = None) -> ScrubReport:
    """Read the packs that are due, and repair what is damaged; what could not be repaired are the report's errors.

    Among them is a `BusyError` when somebody else worked on the vault: reading went on then, and repairing did not.
    """
    watch = watch or Silent()
    report = ScrubReport(vault=str(folder))
    with opened(folder) as vault:
        with vault.catalog.reading() as connection:
            sizes = files.sealed_packs(connection)
        _check_mounted(vault.packs, sizes)
        known, pace = _Known(vault.settings.state_folder, report), _Pace(request)
        report.packs_in_store = len(sizes)
        with closing(known), watch.stage("scrub", sum(sizes.values())) as stage:
            for pack_id in sorted(sizes, key=lambda pack_id: (known.read_ns(pack_id), pack_id)):
                if pace.is_over():
                    break
                damaged = _read_pack(vault, pack_id, pace, stage)
                report.packs += 1
                known.was_read(pack_id, len(damaged))
                if damaged and not _settle(folder, vault.packs, damaged, request, report, watch):
                    known.was_read(pack_id, 0)
            report.stages.append(stage.done())
            report.read_bytes = stage.done_bytes
    return report


# -- reading


def _check_mounted(packs: Packs, sealed: Collection[uuid.UUID]) -> None:
    """Raise `VaultError` when all packs of a place are gone: nobody wants them back from tape without saying so."""
    elsewhere = [pack_id for pack_id in sealed if not packs.is_local(pack_id)]
    backend = packs.backend() if elsewhere else None
    if backend is None:
        is_gone, place, why = len(elsewhere) == len(sealed) > 0, str(packs.folder), "is its disk mounted?"
    else:
        is_gone, place = next(backend.packs(), None) is None, backend.url
        why = "is [blocks] store in holdfast.toml right?"
    if is_gone:
        raise VaultError(
            f"the block store is empty: {why}",
            place=place,
            expected=counted(len(elsewhere), "pack"),
            found="none",
            hint="mount or correct it; or restore what is needed: holdfast restore --from tape --to DIR",
        )


def _read_pack(vault: Vault, pack_id: uuid.UUID, pace: _Pace, stage: Stage) -> list[DamagedBlock]:
    with vault.catalog.reading() as connection:
        places = files.blocks_of_pack(connection, pack_id)
    damaged: list[DamagedBlock] = []
    for size_bytes, damage in scrub_pack(vault.packs, pack_id, places):
        stage.advance(size_bytes)
        pace.wait_for(size_bytes)
        if damage is not None:
            damaged.append(damage)
    return damaged


class _Pace:
    """Not faster than was asked for, and not longer."""

    def __init__(self, request: ScrubRequest) -> None:
        self._rate_bytes_s = request.rate_bytes_s
        self._begun_s = time.monotonic()
        self._end_s = None if request.for_s is None else self._begun_s + request.for_s
        self._done_bytes = 0

    def is_over(self) -> bool:
        return self._end_s is not None and time.monotonic() >= self._end_s

    def wait_for(self, count_bytes: int) -> None:
        self._done_bytes += count_bytes
        if self._rate_bytes_s is not None:
            due_s = self._begun_s + self._done_bytes / self._rate_bytes_s
            time.sleep(max(0.0, due_s - time.monotonic()))


class _Known:
    """When each pack was read. A state that cannot be used is told, and every pack is due."""

    def __init__(self, folder: Path, report: ScrubReport) -> None:
        self._report = report
        self._tracker: Tracker | None = None
        self._tracker = self._safely(lambda: Tracker(folder, store=STORE))
        read = self._safely(self._all) or {}
        self._read_ns = {key: ns for key, ns in read.items() if isinstance(ns, int)}

    def _all(self) -> dict[object, object]:
        return {} if self._tracker is None else {key: value.get("read_ns") for key, value in self._tracker.items()}

    def _safely(self, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 (a damaged state may be anything, and must stop nothing)
            self._tracker = None
            self._report.warnings.append(
                HoldfastError(
                    "which packs were read cannot be noted: the next scrub begins anew",
                    found=str(error),
                    hint="look at the disk, and move the vault's folder 'state' away if it is damaged",
                )
            )
            return None

    def read_ns(self, pack_id: uuid.UUID) -> int:
        return self._read_ns.get(str(pack_id), 0)

    def was_read(self, pack_id: uuid.UUID, damaged: int) -> None:
        tracker = self._tracker
        if tracker is not None:
            value = {"read_ns": 0 if damaged else time.time_ns(), "damaged_blocks": damaged, "_done": not damaged}
            self._safely(lambda: tracker.update({str(pack_id): value}))

    def close(self) -> None:
        if self._tracker is not None:
            self._safely(self._tracker.close)


# -- repairing


def _settle(
    folder: Path, packs: Packs, damaged: list[DamagedBlock], request: ScrubRequest, report: ScrubReport, watch: Watch
) -> list[DamagedBlock]:
    """Repair what is damaged in a pack, if that is wanted; what is still damaged then, which the report tells."""
    pack = pack_path(Path(), damaged[0].place.pack_id).name
    watch.say(f"DAMAGED: {counted(len(damaged), 'block')} in {pack}")
    report.damaged_blocks += len(damaged)
    left = {item: _as_error(packs, item) for item in damaged}
    if request.repair:
        try:
            with owned(folder, "scrub", report.warnings.append) as vault:
                _repair(vault, left, report, watch)
        except HoldfastError as error:  # the vault is in use, or its disk is full
            report.errors.append(error)
    report.errors += left.values()
    return list(left)


def _repair(vault: Vault, left: dict[DamagedBlock, IntegrityError], report: ScrubReport, watch: Watch) -> None:
    """Repair the blocks; those that were are no longer `left`."""
    scratch, pack = vault.settings.scratch_folder, RepairPack(vault.settings.packs_folder, vault.settings.id)
    try:
        with durable.disk_full_explained(scratch), tempfile.TemporaryFile(dir=scratch) as spool:
            ends = list(accumulate(item.place.locator.size_bytes for item in left))
            begins = dict(zip(left, [0, *ends], strict=False))
            failures = _put_together(vault, begins, spool.fileno())
            for item, begin in begins.items():
                payload = bytearray(os.pread(spool.fileno(), item.place.locator.size_bytes, begin))
                _lay_down(vault, pack, item, payload, left, failures, report, watch)
        sealed = pack.seal()
    finally:
        pack.close()
    if sealed is not None:
        vault.catalog.pack_sealed(*sealed)


def _put_together(vault: Vault, begins: dict[DamagedBlock, int], spool: int) -> list[HoldfastError]:
    """Each block at its place in the spool: what the disk still gives of it, and the contents on tape for the rest.

    Returns what was wrong with contents that cannot be had; whether a block is whole without them, its digest tells.
    """
    wanted: dict[Content, list[Piece]] = {}
    for item, at in begins.items():
        payload, damage = look_again(vault.packs, item.place)
        durable.write_all_at(spool, memoryview(payload), at)
        with vault.catalog.reading() as connection:
            parts = files.parts_in_block(connection, item.place.locator)
        for part in parts:
            for begin, end in damage.bad if damage is not None else ():
                first, last = max(begin, part.block_offset), min(end, part.block_offset + part.length_bytes)
                if first < last:
                    shift = part.content_offset - part.block_offset
                    piece = Piece(first + shift, last + shift, partial(_write_at, spool, at + first))
                    wanted.setdefault(part.content, []).append(piece)
    return list(read_pieces(vault, wanted).values()) if wanted else []


def _write_at(spool: int, begin: int, offset: int, data: memoryview) -> None:
    durable.write_all_at(spool, data, begin + offset)


def _lay_down(
    vault: Vault,
    pack: RepairPack,
    item: DamagedBlock,
    payload: bytearray,
    left: dict[DamagedBlock, IntegrityError],
    failures: list[HoldfastError],
    report: ScrubReport,
    watch: Watch,
) -> None:
    """Durable before said: bytes, then the catalog, then the word."""
    try:
        place = pack.add(item.place, payload)
    except IntegrityError as problem:
        left[item].hint = f"it could not be repaired: {(failures or [problem])[0]}"
        return
    with vault.catalog.transaction() as connection:
        files.move_block(connection, place, pack.size_bytes())
    report.repaired_blocks += 1
    report.warnings.append(left.pop(item))
    watch.say(f"repaired block {place.locator}")


def _as_error(packs: Packs, damaged: DamagedBlock) -> IntegrityError:
    bad = ", ".join(f"{begin} to {end}" for begin, end in damaged.bad) or "none of its bytes"
    return IntegrityError(
        "a block of the store is not as it was written",
        place=f"{packs.place_of(damaged.place.pack_id)} byte {damaged.place.offset_bytes}",
        expected=f"block {damaged.place.locator}",
        found=f"{damaged.problem}; damaged: {bad}",
        hint="holdfast scrub repairs it from the tapes",
    )
