"""What every database must do with a tracker in it."""

# pyright: basic
# The values are JSON of any kind, which strict types only get in the way of.

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import DuplicateKeyError, InvalidValue, LeaseLost, StateError
from holdfast.state import POD, Tracker

SPAWN = multiprocessing.get_context("spawn")


def claim_and_wait(folder: Path, ready: Any) -> None:
    with Tracker(folder) as tracker:
        tracker.claim(2, lease_s=3600)
        ready.set()
        time.sleep(3600)


def work(folder: Path, number: int, count: int, said: Any) -> None:
    with Tracker(folder) as tracker, POD(folder, store="log") as log:
        chance = random.Random(number)
        while tracker.num_done() < count:
            for task in tracker.claim(chance.randrange(1, 20), lease_s=30):
                with tracker.transaction():
                    task.done()
                    log[str(task.key), number, task.token] = 1
                said.release()


def do_one_by_one(place: Path | str, count: int) -> None:
    with Tracker(place) as tracker:
        for _ in range(count):
            (task,) = tracker.claim()
            task.done()


def claim_in_vain(tracker: Tracker) -> Any:
    """A claim in a transaction inside the transaction, which comes to nothing."""
    try:
        with tracker.transaction():
            (task,) = tracker.claim()
            raise OSError("no")
    except OSError:
        return task


def interrupting(*_: object) -> None:
    raise KeyboardInterrupt


class TrackerConformance:
    """The suite. It needs a fixture `place`: where nothing is yet, and what another process can open, too."""

    @pytest.fixture
    def tracker(self, place: Path | str) -> Iterator[Tracker]:
        with Tracker(place) as tracker:
            yield tracker

    @pytest.fixture
    def other(self, tracker: Tracker, place: Path | str) -> Iterator[Tracker]:
        """Another handle on the same store."""
        assert tracker is not None
        with Tracker(place) as other:
            yield other

    def test_adding_and_marking(self, tracker: Tracker, other: Tracker) -> None:
        tracker.add("a")
        assert tracker["a"] == {"_tries": 0, "_done": False, "_aborted": False}
        with pytest.raises(DuplicateKeyError):
            tracker.add("a")
        assert (tracker.add_if_absent("a"), tracker.add_if_absent("b")) == (False, True)
        with pytest.raises(DuplicateKeyError):
            tracker.add_many(["c", "d", "c"])
        assert list(tracker) == ["a", "b"]
        tracker.add_many(["c", ("d", 1)])
        assert tracker.add_many_if_absent(["c", 5]) == 1
        assert list(other) == ["a", "b", "c", ("d", 1), 5]
        tracker.mark_done("a")
        tracker.mark_done("a")
        assert (tracker.done("a"), tracker.done("b"), tracker.done("nowhere")) == (True, False, False)
        assert (other.num_done(), other.num_tried(), other.num_aborted()) == (1, 0, 0)
        other.mark_not_done("a")
        assert tracker.num_done() == 0
        for act in (tracker.mark_done, tracker.abort, tracker.tries, tracker.should_do, tracker.reset_tries):
            with pytest.raises(KeyError):
                act("nowhere")

    def test_tries(self, tracker: Tracker) -> None:
        tracker.add("a")
        tracker.increment_tries("a")
        tracker.increment_tries("a")
        assert (tracker.tries("a"), tracker.num_tried()) == (2, 1)
        tracker.decrement_tries("a")
        tracker.reset_tries("a")
        tracker.decrement_tries("a")
        assert (tracker.tries("a"), tracker.num_tried()) == (0, 0)

    def test_what_should_be_done(self, place: Path | str) -> None:
        with Tracker(place, 2) as tracker:
            tracker.add("a")
            assert [tracker.should_try("a") for _ in range(3)] == [True, True, False]
            assert tracker.tries("a") == 2
            assert tracker.should_do_add("b")
            tracker.abort("b")
            assert (tracker.should_do("b"), tracker.should_do("b", allow_aborted=True)) == (False, True)
            assert (tracker.should_do_add("b"), tracker.should_do_add("b", allow_aborted=True)) == (False, True)
            assert tracker.should_try_add("c")
            assert tracker.should_try_add("b", allow_aborted=True)
            assert (tracker.tries("c"), tracker.tries("b")) == (1, 1)
            tracker.mark_done("c")
            assert (list(tracker.todo_keys()), list(tracker.todo_keys(allow_aborted=True))) == ([], ["b"])
            tracker.unabort("b")
            assert [(key, value["_tries"]) for key, value in tracker.todo_items()] == [("b", 1)]
            assert [value["_tries"] for value in tracker.todo_values()] == [1]

    def test_aborted_ones(self, tracker: Tracker) -> None:
        tracker.add_many("abc")
        tracker.abort("b")
        tracker.abort("b")
        assert list(tracker.aborted_keys()) == ["b"]
        assert list(tracker.aborted_items()) == [("b", tracker["b"])]
        assert list(tracker.aborted_values()) == [{"_tries": 0, "_done": False, "_aborted": True}]
        assert (tracker.num_aborted(), tracker.aborted("b"), tracker.aborted("a")) == (1, True, False)
        assert list(tracker.try_keys()) == ["a", "c"]
        assert list(tracker.try_keys(allow_aborted=True)) == ["a", "b", "c"]

    def test_fractions_and_percents(self, tracker: Tracker) -> None:
        assert (tracker.fraction_done(), tracker.fraction_not_done(), tracker.percent_done()) == (0.0, 0.0, "0.00 %")
        tracker.add_many(range(3))
        tracker.mark_done(1)
        tracker.increment_tries(1)
        tracker.abort(2)
        assert (tracker.percent_done(), tracker.percent_not_done(1)) == ("33.33 %", "66.7 %")
        assert (tracker.percent_tried(0), tracker.percent_not_tried()) == ("33 %", "66.67 %")
        assert (tracker.percent_aborted(), tracker.percent_not_aborted()) == ("33.33 %", "66.67 %")
        assert tracker.fraction_tried() == tracker.fraction_aborted() == 1 / 3
        assert tracker.fraction_not_tried() == tracker.fraction_not_aborted() == 2 / 3

    def test_update_merges(self, tracker: Tracker) -> None:
        tracker.update({"a": {"n": 1, "m": 2}}, [("a", {"n": 3}), ("b", {"_done": True})])
        assert tracker["a"] == {"_tries": 0, "_done": False, "_aborted": False, "n": 3, "m": 2}
        assert tracker.num_done() == 1
        tracker.update({"b": {"_done": False, "x": [1]}})
        tracker["b"]["x"].append(2)
        assert tracker["b"] == {"_tries": 0, "_done": False, "_aborted": False, "x": [1, 2]}

    def test_counts_are_exact_whoever_writes_and_however(self, tracker: Tracker, other: Tracker) -> None:
        tracker["a"] = {"mine": 1, "_done": True}
        other["b"] = {"_tries": 2}
        tracker["b"]["_aborted"] = True
        tracker.set["b"]["_tries"] += 1
        assert (other.num_done(), other.num_tried(), other.num_aborted(), other.tries("b")) == (1, 1, 1, 3)
        alias = other["a"]
        alias["_done"] = False
        del tracker["b"]
        assert (tracker.num_done(), tracker.num_tried(), tracker.num_aborted()) == (0, 0, 0)
        with pytest.raises(KeyError), tracker.transaction():  # noqa: PT012 (what it undoes)
            tracker.mark_done("a")
            assert (tracker.num_done(), other.num_done()) == (1, 1)
            raise KeyError
        assert (tracker.num_done(), tracker["a"]["_done"]) == (0, False)
        assert tracker.verify() == []

    @pytest.mark.parametrize(
        "value", [5, None, [1], {"_tries": True}, {"_tries": "1"}, {"_done": 1}, {"_aborted": None}]
    )
    def test_a_value_that_is_no_tasks_is_refused(self, tracker: Tracker, value: Any) -> None:
        tracker.add("a")
        with pytest.raises(InvalidValue):
            tracker["a"] = value
        with pytest.raises(InvalidValue):
            tracker["a"]["_done"] = "yes"
        assert tracker["a"] == {"_tries": 0, "_done": False, "_aborted": False}

    def test_text_that_looks_like_progress_is_the_users(self, tracker: Tracker) -> None:
        value = {"a": '{"_tries":5,"_done":true}', "é\n": {"_tries": 9}, "": [{}]}
        tracker["k"] = value
        assert tracker["k"] == {"_tries": 0, "_done": False, "_aborted": False} | value
        assert tracker.num_tried() == 0

    def test_a_pod_is_no_tracker(self, tracker: Tracker, place: Path | str) -> None:
        with pytest.raises(StateError, match="this store is a tracker"):
            POD(place)
        assert len(tracker) == 0

    def test_trying_counts_before_and_sees_what_is_added(self, tracker: Tracker) -> None:
        tracker.add_many("abc")
        seen: list[Any] = []
        for key in tracker.try_keys():
            seen.append((key, tracker.tries(key)))
            if key == "a":
                tracker.add("d")
            if key == "b":
                tracker.mark_done("c")
                tracker.mark_done("b")
        assert seen == [("a", 1), ("b", 1), ("d", 1)]
        assert [key for key, value in tracker.try_items() if value["_tries"] == 2] == ["a", "d"]
        assert [value["_tries"] for value in tracker.try_values()] == [3, 3]

    def test_two_who_try_never_get_the_same(self, tracker: Tracker, other: Tracker) -> None:
        tracker.add_many(range(6))
        mine, theirs = tracker.try_keys(), other.try_keys()
        seen = [next(mine), next(theirs), next(mine), next(theirs)]
        assert seen == [0, 1, 2, 3]
        mine.close()
        theirs.close()
        assert tracker.stats().leased == 0
        assert [tracker.tries(key) for key in range(6)] == [1, 1, 1, 1, 0, 0]

    def test_a_claim_is_nobody_elses_until_it_ends(self, tracker: Tracker, other: Tracker) -> None:
        tracker.add_many("abc")
        (task,) = tracker.claim()
        assert (task.key, task.attempt, task.value["_tries"]) == ("a", 1, 1)
        rest = other.claim(5)
        assert [one.key for one in rest] == ["b", "c"]
        assert rest[0].token > task.token
        assert tracker.claim() == []
        task.done({"size": 5})
        rest[0].release()
        rest[1].fail("no luck", retry_in_s=0)
        assert tracker["a"] == {"_tries": 1, "_done": True, "_aborted": False, "size": 5}
        assert [(one.key, one.attempt) for one in tracker.claim(5)] == [("b", 1), ("c", 2)]

    def test_who_comes_late_has_lost_it(self, tracker: Tracker, other: Tracker) -> None:
        tracker.add("a")
        (late,) = tracker.claim(lease_s=0)
        (now,) = other.claim()
        assert (now.attempt, now.token > late.token) == (2, True)
        for act in (late.done, late.release, late.heartbeat, lambda: late.fail("x"), lambda: late.done({"n": 1})):
            with pytest.raises(LeaseLost):
                act()
        with pytest.raises(LeaseLost), late:
            pass
        assert tracker["a"] == {"_tries": 2, "_done": False, "_aborted": False}
        now.done()
        with pytest.raises(LeaseLost):
            now.done()
        assert tracker.num_done() == 1

    def test_a_heartbeat_keeps_a_lease(self, tracker: Tracker, other: Tracker) -> None:
        tracker.add("a")
        (task,) = tracker.claim(lease_s=0)
        task.heartbeat(60)
        assert other.claim() == []
        task.done()

    def test_a_task_is_done_when_its_block_ends_and_failed_when_that_raises(self, tracker: Tracker) -> None:
        tracker.add_many("ab")
        first, second = tracker.claim(2)
        with first:
            pass
        with pytest.raises(ZeroDivisionError), second:
            _ = 1 / 0
        assert (tracker.done("a"), tracker.done("b")) == (True, False)
        assert tracker.claim() == []  # not due yet
        assert list(tracker.todo_keys()) == ["b"]
        tracker.add("c")
        (third,) = tracker.claim()
        with pytest.raises(KeyboardInterrupt), third:
            raise KeyboardInterrupt
        assert tracker.tries("c") == 0

    def test_what_failed_too_often_is_dead_until_it_is_retried(self, place: Path | str) -> None:
        with Tracker(place, max_tries=2) as tracker:
            tracker.add_many("ab")
            for _ in range(2):
                (task,) = tracker.claim(where=lambda key, _: key == "a")
                task.fail("bad", retry_in_s=0)
            assert list(tracker.dead_keys()) == ["a"]
            assert [task.key for task in tracker.claim(5, lease_s=0)] == ["b"]
            assert [task.attempt for task in tracker.claim(5, lease_s=0)] == [2]
            assert tracker.claim(5) == []  # it was lost twice
            assert list(tracker.dead_keys()) == ["a", "b"]
            assert (tracker.retry_dead(), list(tracker.dead_keys()), tracker.tries("a")) == (2, [], 0)
            assert [task.key for task in tracker.claim(5)] == ["a", "b"]

    def test_marking_a_claimed_task_ends_its_lease(self, tracker: Tracker) -> None:
        tracker.add_many("ab")
        first, second = tracker.claim(2)
        tracker.mark_done("a")
        tracker.abort("b")
        for task in (first, second):
            with pytest.raises(LeaseLost):
                task.done()

    def test_finishing_many_is_whole_or_not_at_all(self, tracker: Tracker) -> None:
        tracker.add_many(range(4))
        tasks = tracker.claim(4, lease_s=60)
        tasks[2].release()
        with pytest.raises(LeaseLost):
            tracker.finish(tasks)
        assert tracker.num_done() == 0
        tracker.finish(task for task in tasks if task.key != 2)
        assert tracker.num_done() == 3

    def test_what_a_killed_worker_had_is_free_at_once(self, tracker: Tracker, place: Path | str) -> None:
        tracker.add_many("abc")
        ready = SPAWN.Event()
        worker = SPAWN.Process(target=claim_and_wait, args=(place, ready))
        worker.start()
        assert ready.wait(60)
        assert [task.key for task in tracker.claim(5)] == ["c"]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        assert [(task.key, task.attempt) for task in tracker.claim(5)] == [("a", 2), ("b", 2)]

    def test_many_tasks_are_done_exactly_once_though_workers_are_killed(self, place: Path | str) -> None:
        count, chance, said = 1500, random.Random(3), SPAWN.Semaphore(0)
        with Tracker(place) as tracker, POD(place, store="log") as log:
            tracker.add_many(range(count))
            workers = [SPAWN.Process(target=work, args=(place, n, count, said)) for n in range(4)]
            for worker in workers:
                worker.start()
            for kill in range(4):
                for _ in range(count // 8):
                    assert said.acquire(timeout=60)
                victim = chance.randrange(4)
                workers[victim].kill()
                workers[victim].join()
                workers[victim] = SPAWN.Process(target=work, args=(place, 10 + kill, count, said))
                workers[victim].start()
            for worker in workers:
                worker.join()
                assert worker.exitcode == 0
            done = [int(key) for key, _, _ in log]  # type: ignore[misc,arg-type]
            assert sorted(done) == [*range(count)]
            assert tracker.verify() == []

    def test_watching_tells_of_every_change_until_nothing_is_left(self, tracker: Tracker, place: Path | str) -> None:
        tracker.add_many(range(3))
        seen = [next(watched := tracker.watch(every_s=0))]
        worker = SPAWN.Process(target=do_one_by_one, args=(place, 3))
        worker.start()
        seen += watched
        worker.join()
        assert worker.exitcode == 0
        assert (seen[0].done, seen[-1].done, seen[-1].todo) == (0, 3, 0)
        assert [standing.done for standing in seen] == sorted(standing.done for standing in seen)
        assert all(one != other for one, other in pairwise(seen))

    def test_watching_what_is_done_ends_at_once(self, tracker: Tracker) -> None:
        assert [standing.entries for standing in tracker.watch()] == [0]
        tracker.add("a")
        tracker.abort("a")
        assert [(standing.aborted, standing.todo) for standing in tracker.watch()] == [(1, 0)]

    def test_how_all_stands_is_told_in_a_transaction_too(self, tracker: Tracker) -> None:
        with tracker.transaction():
            tracker.add_many(range(5))
            tracker.mark_done(1)
            stats = tracker.stats()
            assert (stats.entries, stats.done, stats.todo) == (5, 1, 4)

    def test_what_was_read_of_a_claim_that_came_to_nothing_is_forgotten(self, tracker: Tracker, other: Tracker) -> None:
        tracker.add_many("ab")
        at_hand = tracker["a"]
        with pytest.raises(ZeroDivisionError), tracker.transaction():  # noqa: PT012 (what it undoes)
            (task,) = tracker.claim()
            assert (tracker["a"]["_tries"], tracker["b"]["_tries"]) == (1, 0)
            task.fail("bad", 0)
            assert tracker["a"]["_tries"] == 1
            raise ZeroDivisionError
        other["b"]["x"] = 1
        assert [dict(one["a"]) for one in (tracker, other)] == [{"_tries": 0, "_done": False, "_aborted": False}] * 2
        at_hand["x"] = 5
        tracker["b"]["y"] = 2
        assert (other["a"]["x"], other["b"]["x"], other["b"]["y"]) == (5, 1, 2)
        assert other["a"] == tracker["a"]

    # -- counting, and what others do meanwhile

    def test_an_eta_goes_by_the_bytes_that_are_left(self, tracker: Tracker) -> None:
        tracker.update({"small": {"size_bytes": 1000}, "large": {"size_bytes": 999_000}, "plain": {}})
        with tracker.claim()[0]:
            time.sleep(0.01)
        stats = tracker.stats()
        assert (stats.todo, stats.todo_bytes) == (2, 999_000)
        assert stats.bytes_per_s is not None
        assert stats.eta_s == pytest.approx((999_000 + 1000) / stats.bytes_per_s)
        tracker["large"] = {"size_bytes": "much"}
        tracker["plain"] = {"deep": {"size_bytes": 5}}
        assert tracker.stats().todo_bytes == 0
        tracker.mark_done("large")
        assert tracker.attempts()[0].size_bytes == 1000

    def test_taking_just_one_task(self, tracker: Tracker, other: Tracker) -> None:
        task = tracker.take("a", lease_s=60)
        assert task is not None
        assert other.take("a") is None
        stolen = other.take("a", from_anybody=True)
        assert stolen is not None
        assert stolen.token > task.token
        with pytest.raises(LeaseLost):
            task.done()
        stolen.fail("no", retry_in_s=3600)
        again = tracker.take("a")
        assert again is not None
        assert again.attempt == 3
        again.done()
        anew = tracker.take("a")
        assert anew is not None
        assert anew.attempt == 1
        assert [attempt.outcome for attempt in tracker.attempts()] == ["done", "failed", "lost"]
        assert tracker.verify() == []

    def test_taking_one_lets_what_others_lost_die_as_claiming_does(
        self, place: Path | str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("holdfast.state.sql_tasks.LOOK_FOR_THE_LOST_S", 0.0)
        with Tracker(place, max_tries=1) as tracker:
            tracker.add_many(["a", "b"])
            tracker.claim(1, lease_s=0)
            tracker.take("b")
            assert list(tracker.dead_keys()) == ["a"]

    def test_finishing_and_claiming_at_once(self, tracker: Tracker, other: Tracker) -> None:
        tracker.add_many(range(7))
        tasks, seen = tracker.claim(3), list[Any]()
        while tasks:
            seen += [task.key for task in tasks]
            tasks = tracker.finish(tasks, claim=3)
        assert seen == list(range(7))
        assert (other.num_done(), other.stats().leased, tracker.verify()) == (7, 0, [])
        assert tracker.finish([], claim=-1) == []

    def test_who_did_what_and_who_is_at_it(self, tracker: Tracker) -> None:
        tracker.add_many(["a", "b"])
        first, second = tracker.claim(2)
        first.fail("the disk is full")
        (going,) = tracker.claims()
        assert (going.key, going.pid, going.ended_ns, going.is_gone) == ("b", os.getpid(), None, False)
        second.done(size_bytes=9)
        done, failed = tracker.attempts()
        assert (done.key, done.outcome, done.size_bytes) == ("b", "done", 9)
        assert (failed.key, failed.outcome, failed.error) == ("a", "failed", "the disk is full")
        assert tracker.claims() == []

    def test_a_token_is_never_given_twice_though_a_claim_comes_to_nothing(self, tracker: Tracker) -> None:
        tracker.add_many(["a", "b"])
        with tracker.transaction():
            (first,) = tracker.claim()
            undone = claim_in_vain(tracker)
            (again,) = tracker.claim()
        assert first.token < undone.token < again.token
        with pytest.raises(LeaseLost):
            undone.done()

    def test_a_condition_that_writes_does_not_upset_the_counts(self, tracker: Tracker) -> None:
        tracker.add_many(["a", "b", "c"])

        def marks(key: Any, _: Any) -> bool:
            tracker.mark_done(key)
            return True

        assert tracker.claim(1, where=marks) == []
        tracker.claim(2, where=lambda _, __: bool(tracker.claim()) or True)
        assert tracker.verify() == []

    def test_an_interrupt_in_a_transaction_leaves_no_half_of_a_write(
        self, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tracker.add_many(["a", "b"])
        outer = tracker.transaction()
        outer.__enter__()
        with monkeypatch.context() as patch:
            patch.setattr("holdfast.state.tables.StoreNumbers.recount", interrupting)
            with pytest.raises(KeyboardInterrupt):
                tracker.mark_done("a")
        tracker.mark_done("b")
        with pytest.raises(StateError, match="interrupted"):
            outer.__exit__(None, None, None)
        assert (tracker.num_done(), tracker.verify()) == (0, [])

    def test_all_numbers_are_of_one_moment(self, tracker: Tracker, place: Path | str) -> None:
        tracker.add_many(range(300))
        worker = SPAWN.Process(target=do_one_by_one, args=(place, 300))
        worker.start()
        while worker.is_alive():
            stats = tracker.stats()
            assert stats.done + stats.todo == 300
            assert tracker.verify() == []
        worker.join()
        assert worker.exitcode == 0
