"""Restoring: plant the versions that are meant below one folder.

    plant      folders and links at once; files from the block store, where it has them
    recall     the others from tape, pair by pair in tape order; a bad copy gives way to its twin, file by file, and
               to cartridges in whose place others are when no pair has a good one
    finish     hard links, then the modes and times of folders

Nothing is believed before its SHA-256 was compared. What is there already and the same is left alone, and what a
killed run had written whole is taken over, so running again is resuming.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.blocks import BlockReader
from holdfast.catalog import Cartridge, PresentVersion, files
from holdfast.errors import BackendError, CapacityError, HoldfastError, IntegrityError, MediaError
from holdfast.reports import RestoreReport, Silent, Stage, Watch
from holdfast.restoring.order import Recall, passes
from holdfast.restoring.request import RestoreRequest
from holdfast.restoring.ways import FEW_COPIES, FromStore, Selection, Turn, Ways, of_file
from holdfast.tape.library import TapeLibrary
from holdfast.tape.recall import TapeContents
from holdfast.trees.plant import NewFile, Planter
from holdfast.values import Content, FileVersion, Kind, show_path
from holdfast.vault import Vault, opened

RECALL_CHUNK = 2000
"""So many files are looked up at a time while they are recalled in tape order."""


def restore(folder: Path, request: RestoreRequest, watch: Watch | None = None) -> RestoreReport:
    """Plant what the patterns mean, as it was at the time, below `request.to`; see the module.

    Files that cannot be restored are in the report. Raises `SourceError` when nothing is meant.
    """
    watch = watch or Silent()
    report = RestoreReport(vault=str(folder))

    def refused(version: FileVersion, error: HoldfastError) -> None:
        report.errors.append(of_file(error, version))

    with opened(folder) as vault, Planter(request.to, overwrite=request.overwrite, refused=refused) as planter:
        meant = Selection(vault, request)
        with watch.stage("restore", meant.total_bytes()) as stage, vault.store_reader() as reader:
            restorer = _Restorer(vault, Ways(vault.catalog, request.origin), planter, reader, report, stage)
            restorer.plant_all(meant)
            restorer.recall()
            restorer.finish()
            report.stages.append(stage.done())
    return report


@dataclass(slots=True)
class _Work:
    """What is left for later passes. Numbers only, where there may be many."""

    folders: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # depth, row
    recalls: list[Recall] = field(default_factory=list[Recall])
    hard_links: list[FileVersion] = field(default_factory=list[FileVersion])


class _NoneGood(HoldfastError):
    """No copy on the mounted cartridges is good."""


def _from_replaced(turn: Turn) -> MediaError:
    return MediaError(
        "no cartridge in use had a good copy of the file; it came from one in whose place another one is",
        place=turn.cartridges[0].barcode,
        hint="archive what was restored: this may have been its last good copy",
    )


class _Restorer:
    def __init__(
        self,
        vault: Vault,
        ways: Ways,
        planter: Planter,
        reader: BlockReader,
        report: RestoreReport,
        stage: Stage,
    ) -> None:
        self._vault = vault
        self._ways = ways
        self._planter = planter
        self._reader = reader
        self._report = report
        self._stage = stage
        self._work = _Work()
        self._tried: dict[int, set[int]] = {}  # rows that a turn did not give, and the turns
        self._halves: set[int] = set()  # turns that lacked a cartridge, as a drive did not work or it was not there
        self._failures: dict[int, list[HoldfastError]] = {}
        self._unmounted: list[HoldfastError] = []

    # -- first pass

    def plant_all(self, meant: Selection) -> None:
        """Plant everything that needs no tape; note down what does."""
        for present in meant:
            self._guarded(present.version, lambda present=present: self._plant(present))
        self._leaders, further = meant.leaders(self._work.hard_links)
        for present in further.values():
            self._guarded(present.version, lambda present=present: self._plant_file(present))

    def _guarded(self, version: FileVersion, step: Callable[[], None]) -> None:
        """One file that cannot be restored does not stop the others; a full disk does."""
        try:
            step()
        except (CapacityError, _NoneGood):
            raise
        except HoldfastError as error:
            self._report.errors.append(of_file(error, version))

    def _plant(self, present: PresentVersion) -> None:
        version = present.version
        if version.kind is Kind.FOLDER:
            self._planter.folder(version)
            self._work.folders.append((version.full_path.count(b"/"), present.row))
            self._report.folders += 1
        elif version.kind is Kind.LINK:
            self._report.already_there += not self._planter.link(version)
            self._report.links += 1
        elif version.hard_link_of is not None:
            self._work.hard_links.append(version)
        else:
            self._plant_file(present)

    def _plant_file(self, present: PresentVersion) -> None:
        version = present.version
        self._report.files += 1
        if self._planter.is_planted(version) or self._planter.take_over(version):
            self._report.already_there += 1
            self._stage.advance(version.size_bytes)
            return
        way = self._ways.of(present)
        if isinstance(way, FromStore):
            if self._plant_from_store(version, way):
                return
            way = self._ways.recall(present)
        self._work.recalls.append(way)

    def _plant_from_store(self, version: FileVersion, way: FromStore) -> bool:
        content = version.content
        assert content is not None
        try:
            self._planter.file(version, lambda new: self._fill(new, version, content, self._reader.read(way.segments)))
        except (IntegrityError, BackendError) as error:
            self._report.warnings.append(of_file(error, version))
            return False
        self._report.planted_bytes += content.size_bytes
        return True

    def _fill(self, new: NewFile, version: FileVersion, content: Content, pieces: Iterator[memoryview]) -> None:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
            new.write(piece)
            self._stage.advance(len(piece))
        if digest.digest() != content.sha256:
            raise IntegrityError(
                "the stored bytes are not those of the file",
                place=show_path(version.full_path),
                expected=f"SHA-256 {content.sha256.hex()}",
                found=f"SHA-256 {digest.hexdigest()}",
            )

    # -- second pass

    def recall(self) -> None:
        """Read what the store did not have from tape, pair by pair, in tape order."""
        if not self._work.recalls:
            return
        waiting = {number: [item.row for item in items] for number, items in passes(self._work.recalls)}
        with TapeLibrary(self._vault.settings, self._vault.catalog) as library:
            while waiting:
                number = min(waiting)
                for row in self._recall_turn(library, number, waiting.pop(number)):
                    elsewhere = self._elsewhere(row)
                    if elsewhere is not None:
                        waiting.setdefault(elsewhere, []).append(row)

    def _recall_turn(self, library: TapeLibrary, number: int, rows: list[int]) -> list[int]:
        """Recall files from the cartridges of a turn; returns the rows of those that no copy there gave."""
        missed: list[int] = []
        turn = self._ways.turns[number]
        mounting = library.mounted_sides(turn.pair, self._not_mounted, swapped=turn.swapped, wanted=turn.cartridges)
        with mounting as mounted:
            if len(mounted.sides) < len(turn.cartridges):
                self._halves.add(number)
            contents = TapeContents(mounted)
            for start in range(0, len(rows), RECALL_CHUNK):
                chunk = rows[start : start + RECALL_CHUNK]
                with self._vault.catalog.reading() as connection:
                    found = {present.row: present for present in files.versions_by_row(connection, chunk)}
                for row in chunk:
                    present = found[row]
                    try:
                        self._guarded(present.version, lambda item=present: self._recall_file(turn, contents, item))
                    except _NoneGood:
                        missed.append(row)
                        self._tried.setdefault(row, set()).add(number)
        return missed

    def _not_mounted(self, cartridge: Cartridge, error: HoldfastError) -> None:
        error.place = f"{cartridge.barcode}: {error.place}" if error.place else cartridge.barcode
        self._unmounted.append(error)
        self._report.warnings.append(error)

    def _elsewhere(self, row: int) -> int | None:
        """Another turn that has a copy of a file; when all were taken, the file's failure is reported."""
        with self._vault.catalog.reading() as connection:
            (present,) = files.versions_by_row(connection, [row])
        version = present.version
        assert version.content is not None
        turns = self._ways.turns_with(version.content)
        turns |= {self._ways.swapped(number) for number in turns & self._halves}
        if turns := turns - self._tried[row]:
            return min(turns)
        failures = self._failures.pop(row, None) or [
            MediaError(
                "no cartridge with a copy of the file can be mounted",
                found="; ".join(str(error) for error in self._unmounted) or None,
                hint="put one of them into the library, then run the same command again",
            )
        ]
        self._report.errors.append(of_file(failures[-1], version))
        return None

    def _recall_file(self, turn: Turn, contents: TapeContents, present: PresentVersion) -> None:
        version, content = present.version, present.version.content
        assert content is not None
        failures = self._failures.get(present.row, [])

        def fill(new: NewFile) -> None:
            def fresh() -> Callable[[memoryview], None]:
                new.restart()
                return new.write

            few = self._ways.places(content, FEW_COPIES)
            if contents.read_any(few, content, fresh, failures.append):
                return
            others = [place for place in self._ways.places(content) if place not in few]
            if not contents.read_any(others, content, fresh, failures.append):
                raise _NoneGood("no copy on these cartridges is good")

        try:
            self._planter.file(version, fill)
        except _NoneGood:
            self._failures[present.row] = failures
            raise
        self._failures.pop(present.row, None)
        self._stage.advance(content.size_bytes)
        self._report.planted_bytes += content.size_bytes
        self._report.warnings += [of_file(error, version) for error in failures]
        if turn.replaced:
            self._report.from_replaced += 1
            self._report.warnings.append(of_file(_from_replaced(turn), version))
        elif failures:
            self._report.from_twin += 1

    # -- last pass

    def finish(self) -> None:
        """Names for the last files, hard links to them, then folders, deepest first."""
        self._planter.flush()
        for version in self._work.hard_links:
            assert version.hard_link_of is not None
            leader = self._leaders[version.hard_link_of]
            if leader is not version:
                self._guarded(version, lambda v=version, leader=leader: self._planter.hard_link(v, leader))
                self._report.files += 1
        rows = [row for _, row in sorted(self._work.folders, reverse=True)]
        for start in range(0, len(rows), RECALL_CHUNK):
            with self._vault.catalog.reading() as connection:
                found = {p.row: p for p in files.versions_by_row(connection, rows[start : start + RECALL_CHUNK])}
            for row in rows[start : start + RECALL_CHUNK]:
                version = found[row].version
                self._guarded(version, lambda version=version: self._planter.finish_folder(version))
        self._planter.sync()
