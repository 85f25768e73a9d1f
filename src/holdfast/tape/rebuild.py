"""Taking a pair into catalog and journals from its cartridges alone.

    label      who is it? read in full
    survey     what lies on it? the first record of each tape file, by spacing
    catalogs   every session's catalog is read; the last whole one tells of everything before it
    objects    what no whole catalog tells of is read member by member, from whichever side has it whole
    pieces     which tape files does each side have? Nothing is written before both sides agree (see `piecing`)
    tell       the catalog gets versions and objects; then the journals are written; then the tape files are told

What is known already stays as it is, so running again is resuming. What contradicts what is known is an error.
"""

from __future__ import annotations

import gzip
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from holdfast.catalog import Pair, adopting, tapes
from holdfast.errors import HoldfastError, IntegrityError, MediaError
from holdfast.jsonform import SourceLine
from holdfast.tape import label as labels
from holdfast.tape.drive import EndOfData, TapeDrive
from holdfast.tape.facts import tape_file_of
from holdfast.tape.feeding import Carried, CatalogFeeder, lines_of_object
from holdfast.tape.journal import CartridgeIdentity, Committed
from holdfast.tape.label import Label
from holdfast.tape.layout import MemberHeader
from holdfast.tape.library import TapeLibrary
from holdfast.tape.piecing import LOST, UNKNOWN, SeenSide, believed, piece_together
from holdfast.tape.reader import ReadMember, first_problem, member_digests
from holdfast.tape.scan import RecordBuffer, read_again_if_needed, read_tape_file
from holdfast.tape.sessioncatalog import CatalogLine, ObjectTold, SessionCatalog, open_catalog, spool_catalog
from holdfast.tape.survey import SeenFile, survey
from holdfast.values import Side

LARGEST_RECORD_BYTES = 1024 * 1024
"""A label tells the size of the records, and is read before it is known (see `config.RECORD_SIZES`)."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class FoundCartridge:
    """A cartridge whose label was read: who it is, and which cartridges its ledger names."""

    barcode: str
    label: Label
    blake3: bytes
    ledger: frozenset[str]
    problem: IntegrityError | None = None


@dataclass(slots=True)
class TakenPair:
    """What taking a pair did, and what of it could not be read.

    `unfinished`: sessions whose catalog a killed run did not write to its end.
    """

    objects: int = 0
    scanned: int = 0
    sessions: int = 0
    unfinished: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    tape_files: dict[str, int] = field(default_factory=dict[str, int])
    problems: list[HoldfastError] = field(default_factory=list[HoldfastError])


# -- the label


def find_cartridge(drive: TapeDrive, barcode: str) -> FoundCartridge | None:
    """Read the label of the loaded cartridge in full; None when the tape is blank.

    Raises `MediaError` for a tape that Holdfast did not write, `IntegrityError` for a label that is damaged, of a
    newer format, or of another barcode.
    """
    collected = _LabelMembers()
    drive.rewind()
    try:
        reader = read_tape_file(
            drive, RecordBuffer(LARGEST_RECORD_BYTES), on_data=collected.take, on_member=collected.note
        )
    except EndOfData:
        if drive.tell().record or drive.tell().tape_file:
            raise IntegrityError("the label ends without a file mark", place=f"{barcode} tape file 0") from None
        return None
    if not collected.volume:
        raise MediaError(
            "no label of Holdfast can be read: the tape is another program's, or damaged",
            place=f"{barcode} tape file 0",
            found=str(reader.problem) if reader.problem is not None else None,
            hint="its twin tells what it should hold, if it is one of ours",
        )
    label = labels.decode_volume(bytes(collected.volume))
    if label.barcode != barcode:
        raise IntegrityError(
            "the label is that of another cartridge",
            place=f"{barcode} tape file 0",
            expected=barcode,
            found=label.barcode,
        )
    return FoundCartridge(
        barcode, label, reader.blake3(), frozenset(collected.ledger), first_problem(reader, collected.digests)
    )


class _LabelMembers:
    """VOLUME.json, and the barcodes in the ledger, as a label streams past."""

    def __init__(self) -> None:
        self.volume = bytearray()
        self.ledger: set[str] = set()
        self.digests: dict[bytes, bytes] = {}
        self._line = bytearray()

    def note(self, member: ReadMember) -> None:
        if member.sha256 is not None:
            self.digests[member.header.name] = member.sha256

    def take(self, header: MemberHeader, piece: memoryview) -> None:
        if header.name == labels.VOLUME_NAME:
            self.volume += piece
        elif header.name == labels.LEDGER_NAME:
            self._line += piece
            *lines, rest = self._line.split(b"\n")
            self._line = bytearray(rest)
            for line in lines:
                self._ledger_line(bytes(line))

    def _ledger_line(self, line: bytes) -> None:
        if line.startswith(b'{"object"'):
            try:
                self.ledger.update(str(barcode) for barcode in json.loads(line)["on"])
            except (ValueError, KeyError, TypeError):
                pass  # the digests say that the ledger is damaged


# -- one pair


@dataclass(slots=True)
class _Side:
    """One loaded cartridge of the pair, and what was found out about it."""

    found: FoundCartridge
    drive: TapeDrive
    seen: SeenSide

    @property
    def barcode(self) -> str:
        return self.found.barcode

    def place(self, number: int) -> str:
        return f"{self.barcode} tape file {number}"


def take_pair(
    library: TapeLibrary,
    loaded: Sequence[tuple[FoundCartridge, TapeDrive]],
    carried: Carried,
    progress: Progress,
    *,
    alone: bool = False,
) -> TakenPair:
    """Take the one or two loaded cartridges of a pair into catalog and journals; see the module.

    Ends and readings go into `carried`: whoever calls tells them; of a pair that is taken `alone` they are told before
    its journals are written, as nobody looks again at what journals know. Raises `IntegrityError` when the tapes
    contradict each other or what is known of them, and `MediaError`, of a pair that is taken `alone`, when a drive
    cannot read what no other one has tried; the pair is then left as it was.
    """
    taker = _PairTaker(library, loaded, carried, progress)
    try:
        return taker.take(alone=alone)
    finally:
        taker.forget_scratch()


class _PairTaker:
    def __init__(
        self,
        library: TapeLibrary,
        loaded: Sequence[tuple[FoundCartridge, TapeDrive]],
        carried: Carried,
        progress: Progress,
    ) -> None:
        self._library = library
        self._carried = carried
        self._progress = progress
        self._label = loaded[0][0].label
        self._buffer = RecordBuffer(self._label.record_bytes)
        self._newest: tuple[int, SessionCatalog] | None = None
        self._sessions: dict[uuid.UUID, bool] = {}
        self._scanned: dict[int, tuple[ObjectTold, Path]] = {}
        self._scratch: set[Path] = set()
        self.result = TakenPair()
        self._check_labels([found.label for found, _ in loaded])
        self._sides = [self._look(found, drive) for found, drive in loaded]

    def _check_labels(self, told: list[Label]) -> None:
        for one in told:
            other = self._label
            same = (one.pair_id, one.record_bytes) == (other.pair_id, other.record_bytes)
            # a cartridge that took the place of a failed one names its twin, whose label names the failed one
            named = one.barcode == other.twin_barcode or other.barcode == one.twin_barcode
            twins = one is other or (named and one.side is _other(other.side))
            if not same or not twins:
                raise IntegrityError(
                    "the labels of two cartridges of one pair contradict each other",
                    place=f"{other.barcode} and {one.barcode}",
                    expected=f"side {_other(other.side)}, {other.twin_barcode}, records of {other.record_bytes} bytes",
                    found=f"side {one.side}, {one.barcode}, records of {one.record_bytes} bytes",
                    hint="look where these cartridges come from; write on neither",
                )

    def _look(self, found: FoundCartridge, drive: TapeDrive) -> _Side:
        state = self._library.journal(found.barcode).state()
        if state is not None and state.identity.volume_id != found.label.volume_id:
            raise IntegrityError(
                "a cartridge is not the one that its journal tells of",
                place=found.barcode,
                expected=f"volume {state.identity.volume_id}",
                found=f"volume {found.label.volume_id}",
                hint="look which cartridge was put in; write nothing on it",
            )
        if found.problem is not None:
            self._report("a label is damaged", f"{found.barcode} tape file 0", found.problem)
        drive.rewind()
        files = survey(drive, self._buffer, found.label.pair_id)
        known = state.committed if state is not None else ()
        seen = SeenSide(found.barcode, found.label.record_bytes, files, {0: found.blake3}, known=known)
        return _Side(found, drive, seen)

    def take(self, *, alone: bool) -> TakenPair:
        for side in self._sides:
            self._read_catalogs(side)
        told = dict(self._newest[1].objects()) if self._newest is not None else {}
        self.result.unfinished = self._unfinished()
        for side, seen in zip(self._sides, believed([side.seen for side in self._sides], told), strict=True):
            side.seen = seen
        for number in sorted({item.number for side in self._sides for item in side.seen.files} - told.keys()):
            self._scan(number)
        told |= {number: item for number, (item, _) in self._scanned.items()}
        pieces = self._pieces(told)
        if alone:
            self._demand_two_drives(pieces)
        self._tell_objects(pieces)
        if alone:
            self._carried.tell()
        for side, committed in zip(self._sides, pieces, strict=True):
            self._write_journal(side, committed)
        for side, committed in zip(self._sides, pieces, strict=True):
            self._tell_tape_files(side, committed)
        return self.result

    def _unfinished(self) -> set[uuid.UUID]:
        names = (side.seen.files[number].name for side in self._sides for number in side.seen.unfinished)
        return {name.id for name in names if name is not None}

    def _report(self, message: str, place: str, error: HoldfastError | None, found: str | None = None) -> None:
        self.result.problems.append(
            IntegrityError(
                message,
                place=place,
                expected=error.expected if error is not None else None,
                found=found or (error.found or error.message if error is not None else None),
                hint="holdfast verify reads all of it; its twin may have it whole",
            )
        )

    def _scratch_path(self, name: str) -> Path:
        path = self._library.scratch_file(name)
        self._scratch.add(path)
        return path

    def forget_scratch(self) -> None:
        for path in self._scratch:
            path.unlink(missing_ok=True)

    # -- catalogs

    def _read_catalogs(self, side: _Side) -> None:
        for item in side.seen.files:
            if item.name is not None and item.name.kind == "catalog":
                self._read_catalog(side, item, item.name.id)

    def _read_catalog(self, side: _Side, item: SeenFile, session_id: uuid.UUID) -> None:
        path = self._scratch_path(f"rebuild-{side.barcode}-{item.number}.gz")
        problem = read_again_if_needed(side.drive, lambda: self._spool(side, item, session_id, path))
        if problem is not None:
            self._report("a catalog cannot be read", side.place(item.number), problem)
        if self._newest is None or self._newest[1].path != path:
            path.unlink(missing_ok=True)

    def _spool(self, side: _Side, item: SeenFile, session_id: uuid.UUID, path: Path) -> HoldfastError | None:
        side.drive.locate(item.begin)
        reader, problem = spool_catalog(side.drive, self._buffer, path, self._progress)
        if problem is None:
            side.seen.whole[item.number] = reader.blake3()
            self._keep_catalog(item, session_id, path)
        elif reader.is_cut_short:
            side.seen.unfinished.add(item.number)
        return problem

    def _keep_catalog(self, item: SeenFile, session_id: uuid.UUID, path: Path) -> None:
        """One whole copy of each session's catalog is enough, of the newest session to the end."""
        if self._sessions.get(session_id):
            return
        told = open_catalog(path, self._label.pair_id, session_id)
        self._sessions[session_id] = True
        self._carried.add_readings(told)
        if self._newest is None or item.number > self._newest[0]:
            if self._newest is not None:
                self._newest[1].path.unlink(missing_ok=True)
            self._newest = item.number, told

    # -- objects of which no catalog tells

    def _scan(self, number: int) -> None:
        """Read an object in full, from the first side that has it whole, unless the catalog knows it already."""
        here = [(side, side.seen.files[number]) for side in self._sides if number < len(side.seen.files)]
        problems: list[tuple[_Side, HoldfastError]] = []
        for side, item in here:
            if item.name is None or item.name.kind != "object" or self._is_settled(number, item.name.id):
                continue
            problem = read_again_if_needed(side.drive, partial(self._scan_on, side, item, item.name.id))
            if problem is None:
                break
            problems.append((side, problem))
        for side, problem in problems:
            self._report("an object of which no catalog tells cannot be read", side.place(number), problem)

    def _is_settled(self, number: int, object_id: uuid.UUID) -> bool:
        """Whether a journal vouches for its bytes, and the catalog knows what it holds."""
        if not any(number < len(side.seen.known) for side in self._sides):
            return False
        with self._library.catalog.reading() as connection:
            return tapes.is_object_known(connection, object_id)

    def _scan_on(self, side: _Side, item: SeenFile, object_id: uuid.UUID) -> HoldfastError | None:
        members: list[ReadMember] = []
        side.drive.locate(item.begin)
        reader = read_tape_file(side.drive, self._buffer, on_member=members.append, on_bytes=self._progress)
        listed = reader.manifest_digests() if reader.problem is None else {}
        problem = first_problem(reader, member_digests(members))
        if problem is not None:
            return problem
        told = ObjectTold(object_id, item.number, item.first_block, reader.size_bytes, reader.blake3())
        path = self._scratch_path(f"rebuild-object-{item.number}.gz")
        with gzip.open(path, "wb", compresslevel=1) as file:
            for line in lines_of_object(told, members, listed, self._label.vault_id):
                file.write(line + b"\n")
        side.seen.whole[item.number] = told.blake3
        self._scanned[item.number] = told, path
        return None

    # -- deciding and telling

    def _pieces(self, told: dict[int, ObjectTold]) -> list[list[Committed]]:
        views = [side.seen for side in self._sides]
        twins = [views[1], views[0]] if len(views) == 2 else [None]
        pieces = [piece_together(view, twin, told) for view, twin in zip(views, twins, strict=True)]
        for side, committed in zip(self._sides, pieces, strict=True):
            for item in committed:
                if item.kind == LOST and side.seen.files[item.tape_file].name is None:
                    self._report(
                        "a tape file cannot be read, and nothing tells what it was", side.place(item.tape_file), None
                    )
        return pieces

    def _demand_two_drives(self, pieces: list[list[Committed]]) -> None:
        """What one drive cannot read is not written down as lost: the other one may read it."""
        lost = [
            (side.barcode, item.tape_file)
            for side, committed in zip(self._sides, pieces, strict=True)
            for item in committed[len(side.seen.known) :]
            if item.blake3 == UNKNOWN
        ]
        doubted = [found for found in lost if not self._library.is_said_by_two_drives(found[0], f"{found[1]} is lost")]
        for barcode, number in doubted:
            raise MediaError(
                "a tape file that no journal knows cannot be read by this drive; nothing was written",
                place=f"{barcode} tape file {number}",
                expected="a tape file that is whole",
                hint="it is read again in the other drive; if that finds the same, the rest is taken over without it",
            )

    def _tell_objects(self, pieces: list[list[Committed]]) -> None:
        placed = {item.id for committed in pieces for item in committed}
        with self._library.catalog.transaction() as connection:
            adopting.adopt_pair(connection, self._pair())
            self._fence(connection)
            self._note_rebuilt(connection, pieces)
        feeder = CatalogFeeder(self._library, self._label.pair_id, self._carried)
        if self._newest is not None:
            told = self._newest[1]
            with self._library.catalog.transaction() as connection:
                tapes.record_session(connection, told.session_id, self._label.pair_id, ())
            feeder.feed(told.lines("source", "object", "version", "end"), told.session_id)
        for told, path in self._scanned.values():
            if told.id in placed:
                lines = SessionCatalog(path, told.id).lines("source", "version")
                feeder.feed(_with_object(told, lines))
                self.result.scanned += 1
        with self._library.catalog.transaction() as connection:
            for session_id in self._sessions:
                if session_id in placed:
                    tapes.record_session(connection, session_id, self._label.pair_id, ())
            self.result.sessions = len(self._sessions)

    def _pair(self) -> Pair:
        one = self._sides[0]
        identities = {side.found.label.side: self._identity(side.found) for side in self._sides}
        missing = _other(one.found.label.side)
        if missing not in identities:
            identities[missing] = self._missing_identity(identities[one.found.label.side])
        a, b = (self._library.cartridge_of(identities[side]) for side in Side)
        return Pair(self._label.pair_id, "open", self._label.record_bytes, (a, b))

    def _identity(self, found: FoundCartridge) -> CartridgeIdentity:
        state = self._library.journal(found.barcode).state()
        return state.identity if state is not None else self._identity_of(found)

    def _identity_of(self, found: FoundCartridge) -> CartridgeIdentity:
        label = found.label
        return CartridgeIdentity(
            barcode=label.barcode,
            volume_id=label.volume_id,
            pair_id=label.pair_id,
            side=label.side,
            twin=self._twin_of(label),
            record_bytes=label.record_bytes,
            capacity_bytes=self._library.changer.capacity_bytes(label.barcode),
            created=label.created,
            replaces=label.replaces,
        )

    def _twin_of(self, label: Label) -> str:
        """The other side as it was found; what the label says, when it was not."""
        found = (side.barcode for side in self._sides if side.found.label.side is not label.side)
        return next(found, label.twin_barcode)

    def _missing_identity(self, one: CartridgeIdentity) -> CartridgeIdentity:
        """The twin that was not found: what its journal says, or what the label of this side tells of it."""
        state = self._library.journal(one.twin).state()
        if state is not None:
            return state.identity
        return replace(
            one,
            barcode=one.twin,
            volume_id=adopting.unknown_volume(one.pair_id, one.twin),
            side=_other(one.side),
            twin=one.barcode,
            replaces="",
        )

    def _note_rebuilt(self, connection: Connection, pieces: list[list[Committed]]) -> None:
        """Before anything is told: who finishes what a kill cuts short need not know that it was a rebuild."""
        for side, committed in zip(self._sides, pieces, strict=True):
            known = {item.number for item in tapes.tape_files(connection, side.barcode)}
            if any(item.kind == "object" and item.tape_file not in known for item in committed):
                adopting.note_rebuilt(connection, side.barcode, time.time_ns())

    def _fence(self, connection: Connection) -> None:
        """A side that was not found is not written again; nor is one that its journal calls fenced."""
        if len(self._sides) == 1:
            twin = self._label.twin_barcode
            adopting.fence_unknown(connection, self._label.pair_id, twin, f"{twin} was not found by rebuild")
        for barcode in {self._label.barcode, self._twin_of(self._label)}:
            state = self._library.journal(barcode).state()
            if state is not None and state.fenced is not None:
                tapes.fence(connection, barcode, state.fenced)

    def _write_journal(self, side: _Side, committed: list[Committed]) -> None:
        journal, now = self._library.journal(side.barcode), time.time_ns()
        if not side.seen.known:
            journal.write_anew(self._identity(side.found), committed, now)
        else:
            journal.committed(committed[len(side.seen.known) :], now)

    def _tell_tape_files(self, side: _Side, committed: list[Committed]) -> None:
        with self._library.catalog.transaction() as connection:
            known = {item.number for item in tapes.tape_files(connection, side.barcode)}
            new = [tape_file_of(item) for item in committed if item.tape_file not in known]
            for item in new:
                if item.object_id is not None and not tapes.is_object_known(connection, item.object_id):
                    adopting.adopt_object(connection, item.object_id, self._label.pair_id, item.number, ())
                    self._report("what an object holds is not known", side.place(item.number), None)
            tapes.record_tape_files(connection, side.barcode, [tape_file_of(item) for item in committed])
        self.result.tape_files[side.barcode] = len(new)
        self.result.objects = max(self.result.objects, sum(item.kind == "object" for item in new))


def _other(side: Side) -> Side:
    return Side.B if side is Side.A else Side.A


def _with_object(told: ObjectTold, lines: Iterator[CatalogLine]) -> Iterator[CatalogLine]:
    """Its sources, the object itself, then its members."""
    said = False
    for line in lines:
        if not said and not isinstance(line, SourceLine):
            said = True
            yield told
        yield line
    if not said:
        yield told
