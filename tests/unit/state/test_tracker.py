"""A tracker and the clock, beside what is the same in every database (`test_conformance`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.state import ProgressTracker, SharedTracker, Tracker, owners, sql_tasks


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    with Tracker(tmp_path / "a.tracker") as tracker:
        yield tracker


def test_waiting_after_failures_doubles_and_is_spread(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker.add("a")
    now_ns = time.time_ns()
    waits: list[float] = []
    for attempt in range(1, 14):
        (task,) = tracker.claim()
        assert task.attempt == attempt
        task.fail("bad")
        (due_ns,) = tracker._tasks()._ask('SELECT due_ns FROM "entry_main"')[0]  # type: ignore[attr-defined]
        waits.append((due_ns - now_ns) / 1e9)
        now_ns = due_ns + 1
        monkeypatch.setattr(sql_tasks.time, "time_ns", lambda now_ns=now_ns: now_ns)
    for attempt, wait_s in enumerate(waits[1:], 2):
        most_s = min(2.0 ** (attempt - 1), 3600)
        assert 0.5 * most_s <= wait_s <= most_s + 0.1


def test_owners_of_another_machine_or_boot_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    words = owners.me().split(" ")
    assert not owners.is_gone(owners.me())
    assert owners.is_gone(" ".join([*words[:3], words[3], "1"]))  # the number was given to another process
    assert owners.is_gone(" ".join([*words[:3], "4194305", "1"]))
    for other in (
        "",
        "x",
        " ".join([words[0], "another-boot", *words[2:4], "1"]),
        " ".join([*words[:2], "9", "7", "1"]),
    ):
        assert not owners.is_gone(other)


# -- how much is left


def test_the_time_that_is_left_is_that_of_work_and_survives_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10**18]
    monkeypatch.setattr(sql_tasks.time, "time_ns", lambda: now[0])
    with Tracker(tmp_path / "a") as tracker:
        tracker.add_many(range(10))
        assert (tracker.stats().eta_s, tracker.stats().todo) == (None, 10)
        for _ in range(4):
            (task,) = tracker.claim()
            now[0] += 2 * 10**9
            task.done(size_bytes=1000)
            now[0] += 3600 * 10**9  # nobody is at work
    with Tracker(tmp_path / "a") as tracker:
        stats = tracker.stats()
    assert (stats.entries, stats.done, stats.tried, stats.todo, stats.leased) == (10, 4, 4, 6, 0)
    assert (stats.rate_per_s, stats.bytes_per_s, stats.eta_s) == (0.5, 500.0, 12.0)


def test_the_predecessors_names() -> None:
    assert ProgressTracker is SharedTracker is Tracker
