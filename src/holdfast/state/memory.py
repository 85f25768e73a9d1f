"""What one thread remembers of a store: values it has read, lists and dictionaries it holds, which states it has seen.

    fresh    values that are the newest as long as nothing was committed by anybody (the backend's stamp says so)
    roots    lists and dictionaries that are in use: there is one of each, brought up to date when it is read again
    seen     the revision of each entry that was read, to notice when what is written rests on an old one

Nothing here is shared among threads, so no thread sees what another has not finished. What is remembered in a
transaction is undone with it. How much is remembered is bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from holdfast.state.backend import Backend, Stamp
from holdfast.state.entry import Row
from holdfast.state.jsonvalue import load
from holdfast.state.tracked import NO_STATE, Owner, Root

MISSING: Any = object()
FRESH_VALUES = 16_384
FRESH_CHARACTERS = 8 * 2**20
"""Of JSON, in all values that are remembered."""
SEEN = 100_000
"""So many entries that a thread has read are remembered; of those before, a lost race goes unnoticed."""


class Memory(threading.local):
    """One handle's memory, each thread having its own."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._stamp: Stamp | None = None
        self._fresh: dict[str, tuple[int, Any]] = {}
        self._characters = 0
        self._roots: WeakValueDictionary[str, Root] = WeakValueDictionary()
        self._seen: dict[str, int] = {}
        self._generation = 0

    def check(self, generation: int) -> None:
        """Forget everything when this is another generation of the database: who holds parts holds nobody's."""
        if generation != self._generation:
            self._generation = generation
            for root in list(self._roots.values()):
                root.leave()
            self._roots.clear()
            self._seen.clear()
            self.forget_values()

    # -- values

    def fresh(self, key: str, stamp: Stamp) -> Any:
        """The value under `key` if it is known to be the newest, else `MISSING`."""
        if stamp != self._stamp:
            self.check(stamp[0])
            self.forget_values()
            self._stamp = stamp
            return MISSING
        found = self._fresh.get(key)
        if found is None:
            return MISSING
        rev, value = found
        if type(value) is Root and (value.rev != rev or value.value is None):
            return MISSING
        self._see(key, rev)
        return value.value if type(value) is Root else value

    def read(self, row: Row) -> Any:
        """The value of an entry as it stands outside of transactions; it is fresh until the stamp changes."""
        value = self._taken(row)
        if self._characters + len(row.value) > FRESH_CHARACTERS or len(self._fresh) >= FRESH_VALUES:
            self.forget_values()
        self._fresh[row.key] = row.rev, value
        self._characters += len(row.value)
        return value.value if type(value) is Root else value

    def read_once(self, row: Row, undo_in: Backend | None = None) -> Any:
        """The value of an entry that may be older than what is known; or, if its transaction is told, one that is not
        committed yet: then what is remembered of it is undone with the transaction.
        """
        if undo_in is not None:
            self._keep_seen(row.key, undo_in)
            self._keep_root(row.key, undo_in)
        value = self._taken(row)
        return value.value if type(value) is Root else value

    def _keep_root(self, key: str, backend: Backend) -> None:
        """When the transaction comes to nothing, the list or dictionary at hand is what it was, or is nobody's."""
        root = self._roots.get(key)
        if not backend.is_first((id(self._roots), key)):
            return
        if root is not None:
            bring_back, roots = root.saved(), self._roots

            def undo() -> None:
                bring_back()
                roots[key] = root

            backend.on_rollback(undo)
        else:
            backend.on_rollback(self._leaver(key))

    def _leaver(self, key: str) -> Callable[[], None]:
        roots = self._roots

        def leave() -> None:
            root = roots.pop(key, None)
            if root is not None:
                root.leave()

        return leave

    def _taken(self, row: Row) -> Any:
        """A root for a value with parts, the value itself for others."""
        self._see(row.key, row.rev)
        root = self._roots.get(row.key)
        if root is not None and root.rev >= row.rev:
            return root
        value = load(row.value)
        if root is not None and root.renew(row.rev, value):
            return root
        if root is not None:
            root.leave()
        self._roots.pop(row.key, None)
        if not isinstance(value, (dict, list)):
            return value
        root = self._roots[row.key] = Root(self._owner, row.key, row.rev, value)
        return root

    def forget_values(self) -> None:
        """Believe nothing; lists and dictionaries in use are brought up to date when they are read."""
        self._stamp = None
        self._fresh.clear()
        self._characters = 0

    def is_root(self, key: str, value: Any) -> bool:
        """Whether `value` is the list or dictionary at hand that is, or was, stored under `key`."""
        root = self._roots.get(key)
        return root is not None and root.value is value

    def is_at(self, key: str, rev: int) -> bool:
        """Whether the list or dictionary at hand is the one with this revision."""
        root = self._roots.get(key)
        return root is not None and root.rev == rev

    # -- what is written, in a transaction

    def wrote(self, key: str, before: int | None, backend: Backend) -> None:
        """The entry was changed by who has this memory, from its revision `before` (None: whatever it was).

        What was read of it is past then; but if that was older already, it stays a lost race.
        """
        seen = self._seen.get(key)
        if seen is not None and before in (None, seen):
            self._keep_seen(key, backend)
            del self._seen[key]

    def rewrote(self, key: str, rev: int, backend: Backend) -> None:
        """The very list or dictionary at hand was stored as it is."""
        self.wrote(key, None, backend)
        root = self._roots[key]
        backend.on_rollback(root.saved())
        root.rev = rev

    def replaced(self, key: str, backend: Backend) -> None:
        """Another value stands under `key`, or none: who holds parts of the old one holds nobody's."""
        self.wrote(key, None, backend)
        root = self._roots.pop(key, None)
        if root is not None:
            bring_back, roots = root.saved(), self._roots

            def undo() -> None:
                bring_back()
                roots[key] = root

            backend.on_rollback(undo)
            root.leave()

    def replaced_all(self, backend: Backend) -> None:
        """Every entry was removed."""
        for key in {*self._roots, *self._seen}:
            self.replaced(key, backend)

    # -- what this thread has seen

    def see_nothing(self, key: str, undo_in: Backend | None = None) -> None:
        """There is no entry under `key`; or, if its transaction is told, not as long as that is not undone."""
        if undo_in is not None:
            self._keep_seen(key, undo_in)
        self._see(key, NO_STATE)

    def _see(self, key: str, rev: int) -> None:
        seen = self._seen
        seen.pop(key, None)
        seen[key] = rev
        if len(seen) > SEEN:
            del seen[next(iter(seen))]

    def _keep_seen(self, key: str, backend: Backend) -> None:
        """When the transaction comes to nothing, what was seen before it counts again."""
        seen = self._seen
        if not backend.is_first((id(seen), key)):
            return
        if (rev := seen.get(key)) is not None:
            backend.on_rollback(lambda: seen.__setitem__(key, rev))
        else:
            backend.on_rollback(lambda: seen.pop(key, None))

    def forgetter(self, key: str) -> Callable[[], object]:
        """What lets this thread forget that it has seen the entry, whoever calls it."""
        seen = self._seen
        return lambda: seen.pop(key, None)

    def forget_seen(self, key: str) -> None:
        self._seen.pop(key, None)

    def seen(self, key: str) -> int | None:
        """The revision of `key` that this thread has read, `NO_STATE` where it saw none; None when it has not looked,
        or has written it since.
        """
        return self._seen.get(key)

    def seen_among(self, keys: Mapping[str, object]) -> list[str]:
        return list(self._seen.keys() & keys.keys()) if self._seen else []

    def known_among(self, keys: Mapping[str, object]) -> list[str]:
        """Those of the keys of which anything is remembered that a write ends."""
        return [*self.seen_among(keys), *(key for key in list(self._roots) if key in keys and key not in self._seen)]
