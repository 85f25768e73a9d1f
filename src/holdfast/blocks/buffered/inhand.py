"""Small contents that came in one piece and are not closed yet: their bytes as they came, without a block of their own.

Most small contents are written at once and closed at once; so they are copied once more, and then straight into the block that
they share. What is held so lies within slabs of the pool that nobody writes into: it is part of the one budget.
"""

from __future__ import annotations

import threading

from holdfast.blocks.buffered.slabs import MemoryUser, SlabPool

BUDGET_SHARE = 128
"""At most 1/128 of the pool is kept for them."""


class InHand:
    """How much is held so by one manager. For any number of threads; nobody waits here."""

    def __init__(self, pool: SlabPool, user: MemoryUser, limit_bytes: int) -> None:
        """`limit_bytes`: the largest content that is held so."""
        self.limit_bytes = min(limit_bytes, pool.slab_bytes // 2)
        self._pool = pool
        self._user = user
        self._slab_limit = pool.slab_count // BUDGET_SHARE
        self._slabs: list[memoryview] = []
        self._used_bytes = 0
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> bool:
        """Whether so much may be held; it counts until it is given back."""
        if not 0 < size_bytes <= self.limit_bytes:
            return False
        with self._lock:
            if self._used_bytes + size_bytes > len(self._slabs) * self._pool.slab_bytes and not self._grow():
                return False
            self._used_bytes += size_bytes
        return True

    def _grow(self) -> bool:
        may_grow = len(self._slabs) < self._slab_limit
        return may_grow and self._pool.try_take(1, user=self._user, into=self._slabs) is not None

    def give_back(self, size_bytes: int) -> None:
        """It is held no more. What an interrupt keeps from being given back is held for no use until the end."""
        with self._lock:
            self._used_bytes -= size_bytes

    def close(self) -> None:
        """Its slabs go back to the pool."""
        with self._lock:
            self._pool.give_back(self._slabs)
