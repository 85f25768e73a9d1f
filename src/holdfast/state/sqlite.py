"""Stores in a database of SQLite: one folder, any number of processes and threads, no server.

    FOLDER/state.db      the database, in WAL mode; a table `entry_NAME` for each store
    FOLDER/commit.lock   the lock that every commit, checkpoint and close takes (see `locks`)

A transaction survives the end of the process when it has returned (`synchronous=NORMAL`: the WAL is written, and
synced only before it is folded in), and a power cut as well where that was asked for (`FULL`). Checkpoints are ours and
happen under the lock: one beside a commit can, very rarely, corrupt a WAL in SQLite before 3.51.3
(https://www.sqlite.org/wal.html, "The WAL-reset bug").

Each process has two connections, one that writes and one that reads, so that no thread sees another's unfinished
work. After a fork the child opens its own, and leaves its parent's alone.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import sqlite3
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from urllib.parse import quote
from zlib import crc32

from holdfast import durable
from holdfast.errors import HoldfastError, IntegrityError, StateError
from holdfast.state.backend import Durability, Participant, Reader, Row, Stamp
from holdfast.state.locks import CommitLock
from holdfast.state.place import prepare_folder

FORMAT = "1"
CHECKPOINT_BYTES = 8 * 2**20
"""The WAL is folded into the database when it is longer than this."""
STORE_NAME = re.compile("[a-z][a-z0-9_]{0,39}")
GROUP = 5000
"""So many entries are written with one call."""
BUSY_TIMEOUT_S = 30.0
"""How long to wait for a program that writes without our lock, such as SQLite's own shell."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS store (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    entries INTEGER NOT NULL DEFAULT 0,
    first_seq INTEGER NOT NULL DEFAULT 0,
    last_seq INTEGER NOT NULL DEFAULT 0,
    rev INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
ENTRY_TABLE = """
CREATE TABLE IF NOT EXISTS "entry_{store}" (
    seq INTEGER PRIMARY KEY, -- the order of insertion; never given twice
    key TEXT NOT NULL UNIQUE,
    value TEXT NOT NULL,
    check_sum INTEGER NOT NULL, -- CRC-32 of key, a zero byte, and value
    rev INTEGER NOT NULL
)
"""
COLUMNS = "seq, key, value, rev, check_sum"


def check_sum(key: str, value: str) -> int:
    return crc32(value.encode(), crc32(key.encode() + b"\0"))


@dataclass(slots=True)
class _StoreState:
    """What a transaction has made of a store's own numbers."""

    entries: int
    first_seq: int
    last_seq: int
    rev: int


class _Looking:
    """What can be read with one connection."""

    def __init__(self, connection: sqlite3.Connection, place: Path) -> None:
        self.connection = connection
        self.place = place

    def get(self, store: str, key: str) -> Row | None:
        query = f'SELECT {COLUMNS} FROM "entry_{store}" WHERE key = ?'
        found = self.connection.execute(query, (key,)).fetchone()
        return self._checked(store, *found) if found else None

    def page(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[Row]:
        query = f'SELECT {COLUMNS} FROM "entry_{store}"'
        if after is not None:
            query += f" WHERE seq {'<' if backwards else '>'} {after:d}"
        query += f" ORDER BY seq {'DESC' if backwards else 'ASC'} LIMIT {limit:d}"
        return [self._checked(store, *found) for found in self.connection.execute(query)]

    def count(self, store: str) -> int:
        return self.connection.execute("SELECT entries FROM store WHERE name = ?", (store,)).fetchone()[0]

    def _checked(self, store: str, seq: int, key: str, value: str, rev: int, sum_: int) -> Row:
        found = check_sum(key, value)
        if found != sum_:
            raise IntegrityError(
                "an entry is not as it was written",
                place=f"{self.place}, store {store!r}, key {key}",
                expected=f"CRC-32 {sum_:08x}",
                found=f"{found:08x}",
                hint="put back a copy of this folder; verify() lists every entry that is damaged",
            )
        return Row(seq, key, value, rev)


class SqliteBackend:
    """One open database; `shared` gives the same one to all who ask for the same folder in this process."""

    def __init__(self, folder: Path) -> None:
        prepare_folder(folder)
        self.folder = folder
        self.path = folder / "state.db"
        self.users = 0
        self.mutex = threading.RLock()
        self._commit_lock = CommitLock(folder / "commit.lock")
        self._nothing_open()
        self._stores: set[str] = set()
        try:
            self._connect()
        except BaseException:
            self._disconnect()
            self._commit_lock.close()
            raise

    def _nothing_open(self) -> None:
        self._open: list[sqlite3.Connection] = []
        self._depth = 0
        self._full = False
        self._fold_at_bytes = CHECKPOINT_BYTES
        self._level_is_full: bool | None = None  # what SQLite begins with is the builder's choice
        self._states: dict[str, _StoreState] = {}
        self._participants: dict[int, Participant] = {}

    # -- opening and closing

    def _connect(self) -> None:
        """Open both connections, without waiting for whoever writes, unless the database is still to be made."""
        with self._explained():
            if not self._is_made():
                self._commit_lock.acquire()
                try:
                    self._make()
                finally:
                    self._commit_lock.release()
            self._writer = _Looking(self._connection(), self.path)
            self._reader = _Looking(self._connection(), self.path)
            self._reader.connection.execute("PRAGMA query_only=ON")

    def _is_made(self) -> bool:
        if not self.path.exists():
            return False
        connection = self._connection()
        try:
            return self._format_of(connection) is not None
        finally:
            self._open.remove(connection)
            connection.close()

    def _make(self) -> None:
        if not self.path.exists():
            os.close(durable.create_file(self.path))
        connection = self._connection()
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

    def close(self) -> None:
        with _registry_lock:
            self.users -= 1
            if self.users > 0:
                return
            _registry.pop(self.folder, None)
        self.shut()

    def shut(self) -> None:
        """Close, whoever still uses it."""
        self._commit_lock.acquire()
        try:
            self._disconnect()
        finally:
            self._commit_lock.release()
            self._commit_lock.close()

    def _disconnect(self) -> None:
        """The last to close folds the WAL in, so this is done under the lock."""
        while self._open:
            self._open.pop().close()

    def forget_in_child(self) -> None:
        """After a fork, in the child: the parent's connections are left alone, and new ones opened."""
        for connection in self._open:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # never closed: that would be the parent's
        self.mutex = threading.RLock()
        self._commit_lock.forget_in_child()
        self._nothing_open()
        self._connect()

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
        with self._looking() as looking:
            found = looking.connection.execute("SELECT kind FROM store WHERE name = ?", (store,)).fetchone()
        if found is None:
            with self.transaction(Durability.POWER):
                self._writer.connection.execute(ENTRY_TABLE.format(store=store))
                self._writer.connection.execute("INSERT OR IGNORE INTO store (name, kind) VALUES (?, ?)", (store, kind))
            self.make_store(store, kind)
        elif found[0] != kind:
            raise StateError(
                f"this store is a {found[0]}", place=f"{self.path}, store {store!r}", expected=kind, found=found[0]
            )

    # -- reading

    @contextmanager
    def _looking(self) -> Generator[_Looking, None, None]:
        with self._explained():
            if self.inside():
                yield self._writer
            else:
                with self.mutex:
                    yield self._reader

    def get(self, store: str, key: str) -> Row | None:
        with self._looking() as looking:
            return looking.get(store, key)

    def page(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[Row]:
        with self._looking() as looking:
            return looking.page(store, after, limit, backwards=backwards)

    def count(self, store: str) -> int:
        if self.inside() and store in self._states:
            return self._states[store].entries
        with self._looking() as looking:
            return looking.count(store)

    def stamp(self) -> Stamp:
        return self._reader.connection.execute("PRAGMA data_version").fetchone()[0]

    @contextmanager
    def snapshot(self) -> Generator[Reader, None, None]:
        with self._explained():
            connection = self._connection()
            try:
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM meta").fetchone()  # from here on, one state
                yield _Looking(connection, self.path)
            finally:
                self._open.remove(connection)
                self._commit_lock.acquire()
                try:
                    connection.close()
                finally:
                    self._commit_lock.release()

    # -- transactions

    def inside(self) -> bool:
        return self._depth > 0 and self._commit_lock.held()

    def join(self, participant: Participant, durability: Durability) -> None:
        self._full |= durability is Durability.POWER
        self._participants[id(participant)] = participant

    @contextmanager
    def transaction(self, durability: Durability) -> Generator[None, None, None]:
        with self._explained():
            self._commit_lock.acquire()
            try:
                if self._depth == 0:
                    yield from self._outermost(durability)
                else:
                    self._full |= durability is Durability.POWER
                    yield from self._inner()
            finally:
                self._commit_lock.release()

    def _outermost(self, durability: Durability) -> Generator[None, None, None]:
        self._fold_if_long()
        self._set_level(full=durability is Durability.POWER)
        self._writer.connection.execute("BEGIN IMMEDIATE")
        self._full = durability is Durability.POWER
        self._depth = 1
        try:
            yield
            self._commit()
        except BaseException:
            if self._writer.connection.in_transaction:
                self._writer.connection.execute("ROLLBACK")
            self._depth = 0
            self._undone({})
            raise
        finally:
            self._depth = 0
            self._states = {}
            self._participants = {}

    def _inner(self) -> Generator[None, None, None]:
        connection, name = self._writer.connection, f"inner_{self._depth}"
        states = {store: replace(state) for store, state in self._states.items()}
        connection.execute(f"SAVEPOINT {name}")
        self._depth += 1
        try:
            yield
        except BaseException:
            if connection.in_transaction:
                connection.execute(f"ROLLBACK TO {name}")
                self._undone(states)
            raise
        finally:
            self._depth -= 1
            if connection.in_transaction:
                connection.execute(f"RELEASE {name}")

    def _undone(self, states: dict[str, _StoreState]) -> None:
        self._states = states
        for participant in self._participants.values():
            participant.rolled_back()

    def _commit(self) -> None:
        connection = self._writer.connection
        for store, state in self._states.items():
            connection.execute(
                "UPDATE store SET entries = ?, first_seq = ?, last_seq = ?, rev = ? WHERE name = ?",
                (state.entries, state.first_seq, state.last_seq, state.rev, store),
            )
        with self.mutex:
            before = self.stamp()
        connection.execute("COMMIT")
        if self._full and not self._level_is_full:
            self._sync_all()
        with self.mutex:
            after = self.stamp()
        for participant in self._participants.values():
            participant.committed(before, after)

    def _set_level(self, *, full: bool) -> None:
        """Whether commits are synced; SQLite lets it be set between transactions only."""
        if full is not self._level_is_full:
            self._writer.connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._level_is_full = full

    def _sync_all(self) -> None:
        """A commit that is synced carries all before it along: they stand in the same file.

        It must change something: SQLite writes no page that is as it was.
        """
        self._set_level(full=True)
        self._writer.connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'syncs'")

    def _fold_if_long(self) -> None:
        """Checkpoint when the WAL is long; readers are not waited for, and it is tried again when it has grown more."""
        try:
            size_bytes = os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return
        if size_bytes < self._fold_at_bytes:
            return
        connection = self._writer.connection
        connection.execute("PRAGMA busy_timeout=0")
        try:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")
        self._fold_at_bytes = (size_bytes if busy else 0) + CHECKPOINT_BYTES

    # -- writing, in a transaction

    def _state(self, store: str) -> _StoreState:
        if not self.inside():
            raise RuntimeError("writing belongs in a transaction")
        if store not in self._states:
            query = "SELECT entries, first_seq, last_seq, rev FROM store WHERE name = ?"
            self._states[store] = _StoreState(*self._writer.connection.execute(query, (store,)).fetchone())
        return self._states[store]

    def put(self, store: str, key: str, value: str) -> Row:
        state = self._state(store)
        state.rev += 1
        proposed = state.last_seq + 1
        (seq,) = self._writer.connection.execute(
            f'INSERT INTO "entry_{store}" (seq, key, value, check_sum, rev) VALUES (?, ?, ?, ?, ?) '
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value, check_sum = excluded.check_sum, "
            "rev = excluded.rev RETURNING seq",
            (proposed, key, value, check_sum(key, value), state.rev),
        ).fetchone()
        if seq == proposed:
            state.last_seq = proposed
            state.entries += 1
        return Row(seq, key, value, state.rev)

    def put_many(self, store: str, pairs: Iterable[tuple[str, str]]) -> None:
        pending = iter(pairs)
        while group := list(islice(pending, GROUP)):
            self._put_group(store, group)

    def _put_group(self, store: str, group: list[tuple[str, str]]) -> None:
        state, connection = self._state(store), self._writer.connection
        state.rev += 1
        rows = [
            (seq, key, value, check_sum(key, value), state.rev)
            for seq, (key, value) in enumerate(group, state.last_seq + 1)
        ]
        made = connection.executemany(
            f'INSERT INTO "entry_{store}" (seq, key, value, check_sum, rev) VALUES (?, ?, ?, ?, ?) '
            "ON CONFLICT (key) DO NOTHING",
            rows,
        ).rowcount
        state.last_seq += len(rows)
        state.entries += made
        if made < len(rows):
            connection.executemany(
                f'UPDATE "entry_{store}" SET value = ?, check_sum = ?, rev = ? WHERE key = ?',
                [(value, sum_, rev, key) for _, key, value, sum_, rev in rows],
            )

    def delete(self, store: str, key: str) -> bool:
        state = self._state(store)
        gone = self._writer.connection.execute(f'DELETE FROM "entry_{store}" WHERE key = ?', (key,)).rowcount
        state.entries -= gone
        return gone > 0

    def clear(self, store: str) -> None:
        state = self._state(store)
        self._writer.connection.execute(f'DELETE FROM "entry_{store}"')
        state.entries = 0

    def move(self, store: str, key: str, *, last: bool) -> bool:
        state = self._state(store)
        seq = state.last_seq + 1 if last else state.first_seq - 1
        query = f'UPDATE "entry_{store}" SET seq = ? WHERE key = ?'
        if not self._writer.connection.execute(query, (seq, key)).rowcount:
            return False
        state.first_seq, state.last_seq = min(seq, state.first_seq), max(seq, state.last_seq)
        return True

    # -- syncing, locking, checking

    def sync(self) -> None:
        with self._explained():
            self._commit_lock.acquire()
            try:
                self._sync_all()
            finally:
                self._commit_lock.release()

    def lock(self) -> None:
        self._commit_lock.acquire()

    def unlock(self) -> None:
        self._commit_lock.release()

    def problems(self, store: str) -> list[str]:
        with self._looking() as looking:
            query = f'SELECT {COLUMNS} FROM "entry_{store}"'
            told = [text for (text,) in looking.connection.execute("PRAGMA integrity_check") if text != "ok"]
            entries = 0
            for seq, key, value, _, sum_ in looking.connection.execute(query):
                entries += 1
                if check_sum(key, value) != sum_:
                    told.append(f"entry {seq}, key {key}: CRC-32 {sum_:08x} expected")
            if entries != looking.count(store):
                told.append(f"{entries} entries, and {looking.count(store)} counted")
            return told


# -- one backend for each folder in a process, over forks and to the end

_registry: dict[Path, SqliteBackend] = {}
_registry_lock = threading.RLock()


def shared(folder: Path) -> SqliteBackend:
    """The backend of this folder, opened by the first who asks; each who got it closes it once."""
    with _registry_lock:
        folder = Path(os.path.realpath(folder))
        if folder not in _registry:
            _registry[folder] = SqliteBackend(folder)
        _registry[folder].users += 1
        return _registry[folder]


def _shut_all() -> None:
    """At the end of the process: SQLite would close without the lock."""
    with _registry_lock:
        while _registry:
            _registry.popitem()[1].shut()


def _forget_all_in_child() -> None:
    global _registry_lock
    _registry_lock = threading.RLock()
    for backend in _registry.values():
        backend.forget_in_child()


atexit.register(_shut_all)
os.register_at_fork(after_in_child=_forget_all_in_child)
