"""Restore under kills, power cuts and a full disk: a file is there whole or not at all, and running again completes."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.runs import Ground, check_restored, demand_done, run, spread
from tests.crash.scenes import Scene

from holdfast.testing import Recording, Replayer, Said, Tree, disk_full, record, run_killed_at

KILLS = 16

GetScene = Callable[[str], Scene]
Count = Callable[[str, object], None]


def finished(scene: Scene, folder: Path) -> Ground:
    """The vault as the recorded run left it."""
    ground = Ground(scene, folder)
    replayer = Replayer(scene.recording)
    replayer.advance_to(len(scene.recording.events))
    replayer.tree("killed").write_to(ground.work)
    return ground


def restore_command(ground: Ground, origin: str) -> list[str]:
    return [*ground.restore_command(), "--from", origin]


def files_in(tree: Tree) -> dict[bytes, str]:
    """SHA-256 of every file in the restored folder that has its own name already."""
    prefix = "restored/night/"
    return {
        os.fsencode(path.removeprefix(prefix)): hashlib.sha256(data).hexdigest()
        for path, data in tree.files().items()
        if path.startswith(prefix) and ".holdfast-" not in path
    }


def expected_files(scene: Scene) -> dict[bytes, str]:
    return {path: facts.sha256 for path, facts in scene.expected.items() if facts.kind == "file"}


def check_all_cuts(scene: Scene, recording: Recording) -> int:
    """Whatever is cut: no file with its own name has other bytes; when the report was shown, all are there."""
    expected = expected_files(scene)
    replayer = Replayer(recording)
    count = 0
    for event in recording.events:
        replayer.advance()
        trees = [replayer.tree("killed"), replayer.tree("dropped"), replayer.tree("torn")]
        count += len(trees)
        for tree in trees:
            found = files_in(tree)
            wrong = {path for path, digest in found.items() if expected[path] != digest}
            assert not wrong, f"after event {replayer.position}: {wrong}"
            if isinstance(event, Said):
                assert found == expected, f"{replayer.said!r} was said; missing: {expected.keys() - found.keys()}"
    return count


@pytest.mark.parametrize("origin", ["store", "tape"])
def test_law_1_a_restored_file_is_whole_or_not_there_in_every_cut(
    get_scene: GetScene, origin: str, tmp_path: Path, record_property: Count
) -> None:
    ground = finished(get_scene("night_one"), tmp_path / "ground")
    recording = record(restore_command(ground, origin), ground.work)
    assert recording.returncode == 0, recording.stderr
    assert b"restored 12 files" in recording.stdout
    record_property("cuts of a restore", check_all_cuts(ground.scene, recording))


def test_law_6_restore_after_sigkill_is_completed_by_running_again(get_scene: GetScene, tmp_path: Path) -> None:
    check_killed_restore(get_scene("night_one"), 40, "tape", tmp_path / "ground")


@pytest.mark.crash
@pytest.mark.timeout(600)
@pytest.mark.parametrize("origin", ["store", "tape"])
def test_law_6_restore_after_sigkill_at_many_events_is_completed_by_running_again(
    get_scene: GetScene, share: float, origin: str, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene("night_one")
    ground = finished(scene, tmp_path / "counting")
    events = record(restore_command(ground, origin), ground.work).events
    chosen = spread(range(1, len(events)), max(2, round(KILLS * share)))
    for event in chosen:
        check_killed_restore(scene, event, origin, tmp_path / str(event))
    record_property("real kills of a restore", len(chosen))


def check_killed_restore(scene: Scene, event: int, origin: str, folder: Path) -> None:
    ground = finished(scene, folder)
    killed = run_killed_at(restore_command(ground, origin), event, ground.work)
    assert killed.returncode == -signal.SIGKILL
    demand_done(run(restore_command(ground, origin)))
    check_restored(ground)
    left = [path for path in (ground.work / "restored").rglob("*") if path.name.startswith(".holdfast-")]
    assert not left


def check_full_disk(scene: Scene, origin: str, after_bytes: int, folder: Path) -> None:
    ground = finished(scene, folder)
    fault = disk_full("restored/*", after_bytes=after_bytes)
    full = record(restore_command(ground, origin), ground.work, fault=fault)
    text = full.stderr.decode()
    assert full.returncode == 1, text
    assert text.startswith("holdfast: the disk is full; nothing that was said to be stored is lost\n"), text
    assert "make space on this disk, then run the same command again" in text
    assert "Traceback" not in text
    assert full.stdout == b""
    check_all_cuts(ground.scene, full)
    demand_done(run(restore_command(ground, origin)))
    check_restored(ground)


def test_a_full_disk_under_a_restore_is_told_and_running_again_completes(get_scene: GetScene, tmp_path: Path) -> None:
    check_full_disk(get_scene("night_one"), "tape", 400_000, tmp_path / "ground")


@pytest.mark.crash
@pytest.mark.parametrize("after_bytes", [0, 330_000])
@pytest.mark.parametrize("origin", ["store", "tape"])
def test_a_full_disk_anywhere_under_a_restore_is_told_and_running_again_completes(
    get_scene: GetScene, origin: str, after_bytes: int, tmp_path: Path, record_property: Count
) -> None:
    check_full_disk(get_scene("night_one"), origin, after_bytes, tmp_path / "ground")
    record_property("disks full or failing", 1)
