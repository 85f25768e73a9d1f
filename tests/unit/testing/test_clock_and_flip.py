from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.testing import Clock, FakeClock, flip_bit


def test_the_clock_moves_only_when_told() -> None:
    clock = FakeClock(start_ns=1_000)
    used: Clock = clock
    assert (used.now_ns(), used.monotonic_s()) == (1_000, 0.0)
    clock.advance(1.5)
    used.sleep(0.25)
    assert (used.now_ns(), used.monotonic_s()) == (1_750_001_000, 1.75)
    assert clock.slept_s == [0.25]


def test_the_wall_clock_may_be_set_back_the_monotonic_one_not() -> None:
    clock = FakeClock()
    clock.advance(10)
    clock.set_now_ns(5)
    assert (clock.now_ns(), clock.monotonic_s()) == (5, 10.0)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


def test_one_bit_turns_and_turns_back_unnoticed_by_stat(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"\x00\x10\x00")
    file.chmod(0o444)
    before = file.stat()
    flip_bit(file, 1, bit=7)
    assert file.read_bytes() == b"\x00\x90\x00"
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_mode) == (before.st_size, before.st_mtime_ns, before.st_mode)
    flip_bit(file, 1, bit=7)
    assert file.read_bytes() == b"\x00\x10\x00"


@pytest.mark.parametrize(("offset", "bit"), [(3, 0), (-1, 0), (0, 8), (0, -1)])
def test_a_bit_that_is_not_there(offset: int, bit: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3))
    with pytest.raises(ValueError, match=r"a byte has bits|there is none"):
        flip_bit(tmp_path / "a", offset, bit)
