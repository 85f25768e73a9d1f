"""A handle on one store: opening and closing, transactions, and when what is durable. What a store means is above.

What is set waits in memory while it is held back (`hold`, or a buffered store), is written in one transaction then,
and is `dirty` until a `sync` has made sure that it survives a power cut.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self
from weakref import WeakValueDictionary

from holdfast.errors import ConflictError, HoldfastError, StateError
from holdfast.state import sqlite
from holdfast.state.backend import Backend, Durability, Stamp
from holdfast.state.changes import Change
from holdfast.state.copies import Copies
from holdfast.state.keys import Key, parse_key
from holdfast.state.tracked import NO_STATE, Root

_handles: WeakValueDictionary[int, Handle] = WeakValueDictionary()


class Handle:
    """What every open store has. Safe for threads, other processes and forking, as its backend is."""

    KIND: ClassVar[str]

    def __init__(self, path: str | Path, store: str, *, durability: Durability, sync_at: int, read_only: bool) -> None:
        self.path = Path(path).expanduser()
        self.durability = durability
        self.sync_at = sync_at
        self.read_only = read_only
        self._store = store
        self._held: dict[str, str] = {}  # the texts of values that wait in memory, by key
        self._holding = 0
        self._dirty: dict[str, None] = {}
        self._copies = Copies(self)
        self._backend: Backend | None = self._opened()
        _handles[id(self)] = self

    def _opened(self) -> Backend:
        if self.read_only and not (self.path / "state.db").exists():
            raise StateError("no store to read", place=str(self.path), hint="name the folder of one")
        backend = sqlite.shared(self.path)
        try:
            backend.make_store(self._store, self.KIND)
        except BaseException:
            backend.close()
            raise
        return backend

    def make(self, root: Root, change: Callable[[], Change], locally: Callable[[], Any]) -> Any:
        """Make a change inside a stored value, as `tracked` asks for it."""
        raise NotImplementedError

    def _put_group(self, backend: Backend, group: Mapping[str, str]) -> None:
        """In a transaction: set these texts under these keys."""
        raise NotImplementedError

    def _use(self) -> Backend:
        if self._backend is None:
            raise StateError("this store is closed", place=str(self.path), hint="open it again")
        return self._backend

    def _check_writable(self) -> None:
        if self.read_only:
            raise StateError(
                "this store was opened only to be read", place=str(self.path), hint='open it with mode="w"'
            )

    def close(self) -> None:
        """Make everything durable and let go. More than once is as once."""
        if self._backend is not None:
            self._holding = 0
            self.sync()
            backend, self._backend = self._backend, None
            _handles.pop(id(self), None)
            backend.close()

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
        backend = self._use()
        with backend.transaction(asked), self._paused():
            backend.join(self, asked)
            self._copies.joined()
            yield self
        if not backend.inside():
            self._dirty = {} if asked is Durability.POWER else self._dirty
            self._sync_if_many()

    @contextmanager
    def _paused(self) -> Generator[None, None, None]:
        """In a transaction nothing is held back: it is in memory until the end anyway."""
        holding, self._holding = self._holding, -1
        try:
            yield
        finally:
            self._holding = holding

    @contextmanager
    def _writing(self) -> Generator[Backend, None, None]:
        self._check_writable()
        backend = self._use()
        if backend.inside():
            with backend.mutex:
                self._join(backend)
                yield backend
        else:
            with backend.transaction(self.durability), backend.mutex:
                self._join(backend)
                yield backend

    def _join(self, backend: Backend) -> None:
        backend.join(self, self.durability)
        self._copies.joined()

    def committed(self, before: Stamp, after: Stamp) -> None:
        """Told by the backend."""
        self._copies.committed(before, after)

    def rolled_back(self) -> None:
        """Told by the backend: whoever holds a list or dictionary sees again what is stored."""
        backend = self._use()

        def rev_of(key: str) -> int:
            row = backend.get(self._store, key)
            return NO_STATE if row is None else row.rev

        with backend.mutex:
            self._copies.rolled_back(rev_of)
            for root in self._copies.roots():
                root.rev = NO_STATE
                if (row := backend.get(self._store, root.key)) is not None:
                    self._copies.renew(row)
            if not backend.inside():
                self._copies.left()

    def _check_unchanged(self, backend: Backend, text: str) -> None:
        """Raise `ConflictError` when this thread has read the entry and somebody else has changed it since."""
        noted = self._copies.noted(text)
        if noted is None:
            return
        row = backend.get(self._store, text)
        if noted != (NO_STATE if row is None else row.rev):
            self._copies.forget_note(text)
            raise ConflictError(
                "somebody else changed this entry after it was read",
                place=f"{self.path}, key {text}",
                expected="what was read",
                found="another value" if row else "none: it was removed",
                hint="read it and decide again, or set it again to overwrite; `incr` and `transaction` are exact",
            )

    # -- when what is durable

    def _is_buffering(self) -> bool:
        self._check_writable()
        return self._holding > 0 or (self._holding == 0 and self.durability is Durability.BUFFERED)

    def _flush(self) -> None:
        """Write what waits in memory."""
        if self._held:
            with self._writing() as backend:
                held, self._held = self._held, {}
                try:
                    self._put_group(backend, held)
                except BaseException:
                    self._held = held | self._held
                    raise

    def _wrote(self, text: str) -> None:
        self._mark([text])
        self._sync_if_many()

    def _mark(self, texts: Iterable[str]) -> None:
        if self.durability is not Durability.POWER:
            self._dirty.update(dict.fromkeys(texts))

    def _sync_if_many(self) -> None:
        waiting = len(self._dirty) + len(self._held)
        if waiting >= self.sync_at and self._holding <= 0 and not self._use().inside():
            self.sync()

    def sync(self) -> None:
        """When this returns, everything that was written survives a power cut."""
        if self._use().inside():
            raise StateError("nothing is durable inside a transaction", hint="call sync() after the block")
        self._flush()
        if self._dirty:
            self._use().sync()
            self._dirty.clear()

    def dirty(self) -> set[Key]:
        """The keys written by this handle that might not survive a power cut yet."""
        return {parse_key(text) for text in (*self._dirty, *self._held)}

    def hold(self) -> _Held:
        """Keep what is set from now on in memory, until `unhold` or `sync`; also as `with pod.hold():`."""
        self._check_writable()
        self._holding = 1
        return _Held(self)

    def unhold(self) -> None:
        """Write what was held, and sync when it was more than `sync_at`."""
        self._holding = 0
        many = len(self._held) >= self.sync_at
        self._flush()
        if many:
            self.sync()

    def revert(self) -> None:
        """Forget what is held in memory and was not written."""
        self._held.clear()
        with self._use().mutex:
            self._copies.forget()

    def verify(self) -> list[str]:
        """Read everything back; what is not as it was written, in words. Empty when all is well."""
        self._flush()
        return self._use().problems(self._store)

    # -- others

    def lock(self) -> None:
        """Keep everybody else from writing until `unlock`. Whoever is killed holds nothing."""
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
        try:
            handle.unhold()
        except HoldfastError as error:
            lost = f"{len(handle.dirty())} entries that were held in memory are lost"
            sys.stderr.write(f"holdfast: {handle.path}: {lost}: {error}\n")


atexit.register(_write_all_held)
