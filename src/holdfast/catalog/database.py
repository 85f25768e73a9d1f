"""The catalog's database: opening it, and one transaction at a time.

SQLite in WAL mode with `synchronous=FULL`: a transaction that has returned survives a power cut. Every writer takes
a `flock` on a side file before it begins, and checkpoints happen under it too: SQLite's own waiting starves writers,
and a checkpoint beside a commit can, very rarely, corrupt a WAL in SQLite before 3.51.3. Readers never wait.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import DBAPIError

from holdfast import durable
from holdfast.catalog import schema
from holdfast.errors import IntegrityError, VaultError

CHECKPOINT_BYTES = 8 * 1024 * 1024
"""The WAL is folded into the database when it is longer than this."""


class Database:
    """One catalog database. `close` it. Safe for several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_suffix(".lock")
        self._wal_path = path.with_name(path.name + "-wal")
        self._engine = open_engine(path)
        try:
            self._prepare()
        except BaseException:
            self._engine.dispose()
            raise

    def _prepare(self) -> None:
        with self._locked():
            if not self.path.exists():
                os.close(durable.create_file(self.path))
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self.transaction() as connection:
            schema.metadata.create_all(connection)
            found = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == "format"))
            if found is None:
                connection.execute(insert(schema.meta).values(name="format", value=str(schema.CATALOG_FORMAT)))
        if found is not None and int(found) > schema.CATALOG_FORMAT:
            raise VaultError(
                "the catalog is of a newer format than this Holdfast knows",
                place=str(self.path),
                expected=f"format {schema.CATALOG_FORMAT} or older",
                found=f"format {found}",
                hint="use the Holdfast release that made it, or a newer one: pip install --upgrade holdfast",
            )

    @contextmanager
    def _locked(self) -> Generator[None, None, None]:
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        """Everything done with the connection happens at once or not at all; durable when the block is left."""
        with self._locked(), self._explained():
            with self._engine.connect() as connection, connection.begin():
                yield connection
            self._checkpoint_if_long()

    @contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """A connection that sees one state of the catalog and must not change it."""
        with self._explained(), self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=ON")
            try:
                yield connection
            finally:
                connection.rollback()
                connection.exec_driver_sql("PRAGMA query_only=OFF")

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        """Errors of SQLite that a person can act on, in our words; the others are bugs and pass as they are."""
        try:
            yield
        except DBAPIError as error:
            text = str(error.orig)
            if "disk is full" in text:
                raise durable.disk_full_error(self.path) from error
            if "disk I/O error" in text or "readonly" in text or "unable to open" in text:
                raise VaultError(
                    "the disk failed under the catalog, or does not let it be written",
                    place=str(self.path),
                    found=text,
                    hint="look at the disk and its messages (dmesg), then run the same command again",
                ) from error
            if "malformed" in text or "not a database" in text:
                raise IntegrityError(
                    "the catalog is damaged",
                    place=str(self.path),
                    found=text,
                    hint="keep a copy of the vault's catalog folder, then restore it from a backup",
                ) from error
            raise

    def _checkpoint_if_long(self) -> None:
        if self._wal_path.exists() and self._wal_path.stat().st_size > CHECKPOINT_BYTES:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close every connection; under the lock, as the last one to close folds the WAL in."""
        with self._locked():
            self._engine.dispose()


def open_engine(path: Path) -> Engine:
    """An engine on a SQLite file whose connections are set up as the module says."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None  # we begin transactions ourselves, see below
        cursor = connection.cursor()
        for setting in ("synchronous=FULL", "wal_autocheckpoint=0", "foreign_keys=ON", "cache_size=-16000"):
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql("BEGIN")

    return engine
