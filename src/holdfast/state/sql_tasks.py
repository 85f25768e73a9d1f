"""The tasks of a tracker, in SQL. All that changes anything belongs in a transaction of the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import Any, ClassVar, Protocol

from holdfast.state.entry import Row
from holdfast.state.owners import is_gone
from holdfast.state.tables import MARKS, TRACKER_FORM, Dialect, Looking, StoreNumbers
from holdfast.state.tasks import Claim, Ending, Lease, Noted, Tally, Wanted

CANDIDATES = 256
"""So many entries are looked at together for a claim that takes not every one."""
GROUP = 256
"""So many entries are changed with one statement."""
KEPT_STATEMENTS = 512
LOOK_FOR_THE_LOST_S = 0.1
"""Whether leases are over, or their owners gone, is looked at so often, and whenever nothing else is free."""
ATTEMPTS, FORGET_EVERY = 100_000, 1000
"""So many attempts are kept, and the older ones forgotten now and then."""
LONGEST_LEASE_S = 10 * 365 * 86_400.0
_NAMES = tuple(f"p{number}" for number in range(GROUP))
_TRIES = 5 + TRACKER_FORM.own.index("tries")
"""Where that stands in what `Looking.changed` gives."""
_IS_TODO = "done = 0 AND dead = 0"
_BEHIND = " AND seq > :after"
_AS_CLAIMED = "AND token = :token AND owner = :owner AND rev = :token"
_MOVED_BYTES = "CASE WHEN :outcome = 'done' THEN coalesce(:size_bytes, size_bytes) ELSE :size_bytes END"
_MAY_BE_TRIED = "(:max_tries < 1 OR tries < :max_tries)"


class Database(Protocol):
    """What the tasks need of their database."""

    def looking(self) -> AbstractContextManager[Looking]: ...

    dialect: ClassVar[Dialect]

    def now_ns(self) -> int: ...
    def next_rev(self, store: str) -> int: ...
    def numbers(self, store: str) -> StoreNumbers: ...
    def inside(self) -> bool: ...
    def recounting(self, store: str, where: str, words: Mapping[str, Any]) -> AbstractContextManager[None]: ...


class SqlTasks:
    """`Tasks` in a table."""

    def __init__(self, database: Database, store: str) -> None:
        self._database = database
        self._store = store
        self._table = f'"entry_{store}"'
        self._is_key = database.dialect.is_key(":key")
        self._looked_s = 0.0
        self._noted = 0

    def _ask(self, query: str, parameters: dict[str, Any] | None = None) -> list[Any]:
        with self._database.looking() as looking:
            return looking.connection.execute(query, parameters or {}).fetchall()

    def _change(self, statement: str, words: dict[str, Any]) -> int:
        """In a transaction; how many rows were changed."""
        with self._database.looking() as looking:
            return looking.connection.execute(statement, words).rowcount

    def _next_rev(self) -> int:
        return self._database.next_rev(self._store)

    def number(self, mark: str) -> int:
        return dict(zip(MARKS, self._numbers().marks, strict=True))[mark]

    def _numbers(self) -> StoreNumbers:
        if self._database.inside():
            return self._database.numbers(self._store)
        with self._database.looking() as looking:
            return looking.numbers(self._store)

    def tally(self, max_tries: int) -> Tally:
        columns = "count(*), count(size_bytes), CAST(coalesce(sum(size_bytes), 0) AS BIGINT)"
        todo = f"SELECT {columns} FROM {self._table} WHERE {_IS_TODO} AND aborted = 0 AND {_MAY_BE_TRIED}"
        query = f"SELECT * FROM ({todo}) AS todo, (SELECT entries, {', '.join(MARKS)} FROM store WHERE name = :store) AS own"
        found = self._ask(query, {"max_tries": max_tries, "store": self._store})[0]  # all of one moment
        entries, marks = found[3], found[4:]
        if self._database.inside():
            numbers = self._database.numbers(self._store)
            entries, marks = numbers.entries, numbers.marks
        return Tally(entries, *marks, *found[:3])

    def todo(self, after: int | None, limit: int, max_tries: int, *, with_aborted: bool) -> list[Row]:
        where = f"{_IS_TODO} {'' if with_aborted else 'AND aborted = 0'} AND {_MAY_BE_TRIED}"
        return self._rows(where, limit, {"max_tries": max_tries, "after": after})

    def marked(self, mark: str, after: int | None, limit: int) -> list[Row]:
        return self._rows(f"{mark} = 1", limit, {"after": after})

    def _rows(self, where: str, limit: int, parameters: dict[str, Any]) -> list[Row]:
        behind = "" if parameters["after"] is None else _BEHIND
        with self._database.looking() as looking:
            return looking.rows(self._store, where + behind, limit, parameters)

    # -- claiming

    def claim(self, wanted: Wanted) -> Claim:
        now_ns = self._database.now_ns()
        if time.monotonic() - self._looked_s > LOOK_FOR_THE_LOST_S:
            self._free_what_is_lost(now_ns, wanted.max_tries)
        found = self._free(wanted, now_ns)
        if not found and self._free_what_is_lost(now_ns, wanted.max_tries):
            found = self._free(wanted, now_ns)
        return self._lease(found, wanted)

    def _free(self, wanted: Wanted, now_ns: int) -> dict[int, int]:
        """Places and revisions of what is to be claimed, in order."""
        if wanted.key is not None:
            only = f"{_IS_TODO} AND token IS NULL AND {self._is_key}"
            return dict(self._ask(f"SELECT seq, rev FROM {self._table} WHERE {only}", {"key": wanted.key}))
        where = f"{_IS_TODO} {'' if wanted.with_aborted else 'AND aborted = 0'}"
        where += f" AND token IS NULL AND due_ns <= :now_ns AND {_MAY_BE_TRIED}"
        words = {"now_ns": now_ns, "max_tries": wanted.max_tries, "after": wanted.after}
        if wanted.accepts is not None:
            return {row.seq: row.rev for row in islice(self._accepted(where, words, wanted.accepts), wanted.count)}
        where += _BEHIND if wanted.after is not None else ""
        return dict(
            self._ask(f"SELECT seq, rev FROM {self._table} WHERE {where} ORDER BY seq LIMIT {wanted.count:d}", words)
        )

    def _accepted(self, where: str, words: dict[str, Any], accepts: Callable[[Row], bool]) -> Iterator[Row]:
        while page := self._rows(where, CANDIDATES, words):
            yield from filter(accepts, page)
            words = words | {"after": page[-1].seq}

    def _lease(self, found: dict[int, int], wanted: Wanted) -> Claim:
        if not found:
            return Claim({}, list)
        token, now_ns = self._next_rev(), self._database.now_ns()  # the lease begins when it is given
        same = {"token": token, "owner": wanted.owner, "now_ns": now_ns, "until_ns": _end_ns(now_ns, wanted.lease_s)}
        statement = (
            f"UPDATE {self._table} SET tries = tries + 1, token = :token, owner = :owner, begun_ns = :now_ns, "
            f"until_ns = :until_ns, rev = :token WHERE seq IN ({{}}) AND token IS NULL AND {_IS_TODO}"
        )
        rows: list[tuple[Any, ...]] = []
        with self._database.looking() as looking:
            for places, words in _in_groups(found):
                rows += looking.changed(self._store, statement.format(places), same | words)
        first_tries = sum(row[_TRIES] == 1 for row in rows)
        self._database.numbers(self._store).count(tried=first_tries, leased=len(rows))
        looking.check(self._store, rows)

        def leases() -> list[Lease]:
            return [
                Lease(looking.row(self._store, row), token, wanted.owner, row[_TRIES], now_ns, found[row[0]])
                for row in sorted(rows, key=itemgetter(0))
            ]

        return Claim({row[1]: found[row[0]] for row in rows}, leases)

    def _free_what_is_lost(self, now_ns: int, max_tries: int) -> int:
        """End the leases that are over, and those of owners that are gone; how many. An attempt is counted all the same."""
        self._looked_s = time.monotonic()
        lost = self._leased("until_ns <= :now_ns", {"now_ns": now_ns})
        for (owner,) in self._ask(f"SELECT DISTINCT owner FROM {self._table} WHERE token IS NOT NULL"):
            if is_gone(owner):
                lost |= self._leased("owner = :owner AND until_ns > :now_ns", {"owner": owner, "now_ns": now_ns})
        self._set_free(lost, Ending("lost", most=max_tries), now_ns)
        return len(lost)

    def reopen(self, key: str, *, from_anybody: bool) -> int:
        lost = self._leased(self._is_key, {"key": key}) if from_anybody else {}
        if lost:
            self._set_free(lost, Ending("lost"), self._database.now_ns())
        is_over = f"{self._is_key} AND token IS NULL AND (done = 1 OR aborted = 1 OR dead = 1)"
        words = {"key": key}
        statement = (
            f"UPDATE {self._table} SET tries = CASE WHEN done = 1 THEN 0 ELSE tries END, done = 0, aborted = 0, dead = 0, "
            f"rev = :rev WHERE {is_over}"
        )
        with self._database.recounting(self._store, self._is_key, words):
            return len(lost) + self._change(statement, words | {"rev": self._next_rev()})

    def _leased(self, where: str, parameters: dict[str, Any]) -> dict[int, str]:
        return dict(self._ask(f"SELECT seq, key FROM {self._table} WHERE token IS NOT NULL AND {where}", parameters))

    # -- ending

    def _set_free(self, seqs: Iterable[int], ending: Ending, now_ns: int) -> None:
        """End the attempts at these entries, which are claimed, and note them."""
        noted, changed = _noted(ending, now_ns), self._changed(ending)
        with self._database.looking() as looking:
            for places, group in _in_groups(seqs):
                looking.connection.execute(_note(self._store, f"seq IN ({places})", "owner", "begun_ns"), noted | group)
                with self._database.recounting(self._store, f"seq IN ({places})", group):
                    looking.connection.execute(_free_each(self._store, places, ending), changed | group)
        self._forget_some()

    def _set_free_as_claimed(self, leases: Sequence[Lease], ending: Ending, now_ns: int) -> dict[str, int]:
        """The same for leases of one claim, where the entries are as they were claimed; the keys of those that are."""
        first = leases[0]
        claimed = {"token": first.token, "owner": first.owner}
        noted = _noted(ending, now_ns) | {"owner": first.owner, "begun_ns": first.begun_ns}
        changed = self._changed(ending) | claimed
        ended: list[tuple[int, str]] = []
        with self._database.looking() as looking:
            for places, group in _in_groups(lease.row.seq for lease in leases):
                free = f"{_free_each(self._store, places, ending)} {_AS_CLAIMED} RETURNING seq, key"
                with self._recounting_ended(ending, places, group):
                    freed = looking.connection.execute(free, changed | group).fetchall()
                if _is_only_done(ending):
                    self._database.numbers(self._store).count(done=len(freed), leased=-len(freed))
                ended += freed
            for places, group in _in_groups(seq for seq, _ in ended):
                looking.connection.execute(
                    _note(self._store, f"seq IN ({places})", ":owner", ":begun_ns"), noted | group
                )
        self._forget_some()
        return dict.fromkeys((key for _, key in ended), first.token)

    def _recounting_ended(self, ending: Ending, places: str, group: dict[str, Any]) -> AbstractContextManager[None]:
        """Nothing is counted for those that are done: none that is claimed was, and nothing else becomes of them."""
        if _is_only_done(ending):
            return nullcontext()
        return self._database.recounting(self._store, f"seq IN ({places})", group)

    def _changed(self, ending: Ending) -> dict[str, Any]:
        words = {"due_ns": ending.due_ns, "rev": self._next_rev()}
        words |= {"most": ending.most} if ending.most else {}
        return words | ({} if ending.error is None else {"error": ending.error})

    def _forget_some(self) -> None:
        self._noted += 1
        if self._noted % FORGET_EVERY == 0:
            table = f'"attempt_{self._store}"'
            self._change(f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - :kept", {"kept": ATTEMPTS})

    def end(self, leases: Sequence[Lease], ending: Ending) -> dict[str, int]:
        now_ns = self._database.now_ns()
        ended: dict[str, int] = {}
        for _, claimed in groupby(leases, key=attrgetter("token", "owner")):
            ended |= self._set_free_as_claimed(list(claimed), ending, now_ns)
        if len(ended) < len(leases):
            held = self._held([lease for lease in leases if lease.row.key not in ended])
            self._set_free(held, ending, now_ns)
            ended |= dict(held.values())
        return ended

    def _held(self, leases: Sequence[Lease]) -> dict[int, tuple[str, int]]:
        """Of those that are still theirs who have them: the entries' places, keys and revisions."""
        tokens = {lease.row.key: (lease.token, lease.owner) for lease in leases}
        found: dict[int, tuple[str, int]] = {}
        for places, words in _in_groups(tokens):
            among = self._database.dialect.is_among(places.split(", "))
            rows = self._ask(f"SELECT seq, key, token, owner, rev FROM {self._table} WHERE {among}", words)
            found |= {seq: (key, rev) for seq, key, token, owner, rev in rows if tokens.get(key) == (token, owner)}
        return found

    def note(self, lease: Lease, outcome: str) -> None:
        noted = _noted(Ending(outcome), self._database.now_ns()) | {"owner": lease.owner, "begun_ns": lease.begun_ns}
        # by its key: it may have been moved to another place since it was claimed
        self._change(_note(self._store, self._is_key, ":owner", ":begun_ns"), noted | {"key": lease.row.key})

    def extend(self, lease: Lease, lease_s: float) -> bool:
        until_ns = _end_ns(self._database.now_ns(), lease_s)
        statement = (
            f"UPDATE {self._table} SET until_ns = :until_ns WHERE {self._is_key} AND token = :token AND owner = :owner"
        )
        words = {"until_ns": until_ns, "key": lease.row.key, "token": lease.token, "owner": lease.owner}
        return self._change(statement, words) > 0

    def revive(self, key: str | None) -> int:
        where, words = ("dead = 1", dict[str, Any]()) if key is None else (self._is_key, {"key": key})
        with self._database.looking() as looking:
            before = looking.marks(self._store, where, words)
        statement = f"UPDATE {self._table} SET dead = 0, tries = 0, due_ns = 0, rev = :rev WHERE {where}"
        changed = self._change(statement, words | {"rev": self._next_rev()})
        after = dict(zip(MARKS, before, strict=True)) | {"dead": 0, "tried": 0}
        self._database.numbers(self._store).recount(before, tuple(after.values()))
        return changed

    def noted(self, limit: int) -> list[Noted]:
        columns = "key, owner, begun_ns, ended_ns, outcome, size_bytes, error"
        found = self._ask(f'SELECT {columns} FROM "attempt_{self._store}" ORDER BY id DESC LIMIT {limit:d}')
        return [Noted(*row) for row in found]

    def leased(self) -> list[Noted]:
        found = self._ask(f"SELECT key, owner, begun_ns FROM {self._table} WHERE token IS NOT NULL ORDER BY seq")
        return [Noted(key, owner, begun_ns, None, "claimed", None, None) for key, owner, begun_ns in found]

    def attempts(self, limit: int) -> list[tuple[int, int, int | None]]:
        query = f"SELECT begun_ns, ended_ns, size_bytes FROM \"attempt_{self._store}\" WHERE outcome = 'done'"
        return self._ask(f"{query} ORDER BY id DESC LIMIT {limit:d}")


@lru_cache(KEPT_STATEMENTS)
def _note(store: str, which: str, owner: str, begun_ns: str) -> str:
    return (
        f'INSERT INTO "attempt_{store}" (key, owner, begun_ns, ended_ns, outcome, size_bytes, error) '
        f"SELECT key, {owner}, {begun_ns}, :now_ns, :outcome, {_MOVED_BYTES}, :error "
        f'FROM "entry_{store}" WHERE {which} ORDER BY seq'
    )


def _free_each(store: str, places: str, ending: Ending) -> str:
    return _free(store, places, ending.done, bool(ending.most), ending.uncounted, ending.error is not None)


@lru_cache(KEPT_STATEMENTS)
def _free(store: str, places: str, is_done: bool, may_die: bool, is_uncounted: bool, has_failed: bool) -> str:
    """What becomes of an entry; what stays is not named, as each column that is costs time in its indexes."""
    changes = ["token = NULL, owner = NULL, begun_ns = NULL, until_ns = NULL, due_ns = :due_ns, rev = :rev"]
    if is_done:
        changes.append("done = 1")
    if may_die:
        changes.append("dead = CASE WHEN tries >= :most THEN 1 ELSE 0 END")
    if is_uncounted:
        changes.append("tries = CASE WHEN tries > 0 THEN tries - 1 ELSE 0 END")
    if has_failed:
        changes.append("error = :error")
    return f'UPDATE "entry_{store}" SET {", ".join(changes)} WHERE seq IN ({places})'


def _is_only_done(ending: Ending) -> bool:
    return ending.done and not ending.uncounted and not ending.most


def _in_groups(values: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of parameters, for `IN (...)`, and what they stand for; a few at a time."""
    pending = iter(values)
    while group := tuple(islice(pending, GROUP)):
        yield _places(len(group)), dict(zip(_NAMES, group, strict=False))


@cache
def _places(count: int) -> str:
    return ", ".join(f":{name}" for name in _NAMES[:count])


def _noted(ending: Ending, now_ns: int) -> dict[str, Any]:
    return {"now_ns": now_ns, "outcome": ending.outcome, "size_bytes": ending.size_bytes, "error": ending.error}


def _end_ns(begin_ns: int, lease_s: float) -> int:
    return begin_ns + round(min(lease_s, LONGEST_LEASE_S) * 1e9)
