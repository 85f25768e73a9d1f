"""One scrub: pack after pack is read, and what is damaged in it is settled before the next one."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from holdfast.blocks.backends.backend import pack_name
from holdfast.blocks.packs import Packs
from holdfast.blocks.scrub import LOST, DamagedBlock, lost_block, scrub_pack
from holdfast.catalog import holders, packs, releasing
from holdfast.elsewhere import check_mounted
from holdfast.errors import BackendError, HoldfastError, UsageError, VaultError
from holdfast.reports import ScrubReport, Silent, Stage, Watch, counted
from holdfast.scrubbing.findings import Findings, files_that_need, of_block, of_pack
from holdfast.scrubbing.known import Known
from holdfast.scrubbing.order import in_turn
from holdfast.scrubbing.pace import Pace
from holdfast.scrubbing.repairing import Repair
from holdfast.scrubbing.request import ScrubRequest
from holdfast.values import BlockPlace
from holdfast.vault import Vault, opened, owned


def scrub(folder: Path, request: ScrubRequest, watch: Watch | None = None) -> ScrubReport:
    """Read the packs that are due, and repair what is damaged; what could not be read or repaired are the report's errors.

    Among them is a `BusyError` when somebody else worked on the vault: reading went on then, and repairing did not. Raises
    what backends raise when packs lie there, and `VaultError` when all packs of a place are gone.
    """
    watch = watch or Silent()
    report = ScrubReport(vault=str(folder))
    findings = Findings(report)
    with opened(folder) as vault:
        with vault.catalog.reading() as connection:
            sizes = packs.sealed_packs(connection)
        if not request.replace_lost:
            _check_mounted(vault.packs, sizes)
            check_mounted(vault)
        report.packs_in_store = len(sizes)
        pace = Pace(request)
        with (
            closing(Known(vault.settings.state_folder, findings.warn)) as known,
            watch.stage("scrub", sum(sizes.values())) as stage,
        ):
            run = _Run(folder, vault, request, watch, report, findings, stage, pace)
            for pack_id in in_turn(sizes, known.looks):
                if pace.is_over():
                    break
                run.scrub(pack_id, known)
            report.stages.append(stage.done())
            report.read_bytes = stage.done_bytes
    return report


def _check_mounted(packs: Packs, sealed: Collection[uuid.UUID]) -> None:
    """Raise `VaultError` when all packs are gone from the folder: one error tells more than a thousand."""
    if sealed and packs.backend() is None and not any(map(packs.is_local, sealed)):
        raise VaultError(
            "the block store is empty: is its disk mounted?",
            place=str(packs.folder),
            expected=counted(len(sealed), "pack"),
            found="none",
            hint="mount it; or, if it is lost for good, put it together from the tapes: holdfast scrub --replace-lost",
        )


@dataclass(slots=True)
class _Run:
    """What belongs to one scrub. What fails with one pack is told, and the next one is read."""

    folder: Path
    vault: Vault
    request: ScrubRequest
    watch: Watch
    report: ScrubReport
    findings: Findings
    stage: Stage
    pace: Pace

    def scrub(self, pack_id: uuid.UUID, known: Known) -> None:
        """Read one pack, and settle what is damaged in it."""
        places: list[BlockPlace] = []
        try:
            places = self._blocks_of(pack_id)
            damaged = self._read(pack_id, places)
        except (BackendError, UsageError):
            raise  # no damage, and none of the other packs there can be read either
        except (OSError, HoldfastError) as error:
            self._told(pack_id, len(places), error, doing="read")
            self.report.unread_packs += 1
            known.was_looked_at(pack_id, max(1, len(places)))
            return
        self.report.packs += 1
        known.was_looked_at(pack_id, len(damaged))  # should we be stopped before they are repaired
        if damaged and not self._settle(pack_id, damaged):
            known.was_looked_at(pack_id, 0)
        if self.request.replace_lost:
            self._forget_if_lost(pack_id)

    def _forget_if_lost(self, pack_id: uuid.UUID) -> None:
        """A pack that is said to be lost, and from which nothing is read any more, is no pack of the store."""
        if not self.vault.packs.has(pack_id):
            with self.vault.catalog.transaction() as connection:
                if releasing.empty_pack(connection, pack_id):
                    releasing.forget_pack(connection, pack_id)  # should it come back, it is taken over like any other

    def _told(self, pack_id: uuid.UUID, blocks: int, error: OSError | HoldfastError, *, doing: str) -> None:
        is_system = isinstance(error, OSError)
        told = of_pack(self.vault.packs, pack_id, blocks, error, doing=doing) if is_system else error
        self.findings.error(told)

    def _heed(self) -> None:
        """Ctrl-C is heeded where progress is told."""
        self.stage.advance(0)

    # -- reading

    def _read(self, pack_id: uuid.UUID, places: list[BlockPlace]) -> list[DamagedBlock]:
        """What is damaged. Raises OSError when the pack cannot be opened, and is not to be taken for lost."""
        if not places:
            return []  # nothing is read from there: it may be gone
        try:
            damaged = self._read_blocks(pack_id, places)
            # an object that is removed while it is read seems damaged from there on
            return self._still_there(pack_id, damaged) if damaged else damaged
        except OSError as error:
            now = self._blocks_of(pack_id)
            if now != places:
                return self._read(pack_id, now)  # collected meanwhile, or repaired
            if error.errno not in LOST or not (self.request.replace_lost or self._nothing_needs(places)):
                raise
            return [lost_block(place, error.strerror or str(error)) for place in places]

    def _still_there(self, pack_id: uuid.UUID, damaged: list[DamagedBlock]) -> list[DamagedBlock]:
        """Those that are still read from this pack: the others were collected meanwhile, or repaired."""
        now = set(self._blocks_of(pack_id))
        return [item for item in damaged if item.place in now]

    def _blocks_of(self, pack_id: uuid.UUID) -> list[BlockPlace]:
        with self.vault.catalog.reading() as connection:
            return packs.blocks_of_pack(connection, pack_id)

    def _read_blocks(self, pack_id: uuid.UUID, places: list[BlockPlace]) -> list[DamagedBlock]:
        damaged: list[DamagedBlock] = []
        for size_bytes, damage in scrub_pack(self.vault.packs, pack_id, places):
            self.stage.advance(size_bytes)
            self.pace.wait_for(size_bytes, self._heed)
            if damage is not None:
                damaged.append(damage)
        return damaged

    # -- settling

    def _settle(self, pack_id: uuid.UUID, damaged: list[DamagedBlock]) -> bool:
        """Repair what is damaged, if that is wanted and somebody needs it; whether something of that is left."""
        self.watch.say(f"DAMAGED: {counted(len(damaged), 'block')} in {pack_name(pack_id)}")
        self.report.damaged_blocks += len(damaged)
        left = dict.fromkeys(self._needed(damaged), "")
        if left and self.request.repair:
            left = self._repair(pack_id, list(left))
        for item, why in left.items():
            hint = f"it could not be repaired: {why}" if why else "holdfast scrub repairs it from the tapes"
            self.findings.error(self._in_words(item, hint, names=self.findings.has_room()))
        return bool(left)

    def _nothing_needs(self, places: list[BlockPlace]) -> bool:
        """What is left in a pack that was replaced may be blocks that no content names."""
        with self.vault.catalog.reading() as connection:
            return not holders.needed(connection, {place.locator for place in places})

    def _needed(self, damaged: list[DamagedBlock]) -> list[DamagedBlock]:
        """Those that contents need. The others, of files that changed while they were read, are told."""
        with self.vault.catalog.reading() as connection:
            needed = holders.needed(connection, {item.place.locator for item in damaged})
        for item in damaged:
            if item.place.locator not in needed:
                self.findings.warn(self._in_words(item, "nothing needs it: no content lies there"))
        return [item for item in damaged if item.place.locator in needed]

    def _repair(self, pack_id: uuid.UUID, damaged: list[DamagedBlock]) -> dict[DamagedBlock, str]:
        """What is still damaged then, each with the reason, if one is known."""
        left = dict.fromkeys(damaged, "")
        try:
            with owned(self.folder, "scrub", self.findings.warn) as vault:
                replace_lost = self.request.replace_lost
                repair = Repair(vault, damaged, replace_lost=replace_lost, settled=self._settled, heed=self._heed)
                left = repair.left  # also if it cannot go on
                repair.run()
        except (BackendError, UsageError):
            raise
        except (HoldfastError, OSError) as error:  # the vault is in use, its disk is full, or read-only
            self._told(pack_id, len(damaged), error, doing="repaired")
        return left

    def _settled(self, item: DamagedBlock, how: str, is_repaired: bool) -> None:
        self.findings.warn(self._in_words(item, how))
        if is_repaired:
            self.report.repaired_blocks += 1
            self.watch.say(f"repaired block {item.place.locator}")

    def _in_words(self, item: DamagedBlock, hint: str, *, names: bool = False) -> HoldfastError:
        files_named = files_that_need(self.vault.catalog, item) if names else ""
        return of_block(self.vault.packs, item, hint, files_named)
