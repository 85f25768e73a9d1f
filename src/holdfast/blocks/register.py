"""The WRITABLE blocks of one manager, and who may seal each: exactly one caller gets it (`claim`).

Nothing else is known here; its lock is held for a step in a dictionary only.
"""

from __future__ import annotations

import threading

from holdfast.blocks.bufferblock import BufferBlock
from holdfast.errors import BlockError


class WritableBlocks:
    """For any number of threads. `is_whole`: the block is a caller's own, and no part of a content being written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: dict[BufferBlock, bool] = {}
        self._being_sealed: set[BufferBlock] = set()
        self._is_closed = False

    def add(self, block: BufferBlock, *, is_whole: bool = False) -> None:
        """Raises `BlockError` when the register is closed."""
        with self._lock:
            if self._is_closed:
                raise BlockError("the block manager is stopped", place=block.owner)
            self._blocks[block] = is_whole

    def claim(self, block: BufferBlock, *, to_seal: bool = False) -> bool:
        """Whether the block is the caller's now: nobody else seals it. After `to_seal` it is owed to `sealed`."""
        with self._lock:
            if self._blocks.pop(block, None) is None:
                return False
            if to_seal:
                self._being_sealed.add(block)
            return True

    def put_back(self, block: BufferBlock) -> bool:
        """A block that was claimed is not sealed after all. False when the register is closed: it is the caller's."""
        with self._lock:
            if not self._is_closed:
                self._blocks[block] = False
            return not self._is_closed

    def sealed(self, block: BufferBlock) -> None:
        with self._lock:
            self._being_sealed.discard(block)

    def being_sealed(self) -> list[BufferBlock]:
        with self._lock:
            return list(self._being_sealed)

    def whole(self) -> list[BufferBlock]:
        with self._lock:
            return [block for block, is_whole in self._blocks.items() if is_whole]

    def with_memory(self) -> list[BufferBlock]:
        with self._lock:
            return [block for block in self._blocks if block.slab_count]

    def close(self) -> list[BufferBlock]:
        """Take no more blocks; returns those that were left, also amid being sealed."""
        with self._lock:
            self._is_closed = True
            left = [*self._blocks, *self._being_sealed]
            self._blocks.clear()
            return left
