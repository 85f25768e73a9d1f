"""Verifying: both cartridges at the same time, each in the other's drive, every byte from the medium.

For every tape file that is read: the BLAKE3 of the whole against what was committed, the SHA-256 of every member
against its MANIFEST and against the catalog. Each reading becomes a row of evidence, matched or not: first in the
evidence journal, then in the catalog.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast.catalog import Cartridge, Evidence, Pair, TapeFile, proof, tapes
from holdfast.errors import HoldfastError, IntegrityError, MediaError
from holdfast.tape import layout
from holdfast.tape.drive import EndOfData, Position, TapeDrive
from holdfast.tape.facts import evidence_fields, evidence_of
from holdfast.tape.library import TapeLibrary
from holdfast.tape.reader import ReadMember, TarReader, compare_with_manifest
from holdfast.tape.sample import Sample
from holdfast.tape.scan import RecordBuffer, read_tape_file
from holdfast.values import show_path

MAX_PROBLEMS = 20
"""Of one tape file, at most so many damaged members are named one by one."""


@dataclass(slots=True)
class VerifyResult:
    """What was read, and what did not match."""

    tape_files: int = 0
    members: int = 0
    read_bytes: int = 0
    problems: list[HoldfastError] = field(default_factory=list[HoldfastError])


@dataclass(frozen=True, slots=True)
class _Reading:
    evidence: Evidence
    problems: list[HoldfastError]


def verify_pair(
    library: TapeLibrary,
    pair: Pair,
    *,
    everything: bool,
    progress: Callable[[int], None],
    sample: Sample | None = None,
    swapped: bool = True,
) -> VerifyResult:
    """Read label, catalogs and the objects that are not proven yet (or `everything`) of both cartridges at once.

    With a `sample`, what it chooses of each cartridge instead; it proves the tape files that were read and no other.

    `swapped`: each cartridge goes into the drive that did not write it. Evidence of every reading is stored when this
    returns. Nothing is raised for damage: it is in the result, and so
    is a cartridge that cannot be mounted; its twin is read all the same.
    """
    result = VerifyResult()

    def not_mounted(_: Cartridge, error: HoldfastError) -> None:
        result.problems.append(error)

    with library.mounted_sides(pair, not_mounted, swapped=swapped) as mounted:
        readings: queue.SimpleQueue[_Reading | BaseException | None] = queue.SimpleQueue()
        stop = threading.Event()
        threads = [
            threading.Thread(
                target=_verify_side,
                args=(library, item, drive, pair.record_bytes, numbers, readings, progress, stop),
                name=f"verify-{item.side}",
            )
            for item, drive in mounted.sides
            for numbers in (wanted_files(library, item, everything=everything, sample=sample),)
        ]
        for thread in threads:
            thread.start()
        try:
            for reading in _until_done(readings, len(threads)):
                record_readings(library, [reading.evidence])
                _count(result, reading)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    return result


def wants_verifying(library: TapeLibrary, pair: Pair) -> bool:
    """Whether a side holds anything that is not proven; one that is fenced proves nothing, so it does not."""
    return any(unproven_files(library, item) for item in pair.cartridges if not item.fenced)


def unproven_files(library: TapeLibrary, cartridge: Cartridge) -> list[TapeFile]:
    """The committed tape files of a cartridge whose newest reading does not prove them."""
    with library.catalog.reading() as connection:
        proven = proof.proven_tape_files(connection, cartridge.barcode)
        return [item for item in tapes.tape_files(connection, cartridge.barcode) if item.number not in proven]


def was_misread(library: TapeLibrary, pair: Pair) -> bool:
    """Whether the newest reading of a tape file of a good side found other bytes, or could not go on.

    Not so when it was not read at all, as nobody put the cartridge in or its drive did not load it.
    """
    return any(_misread_files(library, item) for item in pair.cartridges if not item.fenced)


def _misread_files(library: TapeLibrary, cartridge: Cartridge) -> set[int]:
    unproven = {item.number for item in unproven_files(library, cartridge)}
    with library.catalog.reading() as connection:
        return proof.mismatched_tape_files(connection, cartridge.barcode) & unproven


def fence_unreadable(library: TapeLibrary, pair: Pair) -> MediaError | None:
    """After a verification: fence a side that was read back with other bytes, if its twin is proven whole.

    Returns what was fenced and why; None when there is nothing to do, or no twin that it could be made from again.
    """
    for cartridge, twin in zip(pair.cartridges, reversed(pair.cartridges), strict=True):
        bad = _misread_files(library, cartridge)
        if bad and not cartridge.fenced and not twin.fenced and not unproven_files(library, twin):
            return library.fence(cartridge.barcode, _not_as_written(cartridge, min(bad)))
    return None


def _not_as_written(cartridge: Cartridge, tape_file: int) -> MediaError:
    return MediaError(
        "a cartridge was read back with other bytes than were written; it is fenced",
        place=f"{cartridge.barcode} tape file {tape_file}",
        hint="run the same command again: another cartridge takes its place, copied from its twin",
    )


def wanted_files(
    library: TapeLibrary, cartridge: Cartridge, *, everything: bool, sample: Sample | None = None
) -> list[TapeFile]:
    """The tape files to read: label, and whatever is not proven; or a `sample`; or `everything`. In tape order."""
    with library.catalog.reading() as connection:
        committed = tapes.tape_files(connection, cartridge.barcode)
        proven = proof.proven_tape_files(connection, cartridge.barcode)
    if sample is not None:
        chosen = sample.chosen(cartridge.barcode, [(item.number, item.kind) for item in committed])
        return [item for item in committed if item.number in chosen]
    if everything:
        return committed
    if cartridge.fenced:
        return []
    return [item for item in committed if item.kind == "label" or item.number not in proven]


def _until_done(readings: queue.SimpleQueue[_Reading | BaseException | None], threads: int) -> Iterator[_Reading]:
    while threads:
        item = readings.get()
        if item is None:
            threads -= 1
        elif isinstance(item, BaseException):
            raise item
        else:
            yield item


def record_readings(library: TapeLibrary, readings: list[Evidence]) -> None:
    """Store evidence: durable in its journal first, then in the catalog."""
    library.evidence_journal.append(*(evidence_fields(item) for item in readings))
    with library.catalog.transaction() as connection:
        proof.record_evidence(connection, readings)


def adopt_evidence(library: TapeLibrary) -> None:
    """Readings that only the journal knows, as a run was killed in between, are told to the catalog.

    Those of cartridges that the catalog does not know wait until a rebuild has told it of them.
    """
    known = {item.barcode for pair in library.pairs() for item in pair.cartridges}
    readings = (evidence_of(entry) for entry in library.evidence_journal.entries())
    with library.catalog.transaction() as connection:
        proof.record_evidence(connection, (item for item in readings if item.barcode in known))


def _count(result: VerifyResult, reading: _Reading) -> None:
    result.tape_files += 1
    result.members += reading.evidence.members
    result.read_bytes += reading.evidence.size_bytes
    result.problems += reading.problems


# -- one side, in its own thread


def _verify_side(
    library: TapeLibrary,
    cartridge: Cartridge,
    drive: TapeDrive,
    record_bytes: int,
    wanted: list[TapeFile],
    readings: queue.SimpleQueue[_Reading | BaseException | None],
    progress: Callable[[int], None],
    stop: threading.Event,
) -> None:
    try:
        buffer = RecordBuffer(record_bytes)
        for item in wanted:
            readings.put(_read(library, cartridge, drive, item, buffer, _stoppable(progress, stop)))
    except _Stopped:
        pass
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
        readings.put(error)
    finally:
        readings.put(None)


class _Stopped(Exception):
    """The other side, or the user, ended the work."""


def _stoppable(progress: Callable[[int], None], stop: threading.Event) -> Callable[[int], None]:
    def advance(count_bytes: int) -> None:
        if stop.is_set():
            raise _Stopped
        progress(count_bytes)

    return advance


@dataclass(slots=True)
class _Seen:
    """The members of one tape file as they were read: SHA-256 by name, and where each began."""

    digests: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    versions: dict[uuid.UUID, bytes] = field(default_factory=dict[uuid.UUID, bytes])
    count: int = 0

    def add(self, member: ReadMember) -> None:
        self.count += 1
        header = member.header
        digest = member.sha256
        if header.type == layout.TYPE_HARD_LINK:
            digest = self.digests.get(header.link_name)
        if digest is not None:
            self.digests[header.name] = digest
            if header.version_id is not None:
                self.versions[header.version_id] = digest


def _read(
    library: TapeLibrary,
    cartridge: Cartridge,
    drive: TapeDrive,
    item: TapeFile,
    buffer: RecordBuffer,
    progress: Callable[[int], None],
) -> _Reading:
    begun_ns = time.time_ns()
    seen = _Seen()
    problems: list[HoldfastError] = []
    reader: TarReader | None = None
    try:
        drive.locate(Position(item.number, 0, item.first_block))
        reader = read_tape_file(drive, buffer, on_member=seen.add, on_bytes=progress)
    except (EndOfData, MediaError) as error:
        problems.append(_unreadable(cartridge, item, error))
    if reader is not None:
        problems += _compare(library, cartridge, item, reader, seen)
    found = bytes(32) if reader is None else reader.blake3()
    matched = not problems and found == item.blake3
    evidence = Evidence(
        id=uuid.uuid4(),
        barcode=cartridge.barcode,
        tape_file=item.number,
        object_id=item.object_id,
        drive=drive.serial,
        begun_ns=begun_ns,
        ended_ns=time.time_ns(),
        size_bytes=0 if reader is None else reader.size_bytes,
        members=seen.count,
        expected=item.blake3,
        found=found,
        matched=matched,
        reloaded=True,
        problem=None if matched else "; ".join(str(problem) for problem in problems[:3]),
    )
    return _Reading(evidence, problems)


def _place(cartridge: Cartridge, item: TapeFile, rest: str = "") -> str:
    return f"{cartridge.barcode} tape file {item.number}" + (f" {rest}" if rest else "")


def _hint(cartridge: Cartridge) -> str:
    return f"holdfast restore takes the twin of {cartridge.barcode}; keep the source until both copies are verified"


def _unreadable(cartridge: Cartridge, item: TapeFile, error: Exception) -> HoldfastError:
    return IntegrityError(
        "a tape file cannot be read",
        place=_place(cartridge, item),
        expected=f"{item.size_bytes} bytes and a file mark",
        found=error.found or error.message if isinstance(error, HoldfastError) else "end of data",
        hint=_hint(cartridge),
    )


def _compare(
    library: TapeLibrary, cartridge: Cartridge, item: TapeFile, reader: TarReader, seen: _Seen
) -> list[HoldfastError]:
    problems = list(_member_problems(library, cartridge, item, reader, seen))
    if not problems and reader.blake3() != item.blake3:
        problems.append(
            IntegrityError(
                "a tape file is not what was committed, though its members are",
                place=_place(cartridge, item),
                expected=f"BLAKE3 {item.blake3.hex()}",
                found=f"BLAKE3 {reader.blake3().hex()}",
                hint=_hint(cartridge),
            )
        )
    return problems


def _member_problems(
    library: TapeLibrary, cartridge: Cartridge, item: TapeFile, reader: TarReader, seen: _Seen
) -> Iterator[HoldfastError]:
    if reader.problem is not None:
        yield _damaged_at(library, cartridge, item, reader.problem)
        return
    try:
        against_manifest = compare_with_manifest(seen.digests, reader.manifest_digests())
    except IntegrityError as error:
        yield _placed(cartridge, item, error, f"MANIFEST {error.place or ''}")
        return
    found = {problem.place for problem in against_manifest}
    for problem in against_manifest[:MAX_PROBLEMS]:
        yield _placed(cartridge, item, problem, f"member {problem.place}")
    for problem in _against_catalog(library, item, seen):
        if problem.place not in found:
            yield _placed(cartridge, item, problem, f"member {problem.place}")


def _placed(cartridge: Cartridge, item: TapeFile, error: HoldfastError, rest: str) -> IntegrityError:
    return IntegrityError(
        error.message,
        place=_place(cartridge, item, rest.rstrip()),
        expected=error.expected,
        found=error.found,
        hint=_hint(cartridge),
    )


def _damaged_at(library: TapeLibrary, cartridge: Cartridge, item: TapeFile, error: IntegrityError) -> IntegrityError:
    """Damage to a header: the catalog says whose member it was."""
    rest = error.place or ""
    offset = int(rest.removeprefix("byte ") or 0)
    if item.object_id is not None:
        with library.catalog.reading() as connection:
            name = tapes.member_at(connection, item.object_id, offset)
        rest = f"member {show_path(name)} ({rest})" if name is not None else rest
    return _placed(cartridge, item, error, rest)


def _against_catalog(library: TapeLibrary, item: TapeFile, seen: _Seen) -> Iterator[HoldfastError]:
    if item.object_id is None:
        return
    with library.catalog.reading() as connection:
        members = tapes.members_of(connection, item.object_id)
    for facts, version in members:
        found = seen.versions.get(version.id)
        if facts.content is not None and found != facts.content.sha256:
            yield IntegrityError(
                "a member on tape is not what the catalog says",
                place=show_path(version.full_path),
                expected=f"SHA-256 {facts.content.sha256.hex()}",
                found="no such member" if found is None else f"SHA-256 {found.hex()}",
            )
