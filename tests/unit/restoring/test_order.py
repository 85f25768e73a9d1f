"""The order of a restore, and about how long it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.restoring.order import LOCATE_S, REWIND_S, STREAM_BYTES_S, Recall, passes, ranges, reading_s

GB = 10**9

recalls = st.lists(
    st.builds(Recall, *(st.integers(0, most) for most in (3, 5, 10**6, 10**6)), st.integers(0, 1), st.integers(1, GB))
)


@given(recalls)
def test_each_turn_is_taken_once_and_passed_once(items: list[Recall]) -> None:
    found = list(passes(items))
    assert [turn for turn, _ in found] == sorted({item.turn for item in items})
    assert sorted(item for _, part in found for item in part) == sorted(items)
    for turn, part in found:
        assert all(item.turn == turn for item in part)
        places = [(item.tape_file, item.data_offset) for item in part]
        assert places == sorted(places)


def test_nothing_to_read_takes_no_time() -> None:
    assert reading_s([]) == 0


def test_one_long_piece_takes_a_locate_the_stream_and_the_way_back() -> None:
    assert reading_s([(5 * GB, 360 * GB)]) == pytest.approx(LOCATE_S + 1000 + REWIND_S)


def test_pieces_that_follow_on_each_other_are_one() -> None:
    assert reading_s([(0, GB), (GB, GB)]) == pytest.approx(reading_s([(0, 2 * GB)]))


def test_a_small_gap_costs_less_than_a_locate_and_no_gap_costs_more() -> None:
    joined = reading_s([(0, 2 * GB)])
    assert joined < reading_s([(0, GB), (GB + 10**6, GB)]) < joined + LOCATE_S / 2
    assert reading_s([(0, GB), (9000 * GB, GB)]) == pytest.approx(joined + LOCATE_S)
    assert reading_s([(9000 * GB, GB), (0, GB)]) == pytest.approx(joined + LOCATE_S)


@given(st.lists(st.tuples(st.integers(0, 12_000 * GB), st.integers(1, GB)), min_size=1))
def test_no_order_is_quicker_than_the_stream_or_slower_than_a_locate_each(pieces: list[tuple[int, int]]) -> None:
    stream = sum(size for _, size in pieces) / STREAM_BYTES_S
    assert stream < reading_s(pieces) <= stream + LOCATE_S * len(pieces) + REWIND_S + 1e-6


def test_ranges_for_people() -> None:
    assert ranges([]) == ""
    assert ranges([7]) == "7"
    assert ranges([1, 2, 3, 7, 9, 10, 9]) == "1-3, 7, 9-10"
