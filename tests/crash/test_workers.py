"""Tasks and counters under workers that are killed at random, all at once: nothing twice, nothing lost, nobody starves."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ConflictError, LeaseLost
from holdfast.state import POD, Tracker

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]
SPAWN = multiprocessing.get_context("spawn")
WORKERS, TASKS, KILLS = 8, 10_000, 40
Count = Callable[[str, object], None]


def work(folder: Path, seed: int, said: Any) -> None:
    """Claims, does, and tells in the same transaction by which token it was done."""
    with Tracker(folder) as tracker, POD(folder, store="log") as log:
        chance = random.Random(seed)
        while tracker.num_done() < len(tracker):
            for task in tracker.claim(chance.randrange(1, 20), lease_s=60):
                try:
                    with tracker.transaction():
                        task.done()
                        log.incr(task.key)
                        log["tokens", task.key] = task.token
                except LeaseLost:
                    continue
                said.release()


def start(target: Callable[..., None], *words: Any) -> Any:
    process = SPAWN.Process(target=target, args=words)
    process.start()
    return process


def test_ten_thousand_tasks_are_done_exactly_once_by_token(
    tmp_path: Path, share: float, record_property: Count
) -> None:
    tasks, kills = max(1000, round(TASKS * share)), max(8, round(KILLS * share))
    chance, said = random.Random(5), SPAWN.Semaphore(0)
    with Tracker(tmp_path / "a") as tracker, POD(tmp_path / "a", store="log") as log:
        tracker.add_many(range(tasks))
        workers = [start(work, tmp_path / "a", number, said) for number in range(WORKERS)]
        for number in range(kills):
            for _ in range(tasks // (kills + 4)):
                assert said.acquire(timeout=120)
            victim = chance.randrange(WORKERS)
            os.kill(workers[victim].pid, signal.SIGKILL)
            workers[victim].join()
            workers[victim] = start(work, tmp_path / "a", 100 + number, said)
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        done = {key: count for key, count in log.items() if isinstance(key, int)}
        assert done == dict.fromkeys(range(tasks), 1)
        assert (tracker.num_done(), tracker.stats().leased) == (tasks, 0)
        assert (tracker.verify(), log.verify()) == ([], [])
    record_property("tasks done by workers that are killed", tasks)
    record_property("workers killed", kills)


def count(folder: Path, number: int, times: int) -> None:
    with POD(folder) as pod:
        for turn in range(times):
            pod.incr("n")
            pod["list"].append([number, turn])
            while True:
                try:
                    pod["m"] += 1
                    break
                except ConflictError:
                    pass


def test_eight_processes_count_exactly_and_keep_every_append(tmp_path: Path, share: float) -> None:
    times = max(20, round(150 * share))
    with POD(tmp_path / "a", init={"n": 0, "m": 0, "list": []}) as pod:
        workers = [start(count, tmp_path / "a", number, times) for number in range(WORKERS)]
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        assert (pod["n"], pod["m"]) == (WORKERS * times,) * 2
        assert sorted(pod["list"]) == [[number, turn] for number in range(WORKERS) for turn in range(times)]


def write_for(folder: Path, number: int, begin: Any, seconds: float, found: Any) -> None:
    with POD(folder) as pod:
        begin.wait()
        end, writes = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            pod[number] = writes
            writes += 1
        found.put(writes)


def test_nobody_starves(tmp_path: Path, record_property: Count) -> None:
    """Over three seconds nobody comes below 70 % of the mean."""
    begin, found = SPAWN.Barrier(4), SPAWN.Queue()
    POD(tmp_path / "a").close()
    workers = [start(write_for, tmp_path / "a", number, begin, 3.0, found) for number in range(4)]
    writes = [found.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    record_property("writes of the slowest of four, in % of the mean", round(100 * min(writes) / (sum(writes) / 4)))
    assert min(writes) >= 0.7 * sum(writes) / 4, writes
