"""What stands under the block manager: somebody who keeps sealed blocks, and one who keeps them in memory.

`BlockKeeper` is all that the manager asks of a store. `MemoryKeeper` is one for tests and measurements; its hooks let
it fail, or wait for an event, at each step. No policy of writing may come in here: when to retry, what to put
together and what stays in memory is the manager's.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from holdfast.blocks.slabs import touched_memory
from holdfast.errors import IntegrityError
from holdfast.values import Locator

ARENA_BYTES = 64 * 1024 * 1024


class BlockKeeper(Protocol):
    """Keeps blocks durably; called by any number of threads at once.

    After `sync` has raised, nothing that was put since the last good `sync` counts: it is put again. The same block may
    be put twice.
    """

    cheap_ranges: bool
    """Whether fetching a piece of a block costs about as much as its bytes; else blocks are fetched whole."""

    def has(self, locator: Locator) -> bool:
        """Whether the block is kept, and may be named: then nobody gives it up as long as the keeper is open."""
        ...

    def put(self, locator: Locator, parts: Sequence[memoryview]) -> None:
        """Take the block, whose bytes are the parts together; not durable yet. The parts are not used afterwards."""
        ...

    def sync(self) -> None:
        """When this returns, all that was put before the call is durable, and whoever must know of it was told."""
        ...

    def fetch(self, locator: Locator, offset: int, length: int) -> bytes | memoryview:
        """Bytes of a durable block, checked where they come off a medium; nobody changes them afterwards.

        Raises `IntegrityError` when the block is missing or damaged.
        """
        ...


def _nothing(_: Locator | None) -> None:
    pass


class MemoryKeeper:
    """Keeps blocks in memory; nothing survives the process.

    `before_put`, `before_sync` and `before_fetch` are called, without a lock, where a store could fail or be slow, and
    may raise or wait. What was put is lost when a sync fails, as on a disk. `is_forgetful`: it counts what it is given
    and keeps none of it, to measure what stands above. `reserve_bytes` of memory are asked of the system at once.
    """

    def __init__(self, *, cheap_ranges: bool = True, is_forgetful: bool = False, reserve_bytes: int = 0) -> None:
        self.cheap_ranges = cheap_ranges
        self.before_put: Callable[[Locator | None], None] = _nothing
        self.before_sync: Callable[[Locator | None], None] = _nothing
        self.before_fetch: Callable[[Locator | None], None] = _nothing
        self.durable: dict[Locator, memoryview] = {}
        self.puts: list[Locator] = []
        self.found: set[Locator] = set()
        self.sync_count = 0
        self.fetch_count = 0
        self._is_forgetful = is_forgetful
        self._lock = threading.Lock()
        self._new: dict[Locator, memoryview] = {}
        self._arena = memoryview(touched_memory(reserve_bytes)) if reserve_bytes else memoryview(b"")

    def has(self, locator: Locator) -> bool:
        with self._lock:
            if locator in self.durable:
                self.found.add(locator)
                return True
            return locator in self._new

    def put(self, locator: Locator, parts: Sequence[memoryview]) -> None:
        self.before_put(locator)
        with self._lock:
            self.puts.append(locator)
            if self._is_forgetful:
                return
            self._new[locator] = self._copy(locator, parts)

    def _copy(self, locator: Locator, parts: Sequence[memoryview]) -> memoryview:
        size = locator.size_bytes
        if len(self._arena) < size:
            self._arena = memoryview(mmap.mmap(-1, max(size, ARENA_BYTES)))
        kept, self._arena = self._arena[:size], self._arena[size:]
        offset = 0
        for part in parts:
            kept[offset : offset + len(part)] = part
            offset += len(part)
        return kept.toreadonly()

    def sync(self) -> None:
        with self._lock:
            new = dict(self._new)
        try:
            self.before_sync(None)
        except BaseException:
            with self._lock:
                self._new.clear()
            raise
        with self._lock:
            self.sync_count += 1
            self.durable |= new
            for locator in new:
                self._new.pop(locator, None)

    def fetch(self, locator: Locator, offset: int, length: int) -> memoryview:
        self.before_fetch(locator)
        self.fetch_count += 1
        kept = self.durable.get(locator)
        if kept is None:
            raise IntegrityError("a block is missing from the store", place=str(locator))
        return kept[offset : offset + length]
