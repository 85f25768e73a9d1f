"""Many who write at once: processes and threads, in any order, killed or forked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ConflictError, StateError
from holdfast.state import POD

SPAWN = multiprocessing.get_context("spawn")


def count_up(folder: Path, number: int, times: int) -> None:
    with POD(folder, durability="kill") as pod:
        for i in range(times):
            pod.incr("incr")
            pod.set["set"] += 1
            with pod.transaction():
                pod["transaction"] += 1
            pod["list"].append([number, i])
            pod["deep"]["in"]["list"].append(number)
            while True:
                try:
                    pod["retried"] += 1
                    break
                except ConflictError:
                    pass


def run_all(processes: list[Any]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_counts_and_appends_of_eight_processes_are_all_kept(tmp_path: Path) -> None:
    times, workers = 25, 8
    names = ("incr", "set", "transaction", "retried")
    with POD(tmp_path / "a", init={**dict.fromkeys(names, 0), "list": [], "deep": {"in": {"list": []}}}) as pod:
        run_all([SPAWN.Process(target=count_up, args=(tmp_path / "a", n, times)) for n in range(workers)])
        assert [pod[name] for name in names] == [times * workers] * 4
        assert sorted(pod["list"]) == [[n, i] for n in range(workers) for i in range(times)]
        for n in range(workers):
            assert [i for m, i in pod["list"] if m == n] == list(range(times))  # each one's in its own order
        assert sorted(pod["deep"]["in"]["list"]) == sorted([*range(workers)] * times)
        assert pod.verify() == []


def in_threads(count: int, act: Callable[[int], None]) -> None:
    """Do it in so many threads at once; whatever one raises is raised."""
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            act(number)
        except BaseException as error:  # noqa: BLE001 (raised below)
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for problem in problems:
        raise problem


def test_threads_of_one_handle(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"list": [], "n": 0}) as pod:

        def work(number: int) -> None:
            for i in range(50):
                pod["list"].append(number)
                pod.incr("n")
                pod[number, i] = [i]
                assert pod[number, i] == [i]
                assert len(pod["list"]) >= i

        in_threads(4, work)
        assert (pod["n"], len(pod["list"]), len(pod)) == (200, 200, 202)


def test_counting_inside_a_value_by_threads_is_exact_or_a_conflict(tmp_path: Path) -> None:
    """Each thread has its own value at hand, so none can change it between another's reading and writing."""
    with POD(tmp_path / "a", init={"a": {"n": 0}}) as pod:
        said: list[int] = []

        def work(_: int) -> None:
            for _ in range(100):
                try:
                    pod["a"]["n"] += 1
                    said.append(1)
                except ConflictError:
                    pass

        in_threads(4, work)
        assert pod["a"]["n"] == len(said) > 0


def test_a_list_that_threads_pass_on_to_each_other(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"list": []}) as pod:
        alias = pod["list"]

        def work(number: int) -> None:
            for i in range(50):
                alias.append([number, i])
                pod["list"].append([number, i])

        in_threads(4, work)
        assert len(pod["list"]) == len(alias) == 400
        assert sorted(map(tuple, alias)) == sorted([(n, i) for n in range(4) for i in range(50)] * 2)


def test_no_thread_sees_what_another_has_not_finished(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"n": 0, "list": []}) as pod:
        seen: list[Any] = []

        def look(_: int) -> None:
            seen.append((pod["n"], list(pod["list"]), len(pod), "new" in pod, list(pod)))

        with pytest.raises(KeyError), pod.transaction():  # noqa: PT012 (what it undoes)
            pod["n"] = 1
            pod["list"].append(1)
            pod["new"] = 1
            in_threads(1, look)
            raise KeyError
        in_threads(1, look)
        assert seen == [(0, [], 2, False, ["n", "list"])] * 2


def test_a_store_that_is_closed_while_threads_read_is_said_to_be_closed(tmp_path: Path) -> None:
    pod = POD(tmp_path / "a", init={n: n for n in range(100)})
    begun = threading.Barrier(3)

    def read(_: int) -> None:
        begun.wait()
        with pytest.raises(StateError, match=r"closed"):  # noqa: PT012 (read until it is)
            while True:
                assert pod[7] == 7
                assert len(list(pod.items())) == 100

    threads = [threading.Thread(target=lambda: in_threads(1, read)) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()
    pod.close()
    for thread in threads:
        thread.join()


HOLDER = """
import sys
from holdfast.state import POD
pod = POD(sys.argv[1])
pod.lock()
with pod.transaction():
    pod["mine"] = 1
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_holder_that_is_killed_blocks_nobody(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"n": 0}) as pod:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "a")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert pod["n"] == 0  # who reads never waits
            holder.send_signal(signal.SIGKILL)
        pod["n"] += 1
        assert pod == {"n": 1}


def test_locked_keeps_the_others_from_writing(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"n": 0}) as pod:
        writers = [SPAWN.Process(target=count_in_locked, args=(tmp_path / "a",)) for _ in range(4)]
        with pod.locked():
            for writer in writers:
                writer.start()
            with pod.locked():
                pod["n"] = 0
            pod["n"] += 1
        for writer in writers:
            writer.join()
        assert pod["n"] == 81
        with pytest.raises(StateError, match="not held"):
            pod.unlock()


def count_in_locked(folder: Path) -> None:
    with POD(folder) as pod:
        for _ in range(20):
            with pod.locked():
                value = pod["n"]
                pod["n"] = value + 1


def in_child(act: Callable[[], None]) -> int:
    """The exit status of a forked child that does this."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:  # noqa: BLE001 (told by its status)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_parent_and_forked_child_both_go_on(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"n": 0, "list": []}) as pod:
        alias = pod["list"]

        def child() -> None:
            pod["n"] += 1
            alias.append("child")
            pod.close()

        for round_ in range(3):
            assert in_child(child) == 0
            pod["n"] += 1
            alias.append(round_)
        assert (pod["n"], pod["list"]) == (6, ["child", 0, "child", 1, "child", 2])
        assert pod.verify() == []


def test_a_child_of_a_transaction_or_a_snapshot_uses_the_store_not_at_all(tmp_path: Path) -> None:
    """SQLite would take no lock for it."""
    with POD(tmp_path / "a", init={"n": 0}) as pod, POD(tmp_path / "b") as other:

        def child() -> None:
            with pytest.raises(StateError, match="forked in the middle"):
                pod["n"]
            with pytest.raises(StateError, match="forked in the middle"):
                pod["n"] = 5
            other["of the child"] = 1

        with pod.transaction():
            pod["n"] = 1
            assert in_child(child) == 0
            pod["n"] += 1
        assert pod["n"] == 2
        with pod.snapshot() as frozen:
            assert in_child(child) == 0
            assert frozen == {"n": 2}
        pod["n"] += 1
        assert (pod, other) == ({"n": 3}, {"of the child": 1})
        assert pod.verify() == []


def test_a_forked_child_takes_its_turn_in_the_kernel(tmp_path: Path) -> None:
    """The table of locks that SQLite keeps in memory must not be the parent's: two programs would checkpoint at once."""
    with POD(tmp_path / "a", init={"n": 0}) as pod:
        assert pod["n"] == 0  # the connections are open

        def child() -> None:
            with pod.transaction():
                pod["n"] += 1
                seen = subprocess.run(
                    [sys.executable, "-c", LOOKER, str(tmp_path / "a" / "state.db")], check=False, capture_output=True
                )
                assert b"locked" in seen.stderr, seen

        assert in_child(child) == 0
        assert pod["n"] == 1


LOOKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
"""


def test_what_is_held_is_written_once_whoever_is_forked(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"n": 0}) as pod, POD(tmp_path / "a") as other:
        pod.hold()
        pod["n"] = pod["n"] + 1
        assert in_child(pod.unhold) == 0
        other.incr("m")
        assert other == {"n": 0, "m": 1}
        pod.unhold()
        assert other["n"] == 1


def test_threads_fork_while_others_write(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"n": 0}) as pod:
        stop = threading.Event()
        counted: list[int] = []

        def work() -> None:
            while not stop.is_set():
                counted.append(pod.incr("n"))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            assert in_child(lambda: pod.incr("child") and None) == 0
        stop.set()
        for thread in threads:
            thread.join()
        assert (pod["n"], pod["child"]) == (len(counted), 10)
        assert sorted(counted) == list(range(1, len(counted) + 1))
        assert pod.verify() == []


def test_what_is_held_at_the_end_of_the_process_is_written(tmp_path: Path) -> None:
    program = "import sys\nfrom holdfast.state import POD\npod = POD(sys.argv[1])\npod.hold()\npod['a'] = [1]\n"
    subprocess.run([sys.executable, "-W", "error", "-c", program, str(tmp_path / "a")], check=True)
    with POD(tmp_path / "a") as pod:
        assert pod == {"a": [1]}


def test_the_end_of_a_process_does_not_wait_for_a_thread_that_goes_on(tmp_path: Path) -> None:
    program = """
import sys, threading
from holdfast.state import POD, opened
opened.EXIT_TIMEOUT_S = 0.1
pod = POD(sys.argv[1])
begun = threading.Event()

def work():
    with pod.transaction():
        pod["never"] = 1
        begun.set()
        threading.Event().wait()

threading.Thread(target=work, daemon=True).start()
begun.wait()
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], check=True, timeout=30)
    with POD(tmp_path / "a") as pod:
        assert pod == {}
