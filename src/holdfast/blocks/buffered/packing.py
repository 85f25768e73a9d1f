"""Putting small contents together: each lies whole in a block that it shares with others.

One shared block is filled at a time. It is sealed when the next content has no room in it, when it holds very many,
or when somebody wants to be durable (`send_shared`); memory that runs short may have it sealed early, as any block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from holdfast.blocks.buffered.bufferblock import BufferBlock
from holdfast.blocks.buffered.register import WritableBlocks
from holdfast.blocks.buffered.slabs import MemoryUser, SlabPool
from holdfast.blocks.buffered.waiting import Trust

SHARED_CONTENTS = 8192
"""A shared block is full when it holds so many contents. What is remembered of them is part of the budget."""

Packed = tuple[BufferBlock, int]
"""A shared block, and the offset of a content in it."""


class Packer:
    """Copies small contents from blocks of their own into shared ones. For any number of threads.

    `wait_for_room` waits until a sealed block may be sent; no lock is held meanwhile.
    """

    def __init__(
        self,
        pool: SlabPool,
        blocks: WritableBlocks,
        *,
        block_bytes: int,
        wait_for_room: Callable[[], None],
        user: MemoryUser | None = None,
        trust: Trust | None = None,
    ) -> None:
        self._pool = pool
        self._blocks = blocks
        self._block_bytes = block_bytes
        self._wait_for_room = wait_for_room
        self._user = user
        self._trust = trust or Trust()
        self._lock = threading.Lock()
        self._shared: BufferBlock | None = None

    def pack(self, content: BufferBlock) -> Packed | None:
        """Move the whole of `content` into a shared block; returns that block and where it lies.

        None when `content` was committed early, as memory was short: then it stays a block of its own. Raises
        `MemoryBudgetError`, and `content` is as it was. Interrupted, it is as it was or deleted; bytes of it that
        lie in the shared block are named by nobody.
        """
        slabs: list[memoryview] = []
        try:
            packed = self._pack(content, slabs)
            self._give_back(slabs)
        except BaseException as error:
            try:
                self._pool.note(error)
                self._blocks.put_back(content)
                self._give_back(slabs)
            except BaseException:
                self._trust.lost = error
                raise
            raise
        return packed

    def pack_bytes(self, data: bytes, owner: str) -> Packed:
        """The same for a content of `owner` that has no block of its own."""
        slabs: list[memoryview] = []
        try:
            packed = self._pack_bytes(memoryview(data), owner, slabs)
            self._give_back(slabs)
        except BaseException as error:
            try:
                self._pool.note(error)
                self._give_back(slabs)
            except BaseException:
                self._trust.lost = error
                raise
            raise
        return packed

    def _pack_bytes(self, data: memoryview, owner: str, slabs: list[memoryview]) -> Packed:
        while True:
            self._wait_if_full(len(data))
            with self._lock:
                packed = self._append(self._shared_for(len(data)), (data,), owner, slabs)
            if not isinstance(packed, int):
                return packed
            if packed:
                self._give_back(slabs)
                self._pool.take(packed, user=self._user, into=slabs)

    def _give_back(self, slabs: list[memoryview]) -> None:
        if slabs:
            self._pool.give_back(slabs)

    def _wait_if_full(self, length_bytes: int) -> None:
        shared = self._shared  # one look without the lock: others replace it
        if shared is not None and self._is_full(shared, length_bytes):
            self._wait_for_room()

    def _pack(self, content: BufferBlock, slabs: list[memoryview]) -> Packed | None:
        while self._blocks.claim(content):
            packed = self._try_pack(content, slabs)
            if not isinstance(packed, int):
                content.delete()
            self._blocks.put_back(content)
            if not isinstance(packed, int):
                return packed
            if packed:  # wait with nothing in hand, and with the content free to be committed early
                self._give_back(slabs)
                self._pool.take(packed, user=self._user, into=slabs)
        return None

    def _try_pack(self, content: BufferBlock, slabs: list[memoryview]) -> Packed | int:
        """Where it lies, or how many slabs are missing; 0 when the shared block was sealed just now."""
        length = content.size_bytes
        self._wait_if_full(length)
        parts = content.parts()
        try:
            with self._lock:
                packed = self._append(self._shared_for(length), parts.parts, content.owner, slabs)
            parts.release()
        except BaseException:
            parts.release()
            raise
        return packed

    def _append(
        self, shared: BufferBlock, parts: Sequence[memoryview], owner: str, slabs: list[memoryview]
    ) -> Packed | int:
        missing = shared.slabs_missing(sum(map(len, parts)))
        more = missing - len(slabs)
        if more > 0 and self._pool.try_take(more, user=self._user, into=slabs) is None:
            return missing
        offset = shared.append_whole(parts, owner, slabs)
        return 0 if offset is None else (shared, offset)

    def _shared_for(self, length_bytes: int) -> BufferBlock:
        if self._shared is not None and not self._is_full(self._shared, length_bytes):
            return self._shared
        self._send()
        shared = BufferBlock(self._pool, "shared block", self._block_bytes, user=self._user)
        self._blocks.add(shared)
        self._shared = shared
        return shared

    def _is_full(self, shared: BufferBlock, length_bytes: int) -> bool:
        has_room = shared.size_bytes + length_bytes <= self._block_bytes and shared.claim_count < SHARED_CONTENTS
        return not (has_room and shared.is_writable)

    def send_shared(self) -> None:
        """Send the shared block, if it holds anything. When this returns all that was packed before is on its way."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        if self._shared is not None and self._shared.size_bytes:
            self._blocks.send(self._shared, early=True)
            self._shared = None  # it is on its way, whoever has sealed it
