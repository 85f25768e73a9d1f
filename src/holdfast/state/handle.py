"""A handle on one store: opening and closing, transactions, and when what is durable. What a store means is above.

What is set waits in memory while it is held back (`hold`, or a buffered store), is written in one transaction then,
and is `dirty` until a `sync` has made sure that it survives a power cut.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from weakref import WeakValueDictionary

from holdfast.errors import ConflictError, HoldfastError, StateError
from holdfast.state import opened
from holdfast.state.backend import Backend, Durability
from holdfast.state.database import Database
from holdfast.state.keys import Key, parse_key
from holdfast.state.memory import Memory
from holdfast.state.tracked import NO_STATE, Change

_handles: WeakValueDictionary[int, Handle] = WeakValueDictionary()
_unwritten: dict[int, Handle] = {}
"""Those in which anything waits: nobody else may hold them."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """The text of a value that waits in memory, and which thread has set it.

    `seen`: the revision that it rests on, None if on none; `forget` lets that thread forget that it has seen it.
    """

    text: str
    thread: int
    seen: int | None
    forget: Callable[[], object]


class Handle:
    """What every open store has. Safe for threads and other processes, and for forking outside of transactions."""

    KIND: ClassVar[str]

    def __init__(self, path: str | Path, store: str, *, durability: Durability, sync_at: int, read_only: bool) -> None:
        self._place = opened.place_of(path)
        self.path = opened.shown(self._place)
        self.durability = durability
        self.sync_at = sync_at
        self.read_only = read_only
        self._store = store
        self._holding = False
        self._memory = Memory(self)
        self._start()
        self._backend: Database | None = self._opened()
        _handles[id(self)] = self

    def _start(self) -> None:
        self._guard = threading.RLock()  # of what waits; taken after the backend's lock, if both are
        self._shaping = threading.RLock()  # of values with parts, which threads may pass on to each other
        self._waiting: dict[str, Waiting] = {}
        self._dirty: dict[str, None] = {}
        self._is_unsynced = False

    def _opened(self) -> Database:
        backend = opened.shared(self._place, make=not self.read_only)
        try:
            (backend.demand_store if self.read_only else backend.make_store)(self._store, self.KIND)
        except BaseException:
            opened.let_go(backend)
            raise
        return backend

    def make(self, change: Change) -> Any:
        """Make a change inside a stored value, as `tracked` asks for it."""
        raise NotImplementedError

    def _put_waiting(self, backend: Backend, waiting: Mapping[str, Waiting]) -> None:
        """In a transaction: write what waited."""
        raise NotImplementedError

    def _use(self) -> Backend:
        if self._backend is None:
            raise StateError("this store is closed", place=str(self.path), hint="open it again")
        self._memory.check(self._backend.generation)
        return self._backend

    def _check_writable(self) -> None:
        if self.read_only:
            raise StateError(
                "this store was opened only to be read", place=str(self.path), hint='open it with mode="w"'
            )

    def close(self) -> None:
        """Make everything durable and let go. More than once is as once.

        What cannot be made durable is raised, and the store stays open, so that it can be closed again when the disk
        has room; unless it is gone from its place, as then nothing can be written any more.
        """
        if self._backend is not None:
            self._holding = False
            try:
                self.sync()
            except StateError:
                if not self._backend.is_at_its_place():
                    self._let_go()
                raise
            self._let_go()

    def _let_go(self) -> None:
        backend, self._backend = self._backend, None
        _handles.pop(id(self), None)
        _unwritten.pop(id(self), None)
        if backend is not None:
            opened.let_go(backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- transactions

    @contextmanager
    def transaction(self, durability: Durability | str | None = None) -> Generator[Self, None, None]:
        """Everything in the block happens at once or not at all, and nobody else writes meanwhile.

        When it is left, it survives what `durability` says. Raises `CapacityError` when the disk is full, and what the
        block raises: then nothing was changed.
        """
        self._check_writable()
        asked = Durability(durability or self.durability)
        self._flush()
        with self._use().transaction(asked):
            yield self
        self._sync_if_many()

    @contextmanager
    def _writing(self) -> Generator[Backend, None, None]:
        """A transaction for one write, or the one that this thread is in; what waits in memory is written before."""
        self._check_writable()
        self._flush()
        backend = self._use()
        if backend.inside():
            backend.demand(self.durability)
            try:
                yield backend
            except Exception:
                raise
            except BaseException:
                backend.doom()  # an interrupt, which whoever is in the transaction may catch
                raise
        else:
            with backend.transaction(self.durability):
                yield backend
            self._sync_if_many()

    def _check_unchanged(self, backend: Backend, text: str) -> None:
        """Raise `ConflictError` when this thread has read the entry and somebody else has changed it since."""
        seen = self._memory.seen(text)
        if seen is not None and seen != self._rev_of(backend, text):
            self._memory.forget_seen(text)
            raise self._lost_race(text)

    def _rev_of(self, backend: Backend, text: str) -> int:
        row = backend.get(self._store, text)
        return NO_STATE if row is None else row.rev

    def _lost_race(self, *texts: str) -> ConflictError:
        return ConflictError(
            "somebody else changed this entry after it was read; it was not written",
            place=f"{self.path}, key {', '.join(texts)}",
            expected="what was read",
            found="another value, or none",
            hint="read it and decide again, or set it again to overwrite; `incr` and `transaction` are exact",
        )

    # -- what waits in memory

    def _is_buffering(self) -> bool:
        """Whether what is set now waits; in a transaction nothing does, as it is not written before its end anyway."""
        self._check_writable()
        return (self._holding or self.durability is Durability.BUFFERED) and not self._use().inside()

    def _wait(self, text: str, value: str) -> None:
        thread = threading.get_ident()
        if (before := self._waiting.get(text)) is not None and before.thread != thread:
            self._flush()
        with self._guard:
            before = self._waiting.get(text)
            seen = self._memory.seen(text) if before is None else before.seen
            self._waiting[text] = Waiting(value, thread, seen, self._memory.forgetter(text))
            _unwritten[id(self)] = self

    def _is_waiting(self, text: str) -> bool:
        """Whether this thread has set it, and it waits; what another one has set is written."""
        waiting = self._waiting.get(text)
        if waiting is not None and waiting.thread != threading.get_ident():
            self._flush()
            return False
        return waiting is not None

    def _flush(self) -> None:
        """Write what waits in memory; in a transaction, what this thread has set. Raises `ConflictError` for what rests
        on what others have changed since: that is not written, and all else is.
        """
        if not self._waiting or self.read_only:
            return
        backend, lost = self._use(), list[str]()
        is_inside = backend.inside()
        with backend.transaction(self.durability):
            waiting = self._waiting_of(threading.get_ident() if is_inside else None)
            lost += [text for text, item in waiting.items() if item.seen not in (None, self._rev_of(backend, text))]
            self._put_waiting(backend, {text: item for text, item in waiting.items() if text not in lost})
            if is_inside:
                backend.on_rollback(lambda: self._wait_again(waiting))
                self._waits_no_more(waiting)
            else:
                backend.on_commit(lambda _: self._waits_no_more(waiting))
        if lost:
            raise self._lost_race(*lost)

    def _waiting_of(self, thread: int | None) -> dict[str, Waiting]:
        with self._guard:
            return {text: item for text, item in self._waiting.items() if thread in (None, item.thread)}

    def _waits_no_more(self, waiting: Mapping[str, Waiting]) -> None:
        with self._guard:
            for text, item in waiting.items():
                if self._waiting.get(text) is item:
                    del self._waiting[text]
                    item.forget()
            if not self._waiting:
                _unwritten.pop(id(self), None)

    def _wait_again(self, waiting: dict[str, Waiting]) -> None:
        with self._guard:
            self._waiting = waiting | self._waiting
            _unwritten[id(self)] = self

    # -- when what is durable

    def _wrote(self, backend: Backend, texts: Iterable[str]) -> None:
        """In a transaction: these entries are not safe from a power cut, unless its commit is."""
        self._wrote_all(backend, dict.fromkeys(text for text in texts if backend.is_first((id(self), text))))

    def _wrote_all(self, backend: Backend, keys: Mapping[str, object]) -> None:
        """The same where they are many, or there is nothing of them to remember but this."""

        def committed(is_power_safe: bool) -> None:
            if is_power_safe:
                self._all_safe()
            else:
                self._dirty.update(dict.fromkeys(keys))
                self._is_unsynced = True

        backend.on_commit(committed)

    def _all_safe(self) -> None:
        self._dirty.clear()
        self._is_unsynced = False

    def _sync_if_many(self) -> None:
        if len(self._dirty) + len(self._waiting) >= self.sync_at and not self._holding and not self._use().inside():
            self.sync()

    def sync(self) -> None:
        """When this returns, everything that was written survives a power cut."""
        backend = self._use()
        if self.read_only:
            return
        if backend.inside():
            raise StateError("nothing is durable inside a transaction", hint="call sync() after the block")
        self._flush()
        if self._is_unsynced or self._dirty:
            backend.sync(self._all_safe)

    def dirty(self) -> set[Key]:
        """The keys written by this handle that might not survive a power cut yet."""
        with self._guard:
            return {parse_key(text) for text in (*tuple(self._dirty), *self._waiting)}

    def hold(self) -> _Held:
        """Keep what is set from now on in memory, until `unhold` or `sync`; also as `with pod.hold():`."""
        self._check_writable()
        self._holding = True
        return _Held(self)

    def unhold(self) -> None:
        """Write what was held, and sync when it was more than `sync_at`."""
        self._holding = False
        many = len(self._waiting) >= self.sync_at
        self._flush()
        if many:
            self.sync()

    def revert(self) -> None:
        """Forget what is held in memory and was not written."""
        self._waits_no_more(self._waiting_of(None))
        self._memory.forget_values()

    def verify(self) -> list[str]:
        """Read everything back; what is not as it was written, in words. Empty when all is well."""
        self._flush()
        return self._use().problems(self._store)

    # -- others

    def lock(self) -> None:
        """Keep everybody else from writing until `unlock`. Whoever is killed holds nothing."""
        self._check_writable()
        self._use().lock()

    def unlock(self) -> None:
        self._use().unlock()

    @contextmanager
    def locked(self) -> Generator[Self, None, None]:
        """`lock` for the block."""
        self.lock()
        try:
            yield self
        finally:
            self.unlock()

    def begin_in_child(self) -> None:
        """After a fork, in the child: what waits is the parent's to write, and so is what must be made durable."""
        self._start()
        _unwritten.pop(id(self), None)
        self._memory.forget_values()


class _Held:
    """`with pod.hold():`"""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __enter__(self) -> Handle:
        return self._handle

    def __exit__(self, *_: object) -> None:
        self._handle.unhold()


def _write_all_held() -> None:
    """At the end of the process, what is still held in memory is written."""
    for handle in list(_handles.values()):
        count = len(handle.dirty())
        try:
            handle.unhold()
        except HoldfastError as error:
            lost = f"{count} entries that were held in memory are lost"
            sys.stderr.write(f"holdfast: {handle.path}: {lost}: {error}\n")


def _begin_all_in_child() -> None:
    for handle in list(_handles.values()):
        handle.begin_in_child()


atexit.register(_write_all_held)
os.register_at_fork(after_in_child=_begin_all_in_child)
