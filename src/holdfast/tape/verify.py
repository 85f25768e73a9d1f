"""Verifying: both cartridges at the same time, each in the other's drive, every byte from the medium.

What is compared is in `readback`. Each reading becomes a row of evidence, matched or not: first in the evidence
journal, then in the catalog. Here, too: what still wants reading, and which sides are fenced for what was read.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from holdfast.catalog import Cartridge, Evidence, Pair, TapeFile, proof, tapes
from holdfast.errors import HoldfastError, MediaError
from holdfast.tape.drive import TapeDrive
from holdfast.tape.facts import evidence_fields, evidence_of
from holdfast.tape.library import TapeLibrary
from holdfast.tape.readback import Reading, read_back
from holdfast.tape.sample import Sample
from holdfast.tape.scan import RecordBuffer


@dataclass(slots=True)
class VerifyResult:
    """What was read, and what did not match."""

    tape_files: int = 0
    members: int = 0
    read_bytes: int = 0
    problems: list[HoldfastError] = field(default_factory=list[HoldfastError])


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
    returns. Nothing is raised for damage: it is in the result, and so is a cartridge that cannot be mounted; its twin
    is read all the same.
    """
    result = VerifyResult()

    def not_mounted(_: Cartridge, error: HoldfastError) -> None:
        result.problems.append(error)

    with library.mounted_sides(pair, not_mounted, swapped=swapped) as mounted:
        sides = [
            _Side(library, item, drive, wanted_files(library, item, everything=everything, sample=sample), progress)
            for item, drive in mounted.sides
        ]
        with closing(_read_at_once(sides, pair.record_bytes)) as readings:
            for reading in readings:
                record_readings(library, [reading.evidence])
                _count(result, reading)
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


def _misread_in_two_drives(library: TapeLibrary, cartridge: Cartridge) -> set[int]:
    """Misread tape files of which two drives say so since they were last read well: one drive alone may be dirty."""
    with library.catalog.reading() as connection:
        drives = proof.drives_that_misread(connection, cartridge.barcode)
    return {number for number in _misread_files(library, cartridge) if len(drives.get(number, ())) > 1}


def fence_unreadable(library: TapeLibrary, pair: Pair) -> list[MediaError]:
    """After a verification: fence a side that was read back with other bytes, if its twin is proven whole.

    Twins that are both damaged cannot be made again from each other. They are fenced if all that they hold is in
    the store, and is so written on another pair; restoring still reads them, last. Returns what was fenced and why.
    """
    if any(item.fenced for item in pair.cartridges):
        return []
    bad = [_misread_in_two_drives(library, item) for item in pair.cartridges]
    for found, cartridge, twin in zip(bad, pair.cartridges, reversed(pair.cartridges), strict=True):
        if found and not unproven_files(library, twin):
            return [library.fence(cartridge.barcode, _not_as_written(cartridge, min(found)))]
    if not all(bad) or not _can_be_had_elsewhere(library, pair):
        return []
    sides = zip(bad, pair.cartridges, strict=True)
    return [library.fence(item.barcode, _not_as_written(item, min(found))) for found, item in sides]


def _can_be_had_elsewhere(library: TapeLibrary, pair: Pair) -> bool:
    with library.catalog.reading() as connection:
        return tapes.can_be_had_without(connection, pair.id)


def _not_as_written(cartridge: Cartridge, tape_file: int) -> MediaError:
    return MediaError(
        "a cartridge was read back with other bytes than were written; it is fenced",
        place=f"{cartridge.barcode} tape file {tape_file}",
        hint="run the same command again: what it holds is written again, from its twin or from the store",
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


def _count(result: VerifyResult, reading: Reading) -> None:
    result.tape_files += 1
    result.members += reading.evidence.members
    result.read_bytes += reading.evidence.size_bytes
    result.problems += reading.problems


# -- the sides, each in its own thread


@dataclass(frozen=True, slots=True)
class _Side:
    """A cartridge in a drive, and what is to be read of it."""

    library: TapeLibrary
    cartridge: Cartridge
    drive: TapeDrive
    wanted: list[TapeFile]
    progress: Callable[[int], None]


_Readings = queue.SimpleQueue[Reading | BaseException | None]
"""What the threads tell: readings, what ended one of them, and None when one is done."""


def _read_at_once(sides: list[_Side], record_bytes: int) -> Generator[Reading, None, None]:
    """The readings of all sides as they come. When this is closed, no thread is at work any more."""
    readings = _Readings()
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=_read_side, args=(side, record_bytes, readings, stop), name=f"verify-{side.cartridge.side}"
        )
        for side in sides
    ]
    for thread in threads:
        thread.start()
    try:
        yield from _until_done(readings, len(threads))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _until_done(readings: _Readings, threads: int) -> Iterator[Reading]:
    while threads:
        item = readings.get()
        if item is None:
            threads -= 1
        elif isinstance(item, BaseException):
            raise item
        else:
            yield item


def _read_side(side: _Side, record_bytes: int, readings: _Readings, stop: threading.Event) -> None:
    try:
        buffer = RecordBuffer(record_bytes)
        progress = _stoppable(side.progress, stop)
        for item in side.wanted:
            readings.put(read_back(side.library, side.cartridge, side.drive, item, buffer, progress))
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
