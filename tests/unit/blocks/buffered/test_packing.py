"""Putting small contents together: each whole, in one shared block, and none lost when packing is cut short."""

from __future__ import annotations

import pytest
from tests.unit.blocks.buffered.blockkit import BLOCK, SLAB, Thread, interrupted, locator_of, noise, pool_of

from holdfast.blocks import BlockState, BufferBlock
from holdfast.blocks.buffered.packing import Packer
from holdfast.blocks.buffered.register import WritableBlocks
from holdfast.blocks.buffered.waiting import Trust

SMALL = BLOCK // 4


class Kit:
    def __init__(self, slabs: int = 64) -> None:
        self.pool = pool_of(slabs)
        self.submitted: list[BufferBlock] = []
        self.register = WritableBlocks(self.submitted.append, Trust(), self.pool.note)
        self.packer = Packer(self.pool, self.register, block_bytes=BLOCK, wait_for_room=lambda: None)

    def content(self, data: bytes) -> BufferBlock:
        block = BufferBlock(self.pool, "x", hash_after_bytes=BLOCK)
        block.append(memoryview(data))
        self.register.add(block)
        return block


def test_contents_lie_one_behind_the_other_and_their_own_memory_comes_back() -> None:
    kit = Kit()
    contents = [kit.content(noise(size, size)) for size in (10, SMALL, 1)]
    places = [kit.packer.pack(content) for content in contents]
    shared = places[0][0]  # type: ignore[index]
    assert places == [(shared, 0), (shared, 10), (shared, 10 + SMALL)]
    assert {content.state for content in contents} == {BlockState.DELETED}
    assert kit.pool.used_bytes == shared.slab_count * SLAB
    kit.packer.send_shared()
    kit.packer.send_shared()
    assert kit.submitted == [shared]
    assert shared.locator == locator_of(noise(10, 10) + noise(SMALL, SMALL) + noise(1, 1))
    assert kit.register.all() == []


def test_a_content_for_which_there_is_no_room_begins_another_block() -> None:
    kit = Kit()
    places = [kit.packer.pack(kit.content(noise(SMALL, seed))) for seed in range(5)]
    assert [place and place[1] for place in places] == [0, SMALL, 2 * SMALL, 3 * SMALL, 0]
    assert [block.size_bytes for block in kit.submitted] == [BLOCK]


def test_a_content_that_was_committed_early_stays_a_block_of_its_own() -> None:
    kit = Kit()
    content = kit.content(b"abc")
    kit.register.send(content, early=True)
    assert kit.packer.pack(content) is None
    assert content.state is BlockState.PENDING


@pytest.mark.parametrize("step", ["append_whole", "parts", "slabs_missing"])
def test_a_content_whose_packing_was_interrupted_is_as_it_was(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    kit = Kit()
    content = kit.content(noise(3 * SLAB))
    with monkeypatch.context() as patched:
        patched.setattr(BufferBlock, step, interrupt)
        with interrupted(KeyboardInterrupt):
            kit.packer.pack(content)
    assert kit.pool.is_doubtful
    assert kit.pool.used_bytes == content.slab_count * SLAB
    assert kit.packer.pack(content) is not None
    kit.packer.send_shared()
    assert kit.submitted[-1].locator == locator_of(noise(3 * SLAB))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_shared_block_that_somebody_seals_in_vain_is_not_forgotten() -> None:
    kit = Kit()
    shared, _ = kit.packer.pack(kit.content(noise(SMALL)))  # type: ignore[misc]
    kit.register.claim(shared)  # to make room, by somebody who is interrupted
    sending = Thread(kit.packer.send_shared)
    kit.register.put_back(shared)
    sending.join_result()
    assert kit.submitted == [shared]


def test_a_shared_block_that_is_sent_as_a_content_is_packed_is_no_error() -> None:
    kit = Kit()
    kit.packer.pack(kit.content(b"first"))
    full, sent = kit.packer._is_full, list[bool]()

    def is_full(shared: BufferBlock, length: int) -> bool:
        if not sent:
            sent.append(True)
            Thread(kit.packer.send_shared).join_result()
        return full(shared, length)

    kit.packer._is_full = is_full  # type: ignore[method-assign]
    place = kit.packer.pack(kit.content(b"second"))
    assert place is not None
    assert place[1] == 0
    assert [block.size_bytes for block in kit.submitted] == [5]
