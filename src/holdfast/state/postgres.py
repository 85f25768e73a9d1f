"""Stores in a database of PostgreSQL, for several hosts: `postgresql://USER@HOST/DATABASE#SCHEMA`.

The part behind `#` names the schema that holds the tables (`holdfast_state` if there is none); what stands before it is
libpq's own (its manual, 34.1.1 "Connection Strings"), with its files for passwords.

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
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urldefrag, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from holdfast.errors import CapacityError, HoldfastError, IntegrityError, StateError
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

SCHEMA = "holdfast_state"
SCHEMA_NAME = re.compile("[a-z][a-z0-9_]{0,39}")
CONNECT_TIMEOUT_S = 10
LOCK_CLASS = 0x486F6C64
"""The first half of the advisory lock's name, "Hold"; the other half is made from that of the schema."""
DEFAULTS = {
    "application_name": "holdfast",
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 30,  # a host that is gone holds no lock for more than a minute and a half
    "keepalives_interval": 10,
    "keepalives_count": 6,
}


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

    def execute(self, sql: str, parameters: Parameters = (), /) -> Cursor:
        return self.own.execute(_translated(sql), parameters or None)

    def executemany(self, sql: str, parameters: Iterable[Parameters], /) -> Cursor:
        cursor = self.own.cursor()
        cursor.executemany(_translated(sql), parameters)
        return cursor

    def stream(self, sql: str, parameters: Parameters) -> Generator[tuple[Any, ...], None, None]:
        with self.own.cursor() as cursor:
            yield from cursor.stream(_translated(sql), parameters or None)

    def close(self) -> None:
        self.own.close()


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

    def __init__(self, url: str, *, make: bool) -> None:
        self._conninfo, fragment = urldefrag(url)
        self._schema = fragment or SCHEMA
        if not SCHEMA_NAME.fullmatch(self._schema):
            raise StateError("a schema cannot have this name", expected=SCHEMA_NAME.pattern, found=repr(self._schema))
        super().__init__(_without_password(url), TurnLock(_without_password(url)))
        self._lock_name = f"{LOCK_CLASS}, hashtext('{self._schema}')"
        try:
            with self._explained:
                self._connect()
                self._make_if_missing(make=make)
        except BaseException:
            self._disconnect()
            self._turn.close()
            raise

    def _nothing_open(self) -> None:
        super()._nothing_open()
        self._open: list[_Connection] = []
        self._keeps_others_out = False

    # -- opening and closing

    def _connect(self) -> None:
        self._disconnect()
        self._writer = _Looking(self._connection(), self.place, self._kinds)
        self._reader = _Looking(self._connection(), self.place, self._kinds)
        self._reader.connection.execute("SET default_transaction_read_only TO on")
        self._opened += 1

    def _connection(self) -> _Connection:
        settings: dict[str, Any] = DEFAULTS | conninfo_to_dict(self._conninfo)
        connection = _Connection(psycopg.connect(**settings, autocommit=True))
        self._open.append(connection)
        connection.execute(f'SET search_path TO "{self._schema}"')
        return connection

    def _make_if_missing(self, *, make: bool) -> None:
        connection = self._opened_writer()
        if connection.execute("SELECT to_regclass('meta')").fetchone()[0] is None:
            if not make:
                raise StateError("no store to read", place=self.place, hint="name the database and schema of one")
            connection.execute("BEGIN")
            connection.execute(f"SELECT pg_advisory_xact_lock({self._lock_name})")
            for statement in (f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"', *first_statements(self.dialect)):
                connection.execute(statement)
            connection.execute("COMMIT")
        (found,) = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() or ("none",)
        if found != FORMAT:
            raise StateError(
                "the store is of another format than this Holdfast knows",
                place=self.place,
                expected=f"format {FORMAT}",
                found=f"format {found}",
                hint="use the Holdfast release that made it, or a newer one: pip install --upgrade holdfast",
            )

    def _disconnect(self) -> None:
        self._reader = self._writer = None
        self._keeps_others_out = False
        while self._open:
            self._open.pop().close()

    def _opened_reader(self) -> Looking:
        self._drop_if_lost(self._reader)
        return super()._opened_reader()

    def _opened_writer(self) -> Any:
        with self._mutex:
            self._drop_if_lost(self._writer)
        return super()._opened_writer()

    def _drop_if_lost(self, looking: Looking | None) -> None:
        """Under the mutex: forget both connections when one was lost, unless a transaction is to be undone first."""
        if isinstance(looking, _Looking) and looking.connection.is_lost and not self._levels:
            self._disconnect()

    def _check_place(self) -> None:
        """The server says whether the database is there; what it cannot say is that a lock was lost."""
        if self._user_locks and not self._keeps_others_out:
            raise StateError(
                "the lock was lost with the connection to the server; somebody else may have written since",
                place=self.place,
                hint="call unlock(), then begin again from lock()",
            )

    def is_at_its_place(self) -> bool:
        return not self._unusable

    def _forget_in_child(self) -> None:
        for connection in self._open:
            # the object is never ended, which would end the parent's connection; the socket is only our copy
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            with suppress(psycopg.Error, OSError):
                os.close(connection.own.pgconn.socket)

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
        """A snapshot's limits (manual, 9.27.8 "pg_current_snapshot"): they change with every transaction that writes."""
        with self._mutex:
            try:
                looking = self._opened_reader()
                (snapshot,) = looking.connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            except psycopg.Error as error:
                raise self.explanation(error) from error
            return self._opened, snapshot

    def now_ns(self) -> int:
        with self.looking() as looking:
            query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000"
            return looking.connection.execute(query).fetchone()[0]

    @contextmanager
    def snapshot(self) -> Generator[Reader, None, None]:
        with self._mutex, self._explained:
            self._opened_reader()
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

    def _close_one(self, connection: _Connection) -> None:
        with self._mutex:
            if connection in self._open:
                self._open.remove(connection)
                connection.close()

    # -- committing

    def _begin_in(self, connection: Any, *, full: bool) -> None:  # noqa: ARG002 (see `_commit_in`)
        if self._keeps_others_out and not self._user_locks:  # an interrupt as it was taken, or given back
            self._let_others_in()
        connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock({self._lock_name})")

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

    def _was_committed(self, connection: Any, error: BaseException) -> bool:
        return super()._was_committed(connection, error) and not connection.is_lost

    def _make_full(self, connection: Any) -> None:
        """It is: what a commit survives is told with it."""

    def _sync_in(self, connection: Any) -> None:
        """A commit that is synced carries all before it along: they stand in the same log."""
        connection.execute(f"BEGIN; SET LOCAL synchronous_commit TO on; {CHANGE_ANYTHING}; COMMIT")

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


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:***@{host}").geturl()
