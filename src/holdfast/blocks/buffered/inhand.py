"""Small contents that came in one piece and are not closed yet: their bytes as they came, without a block of their own.

Most small contents are written at once and closed at once; so they are copied once more, and then straight into the block that
they share. What is held so lies within slabs of the pool that nobody writes into: it is part of the one budget.
"""

from __future__ import annotations

import threading

from holdfast.blocks.buffered.slabs import Hold, MemoryUser, SlabPool

BUDGET_SHARE = 128
"""At most 1/128 of the pool is kept for them."""


class InHand:
    """How much is held so by one manager. For any number of threads; nobody waits here.

    In the pool's books it is a block that comes back to nobody (`Hold.RESERVED`), but for what is not used.
    """

    def __init__(self, pool: SlabPool, user: MemoryUser, limit_bytes: int) -> None:
        """`limit_bytes`: the largest content that is held so."""
        self.limit_bytes = min(limit_bytes, pool.slab_bytes // 2)
        self._pool = pool
        self._slab_limit = pool.slab_count // BUDGET_SHARE
        self._slabs: list[memoryview] = []
        self._used_bytes = 0
        self._lock = threading.Lock()
        self._is_closed = False
        self.user: MemoryUser | None = user

    def take(self, size_bytes: int) -> bool:
        """Whether so much may be held; it counts until it is given back."""
        if self._is_closed or not 0 < size_bytes <= self.limit_bytes:
            return False
        with self._lock:
            if self._used_bytes + size_bytes > len(self._slabs) * self._pool.slab_bytes and not self._grow():
                return False
            self._used_bytes += size_bytes
        return True

    def _grow(self) -> bool:
        may_grow = len(self._slabs) < self._slab_limit and not self._is_closed
        if not may_grow or self._pool.try_take(1, user=self.user, into=self._slabs) is None:
            return False
        self._tell()
        return True

    def _tell(self) -> None:
        self._pool.set_hold(self, Hold.RESERVED if self._slabs else None)

    def shrink(self) -> None:
        """Give back what is not used: memory is short."""
        with self._lock:
            used = self._pool.slabs_for(self._used_bytes)
            spare = self._slabs[used:]
            if spare:  # else nothing has changed, and whoever waits shall not look again
                del self._slabs[used:]
                self._tell()
                self._pool.give_back(spare)

    @property
    def slab_count(self) -> int:
        return len(self._slabs)

    def try_let_go(self) -> bool:
        """No reader ever holds any of it."""
        return False

    def give_back(self, size_bytes: int) -> None:
        """It is held no more. What an interrupt keeps from being given back is held for no use until the end."""
        with self._lock:
            self._used_bytes -= size_bytes

    def close(self) -> None:
        """Its slabs go back to the pool."""
        with self._lock:
            self._is_closed = True
            self._pool.set_hold(self, None)
            self._pool.give_back(self._slabs)  # a later call takes nothing any more: its user has left
