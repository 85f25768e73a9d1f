"""What a database must do to keep dictionaries and trackers: a narrow front, so that there can be several.

A store is one dictionary or tracker; a database holds any number of them, by name, and one transaction spans them
all. Rows are in the order of their `seq`; keys and values are text that nobody here looks into.
`holdfast.testing.conformance.state` proves that a backend keeps these promises.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from threading import RLock
from typing import Protocol, TypeAlias


class Durability(StrEnum):
    """What a write that has returned survives. Under `hold` a write is in memory only, whatever this says."""

    BUFFERED = "buffered"
    """Nothing yet: it is in memory until the next `sync`, which comes by itself when `sync_at` entries wait."""
    KILL = "kill"
    """The end of the process, however it ends."""
    POWER = "power"
    """A power cut, too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry. `rev` counts the changes of its store: an entry with the same one has the same value."""

    seq: int
    key: str
    value: str
    rev: int


Stamp: TypeAlias = "object"


class Participant(Protocol):
    """Somebody in this process who keeps copies of what is in a store."""

    def committed(self, before: Stamp, after: Stamp) -> None:
        """The transaction is done: nobody else committed anything between the two stamps."""
        ...

    def rolled_back(self) -> None:
        """What was done in the transaction, or in an inner one, came to nothing; what stands now can be read."""
        ...


class Reader(Protocol):
    """Looking at a store, at one moment or at the newest."""

    def get(self, store: str, key: str) -> Row | None:
        """The entry under `key`. Raises `IntegrityError` for one that is not as it was written."""
        ...

    def page(self, store: str, after: int | None, limit: int, *, backwards: bool = False) -> list[Row]:
        """The next entries behind the place `after`, in order; from the begin (or the end) where that is None."""
        ...

    def count(self, store: str) -> int: ...


class Backend(Reader, Protocol):
    """One open database. Safe for threads, for any number of processes, and for forking."""

    mutex: RLock
    """Guards what handles in this process share. Never taken before a transaction is begun, always inside it."""

    def make_store(self, store: str, kind: str) -> None:
        """Make the store where it is missing. Raises `StateError` where it is of another kind."""
        ...

    def transaction(self, durability: Durability) -> AbstractContextManager[None]:
        """Everything in the block happens at once or not at all; only one block runs at any time, anywhere.

        A block inside a block of the same thread belongs to it, and can come to nothing alone. When the outermost is
        left, what it did has the highest durability that was asked for. Raises `CapacityError` when the disk is full:
        nothing was changed.
        """
        ...

    def inside(self) -> bool:
        """Whether this thread is in a transaction."""
        ...

    def join(self, participant: Participant, durability: Durability) -> None:
        """In a transaction: make it at least so durable, and tell `participant` how it ends."""
        ...

    def put(self, store: str, key: str, value: str) -> Row:
        """In a transaction: set the value; a new key goes to the end, a known one keeps its place."""
        ...

    def put_many(self, store: str, pairs: Iterable[tuple[str, str]]) -> None:
        """In a transaction: `put` each pair; keys must differ."""
        ...

    def delete(self, store: str, key: str) -> bool:
        """In a transaction: remove the entry; whether there was one."""
        ...

    def clear(self, store: str) -> None:
        """In a transaction: remove all entries."""
        ...

    def move(self, store: str, key: str, *, last: bool) -> bool:
        """In a transaction: put the entry at the end, or before all others; whether there is one."""
        ...

    def stamp(self) -> Stamp:
        """Something that is equal as long as nothing has been committed by anybody."""
        ...

    def sync(self) -> None:
        """When this returns, every transaction that has returned survives a power cut."""
        ...

    def snapshot(self) -> AbstractContextManager[Reader]:
        """One state, however others go on writing."""
        ...

    def lock(self) -> None:
        """Keep all others from writing, until `unlock`; may be nested. A holder that is killed holds nothing."""
        ...

    def unlock(self) -> None: ...

    def problems(self, store: str) -> list[str]:
        """Read everything; what is not as it was written, in words."""
        ...

    def close(self) -> None:
        """Let go; nothing that was committed is lost. The last one to let go closes the database."""
        ...
