"""Ways in which an attentive reader had a task done twice, or lost, each of them tried."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.state.test_exchange import OLD
from tests.unit.state.test_processes import in_threads

from holdfast.errors import ConflictError, IntegrityError, InvalidValue, LeaseLost
from holdfast.state import POD, Tracker, owners, sql_tasks


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    with Tracker(tmp_path / "a.tracker") as tracker:
        yield tracker


@pytest.fixture
def other(tracker: Tracker) -> Iterator[Tracker]:
    """Another handle on the same store."""
    with Tracker(tracker.path) as other:
        yield other


class Abandoned:
    """Something in a cycle, which only the garbage collector ends."""

    def __init__(self, keys: Any) -> None:
        self.me = self
        self.keys = keys
        next(keys, None)


def test_a_garbage_collection_that_ends_a_loop_blocks_nobody(tracker: Tracker) -> None:
    tracker.add_many(range(200))
    before = gc.get_threshold()
    gc.set_threshold(40, 2, 2)
    try:

        def work(number: int) -> None:
            for turn in range(15):
                Abandoned(tracker.try_keys())
                for _, value in zip(range(30), tracker.values(), strict=False):
                    assert value
                tracker["x", number] = {"n": [turn]}
                tracker["x", number]["n"].append(1)

        in_threads(3, work)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(tracker) == 203
    assert tracker.stats().leased == 0


def test_a_loop_that_is_left_in_what_comes_to_nothing_gives_its_task_back(tracker: Tracker, other: Tracker) -> None:
    tracker.add("a")
    loop = tracker.try_keys()
    assert next(loop) == "a"
    with pytest.raises(KeyError), tracker.transaction():  # noqa: PT012 (what it undoes)
        loop.close()
        raise KeyError
    assert len(tracker) == 1
    assert list(other.try_keys()) == ["a"]


def test_an_aborted_task_that_somebody_tries_stays_theirs(tracker: Tracker, other: Tracker) -> None:
    tracker.add("a")
    tracker.abort("a")
    loop = tracker.try_keys(allow_aborted=True)
    assert next(loop) == "a"
    other.add("z")
    other.update({"y": {}, "z": {"n": 1}})
    assert list(other.try_keys(allow_aborted=True)) == ["z", "y"]
    loop.close()


@pytest.mark.parametrize(
    "act",
    [lambda t: t.mark_done("a"), lambda t: t.claim(), lambda t: t.increment_tries("a"), lambda t: t.reset_tries("a")],
)
def test_a_race_that_was_lost_before_is_not_forgotten_by_an_own_write(
    tracker: Tracker, other: Tracker, act: Callable[[Tracker], object]
) -> None:
    tracker.update({"a": {"n": 0}})
    seen = dict(tracker["a"])
    other["a"]["n"] = 5
    act(tracker)
    with pytest.raises(ConflictError):
        tracker["a"] = {**seen, "mine": 1}
    assert other["a"]["n"] == 5


def test_who_comes_late_forgets_nothing_either(tracker: Tracker, other: Tracker) -> None:
    tracker.add("a")
    (late,) = tracker.claim(lease_s=0)
    seen = dict(tracker["a"])
    other.claim()[0].done({"result": 42})
    with pytest.raises(LeaseLost):
        late.fail("x")
    with pytest.raises(ConflictError):
        tracker["a"] = seen
    assert other["a"]["result"] == 42


def test_a_token_of_what_came_to_nothing_ends_nobodys_lease(tracker: Tracker, other: Tracker) -> None:
    tracker.add("a")
    with pytest.raises(KeyError), tracker.transaction():  # noqa: PT012 (what it undoes)
        (never,) = tracker.claim()
        raise KeyError
    (now,) = other.claim()
    object.__setattr__(now.lease, "owner", "another process")
    with other.transaction():
        other._tasks()._change(  # type: ignore[attr-defined]
            'UPDATE "entry_main" SET owner = :owner, token = :token WHERE key = :key',
            {"owner": "another process", "token": never.token, "key": '"a"'},
        )
    for act in (never.done, never.heartbeat, never.release):
        with pytest.raises(LeaseLost):
            act()


def test_a_lease_begins_when_it_is_given(tracker: Tracker, other: Tracker) -> None:
    """Not when it was asked for: somebody else's transaction may take longer than that."""
    tracker.add("a")
    begun, found = threading.Event(), list[Any]()

    def hold(_: int) -> None:
        with other.transaction():
            begun.set()
            time.sleep(0.4)  # the lease would be over

    thread = threading.Thread(target=lambda: in_threads(1, hold))
    thread.start()
    assert begun.wait(30)
    found += tracker.claim(lease_s=0.3)
    found += other.claim()
    thread.join()
    assert len(found) == 1


def test_a_forked_child_ends_no_lease_of_its_parent(tracker: Tracker, other: Tracker) -> None:
    tracker.add_many("ab")
    (task,) = tracker.claim()
    loop = tracker.try_keys()
    next(loop)
    child = os.fork()
    if child == 0:
        try:
            loop.close()
            task.__exit__(SystemExit, SystemExit(), None)
            with pytest.raises(LeaseLost):
                task.done()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert other.claim() == []
    task.done()
    loop.close()


def test_an_owner_whose_process_is_hidden_is_not_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = owners.me().split(" ")
    monkeypatch.setattr(owners, "_space", lambda: words[2])
    monkeypatch.setattr(owners, "_PROC", tmp_path)  # where nothing is seen
    assert not owners.is_gone(" ".join(words))
    monkeypatch.setattr(owners.os, "kill", _no_process)
    assert owners.is_gone(" ".join(words))


def _no_process(*_: int) -> None:
    raise ProcessLookupError


def test_a_result_that_cannot_be_kept_fails_the_task(tracker: Tracker) -> None:
    tracker.add_many("ab")
    first, second = tracker.claim(2)
    with pytest.raises(InvalidValue), first:
        first.done({"x": object()})
    with pytest.raises(ValueError, match="mine"), second, tracker.transaction():  # noqa: PT012 (what it undoes)
        second.done()
        raise ValueError("mine")
    assert tracker.stats().leased == 0
    assert (tracker.num_done(), tracker.claim()) == (0, [])


def test_a_finished_task_may_end_its_block(tracker: Tracker) -> None:
    tracker.add_many("ab")
    mine, theirs = tracker.claim(2)
    with mine:
        tracker.finish([mine])
    theirs.release()
    (mine,) = tracker.claim()
    with pytest.raises(LeaseLost), mine:
        theirs.done()
    assert tracker.stats().leased == 0


def test_a_task_that_was_moved_is_still_its_owners(tracker: Tracker) -> None:
    tracker.add_many("ab")
    (task,) = tracker.claim()
    tracker.move_to_end("a")
    task.done()
    assert tracker.done("a")


def test_tries_and_dead_agree(tmp_path: Path) -> None:
    with Tracker(tmp_path / "a", max_tries=1) as tracker:
        tracker.add("a")
        (task,) = tracker.claim()
        tracker.reset_tries("a")
        task.release()
        assert tracker.tries("a") == 0
        (task,) = tracker.claim()
        tracker.reset_tries("a")
        task.fail("x", retry_in_s=0)
        assert (tracker.should_do("a"), list(tracker.dead_keys())) == (True, [])
        assert list(tracker.try_keys()) == ["a"]
        assert list(tracker.dead_keys()) == ["a"]
        tracker["a"] = {"fresh": 1}
        assert (list(tracker.dead_keys()), list(tracker.todo_keys())) == ([], ["a"])
        assert tracker.claim(lease_s=float("inf"))[0].key == "a"
        with pytest.raises(InvalidValue):
            tracker["a"] = {"_tries": 2**70}


@pytest.mark.parametrize("act", [lambda v: v.clear(), lambda v: v.pop("_done"), lambda v: v.__delitem__("_tries")])
def test_a_task_keeps_its_progress(tracker: Tracker, act: Callable[[Any], object]) -> None:
    tracker.update({"a": {"x": 1}})
    value = tracker["a"]
    with pytest.raises(InvalidValue):
        act(value)
    assert value == tracker["a"] == {"_tries": 0, "_done": False, "_aborted": False, "x": 1}


def test_attempts_are_recorded_and_forgotten_at_last(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_tasks, "ATTEMPTS", 10)
    monkeypatch.setattr(sql_tasks, "FORGET_EVERY", 5)
    tracker.add("a")
    for _ in range(50):
        tracker.claim()[0].fail("x", retry_in_s=0)
    (count,) = tracker._tasks()._ask('SELECT count(*) FROM "attempt_main"')[0]  # type: ignore[attr-defined]
    assert 10 <= count < 30
    for key in tracker.try_keys():
        tracker.mark_done(key)
    assert tracker.stats().rate_per_s is not None


def test_tasks_that_go_while_one_looks_are_passed_over(tracker: Tracker, other: Tracker) -> None:
    tracker.add_many("abc")
    for key, _ in tracker.todo_items():
        if key == "a":
            del other["b"]
    assert [key for key, _ in tracker.todo_items()] == ["a", "c"]


# -- files


def test_an_export_touches_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    with POD(tmp_path / "a.part", init={"n": 1}) as pod:
        (tmp_path / "m.jsonl.part").write_text("mine")
        pod.export(tmp_path / "a", "tastypy")
        pod.export(tmp_path / "m.jsonl")
        assert pod == {"n": 1}
    assert (tmp_path / "m.jsonl.part").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.part", "m.jsonl", "m.jsonl.part"]


def test_exports_to_one_file_at_once_are_each_whole(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init=dict.fromkeys(range(500), "x" * 100)) as pod, POD(tmp_path / "b") as back:
        in_threads(3, lambda _: pod.export(tmp_path / "a.jsonl") and None)
        assert back.import_(tmp_path / "a.jsonl") == 500


@pytest.mark.parametrize("value", [[["x", 1]], ["ab"], [], ""])
def test_what_is_no_task_is_not_made_one(tracker: Tracker, tmp_path: Path, value: Any) -> None:
    with POD(tmp_path / "p", init={"k": value}) as pod:
        pod.export(tmp_path / "p.jsonl")
    with pytest.raises(InvalidValue):
        tracker.import_(tmp_path / "p.jsonl")
    assert len(tracker) == 0


def test_a_folder_of_tastypy_that_many_open_is_taken_over_once(tmp_path: Path) -> None:
    shutil.copytree(OLD / "jobs.pod", tmp_path / "p")

    def opened(_: int) -> None:
        with POD(tmp_path / "p", migrate=True) as pod:
            assert len(pod) == 16

    in_threads(4, opened)


def test_files_of_tastypy_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    shutil.copytree(OLD / "levels.pod", tmp_path / "p")
    with POD(tmp_path / "a") as pod:
        (tmp_path / "p" / "3").mkdir()
        assert pod.import_(tmp_path / "p") == 7
        (tmp_path / "p" / "0.json").write_text("9\tnull\n")
        with pytest.raises(IntegrityError, match="damaged"):
            pod.import_(tmp_path / "p")


def test_a_compressed_file_with_any_flipped_bit_is_an_error_or_the_same(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"n": [1, 2, 3]}) as pod:
        pod.export(tmp_path / "a.jsonl.gz")
    data = (tmp_path / "a.jsonl.gz").read_bytes()
    for place in range(10, len(data)):
        (tmp_path / "a.jsonl.gz").write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with POD(tmp_path / "b") as pod, pytest.raises(IntegrityError):
            pod.import_(tmp_path / "a.jsonl.gz")


def test_large_values_are_merged_in_small_groups(tracker: Tracker) -> None:
    import tracemalloc

    tracemalloc.start()
    tracker.update((number, {"x": "y" * 100_000}) for number in range(300))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(tracker) == 300
    assert peak < 20_000_000, sys.version


def test_the_attempt_at_a_task_that_is_moved_meanwhile_is_recorded(tracker: Tracker) -> None:
    tracker.add_many("ab")
    for key in tracker.try_keys():
        tracker.move_to_end("a", last=key == "a")
        tracker.mark_done(key)
    assert [attempt.key for attempt in tracker.attempts()] == ["b", "a"]
