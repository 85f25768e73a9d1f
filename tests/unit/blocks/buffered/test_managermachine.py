"""The block manager over packs against the plainest model: what was handed over, and what was acknowledged.

Puts, syncs and the catalog fail as Hypothesis likes; runs end well, or are killed and their packs recovered. Whatever
was acknowledged is read with every byte, always; and a barrier with a healthy store acknowledges all that was handed
over.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.blocks.buffered.blockkit import block_threads, locator_of, noise, read_segments
from tests.unit.blocks.kit import FENCE, VAULT_ID, MemoryStore

from holdfast.blocks import (
    Backoff,
    BlockManager,
    BlockState,
    BufferBlock,
    ContentWriter,
    DurableGroup,
    PackKeeper,
    SlabPool,
    recover_packs,
)
from holdfast.errors import MemoryBudgetError, NotKeptError
from holdfast.values import Locator, Segment

PIECE = 64 * 1024
BLOCK = 4 * PIECE
SIZES = [1, 100, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7, BLOCK, BLOCK + 1, 3 * BLOCK]


class FaultyStore(MemoryStore):
    """A catalog that refuses what it is told while `is_down`."""

    is_down = False

    def group_durable(self, group: DurableGroup) -> None:
        if self.is_down:
            raise OSError(errno.EBUSY, "the catalog is busy")
        super().group_durable(group)


class FaultyKeeper(PackKeeper):
    """A keeper whose puts and syncs fail while it is told so."""

    put_fails = sync_fails = False

    def put(self, locator: Locator, parts: Sequence[memoryview]) -> None:
        if self.put_fails:
            raise OSError(errno.ENOSPC, "full")
        super().put(locator, parts)

    def _sync_pack(self, pack: object) -> None:
        if self.sync_fails:
            raise OSError(errno.EIO, "the disk says no")
        super()._sync_pack(pack)  # type: ignore[arg-type]


class ManagerMachine(RuleBasedStateMachine):
    """`acked`: contents that must be there for ever; `handed_over`: those that the next good barrier acknowledges."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = FaultyStore()
        self.pool = SlabPool(8 * PIECE)
        self.acked: list[tuple[bytes, tuple[Segment, ...]]] = []
        self.number = 0
        self.begin()

    def begin(self) -> None:
        self.keeper = FaultyKeeper(
            self.folder, vault_id=VAULT_ID, pack_bytes=3 * BLOCK, index=self.store, sink=self.store, fence=FENCE
        )
        self.keeper.__enter__()
        self.manager = BlockManager(
            self.keeper, pool=self.pool, block_bytes=BLOCK, backoff=Backoff(tries=2), pause=lambda _: None
        ).__enter__()
        self.open: list[tuple[ContentWriter, bytearray]] = []
        self.handed_over: list[tuple[ContentWriter, bytes]] = []
        self.blocks: list[tuple[BufferBlock, bytearray]] = []

    def teardown(self) -> None:
        self.manager.stop()
        self.keeper.close()
        assert block_threads() == []
        assert self.pool.used_bytes == 0
        shutil.rmtree(self.folder)

    @property
    def is_healthy(self) -> bool:
        return not (self.keeper.put_fails or self.keeper.sync_fails or self.store.is_down)

    def new_bytes(self, size: int) -> bytes:
        self.number += 1
        return noise(size, self.number)

    def heal(self) -> None:
        self.keeper.put_fails = self.keeper.sync_fails = self.store.is_down = False

    def check_failures(self, error: NotKeptError) -> None:
        assert not self.is_healthy
        assert error.failures
        assert set(error.failures) <= set(self.manager.errors())

    # -- contents

    @rule(choose=st.data(), size=st.sampled_from(SIZES), is_new=st.booleans(), is_first=st.booleans())
    def write(self, choose: st.DataObject, size: int, is_new: bool, is_first: bool) -> None:
        if is_first or not self.open:
            self.open.append((self.manager.content(f"file {self.number}"), bytearray()))
        content, written = self.open[-1] if is_first else choose.draw(st.sampled_from(self.open))
        data = self.new_bytes(size) if is_new else noise(size)
        try:
            assert content.write(data) == size
        except MemoryBudgetError:
            assert not self.is_healthy or self.manager.errors()
        written += data[: content.size_bytes - len(written)]
        assert content.size_bytes == len(written)

    @precondition(lambda self: self.open)
    @rule(choose=st.data(), wait=st.booleans())
    def close(self, choose: st.DataObject, wait: bool) -> None:
        content, written = self.open.pop(choose.draw(st.integers(0, len(self.open) - 1)))
        try:
            if wait:
                self.acked.append((bytes(written), content.close()))
                return
            content.close(wait=False)
        except MemoryBudgetError:
            assert not self.is_healthy or self.manager.errors()
            self.open.append((content, written))
            return
        except NotKeptError as error:
            self.check_failures(error)
        self.handed_over.append((content, bytes(written)))

    @precondition(lambda self: self.open)
    @rule(choose=st.data())
    def abandon(self, choose: st.DataObject) -> None:
        self.open.pop(choose.draw(st.integers(0, len(self.open) - 1)))[0].abandon()

    # -- blocks

    @rule(choose=st.data(), size=st.sampled_from(SIZES), is_first=st.booleans())
    def append(self, choose: st.DataObject, size: int, is_first: bool) -> None:
        if is_first or not self.blocks:
            self.blocks.append((self.manager.alloc(f"block {self.number}"), bytearray()))
        block, written = self.blocks[-1] if is_first else choose.draw(st.sampled_from(self.blocks))
        if not (block.is_writable or block.sealed_early):
            return
        data = self.new_bytes(size)
        before = len(written)
        try:
            written += data[: self.manager.append(block, data)]
        except MemoryBudgetError:
            assert not self.is_healthy or self.manager.errors()
            written += data[: block.size_bytes - before]
        assert block.size_bytes == len(written)
        assert len(written) == before + size or block.room_bytes == 0 or block.sealed_early or not self.is_healthy

    @precondition(lambda self: self.blocks)
    @rule(choose=st.data(), wait=st.booleans())
    def commit(self, choose: st.DataObject, wait: bool) -> None:
        block, written = choose.draw(st.sampled_from(self.blocks))
        if not written:
            return
        try:
            self.manager.commit(block, wait=wait)
        except NotKeptError:
            assert not self.is_healthy
            return
        if wait:
            assert block.state is BlockState.COMMITTED
        assert block.locator == locator_of(bytes(written))

    @precondition(lambda self: self.blocks)
    @rule(choose=st.data())
    def delete(self, choose: st.DataObject) -> None:
        self.manager.delete(self.blocks.pop(choose.draw(st.integers(0, len(self.blocks) - 1)))[0])

    @precondition(lambda self: self.blocks)
    @rule(choose=st.data())
    def read_block(self, choose: st.DataObject) -> None:
        block, written = choose.draw(st.sampled_from(self.blocks))
        begin = choose.draw(st.integers(0, len(written)))
        length = choose.draw(st.integers(0, len(written) - begin))
        with self.manager.read(block, begin, length) as data:
            assert data == written[begin : begin + length]

    # -- the store

    @rule(fault=st.sampled_from(["put", "sync", "catalog"]))
    def break_store(self, fault: str) -> None:
        self.keeper.put_fails |= fault == "put"
        self.keeper.sync_fails |= fault == "sync"
        self.store.is_down |= fault == "catalog"

    @rule()
    def mend_store(self) -> None:
        self.heal()

    @rule()
    def barrier(self) -> None:
        try:
            self.manager.commit_all()
        except NotKeptError as error:
            self.check_failures(error)
            return
        self.acked += [(data, content.segments()) for content, data in self.handed_over]
        self.handed_over.clear()
        assert all(block.state is BlockState.COMMITTED for block, written in self.blocks if written)
        self.acked += [
            (bytes(written), (Segment(block.locator, 0, len(written)),))
            for block, written in self.blocks
            if block.locator is not None
        ]

    @rule()
    def reopen(self) -> None:
        """The run ends well, and another one begins."""
        self.heal()
        self.barrier()
        self.manager.stop()
        self.keeper.seal()
        self.keeper.close()
        self.begin()
        self.check_acked()

    @rule()
    def kill(self) -> None:
        """The run ends amid everything; what it left is recovered."""
        self.manager.stop()
        self.keeper.close()
        self.heal()
        recover_packs(self.folder, vault_id=VAULT_ID, known=self.store, sink=self.store, fence=FENCE)
        self.begin()
        self.check_acked()

    @rule()
    def check_acked(self) -> None:
        for data, segments in self.acked:
            assert read_segments(self.manager, segments) == data
            assert sum(segment.length_bytes for segment in segments) == len(data)

    @invariant()
    def memory_stays_in_the_budget(self) -> None:
        assert self.pool.peak_bytes <= self.pool.budget_bytes


TestManagerMachine = ManagerMachine.TestCase
TestManagerMachine.settings = settings(max_examples=60, stateful_step_count=40)
