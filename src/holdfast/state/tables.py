"""The tables of a database of SQLite, and how a row of them becomes an entry. Connections are opened elsewhere.

    meta            the format, and a counter whose change makes a commit that can be synced
    store           a row for each store: its kind, and its own numbers
    entry_NAME      the entries of one; those of a tracker have their progress and their lease in columns beside
    attempt_NAME    of a tracker: each attempt that has ended, and how

The text of a tracker's value begins with its progress, `{"_tries":0,"_done":false,"_aborted":false`, whatever is stored:
in the table that part stands in columns, so that what is to be done is found by an index and counted exactly, whoever
writes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from holdfast.errors import IntegrityError
from holdfast.state.entry import Row

FORMAT = "1"
PAGE_CHARACTERS = 4 * 2**20
"""Of values, in what is read at once."""
POD_KIND, TRACKER_KIND = "pod", "tracker"

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
_ENTRY = """
CREATE TABLE IF NOT EXISTS "entry_{store}" (
    seq INTEGER PRIMARY KEY, -- the order of insertion; never given twice
    key TEXT NOT NULL UNIQUE,
    value TEXT NOT NULL,
    check_sum INTEGER NOT NULL, -- CRC-32 of key, a zero byte, and value
    rev INTEGER NOT NULL{more}
);
"""
_TASK_COLUMNS = """,
    tries INTEGER NOT NULL,
    done INTEGER NOT NULL,
    aborted INTEGER NOT NULL,
    dead INTEGER NOT NULL DEFAULT 0, -- failed too often
    due_ns INTEGER NOT NULL DEFAULT 0, -- not to be claimed before
    token INTEGER, -- of the lease; NULL: nobody has it
    owner TEXT,
    begun_ns INTEGER,
    until_ns INTEGER,
    error TEXT -- of the last attempt that failed"""
_TASK_TABLES = """
CREATE INDEX IF NOT EXISTS "todo_{store}" ON "entry_{store}" (seq) WHERE done = 0 AND aborted = 0 AND dead = 0;
CREATE INDEX IF NOT EXISTS "done_{store}" ON "entry_{store}" (seq) WHERE done = 1;
CREATE INDEX IF NOT EXISTS "aborted_{store}" ON "entry_{store}" (seq) WHERE aborted = 1;
CREATE INDEX IF NOT EXISTS "dead_{store}" ON "entry_{store}" (seq) WHERE dead = 1;
CREATE INDEX IF NOT EXISTS "tried_{store}" ON "entry_{store}" (seq) WHERE tries > 0;
CREATE INDEX IF NOT EXISTS "leased_{store}" ON "entry_{store}" (owner) WHERE token IS NOT NULL;
CREATE TABLE IF NOT EXISTS "attempt_{store}" (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    owner TEXT NOT NULL,
    begun_ns INTEGER NOT NULL,
    ended_ns INTEGER NOT NULL,
    outcome TEXT NOT NULL, -- done, failed, released, lost
    size_bytes INTEGER, -- what it moved
    error TEXT
);
"""
_PROGRESS = re.compile(r'\{"_tries":(-?[0-9]+),"_done":(true|false),"_aborted":(true|false)(?:,(.*))?\}', re.DOTALL)


def statements_for(store: str, kind: str) -> list[str]:
    """What makes the tables of a store, one by one, so that a transaction holds them all."""
    is_tracker = kind == TRACKER_KIND
    entry = _ENTRY.format(store=store, more=_TASK_COLUMNS if is_tracker else "")
    return [entry, *(_TASK_TABLES.format(store=store).split(";\n")[:-1] if is_tracker else [])]


def check_sum(key: str, value: str) -> int:
    return crc32(value.encode(), crc32(key.encode() + b"\0"))


@dataclass(slots=True)
class StoreNumbers:
    """A store's own numbers, as a transaction has made them."""

    entries: int
    first_seq: int
    last_seq: int
    rev: int
    first_rev: int = -1  # that of the committed store
    removed: bool = False

    def __post_init__(self) -> None:
        self.first_rev = self.rev if self.first_rev < 0 else self.first_rev


class Form:
    """How the entries of one kind of store stand in their table; `own` are the columns that only this kind has."""

    own: tuple[str, ...] = ()
    on_update: tuple[tuple[str, str], ...] = ()
    """Columns that an update changes besides, and to what."""

    def stored(self, value: str) -> tuple[Any, ...]:
        """What stands in the table for the text of a value: a text, and the kind's own columns."""
        return (value,)

    def text(self, value: str, *own: Any) -> str:
        """The text of the value that is stored so."""
        assert not own
        return value

    @property
    def columns(self) -> str:
        return ", ".join(("seq, key, value, rev, check_sum", *self.own))

    def insert(self, store: str) -> str:
        names = ("seq", "key", "rev", "check_sum", "value", *self.own)
        return f'INSERT INTO "entry_{store}" ({", ".join(names)}) VALUES ({", ".join("?" * len(names))})'

    def upsert(self, store: str) -> str:
        same = ((name, f"excluded.{name}") for name in ("rev", "check_sum", "value", *self.own))
        to = ", ".join(f"{name} = {value}" for name, value in (*same, *self.on_update))
        return f"{self.insert(store)} ON CONFLICT (key) DO UPDATE SET {to}"


_LEASE = ("token", "owner", "begun_ns", "until_ns")


class _TrackerForm(Form):
    own = ("tries", "done", "aborted")
    on_update = (
        # marked as done, or aborted: then nobody needs to do it any more
        *((name, f"iif(excluded.done > done OR excluded.aborted > aborted, NULL, {name})") for name in _LEASE),
        # tried less often: as if it had not failed
        ("dead", "iif(excluded.tries < tries, 0, dead)"),
        ("due_ns", "iif(excluded.tries < tries, 0, due_ns)"),
    )

    def stored(self, value: str) -> tuple[Any, ...]:
        found = _PROGRESS.fullmatch(value)
        if found is None:
            raise ValueError("a tracker's value begins with its progress")
        tries, done, aborted, rest = found.groups()
        return f"{{{rest or ''}}}", int(tries), int(done == "true"), int(aborted == "true")

    def text(self, value: str, *own: Any) -> str:
        tries, done, aborted = own
        progress = f'{{"_tries":{tries},"_done":{_JSON[done]},"_aborted":{_JSON[aborted]}'
        return f"{progress}}}" if value == "{}" else f"{progress},{value[1:]}"


_JSON = ("false", "true")
TRACKER_FORM = _TrackerForm()
_FORMS = {POD_KIND: Form(), TRACKER_KIND: TRACKER_FORM}


class Looking:
    """What can be read with one connection. `kinds` are those of the stores that are asked for."""

    def __init__(self, connection: sqlite3.Connection, place: Path, kinds: dict[str, str]) -> None:
        self.connection = connection
        self.place = place
        self._kinds = kinds

    def form(self, store: str) -> Form:
        return _FORMS[self._kinds[store]]

    def get(self, store: str, key: str) -> Row | None:
        form = self.form(store)
        query = f'SELECT {form.columns} FROM "entry_{store}" WHERE key = ?'
        found = self.connection.execute(query, (key,)).fetchone()
        return self._row(store, form, *found) if found else None

    def page(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[Row]:
        where = "" if after is None else f"seq {'<' if backwards else '>'} {after:d}"
        return self.rows(store, where, limit, backwards=backwards)

    def rows(
        self,
        store: str,
        where: str,
        limit: int,
        parameters: Mapping[str, Any] | tuple[Any, ...] = (),
        *,
        backwards: bool = False,
    ) -> list[Row]:
        """The first entries of which the condition holds, in order."""
        form = self.form(store)
        query = f'SELECT {form.columns} FROM "entry_{store}" {"WHERE " + where if where else ""}'
        query += f" ORDER BY seq {'DESC' if backwards else 'ASC'} LIMIT {limit:d}"
        return [self._row(store, form, *found) for found in self._some(query, parameters)]

    def _some(self, query: str, parameters: Mapping[str, Any] | tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """The first rows, at least one if there is any, until their values are longer than a page may be."""
        found: list[tuple[Any, ...]] = []
        characters = 0
        with closing(self.connection.execute(query, parameters)) as cursor:
            for row in cursor:
                found.append(row)
                characters += len(row[2])
                if characters > PAGE_CHARACTERS:
                    break
        return found

    def keys(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[tuple[int, str]]:
        where = "" if after is None else f"WHERE seq {'<' if backwards else '>'} {after:d}"
        order = "DESC" if backwards else "ASC"
        query = f'SELECT seq, key FROM "entry_{store}" {where} ORDER BY seq {order} LIMIT {limit:d}'
        return self.connection.execute(query).fetchall()

    def count(self, store: str) -> int:
        return self.connection.execute("SELECT entries FROM store WHERE name = ?", (store,)).fetchone()[0]

    def problems(self, store: str) -> list[str]:
        """Read everything; what is not as it was written, in words."""
        told = [text for (text,) in self.connection.execute("PRAGMA integrity_check") if text != "ok"]
        entries = 0
        for seq, key, value, sum_ in self.connection.execute(f'SELECT seq, key, value, check_sum FROM "entry_{store}"'):
            entries += 1
            if check_sum(key, value) != sum_:
                told.append(f"entry {seq}, key {key}: CRC-32 {sum_:08x} expected")
        if entries != self.count(store):
            told.append(f"{entries} entries, and {self.count(store)} counted")
        return told

    def _row(self, store: str, form: Form, seq: int, key: str, value: str, rev: int, sum_: int, *own: Any) -> Row:
        found = check_sum(key, value)
        if found != sum_:
            raise IntegrityError(
                "an entry is not as it was written",
                place=f"{self.place}, store {store!r}, key {key}",
                expected=f"CRC-32 {sum_:08x}",
                found=f"{found:08x}",
                hint="put back a copy of this folder; verify() lists every entry that is damaged",
            )
        return Row(seq, key, form.text(value, *own), rev)
