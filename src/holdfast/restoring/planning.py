"""Telling what a restore would do: which tapes it would read, in which order, and for how long.

Nothing is mounted and nothing is written; only the catalog is read, and what stands in the folder already. So what
the plan cannot know is which copies are damaged: the restore takes the next one then, and may need a further tape.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.catalog import Cartridge, Pair, PresentVersion, tapes
from holdfast.errors import HoldfastError
from holdfast.reports import PlannedTape, RestorePlan
from holdfast.restoring.order import MOUNT_S, Recall, passes, reading_s
from holdfast.restoring.request import RestoreRequest
from holdfast.restoring.ways import FromStore, Selection, Turn, Ways, of_file
from holdfast.trees.plant import stands
from holdfast.values import FileVersion, Kind
from holdfast.vault import Vault, opened


def plan(folder: Path, request: RestoreRequest) -> RestorePlan:
    """Say what `restore` with this request would read, and from where.

    Files that nobody has the bytes of are in the plan's errors, as they would be in the report. Raises `SourceError`
    when nothing is meant.
    """
    result = RestorePlan(vault=str(folder), to=str(request.to))
    with opened(folder) as vault:
        meant = Selection(vault, request)
        meant.total_bytes()
        planner = _Planner(vault, request, result)
        planner.look_at(meant)
        planner.order()
    return result


class _Planner:
    def __init__(self, vault: Vault, request: RestoreRequest, result: RestorePlan) -> None:
        self._vault = vault
        self._to = request.to
        self._ways = Ways(vault.catalog, request.origin)
        self._result = result
        self._recalls: list[Recall] = []
        self._hard_links: list[FileVersion] = []

    def look_at(self, meant: Selection) -> None:
        """Count everything that is meant, and note down what must come from tape."""
        for present in meant:
            self._look_at(present)
        _, further = meant.leaders(self._hard_links)
        for present in further.values():
            self._file(present)
        self._result.files += len(self._hard_links) - len(further)

    def _look_at(self, present: PresentVersion) -> None:
        version = present.version
        if version.kind is Kind.FOLDER:
            self._result.folders += 1
        elif version.kind is Kind.LINK:
            self._result.links += 1
        elif version.hard_link_of is not None:
            self._hard_links.append(version)
        else:
            self._file(present)

    def _file(self, present: PresentVersion) -> None:
        self._result.files += 1
        if stands(self._to, present.version):
            self._result.already_there += 1
            return
        try:
            way = self._ways.of(present)
        except HoldfastError as error:
            self._result.errors.append(of_file(error, present.version))
            return
        if isinstance(way, FromStore):
            self._result.store_files += 1
            self._result.store_bytes += present.version.size_bytes
        else:
            self._recalls.append(way)

    def order(self) -> None:
        """The tapes, in the order in which they would be read."""
        result = self._result
        for number, items in passes(self._recalls):
            turn = self._ways.turns[number]
            result.tapes += [self._tape(turn, side, items) for side in sorted({item.side for item in items})]
            result.files_on_tape += len(items)
            result.tape_bytes += sum(item.size_bytes for item in items)
            result.mounts += len(turn.cartridges)
            result.estimated_s += MOUNT_S * len(turn.cartridges)
        result.estimated_s += sum(tape.estimated_s for tape in result.tapes)

    def _tape(self, turn: Turn, side: int, items: list[Recall]) -> PlannedTape:
        """What is read from one cartridge of a turn."""
        own = [item for item in items if item.side == side]
        twins = [item.barcode for item in turn.cartridges if item is not turn.cartridges[side]]
        return PlannedTape(
            barcode=turn.cartridges[side].barcode,
            twin=twins[0] if twins else "",
            files=len(own),
            size_bytes=sum(item.size_bytes for item in own),
            tape_files=sorted({item.tape_file for item in own}),
            estimated_s=reading_s(self._extents(turn.pair, turn.cartridges[side], own)),
        )

    def _extents(self, pair: Pair, cartridge: Cartridge, items: list[Recall]) -> list[tuple[int, int]]:
        """Where on the tape the files lie: begin and length, in bytes from the begin of the tape."""
        with self._vault.catalog.reading() as connection:
            found = tapes.tape_files(connection, cartridge.barcode)
        begins = {item.number: item.first_block * pair.record_bytes for item in found}
        return [(begins[item.tape_file] + item.data_offset, item.size_bytes) for item in items]
