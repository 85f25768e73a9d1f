"""What one handle keeps in memory of a store: values it has read, and which state of each it has seen.

A copy is good as long as nothing was committed by anybody (the backend's stamp says so), and after that again if its
entry still has the same revision. Lists and dictionaries that somebody holds are found again, so that there is one
of each: reading it anew brings it up to date in place. How many copies are kept is bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from holdfast.state.backend import Row, Stamp
from holdfast.state.jsonvalue import load
from holdfast.state.tracked import Owner, Root

MISSING: Any = object()
COPIES = 4096
NOTES = 100_000
"""So many entries that a thread has read last are remembered, to notice when it writes what rests on an old one."""


class _Copy:
    __slots__ = ("generation", "rev", "value")

    def __init__(self, generation: int, rev: int, value: Any) -> None:
        self.generation = generation
        self.rev = rev
        self.value = value


class _Notes(threading.local):
    """Revisions that this thread has read and not written since, by key; the oldest first.

    `read` and `written` are what its transaction, if it is in one, has noted and taken out.
    """

    def __init__(self) -> None:
        self.revs: dict[str, int] = {}
        self.read: set[str] | None = None
        self.written: dict[str, int] = {}


class Copies:
    """The copies of one handle. Guarded by the backend's mutex, but for the notes, which are each thread's own."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._copies: dict[str, _Copy] = {}
        self._roots: WeakValueDictionary[str, Root] = WeakValueDictionary()
        self._stamp: Stamp = None
        self._generation = 0
        self._notes = _Notes()

    # -- values

    def current(self, key: str, stamp: Stamp) -> Any:
        """The value under `key` if it is known to be the newest, else `MISSING`."""
        if stamp != self._stamp:
            self._stamp = stamp
            self._generation += 1
        copy = self._copies.get(key)
        if copy is None or copy.generation != self._generation:
            return MISSING
        self.note(key, copy.rev)
        return copy.value.value if type(copy.value) is Root else copy.value

    def take(self, row: Row, *, keep: bool = True) -> Any:
        """The value of an entry that has just been read, noted as seen; the same object as before where it can be."""
        self.note(row.key, row.rev)
        copy = self._copies.get(row.key)
        if copy is not None and copy.rev == row.rev:
            copy.generation = self._generation
            return copy.value.value if type(copy.value) is Root else copy.value
        held = self._held(row)
        if keep:
            self._keep(row.key, row.rev, held)
        return held.value if type(held) is Root else held

    def renew(self, row: Row) -> None:
        """Bring a list or dictionary that is in use up to date; that is no reading."""
        self._held(row)

    def _held(self, row: Row) -> Any:
        """A root for a value with parts, the value itself for others."""
        value = load(row.value)
        root = self._roots.get(row.key)
        if root is not None and (root.rev == row.rev or root.renew(row.rev, value)):
            return root
        self._roots.pop(row.key, None)
        if not isinstance(value, (dict, list)):
            return value
        root = self._roots[row.key] = Root(self._owner, row.key, row.rev, value)
        return root

    def _keep(self, key: str, rev: int, held: Any) -> None:
        self._copies.pop(key, None)
        self._copies[key] = _Copy(self._generation, rev, held)
        if len(self._copies) > COPIES:
            del self._copies[next(iter(self._copies))]

    def written(self, row: Row, scalar: Any = MISSING) -> None:
        """Remember what this handle has just written: a change of a value that lives on, or a plain new value."""
        self.forget_note(row.key)
        root = self._roots.get(row.key)
        if scalar is not MISSING:
            self._keep(row.key, row.rev, scalar)
        elif root is not None and root.rev == row.rev:
            self._keep(row.key, row.rev, root)
        else:
            self._copies.pop(row.key, None)

    def replaced(self, key: str) -> None:
        """Another value stands under `key`, or none: who holds parts of the old one holds nobody's."""
        self._copies.pop(key, None)
        root = self._roots.pop(key, None)
        if root is not None:
            root.value = None

    def is_root(self, key: str, value: Any) -> bool:
        """Whether `value` is the very list or dictionary that is stored under `key`."""
        root = self._roots.get(key)
        return root is not None and root.value is value

    def roots(self) -> list[Root]:
        """Every list or dictionary that is in use."""
        return list(self._roots.values())

    # -- transactions of this thread

    def joined(self) -> None:
        """From now on this thread is in a transaction."""
        if self._notes.read is None:
            self._notes.read = set()

    def committed(self, before: Stamp, after: Stamp) -> None:
        """The transaction is done; between the stamps nobody but this process has committed."""
        self._notes.read = None
        self._notes.written.clear()
        if self._stamp == before:
            self._stamp = after

    def rolled_back(self, rev_of: Callable[[str], int]) -> None:
        """The transaction, or an inner one, came to nothing: what was read before it counts as read again.

        `rev_of` tells the revision of an entry as it stands now, `NO_STATE` where there is none.
        """
        self._copies.clear()
        notes = self._notes
        notes.revs.update({key: rev for key, rev in notes.written.items() if rev_of(key) == rev})
        for key in [key for key in notes.read or () if key in notes.revs and rev_of(key) != notes.revs[key]]:
            del notes.revs[key]

    def left(self) -> None:
        """From now on this thread is in none."""
        self._notes.read = None
        self._notes.written.clear()

    def forget(self) -> None:
        """Believe nothing; lists and dictionaries in use are brought up to date by `take`."""
        self._copies.clear()
        self._notes.revs.clear()

    # -- what this thread has seen

    def note(self, key: str, rev: int) -> None:
        notes = self._notes
        revs = notes.revs
        revs.pop(key, None)
        revs[key] = rev
        if notes.read is not None:
            notes.read.add(key)
        if len(revs) > NOTES:
            del revs[next(iter(revs))]

    def forget_note(self, key: str) -> None:
        rev = self._notes.revs.pop(key, None)
        if rev is not None:
            self._notes.written.setdefault(key, rev)

    def noted(self, key: str) -> int | None:
        """The revision of `key` that this thread has read, None when it has not, or has written it since."""
        return self._notes.revs.get(key)

    def noted_among(self, keys: Mapping[str, str]) -> list[str]:
        return list(self._notes.revs.keys() & keys.keys()) if self._notes.revs else []
