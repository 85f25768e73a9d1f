"""What stands under the block manager: somebody who keeps sealed blocks, and one who keeps them in memory.

`BlockKeeper` is all that the manager asks of a store. `MemoryKeeper` is one for tests and measurements; its hooks let
it fail, or wait for an event, at each step. No policy of writing may come in here: when to retry, what to put
together and what stays in memory is the manager's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from holdfast.blocks.buffered.blockstate import Naming
from holdfast.blocks.buffered.slabs import touched_memory
from holdfast.errors import BlockError, IntegrityError
from holdfast.values import Locator

ARENA_BYTES = 64 * 1024 * 1024


class BlockKeeper(Protocol):
    """Keeps blocks durably; called by any number of threads at once.

    When a sync fails, whoever called for it, what was put and is not durable may be lost: a new epoch begins. Who puts
    notes the `epoch` before he looks for a block, and names it when he syncs: he hears of what others' syncs have lost,
    and puts it again. The same block may be put twice.
    """

    cheap_ranges: bool
    """Whether fetching a piece of a block costs about as much as its bytes; else blocks are fetched whole."""

    @property
    def epoch(self) -> int:
        """It grows each time that something which was put is lost."""
        ...

    @property
    def look(self) -> int:
        """It grows when what was found before is not safe for whoever begins a naming from then on: he looks anew."""
        ...

    def begin_naming(self) -> Naming:
        """Somebody is about to look for blocks, and to put some, that he will name. Raises `BlockError` when closed."""
        ...

    def has(self, locator: Locator) -> bool:
        """Whether the block is put in this epoch, or kept, and may be named by those who have begun a naming before."""
        ...

    def put(self, locator: Locator, parts: Sequence[memoryview]) -> None:
        """Take the block, whose bytes are the parts together; not durable yet. The parts are not used afterwards."""
        ...

    def sync(self, epoch: int) -> None:
        """When this returns, all that was put, or found, since the `epoch` began is durable and told to whom it concerns.

        Raises `BlockError` when that epoch is over, and what the disk or whoever is told raises.
        """
        ...

    def fetch(self, locator: Locator, offset: int, length: int) -> bytes | memoryview:
        """Bytes of a durable block, checked where they come off a medium; nobody changes them afterwards.

        Raises `IntegrityError` when the block is missing or damaged.
        """
        ...


def check_epoch(wanted: int | None, current: int) -> None:
    """Raise `BlockError` when the epoch that somebody syncs is over."""
    if wanted is not None and wanted != current:
        raise BlockError(
            "what was put is lost, as a sync has failed since", found=f"epoch {current}", hint="put it once more"
        )


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
        self.epoch = 0
        self.look = 0
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
            self._arena = memoryview(touched_memory(max(size, ARENA_BYTES)))
        kept, self._arena = self._arena[:size], self._arena[size:]
        offset = 0
        for part in parts:
            kept[offset : offset + len(part)] = part
            offset += len(part)
        return kept.toreadonly()

    def sync(self, epoch: int | None = None) -> None:
        with self._lock:
            check_epoch(epoch, self.epoch)
            new = dict(self._new)
        try:
            self.before_sync(None)
        except BaseException:
            with self._lock:
                self.epoch += 1
                self._new.clear()
            raise
        with self._lock:
            self.sync_count += 1
            self.durable |= new
            for locator in new:
                self._new.pop(locator, None)

    def begin_naming(self) -> Naming:
        return Naming()

    def fetch(self, locator: Locator, offset: int, length: int) -> memoryview:
        self.before_fetch(locator)
        self.fetch_count += 1
        kept = self.durable.get(locator)
        if kept is None:
            raise IntegrityError("a block is missing from the store", place=str(locator))
        return kept[offset : offset + length]
