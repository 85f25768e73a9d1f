"""The memory of blocks that are being written: one budget of bytes for the whole process, in reused slabs.

A `SlabPool` hands out slabs of 64 KiB, the piece of a pack. It never hands out more than its budget, and everybody who
writes blocks shares one pool (`process_pool`). Whoever wants more than there is waits, in the order of coming, and
holds no lock of a block or a content meanwhile. That nobody waits for ever is decided here:

    enough is on its way to the store     wait: it comes back when the store has it
    too little is, and some is WRITABLE   the fullest of those blocks are committed early, as shorter blocks
    none is, and blocks have failed       each is tried once more, then `MemoryBudgetError` names them
    none is, and readers look at it       wait for them as long as the pool is patient, then the same error
    somebody has just been given it       wait: what is in hand goes into a block or comes back

No store, no file and no thread may come in here.
"""

from __future__ import annotations

import heapq
import mmap
import threading
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from holdfast.errors import MemoryBudgetError

SLAB_BYTES = 64 * 1024
DEFAULT_BUDGET_BYTES = 256 * 1024 * 1024
ARENA_BYTES = 8 * 1024 * 1024
"""So much is asked of the system at once; it is kept until the pool is closed."""

EARLY_SHARE = 8
"""When memory is short, at least 1/8 of the budget is sent on its way, so that it is not short again at once."""

SHOWN_HOLDERS = 20
"""So many blocks are named in an error at most."""

_MADV_POPULATE_WRITE = 23  # since Linux 5.14; not named by Python


class Hold(Enum):
    """Why a block that takes no more bytes still holds memory."""

    ON_ITS_WAY = "on its way to the store"
    FAILED = "failed"
    PINNED = "being read"


class Holder(Protocol):
    """A block, as the budget sees it."""

    @property
    def slab_count(self) -> int: ...


class MemoryUser(Protocol):
    """Somebody who fills blocks, asked to make room when memory is short. Called from any thread, without locks."""

    def writable_blocks(self) -> list[Holder]:
        """The blocks that could be committed early."""
        ...

    def commit_early(self, block: Holder) -> None:
        """Send the block on its way, unless it is by now."""
        ...

    def retry_failed(self) -> None:
        """Try every block that failed once more, behind the caller's back."""
        ...


class SlabPool:
    """Slabs of `slab_bytes` within `budget_bytes`, for any number of threads.

    `patience_s`: so long a writer waits for memory that only readers hold. `peak_bytes` is the most that was ever out.
    """

    def __init__(
        self, budget_bytes: int = DEFAULT_BUDGET_BYTES, *, slab_bytes: int = SLAB_BYTES, patience_s: float = 60.0
    ) -> None:
        if budget_bytes < slab_bytes or slab_bytes < 1:
            raise ValueError(f"a budget of {budget_bytes} bytes has no room for a slab of {slab_bytes}")
        self.slab_bytes = slab_bytes
        self.slab_count = budget_bytes // slab_bytes
        self.patience_s = patience_s
        self.peak_bytes = 0
        self._lock = threading.Lock()
        self._line: deque[threading.Condition] = deque()
        self._idle: list[memoryview] = []  # the last one back is the first one out: its bytes are still in the cache
        self._made = 0
        self._out = 0
        self._changes = 0
        self._holders: dict[Hold, dict[Holder, int]] = {hold: {} for hold in Hold}
        self._held = dict.fromkeys(Hold, 0)
        self._users: list[MemoryUser] = []

    @property
    def budget_bytes(self) -> int:
        return self.slab_count * self.slab_bytes

    @property
    def used_bytes(self) -> int:
        return self._out * self.slab_bytes

    def slabs_for(self, size_bytes: int) -> int:
        return -(-size_bytes // self.slab_bytes)

    # -- taking and giving back

    def take(self, count: int) -> list[memoryview]:
        """`count` slabs at once, with whatever their last owner left in them. Waits; hold no lock that others need.

        Raises `MemoryBudgetError` when only failed blocks or readers hold what is missing (see above).
        """
        slabs = self.try_take(count)
        if slabs is not None:
            return slabs
        if count > self.slab_count:
            raise ValueError(f"{count} slabs of a pool of {self.slab_count}")
        turn = threading.Condition(self._lock)
        with self._lock:
            self._line.append(turn)
        try:
            return self._wait_for(turn, count)
        finally:
            with self._lock:
                self._line.remove(turn)
                self._wake()

    def try_take(self, count: int) -> list[memoryview] | None:
        """The same without waiting: None when there are too few, or others wait for them already."""
        with self._lock:
            return None if self._line else self._hand_out(count)

    def give_back(self, slabs: Iterable[memoryview]) -> None:
        """The caller looks at them no more."""
        with self._lock:
            before = len(self._idle)
            self._idle.extend(slabs)
            self._out -= len(self._idle) - before
            self._wake()

    def _hand_out(self, count: int) -> list[memoryview] | None:
        if self.slab_count - self._out < count:
            return None
        while len(self._idle) < count:
            self._add_arena()
        slabs = self._idle[len(self._idle) - count :]
        del self._idle[len(self._idle) - count :]
        self._out += count
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return slabs

    def _add_arena(self) -> None:
        count = min(max(1, ARENA_BYTES // self.slab_bytes), self.slab_count - self._made)
        view = memoryview(touched_memory(count * self.slab_bytes))
        self._idle.extend(view[n * self.slab_bytes : (n + 1) * self.slab_bytes] for n in range(count))
        self._made += count

    # -- waiting

    def _wait_for(self, turn: threading.Condition, count: int) -> list[memoryview]:
        has_retried = False
        while True:
            with self._lock:
                while self._line[0] is not turn:
                    turn.wait()
                slabs = self._hand_out(count)
                if slabs is not None:
                    return slabs
                seen = self._changes
                missing = count - (self.slab_count - self._out) - self._held[Hold.ON_ITS_WAY]
                has_failed = bool(self._held[Hold.FAILED])
            # the users are asked without the lock: they lock blocks, and blocks lock the pool
            if missing > 0 and self._commit_early(missing):
                continue
            if missing > 0 and has_failed and not has_retried:
                has_retried = True
                self._retry_failed()
                continue
            self._wait_for_change(turn, count, seen)

    def _wait_for_change(self, turn: threading.Condition, count: int, seen: int) -> None:
        with self._lock:
            while self._changes == seen:
                without_failed = self.slab_count - self._held[Hold.FAILED]
                is_waiting = bool(self._held[Hold.ON_ITS_WAY])
                if without_failed < count and not is_waiting:
                    raise self._exhausted(count)
                is_pinned = without_failed - self._held[Hold.PINNED] < count and not is_waiting
                if not turn.wait(self.patience_s if is_pinned else None) and is_pinned and self._changes == seen:
                    raise self._exhausted(count)

    def _commit_early(self, missing: int) -> bool:
        wanted = max(missing, self.slab_count // EARLY_SHARE)
        with self._lock:
            users = tuple(self._users)
        offers = [(block.slab_count, user, block) for user in users for block in user.writable_blocks()]
        chosen = choose_fullest([offer[0] for offer in offers], wanted)
        for number in chosen:
            _, user, block = offers[number]
            user.commit_early(block)
        return bool(chosen)

    def _retry_failed(self) -> None:
        with self._lock:
            users = tuple(self._users)
        for user in users:
            user.retry_failed()

    def _exhausted(self, count: int) -> MemoryBudgetError:
        named = [(hold, block) for hold in (Hold.FAILED, Hold.PINNED) for block in self._holders[hold]]
        lines = [f"{block} is {hold.value}" if hold is Hold.PINNED else f"{block}" for hold, block in named]
        shown = "; ".join(lines[:SHOWN_HOLDERS])
        more = f"; and {len(lines) - SHOWN_HOLDERS} more" if len(lines) > SHOWN_HOLDERS else ""
        return MemoryBudgetError(
            "no memory is left for blocks, and none comes back by itself",
            expected=f"{count * self.slab_bytes} of {self.budget_bytes} bytes",
            found=shown + more,
            hint="mend the store and commit again, or end what reads these blocks",
        )

    def _wake(self) -> None:
        self._changes += 1
        if self._line:
            self._line[0].notify()

    # -- what the blocks and their users tell

    def set_hold(self, block: Holder, hold: Hold | None) -> None:
        """Note why the block holds its slabs now; None: it is WRITABLE, or is giving them back."""
        with self._lock:
            for other, blocks in self._holders.items():
                self._held[other] -= blocks.pop(block, 0)
            if hold is not None:
                self._holders[hold][block] = block.slab_count
                self._held[hold] += block.slab_count
            self._wake()

    def tell_grown(self) -> None:
        """A block has taken slabs in: whoever waits may want it committed early."""
        if self._line:  # without the lock: whoever comes later looks at the blocks later
            with self._lock:
                self._wake()

    def join(self, user: MemoryUser) -> None:
        with self._lock:
            self._users.append(user)

    def leave(self, user: MemoryUser) -> None:
        with self._lock:
            self._users.remove(user)
            self._wake()

    def close(self) -> None:
        """Give the memory back to the system. Raises `RuntimeError` when somebody has slabs still."""
        with self._lock:
            if self._out:
                raise RuntimeError(f"{self._out} slabs are in use")
            self._idle.clear()  # an arena goes with its last view
            self._made = 0


def choose_fullest(sizes: list[int], wanted: int) -> list[int]:
    """The numbers of the largest `sizes` that are as many as give `wanted` together, or of all that are not 0."""
    chosen: list[int] = []
    for size, number in heapq.nlargest(len(sizes), ((size, number) for number, size in enumerate(sizes))):
        if wanted <= 0 or size == 0:
            break
        chosen.append(number)
        wanted -= size
    return chosen


def touched_memory(size_bytes: int) -> mmap.mmap:
    """Memory whose pages the system has found already, large ones where it can: a fault amid a copy costs more than it."""
    arena = mmap.mmap(-1, size_bytes)
    try:
        arena.madvise(mmap.MADV_HUGEPAGE)
        arena.madvise(_MADV_POPULATE_WRITE)
    except OSError:
        for start in range(0, len(arena), mmap.PAGESIZE):
            arena[start] = 0
    return arena


_process_pool: SlabPool | None = None
_process_pool_lock = threading.Lock()


def process_pool() -> SlabPool:
    """The pool of this process, of `DEFAULT_BUDGET_BYTES`; made by whoever asks first."""
    global _process_pool
    with _process_pool_lock:
        if _process_pool is None:
            _process_pool = SlabPool()
        return _process_pool
