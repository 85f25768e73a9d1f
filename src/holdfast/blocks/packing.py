"""Putting small contents together: each lies whole in a block that it shares with others.

One shared block is filled at a time. It is sealed when the next content has no room in it, when it holds very many,
or when somebody wants to be durable (`take_sealed`); memory that runs short may have it sealed early, as any block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from holdfast.blocks.bufferblock import BufferBlock
from holdfast.blocks.register import WritableBlocks
from holdfast.blocks.slabs import SlabPool

SHARED_CONTENTS = 8192
"""A shared block is full when it holds so many contents: what is remembered of them is bounded, too."""

_Packed = tuple[BufferBlock | None, int, int]
"""(shared block, offset in it, 0), or (None, 0, slabs that are missing)."""


class Packer:
    """Copies small contents from blocks of their own into shared ones. For any number of threads.

    `wait_for_room` waits until a sealed block may be handed to `submit`; no lock is held meanwhile.
    """

    def __init__(
        self,
        pool: SlabPool,
        blocks: WritableBlocks,
        *,
        block_bytes: int,
        wait_for_room: Callable[[], None],
        submit: Callable[[BufferBlock], None],
    ) -> None:
        self._pool = pool
        self._blocks = blocks
        self._block_bytes = block_bytes
        self._wait_for_room = wait_for_room
        self._submit = submit
        self._lock = threading.Lock()
        self._shared: BufferBlock | None = None

    def pack(self, content: BufferBlock) -> tuple[BufferBlock, int] | None:
        """Move the whole of `content` into a shared block; returns that block and where it lies.

        None when `content` was committed early, as memory was short: then it stays a block of its own. Raises
        `MemoryBudgetError`, and `content` is as it was.
        """
        slabs: list[memoryview] = []
        try:
            while self._blocks.claim(content):
                shared, offset, missing = self._pack_or_put_back(content, slabs)
                if shared is not None:
                    content.delete()
                    return shared, offset
                if missing:  # wait with nothing in hand, and with the content free to be committed early
                    given, slabs = slabs, []
                    self._pool.give_back(given)
                    slabs = self._pool.take(missing)
            return None
        finally:
            if slabs:
                self._pool.give_back(slabs)

    def _pack_or_put_back(self, content: BufferBlock, slabs: list[memoryview]) -> _Packed:
        packed: _Packed = (None, 0, 0)
        try:
            packed = self._try_pack(content, slabs)
        finally:
            if packed[0] is None and not self._blocks.put_back(content):
                content.delete()
        return packed

    def _try_pack(self, content: BufferBlock, slabs: list[memoryview]) -> _Packed:
        length = content.size_bytes
        if self._shared is not None and self._is_full(self._shared, length):
            self._wait_for_room()
        with content.parts() as parts, self._lock:
            shared = self._shared_for(length)
            missing = shared.slabs_missing(length)
            more = self._pool.try_take(missing - len(slabs)) if missing > len(slabs) else []
            if more is None:
                return None, 0, missing
            slabs.extend(more)
            offset = shared.append_whole(parts, content.owner, slabs)
            return (None, 0, 0) if offset is None else (shared, offset, 0)

    def _shared_for(self, length_bytes: int) -> BufferBlock:
        shared = self._shared
        if shared is not None and not self._is_full(shared, length_bytes):
            return shared
        sealed = self._seal()
        if sealed is not None:
            self._submit(sealed)
            self._blocks.sealed(sealed)
        shared = self._shared = BufferBlock(self._pool, "shared block", self._block_bytes)
        self._blocks.add(shared)
        return shared

    def _is_full(self, shared: BufferBlock, length_bytes: int) -> bool:
        has_room = shared.size_bytes + length_bytes <= self._block_bytes and shared.claim_count < SHARED_CONTENTS
        return not (has_room and shared.is_writable)

    def take_sealed(self) -> BufferBlock | None:
        """The shared block, sealed, if it holds anything; the caller submits it, and tells the register."""
        with self._lock:
            return self._seal()

    def _seal(self) -> BufferBlock | None:
        shared = self._shared
        if shared is None or (shared.is_writable and shared.size_bytes == 0):
            return None
        self._shared = None
        if not self._blocks.claim(shared, to_seal=True):
            return None  # it was committed early
        shared.seal()
        return shared
