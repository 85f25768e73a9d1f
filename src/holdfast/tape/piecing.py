"""Deciding which tape files a cartridge has, out of all that is known of them. Pure.

What its journal says stays. Of the others, an object is what a session's catalog tells of it; what no catalog tells
of must have been read whole, here or on the twin, as objects and catalogs are the same bytes on both sides. What
nobody has whole is a place without a digest; at the end of a tape that is what a killed run left, and nobody's.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from holdfast.errors import IntegrityError
from holdfast.tape.journal import Committed
from holdfast.tape.layout import TapeFileName
from holdfast.tape.survey import SeenFile

LOST = "lost"
"""The kind of a tape file of which nothing is known but its place."""

UNKNOWN = bytes(32)
"""The digest of a tape file that nobody has whole: no reading matches it."""


class Told(Protocol):
    """An object that a session's catalog tells of."""

    @property
    def id(self) -> uuid.UUID: ...
    @property
    def first_block(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def blake3(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SeenSide:
    """One cartridge as it was seen: its tape files, the digests of those that were read whole, and its journal.

    `unfinished`: catalogs that end before their tar does, as a killed run leaves them.
    """

    barcode: str
    record_bytes: int
    files: Sequence[SeenFile]
    whole: dict[int, bytes] = field(default_factory=dict[int, bytes])
    unfinished: set[int] = field(default_factory=set[int])
    known: Sequence[Committed] = ()


def believed(sides: Sequence[SeenSide], told: Mapping[int, Told]) -> list[SeenSide]:
    """The sides without what was never committed: each ends before the first tape file that speaks against its twin.

    In a place that only one of them has vouched for, by its journal or by a catalog, the other one has what an earlier
    run left there. Behind all that anybody vouches for, two sides that differ were being written when a run was killed.
    """
    cut = [replace(side, files=side.files[: _own_end(side, _twin_of(side, sides), told)]) for side in sides]
    end = agreed_end(cut, told)
    return [replace(side, files=side.files[:end]) for side in cut]


def _twin_of(side: SeenSide, sides: Sequence[SeenSide]) -> SeenSide | None:
    return next((other for other in sides if other is not side), None)


def _own_end(side: SeenSide, twin: SeenSide | None, told: Mapping[int, Told]) -> int:
    """The number of the first tape file that is another one than the twin, and only the twin, vouches for."""
    if twin is None:
        return len(side.files)
    first, last = _vouched(side, told) + 1, _vouched(twin, told)
    for seen in side.files[first : last + 1]:
        if _is_another(seen, twin, told):
            return seen.number
    return len(side.files)


def _is_another(seen: SeenFile, twin: SeenSide, told: Mapping[int, Told]) -> bool:
    """Whether it has another name, or another length, as the same object has that was cut short."""
    name = _name_on(twin, seen.number)
    if name is not None and seen.name is not None and name != (seen.name.kind, seen.name.id):
        return True
    records = _records_on(twin, seen.number, told)
    return records is not None and records != seen.records


def _vouched(side: SeenSide, told: Mapping[int, Told]) -> int:
    """The last tape file of a side that its journal knows, that is what a catalog tells, or that is a whole catalog."""
    named = {seen.number: (seen.name, seen.records) for seen in side.files if seen.name is not None}
    of_told = (number for number, item in told.items() if number in named and _is_told(*named[number], side, item))
    catalogs = (number for number in side.whole if number in named and named[number][0].kind == "catalog")
    return max((0, len(side.known) - 1, *of_told, *catalogs))


def _is_told(name: TapeFileName, records: int, side: SeenSide, item: Told) -> bool:
    return name.id == item.id and records * side.record_bytes == item.size_bytes


def _records_on(side: SeenSide, number: int, told: Mapping[int, Told]) -> int | None:
    """How many records whoever knows the place of a side says that it has; None when nobody tells."""
    if number < len(side.known):
        known = side.known[number]
        return None if known.kind == LOST else known.size_bytes // side.record_bytes
    if number in told:
        return told[number].size_bytes // side.record_bytes
    return side.files[number].records if number < len(side.files) and number in side.whole else None


def _name_on(side: SeenSide, number: int) -> tuple[str, uuid.UUID] | None:
    """What a side has in a place, as its journal says, or the tape; None when neither tells."""
    if number < len(side.known):
        known = side.known[number]
        return None if known.kind == LOST else (known.kind, known.id)
    name = side.files[number].name if number < len(side.files) else None
    return None if name is None else (name.kind, name.id)


def agreed_end(sides: Sequence[SeenSide], told: Mapping[int, Told]) -> int:
    """The number of the first tape file, behind all that anybody vouches for, which the two sides begin differently.

    It was never committed, as a commit has both sides: a run was killed when one side had come further.
    """
    vouched = max((*told, *(_vouched(side, told) for side in sides), 0))
    lengths = [len(side.files) for side in sides]
    for number in range(vouched + 1, min(lengths) if len(lengths) > 1 else 0):
        names = {side.files[number].name for side in sides} - {None}
        if len(names) > 1:
            return number
    return max(lengths)


def piece_together(side: SeenSide, twin: SeenSide | None, told: Mapping[int, Told]) -> list[Committed]:
    """The committed tape files of a side. Raises `IntegrityError` when what is known contradicts what was seen."""
    if len(side.files) < len(side.known):
        raise _contradiction(
            side, len(side.files), f"{len(side.known)} tape files, as its journal says", f"{len(side.files)} tape files"
        )
    files = believed([side, twin] if twin is not None else [side], told)[0].files
    pieces = [_piece(side, twin, told, seen) for seen in files]
    while len(pieces) > len(side.known) and _is_nobodys(side, pieces[-1]):
        pieces.pop()
    return pieces


def _is_nobodys(side: SeenSide, last: Committed) -> bool:
    """At the end of the tape: what a killed run left. A catalog that was written to its end is not, however damaged."""
    return last.kind == LOST or (last.blake3 == UNKNOWN and last.tape_file in side.unfinished)


def _piece(side: SeenSide, twin: SeenSide | None, told: Mapping[int, Told], seen: SeenFile) -> Committed:
    candidates = list(_candidates(side, twin, told, seen))
    if not candidates and seen.name is not None and seen.name.kind == "catalog":
        return _as(side, seen, "catalog", seen.name.id, UNKNOWN)
    if not candidates:
        return _as(side, seen, LOST, uuid.UUID(int=0), UNKNOWN)
    for other in candidates[1:]:
        if other != candidates[0]:
            raise _contradiction(side, seen.number, _show(candidates[0]), _show(other))
    found = candidates[0]
    placed = _as(side, seen, found.kind, found.id, found.blake3)
    named = seen.name is None or (seen.name.kind, seen.name.id) == (found.kind, found.id) or found.kind == LOST
    if placed != found or not named:
        name = "" if seen.name is None else f"{seen.name.kind} {seen.name.id}, "
        size = f"{placed.size_bytes} bytes at block {placed.first_block}"
        raise _contradiction(side, seen.number, _show(found), name + size)
    return found


def _candidates(side: SeenSide, twin: SeenSide | None, told: Mapping[int, Told], seen: SeenFile) -> list[Committed]:
    """What is said of the tape file by those who can know, in the order of their authority."""
    found: list[Committed] = []
    number = seen.number
    if number < len(side.known):
        found.append(side.known[number])
        if found[0].kind == LOST:
            return found
    if twin is not None and 0 < number < len(twin.known) and twin.known[number].kind != LOST:
        there = twin.known[number]
        shift = _shift(side, {item.tape_file: item.first_block for item in twin.known})
        found.append(replace(there, first_block=there.first_block + shift))
    if number in told:
        item = told[number]
        found.append(
            Committed(
                tape_file=number,
                kind="object",
                id=item.id,
                first_block=item.first_block + _shift(side, {n: one.first_block for n, one in told.items()}),
                size_bytes=item.size_bytes,
                blake3=item.blake3,
                record_bytes=side.record_bytes,
            )
        )
    if not found and number == 0 and seen.name is not None:
        return [_as(side, seen, seen.name.kind, seen.name.id, side.whole.get(0, UNKNOWN))]
    if not found:
        found += _read_whole(side, twin, seen)
    return found


def _shift(side: SeenSide, first_blocks: Mapping[int, int]) -> int:
    """By how many blocks this side is ahead of another one that tells its own: their labels may differ in length.

    It is the same for all tape files behind the label, so a single one that is told elsewhere is a contradiction.
    """
    number = min((item.number for item in side.files if item.number > 0 and item.number in first_blocks), default=None)
    return 0 if number is None else side.files[number].first_block - first_blocks[number]


def _read_whole(side: SeenSide, twin: SeenSide | None, seen: SeenFile) -> list[Committed]:
    """From readings of this tape file, of the twin's, and of the catalog's other copy: what most of them found.

    Damage to the zeros between members changes the digest of the whole, and no digest of a member.
    """
    found = [
        _as(side, seen, item.name.kind, item.name.id, other.whole[item.number])
        for other in (side, twin)
        for item in (other.files if other is not None else ())
        if other is not None and item.name is not None and item.number in other.whole and _is_same_file(item, seen)
    ]
    return [Counter(found).most_common(1)[0][0]] if found else []


def _is_same_file(item: SeenFile, seen: SeenFile) -> bool:
    """Whether a tape file that was read must hold the same bytes: it is the same one, or the same session's catalog."""
    if item.number == 0 or item.records != seen.records or item.name is None:
        return False
    is_copy = item.name.kind == "catalog" and item.name == seen.name
    return is_copy or (item.number == seen.number and seen.name in (None, item.name))


def _as(side: SeenSide, seen: SeenFile, kind: str, own_id: uuid.UUID, blake3: bytes) -> Committed:
    return Committed(
        tape_file=seen.number,
        kind=kind,
        id=own_id,
        first_block=seen.first_block,
        size_bytes=seen.records * side.record_bytes,
        blake3=blake3,
        record_bytes=side.record_bytes,
    )


def _show(item: Committed) -> str:
    place = f"{item.size_bytes} bytes at block {item.first_block}"
    return f"{item.kind} {item.id}, {place}, BLAKE3 {item.blake3.hex()}"


def _contradiction(side: SeenSide, number: int, expected: str, found: str) -> IntegrityError:
    return IntegrityError(
        "a tape and what is known of it contradict each other",
        place=f"{side.barcode} tape file {number}",
        expected=expected,
        found=found,
        hint=f"write nothing to {side.barcode}, and keep its journal and its twin",
    )
