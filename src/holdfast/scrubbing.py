"""Scrubbing the block store: every block is read back before anybody needs it, and what rotted is put right from tape.

    read      pack after pack, the one that was read longest ago first; no lock is held, an archive may go on beside
    repair    the good pieces of a damaged block, and for the bad ones the contents that lie there, from the tapes;
              together they must have the very digest that names the block, and are laid down in another pack

Which pack was read when is work, not fact: it lies in the state, and who deletes that only begins anew. So running
again, after an interruption or with a time limit, goes on with the packs that are due.
"""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from holdfast.blocks.packfile import pack_path
from holdfast.blocks.scrub import DamagedBlock, RepairPack, look_again, scrub_pack
from holdfast.catalog import files
from holdfast.errors import HoldfastError, IntegrityError
from holdfast.reports import ScrubReport, Silent, Stage, Watch, counted
from holdfast.restoring.single import read_from_tape
from holdfast.state import Tracker
from holdfast.values import BlockPlace
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

    Raises `BusyError` when there is something to repair, and somebody else works on the vault.
    """
    watch = watch or Silent()
    report = ScrubReport(vault=str(folder))
    damaged = _read_packs(folder, request, report, watch)
    report.damaged_blocks = len(damaged)
    if damaged and request.repair:
        _repair(folder, damaged, report, watch)
    else:
        report.errors += [_as_error(folder, item) for item in damaged]
    return report


# -- reading


def _read_packs(folder: Path, request: ScrubRequest, report: ScrubReport, watch: Watch) -> list[DamagedBlock]:
    damaged: list[DamagedBlock] = []
    with opened(folder) as vault:
        with vault.catalog.reading() as connection:
            sizes = files.sealed_packs(connection)
        known = _Known(vault.settings.state_folder, report)
        due = sorted(sizes, key=lambda pack_id: (known.read_ns(pack_id), pack_id))
        report.packs_in_store = len(due)
        pace = _Pace(request)
        with watch.stage("scrub", sum(sizes.values())) as stage:
            for pack_id in due:
                if pace.is_over():
                    break
                found = _read_pack(vault, pack_id, pace, stage)
                damaged += found
                report.packs += 1
                known.was_read(pack_id, len(found))
                if found:
                    watch.say(f"DAMAGED: {counted(len(found), 'block')} in {pack_path(Path(), pack_id).name}")
            report.stages.append(stage.done())
            report.read_bytes = stage.done_bytes
        known.close()
    return damaged


def _read_pack(vault: Vault, pack_id: uuid.UUID, pace: _Pace, stage: Stage) -> list[DamagedBlock]:
    with vault.catalog.reading() as connection:
        places = files.blocks_of_pack(connection, pack_id)
    damaged: list[DamagedBlock] = []
    for size_bytes, damage in scrub_pack(vault.settings.packs_folder, pack_id, places):
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
            value = {"read_ns": time.time_ns(), "damaged_blocks": damaged, "_done": not damaged}
            self._safely(lambda: tracker.update({str(pack_id): value}))

    def close(self) -> None:
        if self._tracker is not None:
            self._safely(self._tracker.close)


# -- repairing


def _repair(folder: Path, damaged: list[DamagedBlock], report: ScrubReport, watch: Watch) -> None:
    with owned(folder, "scrub", report.warnings.append) as vault:
        pack = RepairPack(vault.settings.packs_folder, vault.settings.id)
        try:
            for item in damaged:
                _repair_one(vault, pack, item, report, watch)
            sealed = pack.seal()
        finally:
            pack.close()
        if sealed is not None:
            vault.catalog.pack_sealed(*sealed)


def _repair_one(vault: Vault, pack: RepairPack, damaged: DamagedBlock, report: ScrubReport, watch: Watch) -> None:
    """Durable before said: bytes, then the catalog, then the word."""
    error = _as_error(vault.settings.folder, damaged)
    try:
        place = pack.add(damaged.place, _put_together(vault, damaged.place))
    except HoldfastError as problem:
        error.hint = f"it could not be repaired: {problem}"
        report.errors.append(error)
        return
    with vault.catalog.transaction() as connection:
        files.move_block(connection, place, pack.size_bytes())
    report.repaired_blocks += 1
    report.warnings.append(error)
    watch.say(f"repaired block {place.locator}")


def _put_together(vault: Vault, place: BlockPlace) -> bytearray:
    """The block's bytes: those that the disk still gives, and the contents on tape for the others."""
    payload, damage = look_again(vault.settings.packs_folder, place)
    with vault.catalog.reading() as connection:
        parts = files.parts_in_block(connection, place.locator)
    for part in parts if damage is not None else ():
        for begin, end in damage.bad if damage is not None else ():
            first, last = max(begin, part.block_offset), min(end, part.block_offset + part.length_bytes)
            if first < last:
                shift = part.content_offset - part.block_offset
                payload[first:last] = _from_tape(vault, part, first + shift, last + shift)
    return payload


def _from_tape(vault: Vault, part: files.BlockPart, begin: int, end: int) -> bytes:
    spool = io.BytesIO()
    read_from_tape(vault, part.content, spool, begin, end)
    return spool.getvalue()


def _as_error(folder: Path, damaged: DamagedBlock) -> IntegrityError:
    bad = ", ".join(f"{begin} to {end}" for begin, end in damaged.bad) or "none of its bytes"
    return IntegrityError(
        "a block of the store is not as it was written",
        place=f"{pack_path(folder / 'packs', damaged.place.pack_id)} byte {damaged.place.offset_bytes}",
        expected=f"block {damaged.place.locator}",
        found=f"{damaged.problem}; damaged: {bad}",
        hint="holdfast scrub repairs it from the tapes",
    )
