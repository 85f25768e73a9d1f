"""Killed, or the power cut, at every operation of the drives: running again ends as an undisturbed run does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.laws import explain
from tests.crash.runs import spread
from tests.crash.tapescenes import Cut, TapeScene, check_cut, cuts_of, tape_scene_of

PARTS = 8

GetTapeScene = Callable[[str], TapeScene]
Count = Callable[[str, object], None]


@pytest.fixture(scope="session")
def get_tape_scene(tmp_path_factory: pytest.TempPathFactory) -> GetTapeScene:
    base = tmp_path_factory.getbasetemp()
    shared: Path = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return lambda name: tape_scene_of(name, shared / "tape-scenes")


def check_cuts(scene: TapeScene, cuts: list[Cut], folder: Path) -> int:
    """Check each; how many there were. Raises what was wrong with the first few."""
    wrong: list[str] = []
    for cut in cuts:
        try:
            check_cut(scene, cut, folder / str(cut.number))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told with the cut it came from
            wrong.append(f"{scene.scene.name}, {cut}:\n    {explain(error)}\n    kept in {folder / str(cut.number)}")
            if len(wrong) == 5:
                break
    assert not wrong, "\n".join(wrong)
    return len(cuts)


def test_law_6_a_few_stops_of_a_small_dump(get_tape_scene: GetTapeScene, tmp_path: Path) -> None:
    scene = get_tape_scene("tape_one_file")
    assert check_cuts(scene, spread(cuts_of(scene), 8), tmp_path) == 8


@pytest.mark.crash
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", ["tape_one_file", "tape_first", "tape_appended", "tape_full"])
def test_law_6_every_stop_at_a_drive(
    get_tape_scene: GetTapeScene, share: float, name: str, part: int, tmp_path: Path, record_property: Count
) -> None:
    scene = get_tape_scene(name)
    cuts = cuts_of(scene)
    chosen = spread(cuts, max(PARTS, round(len(cuts) * share)))
    count = check_cuts(scene, chosen[part::PARTS], tmp_path)
    record_property("stops at drives", count)
