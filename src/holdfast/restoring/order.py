"""In which order tapes are read, and about how long that takes. Pure.

Pairs come in the order in which they were made, and after them cartridges in whose place another one is; within a
pair, files come in tape order, so each tape is passed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

MOVE_S = 20.0
"""A cartridge's way between slot and drive: 10 to 30 s (FNAL, guide to tape users)."""

LOAD_S = 15.0
"""From the cartridge in the drive to ready at its begin: LTO-8 (IBM TS2290)."""

UNLOAD_S = 24.0
"""From the begin of the tape to ejected: LTO-8 (IBM TS2290)."""

REWIND_S = 59.0
"""From anywhere to the begin, on average: LTO-8 (IBM TS2290)."""

LOCATE_S = 59.0
"""From one place of the tape to any other, on average: LTO-8 from its begin (IBM TS2290)."""

REPOSITION_S = 3.0
"""Stop, go back, take a run: 2.5 s (HP LTO-6) to 3 s (FNAL). No skip is quicker."""

STREAM_BYTES_S = 360e6
"""Reading without a stop, uncompressed: LTO-8, full height."""

MOUNT_S = MOVE_S + LOAD_S + UNLOAD_S + MOVE_S
"""A cartridge in and out again, those of a pair one after the other; without the way back to the begin."""


class Recall(NamedTuple):
    """One file that must come from tape, by its first choice; sorted, recalls are in reading order.

    `turn` is the number of the cartridges that are mounted together (`ways.Turn`); `row` is that of the version in the catalog; `side` is 0 for A.
    Numbers only, as there may be millions.
    """

    turn: int
    tape_file: int
    data_offset: int
    row: int
    side: int
    size_bytes: int


def passes(recalls: Iterable[Recall]) -> Iterator[tuple[int, list[Recall]]]:
    """The turns to take, in order, each with what is read in it, in order."""
    for turn, items in groupby(sorted(recalls), key=lambda item: item.turn):
        yield turn, list(items)


def reading_s(extents: Iterable[tuple[int, int]]) -> float:
    """Seconds to read pieces of one tape, each a begin and a length in bytes of the tape, in this order.

    From the begin of the tape, and back to it. A gap is passed over as quickly as a drive locates, or is read over.
    """
    seconds, at = LOCATE_S, None
    for begin, size in extents:
        if at is not None and begin != at:
            seconds += min(LOCATE_S, REPOSITION_S + abs(begin - at) / STREAM_BYTES_S)
        seconds += size / STREAM_BYTES_S
        at = begin + size
    return 0.0 if at is None else seconds + REWIND_S


def ranges(numbers: Iterable[int]) -> str:
    """Numbers for people: `1-3, 7`."""
    parts: list[str] = []
    for _, run in groupby(enumerate(sorted(set(numbers))), key=lambda item: item[1] - item[0]):
        members = [number for _, number in run]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ", ".join(parts)
