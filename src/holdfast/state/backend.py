"""What a database must do to keep dictionaries and trackers: a narrow front, so that there can be several.

A store is one dictionary or tracker; a database holds any number of them, by name, and one transaction spans them
all. Rows are in the order of their `seq`; keys and values are text that nobody here looks into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol, TypeAlias

from holdfast.state.entry import Row
from holdfast.state.tasks import Tasks


class Durability(StrEnum):
    """What a write that has returned survives. Under `hold` a write is in memory only, whatever this says."""

    BUFFERED = "buffered"
    """Nothing yet: it is in memory until the next `sync`, which comes by itself when `sync_at` entries wait."""
    KILL = "kill"
    """The end of the process, however it ends."""
    POWER = "power"
    """A power cut, too."""


Stamp: TypeAlias = "tuple[int, object, object]"
"""Its first part is the generation of the database."""


class Reader(Protocol):
    """Looking at a store, at one moment or at the newest."""

    def get(self, store: str, key: str) -> Row | None:
        """The entry under `key`. Raises `IntegrityError` for one that is not as it was written."""
        ...

    def page(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[Row]:
        """The next entries behind the place `after`, in order; from the begin (or the end) where that is None.

        Fewer than `limit` where values are long; none only where there is none.
        """
        ...

    def keys(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[tuple[int, str]]:
        """Places and keys, as `page` gives entries."""
        ...

    def count(self, store: str) -> int: ...

    def problems(self, store: str) -> list[str]:
        """Read everything; what is not as it was written, in words."""
        ...


class Backend(Reader, Protocol):
    """One open database. Safe for threads, for any number of processes, and for forking outside of transactions."""

    generation: int
    """Another one when what was committed may be there no more, so that nothing at hand can be believed."""

    def make_store(self, store: str, kind: str) -> None:
        """Make the store where it is missing. Raises `StateError` where it is of another kind."""
        ...

    def demand_store(self, store: str, kind: str) -> None:
        """Raise `StateError` where there is no such store, or one of another kind. Writes nothing."""
        ...

    # -- transactions

    def transaction(self, durability: Durability) -> AbstractContextManager[None]:
        """Everything in the block happens at once or not at all; only one block runs at any time, anywhere.

        A block inside a block of the same thread belongs to it, and can come to nothing alone. When the outermost is
        left, what it did has the highest durability that was asked for. Raises `CapacityError` when the disk is full,
        and `StateError` when blocks are not left in the order in which they were entered, the last one first: nothing
        was changed then.
        """
        ...

    def inside(self) -> bool:
        """Whether this thread is in a transaction."""
        ...

    def demand(self, durability: Durability) -> None:
        """In a transaction: make it at least so durable."""
        ...

    def doom(self) -> None:
        """In a transaction: it can only come to nothing."""
        ...

    def is_free_here(self) -> bool:
        """Whether this thread holds nothing of it: a garbage collection may run anywhere."""
        ...

    def is_committed(self, store: str, row: Row | None) -> bool:
        """In a transaction: whether the entry (or, None, that there is none) was so before the transaction, for sure."""
        ...

    def transaction_number(self) -> int:
        """Another one for each transaction; 0 outside of them."""
        ...

    def is_first(self, what: object) -> bool:
        """In a transaction: whether this was not asked yet at its innermost level."""
        ...

    def on_rollback(self, act: Callable[[], object]) -> None:
        """In a transaction: do this when what was done so far comes to nothing; the last one told is done first."""
        ...

    def on_commit(self, act: Callable[[bool], object]) -> None:
        """In a transaction: do this when it is done, before anybody else writes; told whether power cuts are survived."""
        ...

    # -- writing, in a transaction

    def put(self, store: str, key: str, value: str) -> Row:
        """Set the value; a new key goes to the end, a known one keeps its place."""
        ...

    def put_many(self, store: str, pairs: Iterable[tuple[str, str]]) -> None:
        """`put` each pair; keys must differ."""
        ...

    def delete(self, store: str, key: str) -> bool:
        """Remove the entry; whether there was one."""
        ...

    def clear(self, store: str) -> None:
        """Remove all entries."""
        ...

    def move(self, store: str, key: str, *, last: bool) -> bool:
        """Put the entry at the end, or before all others; whether there is one."""
        ...

    def tasks(self, store: str) -> Tasks:
        """The tasks of a tracker."""
        ...

    # -- others

    def stamp(self) -> Stamp:
        """Something that is equal as long as nothing has been committed by anybody. Not asked in a transaction."""
        ...

    def now_ns(self) -> int:
        """The time, by the clock that all who use this database go by."""
        ...

    def awaiting_changes(self) -> AbstractContextManager[Callable[[float], object]]:
        """Gives a function that waits until something may have been committed since the last time it returned, by
        whomever, or so many seconds.
        """
        ...

    def sync(self, then: Callable[[], object]) -> None:
        """When this returns, every transaction that has returned survives a power cut; `then` is done before others."""
        ...

    def snapshot(self) -> AbstractContextManager[Reader]:
        """One state, however others go on writing."""
        ...

    def lock(self) -> None:
        """Keep all others from writing, until `unlock`; may be nested. A holder that is killed holds nothing."""
        ...

    def unlock(self) -> None: ...
