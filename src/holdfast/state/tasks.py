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
    """How many entries a tracker has, and of which kinds.

    Of the `todo`, so many say how large they are, all together `todo_bytes`.
    """

    entries: int
    done: int
    tried: int
    aborted: int
    dead: int
    leased: int
    todo: int
    todo_sized: int
    todo_bytes: int


@dataclass(frozen=True, slots=True)
class Lease:
    """One claim: the entry as it was claimed, its attempt counted; its owner may end it by the token.

    `before`: the entry's revision before it was claimed.
    """

    row: Row
    token: int
    owner: str
    attempt: int
    begun_ns: int
    before: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim took: the keys, each with its revision before.

    `leases`: gives the leases in the order of the entries, also when the transaction is over and others may write.
    """

    befores: dict[str, int]
    leases: Callable[[], list[Lease]]


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ends. `most`: it is dead if it was tried so often, unless that is 0.

    `size_bytes`: what it moved; what the entry's value says, unless it is told.
    """

    outcome: str
    done: bool = False
    most: int = 0
    uncounted: bool = False
    due_ns: int = 0
    error: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be claimed: so many of those behind the place `after` that `accepts` takes; or just the one `key`, due or
    not.
    """

    count: int
    owner: str
    lease_s: float
    max_tries: int
    with_aborted: bool = False
    after: int | None = None
    accepts: Callable[[Row], bool] | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """An attempt that has ended; or, with `ended_ns` None, one that has not, as far as is known."""

    key: str
    owner: str
    begun_ns: int
    ended_ns: int | None
    outcome: str
    size_bytes: int | None
    error: str | None


class Tasks(Protocol):
    """What a backend does for a tracker. Entries are told in their order."""

    def number(self, mark: str) -> int:
        """How many entries are `done`, `tried`, `aborted`, `dead` or `leased`."""
        ...

    def tally(self, max_tries: int) -> Tally:
        """All numbers, of one moment; `todo` as `todo` gives them, without those that are aborted."""
        ...

    def todo(self, after: int | None, limit: int, max_tries: int, *, with_aborted: bool) -> list[Row]:
        """The next entries that are neither done nor tried too often."""
        ...

    def marked(self, mark: str, after: int | None, limit: int) -> list[Row]:
        """The next entries that are `done`, `aborted` or `dead`."""
        ...

    def claim(self, wanted: Wanted) -> Claim:
        """In a transaction: take what is free and due. Raises `IntegrityError` for what is not as it was written."""
        ...

    def end(self, leases: Sequence[Lease], ending: Ending) -> dict[str, int]:
        """In a transaction: end these attempts, but for those that are somebody else's by now: they are unchanged.

        Returns the keys of those that were ended, each with the entry's revision before.
        """
        ...

    def note(self, lease: Lease, outcome: str) -> None:
        """In a transaction: an attempt has ended by other means."""
        ...

    def extend(self, lease: Lease, lease_s: float) -> bool:
        """In a transaction: let the lease last so long from now; whether it is still there."""
        ...

    def reopen(self, key: str, *, from_anybody: bool) -> int:
        """In a transaction: see that the entry can be claimed, though it is done, aborted, or dead; how many were changed.

        Its attempts are counted anew if it was done. One that somebody has stays as it is; `from_anybody`: that lease
        ends, as one that was lost.
        """
        ...

    def revive(self, key: str | None) -> int:
        """In a transaction: let the entry, or all that are dead, be tried again from the begin; how many."""
        ...

    def noted(self, limit: int) -> list[Noted]:
        """The last attempts that have ended, the newest first."""
        ...

    def leased(self) -> list[Noted]:
        """The attempts that go on, by what is known here."""
        ...

    def attempts(self, limit: int) -> list[tuple[int, int, int | None]]:
        """The last attempts that were successful: when each began and ended, and how many bytes it moved."""
        ...
