"""Whatever the drives do, night after night: nothing committed is lost, nothing counts as proven that is not.

The seed is in the test's name; HOLDFAST_NIGHTS_SEED adds another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.crash.nights import Nights

from holdfast.testing.tapefaults import Trouble

Count = Callable[[str, object], None]

PASSING = {
    Trouble.WRITE_ERROR: 0.012,
    Trouble.FAILED_BUT_DONE: 0.008,
    Trouble.NOT_DONE: 0.008,
    Trouble.DRIVE_DIES: 0.002,
    Trouble.LOAD_FAILS: 0.04,
    Trouble.STOPPED: 0.005,
}
"""Of the operations that it can befall, the part that meets a trouble. A night's run has about a hundred."""

LASTING = {Trouble.READ_ERROR: 0.002, Trouble.LASTING_WRITE_ERROR: 0.006}
"""What stays with a cartridge."""

ENDING = {Trouble.EARLY_WARNING: 0.005, Trouble.END_OF_MEDIUM: 0.005}
"""Cartridges that end before they should."""

SEEDS = [1, 2, 3, 4, *([int(os.environ["HOLDFAST_NIGHTS_SEED"])] if "HOLDFAST_NIGHTS_SEED" in os.environ else [])]
NIGHTS = 50
"""For each seed."""


def live(folder: Path, seed: int, nights: int, count: Count, rates: Mapping[Trouble, float]) -> Nights:
    life = Nights(folder, seed, rates)
    print(f"seed {seed}")
    life.live(nights)
    life.end()
    hours = life.clock.now_s / 3600
    print(f"{nights} nights, {life.runs}, {life.happened()}, {hours:.0f} h on the drives' clock")
    count("nights", nights)
    count("nights' runs", life.runs.total())
    count("nights' troubles", len(life.troubles.happened))
    count("nights' virtual hours", round(hours))
    return life


@pytest.mark.timeout(300)
def test_two_weeks_of_nights(tmp_path: Path, record_property: Count) -> None:
    life = live(tmp_path, 7, 15, record_property, PASSING)
    assert len(life.happened()) >= 3
    assert life.runs["exit code 0"] >= 3


@pytest.mark.crash
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
def test_months_of_nights(tmp_path: Path, share: float, seed: int, record_property: Count) -> None:
    nights = max(10, round(NIGHTS * share))
    life = live(tmp_path, seed, nights, record_property, PASSING)
    assert len(life.troubles.happened) >= nights // 3
    if share == 1.0:
        assert life.happened().keys() == PASSING.keys()


@pytest.mark.crash
@pytest.mark.timeout(1200)
def test_nights_with_cartridges_that_fail(tmp_path: Path, share: float, record_property: Count) -> None:
    live(tmp_path, 5, max(10, round(40 * share)), record_property, PASSING | LASTING)


@pytest.mark.crash
@pytest.mark.timeout(1200)
def test_nights_with_cartridges_that_end_early(tmp_path: Path, record_property: Count) -> None:
    live(tmp_path, 6, 40, record_property, PASSING | ENDING)
