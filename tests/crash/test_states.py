"""Every state that a crash could leave of a run: everything said is there, and running again is resuming.

A recorded run is cut after each event: killed (what was written is there), or in a power cut (what was not synced is
gone, or torn). On each state that differs from those before, all laws are checked; see `tests.crash.laws`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.crash.laws import check_manifests, check_vault, explain, read_packs, rerun_and_check
from tests.crash.runs import spread
from tests.crash.scenes import Scene, shrunk

from holdfast.testing import Event, Recording, Replayer, Said, State, Tree, Variant, Write, distinct_states

PARTS = 8
"""The states of a scene are dealt out to so many tests, for two processes to share."""

SCENES = {"night_one": 1.0, "night_two": 1.0, "in_place": 1.0, "in_place_two": 1.0, "mended": 1.0, "two_pairs": 0.2}
"""The scenes that are cut everywhere, and the part of their states that is taken: one has many large ones."""

TEARINGS = 24

QUIET_SHARE = 6
"""Of the cuts between two writes of SQLite to one file, amid one transaction, one in so many is taken when only a share
of the states is looked at. The whole run takes every one."""

GetScene = Callable[[str], Scene]
Count = Callable[[str, object], None]


def is_quiet(events: Sequence[Event], prefix: int) -> bool:
    """Whether the cut lies amid a transaction of SQLite, before it synced: one such cut is much like the next."""
    if not 0 < prefix < len(events):
        return False
    last, upcoming = events[prefix - 1], events[prefix]
    if not isinstance(last, Write) or not isinstance(upcoming, Write) or last.path != upcoming.path:
        return False
    return last.path.endswith((".db", ".db-wal"))


def states_of(recording: Recording, variants: Sequence[Variant], share: float) -> Iterator[tuple[int, State]]:
    """The states to look at, numbered: all of them, unless only a share is wanted."""
    found = distinct_states(recording, variants, seeds=(0,), share=share)
    if share == 1.0:
        return enumerate(found)
    return enumerate(s for s in found if s.prefix % QUIET_SHARE == 0 or not is_quiet(recording.events, s.prefix))


def check_states(scene: Scene, states: Iterator[tuple[int, State]], folder: Path) -> int:
    """Check all laws on each state; how many there were. Raises what was wrong with the first few."""
    count, wrong = 0, list[str]()
    with shrunk(scene):
        for number, state in states:
            count += 1
            try:
                check_state(scene, state, folder / str(number), number)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told with the state it came from
                wrong.append(f"{scene.name}, {state.label}:\n    {explain(error)}\n    kept in {folder / str(number)}")
                if len(wrong) == 5:
                    break
    assert not wrong, "\n".join(wrong)
    return count


def check_state(scene: Scene, state: State, folder: Path, number: int) -> None:
    state.tree.write_to(folder / "work")
    (folder / "work").mkdir(parents=True, exist_ok=True)
    vault = folder / "work" / "vault"
    before = check_vault(vault, scene, state.said, folder)
    rerun_and_check(vault, scene, before, folder, number=number)
    shutil.rmtree(folder)


def part_of(states: Iterator[tuple[int, State]], part: int) -> Iterator[tuple[int, State]]:
    return ((number, state) for number, state in states if number % PARTS == part)


def test_law_6_resume_is_running_again_after_a_power_cut_at_a_few_prefixes(get_scene: GetScene, tmp_path: Path) -> None:
    for name in ("night_one", "night_two", "in_place", "in_place_two", "mended"):
        scene = get_scene(name)
        some = list(distinct_states(scene.recording, ["dropped"], seeds=(0,)))
        check_states(scene, enumerate(spread(some, 3)), tmp_path / name)


def test_law_3_a_manifest_names_only_durable_blocks_however_the_packs_are_torn(
    get_scene: GetScene, tmp_path: Path, record_property: Count
) -> None:
    """Many ways to tear each write to the packs; only the packs are looked at."""
    recording = get_scene("night_one").recording
    replayer = Replayer(recording)
    count = 0
    for event in recording.events:
        replayer.advance()
        if not isinstance(event, Write) or not event.path.endswith(".pack"):
            continue
        for seed in range(TEARINGS):
            packs = {path: node for path, node in replayer.tree("torn", seed).nodes.items() if is_of_packs(path)}
            folder = tmp_path / "torn"
            Tree(packs).write_to(folder)
            check_manifests(read_packs(folder / "vault"))
            shutil.rmtree(folder)
            count += 1
    assert count
    record_property("ways to tear the packs", count)


def is_of_packs(path: str) -> bool:
    return path in (".", "vault") or path.startswith("vault/packs")


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", SCENES)
def test_law_6_resume_is_running_again_after_a_power_cut_at_every_prefix(
    get_scene: GetScene, share: float, name: str, part: int, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene(name)
    states = states_of(scene.recording, ["dropped", "torn"], share * SCENES[name])
    record_property("states after a power cut", check_states(scene, part_of(states, part), tmp_path))


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", SCENES)
def test_law_6_resume_is_running_again_after_sigkill_at_every_event(
    get_scene: GetScene, share: float, name: str, part: int, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene(name)
    states = states_of(scene.recording, ["killed"], share * SCENES[name])
    record_property("states after SIGKILL", check_states(scene, part_of(states, part), tmp_path))


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(2))
def test_law_6_resume_is_running_again_when_the_cut_came_while_the_vault_was_made(
    get_scene: GetScene, share: float, part: int, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene("fresh")
    events = scene.recording.events
    kept = next(n for n, event in enumerate(events) if isinstance(event, Said))
    found = states_of(scene.recording, ["killed", "dropped", "torn"], share)
    early = ((number, state) for number, state in found if state.prefix <= kept and number % 2 == part)
    record_property("states of a vault being made", check_states(scene, early, tmp_path))
