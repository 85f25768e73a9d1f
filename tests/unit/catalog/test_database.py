"""The database: one transaction at a time, readers who never wait, and errors that a person can act on."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError as ConstraintError

from holdfast.catalog import Catalog, database
from holdfast.catalog.database import Database
from holdfast.catalog.schema import CATALOG_FORMAT, meta, pack
from holdfast.errors import BusyError, CapacityError, IntegrityError, VaultError
from holdfast.values import Locator

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


def put(connection: Connection, name: str, value: str) -> None:
    connection.execute(insert(meta).values(name=name, value=value))


def value(connection: Connection, name: str) -> str | None:
    return connection.scalar(select(meta.c.value).where(meta.c.name == name))


def bare(path: Path, *statements: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        rows: list[tuple[object, ...]] = []
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        connection.commit()
        return rows
    finally:
        connection.close()


def test_opening_twice_is_opening_once_and_leaves_one_file(path: Path) -> None:
    for _ in range(2):
        Catalog(path).close()
    assert bare(path, "SELECT value FROM meta WHERE name = 'format'") == [(str(CATALOG_FORMAT),)]
    assert sorted(item.name for item in path.parent.iterdir()) == ["catalog.db", "catalog.lock"]


def test_law_1_every_connection_syncs_each_commit_and_checks_references(path: Path) -> None:
    with Catalog(path) as catalog, catalog.transaction() as writing, catalog.reading() as reading:
        for connection in (writing, reading):
            for setting, wanted in [
                ("synchronous", 2),
                ("journal_mode", "wal"),
                ("foreign_keys", 1),
                ("wal_autocheckpoint", 0),
            ]:
                assert connection.exec_driver_sql(f"PRAGMA {setting}").scalar() == wanted, setting


def test_a_transaction_happens_whole_or_not_at_all(path: Path) -> None:
    database = Database(path)

    def fails() -> None:
        with database.transaction() as connection:
            put(connection, "half", "done")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    with database.transaction() as connection:
        put(connection, "whole", "done")
    with database.reading() as connection:
        assert (value(connection, "half"), value(connection, "whole")) == (None, "done")
    database.close()


def test_a_reading_sees_one_state_and_waits_for_nobody(path: Path) -> None:
    database = Database(path)
    with database.reading() as reading:
        assert value(reading, "new") is None
        with database.transaction() as writing:
            put(writing, "new", "x")
            with database.reading() as beside:
                assert value(beside, "new") is None
        assert value(reading, "new") is None
    with database.reading() as later:
        assert value(later, "new") == "x"
    database.close()


def test_a_reading_cannot_write(path: Path) -> None:
    database = Database(path)
    with pytest.raises(VaultError, match="does not let it be written"), database.reading() as reading:
        put(reading, "new", "x")
    with database.transaction() as writing:
        put(writing, "new", "y")
    database.close()


def test_opening_a_catalog_that_is_being_written_does_not_wait(path: Path) -> None:
    first = Catalog(path)
    with first.transaction():
        second = Database(path)
        with second.reading() as connection:
            assert value(connection, "format") == str(CATALOG_FORMAT)
    second.close()
    first.close()


def test_law_10_a_transaction_inside_a_transaction_is_refused_not_waited_for(path: Path) -> None:
    database = Database(path)
    with database.transaction() as connection:
        with pytest.raises(RuntimeError, match="inside a transaction"):
            database.transaction().__enter__()
        put(connection, "still", "works")
    with database.reading() as connection:
        assert value(connection, "still") == "works"
    database.close()


WRITER = """
import sys
from pathlib import Path
from sqlalchemy import select, update
from holdfast.catalog.database import Database
from holdfast.catalog.schema import meta
database = Database(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    with database.transaction() as connection:
        count = int(connection.scalar(select(meta.c.value).where(meta.c.name == "count")))
        connection.execute(update(meta).where(meta.c.name == "count").values(value=str(count + 1)))
database.close()
"""


def test_law_10_processes_and_threads_write_in_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 50_000)  # so that checkpoints happen among it all
    store = Database(path)
    with store.transaction() as connection:
        put(connection, "count", "0")
    rounds = 40
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(rounds)]) for _ in range(2)]
    seen: list[int] = []

    def write() -> None:
        for _ in range(rounds):
            with store.transaction() as connection:
                count = int(value(connection, "count") or "")
                connection.execute(update(meta).where(meta.c.name == "count").values(value=str(count + 1)))
            with store.reading() as connection:
                seen.append(int(value(connection, "count") or ""))
                assert seen[-1] > count

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0]
    with store.reading() as connection:
        assert value(connection, "count") == str(4 * rounds)
    assert len(seen) == 2 * rounds
    store.close()


# -- checkpoints


def fill(database: Database, count_bytes: int) -> None:
    with database.transaction() as connection:
        name = f"n{os.urandom(8).hex()}"
        put(connection, name, "x" * count_bytes)


def test_law_9_the_wal_is_folded_in_when_it_is_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 100_000)
    store = Database(path)
    wal = path.with_name("catalog.db-wal")
    for _ in range(20):
        fill(store, 30_000)
        assert wal.stat().st_size < 300_000
    assert path.stat().st_size > 400_000
    store.close()


def test_a_checkpoint_does_not_wait_for_a_reader(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite would wait 30 seconds in each transaction for somebody who reads for an hour."""
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 50_000)
    store = Database(path)
    tries: list[int] = []
    real = store._checkpoint_if_long  # pyright: ignore[reportPrivateUsage]

    def counted() -> None:
        before = store._checkpoint_at_bytes  # pyright: ignore[reportPrivateUsage]
        real()
        if store._checkpoint_at_bytes != before:  # pyright: ignore[reportPrivateUsage]
            tries.append(before)

    monkeypatch.setattr(store, "_checkpoint_if_long", counted)
    with store.reading() as reading:
        value(reading, "format")
        for _ in range(20):
            fill(store, 20_000)
        value(reading, "format")
    assert 2 <= len(tries) <= 12  # not in each transaction, either
    fill(store, 100_000)
    fill(store, 100_000)
    fill(store, 10)
    assert path.with_name("catalog.db-wal").stat().st_size < 200_000
    store.close()


# -- errors with a way out


def test_law_5_a_newer_catalog_is_refused_and_left_as_it_is(path: Path) -> None:
    bare(path, "CREATE TABLE meta (name TEXT, value TEXT)", "INSERT INTO meta VALUES ('format', '4')")
    with pytest.raises(VaultError, match="another format") as caught:
        Catalog(path)
    assert (caught.value.found, caught.value.place) == ("format 4", str(path))
    assert caught.value.hint
    assert bare(path, "SELECT name FROM sqlite_master") == [("meta",)]


@pytest.mark.parametrize("text", ["", "one", "0", "-1"])
def test_a_format_that_is_none_is_refused(path: Path, text: str) -> None:
    bare(path, "CREATE TABLE meta (name TEXT, value TEXT)", f"INSERT INTO meta VALUES ('format', '{text}')")
    with pytest.raises(VaultError):
        Catalog(path)


def test_law_7_a_file_that_is_no_database_is_damage(path: Path) -> None:
    path.write_bytes(b"this is not a database, but it is long enough to be looked at" * 100)
    with pytest.raises(IntegrityError, match="the catalog is damaged") as caught:
        Catalog(path)
    assert caught.value.place == str(path)


def test_law_7_a_damaged_page_is_damage(path: Path) -> None:
    catalog = Catalog(path)
    with catalog.transaction() as connection:
        connection.execute(
            insert(pack), [{"uuid": os.urandom(16), "size_bytes": 1, "sealed": False} for _ in range(5000)]
        )
    catalog.close()
    page_bytes = bare(path, "PRAGMA page_size")[0][0]
    assert isinstance(page_bytes, int)
    with path.open("r+b") as file:
        for start in range(40 * page_bytes, path.stat().st_size, page_bytes):
            file.seek(start)
            file.write(b"\xff" * 100)
    with (
        Catalog(path) as catalog,
        pytest.raises(IntegrityError, match="the catalog is damaged"),
        catalog.reading() as connection,
    ):
        connection.execute(select(pack)).all()


def test_law_7_the_quick_questions_see_damage_too(path: Path) -> None:
    Catalog(path).close()
    with Catalog(path) as catalog:
        path.write_bytes(b"\xff" * path.stat().st_size)
        with pytest.raises(IntegrityError, match="the catalog is damaged"):
            catalog.find_block(Locator(bytes(32), 1))


def test_a_full_disk_is_a_capacity_error_and_loses_nothing(path: Path) -> None:
    store = Database(path)
    with store.transaction() as connection:
        put(connection, "before", "x")

    def overfill() -> None:
        with store.transaction() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
            put(connection, "big", "x" * 1_000_000)

    with pytest.raises(CapacityError) as caught:
        overfill()
    assert caught.value.place == str(path)
    with store.transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
        put(connection, "after", "x")
    with store.reading() as connection:
        assert [value(connection, name) for name in ("before", "big", "after")] == ["x", None, "x"]
    store.close()


@pytest.mark.parametrize("where", ["missing/catalog.db", "file/catalog.db"])
def test_a_folder_that_is_none_is_a_vault_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VaultError) as caught:
        Catalog(tmp_path / where)
    assert caught.value.place == str(tmp_path / where)
    assert caught.value.hint


def test_a_lock_file_that_cannot_be_opened_is_a_vault_error(path: Path) -> None:
    path.with_suffix(".lock").mkdir()
    with pytest.raises(VaultError):
        Catalog(path)


def test_a_foreign_program_that_holds_the_catalog_is_named_as_the_cause(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0)
    store = Database(path)
    foreign = sqlite3.connect(path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match="not Holdfast") as caught:
        fill(store, 10)
    assert caught.value.place == str(path)
    foreign.close()
    fill(store, 10)
    store.close()


def test_a_bug_in_a_statement_stays_a_bug(path: Path) -> None:
    store = Database(path)
    with pytest.raises(ConstraintError), store.transaction() as connection:
        put(connection, "format", "1")
    store.close()


def test_closing_waits_for_a_writer_and_lets_go_of_everything(path: Path) -> None:
    store = Database(path)
    fill(store, 10)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    thread = threading.Thread(target=store.close)
    thread.start()
    inode = os.fstat(lock).st_ino
    while not any(f":{inode} " in line and "->" in line for line in Path("/proc/locks").read_text().splitlines()):
        assert thread.is_alive()
    os.close(lock)
    thread.join()
    links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if is_open(name)]
    assert not [link for link in links if link.startswith(str(path.parent))]
    assert not path.with_name("catalog.db-wal").exists()


def is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")
