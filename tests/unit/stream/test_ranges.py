"""Ranges against a set of every single byte."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.stream.ranges import Ranges

spans = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda item: (item[0], item[0] + item[1]))


def single(ranges: list[tuple[int, int]]) -> list[int]:
    return [number for begin, end in ranges for number in range(begin, end)]


@given(st.lists(spans, max_size=30), spans)
def test_ranges_are_the_bytes_that_were_added(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    ranges, model = Ranges(), set[int]()
    for begin, end in added:
        assert single(ranges.add(begin, end)) == [number for number in range(begin, end) if number not in model]
        model.update(range(begin, end))
        assert single(list(ranges)) == sorted(model)
        edges = [edge for item in ranges for edge in item]
        assert edges == sorted(set(edges)), "neighbours are one"
        assert (ranges.length_bytes, ranges.end_bytes) == (len(model), max(model) + 1)
    assert single(ranges.missing(*asked)) == [number for number in range(*asked) if number not in model]
    assert list(Ranges(ranges)) == list(ranges)


@pytest.mark.parametrize("wrong", [(5, 5), (7, 5), (-1, 5)])
def test_what_is_no_range_is_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not a range"):
        Ranges().add(*wrong)


def test_law_9_many_chunks_in_order_are_one_range_at_a_flat_cost() -> None:
    ranges, chunk, times = Ranges(), 524_288, list[float]()
    for part in range(10):
        begun = time.process_time()
        for number in range(part * 10_000, (part + 1) * 10_000):
            ranges.add(number * chunk, (number + 1) * chunk)
        times.append(time.process_time() - begun)
        assert len(ranges) == 1
    assert min(times[5:]) < 3 * max(min(times[:5]), 0.001)
