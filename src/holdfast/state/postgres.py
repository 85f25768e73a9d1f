"""Stores in a database of PostgreSQL, for several hosts: `postgresql://USER@HOST/DATABASE#SCHEMA` (see
`address`).

Who writes takes an advisory lock (manual, 13.3.5) for the length of the transaction: the server gives it in the order in
which it was asked for, and frees it when the connection ends. So places, revisions and tokens are given in the order
of the commits, nothing needs `SKIP LOCKED`, and nobody who reads page by page misses what is committed late.

A commit survives the end of the process when it has returned (`synchronous_commit=off`: the server has it, and has it on
its disk within three times its `wal_writer_delay`, manual, 30.4 "Asynchronous Commit"), and a power cut of the server as
well where that was asked for (`on`).

Connections are never used on both sides of a fork: the child closes its copies of the sockets, so that the server
sees the parent's end, and opens its own.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from holdfast.errors import CapacityError, HoldfastError, IntegrityError, StateError
from holdfast.state.address import Address
from holdfast.state.backend import Reader, Stamp
from holdfast.state.database import Database
from holdfast.state.locks import TurnLock
from holdfast.state.tables import (
    CHANGE_ANYTHING,
    FORMAT,
    PAGE_CHARACTERS,
    POSTGRES,
    Cursor,
    Looking,
    Parameters,
    first_statements,
)

IDLE_S, PROBE_S, PROBES = 30, 10, 6
"""A host that is gone holds no lock for more than a minute and a half."""
SETTINGS = {
    "application_name": "holdfast",
    "connect_timeout": 10,
    "keepalives_idle": IDLE_S,
    "keepalives_interval": PROBE_S,
    "keepalives_count": PROBES,
}
LOCK_CLASS = 0x486F6C64
"""The first half of the advisory lock's name, "Hold"; the other half is made from that of the schema."""
REVISIONS_LOST = 2**32
"""More than a crash of the server can have lost: revisions and tokens that were given before it are not given again."""
_SNAPSHOT = "SELECT CASE WHEN pg_is_in_recovery() THEN random()::text ELSE pg_current_snapshot()::text END"
"""On a standby the snapshot does not tell of everything: there no two are equal."""
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
WHICH = "SELECT (SELECT value FROM meta WHERE name = 'identity'), (SELECT word FROM awake)"


class _Connection:
    """A connection of psycopg that takes SQL and parameters as `sqlite3` does."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.own = connection

    @property
    def in_transaction(self) -> bool:
        status = self.own.info.transaction_status
        return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)

    @property
    def is_whole(self) -> bool:
        return self.own.info.transaction_status == TransactionStatus.INTRANS

    @property
    def is_lost(self) -> bool:
        return self.own.closed

    def execute(self, sql: str, parameters: Parameters = (), /) -> psycopg.Cursor[Any]:
        with self._usable_or_lost():
            return self.own.execute(_translated(sql), parameters or None)

    def executemany(self, sql: str, parameters: Iterable[Parameters], /) -> Cursor:
        with self._usable_or_lost():
            cursor = self.own.cursor()
            cursor.executemany(_translated(sql), parameters)
            return cursor

    def stream(self, sql: str, parameters: Parameters) -> Generator[tuple[Any, ...], None, None]:
        with self._usable_or_lost(), self.own.cursor() as cursor:
            yield from cursor.stream(_translated(sql), parameters or None)

    @contextmanager
    def _usable_or_lost(self) -> Generator[None, None, None]:
        """After an interrupt behind any line of psycopg's: end a connection that would wait for an answer for ever."""
        try:
            yield
        except psycopg.Error:
            raise
        except BaseException:
            answers = TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR
            if self.own.lock.locked() or self.own.info.transaction_status not in answers:
                self.own.pgconn.finish()
            raise

    def close(self) -> None:
        self.own.close()

    def leave_to_parent(self) -> None:
        """After a fork, in the child: never used nor ended here, which would be the parent's; our copy of the socket
        is closed, so that the server sees the parent's end, and its number stays taken.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        with suppress(psycopg.Error, OSError):
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, self.own.pgconn.socket, inheritable=False)
            os.close(nothing)


@functools.lru_cache(maxsize=1000)
def _translated(sql: str) -> Any:
    """`?` and `:name` as psycopg has them."""
    return re.sub(r"(?<![:\w]):([a-z_][a-z0-9_]*)", r"%(\1)s", sql.replace("%", "%%").replace("?", "%s"))


class _Looking(Looking):
    dialect = POSTGRES
    connection: _Connection

    def each(self, query: str, parameters: Parameters = ()) -> Generator[tuple[Any, ...], None, None]:
        return self.connection.stream(query, parameters)

    def _some(self, query: str, order: str, limit: int, parameters: Parameters) -> list[tuple[Any, ...]]:
        """The server stops: to stop in the middle of its answer would be an error, and end the transaction."""
        page = f"{query} {order} LIMIT {limit:d}"
        before = f"sum(octet_length(value)) OVER ({order}) - octet_length(value) AS before"
        query = (
            f"SELECT * FROM (SELECT *, {before} FROM ({page}) page) counted WHERE before <= {PAGE_CHARACTERS} {order}"
        )
        return [row[:-1] for row in self.connection.execute(query, parameters).fetchall()]

    def damage(self) -> list[str]:
        return []  # what the server finds damaged it does not give


class PostgresBackend(Database):
    """The database of one schema."""

    errors = psycopg.Error
    dialect = POSTGRES

    def __init__(self, address: Address, *, make: bool) -> None:
        super().__init__(address.shown, TurnLock(address.shown))
        self._settings: dict[str, Any] = SETTINGS | address.settings | {"client_encoding": "UTF8"}
        self._schema = address.schema
        self._lock_name = f"{LOCK_CLASS}, hashtext('{self._schema}')"
        self._word = ""  # what the server forgets when it crashes
        self._is_any_unsynced = self._unsynced_are_lost = False
        try:
            with self._explained:
                connection = self._new_writer()
                self._make_if_missing(connection, make=make)
                self._check_format(connection)
                self.identity, self._word = self._awoken(connection)
        except BaseException:
            self._disconnect()
            self._turn.close()
            raise

    def _nothing_open(self) -> None:
        super()._nothing_open()
        self._open: list[_Connection] = []
        self._keeps_others_out = False

    # -- opening and closing

    def _connection(self) -> _Connection:
        connection = _Connection(psycopg.connect(**self._settings, autocommit=True))
        self._open.append(connection)
        connection.execute(f'SET search_path TO "{self._schema}"')
        return connection

    def _close_one(self, connection: _Connection) -> None:
        with suppress(ValueError):  # a fork, or the end
            self._open.remove(connection)
            connection.close()

    def _connect(self) -> None:
        """Nothing: each connection is opened when it is needed, by who may use it then."""

    def _disconnect(self) -> None:
        self._reader = self._writer = None
        self._keeps_others_out = False
        while self._open:
            self._open.pop().close()

    def _opened_reader(self) -> Looking:
        """Under the mutex."""
        self._check_usable()
        if isinstance(self._reader, _Looking) and self._reader.connection.is_lost:
            self._close_one(self._reader.connection)
            self._reader = None
        if self._reader is None:
            connection = self._connection()
            connection.execute("SET default_transaction_read_only TO on")
            if self._word and self._which(connection) != (self.identity, self._word):
                self.generation += 1  # what the next one who writes is told
            self._reader = _Looking(connection, self.place, self._kinds)
            self._opened += 1
        return self._reader

    def _opened_writer(self) -> _Connection:
        """With the turn; one that was lost in a transaction stays until that has come to nothing."""
        self._check_usable()
        if isinstance(self._writer, _Looking):
            connection = self._writer.connection
            if self._levels or not connection.is_lost:
                return connection
            self._close_one(connection)
        self._writer, self._keeps_others_out = None, False
        return self._new_writer()

    def _new_writer(self) -> _Connection:
        connection = self._connection()
        self._writer = _Looking(connection, self.place, self._kinds)
        return connection

    def _make_if_missing(self, connection: _Connection, *, make: bool) -> None:
        if _one(connection, "SELECT to_regclass('awake')") is not None:
            return
        if not make:
            raise StateError("no store to read", place=self.place, hint="name the database and schema of one")
        if (encoding := _one(connection, "SHOW server_encoding")) != "UTF8":
            hint = "make a database with ENCODING 'UTF8' TEMPLATE template0"
            raise StateError(
                "this database cannot hold all text", place=self.place, expected="UTF8", found=encoding, hint=hint
            )
        connection.execute(BEGIN)
        connection.execute(f"SELECT pg_advisory_xact_lock({self._lock_name})")
        if not _one(connection, f"SELECT 1 FROM pg_namespace WHERE nspname = '{self._schema}'"):
            connection.execute(f'CREATE SCHEMA "{self._schema}"')
        for statement in first_statements(self.dialect):
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('identity', ?) ON CONFLICT DO NOTHING", (uuid.uuid4().hex,))
        connection.execute("CREATE UNLOGGED TABLE IF NOT EXISTS awake (word TEXT NOT NULL)")
        connection.execute("COMMIT")

    def _check_format(self, connection: _Connection) -> None:
        found = _one(connection, "SELECT value FROM meta WHERE name = 'format'")
        if found != FORMAT:
            raise StateError(
                "the store is of another format than this Holdfast knows",
                place=self.place,
                expected=f"format {FORMAT}",
                found=f"format {found}",
                hint="use the Holdfast release that made it, or a newer one: pip install --upgrade holdfast",
            )

    def _awoken(self, connection: _Connection) -> tuple[str, str]:
        """The database's identity, and a word that its server has kept since it last crashed.

        The table of the word is `UNLOGGED`: crash recovery empties it (manual, "CREATE TABLE"). Who finds it empty puts
        another one in, and takes care that no revision is given a second time.
        """
        identity, word = self._which(connection)
        if word is None and not _one(connection, "SELECT pg_is_in_recovery()"):
            connection.execute(f"{BEGIN}; SELECT pg_advisory_xact_lock({self._lock_name})")
            identity, word = self._which(connection)
            if word is None:
                word = uuid.uuid4().hex
                connection.execute("INSERT INTO awake VALUES (?)", (word,))
                connection.execute("UPDATE store SET rev = rev + ?", (REVISIONS_LOST,))
            connection.execute("COMMIT")
        return identity, word or ""

    def _which(self, connection: _Connection) -> tuple[str, str | None]:
        found = connection.execute(WHICH).fetchone()
        assert found is not None
        return found

    def _check_identity(self, identity: str | None, word: str | None) -> None:
        """In a transaction, as it begins: raise `StateError` when this is not what was opened, or not all of it."""
        if identity != self.identity:
            raise StateError(
                "the store was deleted and made anew, or put back from a copy; nothing was written",
                place=self.place,
                hint="close it and open it again",
            )
        if word != self._word:
            self._word, self._unsynced_are_lost = "", self._is_any_unsynced
            self.generation += 1
            raise StateError(
                "the server crashed since the last transaction; nothing was written, and what was not synced may be lost",
                place=self.place,
                hint="read what was written since the last sync, and write again what is not there",
            )

    def _check_place(self) -> None:
        """The server says whether the database is there; what it cannot say is that a lock was lost."""
        if self._user_locks and not self._keeps_others_out:
            raise StateError(
                "the lock was lost with the connection to the server; somebody else may have written since",
                place=self.place,
                hint="call unlock(), then begin again from lock()",
            )

    def is_at_its_place(self) -> bool:
        """Not known as long as the server cannot be asked: then it may be."""
        if self._unusable:
            return False
        try:
            with self._mutex, self._explained:
                connection: Any = self._opened_reader().connection
                return self._which(connection)[0] == self.identity
        except StateError as error:
            return not isinstance(error.__cause__, psycopg.errors.UndefinedTable)

    def _forget_in_child(self) -> None:
        for connection in self._open:
            connection.leave_to_parent()

    # -- errors

    def _undone(self, text: str) -> StateError:
        return StateError(
            "the transaction was undone, as a statement in it had failed",
            place=self.place,
            found=text or None,
            hint="let errors end the transaction, then do all of it again",
        )

    def explanation(self, error: Exception) -> HoldfastError:
        text = " ".join(str(error).split())
        if isinstance(error, psycopg.errors.InFailedSqlTransaction):
            return self._undone(text)
        if isinstance(error, psycopg.errors.DiskFull):
            return CapacityError(
                "the server's disk is full; nothing that was said to be stored is lost",
                place=self.place,
                found=text,
                hint="make space on the server's disk, then do it again",
            )
        if isinstance(error, psycopg.errors.DataCorrupted | psycopg.errors.IndexCorrupted):
            return IntegrityError("the store is damaged", place=self.place, found=text, hint="restore the database")
        return StateError(
            "the store cannot be used",
            place=self.place,
            found=text,
            hint="see that the server runs, and that this user may use this database",
        )

    # -- reading

    def stamp(self) -> Stamp:
        """A snapshot's limits (manual, 9.27.8 "pg_current_snapshot"): they change with every transaction that writes.

        It is asked before everything that is read, and asked again on a new connection where that was lost.
        """
        with self._mutex, self._explained:
            for _ in range(2):
                connection: Any = self._opened_reader().connection
                try:
                    found = connection.execute(_SNAPSHOT).fetchone()
                    return self.generation, self._opened, found
                except psycopg.OperationalError:
                    if not connection.is_lost:
                        raise
            raise StateError("the server ends every connection", place=self.place, hint="look at the server's log")

    def now_ns(self) -> int:
        with self.looking() as looking:
            query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000"
            return looking.connection.execute(query).fetchone()[0]

    @contextmanager
    def snapshot(self) -> Generator[Reader, None, None]:
        with self._mutex, self._explained:
            self._check_usable()
            connection = self._connection()
            self._snapshots += 1
        try:
            with self._explained:
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                connection.execute("SELECT count(*) FROM meta").fetchone()  # from here on, one state
            yield _Looking(connection, self.place, self._kinds)
        finally:
            self._snapshots -= 1
            self._close_one(connection)

    @contextmanager
    def awaiting_changes(self) -> Generator[Callable[[float], object], None, None]:
        self._check_usable()
        with self._explained:
            connection = self._connection()
            connection.execute(f"LISTEN {self._schema}")

        def wait(timeout_s: float) -> None:
            with self._explained:
                list(connection.own.notifies(timeout=timeout_s, stop_after=1))

        try:
            yield wait
        finally:
            self._close_one(connection)

    # -- committing

    def _begin_in(self, connection: Any, *, full: bool) -> None:  # noqa: ARG002 (see `_commit_in`)
        self._free_what_was_left()
        self._begin_with(connection, f"{BEGIN}; SELECT pg_advisory_xact_lock({self._lock_name}); {WHICH}")

    def _begin_with(self, connection: _Connection, begin: str) -> _Connection:
        """Begin, on a new connection where this one was lost, as nothing was begun on it; the one that it is now."""
        try:
            begun = self._with_word(connection).execute(begin)
        except psycopg.OperationalError:
            if not connection.is_lost or self._user_locks:
                raise
            connection = self._opened_writer()
            begun = self._with_word(connection).execute(begin)
        self._check_identity(*_last(begun))
        return connection

    def _with_word(self, connection: _Connection) -> _Connection:
        if not self._word:
            _, self._word = self._awoken(connection)
        return connection

    def _free_what_was_left(self) -> None:
        """The lock that an interrupt has left, as it was taken or given back."""
        if self._keeps_others_out and not self._user_locks:
            self._let_others_in()

    def _commit_in(self, connection: Any, *, full: bool) -> None:
        if not connection.is_whole:  # the server would answer COMMIT with a rollback, and no error
            raise self._undone("")
        try:
            connection.execute(
                f"SET LOCAL synchronous_commit TO {'on' if full else 'off'}; NOTIFY {self._schema}; COMMIT"
            )
        except psycopg.OperationalError as error:
            if not connection.is_lost:
                raise
            raise StateError(
                "the connection to the server was lost amid a commit: it may have been carried out, or not",
                place=self.place,
                found=" ".join(str(error).split()),
                hint="read what was to be written, and write it again if it is not there",
            ) from error

    def _roll_back(self, connection: Any, level: int) -> None:
        super()._roll_back(connection, level)
        if level == 1:
            self._free_what_was_left()

    def _was_committed(self, connection: Any, error: BaseException) -> bool:
        return super()._was_committed(connection, error) and not connection.is_lost

    def _make_full(self, connection: Any) -> None:  # noqa: ARG002 (nothing more is to be done)
        """It is: what a commit survives is told with it."""
        self._is_any_unsynced = False

    def _sync_in(self, connection: Any) -> None:
        """A commit that is synced carries all before it along: they stand in the same log."""
        try:
            connection = self._begin_with(connection, f"{BEGIN}; {WHICH}")
            connection.execute(f"SET LOCAL synchronous_commit TO on; {CHANGE_ANYTHING}; COMMIT")
        except BaseException:
            if self._writer is not None and self._writer.connection.in_transaction:
                self._writer.connection.execute("ROLLBACK")
            if self._unsynced_are_lost:
                raise self._crashed() from None
            raise
        self._is_any_unsynced = False
        if self._unsynced_are_lost:
            raise self._crashed()

    def _crashed(self) -> StateError:
        self._is_any_unsynced = self._unsynced_are_lost = False
        return StateError(
            "the server crashed after something was written and before it was synced: it may be lost",
            place=self.place,
            hint="read what was written since the last sync, and write again what is not there",
        )

    # -- locking

    def _keep_others_out(self) -> None:
        with self._explained:
            connection = self._opened_writer()
            self._keeps_others_out = True
            connection.execute(f"SELECT pg_advisory_unlock_all(); SELECT pg_advisory_lock({self._lock_name})")

    def _let_others_in(self) -> None:
        if self._keeps_others_out:
            with suppress(psycopg.Error, StateError):  # with a lost connection, the lock is gone
                self._opened_writer().execute("SELECT pg_advisory_unlock_all()")
                self._keeps_others_out = False


def _last(cursor: psycopg.Cursor[Any]) -> Any:
    """The only row of the last of several statements."""
    while cursor.nextset():
        pass
    return cursor.fetchone()


def _one(connection: _Connection, query: str) -> Any:
    found = connection.execute(query).fetchone()
    return None if found is None else found[0]
