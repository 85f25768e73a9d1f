"""Who is at work on a vault, and how far: one row for each run, and the lock that lets only one write.

State is work, not fact: it can be thrown away. The lock is a `flock` on `vault.lock`, which the kernel releases when
its holder dies; the file's text only names the holder to others.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast import durable
from holdfast.errors import BusyError, HoldfastError, VaultError

SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY,
    command TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    begun_ns INTEGER NOT NULL,
    ended_ns INTEGER,
    outcome TEXT
)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command that writes; `ended_ns` is None while it lasts, or when it was killed."""

    command: str
    host: str
    pid: int
    begun_ns: int
    ended_ns: int | None
    outcome: str | None


@contextmanager
def vault_lock(path: Path, command: str) -> Generator[None, None, None]:
    """Hold the vault alone. Raises `BusyError` naming who holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise VaultError(
            "the vault cannot be written",
            place=str(path.parent),
            found=error.strerror or str(error),
            hint="choose a vault that you may write to with --vault DIR",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(path, os.pread(descriptor, 4096, 0)) from None
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "command": command, "since_ns": time.time_ns()}
        with durable.disk_full_explained(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _busy(path: Path, text: bytes) -> BusyError:
    try:
        owner = json.loads(text)
        who = f"'holdfast {owner['command']}', process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return BusyError(
        "the vault is in use",
        place=str(path.parent),
        found=who,
        hint="wait for it to end, then run the same command again",
    )


class RunLog:
    """The rows of past and present runs. Holds no connection between calls."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def _connection(self) -> Generator[sqlite3.Connection, None, None]:
        try:
            with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(SCHEMA)
                yield connection
        except sqlite3.Error as error:
            raise self._explanation(str(error)) from error

    def _explanation(self, text: str) -> HoldfastError:
        if "disk is full" in text:
            return durable.disk_full_error(self._path)
        return VaultError(
            "the log of runs cannot be kept",
            place=str(self._path),
            found=text,
            hint="look at the disk, and move this file away if it is damaged: it holds no facts, and is made anew",
        )

    @contextmanager
    def running(self, command: str) -> Generator[None, None, None]:
        """A row for the run of this block; its outcome is `done` or the name of the error."""
        with self._connection() as connection:
            begun = (command, socket.gethostname(), os.getpid(), time.time_ns())
            row = connection.execute("INSERT INTO run (command, host, pid, begun_ns) VALUES (?, ?, ?, ?)", begun)
            run_id = row.lastrowid
        try:
            yield
        except BaseException as error:
            try:
                self._end(run_id, type(error).__name__)
            except HoldfastError:
                pass  # what went wrong first is what must be told
            raise
        self._end(run_id, "done")

    def _end(self, run_id: int | None, outcome: str) -> None:
        with self._connection() as connection:
            ended = (time.time_ns(), outcome, run_id)
            connection.execute("UPDATE run SET ended_ns = ?, outcome = ? WHERE id = ?", ended)

    def latest(self, count: int) -> list[Run]:
        """The newest runs, newest first."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT command, host, pid, begun_ns, ended_ns, outcome FROM run ORDER BY id DESC LIMIT ?", (count,)
            )
            return [Run(*row) for row in rows]
