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


def test_threads_of_one_handle(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"list": [], "n": 0}) as pod:
        problems: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for i in range(50):
                    pod["list"].append(number)
                    pod.incr("n")
                    pod[number, i] = [i]
                    assert pod[number, i] == [i]
                    assert len(pod["list"]) >= i
            except BaseException as error:  # noqa: BLE001 (told below)
                problems.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert (pod["n"], len(pod["list"]), len(pod)) == (200, 200, 202)


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


def test_a_transaction_is_not_the_childs(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={"n": 0}) as pod:
        with pod.transaction():
            pod["n"] = 1
            child = os.fork()
            if child == 0:
                try:
                    assert pod["n"] == 0
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            pod["n"] += 1
        assert pod["n"] == 2


def test_what_is_held_at_the_end_of_the_process_is_written(tmp_path: Path) -> None:
    program = "import sys\nfrom holdfast.state import POD\npod = POD(sys.argv[1])\npod.hold()\npod['a'] = [1]\n"
    subprocess.run([sys.executable, "-W", "error", "-c", program, str(tmp_path / "a")], check=True)
    with POD(tmp_path / "a") as pod:
        assert pod == {"a": [1]}
