"""Which bytes of a file are there: disjoint ranges, in order, that grow together.

Pure. In order each addition is O(1); in any order it is O(log n) to find and one move of memory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Half-open ranges of bytes; neighbours are one."""

    __slots__ = ("_edges", "length_bytes")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._edges: list[int] = []
        self.length_bytes = 0
        """How many bytes are there."""
        for begin, end in ranges:
            self.add(begin, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._edges[::2], self._edges[1::2], strict=True)))

    def __len__(self) -> int:
        return len(self._edges) // 2

    @property
    def end_bytes(self) -> int:
        """Behind the last byte; 0 when there is none."""
        return self._edges[-1] if self._edges else 0

    def add(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Add what lies between; returns the parts of it that were not there before, in order."""
        if not 0 <= begin < end:
            raise ValueError(f"not a range of bytes: {begin} to {end}")
        edges = self._edges
        if not edges or begin >= edges[-1]:  # as bytes come that were sent in order
            if edges and begin == edges[-1]:
                edges[-1] = end
            else:
                edges += (begin, end)
            self.length_bytes += end - begin
            return [(begin, end)]
        new = self.missing(begin, end)
        self.length_bytes += sum(last - first for first, last in new)
        first, last = bisect_left(edges, begin), bisect_right(edges, end)
        # an edge with an even number begins a range: what begins or ends outside of all ranges is a new edge
        edges[first:last] = ([] if first % 2 else [begin]) + ([] if last % 2 else [end])
        return new

    def missing(self, begin: int, end: int) -> list[tuple[int, int]]:
        """The parts between `begin` and `end` that are not there, in order."""
        edges = self._edges
        first = bisect_right(edges, begin)
        found: list[tuple[int, int]] = []
        if first % 2:  # `begin` lies in a range
            begin = edges[first]
            first += 1
        while begin < end:
            stop = edges[first] if first < len(edges) else end
            if begin < stop:
                found.append((begin, min(stop, end)))
            begin = edges[first + 1] if first + 1 < len(edges) else end
            first += 2
        return found
