"""Stores in a database of SQLite: one folder, any number of processes and threads, no server.

    FOLDER/state.db      the database, in WAL mode; a table `entry_NAME` for each store
    FOLDER/commit.lock   the lock that every commit, checkpoint and close takes (see `locks`)

A transaction survives the end of the process when it has returned (`synchronous=NORMAL`: the WAL is written, and
synced only before it is folded in), and a power cut as well where that was asked for (`FULL`). Checkpoints are ours and
happen under the lock: one beside a commit can, very rarely, corrupt a WAL in SQLite before 3.51.3
(https://www.sqlite.org/wal.html, "The WAL-reset bug").

Each process has two connections, one that writes and one that reads, so that no thread sees another's unfinished
work. Nothing is open while a process forks: SQLite keeps a table of its locks in memory, and a child that inherits it
would take no lock in the kernel (https://www.sqlite.org/howtocorrupt.html, section 2.6). Both sides open again when they
need to; a child that was forked in the middle of a transaction cannot use the store at all, and is told so.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from holdfast import durable
from holdfast.errors import HoldfastError, IntegrityError, StateError
from holdfast.state.backend import Durability, Reader, Stamp
from holdfast.state.entry import Row
from holdfast.state.locks import CommitLock
from holdfast.state.place import prepare_folder
from holdfast.state.sqlite_tasks import SqliteTasks
from holdfast.state.tables import FORMAT, SCHEMA, Looking, StoreNumbers, check_sum, statements_for
from holdfast.state.tasks import Tasks

CHECKPOINT_BYTES = 8 * 2**20
"""The WAL is folded into the database when it is longer than this."""
STORE_NAME = re.compile("[a-z][a-z0-9_]{0,39}")
GROUP = 5000
"""So many entries are written with one call."""
BUSY_TIMEOUT_S = 30.0
"""How long to wait for a program that writes without our lock, such as SQLite's own shell."""
FORK_TIMEOUT_S = 30.0
"""How long a fork waits for the transactions of other threads."""
EXIT_TIMEOUT_S = 5.0
"""How long the end of a process waits for the transactions of threads that are still there."""


@dataclass(slots=True)
class _Level:
    """Where a transaction, or one inside it, began: what to undo when it comes to nothing.

    `told`: what was registered once already, and need not be again.
    """

    undo: int
    commit: int
    states: dict[str, StoreNumbers]
    told: set[object] = field(default_factory=set[object])


class _OtherTask(StateError):
    """Nothing was begun."""


class SqliteBackend:
    """One open database; `shared` gives the same one to all who ask for the same folder in this process."""

    def __init__(self, folder: Path) -> None:
        prepare_folder(folder)
        self.folder = folder
        self.path = folder / "state.db"
        self.users = 0
        self._unusable = ""
        self._commit_lock = CommitLock(folder / "commit.lock")
        self._mutex = threading.RLock()  # guards the connection that reads, opening and closing; taken after the lock
        self._opened = 0
        self._kinds: dict[str, str] = {}
        self._given_revs: dict[str, int] = {}
        self._current = ContextVar[object](f"the transaction of {folder} that this thread, or this task of it, is in")
        self._nothing_open()
        try:
            with self._explained():
                self._make_if_missing()
                self._connect()
            self._identity = self._identity_now()
        except BaseException:
            self._disconnect()
            self._commit_lock.close()
            raise

    def _nothing_open(self) -> None:
        self._open: list[sqlite3.Connection] = []
        self._writer: Looking | None = None
        self._reader: Looking | None = None
        self._snapshots = 0
        self._levels: list[_Level] = []
        self._token: object = None
        self._transactions = 0
        self._is_doomed = self._is_committing = False
        self._user_locks = 0
        self._undo: list[Callable[[], object]] = []
        self._tell: list[Callable[[bool], object]] = []
        self._full = False
        self._fold_at_bytes = CHECKPOINT_BYTES
        self._level_is_full: bool | None = None  # what SQLite begins with is the builder's choice
        self._states: dict[str, StoreNumbers] = {}

    # -- opening and closing

    def _make_if_missing(self) -> None:
        """Make the database, under the lock; one that is there is opened without waiting for whoever writes."""
        if self._is_made():
            return
        try:
            self._commit_lock.acquire()
            self._make()
        finally:
            self._commit_lock.to_depth(0)

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
        connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} "
            f"INSERT OR IGNORE INTO meta VALUES ('format', '{FORMAT}'), ('syncs', '0'); COMMIT;"
        )

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
            f"file:{quote(os.fsencode(self.path))}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
            cached_statements=256,
        )
        self._open.append(connection)
        connection.execute("PRAGMA wal_autocheckpoint=0")
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

    def _opened_reader(self) -> Looking:
        """Under the mutex: the connection that reads."""
        if self._reader is None:
            self._open_again()
        assert self._reader is not None
        return self._reader

    def _opened_writer(self) -> sqlite3.Connection:
        """Under the commit lock: the connection that writes."""
        if self._writer is None:
            with self._mutex:
                self._open_again()
        assert self._writer is not None
        return self._writer.connection

    def _open_again(self) -> None:
        """After a fork."""
        self._check_usable()
        self._check_place()
        self._connect()

    def _check_usable(self) -> None:
        if self._unusable:
            raise StateError(
                "this store cannot be used here",
                place=str(self.path),
                found=self._unusable,
                hint="fork outside of transactions and snapshots, or start the process with spawn",
            )

    def close(self) -> None:
        with _registry_lock:
            self.users -= 1
            if self.users > 0:
                return
            _registry.pop(self.folder, None)
        self.shut()

    def shut(self, timeout_s: float = -1) -> None:
        """Close, whoever still uses it. The last one to close folds the WAL in, so this is done under the lock."""
        try:
            got = self._commit_lock.acquire(timeout_s)
        except StateError:
            return  # somebody else has closed it
        if got:
            try:
                with self._mutex:
                    self._unusable = "it is closed"
                    self._disconnect()
            finally:
                self._commit_lock.close()

    def is_at_its_place(self) -> bool:
        """Whether the database that was opened is what lies there now."""
        return not self._unusable and self._identity_now() == self._identity

    def _disconnect(self) -> None:
        self._reader = self._writer = None
        self._level_is_full = None
        while self._open:
            self._open.pop().close()

    # -- forking

    def before_fork(self) -> bool:
        """Close everything, when the other threads have ended their transactions; nobody goes on before `after_fork`.

        False, and nothing done, when this thread is in a transaction, or another one is for too long.
        """
        if self.inside() or not self._commit_lock.only_in_this_process(FORK_TIMEOUT_S):
            return False
        self._mutex.acquire()
        if not self._snapshots and not self._levels:
            self._disconnect()
        return True

    def after_fork(self) -> None:
        """In the parent: all go on."""
        self._mutex.release()
        self._commit_lock.to_all()

    def after_fork_in_child(self) -> None:
        if self._open:  # never closed here, which would be closing for the parent, nor used
            for connection in self._open:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            self._unusable = "this process was forked in the middle of a transaction or a snapshot"
        self._nothing_open()
        self._mutex = threading.RLock()
        self._commit_lock.forget_in_child()

    # -- errors

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explanation(str(error)) from error

    def _explanation(self, text: str) -> HoldfastError:
        if "disk is full" in text:
            return durable.disk_full_error(self.path)
        if "malformed" in text or "not a database" in text:
            hint = "put back a copy of this folder, or move it away: a new one is made"
            return IntegrityError("the store is damaged", place=str(self.path), found=text, hint=hint)
        hint = "look at the disk, and at who else has this file open"
        return StateError("the store cannot be used", place=str(self.path), found=text, hint=hint)

    # -- stores

    def make_store(self, store: str, kind: str) -> None:
        if not STORE_NAME.fullmatch(store):
            raise StateError("a store cannot have this name", expected=STORE_NAME.pattern, found=repr(store))
        if self._kind_of(store) is None:
            if self.inside():
                raise StateError(
                    "a store is not made in a transaction", place=f"{self.path}, store {store!r}", hint="open it before"
                )
            with self.transaction(Durability.POWER), self._explained():
                connection = self._writing()
                for statement in statements_for(store, kind):
                    connection.execute(statement)
                connection.execute("INSERT OR IGNORE INTO store (name, kind) VALUES (?, ?)", (store, kind))
        self.demand_store(store, kind)

    def demand_store(self, store: str, kind: str) -> None:
        found = self._kind_of(store)
        if found != kind:
            raise StateError(
                "there is no such store" if found is None else f"this store is a {found}",
                place=f"{self.path}, store {store!r}",
                expected=kind,
                found=found or "none",
                hint="name another store of this folder, or none, or open it for writing",
            )
        self._kinds[store] = kind

    def _kind_of(self, store: str) -> str | None:
        with self.looking() as looking:
            found = looking.connection.execute("SELECT kind FROM store WHERE name = ?", (store,)).fetchone()
        return None if found is None else found[0]

    # -- reading

    @contextmanager
    def looking(self) -> Generator[Looking, None, None]:
        """What can be read now: in a transaction with all that it has written, else what is committed."""
        with self._explained():
            if self.inside():
                yield self._whole()
            else:
                with self._mutex:
                    yield self._opened_reader()

    def get(self, store: str, key: str) -> Row | None:
        with self.looking() as looking:
            return looking.get(store, key)

    def page(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[Row]:
        with self.looking() as looking:
            return looking.page(store, after, limit, backwards=backwards)

    def keys(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[tuple[int, str]]:
        with self.looking() as looking:
            return looking.keys(store, after, limit, backwards=backwards)

    def count(self, store: str) -> int:
        if self.inside() and store in self._states:
            return self._states[store].entries
        with self.looking() as looking:
            return looking.count(store)

    def stamp(self) -> Stamp:
        with self._mutex:
            try:
                (version,) = self._opened_reader().connection.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error as error:
                raise self._explanation(str(error)) from error
            return self._opened, version

    @contextmanager
    def snapshot(self) -> Generator[Reader, None, None]:
        with self._mutex, self._explained():
            self._opened_reader()
            connection = self._connection()
            self._snapshots += 1
        try:
            with self._explained():
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM meta").fetchone()  # from here on, one state
            yield Looking(connection, self.path, self._kinds)
        finally:
            depth = self._due_depth()
            try:
                self._commit_lock.acquire()
                with self._mutex:
                    self._snapshots -= 1
                    if connection in self._open:
                        self._open.remove(connection)
                    connection.close()
            finally:
                self._commit_lock.to_depth(depth)

    # -- transactions

    def inside(self) -> bool:
        return bool(self._levels) and self._commit_lock.held() and self._current.get(None) is self._token

    def transaction_number(self) -> int:
        return self._transactions if self.inside() else 0

    def demand(self, durability: Durability) -> None:
        self._full |= durability is Durability.POWER

    def is_free_here(self) -> bool:
        return self._commit_lock.depth() == 0 and not self._mutex._is_owned()  # type: ignore[attr-defined]

    def is_committed(self, store: str, row: Row | None) -> bool:
        numbers = self._states.get(store)
        return numbers is None or (not numbers.removed if row is None else row.rev <= numbers.first_rev)

    def is_first(self, what: object) -> bool:
        told = self._levels[-1].told
        if what in told:
            return False
        told.add(what)
        return True

    def on_rollback(self, act: Callable[[], object]) -> None:
        self._undo.append(act)

    def on_commit(self, act: Callable[[bool], object]) -> None:
        self._tell.append(act)

    @contextmanager
    def transaction(self, durability: Durability) -> Generator[None, None, None]:
        # an interrupt may come behind any line: what is to be undone is told by what there was before
        depth = self._due_depth()
        level = len(self._levels) + 1 if self.inside() else 1
        try:
            with self._explained():
                self._begin(level, durability)
            yield
            with self._explained():
                self._end(level)
        except BaseException as error:
            with self._explained():
                self._come_to_nothing(level, error)
            raise
        finally:
            self._commit_lock.to_depth(depth)

    def _due_depth(self) -> int:
        """How often this thread should have the lock; an interrupt, as it was given back, may have left it more often."""
        return self._user_locks + len(self._levels) if self._commit_lock.held() else 0

    def _begin(self, level: int, durability: Durability) -> None:
        self._check_usable()
        self._commit_lock.acquire()
        connection = self._opened_writer()
        if level > 1:
            self._whole().connection.execute(f"SAVEPOINT level_{level}")
        else:
            self._check_alone()
            self._begin_outermost(connection, full=durability is Durability.POWER)
        states = {store: replace(numbers) for store, numbers in self._states.items()}
        self._levels.append(_Level(len(self._undo), len(self._tell), states))
        self.demand(durability)

    def _check_alone(self) -> None:
        """Raise `StateError` when another task of this very thread is in a transaction: that would not wait."""
        if self._levels:
            raise _OtherTask(
                "another task of this thread is in a transaction; nothing was written",
                place=str(self.path),
                hint="await nothing in a transaction, or give each task its own thread",
            )

    def _begin_outermost(self, connection: sqlite3.Connection, *, full: bool) -> None:
        self._check_place()
        if connection.in_transaction:  # an interrupt came in before the last one was known to have begun
            connection.execute("ROLLBACK")
        self._fold_if_long(connection)
        self._set_level(connection, full=full)
        self._states, self._undo, self._tell, self._full = {}, [], [], full
        self._is_doomed = self._is_committing = False
        self._transactions += 1
        self._token = object()
        self._current.set(self._token)
        connection.execute("BEGIN IMMEDIATE")

    def _end(self, level: int) -> None:
        if level != len(self._levels) or self._is_doomed:
            raise StateError(
                "transactions must be left in the reverse order in which they were entered; all was undone",
                place=str(self.path),
                expected=f"that transaction {len(self._levels)} is left first",
                found=f"transaction {level}",
                hint="use `with`, and leave no transaction open in a generator",
            )
        connection = self._whole().connection
        if level > 1:
            self._levels.pop()
            connection.execute(f"RELEASE level_{level}")
            return
        for store, numbers in self._states.items():
            connection.execute(
                "UPDATE store SET entries = ?, first_seq = ?, last_seq = ?, rev = ? WHERE name = ?",
                (numbers.entries, numbers.first_seq, numbers.last_seq, numbers.rev, store),
            )
        self._is_committing = True
        connection.execute("COMMIT")
        self._committed(connection)

    def _committed(self, connection: sqlite3.Connection) -> None:
        """It is done, and nothing of it can be undone; what fails from here on is its durability at most."""
        self._levels.clear()
        self._undo = []
        try:
            if self._full and not self._level_is_full:
                self._sync_all(connection)
        except BaseException:
            self._full = False
            raise
        finally:
            tell, self._tell = self._tell, []
            for act in tell:
                act(self._full)

    def _come_to_nothing(self, level: int, error: BaseException) -> None:
        """Undo what this level did; nothing is left to do where another one has undone it."""
        if isinstance(error, _OtherTask) or not self._commit_lock.held():
            return
        if level > 1 and level > len(self._levels):
            self._is_doomed = True  # an interrupt as it ended: nobody knows whether it has
            return
        connection = self._opened_writer()
        if self._was_committed(connection, error):
            self._committed(connection)
            return
        begin = self._levels[level - 1] if self._levels else _Level(0, 0, {})
        self._give_no_rev_twice()
        try:
            if connection.in_transaction and level == 1:
                connection.execute("ROLLBACK")
            elif connection.in_transaction:
                connection.execute(f"ROLLBACK TO level_{level}")
                connection.execute(f"RELEASE level_{level}")
        finally:
            del self._levels[level - 1 :]
            self._states = begin.states
            del self._tell[begin.commit :]
            while len(self._undo) > begin.undo:
                self._undo.pop()()

    def _was_committed(self, connection: sqlite3.Connection, error: BaseException) -> bool:
        """Whether an interrupt came between the commit and the knowledge of it."""
        failed = isinstance(error, (sqlite3.Error, HoldfastError))
        return bool(self._levels) and self._is_committing and not failed and not connection.in_transaction

    def _give_no_rev_twice(self) -> None:
        for store, numbers in self._states.items():
            self._given_revs[store] = max(numbers.rev, self._given_revs.get(store, 0))

    def _whole(self) -> Looking:
        """In a transaction: the connection that writes. After some errors of the disk SQLite undoes all by itself."""
        writer = self._writer
        if writer is None or not writer.connection.in_transaction:
            raise StateError(
                "the transaction was undone, as the disk failed in it",
                place=str(self.path),
                hint="look at the disk, and do all of it again",
            )
        return writer

    def _writing(self) -> sqlite3.Connection:
        if not self.inside():
            raise RuntimeError("writing belongs in a transaction")
        return self._whole().connection

    def _set_level(self, connection: sqlite3.Connection, *, full: bool) -> None:
        """Whether commits are synced; SQLite lets it be set between transactions only."""
        if full is not self._level_is_full:
            self._level_is_full = None
            connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._level_is_full = full

    def _sync_all(self, connection: sqlite3.Connection) -> None:
        """A commit that is synced carries all before it along: they stand in the same file.

        It must change something: SQLite writes no page that is as it was.
        """
        self._set_level(connection, full=True)
        connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'syncs'")

    def _fold_if_long(self, connection: sqlite3.Connection) -> None:
        """Checkpoint when the WAL is long; readers are not waited for, and it is tried again when it has grown more."""
        try:
            size_bytes = os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return
        if size_bytes < self._fold_at_bytes:
            return
        connection.execute("PRAGMA busy_timeout=0")
        try:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")
        self._fold_at_bytes = (size_bytes if busy else 0) + CHECKPOINT_BYTES

    # -- writing, in a transaction

    def numbers(self, store: str) -> StoreNumbers:
        """In a transaction: what it has made of a store's own numbers."""
        if store not in self._states:
            query = "SELECT entries, first_seq, last_seq, rev FROM store WHERE name = ?"
            found = self._writing().execute(query, (store,)).fetchone()
            self._states[store] = numbers = StoreNumbers(*found)
            numbers.rev = max(numbers.rev, self._given_revs.get(store, 0))
        return self._states[store]

    def put(self, store: str, key: str, value: str) -> Row:
        with self._explained():
            connection = self._writing()
            state = self.numbers(store)
            state.rev += 1
            proposed = state.last_seq + 1
            form = self._whole().form(store)
            stored = form.stored(value)
            row = (proposed, key, state.rev, check_sum(key, stored[0]), *stored)
            (seq,) = connection.execute(f"{form.upsert(store)} RETURNING seq", row).fetchone()
            if seq == proposed:
                state.last_seq = proposed
                state.entries += 1
            return Row(seq, key, value, state.rev)

    def put_many(self, store: str, pairs: Iterable[tuple[str, str]]) -> None:
        pending = iter(pairs)
        while group := list(islice(pending, GROUP)):
            with self._explained():
                self._put_group(store, group)

    def _put_group(self, store: str, group: list[tuple[str, str]]) -> None:
        connection = self._writing()
        state = self.numbers(store)
        state.rev += 1
        form = self._whole().form(store)
        rows = [
            (seq, key, state.rev, check_sum(key, stored[0]), *stored)
            for seq, (key, stored) in enumerate(((key, form.stored(value)) for key, value in group), state.last_seq + 1)
        ]
        made = connection.executemany(f"{form.insert(store)} ON CONFLICT (key) DO NOTHING", rows).rowcount
        state.last_seq += len(rows)
        state.entries += made
        if made < len(rows):
            connection.executemany(form.upsert(store), rows)

    def delete(self, store: str, key: str) -> bool:
        with self._explained():
            connection = self._writing()
            state = self.numbers(store)
            gone = connection.execute(f'DELETE FROM "entry_{store}" WHERE key = ?', (key,)).rowcount
            state.entries -= gone
            state.removed = True
            return gone > 0

    def clear(self, store: str) -> None:
        with self._explained():
            state = self.numbers(store)
            self._writing().execute(f'DELETE FROM "entry_{store}"')
            state.entries, state.removed = 0, True

    def move(self, store: str, key: str, *, last: bool) -> bool:
        with self._explained():
            connection = self._writing()
            state = self.numbers(store)
            seq = state.last_seq + 1 if last else state.first_seq - 1
            query = f'UPDATE "entry_{store}" SET seq = ? WHERE key = ?'
            if not connection.execute(query, (seq, key)).rowcount:
                return False
            state.first_seq, state.last_seq = min(seq, state.first_seq), max(seq, state.last_seq)
            return True

    def tasks(self, store: str) -> Tasks:
        return SqliteTasks(self, store)

    # -- syncing, locking, checking

    def sync(self, then: Callable[[], object]) -> None:
        self._check_usable()
        depth = self._due_depth()
        try:
            with self._explained():
                self._commit_lock.acquire()
                connection = self._opened_writer()
                self._check_place()
                self._sync_all(connection)
            then()
        finally:
            self._commit_lock.to_depth(depth)

    def lock(self) -> None:
        self._check_usable()
        self._commit_lock.acquire()
        self._user_locks += 1

    def unlock(self) -> None:
        if not self._user_locks or not self._commit_lock.held():
            raise StateError(
                "the lock is not held by this thread", place=str(self.path), hint="call lock() before unlock()"
            )
        self._user_locks -= 1
        self._commit_lock.release()

    def problems(self, store: str) -> list[str]:
        with self.looking() as looking:
            return looking.problems(store)


# -- one backend for each folder in a process, over forks and to the end

_registry: dict[Path, SqliteBackend] = {}
_registry_lock = threading.RLock()


def shared(folder: Path) -> SqliteBackend:
    """The backend of this folder, opened by the first who asks; each who got it closes it once."""
    with _registry_lock:
        folder = Path(os.path.realpath(folder))
        if folder in _registry and not _registry[folder].is_at_its_place():
            del _registry[folder]  # whoever still has it is told that it is gone
        if folder not in _registry:
            _registry[folder] = SqliteBackend(folder)
        _registry[folder].users += 1
        return _registry[folder]


def _shut_all() -> None:
    """At the end of the process: SQLite would close without the lock. Threads that go on writing are not waited for."""
    with _registry_lock:
        while _registry:
            _registry.popitem()[1].shut(EXIT_TIMEOUT_S)


class _Forking:
    """One fork at a time; what was taken before it is given back after it."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.waiting: list[SqliteBackend] = []
        self.has_registry = False

    def before(self) -> None:
        self.turn.acquire()
        # each store's lock before the registry's: who is in a transaction may be opening another store
        for backend in list(_registry.values()):
            if backend.before_fork():
                self.waiting.append(backend)
        self.has_registry = _registry_lock.acquire(timeout=FORK_TIMEOUT_S)

    def after(self) -> None:
        if self.has_registry:
            _registry_lock.release()
        while self.waiting:
            self.waiting.pop().after_fork()
        self.turn.release()

    def after_in_child(self) -> None:
        global _registry_lock
        _registry_lock = threading.RLock()
        self.__init__()
        for backend in _registry.values():
            backend.after_fork_in_child()


_forking = _Forking()
atexit.register(_shut_all)
os.register_at_fork(before=_forking.before, after_in_parent=_forking.after, after_in_child=_forking.after_in_child)
