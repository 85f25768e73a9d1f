"""The real command, really killed or interrupted with Ctrl-C, and run again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.runs import check_cut, lay_out, run_again_and_check, spread
from tests.crash.scenes import Scene
from tests.crash.test_states import is_quiet

from holdfast.testing import Said, Write, run_killed_at, run_signalled_at

KILLS = 32
INTERRUPTS = 16
PARTS = 4

GetScene = Callable[[str], Scene]
Count = Callable[[str, object], None]


def events_to_strike(scene: Scene, count: int) -> list[int]:
    """So many events, from the first to the last before the report is shown; few amid a transaction of SQLite."""
    events = scene.recording.events
    before_report = next(n for n, e in enumerate(events) if isinstance(e, Said) and e.data == b"\n")
    return spread([n for n in range(1, before_report) if not is_quiet(events, n)], count)


def check_kill(scene: Scene, event: int, folder: Path) -> None:
    ground = lay_out(scene, folder)
    killed = run_killed_at(ground.archive_command(), event, ground.work)
    assert killed.reached
    assert killed.returncode == -signal.SIGKILL
    run_again_and_check(ground, check_cut(ground, killed.stdout))


def check_interrupt(scene: Scene, event: int, folder: Path) -> None:
    ground = lay_out(scene, folder)
    stopped = run_signalled_at(ground.archive_command(), event, signal.SIGINT, ground.work)
    assert stopped.reached
    said = stopped.stderr.decode()
    assert stopped.returncode == 130, said
    assert said.startswith("holdfast: stopped; whatever was said to be done is durable\n"), said
    assert "run the same command again: it goes on where it stopped" in said
    assert len(said.splitlines()) == 2, said
    run_again_and_check(ground, check_cut(ground, stopped.stdout))


@pytest.mark.parametrize("number", range(3))
def test_sigkill_at_a_few_events_and_running_again(get_scene: GetScene, number: int, tmp_path: Path) -> None:
    scene = get_scene("night_one")
    check_kill(scene, events_to_strike(scene, 5)[number + 1], tmp_path / "killed")


def test_ctrl_c_amid_the_dump_and_running_again(get_scene: GetScene, tmp_path: Path) -> None:
    scene = get_scene("night_one")
    events = scene.recording.events
    objects = [n for n, e in enumerate(events, 1) if isinstance(e, Write) and e.path.endswith("HF0001L8/00003")]
    check_interrupt(scene, objects[0], tmp_path / "stopped")


@pytest.mark.crash
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", ["night_one", "night_two", "in_place"])
def test_sigkill_at_many_events_and_running_again(
    get_scene: GetScene, share: float, name: str, part: int, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene(name)
    events = events_to_strike(scene, max(2, round(KILLS * share)))[part::PARTS]
    for event in events:
        check_kill(scene, event, tmp_path / str(event))
    record_property("real kills", len(events))


@pytest.mark.crash
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", ["night_one", "in_place"])
def test_ctrl_c_at_many_events_and_running_again(
    get_scene: GetScene, share: float, name: str, part: int, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene(name)
    events = events_to_strike(scene, max(2, round(INTERRUPTS * share)))[part::PARTS]
    for event in events:
        check_interrupt(scene, event, tmp_path / str(event))
    record_property("real interrupts", len(events))
