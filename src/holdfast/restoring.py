"""Restoring: find the versions, plant them below one folder.

    select     every version that was there at the time and is meant by the patterns
    plant      folders and links at once; files from the block store, where it has them
    recall     the others from tape, pair by pair in tape order; a bad copy gives way to its twin, file by file
    finish     hard links, then the modes and times of folders

Nothing is believed before its SHA-256 was compared. What is there already and the same is left alone, so running
again is resuming.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from holdfast.blocks import BlockReader
from holdfast.catalog import Cartridge, Pair, PresentVersion, TapePlace, files, tapes
from holdfast.errors import CapacityError, HoldfastError, IntegrityError, MediaError, SourceError
from holdfast.naming import Matcher, find_version, matcher
from holdfast.reports import RestoreReport, Silent, Stage, Watch
from holdfast.tape.library import TapeLibrary
from holdfast.tape.recall import TapeContents
from holdfast.trees.plant import NewFile, Planter
from holdfast.values import Content, FileVersion, Kind, show_path
from holdfast.vault import Vault, opened

RECALL_CHUNK = 2000
"""So many files are looked up at a time while they are recalled in tape order."""

FEW_COPIES = 8
"""A content may be that of a hundred thousand files: so many of its copies are looked at before all are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """What is to be restored, where to, and from where: `store`, `tape`, or `any`."""

    to: Path
    patterns: tuple[str, ...] = ()
    as_of_ns: int | None = None
    origin: str = "any"
    overwrite: bool = False


def restore(folder: Path, request: RestoreRequest, watch: Watch | None = None) -> RestoreReport:
    """Plant what the patterns mean, as it was at the time, below `request.to`; see the module.

    Files that cannot be restored are in the report. Raises `SourceError` when nothing is meant.
    """
    watch = watch or Silent()
    report = RestoreReport(vault=str(folder))

    def refused(version: FileVersion, error: HoldfastError) -> None:
        report.errors.append(_of_file(error, version))

    with opened(folder) as vault, Planter(request.to, overwrite=request.overwrite, refused=refused) as planter:
        meant = matcher(vault.catalog, request.patterns)
        with watch.stage("restore", _total_bytes(vault, request, meant)) as stage, vault.store_reader() as reader:
            restorer = _Restorer(vault, request, planter, reader, report, stage)
            restorer.plant_all(meant)
            restorer.recall()
            restorer.finish()
            report.stages.append(stage.done())
    return report


def _total_bytes(vault: Vault, request: RestoreRequest, meant: Matcher) -> int:
    count = total = 0
    with vault.catalog.reading() as connection:
        for present in files.versions_at(connection, request.as_of_ns):
            if meant(present.version):
                count += 1
                total += present.version.size_bytes
    if count == 0:
        raise SourceError(
            "nothing in the vault is meant",
            place=", ".join(request.patterns) or str(vault.settings.folder),
            hint="holdfast ls shows what is there; --as-of TIME looks at another time",
        )
    return total


@dataclass(slots=True)
class _Work:
    """What is left for later passes. Numbers only, where there may be many."""

    folders: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # depth, row
    recalls: list[tuple[int, int, int, int]] = field(default_factory=list[tuple[int, int, int, int]])
    hard_links: list[FileVersion] = field(default_factory=list[FileVersion])


class _NoneGood(HoldfastError):
    """No copy on the mounted pair is good."""


class _Restorer:
    def __init__(
        self,
        vault: Vault,
        request: RestoreRequest,
        planter: Planter,
        reader: BlockReader,
        report: RestoreReport,
        stage: Stage,
    ) -> None:
        self._vault = vault
        self._request = request
        self._planter = planter
        self._reader = reader
        self._report = report
        self._stage = stage
        self._work = _Work()
        self._tried: dict[int, set[int]] = {}  # rows that a pair did not give, and the pairs
        self._failures: dict[int, list[HoldfastError]] = {}
        self._unmounted: list[HoldfastError] = []
        with vault.catalog.reading() as connection:
            self._pairs = tapes.all_pairs(connection)
        self._pair_of = {c.barcode: number for number, pair in enumerate(self._pairs) for c in pair.cartridges}

    # -- first pass

    def plant_all(self, meant: Matcher) -> None:
        """Plant everything that needs no tape; note down what does."""
        with self._vault.catalog.reading() as connection:
            for present in files.versions_at(connection, self._request.as_of_ns):
                if meant(present.version):
                    self._guarded(present.version, lambda present=present: self._plant(present))
        self._plant_leaders(meant)

    def _guarded(self, version: FileVersion, step: Callable[[], None]) -> None:
        """One file that cannot be restored does not stop the others; a full disk does."""
        try:
            step()
        except (CapacityError, _NoneGood):
            raise
        except HoldfastError as error:
            self._report.errors.append(_of_file(error, version))

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
        if self._planter.is_planted(version):
            self._report.already_there += 1
            self._stage.advance(version.size_bytes)
        elif version.content is None:
            raise SourceError(
                "the file was noted and never dumped; no copy of it exists", hint="holdfast archive its source again"
            )
        elif version.size_bytes == 0:
            self._planter.file(version, lambda _: None)
        elif not self._plant_from_store(version, version.content):
            self._recall_later(present, version.content)

    def _plant_from_store(self, version: FileVersion, content: Content) -> bool:
        segments = None if self._request.origin == "tape" else self._vault.catalog.find_segments(content)
        if segments is None:
            return False
        try:
            self._planter.file(version, lambda new: self._fill(new, version, content, self._reader.read(segments)))
        except IntegrityError as error:
            self._report.warnings.append(_of_file(error, version))
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

    def _plant_leaders(self, meant: Matcher) -> None:
        """Of hard links whose first version is not restored, one becomes the file and the others link to it."""
        wanted = {version.hard_link_of for version in self._work.hard_links if version.hard_link_of is not None}
        with self._vault.catalog.reading() as connection:
            firsts = files.present_among(connection, list(wanted), self._request.as_of_ns)
            leaders = {key: present.version for key, present in firsts.items() if meant(present.version)}
            orphans = [v for v in self._work.hard_links if v.hard_link_of not in leaders]
            present = files.versions_by_id(connection, [version.id for version in orphans])
        for version in orphans:
            assert version.hard_link_of is not None
            if leaders.setdefault(version.hard_link_of, version) is version:
                self._guarded(version, lambda version=version: self._plant_file(present[version.id]))
        self._leaders = leaders

    # -- second pass

    def _recall_later(self, present: PresentVersion, content: Content) -> None:
        places = [] if self._request.origin == "store" else self._places(content, FEW_COPIES)
        if not places:
            raise IntegrityError(
                "no copy of the file can be read"
                + (" from the block store" if self._request.origin == "store" else ""),
                expected=f"SHA-256 {content.sha256.hex()}",
                found="no copy",
                hint=f"holdfast custody '{show_path(present.version.full_path)}' shows where it was",
            )
        first = places[0]
        self._work.recalls.append((self._pair_of[first.barcode], first.tape_file, first.data_offset, present.row))

    def _places(self, content: Content, limit: int | None = None) -> list[TapePlace]:
        """Copies on cartridges that are sides of a pair now; one that was replaced has no pair to be mounted with."""
        with self._vault.catalog.reading() as connection:
            found = tapes.tape_places(connection, content, limit=limit)
        sides = [place for place in found if place.barcode in self._pair_of]
        return sides if sides or not found or limit is None else self._places(content)

    def recall(self) -> None:
        """Read what the store did not have from tape, pair by pair, in tape order."""
        if not self._work.recalls:
            return
        waiting: dict[int, list[int]] = {}
        for number, _, _, row in sorted(self._work.recalls):
            waiting.setdefault(number, []).append(row)
        with TapeLibrary(self._vault.settings, self._vault.catalog) as library:
            while waiting:
                number = min(waiting)
                for row in self._recall_pair(library, self._pairs[number], waiting.pop(number)):
                    elsewhere = self._elsewhere(row)
                    if elsewhere is not None:
                        waiting.setdefault(elsewhere, []).append(row)

    def _recall_pair(self, library: TapeLibrary, pair: Pair, rows: list[int]) -> list[int]:
        """Recall files from a pair; returns the rows of those that no copy on it gave."""
        missed: list[int] = []
        with library.mounted_sides(pair, self._not_mounted) as mounted:
            contents = TapeContents(mounted)
            for start in range(0, len(rows), RECALL_CHUNK):
                chunk = rows[start : start + RECALL_CHUNK]
                with self._vault.catalog.reading() as connection:
                    found = {present.row: present for present in files.versions_by_row(connection, chunk)}
                for row in chunk:
                    present = found[row]
                    try:
                        self._guarded(present.version, lambda item=present: self._recall_file(contents, item))
                    except _NoneGood:
                        missed.append(row)
                        self._tried.setdefault(row, set()).add(self._pairs.index(pair))
        return missed

    def _not_mounted(self, cartridge: Cartridge, error: HoldfastError) -> None:
        error.place = f"{cartridge.barcode}: {error.place}" if error.place else cartridge.barcode
        self._unmounted.append(error)
        self._report.warnings.append(error)

    def _elsewhere(self, row: int) -> int | None:
        """Another pair that has a copy of a file; when all were tried, the file's failure is reported."""
        with self._vault.catalog.reading() as connection:
            (present,) = files.versions_by_row(connection, [row])
        version = present.version
        assert version.content is not None
        pairs = {self._pair_of[place.barcode] for place in self._places(version.content)} - self._tried[row]
        if pairs:
            return min(pairs)
        failures = self._failures.pop(row, None) or [
            MediaError(
                "no cartridge with a copy of the file can be mounted",
                found="; ".join(str(error) for error in self._unmounted) or None,
                hint="put one of them into the library, then run the same command again",
            )
        ]
        self._report.errors.append(_of_file(failures[-1], version))
        return None

    def _recall_file(self, contents: TapeContents, present: PresentVersion) -> None:
        version, content = present.version, present.version.content
        assert content is not None
        failures = self._failures.get(present.row, [])

        def fill(new: NewFile) -> None:
            def fresh() -> Callable[[memoryview], None]:
                new.restart()
                return new.write

            few = self._places(content, FEW_COPIES)
            if contents.read_any(few, content, fresh, failures.append):
                return
            others = [place for place in self._places(content) if place not in few]
            if not contents.read_any(others, content, fresh, failures.append):
                raise _NoneGood("no copy on this pair is good")

        try:
            self._planter.file(version, fill)
        except _NoneGood:
            self._failures[present.row] = failures
            raise
        self._failures.pop(present.row, None)
        self._stage.advance(content.size_bytes)
        self._report.planted_bytes += content.size_bytes
        if failures:
            self._report.from_twin += 1
            self._report.warnings += [_of_file(error, version) for error in failures]

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


def _of_file(error: HoldfastError, version: FileVersion) -> HoldfastError:
    """The error, with the file's name in its place."""
    name = show_path(version.full_path)
    if error.place is None or not error.place.startswith(name):
        error.place = f"{name}: {error.place}" if error.place else name
    return error


# -- one file


def cat(folder: Path, name: str, out: BinaryIO, *, as_of_ns: int | None = None, origin: str = "any") -> None:
    """Write one file's bytes to `out`. Not one byte is written that was not checked.

    Raises `SourceError` when there is no such file, and `IntegrityError` when no copy is good.
    """
    with opened(folder) as vault, vault.store_reader() as reader:
        version = find_version(vault.catalog, name, as_of_ns).version
        if version.kind is not Kind.FILE or version.content is None:
            raise SourceError("not a file whose bytes are kept", place=name, found=version.kind.value)
        segments = None if origin == "tape" else vault.catalog.find_segments(version.content)
        if segments is None and origin == "store" and version.size_bytes:
            raise SourceError("the file is not in the block store", place=name, hint="leave out --from store")
        written = 0
        try:
            for piece in reader.read(segments or ()):
                out.write(piece)
                written += len(piece)
        except IntegrityError:
            if origin == "store" or not _is_on_tape(vault, version.content):
                raise
        if written < version.size_bytes:
            _cat_from_tape(vault, version.content, out, written)


def _is_on_tape(vault: Vault, content: Content) -> bool:
    with vault.catalog.reading() as connection:
        return bool(tapes.tape_places(connection, content, limit=1))


def _cat_from_tape(vault: Vault, content: Content, out: BinaryIO, begin: int) -> None:
    """From byte `begin` on; by way of a temporary file, as only the last byte proves the first."""
    with vault.catalog.reading() as connection:
        places = tapes.tape_places(connection, content)
        pairs = tapes.all_pairs(connection)
    failures: list[HoldfastError] = [SourceError("no copy of the file can be read", hint="holdfast custody shows more")]
    with TapeLibrary(vault.settings, vault.catalog) as library, tempfile.TemporaryFile() as spool:
        for pair in pairs:
            if {place.barcode for place in places} & {item.barcode for item in pair.cartridges}:
                with library.mounted_sides(pair, lambda _, error: failures.append(error)) as mounted:
                    good = TapeContents(mounted).read_any(places, content, lambda: _fresh(spool), failures.append)
                if good:
                    _copy_out(spool, out, begin)
                    return
    raise failures[-1]


def _fresh(spool: BinaryIO) -> Callable[[memoryview], None]:
    spool.seek(0)
    spool.truncate()

    def write(piece: memoryview) -> None:
        spool.write(piece)

    return write


def _copy_out(spool: BinaryIO, out: BinaryIO, begin: int) -> None:
    spool.seek(begin)
    while piece := spool.read(2**20):
        out.write(piece)
