"""The catalog's database: opening it, and one transaction at a time.

SQLite in WAL mode with `synchronous=FULL`: a transaction that has returned survives a power cut. Every writer takes
a `flock` on a side file before it begins, and checkpoints happen under it too: SQLite's own waiting starves writers,
and a checkpoint beside a commit can, very rarely, corrupt a WAL in SQLite before 3.51.3. Readers never wait.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Executable, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DBAPIError

from holdfast import durable
from holdfast.catalog import schema
from holdfast.catalog.bulk import Lookup
from holdfast.errors import BusyError, HoldfastError, IntegrityError, VaultError

CHECKPOINT_BYTES = 8 * 1024 * 1024
"""The WAL is folded into the database when it is longer than this."""


class Database:
    """One catalog database. `close` it. Safe for several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_suffix(".lock")
        self._wal_path = path.with_name(path.name + "-wal")
        self._checkpoint_at_bytes = CHECKPOINT_BYTES
        self._inside = threading.local()
        self._writers = open_engine(path, read_only=False)
        self._readers = open_engine(path, read_only=True)
        try:
            self._prepare()
        except BaseException:
            self._dispose()
            raise

    def _prepare(self) -> None:
        with self._explained():
            if self.path.exists() and self._is_prepared():
                return  # without waiting for whoever writes
            with self._locked():
                if not self.path.exists():
                    os.close(durable.create_file(self.path))
                self._use_wal()
            with self.transaction() as connection:
                if self._format(connection) is None:
                    schema.metadata.create_all(connection)
                    connection.execute(insert(schema.meta).values(name="format", value=str(schema.CATALOG_FORMAT)))

    def _is_prepared(self) -> bool:
        with self.reading() as connection:
            return self._format(connection) is not None

    def _format(self, connection: Connection) -> int | None:
        """The format of the catalog, None when it is still empty. Raises `VaultError` for one that is not known."""
        if not inspect(connection).has_table(schema.meta.name):
            return None
        found = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == "format"))
        if found != str(schema.CATALOG_FORMAT):
            raise VaultError(
                "the catalog is of another format than this Holdfast knows",
                place=str(self.path),
                expected=f"format {schema.CATALOG_FORMAT}",
                found=f"format {found}",
                hint="use the Holdfast release that made it, or a newer one: pip install --upgrade holdfast",
            )
        return schema.CATALOG_FORMAT

    def _use_wal(self) -> None:
        with self._bare_connection() as bare:
            mode = bare.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise VaultError(
                "the catalog cannot be kept on this file system",
                place=str(self.path),
                expected="a local disk on which SQLite has its WAL mode",
                found=f"journal mode {mode}",
                hint="choose a folder on a local disk with --vault DIR",
            )

    @contextmanager
    def _bare_connection(self) -> Generator[Any, None, None]:
        """A connection of the driver itself, outside any transaction: some PRAGMAs work only there."""
        with self._writers.connect() as connection:
            yield connection.connection.driver_connection

    @contextmanager
    def _locked(self) -> Generator[None, None, None]:
        if getattr(self._inside, "transaction", False):
            raise RuntimeError("a transaction inside a transaction of the same thread would wait for itself")
        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._inside.transaction = True
            yield
        finally:
            self._inside.transaction = False
            os.close(descriptor)

    def _open_lock(self) -> int:
        try:
            with durable.disk_full_explained(self.path):
                return os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError as error:
            raise VaultError(
                "the vault has lost its catalog",
                place=str(self.path),
                found="no such folder",
                hint="holdfast doctor --repair takes what the packs say, holdfast rebuild what the tapes say",
            ) from error
        except OSError as error:
            raise self._disk_error(error.strerror or str(error)) from error

    @contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        """Everything done with the connection happens at once or not at all; durable when the block is left."""
        with self._explained(), self._locked():
            self._checkpoint_if_long()  # first, so that what fails here fails before anything was done
            with self._writers.connect() as connection, connection.begin():
                yield connection

    @contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """A connection that sees one state of the catalog and must not change it."""
        with self._explained(), self._readers.connect() as connection:
            yield connection

    def lookup(self, statement: Executable) -> Lookup:
        """A question that will be asked very often; see `ask`."""
        return Lookup(self._readers, statement)

    def ask(self, lookup: Lookup, **values: Any) -> list[tuple[Any, ...]]:
        """The rows that answer `lookup` in the newest committed state."""
        with self._explained():
            return lookup.ask(**values)

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        """Errors of SQLite that a person can act on, in our words; the others are bugs and pass as they are."""
        try:
            yield
        except DBAPIError as error:
            explained = self._explanation(str(error.orig))
            if explained is None:
                raise
            raise explained from error
        except sqlite3.Error as error:
            explained = self._explanation(str(error))
            if explained is None:
                raise
            raise explained from error

    def _explanation(self, text: str) -> HoldfastError | None:
        if "disk is full" in text:
            return durable.disk_full_error(self.path)
        if "disk I/O error" in text or "readonly" in text or "unable to open" in text:
            return self._disk_error(text)
        if "malformed" in text or "not a database" in text:
            return IntegrityError(
                "the catalog is damaged",
                place=str(self.path),
                found=text,
                hint="keep a copy of the vault's catalog folder, then restore it from a backup",
            )
        if "is locked" in text:
            return BusyError(
                "the catalog is held by a program that is not Holdfast",
                place=str(self.path),
                found=text,
                hint=f"find it with: fuser {self.path}",
            )
        return None

    def _disk_error(self, text: str) -> VaultError:
        return VaultError(
            "the disk failed under the catalog, or does not let it be written",
            place=str(self.path),
            found=text,
            hint="look at the disk and its messages (dmesg), then run the same command again",
        )

    def _checkpoint_if_long(self) -> None:
        try:
            size = self._wal_path.stat().st_size
        except FileNotFoundError:
            return
        if size < self._checkpoint_at_bytes:
            return
        with self._bare_connection() as bare:
            bare.execute("PRAGMA busy_timeout=0")  # readers are not waited for: what they still need stays
            try:
                busy = bare.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                bare.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        # while a reader holds it, the WAL only grows: ask again when it has grown as much once more
        self._checkpoint_at_bytes = size + CHECKPOINT_BYTES if busy else CHECKPOINT_BYTES

    def close(self) -> None:
        """Close every connection; under the lock, as the last one to close folds the WAL in."""
        with self._explained():
            try:
                with self._locked():
                    self._dispose()
            finally:
                self._dispose()

    def _dispose(self) -> None:
        self._readers.dispose()
        self._writers.dispose()


BUSY_SECONDS = 30


def open_engine(path: Path, *, read_only: bool) -> Engine:
    """An engine on a SQLite file whose connections are set up as the module says."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
    settings = ["synchronous=FULL", "wal_autocheckpoint=0", "foreign_keys=ON", "cache_size=-16000"]
    if read_only:
        settings.append("query_only=ON")

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None  # we begin transactions ourselves, see below
        cursor = connection.cursor()
        for setting in settings:
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql("BEGIN")

    return engine
