"""The memory of blocks that are being written: one budget of bytes for the whole process, in reused slabs.

A `SlabPool` hands out slabs of 64 KiB, the piece of a pack. It never hands out more than its budget, and everybody who
writes blocks shares one pool (`process_pool`). Whoever wants more than there is waits, in the order of coming, and
holds no lock of a block or a content meanwhile. That nobody waits for ever is decided here:

    enough is on its way to the store     wait: it comes back when the store has it
    too little is, and some is WRITABLE   the fullest of those blocks are committed early, as shorter blocks
    none is, and blocks have failed       each is tried once more, then `MemoryBudgetError` names them
    none is, and readers look at it       wait for them as long as the pool is patient, then the same error
    somebody has just been given it       wait: what is in hand goes into a block or comes back

Each slab that is out is in the books under the user that has it, and `leave` takes all of his back, whatever became of
them. No store, no file and no thread may come in here.
"""

from __future__ import annotations

import heapq
import mmap
import os
import threading
import time
from collections import deque
from enum import Enum
from typing import Protocol

from holdfast.blocks.buffered.waiting import Bell, Home
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
    RESERVED = "kept for small contents"


class Holder(Protocol):
    """A block, as the budget sees it."""

    @property
    def slab_count(self) -> int: ...

    @property
    def user(self) -> MemoryUser | None: ...

    def try_let_go(self) -> bool:
        """Give back what only readers held, unless a lock is in the way; whether it is back."""
        ...


class MemoryUser(Protocol):
    """Somebody who fills blocks, asked to make room when memory is short. Called from any thread, without locks."""

    def check(self) -> None:
        """Raise when he shall not wait for memory any more."""
        ...

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
    `is_doubtful`: there was an interrupt amid the filling of a block (`note`).
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
        self.is_doubtful = False
        self._home = Home()
        self._lock = threading.Lock()
        self._line: deque[Bell] = deque()
        self._idle: list[memoryview] = []  # the last one back is the first one out: its bytes are still in the cache
        self._lent: dict[int, tuple[memoryview, MemoryUser | None]] = {}  # by the slab's id
        self._strays: dict[int, memoryview] = {}  # out still, but taken from the books
        self._spare: list[memoryview] = []  # strays that came back
        self._unread: dict[Holder, None] = {}  # their last readers have ended, perhaps amid somebody's step
        self._changes = 0
        self._holds: dict[Holder, tuple[Hold, int]] = {}
        self._users: dict[MemoryUser, None] = {}

    @property
    def budget_bytes(self) -> int:
        return self.slab_count * self.slab_bytes

    @property
    def used_bytes(self) -> int:
        return len(self._lent) * self.slab_bytes

    def slabs_for(self, size_bytes: int) -> int:
        return -(-size_bytes // self.slab_bytes)

    # -- taking and giving back

    def take(
        self, count: int, *, user: MemoryUser | None = None, into: list[memoryview] | None = None
    ) -> list[memoryview]:
        """`count` slabs at once, with whatever their last owner left in them, put into `into`, which is returned.

        Waits; hold no lock that others need. Raises `MemoryBudgetError` when only failed blocks or readers hold what
        is missing (see above), and what the user's `check` raises.
        """
        slabs: list[memoryview] = [] if into is None else into
        if self.try_take(count, user=user, into=slabs) is None:
            if count > self.slab_count:
                raise ValueError(f"{count} slabs of a pool of {self.slab_count}")
            self._stand_in_line(count, user, slabs)
        return slabs

    def try_take(
        self, count: int, *, user: MemoryUser | None = None, into: list[memoryview] | None = None
    ) -> list[memoryview] | None:
        """The same without waiting: None when there are too few, or others wait for them already."""
        slabs: list[memoryview] = [] if into is None else into
        if self._unread:
            self._take_unread()
        with self._lock:
            return slabs if not self._line and self._hand_out(count, user, slabs) else None

    def give_back(self, slabs: list[memoryview]) -> None:
        """The caller looks at them no more. They leave the list as they come back: interrupted, call it again."""
        with self._lock:
            self._give_back(slabs)

    def _give_back(self, slabs: list[memoryview]) -> None:
        while slabs:
            number = id(slabs[-1])
            slab, is_lent, is_stray = slabs[-1], number in self._lent, number in self._strays
            del slabs[-1]  # no call from here to the end of the step, so that a slab has one owner always
            if is_lent:
                self._idle += [slab]
                del self._lent[number]
            elif is_stray:
                self._spare += [slab]
                del self._strays[number]
        self._wake()

    def was_unread(self, block: Holder) -> None:
        """The last reader of a block that is in memory for readers only has ended; called amid any step of any thread.

        What cannot be taken back at once, as a lock is held, is when somebody next asks for memory, or waits for it.
        """
        self._unread[block] = None
        self._take_unread()

    def _take_unread(self) -> None:
        for block in list(self._unread):
            if block.try_let_go():
                self._unread.pop(block, None)

    @property
    def is_locked(self) -> bool:
        return self._lock.locked()

    def note(self, error: BaseException) -> None:
        """What was being done with slabs has ended with `error`: after an interrupt names are checked against bytes."""
        if not isinstance(error, Exception):
            self.is_doubtful = True

    def _hand_out(self, count: int, user: MemoryUser | None, into: list[memoryview]) -> bool:
        if self.slab_count - len(self._lent) < count:
            return False
        while len(self._idle) < count:
            self._add_arena()
        first = len(self._idle) - count
        slabs = self._idle[first:]
        lent = {id(slab): (slab, user) for slab in slabs}
        into += slabs  # no call in these three lines: an interrupt comes before or after
        del self._idle[first:]
        self._lent |= lent
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return True

    def _add_arena(self) -> None:
        if self._spare:
            self._idle += [self._spare[-1]]
            del self._spare[-1]
            return
        made = len(self._idle) + len(self._lent)
        count = min(max(1, ARENA_BYTES // self.slab_bytes), self.slab_count - made)
        view = memoryview(touched_memory(count * self.slab_bytes))
        slabs = [view[n * self.slab_bytes : (n + 1) * self.slab_bytes] for n in range(count)]
        self._idle += slabs

    # -- waiting

    def _stand_in_line(self, count: int, user: MemoryUser | None, slabs: list[memoryview]) -> None:
        turn = Bell()
        try:
            self._line.append(turn)
            self._wait_for(turn, count, user, slabs)
            self._leave_line(turn)
        except BaseException:
            self._leave_line(turn)
            raise

    def _leave_line(self, turn: Bell) -> None:
        with self._lock:
            if turn in self._line:
                self._line.remove(turn)
            self._wake()

    def _wait_for(self, turn: Bell, count: int, user: MemoryUser | None, slabs: list[memoryview]) -> None:
        has_retried, seen, since_s = False, -1, 0.0
        while True:
            if user is not None:
                user.check()
            ticket = turn.ticket()
            self._take_unread()
            with self._lock:
                is_first = self._line[0] is turn
                if is_first and self._hand_out(count, user, slabs):
                    return
                if self._changes != seen:
                    seen, since_s = self._changes, time.monotonic()
                missing = count - (self.slab_count - len(self._lent)) - self._held(Hold.ON_ITS_WAY)
                has_failed = bool(self._held(Hold.FAILED))
            # the users are asked without the lock: they lock blocks, and blocks lock the pool
            if is_first:
                if missing > 0 and self._commit_early(missing):
                    continue
                if missing > 0 and has_failed and not has_retried:
                    has_retried = True
                    self._retry_failed()
                    continue
                self._check_hope(count, seen, time.monotonic() - since_s)
            self._wait_for_change(turn, ticket)

    def _wait_for_change(self, turn: Bell, ticket: threading.Lock) -> None:
        turn.wait(ticket)

    def _check_hope(self, count: int, seen: int, waited_s: float) -> None:
        """Raise `MemoryBudgetError` when nothing has changed since and so much does not come back by itself."""
        with self._lock:
            if self._changes != seen or self._held(Hold.ON_ITS_WAY):
                return
            without_failed = self.slab_count - self._held(Hold.FAILED) - self._held(Hold.RESERVED)
            without_pinned = without_failed - self._held(Hold.PINNED)
            if without_failed < count or (without_pinned < count and waited_s >= self.patience_s):
                raise self._exhausted(count)

    def _held(self, hold: Hold) -> int:
        return sum(count for held, count in self._holds.values() if held is hold)

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
        named = [
            (hold, block) for block, (hold, _) in self._holds.items() if hold not in (Hold.ON_ITS_WAY, Hold.RESERVED)
        ]
        named.sort(key=lambda held: held[0] is Hold.PINNED)
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
            self._line[0].ring()

    # -- what the blocks and their users tell

    def set_hold(self, block: Holder, hold: Hold | None) -> None:
        """Note why the block holds its slabs now; None: it is WRITABLE, or is giving them back."""
        with self._lock:
            if hold is None:
                self._holds.pop(block, None)
            elif block.user is None or block.user in self._users:
                self._holds[block] = (hold, block.slab_count)
            self._wake()

    def tell_grown(self) -> None:
        """A block has taken slabs in: whoever waits may want it committed early."""
        if self._line:  # without the lock: whoever comes later looks at the blocks later
            with self._lock:
                self._wake()

    def join(self, user: MemoryUser) -> None:
        """He is about to write. Raises `BlockError` in a fork of the pool's process."""
        self._home.check()
        with self._lock:
            self._users[user] = None

    def leave(self, user: MemoryUser) -> None:
        """He writes no more. What he has not given back counts no more, but is lent to nobody before he does.

        So views that are open stay good, and what an interrupt has lost is made up for, as nobody can tell the two apart:
        views that are left open beyond the end of their manager are beside the budget. A second time ends the first.
        """
        self._take_unread()
        with self._lock:
            self._users.pop(user, None)
            for block in [block for block in self._holds if block.user is user]:
                del self._holds[block]
            his = {number: slab for number, (slab, owner) in self._lent.items() if owner is user}
            self._strays |= his
            for number in his:
                del self._lent[number]
            self._wake()

    def close(self) -> None:
        """Give the memory back to the system. Raises `RuntimeError` when somebody has slabs still."""
        with self._lock:
            if self._lent:
                raise RuntimeError(f"{len(self._lent)} slabs are in use")
            self._idle.clear()  # an arena goes with its last view
            self._spare.clear()


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
    """Memory whose pages the system has found already: a fault amid a copy costs more than it.

    Large pages are not asked for: where memory is in pieces the system moves it about to make some, in the caller's time.
    """
    arena = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a fork's child has its own
    try:
        arena.madvise(_MADV_POPULATE_WRITE)
    except OSError:
        for start in range(0, len(arena), mmap.PAGESIZE):
            arena[start] = 0
    return arena


_process_pool: SlabPool | None = None
_process_pool_lock = threading.Lock()


def _begin_in_child() -> None:
    """The parent's pool may be locked, and its slabs are lent to whom the child does not have."""
    global _process_pool, _process_pool_lock
    _process_pool, _process_pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_begin_in_child)


def process_pool() -> SlabPool:
    """The pool of this process, of `DEFAULT_BUDGET_BYTES`; made by whoever asks first."""
    global _process_pool
    with _process_pool_lock:
        if _process_pool is None:
            _process_pool = SlabPool()
        return _process_pool
