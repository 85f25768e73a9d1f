"""Stores in a database of SQLite: one folder, any number of processes and threads, no server.

    FOLDER/state.db      the database, in WAL mode; a table `entry_NAME` for each store
    FOLDER/commit.lock   the lock that every commit, checkpoint and close takes (see `locks`),
    FOLDER/queue.lock    and the one of those who wait for it

A transaction survives the end of the process when it has returned (`synchronous=NORMAL`: the WAL is written, and
synced only before it is folded in), and a power cut as well where that was asked for (`FULL`). A checkpoint is a part
of the commit that has made the WAL long, so it happens under the lock, too: one beside a commit can, very rarely, corrupt
a WAL in SQLite before 3.51.3 (https://www.sqlite.org/wal.html, "The WAL-reset bug"). The WAL is not cut down by it, but
written again from its begin: to sync what makes a file longer takes twice as long.

Each process has two connections, one that writes and one that reads, so that no thread sees another's unfinished
work. Nothing is open while a process forks: SQLite keeps a table of its locks in memory, and a child that inherits it
would take no lock in the kernel (https://www.sqlite.org/howtocorrupt.html, section 2.6). Both sides open again when they
need to; a child that was forked in the middle of a transaction cannot use the store at all, and is told so.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from holdfast import durable
from holdfast.errors import HoldfastError, IntegrityError, NoSuchStore, StateError
from holdfast.state.backend import Reader, Stamp
from holdfast.state.database import Database
from holdfast.state.folderwatch import FolderWatch
from holdfast.state.locks import CommitLock, TurnLock
from holdfast.state.place import prepare_folder
from holdfast.state.tables import CHANGE_ANYTHING, FORMAT, SQLITE, Connection, Looking, first_statements

CHECKPOINT_PAGES = 2048
"""The WAL is folded into the database when it has so many pages, 8 MiB."""
LONGEST_WAL_BYTES = 64 * 2**20
"""It is cut down to this when it has grown longer, as a snapshot was open for long."""
BUSY_TIMEOUT_S = 30.0
"""How long to wait for a program that writes without our lock, such as SQLite's own shell."""


class SqliteBackend(Database):
    """The database of one folder."""

    errors = sqlite3.Error
    dialect = SQLITE

    def __init__(self, folder: Path, *, only_read: bool = False) -> None:
        if not only_read:
            prepare_folder(folder)
        self.folder = folder
        self.path = folder / "state.db"
        self._only_read = only_read
        # who only reads waits for nobody, and keeps nobody waiting: nothing of it is a commit, or a checkpoint
        super().__init__(str(self.path), TurnLock(str(folder)) if only_read else CommitLock(folder))
        try:
            with self._explained:
                self._make_if_missing()
                self._connect()
            self._identity = self._identity_now()
        except BaseException:
            self._disconnect()
            self._turn.close()
            raise

    def _nothing_open(self) -> None:
        super()._nothing_open()
        self._open: list[sqlite3.Connection] = []
        self._level_is_full: bool | None = None  # what SQLite begins with is the builder's choice

    # -- opening and closing

    def _make_if_missing(self) -> None:
        """Make the database, under the lock; one that is there is opened without waiting for whoever writes."""
        if self._is_made():
            return
        if self._only_read:
            raise NoSuchStore("no store to read", place=str(self.path), hint="name the folder of one")
        try:
            self._turn.acquire()
            self._make()
        finally:
            self._turn.to_depth(0)

    def _connect(self) -> None:
        self._writer = Looking(self._open[0] if self._open else self._connection(), self.path, self._kinds)
        self._reader = Looking(self._connection(), self.path, self._kinds)
        self._reader.connection.execute("PRAGMA query_only=ON")
        self._opened += 1

    def _is_made(self) -> bool:
        if not self.path.exists():
            return False
        return self._format_of(self._connection()) is not None

    def _make(self) -> None:
        if not self.path.exists():
            os.close(durable.create_file(self.path))
        connection = self._open[0] if self._open else self._connection()
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise StateError(
                "a store cannot be kept on this file system",
                place=str(self.path),
                expected="a local disk on which SQLite has its WAL mode",
                found=f"journal mode {mode}",
                hint="name a folder on a local disk",
            )
        connection.executescript(f"BEGIN IMMEDIATE; {'; '.join(first_statements(self.dialect))}; COMMIT;")

    def _format_of(self, connection: sqlite3.Connection) -> str | None:
        """The format of the database, None when it is still empty. Raises `StateError` for one that is not known."""
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return None
        (found,) = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() or ("none",)
        if found != FORMAT:
            raise StateError(
                "the store is of another format than this Holdfast knows",
                place=str(self.path),
                expected=f"format {FORMAT}",
                found=f"format {found}",
                hint="use the Holdfast release that made it, or a newer one: pip install --upgrade holdfast",
            )
        return found

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?mode={'ro' if self._only_read else 'rw'}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
            cached_statements=256,
        )
        self._open.append(connection)
        if not self._only_read:
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={LONGEST_WAL_BYTES}")
        connection.execute("PRAGMA cache_size=-4000")
        return connection

    def _identity_now(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _check_place(self) -> None:
        """Raise `StateError` when the folder is gone, or another one: what is written would be nowhere."""
        if self._identity_now() != self._identity:
            raise StateError(
                "the folder of an open store was moved or deleted; nothing was written",
                place=str(self.path),
                expected="the database that was opened",
                found="another one" if self.path.exists() else "none",
                hint="put it back, or close the store and open it again",
            )

    def is_at_its_place(self) -> bool:
        """Whether the database that was opened is what lies there now."""
        return not self._unusable and self._identity_now() == self._identity

    def _disconnect(self) -> None:
        self._reader = self._writer = None
        self._level_is_full = None
        while self._open:
            self._open.pop().close()

    # -- forking

    def before_fork(self, timeout_s: float) -> bool:
        got = super().before_fork(timeout_s)
        if got and not self._snapshots and not self._levels:
            self._disconnect()
        return got

    def _forget_in_child(self) -> None:
        if self._open:  # never closed here, which would be closing for the parent, nor used
            for connection in self._open:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            self._unusable = "this process was forked in the middle of a transaction or a snapshot"

    # -- errors

    def explanation(self, error: Exception) -> HoldfastError:
        text = str(error)
        if "disk is full" in text:
            return durable.disk_full_error(self.path)
        if "malformed" in text or "not a database" in text:
            hint = "put back a copy of this folder, or move it away: a new one is made"
            return IntegrityError("the store is damaged", place=str(self.path), found=text, hint=hint)
        hint = "look at the disk, and at who else has this file open"
        return StateError("the store cannot be used", place=str(self.path), found=text, hint=hint)

    # -- reading

    def stamp(self) -> Stamp:
        with self._mutex:
            try:
                (version,) = self._opened_reader().connection.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error as error:
                raise self.explanation(error) from error
            return self.generation, self._opened, version

    def now_ns(self) -> int:
        return time.time_ns()

    @contextmanager
    def snapshot(self) -> Generator[Reader, None, None]:
        with self._mutex, self._explained:
            self._opened_reader()
            connection = self._connection()
            self._snapshots += 1
        try:
            with self._explained:
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM meta").fetchone()  # from here on, one state
            yield Looking(connection, self.path, self._kinds)
        finally:
            depth = self._due_depth()
            try:
                self._turn.acquire()
                with self._mutex:
                    self._snapshots -= 1
                    if connection in self._open:
                        self._open.remove(connection)
                    connection.close()
            finally:
                self._turn.to_depth(depth)

    @contextmanager
    def awaiting_changes(self) -> Generator[Callable[[float], object], None, None]:
        self._check_usable()
        with FolderWatch(self.folder) as folder:
            yield folder.wait

    # -- committing

    def _begin_in(self, connection: Connection, *, full: bool) -> None:
        self._set_level(connection, full=full)
        connection.execute("BEGIN IMMEDIATE")

    def _commit_in(self, connection: Connection, *, full: bool) -> None:  # noqa: ARG002 (see `_make_full`)
        connection.execute("COMMIT")

    def _make_full(self, connection: Connection) -> None:
        if not self._level_is_full:
            self._sync_in(connection)

    def _keep_others_out(self) -> None:
        """The lock of the folder does."""

    def _let_others_in(self) -> None:
        """When the lock of the folder is given back."""

    def _set_level(self, connection: Connection, *, full: bool) -> None:
        """Whether commits are synced; SQLite lets it be set between transactions only."""
        if full is not self._level_is_full:
            self._level_is_full = None
            connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._level_is_full = full

    def _sync_in(self, connection: Connection) -> None:
        """A commit that is synced carries all before it along: they stand in the same file.

        It must change something: SQLite writes no page that is as it was.
        """
        self._set_level(connection, full=True)
        connection.execute(CHANGE_ANYTHING)
