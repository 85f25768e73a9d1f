"""The WRITABLE blocks of one manager, and who may seal each: exactly one caller gets it (`claim`).

Who has claimed a block owes it: to the store (`send`), or back (`put_back`). A claim knows its thread, so that an
interrupt amid it is made up for by whoever was interrupted. The lock is held for a step in dictionaries only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from holdfast.blocks.buffered.blockstate import BlockState
from holdfast.blocks.buffered.bufferblock import BufferBlock
from holdfast.blocks.buffered.waiting import Bell, Trust
from holdfast.errors import BlockError, BlockStateError

_Claim = tuple[int, bool]
"""(thread, whether the block is whole)."""


class WritableBlocks:
    """For any number of threads. `submit` takes a sealed block, as often as it is called for one; `note` what ends a sealing."""

    def __init__(
        self, submit: Callable[[BufferBlock], None], trust: Trust, note: Callable[[BaseException], None]
    ) -> None:
        self._submit = submit
        self._note = note
        self._trust = trust
        self._lock = threading.Lock()
        self._changed = Bell()
        self._blocks: dict[BufferBlock, bool] = {}
        self._claimed: dict[BufferBlock, _Claim] = {}
        self._is_closed = False

    def add(self, block: BufferBlock, *, is_whole: bool = False) -> None:
        """`is_whole`: the block is a caller's own, and no part of a content. Raises `BlockError` when closed."""
        with self._lock:
            if self._is_closed:
                raise BlockError("the block manager is stopped", place=block.owner)
            self._blocks[block] = is_whole

    def send(self, block: BufferBlock, *, early: bool = False) -> None:
        """Seal the block and submit it. When this returns it is on its way, stored or deleted, whoever has sealed it.

        Interrupted, it is WRITABLE again, or submitted all the same. Raises `BlockStateError` when it was deleted
        meanwhile, unless it is sent `early`, for the sake of others.
        """
        is_here = True
        while is_here:  # somebody else who seals it may be interrupted, and put it back
            self.try_send(block, early=early)
            is_here = self._changed.until(lambda: self._is_here(block))

    def _is_here(self, block: BufferBlock) -> bool | None:
        """Whether the block is WRITABLE; None as long as it is in somebody's hands."""
        self._trust.check()
        with self._lock:
            return None if block in self._claimed and not self._is_closed else block in self._blocks

    def try_send(self, block: BufferBlock, *, early: bool = False) -> None:
        """The same without waiting: nothing when the block is somebody else's just now."""
        try:
            if self.claim(block):
                block.sealed_early = early
                block.seal()
                self._submit(block)
                self._release(block)
        except BaseException as error:
            try:
                self._note(error)
                self.put_back(block)
            except BaseException:
                self._trust.lost = error
                raise
            if not (early and isinstance(error, BlockStateError)):
                raise

    def claim(self, block: BufferBlock) -> bool:
        """Whether the block is the caller's now: nobody else seals it."""
        thread = threading.get_ident()
        with self._lock:
            if block not in self._blocks:
                return False
            self._claimed[block] = (thread, self._blocks[block])  # no call in these two lines
            del self._blocks[block]
        return True

    def put_back(self, block: BufferBlock) -> None:
        """End a claim that did not come to its end: the block is WRITABLE again, or goes where its state says.

        Does nothing when this thread has no claim. Once the register is closed the block is deleted.
        """
        claim = self._claimed.get(block)
        if claim is None or claim[0] != threading.get_ident():
            return
        if block.state is BlockState.PENDING:
            self._submit(block)
        elif block.is_writable and not self._return(block, is_whole=claim[1]):
            block.delete()
        self._release(block)

    def _return(self, block: BufferBlock, *, is_whole: bool) -> bool:
        with self._lock:
            if not self._is_closed:
                block.sealed_early = False
                self._blocks[block] = is_whole
                self._claimed.pop(block, None)  # under the same lock: the next claim is another one's
            return not self._is_closed

    def _release(self, block: BufferBlock) -> None:
        with self._lock:
            claim = self._claimed.get(block)
            if claim is not None and claim[0] == threading.get_ident():
                del self._claimed[block]
        self._changed.ring()

    def drop(self, block: BufferBlock) -> None:
        """The block is deleted: forget it, whoever has it."""
        with self._lock:
            self._blocks.pop(block, None)

    def all(self) -> list[BufferBlock]:
        with self._lock:
            return [*self._blocks, *self._claimed]

    def whole(self) -> list[BufferBlock]:
        """The callers' own blocks, also those that somebody is sealing."""
        with self._lock:
            claimed = [block for block, claim in self._claimed.items() if claim[1]]
            return [*claimed, *(block for block, is_whole in self._blocks.items() if is_whole)]

    def with_memory(self) -> list[BufferBlock]:
        """The blocks that could be sent early."""
        with self._lock:
            return [block for block in self._blocks if block.slab_count and block.size_bytes]

    def close(self) -> list[BufferBlock]:
        """Take no more blocks; returns those that are left, also amid being sealed. A second time does so again."""
        with self._lock:
            self._is_closed = True
            return [*self._blocks, *self._claimed]

    def clear(self) -> None:
        """Forget what was left: it is deleted."""
        with self._lock:
            self._blocks.clear()
            self._claimed.clear()
        self._changed.ring()
