"""The block manager: who writes gets memory, who reads gets bytes, and what is said to be stored is.

Above it are contents (`ContentWriter`) and whole blocks; under it a `BlockKeeper`. It owns the blocks that are being
written, the workers that bring them to the keeper, and what was fetched ahead. Memory for writing comes from a
`SlabPool` that all managers of the process share. Names of files, digests of contents and the catalog may not come in
here: an *owner* is only a word for errors.

No lock is held while somebody waits for memory, for the line or for the keeper, so a reader never waits for a writer.
Locks are taken in this order: packing, the committer's, the line's or a block's, the pool's; that of the register takes
no other.

An interrupt that comes out of any call leaves the manager as it was, or the step done; `waiting` says how. Where even
the clean-up was interrupted, every later call raises `BlockError`, and `stop` gives the memory back all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING

from holdfast.blocks.buffered.blockstate import BlockState, Naming
from holdfast.blocks.buffered.bufferblock import BufferBlock
from holdfast.blocks.buffered.committer import Backoff, Committer
from holdfast.blocks.buffered.content import ContentWriter
from holdfast.blocks.buffered.inhand import InHand
from holdfast.blocks.buffered.keeper import BlockKeeper
from holdfast.blocks.buffered.packing import Packer
from holdfast.blocks.buffered.readcache import Fetched, ReadCache, SingleFlight
from holdfast.blocks.buffered.register import WritableBlocks
from holdfast.blocks.buffered.slabs import Holder, SlabPool, process_pool
from holdfast.blocks.buffered.views import View
from holdfast.blocks.buffered.waiting import Trust
from holdfast.errors import BlockError, BlockFailure, BlockStateError, NotKeptError
from holdfast.values import BLOCK_LIMIT_BYTES, Locator

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STEP_BYTES = 1024 * 1024
"""Memory for so much is asked for at once."""

CACHE_BYTES = 2 * BLOCK_LIMIT_BYTES

SHOWN_FAILURES = 20
"""So many failures are told of in the text of an error; its `failures` has them all."""


class _Life(Enum):
    NEW = "not entered yet"
    RUNNING = "running"
    STOPPING = "being stopped"
    STOPPED = "stopped"


class BlockManager:
    """Writes and reads blocks over a keeper; for any number of threads; use as a context manager.

    Leaving without an exception is a barrier (`commit_all`), then `stop`; leaving with one only stops. The keeper is
    the caller's, and outlives the manager. In a fork's child every call raises `BlockError`; a new manager is made there.
    `workers` bring blocks to it, and `line_limit` blocks may wait for them before who commits has to wait. `cache_bytes`
    bounds what is fetched ahead, beside the pool's budget.
    """

    def __init__(
        self,
        keeper: BlockKeeper,
        *,
        pool: SlabPool | None = None,
        block_bytes: int = BLOCK_LIMIT_BYTES,
        workers: int = 2,
        line_limit: int = 2,
        cache_bytes: int = CACHE_BYTES,
        backoff: Backoff | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        if not 0 < block_bytes <= BLOCK_LIMIT_BYTES:
            raise ValueError(f"blocks of {block_bytes} bytes")
        self.block_bytes = block_bytes
        self.small_limit_bytes = block_bytes // 4
        self._keeper = keeper
        self._pool = pool or process_pool()
        self.step_bytes = min(STEP_BYTES, max(1, self._pool.slab_count // 4) * self._pool.slab_bytes)
        self._trust = Trust()
        self._open: dict[ContentWriter, None] = {}
        self._unwanted: dict[ContentWriter, None] = {}  # to be abandoned by whoever comes next
        self._committer = Committer(
            keeper,
            workers=workers,
            line_limit=line_limit,
            backoff=backoff or Backoff(),
            gather=self._gather,
            pause=pause,
            trust=self._trust,
        )
        self._writable = WritableBlocks(self._committer.submit, self._trust, self._pool.note)
        self._packer = Packer(
            self._pool,
            self._writable,
            block_bytes=block_bytes,
            wait_for_room=self._committer.wait_for_room,
            user=self,
            trust=self._trust,
        )
        self._in_hand = InHand(self._pool, self, self.small_limit_bytes)
        self._cache = ReadCache(lambda locator: keeper.fetch(locator, 0, locator.size_bytes), cache_bytes)
        self._fetches = SingleFlight()
        self._life = _Life.NEW

    def __enter__(self) -> BlockManager:
        if self._life is not _Life.NEW:
            raise BlockError("a block manager is entered once", found=self._life.value)
        self._life = _Life.RUNNING
        try:
            self._pool.join(self)
            self._keeper.begin_naming().end()  # raises here already when it is closed
            self._committer.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None:
                self.commit_all()
        finally:
            self.stop()

    def stop(self) -> None:
        """End every thread after what it has in hand. What is not durable by then is let go: nobody was told of it.

        All memory goes back to the pool, also when this is interrupted; then a second call waits for the threads.
        Views that are open stay good. Once it has ended, a further call does nothing, and none does in a fork's child.
        """
        if self._life in (_Life.NEW, _Life.STOPPED) or not self._trust.is_here:
            return
        self._life = _Life.STOPPING  # first: whoever waits shall not take for stored what is let go
        try:
            self._writable.close()
            self._cache.stop()
            unstored = self._committer.unstored()
            self._committer.stop()
            for block in unstored:
                if block.state is BlockState.DELETED:
                    block.naming.end()
            self._let_go()
        except BaseException:
            self._let_go()
            raise
        self._life = _Life.STOPPED

    def _let_go(self) -> None:
        for block in self._writable.close():
            self.delete(block)
        self._writable.clear()
        for content in list(self._open):
            content.will_not_be_named()
        self._open.clear()
        self._unwanted.clear()
        self._in_hand.close()
        self._pool.leave(self)

    # -- writing

    def content(self, owner: str) -> ContentWriter:
        """A new content. `owner` names it in errors; a path, for people."""
        self.check()
        self._abandon_unwanted()
        return ContentWriter(self, owner)

    def alloc(self, owner: str) -> BufferBlock:
        """A new block that the caller fills and commits; it takes memory as it is filled."""
        self.check()
        self._abandon_unwanted()
        naming = self._keeper.begin_naming()
        try:
            block = BufferBlock(self._pool, owner, self.block_bytes, user=self)
            block.naming = naming
            self._writable.add(block, is_whole=True)
        except BaseException:
            naming.end()
            raise
        return block

    def new_block(self, owner: str, content_offset: int, hash_after_bytes: int) -> BufferBlock:
        """The same for a content, which is committed by a barrier only when it is closed."""
        self.check()
        block = BufferBlock(
            self._pool,
            owner,
            self.block_bytes,
            content_offset=content_offset,
            hash_after_bytes=hash_after_bytes,
            user=self,
        )
        self._writable.add(block)
        return block

    def append(self, block: BufferBlock, data: ReadableBuffer) -> int:
        """Copy `data` into the block; returns how many bytes were taken. Waits for memory.

        Fewer than given: the block is full, or was committed early, as memory was short or somebody passed a barrier; go
        on with a new one.
        Raises `BlockStateError` when the caller himself sealed it, and `MemoryBudgetError`.
        """
        self.check()
        rest = memoryview(data).cast("B")
        length = len(rest)
        if not block.sealed_early:
            block.check_writable()
        while rest and (taken := block.try_append(rest[: self.step_bytes])):
            rest = rest[taken:]
        return length - len(rest)

    def commit(self, block: BufferBlock, *, wait: bool = False) -> None:
        """Send the block on its way: no byte is added any more. Durable on return only if `wait`.

        One that failed is sent again; one that is on its way, or stored, is left alone. Raises `BlockStateError` for
        an empty or a deleted block and, when waiting, `NotKeptError`.
        """
        self.check()
        if block.state is BlockState.DELETED or (block.is_writable and block.size_bytes == 0):
            raise BlockStateError("an empty or deleted block is not committed", place=str(block))
        self._committer.wait_for_room()
        self._writable.send(block)
        self._committer.retry_failed([block])
        if wait:
            self._settle([block])

    def pack(self, content: BufferBlock) -> tuple[BufferBlock, int] | None:
        """See `Packer.pack`."""
        return self._packer.pack(content)

    def pack_bytes(self, data: bytes, owner: str) -> tuple[BufferBlock, int]:
        """See `Packer.pack_bytes`."""
        return self._packer.pack_bytes(data, owner)

    def hold(self, size_bytes: int) -> bool:
        """Whether a content may hold so many bytes by itself, until it says `let_go_of`."""
        return self._in_hand.take(size_bytes)

    def let_go_of(self, size_bytes: int) -> None:
        self._in_hand.give_back(size_bytes)

    def unpack(self, block: BufferBlock, offset: int) -> None:
        """The content at `offset` of a shared block is not wanted; one in which nothing is any more is deleted."""
        if block.drop_claim(offset):
            self.delete(block)

    def _gather(self) -> None:
        self._packer.send_shared()

    def make_durable(self, blocks: list[BufferBlock], owner: str) -> None:
        """Wait until the blocks of a closed content are stored; sends what failed of them again first.

        Raises `NotKeptError` that lists what of `owner` was not taken.
        """
        self._committer.retry_failed(blocks)
        self._settle(blocks, owner)
        self.check()  # else `stop` may have ended its naming

    def commit_all(self) -> None:
        """The barrier: when this returns, every closed content and every block from `alloc` that has bytes is durable.

        What failed before is tried again. Raises one `NotKeptError` that lists whatever the store still did not take;
        it stays in memory, and is tried again by the next barrier. Contents that are not closed are left alone.
        """
        self.check()
        self._committer.wait_for_room()
        self._gather()
        for block in self._writable.whole():
            if block.size_bytes:
                self._committer.wait_for_room()
                self._writable.send(block, early=True)  # its owner may be another thread
        self._committer.retry_failed()
        self._wait_stored(self._committer.unstored())
        self.check()  # else `stop` may have let go what was waited for

    def _settle(self, blocks: Sequence[BufferBlock], owner: str | None = None) -> None:
        self._wait_stored(blocks, owner)
        for block in blocks:
            if block.state is not BlockState.COMMITTED:
                raise BlockStateError("a block was let go before it was stored", place=str(block))

    def _wait_stored(self, blocks: Sequence[BufferBlock], owner: str | None = None) -> None:
        """Wait until each is stored or deleted, or has failed; raises `NotKeptError` that lists what failed."""
        failures, left = list[BlockFailure](), list(blocks)
        while left:
            self._committer.wait_settled(left)
            found = {block: block.failures() for block in left}
            failures += [failure for each in found.values() for failure in each if owner in (None, failure.owner)]
            # one that failed, and that somebody has sent again before this look, is waited for again
            left = [block for block in left if not (found[block] or block.is_ended)]
        if failures:
            raise _not_kept(failures)

    def errors(self) -> tuple[BlockFailure, ...]:
        """What the store has not taken so far, in the order in which it failed."""
        return tuple(failure for block in self._committer.failed() for failure in block.failures())

    def delete(self, block: BufferBlock) -> None:
        """The block is not wanted any more, whatever its state; what the store has of it stays there."""
        try:
            self._delete(block)
        except BaseException:
            self._delete(block)  # the rest, after an interrupt
            raise

    def _delete(self, block: BufferBlock) -> None:
        self._writable.drop(block)
        block.delete()
        self._committer.forget(block)
        block.naming.end()

    # -- what is open

    def check(self) -> None:
        """Raise `BlockError` unless it is running: between `with` and `stop`, and not after an interrupt that cannot be mended."""
        self._trust.check()
        if self._life is not _Life.RUNNING:
            raise BlockError(
                "a block manager that is not running takes nothing",
                expected="a call inside its `with`",
                found=f"it is {self._life.value}",
            )

    def abandon_later(self, content: ContentWriter) -> None:
        """The content is not wanted; takes no lock. It is let go when somebody next begins to write, or needs memory."""
        self._unwanted[content] = None

    def _abandon_unwanted(self) -> None:
        for content in list(self._unwanted):
            if not content.is_closed:
                content.abandon()
            self._unwanted.pop(content, None)

    def begun(self, content: ContentWriter) -> Naming:
        """The content has its first block; see `Naming`."""
        self._open[content] = None
        return self._keeper.begin_naming()

    def ended(self, content: ContentWriter) -> None:
        """The content was closed or abandoned."""
        self._open.pop(content, None)

    def named(self, block: BufferBlock) -> None:
        """A block from `alloc` is named durably by now, or never will be: a collector need not wait for it any more.

        As long as this is not said, nor the block deleted, it is safe from one until the keeper is closed.
        """
        block.naming.end()

    # -- what the pool asks when memory is short

    def writable_blocks(self) -> list[Holder]:
        """The blocks that hold memory and could be committed early."""
        if self._trust.lost is not None:
            return []
        self._abandon_unwanted()
        self._in_hand.shrink()
        return list[Holder](self._writable.with_memory())

    def commit_early(self, block: Holder) -> None:
        """Commit a block as it is, unless somebody has sealed it by now."""
        assert isinstance(block, BufferBlock), "the pool gives back what it was given"
        self._writable.try_send(block, early=True)

    def retry_failed(self) -> None:
        """Send every block that failed on its way again."""
        self._committer.retry_failed()

    # -- reading

    def read(self, what: BufferBlock | Locator, offset: int = 0, length: int | None = None) -> View:
        """`length` bytes (None: all the rest) from `offset` of a block in any state but deleted; see `View`.

        From memory as long as the block is there, else from the keeper. Raises `ValueError` for bytes that the block
        does not have, `BlockStateError` for a deleted one, and what the keeper raises.
        """
        self._trust.check()
        block = what if isinstance(what, BufferBlock) else self._committer.find(what)
        locator = what if isinstance(what, Locator) else what.locator
        if length is None:
            size_bytes = block.size_bytes if block is not None else locator.size_bytes if locator is not None else 0
            length = max(0, size_bytes - offset)
        if block is not None:
            view = block.view(offset, length)
            if view is not None:
                return view
            if block is what and block.state is BlockState.DELETED:
                raise BlockStateError("a deleted block is not read", place=str(block))
            locator = block.locator
        assert locator is not None, "a block that is in memory no more has its name"
        return View(memoryview(self._stored(locator, offset, length)))

    def _stored(self, locator: Locator, offset: int, length: int) -> Fetched:
        if offset < 0 or length < 0 or offset + length > locator.size_bytes:
            raise ValueError(f"bytes {offset} to {offset + length} of block {locator}")
        whole = self._cache.get(locator)
        if whole is None:
            if self._keeper.cheap_ranges:
                key = (locator, offset, length)
                return self._fetches.run(key, lambda: self._keeper.fetch(locator, offset, length))
            whole = self._cache.load(locator)
        return memoryview(whole)[offset : offset + length]

    def prefetch(self, locators: Iterable[Locator]) -> int:
        """Fetch stored blocks ahead, in this order, as far as they fit in the cache; returns how many are or come.

        What cannot be fetched is heard of by who reads it.
        """
        self.check()
        return self._cache.prefetch(locator for locator in locators if self._committer.find(locator) is None)


def _not_kept(failures: Sequence[BlockFailure]) -> NotKeptError:
    """The error with all the failures, whose text does not grow with them."""
    one_each = {failure.block: failure for failure in failures}
    error = NotKeptError(tuple(one_each.values()))
    more = len(failures) - SHOWN_FAILURES
    error.found = "; ".join(map(str, failures[:SHOWN_FAILURES])) + (f"; and {more} more" if more > 0 else "")
    error.failures = tuple(failures)
    return error
