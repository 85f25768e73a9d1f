"""Ways to look at a store as at a mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from holdfast.state.backend import Reader
from holdfast.state.entry import Row
from holdfast.state.jsonvalue import load
from holdfast.state.keys import Key, key_text, parse_key

PAGE = 1000
"""Iterating reads so many entries at once, and keeps no transaction open between."""


def rows(
    reader: Reader, store: str, *, backwards: bool = False, transaction: Callable[[], int] = lambda: 0
) -> Iterator[Row]:
    """Every entry in order; what is added at the end meanwhile comes, too, and what was removed does not.

    What was read in a `transaction` is not given outside of it: it may have come to nothing.
    """
    after = None
    while True:
        number = transaction()
        page = reader.page(store, after, PAGE, backwards=backwards)
        if not page:
            return
        for row in page:
            if transaction() != number:
                break
            after = row.seq
            yield row


def keys(reader: Reader, store: str, *, backwards: bool = False) -> Iterator[Key]:
    """Every key in order, as `rows` gives entries."""
    after = None
    while page := reader.keys(store, after, PAGE, backwards=backwards):
        for seq, text in page:
            after = seq
            yield parse_key(text)


class Snapshot(Mapping[Key, Any]):
    """One state of a store."""

    def entries(self) -> Iterator[tuple[Key, Any]]:
        """Every key with its value, in order; memory does not grow with them."""
        return ((parse_key(row.key), load(row.value)) for row in rows(self._reader, self._store))

    def __init__(self, reader: Reader, store: str) -> None:
        self._reader = reader
        self._store = store

    def __getitem__(self, key: Key) -> Any:
        row = self._reader.get(self._store, key_text(key))
        if row is None:
            raise KeyError(key)
        return load(row.value)

    def __len__(self) -> int:
        return self._reader.count(self._store)

    def __iter__(self) -> Iterator[Key]:
        return keys(self._reader, self._store)
