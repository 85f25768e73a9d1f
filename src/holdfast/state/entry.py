"""One entry of a store, as a backend gives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """Key and value as texts. `rev` counts the changes of its store: an entry with the same one has the same value."""

    seq: int
    key: str
    value: str
    rev: int
