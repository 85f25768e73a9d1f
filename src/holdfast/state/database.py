"""What all databases of stores do alike: transactions and those inside them, entries, and a store's own numbers.

A backend adds its connections: how they are opened, how one begins and commits, and what a power cut leaves. Each process
has one that writes and one that reads, so that no thread sees another's unfinished work; only one thread of all
processes writes at any time, so what a transaction has read stays so until it ends, and revisions and places are given
in the order of the commits.
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar, NoReturn

from holdfast.errors import HoldfastError, NoSuchStore, StateError
from holdfast.state.backend import Durability, Reader, Stamp
from holdfast.state.entry import Row
from holdfast.state.locks import TurnLock
from holdfast.state.sql_tasks import SqlTasks
from holdfast.state.tables import (
    NO_MARKS,
    STORE_NUMBERS,
    Connection,
    Dialect,
    Looking,
    StoreNumbers,
    check_sum,
    statements_for,
)
from holdfast.state.tasks import Tasks

STORE_NAME = re.compile("[a-z][a-z0-9_]{0,39}")
GROUP = 5000
"""So many entries are written with one call."""
_NOTHING_COUNTED = nullcontext()
_SET_NUMBERS = f"UPDATE store SET {', '.join(f'{name} = ?' for name in STORE_NUMBERS)} WHERE name = ?"


@dataclass(slots=True)
class _Level:
    """Where a transaction, or one inside it, began: what to undo when it comes to nothing.

    `told`: what was registered once already, and need not be again.
    """

    undo: int
    commit: int
    states: dict[str, StoreNumbers]
    told: set[object] = field(default_factory=set[object])


class _OtherTask(StateError):
    """Nothing was begun."""


class _Explained:
    """Turns errors of the database into ours. Its time counts: it is entered several times for each write."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Any:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, self._database.errors):
            raise self._database.explanation(error) from error


class _LookingInside(_Explained):
    """In a transaction: what can be read, with all that it has written."""

    __slots__ = ()

    def __enter__(self) -> Looking:
        return self._database.whole()


class Database(ABC):
    """One open database. Threads and processes take turns at writing, by a lock that dies with its holder."""

    errors: ClassVar[type[Exception]]
    dialect: ClassVar[Dialect]
    identity: str = ""
    """What tells it from all others, by whatever name it was opened; "" where its place does."""

    def __init__(self, place: str, lock: TurnLock) -> None:
        self.place = place
        self.users = 0
        self._unusable = ""
        self._turn = lock
        self._mutex = threading.RLock()  # guards the connection that reads, opening and closing; taken after the lock
        self._opened: int = 0
        self.generation: int = 0
        self._kinds: dict[str, str] = {}
        self._given_revs: dict[str, int] = {}
        self._current = ContextVar[object](f"the transaction of {place} that this thread, or this task of it, is in")
        self._is_key = self.dialect.is_key(":key")
        self._explained, self._looking_inside = _Explained(self), _LookingInside(self)
        self._nothing_open()

    def _nothing_open(self) -> None:
        self._writer: Looking | None = None
        self._reader: Looking | None = None
        self._snapshots = 0
        self._levels: list[_Level] = []
        self._token: object = None
        self._transactions = 0
        self._is_doomed = self._is_committing = False
        self._user_locks = 0
        self._undo: list[Callable[[], object]] = []
        self._tell: list[Callable[[bool], object]] = []
        self._full = False
        self._states: dict[str, StoreNumbers] = {}

    # -- what a backend adds

    @abstractmethod
    def _connect(self) -> None:
        """Set the connections that write and read."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close them, and all others."""

    @abstractmethod
    def _check_place(self) -> None:
        """Raise `StateError` when the database is not there any more."""

    @abstractmethod
    def _begin_in(self, connection: Connection, *, full: bool) -> None:
        """Begin a transaction that nobody else is in; `full` as far as is known by now."""

    @abstractmethod
    def _commit_in(self, connection: Connection, *, full: bool) -> None: ...

    @abstractmethod
    def _make_full(self, connection: Connection) -> None:
        """Behind a commit that was to survive a power cut: see that it does."""

    @abstractmethod
    def _sync_in(self, connection: Connection) -> None:
        """Outside of transactions: make all that was committed survive a power cut."""

    @abstractmethod
    def _keep_others_out(self) -> None:
        """With the lock that threads have: keep other processes from writing between transactions, too."""

    @abstractmethod
    def _let_others_in(self) -> None:
        """The counterpart; more than once is as once."""

    @abstractmethod
    def explanation(self, error: Exception) -> HoldfastError: ...

    @abstractmethod
    def stamp(self) -> Stamp: ...

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Reader]: ...

    @abstractmethod
    def now_ns(self) -> int:
        """The time of the clock that all who use the database go by."""

    @abstractmethod
    def awaiting_changes(self) -> AbstractContextManager[Callable[[float], object]]: ...

    @abstractmethod
    def is_at_its_place(self) -> bool:
        """Whether the database that was opened is the one that would be opened now."""

    @abstractmethod
    def _forget_in_child(self) -> None:
        """After a fork, in the child: no connection of the parent is used, nor ended."""

    # -- opening, closing, forking

    def _opened_reader(self) -> Looking:
        """Under the mutex: the connection that reads."""
        if self._reader is None:
            self._open_again()
        assert self._reader is not None
        return self._reader

    def _opened_writer(self) -> Connection:
        """Under the lock: the connection that writes."""
        if self._writer is None:
            with self._mutex:
                self._open_again()
        assert self._writer is not None
        return self._writer.connection

    def _open_again(self) -> None:
        """After a fork, or when a connection was lost."""
        self._check_usable()
        self._check_place()
        self._connect()

    def _check_usable(self) -> None:
        if self._unusable:
            raise StateError(
                "this store cannot be used here",
                place=self.place,
                found=self._unusable,
                hint="fork outside of transactions and snapshots, or start the process with spawn",
            )

    def shut(self, timeout_s: float = -1) -> None:
        """Close, whoever still uses it, when whoever writes has ended, or after so long; not at all then."""
        try:
            got = self._turn.acquire(timeout_s)
        except StateError:
            return  # somebody else has closed it
        if got:
            try:
                with self._mutex:
                    self._unusable = "it is closed"
                    self._disconnect()
            finally:
                self._turn.close()

    def before_fork(self, timeout_s: float) -> bool:
        """Wait until the other threads have ended their transactions; nobody goes on before `after_fork`.

        False, and nothing done, when this thread is in a transaction, or another one is for too long.
        """
        if self.inside() or not self._turn.only_in_this_process(timeout_s):
            return False
        self._mutex.acquire()
        return True

    def after_fork(self) -> None:
        """In the parent: all go on."""
        self._mutex.release()
        self._turn.to_all()

    def after_fork_in_child(self) -> None:
        if self._snapshots or self._levels:
            self._unusable = "this process was forked in the middle of a transaction or a snapshot"
        self._forget_in_child()
        self._nothing_open()
        self._mutex = threading.RLock()
        self._turn.forget_in_child()

    # -- errors

    # -- stores

    def make_store(self, store: str, kind: str) -> None:
        if not STORE_NAME.fullmatch(store):
            raise StateError("a store cannot have this name", expected=STORE_NAME.pattern, found=repr(store))
        if self._kind_of(store) is None:
            if self.inside():
                raise StateError(
                    "a store is not made in a transaction",
                    place=f"{self.place}, store {store!r}",
                    hint="open it before",
                )
            with self.transaction(Durability.POWER), self._explained:
                connection = self._writing()
                for statement in statements_for(store, kind, self.dialect):
                    connection.execute(statement)
                connection.execute("INSERT INTO store (name, kind) VALUES (?, ?) ON CONFLICT DO NOTHING", (store, kind))
        self.demand_store(store, kind)

    def demand_store(self, store: str, kind: str) -> None:
        found = self._kind_of(store)
        if found != kind:
            raise (NoSuchStore if found is None else StateError)(
                "there is no such store" if found is None else f"this store is a {found}",
                place=f"{self.place}, store {store!r}",
                expected=kind,
                found=found or "none",
                hint="name another store, or none, or open it for writing",
            )
        self._kinds[store] = kind

    def _kind_of(self, store: str) -> str | None:
        with self.looking() as looking:
            found = looking.connection.execute("SELECT kind FROM store WHERE name = ?", (store,)).fetchone()
        return None if found is None else found[0]

    # -- reading

    def looking(self) -> AbstractContextManager[Looking]:
        """What can be read now: in a transaction with all that it has written, else what is committed."""
        return self._looking_inside if self.inside() else self._reading()

    @contextmanager
    def _reading(self) -> Generator[Looking, None, None]:
        with self._explained, self._mutex:
            yield self._opened_reader()

    def get(self, store: str, key: str) -> Row | None:
        if self.inside():
            with self._looking_inside as looking:
                return looking.get(store, key)
        with self._explained, self._mutex:
            return self._opened_reader().get(store, key)

    def page(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[Row]:
        with self.looking() as looking:
            return looking.page(store, after, limit, backwards=backwards)

    def keys(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[tuple[int, str]]:
        with self.looking() as looking:
            return looking.keys(store, after, limit, backwards=backwards)

    def count(self, store: str) -> int:
        if self.inside() and store in self._states:
            return self._states[store].entries
        with self.looking() as looking:
            return looking.count(store)

    # -- transactions

    def inside(self) -> bool:
        return bool(self._levels) and self._turn.held() and self._current.get(None) is self._token

    def transaction_number(self) -> int:
        return self._transactions if self.inside() else 0

    def demand(self, durability: Durability) -> None:
        self._full |= durability is Durability.POWER

    def doom(self) -> None:
        """In a transaction: nobody knows how far a write in it came, so it can only come to nothing."""
        self._is_doomed = True

    def is_free_here(self) -> bool:
        return self._turn.depth() == 0 and not self._mutex._is_owned()  # type: ignore[attr-defined]

    def is_committed(self, store: str, row: Row | None) -> bool:
        numbers = self._states.get(store)
        if row is None:
            return numbers is None or not numbers.removed
        return numbers is None or row.rev <= numbers.first_rev

    def is_first(self, what: object) -> bool:
        told = self._levels[-1].told
        if what in told:
            return False
        told.add(what)
        return True

    def on_rollback(self, act: Callable[[], object]) -> None:
        self._undo.append(act)

    def on_commit(self, act: Callable[[bool], object]) -> None:
        self._tell.append(act)

    @contextmanager
    def transaction(self, durability: Durability) -> Generator[None, None, None]:
        # an interrupt may come behind any line: what is to be undone is told by what there was before
        depth = self._due_depth()
        level = len(self._levels) + 1 if self.inside() else 1
        try:
            with self._explained:
                self._begin(level, durability)
            yield
            with self._explained:
                self._end(level)
        except BaseException as error:
            with self._explained:
                self._come_to_nothing(level, error)
            raise
        finally:
            self._turn.to_depth(depth)

    def _due_depth(self) -> int:
        """How often this thread should have the lock; an interrupt, as it was given back, may have left it more often."""
        return self._user_locks + len(self._levels) if self._turn.held() else 0

    def _begin(self, level: int, durability: Durability) -> None:
        self._check_usable()
        self._turn.acquire()
        connection = self._opened_writer()
        if level > 1:
            self.whole().connection.execute(f"SAVEPOINT level_{level}")
        else:
            self._check_alone()
            self._begin_outermost(connection, full=durability is Durability.POWER)
        states = {store: replace(numbers) for store, numbers in self._states.items()}
        self._levels.append(_Level(len(self._undo), len(self._tell), states))
        self.demand(durability)

    def _check_alone(self) -> None:
        """Raise `StateError` when another task of this very thread is in a transaction: that would not wait."""
        if self._levels:
            raise _OtherTask(
                "another task of this thread is in a transaction; nothing was written",
                place=self.place,
                hint="await nothing in a transaction, or give each task its own thread",
            )

    def _begin_outermost(self, connection: Connection, *, full: bool) -> None:
        self._check_place()
        if connection.in_transaction:  # an interrupt came in before the last one was known to have begun
            connection.execute("ROLLBACK")
        self._states, self._undo, self._tell, self._full = {}, [], [], full
        self._is_doomed = self._is_committing = False
        self._transactions += 1
        self._token = object()
        self._current.set(self._token)
        self._begin_in(connection, full=full)

    def _end(self, level: int) -> None:
        if self._is_doomed:
            raise StateError(
                "a transaction was interrupted in the middle of a write; all was undone",
                place=self.place,
                hint="let the interrupt end it, or do all of it again",
            )
        if level != len(self._levels):
            raise StateError(
                "transactions must be left in the reverse order in which they were entered; all was undone",
                place=self.place,
                expected=f"that transaction {len(self._levels)} is left first",
                found=f"transaction {level}",
                hint="use `with`, and leave no transaction open in a generator",
            )
        connection = self.whole().connection
        if level > 1:
            self._levels.pop()
            connection.execute(f"RELEASE level_{level}")
            return
        for store, numbers in self._states.items():
            connection.execute(_SET_NUMBERS, (*numbers.row(), store))
        self._is_committing = True
        self._commit_in(connection, full=self._full)
        self._committed(connection)

    def _committed(self, connection: Connection) -> None:
        """It is done, and nothing of it can be undone; what fails from here on is its durability at most.

        After an interrupt it is called again, and does what is left: the levels are the last to go.
        """
        self._undo = []
        try:
            if self._full:
                self._make_full(connection)
        except BaseException:
            self._full = False
            raise
        finally:
            while self._tell:
                self._tell[0](self._full)
                del self._tell[0]
            self._levels.clear()

    def _come_to_nothing(self, level: int, error: BaseException) -> None:
        """Undo what this level did; nothing is left to do where another one has undone it."""
        if isinstance(error, _OtherTask) or not self._turn.held():
            return
        if level > 1 and level > len(self._levels):
            self._is_doomed = True  # an interrupt as it ended: nobody knows whether it has
            return
        connection = None if self._writer is None else self._writer.connection
        if connection is not None and self._was_committed(connection, error):
            self._committed(connection)
            return
        begin = self._levels[level - 1] if self._levels else _Level(0, 0, {})
        self._give_no_rev_twice()
        try:
            if connection is not None and connection.in_transaction:
                self._roll_back(connection, level)
        finally:
            del self._levels[level - 1 :]
            self._states = begin.states
            for store, numbers in self._states.items():
                numbers.rev = max(numbers.rev, self._given_revs.get(store, 0))
            del self._tell[begin.commit :]
            while len(self._undo) > begin.undo:
                self._undo.pop()()

    def _roll_back(self, connection: Connection, level: int) -> None:
        if level == 1:
            connection.execute("ROLLBACK")
        else:
            connection.execute(f"ROLLBACK TO level_{level}")
            connection.execute(f"RELEASE level_{level}")

    def _was_committed(self, connection: Connection, error: BaseException) -> bool:
        """Whether an interrupt came between the commit and the knowledge of it."""
        failed = isinstance(error, (self.errors, HoldfastError))
        return bool(self._levels) and self._is_committing and not failed and not connection.in_transaction

    def _give_no_rev_twice(self) -> None:
        for store, numbers in self._states.items():
            self._given_revs[store] = max(numbers.rev, self._given_revs.get(store, 0))

    def whole(self) -> Looking:
        """In a transaction: the connection that writes. After some errors it is undone by itself."""
        writer = self._writer
        if writer is None or not writer.connection.in_transaction:
            raise StateError(
                "the transaction was undone, as the database failed in it",
                place=self.place,
                hint="see that the database is well, then do all of it again",
            )
        return writer

    def _writing(self) -> Connection:
        if not self.inside():
            raise RuntimeError("writing belongs in a transaction")
        return self.whole().connection

    # -- writing, in a transaction

    def next_rev(self, store: str) -> int:
        """In a transaction: a revision that was never given."""
        numbers = self.numbers(store)
        numbers.rev += 1
        return numbers.rev

    def numbers(self, store: str) -> StoreNumbers:
        """In a transaction: what it has made of a store's own numbers."""
        if store not in self._states:
            self._states[store] = numbers = self.whole().numbers(store)
            numbers.rev = max(numbers.rev, self._given_revs.get(store, 0))
        return self._states[store]

    def recounting(self, store: str, where: str, words: Mapping[str, Any]) -> AbstractContextManager[None]:
        """In a transaction: the block changes no entries but these; they are counted before and after it."""
        return self._recounting(store, where, words) if self.whole().form(store).has_marks else _NOTHING_COUNTED

    @contextmanager
    def _recounting(self, store: str, where: str, words: Mapping[str, Any]) -> Generator[None, None, None]:
        looking = self.whole()
        before = looking.marks(store, where, words)
        yield
        self.numbers(store).recount(before, looking.marks(store, where, words))

    def put(self, store: str, key: str, value: str) -> Row:
        with self._explained:
            connection = self._writing()
            state = self.numbers(store)
            state.rev += 1
            proposed = state.last_seq + 1
            form = self.whole().form(store)
            stored = form.stored(value)
            row = (proposed, key, state.rev, check_sum(key, stored[0]), *stored)
            with self.recounting(store, self._is_key, {"key": key}):
                found = connection.execute(f"{form.upsert(store, self.dialect)} RETURNING seq", row).fetchone()
            (seq,) = found or self._same_digest(store, key)
            if seq == proposed:
                state.last_seq = proposed
                state.entries += 1
            return Row(seq, key, value, state.rev)

    def put_many(self, store: str, pairs: Iterable[tuple[str, str]]) -> None:
        pending = iter(pairs)
        while group := list(islice(pending, GROUP)):
            with self._explained:
                among, words = self._among([key for key, _ in group])
                with self.recounting(store, among, words):
                    self._put_group(store, group)

    def _among(self, keys: list[str]) -> tuple[str, dict[str, str]]:
        words = {f"k{number}": key for number, key in enumerate(keys)}
        return self.dialect.is_among([f":{name}" for name in words]), words

    def _put_group(self, store: str, group: list[tuple[str, str]]) -> None:
        connection = self._writing()
        state = self.numbers(store)
        state.rev += 1
        form = self.whole().form(store)
        rows = [
            (seq, key, state.rev, check_sum(key, stored[0]), *stored)
            for seq, (key, stored) in enumerate(((key, form.stored(value)) for key, value in group), state.last_seq + 1)
        ]
        made = connection.executemany(f"{form.insert(store)} ON CONFLICT DO NOTHING", rows).rowcount
        state.last_seq += len(rows)
        state.entries += made
        if made < len(rows):
            put = connection.executemany(form.upsert(store, self.dialect), rows).rowcount
            if put < len(rows):
                self._same_digest(store, f"{rows[0][1]} or one behind it")

    def _same_digest(self, store: str, key: str) -> NoReturn:
        raise StateError(
            "two keys have the same MD5; the second one was not written",
            place=f"{self.place}, store {store!r}, key {key}",
            hint="change a character of this key",
        )

    def delete(self, store: str, key: str) -> bool:
        with self._explained:
            connection = self._writing()
            state = self.numbers(store)
            statement = f'DELETE FROM "entry_{store}" WHERE {self._is_key}'
            with self.recounting(store, self._is_key, {"key": key}):
                gone = connection.execute(statement, {"key": key}).rowcount
            state.entries -= gone
            state.removed = True
            return gone > 0

    def clear(self, store: str) -> None:
        with self._explained:
            state = self.numbers(store)
            self._writing().execute(f'DELETE FROM "entry_{store}"')
            state.entries, state.marks, state.removed = 0, NO_MARKS, True

    def move(self, store: str, key: str, *, last: bool) -> bool:
        with self._explained:
            connection = self._writing()
            state = self.numbers(store)
            seq = state.last_seq + 1 if last else state.first_seq - 1
            statement = f'UPDATE "entry_{store}" SET seq = :seq WHERE {self._is_key}'
            if not connection.execute(statement, {"seq": seq, "key": key}).rowcount:
                return False
            state.first_seq, state.last_seq = min(seq, state.first_seq), max(seq, state.last_seq)
            return True

    def tasks(self, store: str) -> Tasks:
        return SqlTasks(self, store)

    # -- syncing, locking, checking

    def sync(self, then: Callable[[], object]) -> None:
        self._check_usable()
        depth = self._due_depth()
        try:
            with self._explained:
                self._turn.acquire()
                if not self.inside():
                    self._check_alone()
                connection = self._opened_writer()
                self._check_place()
                self._sync_in(connection)
            then()
        finally:
            self._turn.to_depth(depth)

    def lock(self) -> None:
        depth, before = self._due_depth(), self._user_locks
        try:
            self._check_usable()
            self._turn.acquire()
            if before:
                self._check_place()
            else:
                self._keep_others_out()
            self._user_locks = before + 1
        except BaseException:
            self._user_locks = before
            if not before and self._turn.held():
                self._let_others_in()
            self._turn.to_depth(depth)
            raise

    def unlock(self) -> None:
        if not self._user_locks or not self._turn.held():
            raise StateError(
                "the lock is not held by this thread", place=self.place, hint="call lock() before unlock()"
            )
        if self._user_locks == 1:
            self._let_others_in()
        self._user_locks -= 1
        self._turn.release()

    def problems(self, store: str) -> list[str]:
        if self.inside():
            return self.whole().problems(store)
        with self.snapshot() as reader:
            return reader.problems(store)
