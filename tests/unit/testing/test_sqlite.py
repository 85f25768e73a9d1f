"""The proof that the tools work: SQLite, whose promises are known, keeps and breaks them exactly where it should.

With a write-ahead log and synchronous=FULL every row whose commit was said survives every cut; with synchronous=OFF
the tools must find a cut that loses one. A tool that could not fail would show nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.testing import Recording, State, distinct_states, record

pytestmark = pytest.mark.usefixtures("tracing")

Python = Callable[..., list[str]]

WRITER = """
    import os, sqlite3, sys, threading
    folder, mode, synchronous, threads = sys.argv[1:]
    def connect():
        db = sqlite3.connect(folder + "/db", isolation_level=None, timeout=60)
        db.execute(f"pragma journal_mode={mode}")
        db.execute(f"pragma synchronous={synchronous}")
        db.execute("pragma wal_autocheckpoint=8")
        return db
    def write(first, count):
        db = connect()
        for number in range(first, first + count):
            db.execute("begin immediate")
            db.execute("insert into rows values (?, ?)", (number, bytes([number]) * 3000))
            db.execute("commit")
            os.write(1, b"%d\\n" % number)
        db.close()
    db = connect()
    db.execute("create table rows (number integer primary key, data blob)")
    # SQLite never syncs the folder for the database file itself: who makes it has to.
    os.fsync(os.open(folder, os.O_RDONLY))
    os.write(1, b"0\\n")
    workers = [threading.Thread(target=write, args=(1 + 20 * n, 20 // int(threads))) for n in range(int(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    db.close()
"""


def written(root: Path, python: Python, mode: str, synchronous: str, threads: int = 1) -> Recording:
    recording = record(python(WRITER, root, mode, synchronous, threads), root)
    assert (recording.returncode, recording.stderr) == (0, b"")
    assert len(recording.stdout.splitlines()) == 21
    return recording


def lost_rows(state: State, folder: Path) -> set[int]:
    """The rows that were said to be committed and are not there; -1 stands for the table, -2 for a damaged file."""
    said = {int(line) for line in state.said.splitlines()}
    if not said:
        return set()
    state.tree.write_to(folder)
    with closing(sqlite3.connect(folder / "db")) as db:
        try:
            if db.execute("pragma integrity_check").fetchall() != [("ok",)]:
                return {-2}
            rows = dict(db.execute("select number, data from rows"))
        except sqlite3.OperationalError:
            return {-1}
        except sqlite3.DatabaseError:
            return {-2}
    return {number for number in said - {0} if rows.get(number) != bytes([number]) * 3000}


@pytest.mark.parametrize(
    ("mode", "synchronous", "threads"), [("wal", "full", 1), ("wal", "full", 2), ("delete", "extra", 1)]
)
def test_where_sqlite_promises_it_nothing_that_was_said_is_ever_lost(
    mode: str, synchronous: str, threads: int, root: Path, tmp_path: Path, python: Python
) -> None:
    recording = written(root, python, mode, synchronous, threads)
    checked = 0
    for number, state in enumerate(distinct_states(recording, seeds=[0])):
        lost = lost_rows(state, tmp_path / str(number))
        assert not lost, f"{state.label}: lost {lost}"
        checked += bool(state.said)
    assert checked > 50


def test_the_one_thing_that_extra_adds_to_full_is_found(root: Path, tmp_path: Path, python: Python) -> None:
    """Without a log, a commit is the unlinking of the journal, and "full" does not sync that: it may come back."""
    recording = written(root, python, "delete", "full")
    lost = [
        lost_rows(state, tmp_path / str(number)) for number, state in enumerate(distinct_states(recording, ["dropped"]))
    ]
    # Never more than the last row: the next transaction's sync of the folder makes the unlinking before it durable.
    assert max(map(len, lost)) == 1
    assert not any({-1, -2} & rows for rows in lost)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_without_synchronisation_the_lost_rows_are_found(mode: str, root: Path, tmp_path: Path, python: Python) -> None:
    recording = written(root, python, mode, "off")
    found = {
        variant: [
            bool(lost_rows(state, tmp_path / f"{variant}-{number}"))
            for number, state in enumerate(distinct_states(recording, [variant], seeds=[0]))
        ]
        for variant in ("killed", "dropped", "torn")
    }
    assert not any(found["killed"])  # a killed process loses nothing: the system lives
    assert sum(found["dropped"]) > 15
    assert any(found["torn"])
