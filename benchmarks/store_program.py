"""One dictionary under one load, in a process of its own: `store_program.py KIND PART FOLDER COUNT` prints JSON.

KIND is holdfast, sqlite, sqlitedict, diskcache, shelve, or fdatasync (of 200 bytes appended to a file: the limit of
whatever survives a power cut). Values are JSON of about 170 bytes, keys of about 20 characters.

    rates    set COUNT entries in bulk, durable at the end; get at random; get a thousand again and again; set one at a
             time, each surviving the end of the process, and each surviving a power cut
    fill     set COUNT entries
    open     open what `fill` has left, and get one entry: seconds, and how much memory that took
    leases   claim and finish for so long, by COUNT at a time; started four times at once
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shelve
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

VALUE = {"path": "/data/2026/11/21/" + "x" * 80, "size": 123_456, "state": "new", "tries": [1, 2, 3], "note": "a" * 20}
LEASE_RUN_S = 3.0
GETS, AGAIN, SINGLE = 30_000, 1_000, 1_000


def key(number: int) -> str:
    return f"entry-{number:014d}"


class Store:
    """What a load needs; `power` and `kill` say which single writes there are."""

    def bulk(self, pairs: Iterable[tuple[str, Any]]) -> None:
        raise NotImplementedError

    def get(self, name: str) -> Any:
        raise NotImplementedError

    kill: Callable[[str, Any], None] | None = None
    power: Callable[[str, Any], None] | None = None


class Holdfast(Store):
    def __init__(self, folder: Path) -> None:
        from holdfast.state import POD

        self.pod = POD(folder / "pod")
        self.safe = POD(folder / "pod", durability="power")
        self.kill, self.power = self.pod.__setitem__, self.safe.__setitem__
        self.get = self.pod.__getitem__  # type: ignore[method-assign]

    def bulk(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self.pod.update(pairs)
        self.pod.sync()


class Sqlite(Store):
    """Written by hand, as one would: WAL, JSON, one transaction for the bulk."""

    def __init__(self, folder: Path) -> None:
        self.db = sqlite3.connect(folder / "raw.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value TEXT)")
        self.kill, self.power = self._put("NORMAL"), self._put("FULL")

    def _put(self, level: str) -> Callable[[str, Any], None]:
        def put(name: str, value: Any) -> None:
            if self.level != level:
                self.db.execute(f"PRAGMA synchronous={level}")
                self.level = level
            self.db.execute("INSERT OR REPLACE INTO entry VALUES (?, ?)", (name, json.dumps(value)))

        return put

    level = ""

    def bulk(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self.db.execute("BEGIN")
        self.db.executemany(
            "INSERT OR REPLACE INTO entry VALUES (?, ?)", ((name, json.dumps(value)) for name, value in pairs)
        )
        self.db.execute("COMMIT")
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def get(self, name: str) -> Any:
        return json.loads(self.db.execute("SELECT value FROM entry WHERE key = ?", (name,)).fetchone()[0])


class Sqlitedict(Store):
    def __init__(self, folder: Path) -> None:
        from sqlitedict import SqliteDict

        self.db = SqliteDict(folder / "sqlitedict.db", encode=json.dumps, decode=json.loads)
        self.get = self.db.__getitem__  # type: ignore[method-assign]

    def bulk(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self.db.update(pairs)
        self.db.commit()

    def kill(self, name: str, value: Any) -> None:  # type: ignore[override]
        self.db[name] = value
        self.db.commit()


class Diskcache(Store):
    def __init__(self, folder: Path) -> None:
        import diskcache

        disk = {"disk": diskcache.JSONDisk, "disk_compress_level": 0, "eviction_policy": "none"}
        self.cache = diskcache.Cache(folder / "cache", **disk)
        self.safe = diskcache.Cache(folder / "cache", sqlite_synchronous=2, **disk)
        self.get = self.cache.__getitem__  # type: ignore[method-assign]
        self.kill, self.power = self.cache.__setitem__, self.safe.__setitem__

    def bulk(self, pairs: Iterable[tuple[str, Any]]) -> None:
        with self.cache.transact():
            for name, value in pairs:
                self.cache[name] = value


class Shelve(Store):
    def __init__(self, folder: Path) -> None:
        self.shelf = shelve.open(str(folder / "shelf"))  # noqa: SIM115 (until the process ends)
        self.get = self.shelf.__getitem__  # type: ignore[method-assign]

    def bulk(self, pairs: Iterable[tuple[str, Any]]) -> None:
        for name, value in pairs:
            self.shelf[name] = value
        self.shelf.sync()


KINDS = {"holdfast": Holdfast, "sqlite": Sqlite, "sqlitedict": Sqlitedict, "diskcache": Diskcache, "shelve": Shelve}


def timed(count: int, act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return count / (time.perf_counter() - begun)


def rates(store: Store, count: int) -> dict[str, float]:
    chance = random.Random(1)
    some = [key(chance.randrange(count)) for _ in range(min(GETS, count))]
    again = [key(number) for number in range(AGAIN)]

    def get(names: list[str]) -> None:
        for name in names:
            store.get(name)

    found = {"bulk": timed(count, lambda: store.bulk((key(number), VALUE) for number in range(count)))}
    found["get"] = timed(len(some), lambda: get(some))
    get(again)
    found["again"] = timed(20 * AGAIN, lambda: get(again * 20))
    for name, put in (("kill", store.kill), ("power", store.power)):
        if put is not None:

            def single(put: Callable[[str, Any], None] = put) -> None:
                for number in range(SINGLE):
                    put(key(number), VALUE)

            found[name] = timed(SINGLE, single)
    return found


def fdatasync(folder: Path) -> dict[str, float]:
    descriptor = os.open(folder / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append() -> None:
        for _ in range(SINGLE):
            os.write(descriptor, b"x" * 200)
            os.fdatasync(descriptor)

    return {"power": timed(SINGLE, append)}


def opened(kind: str, folder: Path, count: int) -> dict[str, float]:
    importlib.import_module({"holdfast": "holdfast.state", "sqlite": "sqlite3"}.get(kind, kind))
    before = _resident_bytes()
    begun = time.perf_counter()
    store = KINDS[kind](folder)
    store.get(key(count // 2))
    return {"open_s": time.perf_counter() - begun, "bytes": _resident_bytes() - before}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def claim_holdfast(folder: Path, count: int, end_s: float) -> int:
    from holdfast.state import Tracker

    done = 0
    with Tracker(folder / "tasks") as tracker:
        tasks = tracker.claim(count)
        while tasks and time.monotonic() < end_s:
            done += len(tasks)
            tasks = tracker.finish(tasks, claim=count)
    return done


def claim_sqlite(folder: Path, count: int, end_s: float) -> int:
    """Two statements by hand: no history, no check of who is gone, and SQLite's own waiting."""
    db = sqlite3.connect(folder / "tasks.db", isolation_level=None, timeout=30)
    db.execute("PRAGMA synchronous=NORMAL")
    done = 0
    while time.monotonic() < end_s:
        rows = db.execute(
            "UPDATE task SET token = token + 1, until = ?, tries = tries + 1 WHERE seq IN "
            "(SELECT seq FROM task WHERE done = 0 AND until < ? ORDER BY seq LIMIT ?) RETURNING seq, token",
            (time.time() + 300, time.time(), count),
        ).fetchall()
        if not rows:
            break
        db.execute("BEGIN IMMEDIATE")
        db.executemany("UPDATE task SET done = 1 WHERE seq = ? AND token = ?", rows)
        db.execute("COMMIT")
        done += len(rows)
    return done


def make_tasks(kind: str, folder: Path, count: int) -> None:
    if kind == "holdfast":
        from holdfast.state import Tracker

        with Tracker(folder / "tasks") as tracker:
            tracker.update((number, {}) for number in range(count))
        return
    db = sqlite3.connect(folder / "tasks.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE task (seq INTEGER PRIMARY KEY, done INT, until REAL, token INT, tries INT)")
    db.execute("CREATE INDEX open ON task (seq) WHERE done = 0")
    db.execute("BEGIN")
    db.executemany("INSERT INTO task VALUES (?, 0, 0, 0, 0)", ((number,) for number in range(count)))
    db.execute("COMMIT")


def main() -> dict[str, Any]:
    kind, part, folder, count = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    folder.mkdir(exist_ok=True)
    if kind == "fdatasync":
        return fdatasync(folder)
    if part == "rates":
        return rates(KINDS[kind](folder), count)
    if part == "fill":
        KINDS[kind](folder).bulk((key(number), VALUE) for number in range(count))
        return {}
    if part == "open":
        return opened(kind, folder, count)
    if part == "tasks":
        make_tasks(kind, folder, count)
        return {}
    claim = claim_holdfast if kind == "holdfast" else claim_sqlite
    begin_s = float(sys.argv[5])
    while time.monotonic() < begin_s:  # all four begin at once
        time.sleep(0.001)
    return {"done": claim(folder, count, begin_s + LEASE_RUN_S)}


if __name__ == "__main__":
    print(json.dumps(main()))
