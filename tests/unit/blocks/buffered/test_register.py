"""The register of writable blocks: exactly one caller seals each, and an interrupt leaves none in between."""

from __future__ import annotations

import threading

import pytest
from tests.unit.blocks.buffered.blockkit import PATIENCE_S, SLAB, Thread, interrupted, locator_of, noise, pool_of

from holdfast.blocks import BlockState, BufferBlock, SlabPool
from holdfast.blocks.buffered.register import WritableBlocks
from holdfast.blocks.buffered.waiting import Trust
from holdfast.errors import BlockError, BlockStateError


class Register(WritableBlocks):
    """Remembers what is submitted, and may be interrupted there."""

    def __init__(self) -> None:
        self.submitted: list[BufferBlock] = []
        self.interrupts = 0
        self.trust = Trust()
        self.pool: SlabPool = pool_of(8)
        super().__init__(self.submit, self.trust, self.pool.note)

    def submit(self, block: BufferBlock) -> None:
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        self.submitted.append(block)

    def new(self, data: bytes = b"abc", *, is_whole: bool = True) -> BufferBlock:
        block = BufferBlock(self.pool, "x")
        block.append(memoryview(data))
        self.add(block, is_whole=is_whole)
        return block


def test_a_block_is_sent_once() -> None:
    register = Register()
    block = register.new()
    register.send(block)
    register.send(block)
    assert register.submitted == [block]
    assert block.locator == locator_of(b"abc")
    assert register.all() == register.whole() == register.with_memory() == []


def test_what_somebody_has_claimed_is_not_sent_by_others_and_comes_back_as_it_was() -> None:
    register = Register()
    block = register.new(is_whole=True)
    assert register.claim(block)
    assert not register.claim(block)
    Thread(register.put_back, block).join_result()  # it is not that thread's
    register.try_send(block)
    assert register.submitted == []
    register.put_back(block)
    register.put_back(block)
    assert register.whole() == [block]


def test_a_block_whose_sealing_was_interrupted_is_writable_again(monkeypatch: pytest.MonkeyPatch) -> None:
    register = Register()
    block = register.new()
    with monkeypatch.context() as patched:
        patched.setattr(BufferBlock, "_named", interrupt)
        with interrupted(KeyboardInterrupt):
            register.send(block, early=True)
    assert register.pool.is_doubtful
    assert not block.sealed_early
    block.append(memoryview(b"def"))
    register.send(block)
    assert block.locator == locator_of(b"abcdef")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_sealed_block_is_submitted_though_an_interrupt_comes() -> None:
    register = Register()
    block = register.new()
    register.interrupts = 1
    with interrupted(KeyboardInterrupt):
        register.send(block)
    assert register.submitted == [block]
    assert register.all() == []
    register.trust.check()


def test_an_interrupt_of_the_clean_up_is_said_to_everybody() -> None:
    register = Register()
    block = register.new()
    register.interrupts = 2
    with interrupted(KeyboardInterrupt):
        register.send(block)
    with pytest.raises(BlockError, match="interrupted amid a step"):
        register.trust.check()
    assert register.close() == [block]


def test_a_block_that_was_deleted_meanwhile_is_no_error_for_who_needs_memory() -> None:
    register = Register()
    early, own = register.new(), register.new()
    early.delete()
    own.delete()
    register.send(early, early=True)
    with pytest.raises(BlockStateError, match="deleted block does not become pending"):
        register.send(own)
    assert register.submitted == register.all() == []


def test_only_blocks_with_bytes_are_offered() -> None:
    register = Register()
    register.add(BufferBlock(register.pool, "empty"))
    block = register.new(noise(SLAB), is_whole=False)
    assert register.with_memory() == [block]
    assert register.whole() == []
    register.drop(block)
    register.drop(block)
    assert register.with_memory() == []


def test_who_sends_a_block_that_somebody_else_seals_waits_for_him_and_takes_over() -> None:
    register = Register()
    block, is_tried = register.new(), threading.Event()
    real_try = register.try_send

    def try_send(block: BufferBlock, *, early: bool = False) -> None:
        real_try(block, early=early)
        is_tried.set()

    register.try_send = try_send  # type: ignore[method-assign]
    assert register.claim(block)
    assert register.whole() == [block]  # a barrier must see it
    sending = Thread(register.send, block)
    assert is_tried.wait(PATIENCE_S)
    assert sending.is_alive()
    register.put_back(block)  # he was interrupted
    sending.join_result()
    assert register.submitted == [block]


def test_a_claim_that_follows_at_once_is_not_ended_by_the_one_before() -> None:
    register = Register()
    block = register.new()
    assert register.claim(block)
    register._claimed[block] = (0, True)  # another thread's, that came as this one had put it back
    register._release(block)
    assert register.all() == [block]


def test_a_closed_register_takes_nothing_and_says_what_is_left() -> None:
    register = Register()
    left, claimed = register.new(), register.new()
    assert register.claim(claimed)
    assert register.close() == register.close() == [left, claimed]
    with pytest.raises(BlockError, match="the block manager is stopped"):
        register.new()
    register.put_back(claimed)
    assert claimed.state is BlockState.DELETED
    register.clear()
    assert register.close() == []
