"""One block in memory: filled, named, sent to the store, looked at meanwhile, and let go; see `blockstate`.

No store, thread or policy may come in here: a block only guards its own bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from blake3 import blake3

from holdfast.blocks.buffered.blockstate import (
    CLAIM_BYTES,
    NO_NAMING,
    NOT_IN_MEMORY,
    BlockState,
    Claim,
    check_move,
    check_name,
)
from holdfast.blocks.buffered.slabs import Hold, MemoryUser, SlabPool
from holdfast.blocks.buffered.views import Parts, Pinned, View
from holdfast.errors import BlockFailure, BlockStateError
from holdfast.values import BLOCK_LIMIT_BYTES, Locator


class BufferBlock:
    """Up to `limit_bytes` that belong to `owner`, who is named in errors. For any number of threads.

    BLAKE3 is taken while bytes are appended, each byte once; of blocks that may yet be copied into another one it is
    taken only when more than `hash_after_bytes` have come. `size_bytes` never falls; `locator` is known once sealed.
    What is remembered of the contents in it takes slabs, too.
    """

    __slots__ = (
        "_claims",
        "_hash_after_bytes",
        "_hashed_slabs",
        "_hasher",
        "_lock",
        "_pins",
        "_pool",
        "_slab_bytes",
        "_slabs",
        "content_offset",
        "error",
        "limit_bytes",
        "locator",
        "naming",
        "owner",
        "sealed_early",
        "size_bytes",
        "state",
        "user",
    )

    def __init__(
        self,
        pool: SlabPool,
        owner: str,
        limit_bytes: int = BLOCK_LIMIT_BYTES,
        *,
        content_offset: int = 0,
        hash_after_bytes: int = 0,
        user: MemoryUser | None = None,
    ) -> None:
        self.owner = owner
        self.user = user
        self.content_offset = content_offset
        self.limit_bytes = limit_bytes
        self.state = BlockState.WRITABLE
        self.size_bytes = 0
        self.locator: Locator | None = None
        self.error: BaseException | None = None
        self.sealed_early = False
        self.naming = NO_NAMING  # a caller's own block has one
        self._pool = pool
        self._slab_bytes = pool.slab_bytes
        self._lock = threading.Lock()
        self._slabs: list[memoryview] = []
        self._claims: list[Claim] = []
        self._hash_after_bytes = hash_after_bytes
        self._hashed_slabs = 0
        self._hasher: blake3 | None = None
        self._pins: set[Pinned] = set()  # changed without the lock, in single steps

    def __str__(self) -> str:
        name = f"block {self.locator}" if self.locator else f"a block of {self.size_bytes} bytes"
        error = self.error if self.state is BlockState.ERROR else None
        why = f": {error}" if error is not None else ""
        return f"{name} of {self.owner} ({self.state.value}{why})"

    @property
    def slab_count(self) -> int:
        return len(self._slabs)

    @property
    def room_bytes(self) -> int:
        return self.limit_bytes - self.size_bytes

    @property
    def is_ended(self) -> bool:
        return self.state in NOT_IN_MEMORY

    @property
    def is_writable(self) -> bool:
        return self.state is BlockState.WRITABLE

    def failures(self) -> list[BlockFailure]:
        """What it holds that was not taken, when it is in ERROR."""
        with self._lock:
            error, claims = self.error, self._claims or [Claim(self.owner, self.content_offset, 0, self.size_bytes)]
            if error is None or self.state is not BlockState.ERROR:
                return []
            place = str(self.locator)
            return [BlockFailure(c.owner, c.content_offset, c.length_bytes, place, error) for c in claims]

    # -- filling

    def append(self, data: memoryview) -> int:
        """Copy the first bytes of `data` in; returns how many, fewer than given when the block is full or was sealed.

        Waits for memory, holding no lock; all that it asks for at once must be in the pool's budget. Raises
        `BlockStateError` unless the block is WRITABLE at the call, and `MemoryBudgetError`.
        """
        self.check_writable()
        return self.try_append(data)

    def try_append(self, data: memoryview) -> int:
        """The same, but 0 when the block is sealed already."""
        slabs: list[memoryview] = []
        try:
            missing = self.slabs_missing(len(data))
            if missing:
                self._pool.take(missing, user=self.user, into=slabs)
            count = self._append(data, slabs)
            self._return_spare(slabs)
        except BaseException as error:
            self._pool.note(error)
            self._return_spare(slabs)  # what an interrupt amid it, or before, has left
            raise
        return count

    def _append(self, data: memoryview, slabs: list[memoryview]) -> int:
        with self._lock:
            if self.state is not BlockState.WRITABLE:
                return 0
            there = (len(self._slabs) + len(slabs)) * self._slab_bytes  # another thread may have taken some
            count = min(len(data), self.room_bytes, there - self.size_bytes)
            self._take_in(slabs, count)
            self._copy_in(data[:count])
            return count

    def append_whole(self, parts: Sequence[memoryview], claim_owner: str, slabs: list[memoryview]) -> int | None:
        """Copy all the parts in, as one content of `claim_owner`; returns where they begin.

        None, and nothing is copied, when the block is sealed, has too little room, or needs more than `slabs`, of
        which the unused ones stay in the list.
        """
        length = sum(map(len, parts))
        with self._lock:
            missing = self._slabs_missing(length) > len(slabs)
            if self.state is not BlockState.WRITABLE or length > self.room_bytes or missing:
                return None
            offset = self.size_bytes
            self._take_in(slabs, length)
            for part in parts:
                self._copy_in(part)
            self._claims.append(Claim(claim_owner, 0, offset, length))
        return offset

    def slabs_missing(self, length_bytes: int) -> int:
        """How many slabs more it takes to append so much, or all that there is room for."""
        return max(0, self._slabs_missing(length_bytes))

    @property
    def claim_count(self) -> int:
        return len(self._claims)

    def check_writable(self) -> None:
        if self.state is not BlockState.WRITABLE:
            raise BlockStateError("bytes are appended to a writable block only", place=str(self))

    def _slabs_missing(self, length_bytes: int) -> int:
        end = min(self.size_bytes + length_bytes, self.limit_bytes)
        of_claims = len(self._claims) * CLAIM_BYTES // self._slab_bytes
        return -(-end // self._slab_bytes) + of_claims - len(self._slabs)

    def _take_in(self, slabs: list[memoryview], length_bytes: int) -> None:
        count = self._slabs_missing(length_bytes)
        if count > 0:
            taken = slabs[:count]  # no call in these three lines: no interrupt leaves a slab with two owners, or none
            del slabs[:count]
            self._slabs += taken

    def _copy_in(self, data: memoryview) -> None:
        slab_bytes, start, end = self._slab_bytes, 0, len(data)
        while start < end:
            number, inside = divmod(self.size_bytes, slab_bytes)
            count = min(slab_bytes - inside, end - start)
            whole = count == end  # the usual case of small contents
            self._slabs[number][inside : inside + count] = data if whole else data[start : start + count]
            self.size_bytes += count
            start += count
            if inside + count == slab_bytes and self.size_bytes > self._hash_after_bytes:
                self._hash_slabs(number + 1)

    def _hash_slabs(self, end: int) -> blake3:
        """Take in whole slabs up to `end`. The hasher is put away while it works: one that was cut is never seen again."""
        hasher, self._hasher = self._hasher, None
        start = self._hashed_slabs if hasher is not None else 0
        if hasher is None:
            hasher = blake3()
        for slab in self._slabs[start:end]:
            hasher.update(slab)
        self._hashed_slabs = end  # no call from here on: both or none
        self._hasher = hasher
        return hasher

    def _return_spare(self, slabs: list[memoryview]) -> None:
        if slabs:
            self._pool.give_back(slabs)
        self._pool.tell_grown()

    def drop_claim(self, offset: int) -> bool:
        """The content at `offset` is not wanted; whether the block was wanted for it only, and is DELETED now."""
        with self._lock:
            claims = [claim for claim in self._claims if claim.offset_bytes != offset]
            is_last = not claims and self.state is not BlockState.COMMITTED
            self._claims = claims
            if is_last:
                self._end_locked(BlockState.DELETED)
            return is_last

    # -- moving on

    def seal(self) -> Locator:
        """WRITABLE → PENDING: no byte is appended any more, and the block has its name. It must not be empty."""
        with self._lock:
            if self.state is BlockState.WRITABLE and self.size_bytes == 0:
                raise BlockStateError("a block without bytes has no name", place=str(self))
            check_move(self.state, BlockState.PENDING, self)
            name = self._named()
            self.locator = name  # no call in between: as long as bytes are taken there is no name
            self.state = BlockState.PENDING
            self._pool.set_hold(self, Hold.ON_ITS_WAY)
            return name

    def _named(self) -> Locator:
        whole = self.size_bytes // self._slab_bytes
        hasher = self._hash_slabs(whole)
        self._hasher = None  # the tail is for this name only; when it is interrupted, all is hashed anew
        tail = self.size_bytes - whole * self._slab_bytes
        if tail:
            hasher.update(self._slabs[whole][:tail])
        return Locator(hasher.digest(), self.size_bytes)

    def check_name(self, parts: Sequence[memoryview]) -> None:
        """Raise `IntegrityError` when its bytes are not those it is named by.

        They are looked at only once there was an interrupt amid the filling of any block of the pool.
        """
        if self._pool.is_doubtful and self.locator is not None:
            check_name(self.locator, parts, self.owner)

    def retry(self) -> bool:
        """ERROR → PENDING. False when it is in another state by now."""
        with self._lock:
            if self.state is not BlockState.ERROR:
                return False
            self.error = None
            self._move(BlockState.PENDING, Hold.ON_ITS_WAY)
            return True

    def committed(self) -> bool:
        """PENDING → COMMITTED: it is durable, and its memory is given back. False when it was deleted meanwhile."""
        return self._end(BlockState.COMMITTED)

    def failed(self, error: BaseException) -> bool:
        """PENDING → ERROR: its bytes stay. False when it was deleted meanwhile."""
        with self._lock:
            if self.state is BlockState.DELETED:
                return False
            self._move(BlockState.ERROR, Hold.FAILED)
            self.error = error
            return True

    def delete(self) -> bool:
        """DELETED, from any state; its memory is given back. False when it was before.

        One that was interrupted is ended by another one.
        """
        return self._end(BlockState.DELETED)

    def _end(self, state: BlockState) -> bool:
        with self._lock:
            return self._end_locked(state)

    def _end_locked(self, state: BlockState) -> bool:
        is_first = self.state is not BlockState.DELETED
        if is_first:
            if state is not BlockState.DELETED:
                check_move(self.state, state, self)
            self.state = state  # first: nobody looks at memory that may be another block's
            self._claims.clear()
            self._hasher = None
        self._let_go()
        return is_first

    def _move(self, state: BlockState, hold: Hold) -> None:
        check_move(self.state, state, self)
        self.state = state
        self._pool.set_hold(self, hold)

    def _let_go(self) -> None:
        if self._slabs:
            is_looked_at = bool(self._pins)  # one look: who ends after it tells the pool
            self._pool.set_hold(self, Hold.PINNED if is_looked_at else None)
            if not is_looked_at:
                self._pool.give_back(self._slabs)

    def try_let_go(self) -> bool:
        """Give the memory back that only readers still held. Whether it is; not when a lock is held that it takes.

        It may be this very thread that holds it. Who holds the lock of a block waits for the pool's only, and who holds
        that waits for nobody, so that another thread's is waited for safely.
        """
        if self._lock.locked() or self._pool.is_locked:
            return False
        with self._lock:
            if self.is_ended:
                self._let_go()
        return not self._slabs

    # -- looking

    def view(self, offset: int, length: int) -> View | None:
        """`length` bytes from `offset`, copied only where they lie across slabs. None: they are in memory no more.

        Raises `ValueError` when the block has no such bytes (yet).
        """
        view: View | None = None
        try:
            with self._lock:
                if offset < 0 or length < 0 or offset + length > self.size_bytes:
                    raise ValueError(f"bytes {offset} to {offset + length} of {self}")
                if self.state in NOT_IN_MEMORY:
                    return None
                number, inside = divmod(offset, self._slab_bytes)
                if not length or inside + length > self._slab_bytes:
                    return View(memoryview(b"".join(self._ranges(offset, length))))
                view = View(self._slabs[number][inside : inside + length].toreadonly(), self._unpin)
                self._pins.add(view)
            return view
        except BaseException:
            if view is not None:
                view.release()
            raise

    def parts(self) -> Parts:
        """All its bytes. Raises `BlockStateError` when they are in memory no more."""
        parts: Parts | None = None
        try:
            with self._lock:
                if self.state in NOT_IN_MEMORY:
                    raise BlockStateError("the bytes are in memory no more", place=str(self))
                parts = Parts(self._ranges(0, self.size_bytes), self._unpin)
                self._pins.add(parts)
            return parts
        except BaseException:
            if parts is not None:
                parts.release()
            raise

    def _ranges(self, offset: int, length: int) -> list[memoryview]:
        slab_bytes, end, found = self._slab_bytes, offset + length, list[memoryview]()
        while offset < end:
            number, inside = divmod(offset, slab_bytes)
            count = min(slab_bytes - inside, end - offset)
            found.append(self._slabs[number][inside : inside + count])
            offset += count
        return found

    def _unpin(self, pinned: Pinned) -> None:
        """No lock of this thread's is waited for: this may be the garbage collector, amid any step of its."""
        self._pins.discard(pinned)
        if self._slabs and not self._pins and self.is_ended:
            self._pool.was_unread(self)
