from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.testing import Replayer, Tree, count_events, record, run_killed_at, run_signalled_at

pytestmark = pytest.mark.usefixtures("tracing")

Python = Callable[..., list[str]]

WRITER = """
    import os, sys
    os.chdir(sys.argv[1])
    for name in ("a", "b"):
        with open(name + ".tmp", "wb", buffering=0) as file:
            file.write(name.encode() * 100)
            os.fsync(file.fileno())
        os.rename(name + ".tmp", name)
        os.write(1, name.encode())
"""


@pytest.mark.parametrize("after", [True, False])
def test_killed_at_every_event_the_disk_holds_exactly_what_the_recording_says(
    after: bool, tmp_path: Path, python: Python
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    argv = python(WRITER, work)
    recording = record(argv, work)
    assert len(recording.events) == 10
    for n in range(1, 11):
        shutil.rmtree(work)
        work.mkdir()
        outcome = run_killed_at(argv, n, work, after=after)
        assert (outcome.reached, outcome.returncode) == (True, -signal.SIGKILL)
        prefix = n if after else n - 1
        replayer = Replayer(recording)
        replayer.advance_to(prefix)
        assert Tree.read_from(work) == replayer.tree("killed")
        assert outcome.stdout == recording.said(prefix)
        assert outcome.event_count == prefix


def test_an_event_that_never_comes_lets_the_command_finish(root: Path, python: Python) -> None:
    outcome = run_killed_at(python(WRITER, root), 11, root)
    assert (outcome.reached, outcome.returncode, outcome.stdout) == (False, 0, b"ab")
    with pytest.raises(ValueError, match="from 1"):
        run_killed_at(python(WRITER, root), 0, root)


def test_events_are_counted(root: Path, python: Python) -> None:
    assert count_events(python(WRITER, root), root) == 10


FAMILY = """
    import os, sys, threading
    os.chdir(sys.argv[1])
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        def fill(name):
            file = os.open(name, os.O_WRONLY | os.O_CREAT)
            while True:
                os.write(file, b"more")
        os.write(write_end, b"x")
        threading.Thread(target=fill, args=("thread",)).start()
        fill("child")
    os.read(read_end, 1)
    file = os.open("parent", os.O_WRONLY | os.O_CREAT)
    while True:
        os.write(file, b"more")
"""


@pytest.mark.parametrize("n", [3, 50, 200])
def test_children_and_threads_die_too_and_nothing_more_is_written(n: int, root: Path, python: Python) -> None:
    outcome = run_killed_at(python(FAMILY, root), n, root)
    assert outcome.reached
    writes = sum(path.stat().st_size for path in root.iterdir()) // 4
    assert len(os.listdir(root)) + writes == n == outcome.event_count


POLITE = """
    import os, signal, sys
    os.chdir(sys.argv[1])
    try:
        for number in range(10):
            os.write(1, b"%d" % number)
            open(str(number), "x").close()
    except KeyboardInterrupt:
        open("tidied up", "x").close()
        sys.exit(130)
"""


@pytest.mark.parametrize("after", [True, False])
def test_a_signal_comes_at_the_chosen_event_and_the_command_goes_on_to_its_end(
    after: bool, root: Path, python: Python
) -> None:
    outcome = run_signalled_at(python(POLITE, root), 5, signal.SIGINT, root, after=after)
    assert (outcome.reached, outcome.returncode, outcome.stdout) == (True, 130, b"012")
    assert sorted(os.listdir(root)) == ["0", "1", "tidied up"]


def test_a_signal_nobody_handles_ends_the_command(root: Path, python: Python) -> None:
    outcome = run_signalled_at(python(WRITER, root), 4, signal.SIGTERM, root)
    assert (outcome.reached, outcome.returncode, outcome.stdout) == (True, -signal.SIGTERM, b"")
    assert os.listdir(root) == ["a"]


def test_only_the_main_process_is_signalled(root: Path, python: Python) -> None:
    code = """
        import os, sys
        child = os.fork()
        if child == 0:
            for name in "abc":
                open(f"{sys.argv[1]}/{name}", "x").close()
            os._exit(0)
        try:
            os.waitpid(child, 0)
        except KeyboardInterrupt:
            os.waitpid(child, 0)
            print("interrupted, child finished")
    """
    outcome = run_signalled_at(python(code, root), 1, signal.SIGINT, root)
    assert (outcome.reached, outcome.returncode) == (True, 0)
    assert outcome.stdout == b"interrupted, child finished\n"
    assert len(os.listdir(root)) == 3
