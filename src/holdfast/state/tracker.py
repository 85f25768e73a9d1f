"""The dictionary that knows what is done, `Tracker`: keys are tasks, and each value tells of its own progress.

    tracker.add_many_if_absent(names)
    for name in tracker.try_keys():        each task to one worker only, whoever else asks, on this machine
        work(name)
        tracker.mark_done(name)

    for task in tracker.claim(32):         the same with a lease that ends, and a token against who comes late
        with task:
            work(task.key)

Every value is a dictionary with `_tries` (a number), `_done` and `_aborted` (true or false) beside what its user puts
there; they are written like everything else, and counted exactly, whoever writes them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from holdfast.errors import DuplicateKeyError, IntegrityError, InvalidValue
from holdfast.state.attempt import Attempt, attempt_of
from holdfast.state.backend import Backend, Durability
from holdfast.state.entry import Row
from holdfast.state.jsonvalue import dump, load
from holdfast.state.keys import Key, key_text, parse_key
from holdfast.state.memory import MISSING
from holdfast.state.owners import me
from holdfast.state.pod import DEFAULT_FILE_SIZE, DEFAULT_SYNC_AT, POD, groups, pairs_of
from holdfast.state.progress import Progress, percent, progress
from holdfast.state.tables import TRACKER_KIND
from holdfast.state.task import LEASE_S, Task, lease_lost, note_ends
from holdfast.state.tasks import Claim, Ending, Lease, Tasks, Wanted
from holdfast.state.views import PAGE

ATTEMPTS = 1000
"""From so many of the last attempts it is told how fast work goes."""
_NEW: dict[str, Any] = {"_tries": 0, "_done": False, "_aborted": False}


class Tracker(POD):
    """A `POD` of tasks. Parameters are those of `POD`, and:

    max_tries
        A task that was tried so often is given to nobody any more; 0: no limit.
    """

    KIND = TRACKER_KIND

    def __init__(
        self,
        path: str | Path,
        max_tries: int = 0,
        init: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
        gzipped: bool = False,
        file_size: int = DEFAULT_FILE_SIZE,
        sync_at: int = DEFAULT_SYNC_AT,
        *,
        default: Mapping[Any, Any] | None = None,
        durability: Durability | str = Durability.KILL,
        mode: str = "w",
        store: str = "main",
        migrate: bool = False,
    ) -> None:
        self.max_tries = max_tries
        self._left: deque[Lease] = deque()
        super().__init__(
            path,
            init,
            gzipped,
            file_size,
            sync_at,
            default=default,
            durability=durability,
            mode=mode,
            store=store,
            migrate=migrate,
        )

    def _tasks(self) -> Tasks:
        if self._task_backend is not self._use():
            self._task_backend = self._use()
            self._own_tasks = self._task_backend.tasks(self._store)
        return self._own_tasks

    _task_backend: object = None
    _own_tasks: Tasks

    # -- values

    def _text_of(self, value: Any) -> str:
        if not isinstance(value, dict):
            raise InvalidValue("a tracker's values are dictionaries", expected="dict", found=type(value).__name__)
        return self._text_of_changed(_NEW | value)

    def _text_of_changed(self, value: Any) -> str:
        for name, new in _NEW.items():
            found = value.get(name)
            if type(found) is not type(new) or abs(int(found)) >= 2**62:
                raise InvalidValue(f"{name} of a task", expected=type(new).__name__, found=repr(found)[:80])
        return dump(_NEW | value)

    def update(self, *others: Any, **more: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Merge into each task's value; tasks that are not there are added. All or none of them."""
        with self._writing() as backend, backend.transaction(self.durability):
            for other in (*others, more):
                merged = self._merged(backend, iter(pairs_of(other)))
                for group in groups(merged):
                    self._put_group(backend, group)

    def _merged(self, backend: Backend, pairs: Iterator[tuple[Any, Any]]) -> Iterator[tuple[str, str]]:
        for text, values in _runs((key_text(key), value) for key, value in pairs):
            row = backend.get(self._store, text)
            merged: dict[str, Any] = dict(_NEW) if row is None else load(row.value)
            for value in values:
                if not isinstance(value, Mapping):
                    raise InvalidValue("a task's value is merged from a dictionary", found=type(value).__name__)
                merged.update(cast("Mapping[str, Any]", value))
            yield text, self._text_of(merged)

    # -- adding

    def add(self, key: Key) -> None:
        """Add a task. Raises `DuplicateKeyError` when it is there."""
        with self.transaction():
            if not self.add_if_absent(key):
                raise DuplicateKeyError("this task is there already", place=f"{self.path}, key {key!r}")

    def add_if_absent(self, key: Key) -> bool:
        """Add a task where it is missing; whether it was."""
        text = key_text(key)
        with self._writing() as backend:
            if backend.get(self._store, text) is not None:
                return False
            backend.put(self._store, text, self._text_of({}))
            self._memory.replaced(text, backend)
            self._wrote(backend, [text])
            return True

    def add_many(self, keys: Iterable[Key]) -> None:
        """Add tasks. Raises `DuplicateKeyError` when one is there, or comes twice: then none is added."""
        with self.transaction():
            for key in keys:
                self.add(key)

    def add_many_if_absent(self, keys: Iterable[Key]) -> int:
        """Add those that are missing; how many were."""
        with self.transaction():
            return sum(self.add_if_absent(key) for key in keys)

    # -- what is to be done

    def todo_keys(self, allow_aborted: bool = False) -> Iterator[Key]:
        """Tasks that are neither done nor aborted nor tried too often, in order; also those that are added meanwhile."""
        return (parse_key(row.key) for row in self._todo(allow_aborted))

    def todo_items(self, allow_aborted: bool = False) -> Iterator[tuple[Key, Any]]:
        return self._with_values(self.todo_keys(allow_aborted))

    def _with_values(self, keys: Iterator[Key]) -> Iterator[tuple[Key, Any]]:
        """Those that nobody has removed meanwhile."""
        found = ((key, self.get(key, MISSING)) for key in keys)
        return ((key, value) for key, value in found if value is not MISSING)

    def todo_values(self, allow_aborted: bool = False) -> Iterator[Any]:
        return (value for _, value in self.todo_items(allow_aborted))

    def _todo(self, allow_aborted: bool) -> Iterator[Row]:
        self._flush()
        return _pages(lambda after: self._tasks().todo(after, PAGE, self.max_tries, with_aborted=allow_aborted))

    def aborted_keys(self) -> Iterator[Key]:
        return self._marked("aborted")

    def aborted_items(self) -> Iterator[tuple[Key, Any]]:
        return self._with_values(self.aborted_keys())

    def aborted_values(self) -> Iterator[Any]:
        return (value for _, value in self.aborted_items())

    def done_keys(self) -> Iterator[Key]:
        return self._marked("done")

    def dead_keys(self) -> Iterator[Key]:
        """Tasks that failed too often."""
        return self._marked("dead")

    def _marked(self, mark: str) -> Iterator[Key]:
        self._flush()
        return (parse_key(row.key) for row in _pages(lambda after: self._tasks().marked(mark, after, PAGE)))

    def should_do(self, key: Key, allow_aborted: bool = False) -> bool:
        """Whether it is neither done nor tried too often, nor aborted, unless that is allowed. Raises `KeyError`."""
        value = self[key]
        is_open = not value["_done"] and (self.max_tries < 1 or value["_tries"] < self.max_tries)
        return is_open and (allow_aborted or not value["_aborted"])

    def should_do_add(self, key: Key, allow_aborted: bool = False) -> bool:
        """As `should_do`; a task that is missing is added, and should be done."""
        with self.transaction():
            self.add_if_absent(key)
            return self.should_do(key, allow_aborted)

    def should_try(self, key: Key, allow_aborted: bool = False) -> bool:
        """As `should_do`; if so, it is counted as tried."""
        with self.transaction():
            should = self.should_do(key, allow_aborted)
            if should:
                self.increment_tries(key)
            return should

    def should_try_add(self, key: Key, allow_aborted: bool = False) -> bool:
        with self.transaction():
            self.add_if_absent(key)
            return self.should_try(key, allow_aborted)

    # -- trying, each by one worker only

    def try_keys(self, allow_aborted: bool = False, *, lease_s: float = LEASE_S) -> Generator[Key]:
        """Claim one task after the other, in order, each once, and count it as tried; also those added meanwhile.

        The claim ends when the next one is asked for, or the loop is left: what is not marked as done by then may be
        tried again, by anybody.
        """
        after: int | None = None
        while leases := self._lease(1, lease_s, allow_aborted, after, None):
            after = leases[0].row.seq
            try:
                yield parse_key(leases[0].row.key)
            finally:
                self._left.append(leases[0])
                self._end_what_was_left()

    def _end_what_was_left(self) -> None:
        """End the attempts of loops that went on or were left; later, if that is in the middle of anything.

        A generator may be ended by a garbage collection, which runs anywhere, with whatever this thread has locked.
        """
        backend = self._backend
        if backend is None or not backend.is_free_here() or self._shaping._is_owned() or self._guard._is_owned():  # type: ignore[attr-defined]
            return
        while self._left:
            lease = self._left.pop()
            if lease.owner != me():
                continue  # a fork: it is the parent's
            with self._writing() as backend:
                self.end(backend, [lease], Ending("tried", most=self.max_tries))
                row = backend.get(self._store, lease.row.key)
                if row is not None and load(row.value)["_done"]:
                    self._tasks().note(lease, "done")

    def _flush(self) -> None:
        if self._left:
            self._end_what_was_left()
        super()._flush()

    def try_items(self, allow_aborted: bool = False, *, lease_s: float = LEASE_S) -> Iterator[tuple[Key, Any]]:
        return self._with_values(self.try_keys(allow_aborted, lease_s=lease_s))

    def try_values(self, allow_aborted: bool = False, *, lease_s: float = LEASE_S) -> Iterator[Any]:
        return (value for _, value in self.try_items(allow_aborted, lease_s=lease_s))

    def claim(
        self, n: int = 1, lease_s: float = LEASE_S, where: Callable[[Key, Any], bool] | None = None
    ) -> list[Task]:
        """Take at most `n` tasks that are free and due, the first in order, those only for which `where` is true.

        Nobody else gets them before `lease_s` is over, unless this process ends before. Each is counted as tried.
        """
        return [Task(self, lease) for lease in self._lease(n, lease_s, False, None, where)]

    def _lease(
        self,
        n: int,
        lease_s: float,
        allow_aborted: bool,
        after: int | None,
        where: Callable[[Key, Any], bool] | None,
    ) -> list[Lease]:
        def accepts(row: Row) -> bool:
            return where is None or where(parse_key(row.key), load(row.value))

        wanted = Wanted(max(0, n), me(), lease_s, self.max_tries, allow_aborted, after, accepts if where else None)
        with self._writing() as backend:
            claim = self._claim(backend, wanted)
        return claim.leases()  # when others may write again

    def take(self, key: Key, lease_s: float = LEASE_S, *, from_anybody: bool = False) -> Task | None:
        """Take just this task, whether it is due or not; None when somebody has it.

        It is added where it is missing, and begun anew where it is done, aborted or dead. `from_anybody`: who has it
        loses it; for who knows by other means that nobody else works on it.
        """
        text = key_text(key)
        with self.transaction():
            backend = self._use()
            self.add_if_absent(key)
            before = self._rev_of(backend, text)
            if self._tasks().reopen(text, from_anybody=from_anybody):
                self._changed(backend, {text: before})
            claim = self._claim(backend, Wanted(1, me(), lease_s, self.max_tries, key=text))
        leases = claim.leases()
        return Task(self, leases[0]) if leases else None

    def _claim(self, backend: Backend, wanted: Wanted) -> Claim:
        claim = self._tasks().claim(wanted)
        self._changed(backend, claim.befores)
        return claim

    def end(self, backend: Backend, leases: Sequence[Lease], ending: Ending) -> list[Lease]:
        """In a transaction: end them; those that are somebody else's by now are returned, and unchanged."""
        owner = me()
        ended = self._tasks().end([lease for lease in leases if lease.owner == owner], ending)
        self._changed(backend, ended)
        if len(ended) == len(leases):
            return []
        newest = {lease.row.key: lease.token for lease in sorted(leases, key=attrgetter("token"))}
        return [item for item in leases if item.row.key not in ended or item.token != newest[item.row.key]]

    def _changed(self, backend: Backend, befores: Mapping[str, int]) -> None:
        for text in self._memory.seen_among(befores):
            self._memory.wrote(text, befores[text], backend)
        self._wrote_all(backend, befores)

    def finish(self, tasks: Iterable[Task], *, claim: int = 0, lease_s: float = LEASE_S) -> list[Task]:
        """Mark them done, all or none, and claim so many others at once, as `claim` does. Raises `LeaseLost`."""
        tasks, claimed = list(tasks), None
        with self.transaction():
            backend = self._use()
            late = self.end(backend, [task.lease for task in tasks], Ending("done", done=True))
            if late:
                raise lease_lost(self, late[0])
            note_ends(tasks, backend)
            if claim:
                claimed = self._claim(backend, Wanted(max(0, claim), me(), lease_s, self.max_tries))
        return [] if claimed is None else [Task(self, lease) for lease in claimed.leases()]

    # -- one task

    def _mark(self, key: Key, **marks: Any) -> None:
        def edit(value: dict[str, Any]) -> tuple[Any, None]:
            return value | marks, None

        self._edit(key, edit)

    def mark_done(self, key: Key) -> None:
        """Raises `KeyError`, as all that follow."""
        self._mark(key, _done=True)

    def mark_not_done(self, key: Key) -> None:
        self._mark(key, _done=False)

    def done(self, key: Key) -> bool:
        """Whether it is done; not, when it is not there."""
        return bool(self.get(key, _NEW)["_done"])

    def abort(self, key: Key) -> None:
        """Nobody is to try it any more, until `unabort`."""
        self._mark(key, _aborted=True)

    def unabort(self, key: Key) -> None:
        self._mark(key, _aborted=False)

    def aborted(self, key: Key) -> bool:
        return bool(self[key]["_aborted"])

    def tries(self, key: Key) -> int:
        return self[key]["_tries"]

    def increment_tries(self, key: Key) -> None:
        self._add_tries(key, 1)

    def decrement_tries(self, key: Key) -> None:
        """Not below zero."""
        self._add_tries(key, -1)

    def _add_tries(self, key: Key, by: int) -> None:
        def edit(value: dict[str, Any]) -> tuple[Any, None]:
            return value | {"_tries": max(0, value["_tries"] + by)}, None

        self._edit(key, edit)

    def reset_tries(self, key: Key) -> None:
        """As if it had never been tried; one that failed too often may be tried again."""
        with self._writing() as backend:
            before = self._rev_of(backend, key_text(key))
            if not self._tasks().revive(key_text(key)):
                raise KeyError(key)
            self._memory.wrote(key_text(key), before, backend)
            self._wrote(backend, [key_text(key)])

    def retry_dead(self) -> int:
        """Let all that failed too often be tried again from the begin; how many."""
        with self._writing() as backend:
            count = self._tasks().revive(None)
            self._wrote(backend, [])
        return count

    # -- how much

    def _count(self, name: str) -> int:
        self._flush()
        return self._tasks().number(name)

    def num_done(self) -> int:
        return self._count("done")

    def num_tried(self) -> int:
        return self._count("tried")

    def num_aborted(self) -> int:
        return self._count("aborted")

    def fraction_done(self) -> float:
        """0.0 of an empty tracker, as all fractions."""
        return self._fraction("done")

    def fraction_not_done(self) -> float:
        return self._other_fraction("done")

    def fraction_tried(self) -> float:
        return self._fraction("tried")

    def fraction_not_tried(self) -> float:
        return self._other_fraction("tried")

    def fraction_aborted(self) -> float:
        return self._fraction("aborted")

    def fraction_not_aborted(self) -> float:
        return self._other_fraction("aborted")

    def _fraction(self, name: str) -> float:
        self._flush()
        entries = len(self)
        return self._tasks().number(name) / entries if entries else 0.0

    def _other_fraction(self, name: str) -> float:
        self._flush()
        entries = len(self)
        return (entries - self._tasks().number(name)) / entries if entries else 0.0

    def percent(self, fraction: float, decimals: int = 2) -> str:
        return percent(fraction, decimals)

    def percent_done(self, decimals: int = 2) -> str:
        return percent(self.fraction_done(), decimals)

    def percent_not_done(self, decimals: int = 2) -> str:
        return percent(self.fraction_not_done(), decimals)

    def percent_tried(self, decimals: int = 2) -> str:
        return percent(self.fraction_tried(), decimals)

    def percent_not_tried(self, decimals: int = 2) -> str:
        return percent(self.fraction_not_tried(), decimals)

    def percent_aborted(self, decimals: int = 2) -> str:
        return percent(self.fraction_aborted(), decimals)

    def percent_not_aborted(self, decimals: int = 2) -> str:
        return percent(self.fraction_not_aborted(), decimals)

    def stats(self) -> Progress:
        """Where all stands, and how long what is left will take, as far as attempts that were recorded tell."""
        self._flush()
        return progress(self._tasks().tally(self.max_tries), self._tasks().attempts(ATTEMPTS))

    def attempts(self, limit: int = 100) -> list[Attempt]:
        """The last attempts that have ended, the newest first: by whom, when, how, and what went wrong."""
        self._flush()
        return [attempt_of(noted) for noted in self._tasks().noted(limit)]

    def claims(self) -> list[Attempt]:
        """The attempts that go on, in the order of the tasks; `is_gone` is true of those whose process has ended."""
        self._flush()
        return [attempt_of(noted) for noted in self._tasks().leased()]

    def watch(self, *, every_s: float = 1.0) -> Generator[Progress, None, None]:
        """How all stands now, and again whenever that has changed, at most so often; until nothing is left to do.

        Nothing is asked meanwhile: the change itself wakes it. What is dead or aborted is not left to do.
        """
        with self._use().awaiting_changes() as wait:
            told: Progress | None = None
            while told is None or told.todo:
                standing = self.stats()
                if standing != told:
                    yield standing
                    told = standing
                    time.sleep(every_s if standing.todo else 0)
                else:
                    wait(LEASE_S)


def _pages(page: Callable[[int | None], list[Row]]) -> Iterator[Row]:
    after: int | None = None
    while rows := page(after):
        yield from rows
        if after is not None and rows[-1].seq <= after:
            raise IntegrityError("the entries of a store are not in their order", hint="verify() says what is damaged")
        after = rows[-1].seq


def _runs(pairs: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Values of the same key that follow each other, together."""
    return ((text, [value for _, value in run]) for text, run in groupby(pairs, key=lambda pair: pair[0]))
