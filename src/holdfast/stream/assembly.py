"""When is a version whole, and what is missing: the records of many versions, in any order, each once or more.

Pure: told of one record after the other, it says what to do with it, and does nothing. It knows where bytes belong and
never holds any. The shell makes new bytes durable, then tells the catalog, and forgets the version here when it is settled.

    BEGIN, DATA, END in any order -> WHOLE when END is there and every byte before its size
    END alone, and bytes lacking  -> `missing` says which
    ABORT, or facts that contradict each other -> given up, and whatever comes later with it
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from holdfast.stream.ranges import Ranges
from holdfast.stream.records import Abort, Begin, Data, End, Poison, Record
from holdfast.values import FileVersion, Kind, Source

Range = tuple[int, int]
RANGES_LIMIT = 500_000
"""So many pieces of one version that do not touch each other are no file on its way, but somebody's mistake (law 9)."""


class State(Enum):
    """What is known of a version that is not settled."""

    OPEN = "open"  # its END has not come
    LACKING = "lacking"  # its END has come, and bytes are missing
    UNNAMED = "unnamed"  # all bytes and its END have come, and its BEGIN has not
    WHOLE = "whole"


@dataclass(slots=True)
class Partial:
    """A version on its way: what came of it."""

    begin: Begin | None = None
    end: End | None = None
    ranges: Ranges = field(default_factory=Ranges)

    @property
    def state(self) -> State:
        if self.end is None:
            return State.OPEN
        if self.ranges.length_bytes < _content_bytes(self.end.version):
            return State.LACKING
        return State.UNNAMED if self.begin is None else State.WHOLE

    @property
    def missing(self) -> list[Range]:
        """The bytes that have not come and should have; known only when the END has."""
        return [] if self.end is None else self.ranges.missing(0, _content_bytes(self.end.version))

    @property
    def source(self) -> Source | None:
        return None if self.begin is None else self.begin.source


def _content_bytes(version: FileVersion) -> int:
    return version.size_bytes if version.kind is Kind.FILE and version.hard_link_of is None else 0


@dataclass(frozen=True, slots=True)
class Step:
    """What a record comes to: which bytes of the version are new with it, and how the version stands now.

    `new`: ranges in the file; the same bytes lie in the record from the record's own offset on. Empty for a repetition.
    """

    state: State
    new: tuple[Range, ...] = ()


class Assembly:
    """All versions that are on their way. Not for two threads at once."""

    def __init__(self) -> None:
        self._partials: dict[uuid.UUID, Partial] = {}

    def __len__(self) -> int:
        return len(self._partials)

    def __contains__(self, version_id: uuid.UUID) -> bool:
        return version_id in self._partials

    def __getitem__(self, version_id: uuid.UUID) -> Partial:
        return self._partials[version_id]

    def ids(self) -> tuple[uuid.UUID, ...]:
        """The versions on their way, those that began first in front."""
        return tuple(self._partials)

    def resume(self, version_id: uuid.UUID, begin: Begin | None, end: End | None, ranges: Iterable[Range]) -> None:
        """A version of which an earlier run has made so much durable."""
        self._partials[version_id] = Partial(begin, end, Ranges(ranges))

    def forget(self, version_id: uuid.UUID) -> None:
        """The version is settled: kept, or given up. The shell must pass over whatever comes of it later."""
        self._partials.pop(version_id, None)

    def feed(self, record: Record) -> Step | None:
        """What a record comes to; None: the sender gives the version up. Raises `Poison`, and then nothing has changed.

        What is poison of a version that is on its way leaves it as it is: the good record may come yet.
        """
        if isinstance(record, Abort):
            return None
        partial = self._partials.get(record.version_id) or Partial()
        if isinstance(record, Data):
            step = _feed_data(partial, record)
        elif isinstance(record, Begin):
            step = _feed_begin(partial, record)
        else:
            step = _feed_end(partial, record)
        self._partials[record.version_id] = partial
        return step


def _feed_begin(partial: Partial, record: Begin) -> Step:
    known = partial.begin
    if known is not None and (known.version, known.source) != (record.version, record.source):
        raise Poison("another BEGIN of the same version says something else", record.version_id)
    if partial.end is not None:
        _check_same_file(record, partial.end)
    partial.begin = record  # of two runs of the sender the later one counts on
    return Step(partial.state)


def _feed_data(partial: Partial, record: Data) -> Step:
    if partial.end is not None and record.end_bytes > _content_bytes(partial.end.version):
        raise Poison(f"bytes behind the end of the file: up to {record.end_bytes}", record.version_id)
    if len(partial.ranges) >= RANGES_LIMIT and record.offset_bytes > partial.ranges.end_bytes:
        raise Poison(f"more than {RANGES_LIMIT} pieces that do not touch each other", record.version_id)
    new = partial.ranges.add(record.offset_bytes, record.end_bytes)
    return Step(partial.state, tuple(new))


def _feed_end(partial: Partial, record: End) -> Step:
    if partial.end is not None and partial.end != record:
        raise Poison("another END of the same version says something else", record.version_id)
    if partial.ranges.end_bytes > _content_bytes(record.version):
        raise Poison(f"an END at {record.version.size_bytes}, and bytes beyond it came", record.version_id)
    if partial.begin is not None:
        _check_same_file(partial.begin, record)
    partial.end = record
    return Step(partial.state)


def _check_same_file(begin: Begin, end: End) -> None:
    first, last = begin.version, end.version
    if (first.source, first.path, first.kind) != (last.source, last.path, last.kind):
        raise Poison("BEGIN and END of a version name two files", last.id)
