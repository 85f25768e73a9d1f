"""Ways in which an attentive reader lost data, each of them tried."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import heapq
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.unit.state.test_processes import in_threads

from holdfast.errors import ConflictError, IntegrityError, InvalidKey, InvalidValue, StateError
from holdfast.state import POD, memory


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[POD]:
    with POD(tmp_path / "a.pod") as pod:
        yield pod


@pytest.fixture
def other(pod: POD) -> Iterator[POD]:
    """Another handle on the same store."""
    with POD(pod.path) as other:
        yield other


class Stop(Exception):
    """Ends a transaction."""


@contextlib.contextmanager
def undone(pod: POD) -> Iterator[None]:
    """A transaction that comes to nothing."""
    with contextlib.suppress(Stop), pod.transaction():
        yield
        raise Stop


# -- what comes to nothing leaves no trace


def test_a_part_that_was_popped_and_changed_in_what_came_to_nothing(pod: POD) -> None:
    pod["x"] = [[1], [2]]
    alias = pod["x"]
    with undone(pod):
        alias.pop().append(99)
    assert alias == pod["x"] == [[1], [2]]
    alias.append(3)
    assert pod.copy() == {"x": [[1], [2], 3]}


def test_what_was_read_of_another_ways_change_that_came_to_nothing(pod: POD, other: POD) -> None:
    pod["a"] = [1]
    alias = pod["a"]
    with undone(pod):
        pod.set["a"].append(2)
        other["a"].append(3)
        assert pod["a"] == [1, 2, 3]
        alias.append(4)
    assert alias == pod["a"] == other["a"] == [1]
    assert pod["a"] is alias
    alias.append(5)
    assert other["a"] == [1, 5]


def test_an_alias_of_a_value_that_never_was(pod: POD, other: POD) -> None:
    pod["a"] = ["old"]
    with undone(pod):
        pod["a"] = ["new"]
        never = pod["a"]
    with pytest.raises(ConflictError):
        never.append("z")
    assert other["a"] == ["old"]


def test_a_value_of_another_kind_that_never_was(pod: POD, other: POD) -> None:
    pod["a"] = [1]
    alias = pod["a"]
    with undone(pod):
        other["a"] = {"k": 1}
        assert pod["a"] == {"k": 1}
    assert pod["a"] is alias
    alias.append(2)
    assert other["a"] == [1, 2]


def test_inner_aliases_are_what_they_were(pod: POD) -> None:
    pod["l"] = [{"id": 1}, {"id": 2}]
    first, second = pod["l"]
    with undone(pod):
        pod.set["l"].insert(0, {"id": 9})
        assert pod["l"][0] == {"id": 9}
    assert (first, second) == ({"id": 1}, {"id": 2})
    second["x"] = 1
    assert pod.copy()["l"] == [{"id": 1}, {"id": 2, "x": 1}]


def test_an_iteration_that_leaves_its_transaction_reads_again(pod: POD, other: POD) -> None:
    pod.update({"z": 0, "a": [1]})
    items = iter(pod.items())
    with undone(pod):
        pod["a"] = [666]
        assert next(items) == ("z", 0)
    assert next(items) == ("a", [1])
    other["a"] = [2]
    pod["a"].append(3)
    assert other["a"] == [2, 3]


@pytest.mark.parametrize(
    "act",
    [
        lambda pod: pod.set.__setitem__("n", 0),
        lambda pod: pod.set.__delitem__("n"),
        lambda pod: pod.__setitem__("n", 7),
        lambda pod: pod.incr("n"),
    ],
)
def test_what_was_seen_before_counts_again(pod: POD, other: POD, act: Callable[[POD], object]) -> None:
    pod["n"] = 1
    seen = pod["n"]
    with undone(pod):
        act(pod)
    other["n"] = 100
    with pytest.raises(ConflictError):
        pod["n"] = seen + 1
    assert other["n"] == 100


def test_what_fails_forgets_nothing_that_was_seen(pod: POD, other: POD) -> None:
    pod["n"] = 1
    seen = pod["n"]
    with pytest.raises(InvalidValue):
        pod.set["n"] = float("nan")
    other["n"] = 100
    with pytest.raises(ConflictError):
        pod["n"] = seen + 1


def test_what_was_read_last_is_remembered_longest(pod: POD, other: POD, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SEEN", 10)
    pod.update((number, number) for number in range(20))
    pod["n"] = 1
    for number in range(20):
        seen = pod["n"]
        assert pod[number] == number
    other["n"] = 100
    with pytest.raises(ConflictError):
        pod["n"] = seen + 1


def test_an_update_is_whole_or_not_at_all_inside_a_transaction_too(pod: POD) -> None:
    with pod.transaction():
        with pytest.raises(InvalidValue):
            pod.update({"a": 1}, {"b": float("nan")})
        pod["c"] = 1
    assert pod == {"c": 1}


def test_a_store_is_not_made_in_a_transaction(pod: POD) -> None:
    with pytest.raises(StateError, match="not made in a transaction"), pod.transaction():
        POD(pod.path, store="more")
    with POD(pod.path, store="more") as more:
        assert len(more) == 0


# -- what is popped, moved and set back


def test_a_default_that_pop_gives_back_stays_what_it_is(pod: POD) -> None:
    pod.update(cfg={}, default=[1])
    assert pod["cfg"].pop("missing", pod["default"]) == [1]
    pod["default"].append(2)
    assert pod.copy() == {"cfg": {}, "default": [1, 2]}


def test_what_pop_gives_is_the_callers(pod: POD) -> None:
    pod["k"] = [1]
    value = pod.pop("k")
    value.append(2)
    assert (value, pod) == ([1, 2], {})


def test_what_was_changed_behind_its_back_is_stored_when_it_is_set_back(pod: POD, other: POD) -> None:
    pod["h"] = [5]
    heap = pod["h"]
    heapq.heappush(heap, 3)
    pod["h"] = heap
    assert other["h"] == [3, 5]
    heap.append(9)
    assert other["h"] == [3, 5, 9]


def test_a_part_that_others_removed_is_not_set_back_in_silence(pod: POD, other: POD) -> None:
    pod["v"] = {"l": [1]}
    value, part = pod["v"], pod["v"]["l"]
    del other["v"]["l"]
    with pytest.raises(ConflictError):
        value["l"] = part
    assert other["v"] == {}


def test_an_edit_that_changes_the_entry_itself_is_a_conflict(pod: POD) -> None:
    pod["l"] = [2, 1]

    def key(part: int) -> int:
        pod["l"] = [100]
        return part

    with pytest.raises(ConflictError):
        pod.set["l"].sort(key=key)
    assert pod.copy() == {"l": [2, 1]}


# -- what waits in memory, and other threads


def test_a_conflict_of_what_waits_is_said_once_and_the_rest_is_written(pod: POD, other: POD) -> None:
    pod["a"] = 1
    seen = pod["a"]
    pod.hold()
    pod["a"] = seen + 1
    pod["b"] = 2
    other["a"] = 50
    with pytest.raises(ConflictError, match='key "a"'):
        pod.unhold()
    assert other == {"a": 50, "b": 2}
    pod.sync()
    pod["a"] = 7
    assert other == {"a": 7, "b": 2}


def test_a_conflict_of_what_waits_that_is_caught_in_a_transaction_loses_nothing_else(pod: POD, other: POD) -> None:
    pod["a"] = 1
    seen = pod["a"]
    pod.hold()
    pod["a"] = seen + 1
    pod["b"] = 2
    other["a"] = 50
    with other.transaction():
        with pytest.raises(ConflictError, match='key "a"'):
            pod["c"] = 3
        other["z"] = 1
    pod.unhold()
    assert other == {"a": 50, "b": 2, "z": 1}


def test_a_thread_that_read_before_another_held_its_value_is_told(pod: POD, other: POD) -> None:
    pod["n"] = 0
    pod.hold()
    seen = pod["n"]
    in_threads(1, lambda _: pod.__setitem__("n", pod["n"] + 1))
    pod["n"] = seen + 1
    with pytest.raises(ConflictError):
        pod.unhold()
    assert other["n"] == 1


def test_what_another_thread_holds_is_not_overwritten_in_a_transaction(pod: POD, other: POD) -> None:
    pod["n"] = 4
    pod.hold()
    with pod.transaction():
        seen = pod["n"]
        in_threads(1, lambda _: pod.__setitem__("m", 10))
        pod["n"] = seen + 1
    pod.unhold()
    assert other == {"n": 5, "m": 10}


def test_a_thread_sees_its_own_writes_while_another_is_in_a_transaction(pod: POD) -> None:
    pod.hold()
    begun, go_on = threading.Event(), threading.Event()

    def hold_on(_: int) -> None:
        with pod.transaction():
            begun.set()
            assert go_on.wait(30)

    pod["mine"] = 1
    thread = threading.Thread(target=lambda: in_threads(1, hold_on))
    thread.start()
    assert begun.wait(30)
    assert (pod.get("mine"), "mine" in pod) == (1, True)
    go_on.set()
    thread.join()
    pod["mine"] = 2
    pod.unhold()
    assert pod["mine"] == 2


def test_what_waits_keeps_its_handle(tmp_path: Path) -> None:
    import gc

    def forget() -> None:
        pod = POD(tmp_path / "a", durability="buffered")
        pod["a"] = 1

    forget()
    gc.collect()
    from holdfast.state.handle import _unwritten, _write_all_held

    assert len(_unwritten) == 1
    _write_all_held()
    with POD(tmp_path / "a") as pod:
        assert pod == {"a": 1}


def test_another_task_of_a_threads_transaction_is_refused(pod: POD) -> None:
    async def first() -> None:
        with pod.transaction():
            pod["a"] = 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise Stop

    async def second() -> None:
        assert "a" not in pod
        with pytest.raises(StateError, match="another task"):
            pod["b"] = 2

    async def both() -> list[Any]:
        return await asyncio.gather(first(), second(), return_exceptions=True)

    found = asyncio.run(both())
    assert [type(error) for error in found] == [Stop, type(None)]
    assert pod == {}
    pod["c"] = 1


def test_unlock_does_not_open_a_transaction(pod: POD) -> None:
    with pod.transaction():
        with pytest.raises(StateError, match="not held"):
            pod.unlock()
        pod["a"] = 1
    pod.lock()
    with pod.transaction():
        pod["b"] = 2
    pod.unlock()
    with pytest.raises(StateError, match="not held"):
        pod.unlock()


# -- interrupts


class Interrupt:
    """Raises `KeyboardInterrupt` at the n-th line of the room, as Ctrl-C may."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if "holdfast/state" not in frame.f_code.co_filename:
            return None
        self.left -= event in ("line", "call")
        if self.left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return self


def nested(pod: POD) -> None:
    with pod.transaction():
        pod["n"] = 2
        with pod.transaction():
            pod["l"].append(2)


@pytest.mark.parametrize("act", [lambda pod: pod.__setitem__("n", 2), lambda pod: pod["l"].append(2), nested])
def test_after_an_interrupt_at_any_line_nothing_is_said_that_is_not_true(
    tmp_path: Path, act: Callable[[POD], object]
) -> None:
    """What is at hand is what is stored; the next write is a write, and whoever wants the lock gets it then."""
    with POD(tmp_path / "a") as pod, POD(tmp_path / "a") as other:
        for nth in range(1, 1200):
            pod.update(n=nth, l=[1])
            alias = pod["l"]
            before = sys.gettrace()
            sys.settrace(interrupt := Interrupt(nth))
            try:
                with contextlib.suppress(KeyboardInterrupt):
                    act(pod)
            finally:
                sys.settrace(before)
            pod["m"] = nth
            assert other["m"] == nth
            assert pod.copy() == other.copy() == {"n": pod["n"], "l": list(alias), "m": nth}
            descriptor = os.open(tmp_path / "a" / "commit.lock", os.O_RDWR)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(descriptor)
            if interrupt.left > 0:
                return
        raise AssertionError("more lines than were tried")


# -- others


def test_an_error_that_somebody_keeps_does_not_keep_the_reading_open(pod: POD, other: POD) -> None:
    pod.update(a="good", n=1)
    pod.sync()
    path = pod.path
    pod.close()
    other.close()
    data = (path / "state.db").read_bytes()
    (path / "state.db").write_bytes(data.replace(b'"good"', b'"goof"'))
    with POD(path) as again, POD(path) as writer:
        with pytest.raises(IntegrityError) as kept:
            list(again.items())
        writer["n"] = 2
        assert again["n"] == 2
        assert kept.value is not None


def test_keys_are_read_without_their_values(pod: POD) -> None:
    import tracemalloc

    pod.update((number, "x" * 1_000_000) for number in range(30))
    tracemalloc.start()
    assert len(list(pod)) == 30
    assert sum(len(value) for value in pod.values()) == 30_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_many_changes_of_one_value_in_a_transaction_take_little_memory(pod: POD) -> None:
    import tracemalloc

    pod["l"] = []
    tracemalloc.start()
    with pod.transaction():
        for number in range(1500):
            pod["l"].append(number)
            pod.incr("n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_a_store_that_was_deleted_and_made_again_is_the_new_one(tmp_path: Path) -> None:
    import shutil

    forgotten = POD(tmp_path / "a", init={"n": 1})
    shutil.rmtree(tmp_path / "a")
    with POD(tmp_path / "a") as pod:
        assert pod == {}
        pod["m"] = 2
    with pytest.raises(StateError, match="moved or deleted"):
        forgotten["n"] = 2
    forgotten._backend = None


def test_an_opening_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    from holdfast.state import opened

    with pytest.raises(InvalidValue):
        POD(tmp_path / "a", init={"a": float("nan")})
    assert not any(name == str((tmp_path / "a").resolve()) for name in opened._registry)


def test_reading_only_syncs_nothing(tmp_path: Path) -> None:
    POD(tmp_path / "a", init={"a": 1}).close()
    before = (tmp_path / "a" / "state.db").read_bytes()
    with POD(tmp_path / "a", mode="r") as pod:
        with pytest.raises(StateError, match="only to be read"):
            pod.sync_key("a")
        pod.sync()
    assert (tmp_path / "a" / "state.db").read_bytes() == before


def test_a_key_that_is_too_deep_is_refused(pod: POD) -> None:
    key: Any = "a"
    for _ in range(3000):
        key = (key,)
    with pytest.raises(InvalidKey):
        pod[key] = 1
