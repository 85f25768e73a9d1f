"""The clock of a drive, held against the figures that it is made from and against sums done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.tape.drive import BEGIN_OF_TAPE, VirtualDrive
from holdfast.tape.drive.timing import GENERATIONS, LTO_6, LTO_9, MB, DriveTimer, Generation
from holdfast.tape.drive.virtual import make_cartridge
from holdfast.testing.conformance.drive import MARK, read_on, write

RECORD = 4 * MB
HOUR_S = 3600

generations = st.sampled_from(list(GENERATIONS.values()))


def fed(timer: DriveTimer, size_bytes: float, *, begin: float = 0) -> float:
    """Write so much; the seconds until it is on the tape."""
    before = timer.now_s
    for number in range(round(size_bytes / RECORD)):
        timer.wrote(round(begin) + number * RECORD, RECORD)
    timer.marked(synchronous=True)
    return timer.now_s - before


@pytest.mark.parametrize("item", GENERATIONS.values(), ids=lambda item: item.name)
def test_a_whole_tape_takes_its_capacity_by_the_native_rate_and_the_turns_of_the_wraps(item: Generation) -> None:
    timer = DriveTimer(item, scale=1000)
    took = fed(timer, item.capacity_bytes / 1000)
    turns = timer.counts.wrap_turns
    assert item.wraps - 1 <= turns <= item.wraps
    expected = item.capacity_bytes / item.native_bytes_s + turns * item.wrap_turn_s + item.reposition_s
    assert took == pytest.approx(expected, rel=1e-3)
    assert timer.counts.back_hitches == 0


@pytest.mark.parametrize("megabytes_s", [60, 75.5, 100, 133, 160])
def test_a_host_within_the_speeds_of_the_drive_is_followed_without_a_back_hitch(megabytes_s: float) -> None:
    timer = DriveTimer(LTO_6, host_bytes_s=megabytes_s * MB)
    took = fed(timer, 40_000 * MB)
    assert timer.counts.back_hitches == 0
    assert took == pytest.approx(40_000 / megabytes_s, rel=0.05)


@pytest.mark.parametrize("megabytes_s", [10, 20, 30, 45])
def test_a_slower_host_costs_back_hitches_as_often_as_the_buffer_fills_and_runs_empty(megabytes_s: float) -> None:
    timer = DriveTimer(LTO_6, host_bytes_s=megabytes_s * MB)
    took = fed(timer, megabytes_s * MB * 3 * HOUR_S)
    rate, lowest = megabytes_s * MB, LTO_6.lowest_bytes_s
    expected = took * rate * (1 - rate / lowest) / LTO_6.buffer_bytes
    assert timer.counts.back_hitches == pytest.approx(expected, rel=0.05, abs=2)
    assert took == pytest.approx(3 * HOUR_S, rel=0.02)  # the host is never held up


def test_a_synchronous_mark_empties_the_buffer_and_stops_the_tape_and_an_immediate_one_does_not() -> None:
    waited, immediate = DriveTimer(LTO_6), DriveTimer(LTO_6)
    for timer, synchronous in ((waited, True), (immediate, False)):
        for number in range(100):
            timer.wrote(number * 100 * MB, 100 * MB)
            timer.marked(synchronous=synchronous)
    assert waited.now_s == pytest.approx(100 * (100 / 160 + 3), rel=0.01)
    assert immediate.now_s == pytest.approx((10_000 * MB - LTO_6.buffer_bytes) / (160 * MB), rel=0.01)
    assert waited.counts.synchronous_marks == 100
    assert (waited.counts.back_hitches, immediate.counts.back_hitches) == (0, 0)


def test_reading_runs_at_the_native_rate_and_a_slow_reader_costs_back_hitches() -> None:
    quick, slow = DriveTimer(LTO_6), DriveTimer(LTO_6, host_bytes_s=20 * MB)
    for timer in (quick, slow):
        for number in range(1000):
            timer.read(number * 8 * MB, 8 * MB)
    assert quick.now_s == pytest.approx(8000 / 160, rel=0.01)
    assert quick.counts.back_hitches == 0
    assert slow.now_s == pytest.approx(8000 / 20, rel=0.02)
    assert slow.counts.back_hitches == pytest.approx(400 * 20e6 * (1 - 20 / 54) / LTO_6.buffer_bytes, abs=2)


def test_loading_and_unloading_as_the_manual_says() -> None:
    timer = DriveTimer(LTO_9)
    timer.loaded(is_new=True)
    assert timer.now_s == 20 + 16 + 70 * 60
    timer.unloaded()
    again = timer.now_s
    timer.loaded(is_new=False)
    assert timer.now_s - again == 20 + 16
    assert timer.counts.loads == 2


def test_unloading_puts_the_buffer_on_the_tape_and_rewinds() -> None:
    timer = DriveTimer(LTO_6)
    at = round(LTO_6.wrap_bytes * 0.5)
    timer.wrote(at, 160 * MB)
    timer.unloaded()
    far = LTO_6.rewind_s(at + 160 * MB)
    assert timer.now_s == pytest.approx(1 + far + 17 + 20)


@given(generations, st.floats(0, 1), st.floats(0, 1))
def test_locating_takes_no_longer_than_from_end_to_end_and_across_and_nothing_costs_nothing(
    item: Generation, one: float, other: float
) -> None:
    begin, end = one * item.capacity_bytes, other * item.capacity_bytes
    assert 0 <= item.place_of(begin) <= 1
    assert 0.5 <= item.locate_s(begin, end) <= 0.5 + item.end_to_end_s + 0.3 + 1.5 + 3 * 0.8 + 2.5
    assert item.locate_s(begin, begin) == 0.5


def test_the_mean_way_from_the_begin_is_about_what_the_maker_says() -> None:
    """IBM: 62 s on average from the begin of an LTO-6 cartridge; HP: 99 s at most, its own drive's turns included."""
    ways = [LTO_6.locate_s(0, LTO_6.capacity_bytes * (number + 0.5) / 997) for number in range(997)]
    assert sum(ways) / len(ways) == pytest.approx(62, rel=0.15)
    assert max(ways) < 108


def test_the_next_wrap_is_near_its_end_and_far_from_its_begin() -> None:
    wrap = LTO_6.wrap_bytes
    assert LTO_6.place_of(wrap * 0.999) == pytest.approx(LTO_6.place_of(wrap * 1.001), abs=0.01)
    assert LTO_6.locate_s(0, wrap * 1.99) < LTO_6.locate_s(0, wrap * 0.99)


@given(generations, st.floats(1 * MB, 1000 * MB))
def test_the_speeds_of_a_drive_enclose_the_host_as_far_as_they_reach(item: Generation, host_bytes_s: float) -> None:
    slow, quick = item.speeds_around(host_bytes_s)
    assert item.lowest_bytes_s <= slow <= quick <= item.native_bytes_s + 1
    if item.lowest_bytes_s <= host_bytes_s <= item.native_bytes_s:
        assert slow - 1 <= host_bytes_s <= quick + 1


@given(
    st.sampled_from([None, 10 * MB, 100 * MB, 500 * MB]),
    st.lists(
        st.tuples(
            st.sampled_from(["write", "read", "mark", "sync", "move", "wait", "reload"]), st.integers(0, 2 * 10**9)
        ),
        max_size=12,
    ),
)
def test_time_never_goes_back_and_every_second_is_accounted_for(
    host_bytes_s: float | None, steps: list[tuple[str, int]]
) -> None:
    timer = DriveTimer(LTO_6, host_bytes_s=host_bytes_s)
    timer.loaded(is_new=True)
    at = 0
    for kind, amount in steps:
        before = timer.now_s
        if kind in ("write", "read"):
            (timer.wrote if kind == "write" else timer.read)(at, amount + 1)
            at += amount + 1
        elif kind in ("mark", "sync"):
            timer.marked(synchronous=kind == "sync")
        elif kind == "move":
            timer.moved(at := amount)
        elif kind == "wait":
            timer.wait_until(timer.now_s + amount / 10**7)
        else:
            timer.unloaded()
            timer.loaded(is_new=False)
            at = 0
        assert timer.now_s >= before
    assert sum(timer.counts.seconds.values()) == pytest.approx(timer.now_s)


def test_a_virtual_drive_tells_its_timer_of_everything(tmp_path: Path) -> None:
    make_cartridge(tmp_path / "HF0001L6", "HF0001L6", 2**30)
    timer = DriveTimer(LTO_6)
    drive = VirtualDrive("VDRIVE-0", tmp_path / "HF0001L6", timer)
    write(drive, [b"a" * 1000, b"b" * 500, MARK, b"c" * 300, MARK], synchronous=True)
    drive.locate(BEGIN_OF_TAPE)
    assert read_on(drive, 1000) == [b"a" * 1000, b"b" * 500, MARK, b"c" * 300, MARK]
    drive.rewind()
    drive.space_file_marks(1)
    drive.close()
    counts = timer.counts
    assert (counts.written_bytes, counts.read_bytes, counts.loads) == (1800, 1800, 1)
    assert counts.synchronous_marks == 2
    assert counts.moves == 3
    assert all(counts.seconds[kind] > 0 for kind in ("load", "unload", "move", "mark"))


def test_a_drive_that_is_let_go_of_has_not_been_unloaded(tmp_path: Path) -> None:
    make_cartridge(tmp_path / "HF0001L6", "HF0001L6", 2**30)
    timer = DriveTimer(LTO_6)
    drive = VirtualDrive("VDRIVE-0", tmp_path / "HF0001L6", timer)
    drive.write_record(memoryview(b"a"))
    drive.abandon()
    drive.close()
    assert timer.counts.seconds["unload"] == 0
