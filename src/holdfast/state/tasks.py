"""What a tracker's tasks are to a backend: what is to be done, claiming it, and ending what was claimed.

A claim is a lease: it has an end, and a token that grows with each claim of the store, so that who comes late can be
told apart from who has it now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.state.entry import Row


@dataclass(frozen=True, slots=True)
class Tally:
    """How many entries a tracker has, and of which kinds."""

    entries: int
    done: int
    tried: int
    aborted: int
    dead: int
    leased: int


@dataclass(frozen=True, slots=True)
class Lease:
    """One claim: the entry as it was claimed, its attempt counted; who has the token may end it."""

    row: Row
    token: int
    attempt: int
    begun_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ends."""

    outcome: str
    done: bool = False
    dead: bool = False
    uncounted: bool = False
    due_ns: int = 0
    error: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be claimed: so many of those behind the place `after` that `accepts` takes."""

    count: int
    owner: str
    until_ns: int
    max_tries: int
    with_aborted: bool = False
    after: int | None = None
    accepts: Callable[[Row], bool] | None = None


class Tasks(Protocol):
    """What a backend does for a tracker. Entries are told in their order."""

    def tally(self) -> Tally: ...

    def todo(self, after: int | None, limit: int, max_tries: int, *, with_aborted: bool) -> list[Row]:
        """The next entries that are neither done nor tried too often."""
        ...

    def marked(self, mark: str, after: int | None, limit: int) -> list[Row]:
        """The next entries that are `done`, `aborted` or `dead`."""
        ...

    def claim(self, wanted: Wanted) -> list[Lease]:
        """In a transaction: take what is free and due."""
        ...

    def end(self, leases: Sequence[Lease], ending: Ending, owner: str) -> list[Lease]:
        """In a transaction: end these attempts; those that are somebody else's by now are returned, unchanged."""
        ...

    def extend(self, lease: Lease, until_ns: int) -> bool:
        """In a transaction: let the lease last; whether it is still there."""
        ...

    def revive(self, key: str | None) -> int:
        """In a transaction: let the entry, or all that are dead, be tried again from the begin; how many."""
        ...

    def attempts(self, limit: int) -> list[tuple[int, int, int | None]]:
        """The last attempts that were successful: when each began and ended, and how many bytes it moved."""
        ...
