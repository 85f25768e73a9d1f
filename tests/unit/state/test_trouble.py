"""What goes wrong around a dictionary: nothing is lost in silence, and nothing is written where nobody looks."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ConflictError, IntegrityError, InvalidValue, NoSuchStore, StateError
from holdfast.state import POD, Tracker, opened
from holdfast.state.sqlite import SqliteBackend


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


# -- an alias, and what becomes of the list around it


def test_an_alias_is_the_part_that_it_was_when_others_move_it(pod: POD, other: POD) -> None:
    """It is followed where it is sure what it is, and is nobody's where it is not."""
    pod["l"] = [[1], [2]]
    first = pod["l"][0]
    other["l"].insert(0, [9])
    assert pod["l"] == [[9], [1], [2]]
    with pytest.raises(ConflictError):
        first.append(3)
    assert other["l"] == [[9], [1], [2]]


def test_an_alias_follows_what_is_changed_in_dictionaries_and_added_behind_it_in_lists(pod: POD, other: POD) -> None:
    pod["l"] = {"a": [[1], [2]], "b": {"c": [3]}}
    first, c = pod["l"]["a"][0], pod["l"]["b"]["c"]
    other["l"]["a"].append([3])
    other["l"]["a"][1].append(5)
    other["l"]["b"]["c"].append(4)
    first.append(6)
    c.append(7)
    assert other["l"] == pod["l"] == {"a": [[1, 6], [2, 5], [3]], "b": {"c": [3, 4, 7]}}
    assert (first, c) == ([1, 6], [3, 4, 7])


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize(
    ("before", "place", "theirs"),
    [
        ([{"id": "A"}, {"id": "B"}], 1, lambda x: x.insert(1, {"id": "X"})),
        ([{"id": 1}], 0, lambda x: (x.pop(0), x.append({"id": 2}))),
        ([{"id": 1}, {"id": 2}, {"id": 3}], 2, lambda x: x.insert(2, {"id": 9})),
        ([{"id": 1}, {"id": 1}, {"id": 2}], 0, lambda x: x.pop(0)),
        ([{"id": 1}, {"id": 2}], 0, lambda x: x[0].update(id=5)),
    ],
)
def test_a_change_never_lands_in_another_part_of_a_list(
    pod: POD, other: POD, before: Any, place: int, theirs: Any, is_read: bool
) -> None:
    pod["l"] = before
    alias = pod["l"][place]
    theirs(other["l"])
    after = other.copy()
    if is_read:
        assert pod["l"] == after["l"]
    with pytest.raises(ConflictError):
        alias["done"] = True
    assert other.copy() == after


def test_lists_of_one_length_need_not_be_one(pod: POD, other: POD) -> None:
    pod["l"] = [[1], [2]]
    first = pod["l"][0]
    other["l"].reverse()
    with pytest.raises(ConflictError):
        first.append(3)
    assert other["l"] == [[2], [1]]


def test_after_a_rollback_an_alias_is_what_it_was(pod: POD) -> None:
    pod["l"] = [[1], [2], {"a": [3]}]
    first, deep = pod["l"][0], pod["l"][2]["a"]
    with pytest.raises(Stop), pod.transaction():  # noqa: PT012 (what it undoes)
        pod["l"].insert(0, [9])
        taken = pod["l"].pop()
        taken["a"].append(4)
        pod["l"].sort()
        first.append(5)
        raise Stop
    assert pod["l"] == [[1], [2], {"a": [3, 4]}] or pod["l"] == [[1], [2], {"a": [3]}]
    first.append(6)
    deep.append(7)
    assert pod.copy()["l"][0] == [1, 6]
    assert pod.copy()["l"][2]["a"][-1] == 7


def test_after_a_sort_that_failed_an_alias_is_what_it_was(pod: POD) -> None:
    pod["l"] = [[3], [1], [2]]
    first = pod["l"][0]

    def key(part: list[int]) -> int:
        if part == [2]:
            raise Stop
        return part[0]

    with pytest.raises(Stop):
        pod["l"].sort(key=key)
    first.append(4)
    assert pod.copy() == {"l": [[3, 4], [1], [2]]}


def test_a_top_level_value_that_a_rollback_puts_back_is_the_one_in_hand(pod: POD) -> None:
    pod["k"] = [1]
    alias = pod["k"]
    for act in (lambda: pod.__setitem__("k", 5), lambda: pod.pop("k"), pod.clear, lambda: pod.update(k=[7])):
        with pytest.raises(Stop), pod.transaction():  # noqa: PT012 (what it undoes)
            act()
            raise Stop
        assert pod["k"] is alias
    alias.append(2)
    assert pod.copy() == {"k": [1, 2]}


def test_an_old_page_of_an_iteration_takes_nothing_back(pod: POD, other: POD) -> None:
    pod.update({"a": 1, "l": [1]})
    alias = pod["l"]
    items = iter(pod.items())
    next(items)  # the page is read
    other["l"].append(2)
    alias.append(3)
    assert dict(items) == {"l": [1, 2, 3]}
    assert alias == [1, 2, 3]
    alias[0] = 5
    assert other["l"] == [5, 2, 3]


def test_the_very_value_that_somebody_removed_is_not_taken_for_stored(pod: POD, other: POD) -> None:
    pod["k"] = [1]
    value = pod["k"]
    del other["k"]
    with pytest.raises(ConflictError):
        pod["k"] = value
    pod["k"] = value
    assert other == {"k": [1]}


def test_a_revision_that_came_to_nothing_is_nobody_elses(pod: POD, other: POD) -> None:
    """The next to write gets the same number: what was at hand must not be taken for that."""
    pod["k"] = [1]
    alias = pod["k"]
    with pytest.raises(Stop), pod.transaction():  # noqa: PT012 (what it undoes)
        alias.append(2)
        assert other.get("x") is None
        raise Stop
    other["k"] = [5]
    assert pod["k"] == alias == [5]
    alias.append(6)
    assert other["k"] == [5, 6]


def test_two_handles_in_one_transaction_that_comes_to_nothing(pod: POD, other: POD) -> None:
    pod["k"] = [1]
    mine, theirs = pod["k"], other["k"]
    with pytest.raises(Stop), pod.transaction():  # noqa: PT012 (what it undoes)
        mine.append(2)
        assert other["k"] == [1, 2]
        theirs.append(3)
        raise Stop
    with POD(pod.path) as third:
        third["k"].append(4)
    assert pod["k"] == other["k"] == [1, 4]
    theirs.append(5)
    mine.append(6)
    assert (mine, pod.copy()["k"]) == ([1, 4, 5, 6], [1, 4, 5, 6])


# -- what waits in memory


def test_what_waits_is_not_lost_with_another_handles_transaction(pod: POD, other: POD) -> None:
    pod.hold()
    pod["a"] = 1
    with pytest.raises(Stop), other.transaction():  # noqa: PT012 (what it undoes)
        assert len(pod) == 1  # this writes it
        raise Stop
    assert other == {}
    assert pod.dirty() == {"a"}
    pod.unhold()
    assert other == {"a": 1}


def test_what_waits_is_not_lost_when_it_cannot_be_written(
    pod: POD, other: POD, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.hold()
    pod.update(b=1)
    pod["a"] = 1
    with monkeypatch.context() as patch:
        patch.setattr(SqliteBackend, "put_many", _full)
        with pytest.raises(StateError, match="full"):
            pod.unhold()
    pod.unhold()
    assert other == {"b": 1, "a": 1}


def _full(*_: object) -> None:
    raise StateError("the disk is full")


def test_clear_does_not_take_what_waits_along_if_it_fails(pod: POD, other: POD) -> None:
    pod.hold()
    pod["a"] = 1
    with pytest.raises(Stop), pod.transaction():  # noqa: PT012 (what it undoes)
        pod.clear()
        raise Stop
    pod.unhold()
    assert other == {"a": 1}


# -- what is durable


@pytest.mark.parametrize(
    "act",
    [
        lambda pod: pod.__delitem__("a"),
        lambda pod: pod.pop("a"),
        lambda pod: pod.clear(),
        lambda pod: pod.move_to_end("a"),
        lambda pod: pod.popitem(),
        lambda pod: pod.set.__delitem__("a"),
        lambda pod: pod["l"].append(1),
        lambda pod: pod.set["l"].append(1),
    ],
)
def test_law_1_every_change_is_synced(pod: POD, monkeypatch: pytest.MonkeyPatch, act: Callable[[POD], object]) -> None:
    pod.update(a=1, l=[], b=2)
    pod.sync()
    synced: list[int] = []
    whole = SqliteBackend._sync_in

    def counted(self: SqliteBackend, connection: Any) -> None:
        synced.append(1)
        whole(self, connection)

    monkeypatch.setattr(SqliteBackend, "_sync_in", counted)
    pod.sync()
    assert synced == []
    act(pod)
    pod.sync()
    assert synced == [1]


def test_a_transaction_that_the_disk_undid_writes_nothing_alone(pod: POD, other: POD) -> None:
    """After some errors SQLite rolls back by itself; what comes after in the block must not be committed alone."""
    pod["a"] = [1]
    alias = pod["a"]
    with pytest.raises(StateError, match="was undone"), pod.transaction():  # noqa: PT012 (what it undoes)
        pod["b"] = 1
        alias.append(2)
        backend = opened._registry[str(pod.path.resolve())]
        backend._writing().execute("ROLLBACK")
        pod["c"] = 1
    assert other == {"a": [1]}
    assert alias == [1]
    pod["d"] = 1
    assert other == {"a": [1], "d": 1}


def test_transactions_that_are_not_left_in_order_come_to_nothing(pod: POD, other: POD) -> None:
    pod["n"] = 0
    outer, inner = pod.transaction(), other.transaction()
    outer.__enter__()
    pod["n"] = 1
    inner.__enter__()
    other["m"] = 1
    with pytest.raises(StateError, match="reverse order"):
        outer.__exit__(None, None, None)
    with pytest.raises(StateError, match="reverse order"):
        inner.__exit__(None, None, None)
    assert other == {"n": 0}
    pod["n"] += 5
    assert other == {"n": 5}


def test_an_interrupt_as_a_transaction_begins_leaves_nothing_behind(
    pod: POD, other: POD, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come behind any line."""
    whole = SqliteBackend._begin_outermost

    def interrupted(self: SqliteBackend, connection: Any, *, full: bool) -> None:
        whole(self, connection, full=full)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SqliteBackend, "_begin_outermost", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pod["a"] = 1
    done = threading.Event()
    thread = threading.Thread(target=lambda: (other.update(a=2), done.set()))
    thread.start()
    thread.join(30)
    assert done.is_set()
    assert pod == {"a": 2}


def test_a_commit_that_fails_changes_nothing_at_hand(pod: POD, other: POD, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.update(l=[1], n=1)
    alias = pod["l"]

    def failing(*_: object) -> None:
        raise StateError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteBackend, "_end", failing)
        for act in (lambda: alias.append(2), lambda: pod.__setitem__("n", 5), lambda: pod.pop("l")):
            with pytest.raises(StateError, match="full"):
                act()
    assert (alias, pod.copy(), other.copy()) == ([1], {"l": [1], "n": 1}, {"l": [1], "n": 1})
    alias.append(3)
    assert other["l"] == [1, 3]


# -- values and places


def test_a_value_that_is_too_deep_to_be_read_back_is_refused(pod: POD) -> None:
    value: list[Any] = []
    for _ in range(99):
        value = [value]
    pod["deep"] = value
    assert pod.copy()["deep"] == value
    with pytest.raises(InvalidValue, match="too deeply"):
        pod["deeper"] = [value]
    inner = pod["deep"]
    while inner:
        inner = inner[0]
    with pytest.raises(InvalidValue, match="too deeply"):
        inner.append([])
    assert pod.copy() == {"deep": value}


def test_an_update_may_read_from_other_threads_what_it_writes(pod: POD) -> None:
    """Nothing that others need is held while the caller's iterator runs."""
    pod["a"] = 1
    seen: list[int] = []

    def pairs() -> Iterator[tuple[str, int]]:
        thread = threading.Thread(target=lambda: seen.append(pod["a"]))
        thread.start()
        thread.join(30)
        yield "b", seen[0] + 1

    pod.update(pairs())
    assert pod == {"a": 1, "b": 2}


def test_to_open_for_reading_makes_nothing(tmp_path: Path) -> None:
    POD(tmp_path / "a", store="one").close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.raises(StateError, match="no such store"):
        POD(tmp_path / "a", store="two", mode="r")
    now = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    now.pop("state.db-shm", None)  # SQLite's memory that readers and writers share, and a WAL without anything in it
    assert now.pop("state.db-wal", b"") == b""
    assert now == before


def test_a_folder_that_was_deleted_or_replaced_is_not_written_on(tmp_path: Path) -> None:
    pod = POD(tmp_path / "a", init={"n": 1})
    shutil.rmtree(tmp_path / "a")
    for act in (lambda: pod.__setitem__("n", 2), lambda: pod.incr("n"), pod.sync):
        with pytest.raises(StateError, match="moved or deleted"):
            act()
    with POD(tmp_path / "b", init={"n": 7}):
        pass
    os.rename(tmp_path / "b", tmp_path / "a")
    with pytest.raises(StateError, match="moved or deleted"):
        pod["n"] = 3
    with pytest.raises(StateError, match="moved or deleted"):
        pod.close()


def test_law_9_bounded_memory_by_the_size_of_values(pod: POD) -> None:
    pod.update((number, "x" * 1_000_000) for number in range(40))
    for number in range(40):
        assert len(pod[number]) == 1_000_000
    assert pod._memory._characters <= 9_000_000


def test_a_damaged_task_is_told_and_no_claim_takes_any(tmp_path: Path) -> None:
    with Tracker(tmp_path / "t") as tracker:
        tracker.add_many(["a", "b", "c"])
        (task,) = tracker.claim()
        sql(tmp_path / "t", "UPDATE entry_main SET value = '{\"x\":1}' WHERE key = '\"c\"'")
        with pytest.raises(IntegrityError):
            tracker.claim(10)
        assert [attempt.key for attempt in tracker.claims()] == ["a"]
        with pytest.raises(IntegrityError):
            tracker.finish([task], claim=10)
        assert (task.is_ended, tracker.num_done()) == (False, 0)
        assert [claimed.key for claimed in tracker.finish([task], claim=1)] == ["b"]


def sql(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "state.db")) as connection, connection:
        connection.execute(statement)


LOOK = "import sys\nfrom holdfast.state import POD\nprint(POD(sys.argv[1], mode='r')['a'])"


def test_who_only_reads_writes_nothing_and_waits_for_nobody(tmp_path: Path) -> None:
    with POD(tmp_path / "p") as pod:
        pod["a"] = 1
        with pod.transaction():
            pod["a"] = 2
            ran = subprocess.run(
                [sys.executable, "-c", LOOK, str(tmp_path / "p")],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        assert ran.stdout == "1\n"
        files = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir() if not path.name.endswith("-shm")}
        subprocess.run([sys.executable, "-c", LOOK, str(tmp_path / "p")], capture_output=True, timeout=30, check=True)
        now = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir() if not path.name.endswith("-shm")}
        assert now == files


def test_reading_where_no_store_is_makes_none(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "state.db").touch()
    with pytest.raises(NoSuchStore):
        POD(tmp_path / "p", mode="r")
    assert [(path.name, path.stat().st_size) for path in (tmp_path / "p").iterdir()] == [("state.db", 0)]
