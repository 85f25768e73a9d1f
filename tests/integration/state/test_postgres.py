"""PostgreSQL does what every database of stores must do, and what only a server can be asked."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.integration.state.server import Server

from holdfast.errors import ConflictError, StateError
from holdfast.state import POD, Tracker, opened
from holdfast.testing.conformance import DictionaryConformance, DictionaryMachine, TrackerConformance, TrackerMachine

pytestmark = pytest.mark.integration

SPAWN = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("fork")


class TestDictionary(DictionaryConformance):
    pass


class TestTracker(TrackerConformance):
    pass


@contextmanager
def as_another_process() -> Iterator[None]:
    """What is opened within has connections of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened, "_registry", {})
        yield


@pytest.mark.parametrize("machine", [DictionaryMachine, TrackerMachine])
def test_against_a_plain_one(database: str, machine: type[DictionaryMachine | TrackerMachine]) -> None:
    class Machine(machine):  # type: ignore[valid-type,misc]
        def make_place(self) -> Path | str:
            self.schema = f"test_{uuid.uuid4().hex[:20]}"
            return f"{database}#{self.schema}"

        def remove_place(self) -> None:
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(f'DROP SCHEMA "{self.schema}" CASCADE')

        def opened(self, handle: int) -> POD:
            if handle:
                with as_another_process():
                    return super().opened(handle)
            return super().opened(handle)

    run_state_machine_as_test(Machine, settings=settings(max_examples=25, stateful_step_count=25))


# -- several who write


@pytest.fixture
def pod(place: str) -> Iterator[POD]:
    with POD(place) as pod:
        yield pod


@pytest.fixture
def other(place: str) -> Iterator[POD]:
    with as_another_process():
        other = POD(place)
    with other:
        yield other


def test_what_one_connection_commits_the_other_reads_at_once(pod: POD, other: POD) -> None:
    assert pod._use() is not other._use()
    for number in range(300):
        (pod if number % 2 else other)["n"] = number
        assert (pod["n"], other["n"]) == (number, number)


def count(place: str, times: int) -> None:
    with POD(place) as pod:
        for _ in range(times):
            pod.incr("n")
            pod.set["l"].append(os.getpid())


def test_processes_count_exactly_and_lose_no_append(pod: POD, place: str) -> None:
    pod.update(n=0, l=[])
    workers = [SPAWN.Process(target=count, args=(place, 50)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (pod["n"], len(pod["l"]), len(set(pod["l"]))) == (200, 200, 4)


def hold_the_lock(place: str, ready: Any, *, in_transaction: bool) -> None:
    with POD(place) as pod:
        if in_transaction:
            with pod.transaction():
                pod["a"] = "never committed"
                ready.set()
                time.sleep(3600)
        pod.lock()
        pod["a"] = "under the lock"
        ready.set()
        time.sleep(3600)


@pytest.mark.parametrize("in_transaction", [True, False])
def test_who_is_killed_blocks_nobody(pod: POD, place: str, in_transaction: bool) -> None:
    ready = SPAWN.Event()
    holder = SPAWN.Process(target=hold_the_lock, args=(place, ready), kwargs={"in_transaction": in_transaction})
    holder.start()
    assert ready.wait(60)
    waiter = threading.Thread(target=lambda: pod.update(b=1))
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive()
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    waiter.join(30)
    assert not waiter.is_alive()
    assert dict(pod) == ({"b": 1} if in_transaction else {"a": "under the lock", "b": 1})


def test_a_child_that_is_forked_keeps_no_lock_of_its_parent(pod: POD, place: str) -> None:
    """The parent is killed while its child lives on: the server must see that the parent's connection ends."""

    def parent(ready: Any, go: Any) -> None:
        with POD(place) as mine:
            mine["a"] = 1
            child = FORK.Process(target=go.wait, args=(60,))
            child.start()
            mine.lock()
            ready.set()
            time.sleep(3600)

    ready, go = FORK.Event(), FORK.Event()
    holder = FORK.Process(target=parent, args=(ready, go))
    holder.start()
    assert ready.wait(60)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    pod["b"] = 2
    go.set()
    assert dict(pod) == {"a": 1, "b": 2}


def test_parent_and_child_both_go_on(pod: POD) -> None:
    def child() -> None:
        for _ in range(50):
            pod.incr("n")

    pod["n"] = 0
    children = [FORK.Process(target=child) for _ in range(2)]
    for process in children:
        process.start()
    child()
    for process in children:
        process.join()
        assert process.exitcode == 0
    assert pod["n"] == 150


# -- trouble


@pytest.mark.parametrize("writes", [True, False])
def test_an_error_that_was_swallowed_commits_nothing(pod: POD, writes: bool) -> None:
    """The server has undone the transaction by then, and would answer COMMIT without an error."""
    with pytest.raises(StateError, match="undone"), pod.transaction():  # noqa: PT012 (what it undoes)
        if writes:
            pod["a"] = 1
        with pytest.raises(psycopg.Error):
            pod._use().whole().connection.execute("SELECT 1/0")  # type: ignore[attr-defined]
    assert dict(pod) == {}
    pod["a"] = 2
    assert dict(pod) == {"a": 2}


def test_connections_that_are_lost_are_opened_again(pod: POD, other: POD, database: str) -> None:
    pod["a"] = 1
    assert other["a"] == 1
    end_all(database)
    assert other["a"] == 1
    pod["a"] = 2
    assert (pod["a"], other["a"]) == (2, 2)


def fails(pod: POD) -> bool:
    try:
        pod.get("a")
    except StateError:
        return True
    return False


def end_all(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        connection.execute(query)


def test_a_connection_that_is_lost_in_a_transaction_undoes_it(pod: POD, database: str) -> None:
    pod["a"] = 1
    with pytest.raises(StateError), pod.transaction():  # noqa: PT012 (what it undoes)
        pod["a"] = 2
        end_all(database)
        pod["b"] = 3
    assert fails(pod) or dict(pod) == {"a": 1}
    assert dict(pod) == {"a": 1}


def test_a_lock_that_is_lost_with_its_connection_is_told(pod: POD, database: str) -> None:
    pod["a"] = 1
    pod.lock()
    end_all(database)
    with pytest.raises(StateError):
        pod["a"] = 2
    with pytest.raises(StateError, match="lock was lost"):
        pod["a"] = 2
    pod.unlock()
    with pod.locked():
        pod["a"] = 3
    assert pod["a"] == 3


def test_who_has_the_lock_writes_and_others_wait(pod: POD, other: POD) -> None:
    with pod.locked(), pod.locked():
        pod["a"] = 1
        waiter = threading.Thread(target=lambda: other.update(a=2))
        waiter.start()
        waiter.join(0.2)
        assert waiter.is_alive()
        pod["a"] = 3
    waiter.join(30)
    assert pod["a"] == 2


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be used") as caught:
        POD(f"postgresql://nobody:secret@/nowhere?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_only_reading_makes_nothing(place: str, database: str) -> None:
    with pytest.raises(StateError, match="no store to read"):
        POD(place, mode="r")
    with psycopg.connect(database, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (place.partition("#")[2],))
        assert found.fetchone() is None


def test_a_schema_that_no_schema_may_be(database: str) -> None:
    with pytest.raises(StateError, match="name"):
        POD(f'{database}#x"; DROP TABLE meta; --')


def test_keys_and_values_of_any_length(pod: POD, other: POD) -> None:
    keys = ["k" * 100_000, "k" * 100_000 + "l", ("é" * 50_000, 1)]
    for number, key in enumerate(keys):
        pod[key] = "v" * 3_000_000 + str(number)
    with pod.transaction():
        assert [value[-1] for value in pod.values()] == ["0", "1", "2"]
    assert list(other) == keys
    del pod[keys[0]]
    assert list(other) == keys[1:]


def test_two_names_of_one_place_are_one(database: str, place: str, pod: POD) -> None:
    """In two databases a thread would wait for itself, and the server cannot see it."""
    url, _, schema = place.partition("#")
    with POD(f"{url}{'&' if '?' in url else '?'}application_name=another#{schema}") as same, pod.transaction():
        same["a"] = 1
    assert dict(pod) == {"a": 1}
    assert database


def test_another_store_in_its_place_is_not_written(place: str, database: str) -> None:
    pod = POD(place)
    pod["d"] = {"mine": 1}
    at_hand = pod["d"]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA "{place.partition("#")[2]}" CASCADE')
    with as_another_process(), POD(place) as theirs:
        theirs["d"] = {"theirs": 1}
    with pytest.raises(StateError, match="made anew"):
        at_hand["more"] = 2
    with POD(place) as again:
        assert again["d"] == {"theirs": 1}
    with pytest.raises(StateError, match="made anew"):
        pod.close()


def test_another_task_of_the_thread_commits_nothing_of_a_transaction(pod: POD) -> None:
    async def half() -> None:
        with pod.transaction():
            pod["x"] = "half"
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise ZeroDivisionError

    async def main() -> None:
        task = asyncio.create_task(half())
        await asyncio.sleep(0)
        with pytest.raises(StateError, match="another task"):
            pod.sync()
        with pytest.raises(ZeroDivisionError):
            await task

    pod["dirty"] = 1
    asyncio.run(main())
    assert dict(pod) == {"dirty": 1}


def test_a_default_of_the_database_changes_nothing_of_what_a_transaction_sees(place: str) -> None:
    url, _, schema = place.partition("#")
    name = f"{url}{'&' if '?' in url else '?'}options=-cdefault_transaction_isolation%3Dserializable#{schema}"
    with POD(name) as pod, as_another_process(), POD(place) as other:
        other["n"] = 1
        other.lock()
        seen: list[Any] = []

        def look() -> None:
            with pod.transaction():
                seen.append(pod["n"])

        looker = threading.Thread(target=look)
        looker.start()
        looker.join(0.2)
        other["n"] = 2
        other.unlock()
        looker.join(30)
        assert seen == [2]


def test_no_message_has_the_password(place: str) -> None:
    url, _, schema = place.partition("#")
    secret = f"{url}{'&' if '?' in url else '?'}password=sEcRet%3F#{schema}"
    with POD(secret, default={"a": 1}) as pod, as_another_process(), POD(place) as other:
        told = [repr(pod)]
        seen = pod["a"]
        other["a"] = 5
        with pytest.raises(ConflictError) as conflict:
            pod["a"] = seen + 1
        told.append(str(conflict.value))
    with pytest.raises(StateError) as closed:
        pod["a"] = 1
    told.append(str(closed.value))
    for url in (
        f"{secret}%zz",
        "postgresql://u:sEcRet@[::1/db",
        "postgresql://u:sEc#Ret@nowhere:1/db",
        f"{secret}-not",
    ):
        with pytest.raises(StateError) as caught:
            POD(url)
        told.append(str(caught.value))
    assert not [text for text in told if "sEc" in text or "Ret" in text]


def test_errors_of_tasks_may_be_any_text(place: str) -> None:
    with Tracker(place) as tracker:
        tracker.add_many("ab")
        for task, error in zip(tracker.claim(2), ("a\0b", "a\udc80b"), strict=True):
            task.fail(error)
        assert tracker.stats().leased == 0


@pytest.mark.parametrize("line", range(0, 120, 3))
def test_an_interrupt_within_the_driver_leaves_no_lock(pod: POD, other: POD, line: int) -> None:
    """Whatever line of it: all go on after that, and what is at hand is what is stored."""
    pod["n"] = 0
    left = [line]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if "psycopg" not in frame.f_code.co_filename:
            return trace if "holdfast/state" in frame.f_code.co_filename else None
        left[0] -= event == "line"
        if left[0] < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            pod.lock()
            pod["n"] = 1
    finally:
        sys.settrace(None)
    with contextlib.suppress(StateError):
        pod.unlock()
    other["m"] = 1
    pod["m"] = 2
    assert dict(pod) == dict(other)


# -- what a power cut of the server leaves


@pytest.fixture
def own(server: Server) -> Iterator[str]:
    schema = f"own_{uuid.uuid4().hex[:20]}"
    yield f"{server.url}#{schema}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


def test_law_1_durable_before_said_what_was_synced_survives_the_server(own: str, server: Server) -> None:
    """It ends at once, without a checkpoint: only its log, as far as it was written, is there."""
    with POD(own, durability="power") as pod, Tracker(own, store="tasks", durability="power") as tracker:
        pod.update((number, number) for number in range(100))
        tracker.add_many(range(10))
        (task,) = tracker.claim()
        task.done()
        server.kill()
        server.start()
        assert fails(pod) or dict(pod) == {number: number for number in range(100)}
        assert dict(pod) == {number: number for number in range(100)}
        assert (tracker.num_done(), pod.verify(), tracker.verify()) == (1, [], [])


def test_law_1_durable_before_said_a_sync_after_a_crash_of_the_server_says_so(server: Server, own: str) -> None:
    """What was committed and not synced may be lost with the server: then nothing at hand is believed."""
    with POD(own) as pod, as_another_process(), POD(own) as other:
        pod["a"] = [1]
        pod.sync()
        pod["a"].append(2)
        held = pod["a"]
        assert pod.dirty()
        server.kill()
        server.start()
        while fails(other):
            pass
        with pytest.raises(StateError, match="crashed"):
            pod.sync()
        before = list(other["a"])
        assert before in ([1], [1, 2])
        assert pod["a"] == before
        with pytest.raises((ConflictError, StateError)):
            held.append(3)
        with contextlib.suppress(StateError):
            other["a"].append(4)
        other["a"] = [5]
        assert pod["a"] == [5]
        pod["a"].append(6)
        pod.sync()
        assert other["a"] == [5, 6]
