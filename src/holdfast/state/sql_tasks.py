"""The tasks of a tracker, in SQL. All that changes anything belongs in a transaction of the database."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from holdfast.state.entry import Row
from holdfast.state.owners import is_gone
from holdfast.state.tables import TRACKER_FORM, Dialect, Looking, StoreNumbers
from holdfast.state.tasks import Ending, Lease, Tally, Wanted

CANDIDATES = 256
"""So many entries are looked at together for a claim that takes not every one."""
LOOK_FOR_THE_GONE_S = 0.1
"""Whether owners of leases are gone is looked at so often, and whenever nothing else is free."""
ATTEMPTS, FORGET_EVERY = 100_000, 1000
"""So many attempts are kept, and the older ones forgotten now and then."""
LONGEST_LEASE_S = 10 * 365 * 86_400.0
_IS_DEAD = "CASE WHEN :most > 0 AND tries >= :most THEN 1 ELSE 0 END"
_IS_TODO = "done = 0 AND dead = 0"
_MARKS = {
    "done": "done = 1",
    "tried": "tries > 0",
    "aborted": "aborted = 1",
    "dead": "dead = 1",
    "leased": "token IS NOT NULL",
}
_MAY_BE_TRIED = "(:max_tries < 1 OR tries < :max_tries)"


class Database(Protocol):
    """What the tasks need of their database."""

    def looking(self) -> AbstractContextManager[Looking]: ...

    dialect: ClassVar[Dialect]

    def now_ns(self) -> int: ...
    def numbers(self, store: str) -> StoreNumbers: ...
    def count(self, store: str) -> int: ...


class SqlTasks:
    """`Tasks` in a table."""

    def __init__(self, database: Database, store: str) -> None:
        self._database = database
        self._store = store
        self._table = f'"entry_{store}"'
        self._is_key = database.dialect.is_key(":key")
        self._looked_s = 0.0

    def _ask(self, query: str, parameters: dict[str, Any] | None = None) -> list[Any]:
        with self._database.looking() as looking:
            return looking.connection.execute(query, parameters or {}).fetchall()

    def _change(self, statement: str, rows: Sequence[dict[str, Any]]) -> int:
        """In a transaction: run it with each of these; how many entries were changed."""
        with self._database.looking() as looking:
            return looking.connection.executemany(statement, rows).rowcount

    def _next_rev(self) -> int:
        numbers = self._database.numbers(self._store)
        numbers.rev += 1
        return numbers.rev

    def number(self, mark: str) -> int:
        return self._ask(f"SELECT count(*) FROM {self._table} WHERE {_MARKS[mark]}")[0][0]

    def tally(self, max_tries: int) -> Tally:
        counts = [f"(SELECT count(*) FROM {self._table} WHERE {condition})" for condition in _MARKS.values()]
        counts.append(f"(SELECT count(*) FROM {self._table} WHERE {_IS_TODO} AND aborted = 0 AND {_MAY_BE_TRIED})")
        found = self._ask(f"SELECT {', '.join(counts)}", {"max_tries": max_tries})[0]
        return Tally(self._database.count(self._store), *found)

    def todo(self, after: int | None, limit: int, max_tries: int, *, with_aborted: bool) -> list[Row]:
        where = f"{_IS_TODO} {'' if with_aborted else 'AND aborted = 0'} AND {_MAY_BE_TRIED}"
        return self._rows(where, limit, {"max_tries": max_tries, "after": after})

    def marked(self, mark: str, after: int | None, limit: int) -> list[Row]:
        return self._rows(f"{mark} = 1", limit, {"after": after})

    def _rows(self, where: str, limit: int, parameters: dict[str, Any]) -> list[Row]:
        behind = "" if parameters["after"] is None else " AND seq > :after"
        with self._database.looking() as looking:
            return looking.rows(self._store, where + behind, limit, parameters)

    # -- claiming

    def claim(self, wanted: Wanted) -> list[Lease]:
        now_ns = self._database.now_ns()
        self._free_what_is_lost(now_ns, wanted.max_tries, everybody=False)
        found = self._free_rows(wanted, now_ns)
        if not found and self._free_what_is_lost(now_ns, wanted.max_tries, everybody=True):
            found = self._free_rows(wanted, now_ns)
        return self._lease(found, wanted)

    def _free_rows(self, wanted: Wanted, now_ns: int) -> list[Row]:
        where = f"{_IS_TODO} {'' if wanted.with_aborted else 'AND aborted = 0'}"
        where += f" AND token IS NULL AND due_ns <= :now_ns AND {_MAY_BE_TRIED}"
        found: list[Row] = []
        after = wanted.after
        limit = wanted.count if wanted.accepts is None else CANDIDATES
        while len(found) < wanted.count:
            page = self._rows(where, limit, {"now_ns": now_ns, "max_tries": wanted.max_tries, "after": after})
            found += page if wanted.accepts is None else filter(wanted.accepts, page)
            if not page:
                break
            after = page[-1].seq
        return found[: wanted.count]

    def _lease(self, rows: list[Row], wanted: Wanted) -> list[Lease]:
        if not rows:
            return []
        token, now_ns = self._next_rev(), self._database.now_ns()  # the lease begins when it is given
        same = {"token": token, "owner": wanted.owner, "now_ns": now_ns, "until_ns": _end_ns(now_ns, wanted.lease_s)}
        self._change(
            f"UPDATE {self._table} SET tries = tries + 1, token = :token, owner = :owner, begun_ns = :now_ns, "
            "until_ns = :until_ns, rev = :token WHERE seq = :seq",
            [same | {"seq": row.seq} for row in rows],
        )
        leases: list[Lease] = []
        for row in rows:
            value, tries, *marks = TRACKER_FORM.stored(row.value)
            claimed = replace(row, value=TRACKER_FORM.text(value, tries + 1, *marks), rev=token)
            leases.append(Lease(claimed, token, wanted.owner, tries + 1, now_ns, row.rev))
        return leases

    def _free_what_is_lost(self, now_ns: int, max_tries: int, *, everybody: bool) -> int:
        """End the leases that are over, and those of owners that are gone; how many. An attempt is counted all the same."""
        lost = self._leased("until_ns <= :now_ns", {"now_ns": now_ns})
        if everybody or time.monotonic() - self._looked_s > LOOK_FOR_THE_GONE_S:
            self._looked_s = time.monotonic()
            for (owner,) in self._ask(f"SELECT DISTINCT owner FROM {self._table} WHERE token IS NOT NULL"):
                if is_gone(owner):
                    lost += self._leased("owner = :owner AND until_ns > :now_ns", {"owner": owner, "now_ns": now_ns})
        if lost:
            self._record("lost", [(*item, now_ns) for item in lost])
            self._set_free(f"dead = {_IS_DEAD}", [key for key, *_ in lost], {"most": max_tries})
        return len(lost)

    def _leased(self, where: str, parameters: dict[str, Any]) -> list[tuple[str, str, int]]:
        query = f"SELECT key, owner, begun_ns FROM {self._table} WHERE token IS NOT NULL AND {where}"
        return self._ask(query, parameters)

    def _set_free(self, more: str, keys: Iterable[str], parameters: dict[str, Any]) -> None:
        same = parameters | {"rev": self._next_rev()}
        self._change(
            f"UPDATE {self._table} SET token = NULL, owner = NULL, begun_ns = NULL, until_ns = NULL, rev = :rev, {more} "
            f"WHERE {self._is_key}",
            [same | {"key": key} for key in keys],
        )

    def _record(self, outcome: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """`rows`: key, owner, begin and end of each attempt, and then, if they are known, bytes and error."""
        names = ("key", "owner", "begun_ns", "ended_ns", "size_bytes", "error")
        empty = dict.fromkeys(names) | {"outcome": outcome}
        self._change(
            f'INSERT INTO "attempt_{self._store}" (outcome, {", ".join(names)}) '
            f"VALUES (:outcome, {', '.join(f':{name}' for name in names)})",
            [empty | dict(zip(names, row, strict=False)) for row in rows],
        )
        if rows and self._next_rev() % FORGET_EVERY == 0:
            table = f'"attempt_{self._store}"'
            self._change(f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - :kept", [{"kept": ATTEMPTS}])

    # -- ending

    def end(self, leases: Sequence[Lease], ending: Ending) -> dict[str, int]:
        now_ns = self._database.now_ns()
        statement = (
            f"UPDATE {self._table} SET done = CASE WHEN done = 1 THEN 1 ELSE :done END, dead = {_IS_DEAD}, "
            "tries = CASE WHEN tries > :uncounted THEN tries - :uncounted ELSE 0 END, due_ns = :due_ns, error = coalesce(:error, error), rev = :rev, "
            "token = NULL, owner = NULL, begun_ns = NULL, until_ns = NULL "
            f"WHERE {self._is_key}"
        )
        same: dict[str, Any] = {"done": int(ending.done), "most": ending.most, "uncounted": int(ending.uncounted)}
        same |= {"due_ns": ending.due_ns, "error": ending.error, "rev": self._next_rev()}
        held = self._held(leases)
        mine = [lease for lease in leases if lease.row.key in held]
        self._change(statement, [same | {"key": lease.row.key} for lease in mine])
        more = now_ns, ending.size_bytes, ending.error
        self._record(ending.outcome, [(lease.row.key, lease.owner, lease.begun_ns, *more) for lease in mine])
        return held

    def _held(self, leases: Sequence[Lease]) -> dict[str, int]:
        """The keys of those that are still theirs who have them, with the entries' revisions."""
        tokens = {lease.row.key: (lease.token, lease.owner) for lease in leases}
        keys = list(tokens)
        found: dict[str, int] = {}
        for begin in range(0, len(keys), CANDIDATES):
            names = {f"k{number}": key for number, key in enumerate(keys[begin : begin + CANDIDATES])}
            among = self._database.dialect.is_among(f":{name}" for name in names)
            query = f"SELECT key, token, owner, rev FROM {self._table} WHERE {among}"
            rows = self._ask(query, names)
            found |= {key: rev for key, token, owner, rev in rows if tokens.get(key) == (token, owner)}
        return found

    def note(self, lease: Lease, outcome: str) -> None:
        self._record(outcome, [(lease.row.key, lease.owner, lease.begun_ns, self._database.now_ns())])

    def extend(self, lease: Lease, lease_s: float) -> bool:
        until_ns = _end_ns(self._database.now_ns(), lease_s)
        statement = (
            f"UPDATE {self._table} SET until_ns = :until_ns WHERE {self._is_key} AND token = :token AND owner = :owner"
        )
        words = {"until_ns": until_ns, "key": lease.row.key, "token": lease.token, "owner": lease.owner}
        return self._change(statement, [words]) > 0

    def revive(self, key: str | None) -> int:
        where = "dead = 1" if key is None else self._is_key
        statement = f"UPDATE {self._table} SET dead = 0, tries = 0, due_ns = 0, rev = :rev WHERE {where}"
        words = {"rev": self._next_rev()} | ({} if key is None else {"key": key})
        return self._change(statement, [words])

    def attempts(self, limit: int) -> list[tuple[int, int, int | None]]:
        query = f"SELECT begun_ns, ended_ns, size_bytes FROM \"attempt_{self._store}\" WHERE outcome = 'done'"
        return self._ask(f"{query} ORDER BY id DESC LIMIT {limit:d}")


def _end_ns(begin_ns: int, lease_s: float) -> int:
    return begin_ns + round(min(lease_s, LONGEST_LEASE_S) * 1e9)
