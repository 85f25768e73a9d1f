"""Killed, run again, and then the power is cut: what the second run said must not rest on what was never synced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.joined import kill_points, killed_and_run_again, states_after
from tests.crash.runs import spread
from tests.crash.scenes import Scene
from tests.crash.test_states import check_states

from holdfast.testing import Sync

PARTS = 4
BETWEEN = 1
"""Besides the cuts just after something was said, so many are taken between."""

GetScene = Callable[[str], Scene]
Count = Callable[[str, object], None]


def check_joined(scene: Scene, prefix: int, folder: Path) -> int:
    recording = killed_and_run_again(scene, prefix, folder / "first")
    shutil.rmtree(folder / "first")
    return check_states(scene, enumerate(states_after(recording, prefix, BETWEEN)), folder / "states")


def test_law_1_a_commit_that_a_killed_run_did_not_sync_is_made_durable_before_it_is_believed(
    get_scene: GetScene, tmp_path: Path
) -> None:
    scene = get_scene("night_one")
    journal = "vault/journals/HF0002L8.jsonl"
    syncs = [n for n, event in enumerate(scene.recording.events) if isinstance(event, Sync) and event.path == journal]
    assert check_joined(scene, syncs[-1], tmp_path) > 0


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", ["night_one", "in_place", "fresh"])
def test_law_1_what_a_run_says_after_a_killed_one_survives_a_power_cut(
    get_scene: GetScene, share: float, name: str, part: int, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene(name)
    points = kill_points(scene.recording)
    chosen = spread(points, max(2, round(len(points) * share)))[part::PARTS]
    count = sum(check_joined(scene, prefix, tmp_path / str(prefix)) for prefix in chosen)
    record_property("states after a kill, a run and a power cut", count)
