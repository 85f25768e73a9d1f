"""A dictionary after any end of its writers: what was said to be kept is there, and the rest is whole or absent."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.podlaws import check, command

from holdfast.testing import Fault, Variant, disk_full, distinct_states, record, run_with_fault
from holdfast.testing.faults import SYNCS, WRITES

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("tracing"), pytest.mark.timeout(900)]
KILLS = 200
Count = Callable[[str, object], None]


@pytest.mark.parametrize(
    ("level", "variants"),
    [("kill", ("killed",)), ("power", ("killed", "dropped", "torn")), ("sync", ("dropped", "torn"))],
)
def test_law_1_durable_before_said_in_every_state_that_a_crash_could_leave(
    level: str, variants: tuple[Variant, ...], tmp_path: Path, share: float, record_property: Count
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    recording = record(command(root / "a.pod", level, 12), root)
    states = said = 0
    for state in distinct_states(recording, variants, seeds=(0, 1), share=share):
        folder = tmp_path / "state" / str(states)
        state.tree.write_to(folder)
        try:
            said += check(folder / "a.pod", state.said)
        except Exception as error:
            raise AssertionError(f"{state.label}: {error}") from error
        states += 1
    assert said > 0
    record_property("states of a dictionary's writer", states)


def test_law_6_resume_is_running_again_after_kills_at_random_moments(
    tmp_path: Path, share: float, record_property: Count
) -> None:
    folder, chance = tmp_path / "a.pod", random.Random(7)
    kills = max(10, int(KILLS * share))
    said = 0
    for _ in range(kills):
        with subprocess.Popen(command(folder, "kill", 100_000), stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = b"".join(writer.stdout.readline() for _ in range(chance.randrange(1, 40)))
            os.kill(writer.pid, signal.SIGKILL)
            lines += writer.stdout.read()
        numbers = [int(line) for line in lines.split(b"\n")[:-1]]
        assert numbers[0] >= said
        said = numbers[-1] + 1
        assert check(folder, b"\n" * said) == said
    record_property("kills of a dictionary's writer", kills)


@pytest.mark.parametrize("after_bytes", [*range(20_000, 400_000, 20_000)])
def test_a_disk_that_fills_up_is_said_and_nothing_is_lost(tmp_path: Path, after_bytes: int) -> None:
    folder = tmp_path / "a.pod"
    ran = run_with_fault(command(folder, "power", 30), disk_full(after_bytes=after_bytes), tmp_path)
    assert ran.returncode == 1
    assert b"the disk is full" in ran.stderr
    check(folder, ran.stdout)


@pytest.mark.parametrize("nth", range(1, 40, 3))
@pytest.mark.parametrize("calls", [WRITES, SYNCS])
def test_a_disk_that_fails_is_said_and_nothing_is_lost(tmp_path: Path, calls: frozenset[str], nth: int) -> None:
    folder = tmp_path / "a.pod"
    ran = run_with_fault(command(folder, "power", 12), Fault(calls=calls, nth=nth, path_glob="*state.db*"), tmp_path)
    assert ran.injected == (ran.returncode != 0)
    check(folder, ran.stdout)
