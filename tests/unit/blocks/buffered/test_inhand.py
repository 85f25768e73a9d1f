"""Small contents without a block of their own: within the budget, whole whatever comes next, and never in the way."""

from __future__ import annotations

import pytest
from tests.unit.blocks.buffered.blockkit import SLAB, Fault, Gate, Thread, manager_of, noise, pool_of, read_segments

from holdfast.blocks import MemoryKeeper
from holdfast.blocks.buffered.committer import Backoff
from holdfast.blocks.buffered.inhand import InHand
from holdfast.blocks.buffered.packing import Packer
from holdfast.errors import MemoryBudgetError

LIMIT = SLAB // 2


class User:
    def check(self) -> None: ...
    def writable_blocks(self) -> list[object]:
        return []

    def commit_early(self, block: object) -> None: ...
    def retry_failed(self) -> None: ...


def test_what_is_held_is_part_of_the_budget() -> None:
    pool = pool_of(256)
    held = InHand(pool, User(), 10 * SLAB)  # type: ignore[arg-type]
    assert [held.take(size) for size in (0, LIMIT + 1)] == [False, False]
    assert [held.take(LIMIT) for _ in range(5)] == [True, True, True, True, False]  # two slabs of 256
    assert pool.used_bytes == 2 * SLAB
    held.give_back(LIMIT)
    assert held.take(LIMIT)
    held.close()
    held.close()
    assert pool.used_bytes == 0


def test_where_memory_is_short_nothing_is_held() -> None:
    small, pool = InHand(pool_of(100), User(), SLAB), pool_of(256)  # type: ignore[arg-type]
    assert not small.take(1)
    taken = pool.take(256)
    assert not InHand(pool, User(), SLAB).take(1)  # type: ignore[arg-type]
    pool.give_back(taken)


@pytest.mark.parametrize("pieces", [[LIMIT], [1, 1], [LIMIT, LIMIT, 1], [300, 20 * SLAB], [0, 5, 0]])
def test_a_content_is_whole_however_it_came(pieces: list[int]) -> None:
    data, pool = noise(sum(pieces)), pool_of(256)
    with manager_of(MemoryKeeper(), pool) as manager:
        content, at = manager.content("x"), 0
        for size in pieces:
            piece = bytearray(data[at : at + size])
            assert content.write(piece) == size
            piece[:] = bytes(size)  # what was given is the caller's again
            at += size
            assert content.size_bytes == at
        assert read_segments(manager, content.close()) == data
        assert content.size_bytes == len(data)
    assert pool.used_bytes == 0


def test_a_content_in_hand_has_no_block_and_begins_to_name_when_it_is_closed() -> None:
    with manager_of(MemoryKeeper()) as manager:
        content = manager.content("x")
        content.write(b"abc")
        assert manager._writable.all() == []
        content.abandon()
        other = manager.content("y")
        other.write(b"def")
        other.close(wait=False)
        manager.commit_all()
        (segment,) = other.segments()
        assert (segment.offset_bytes, segment.length_bytes, segment.locator.size_bytes) == (0, 3, 3)


def test_law_9_abandoned_and_closed_ones_make_room_for_others() -> None:
    pool = pool_of(256)
    with manager_of(MemoryKeeper(), pool) as manager:
        for number in range(50):
            content = manager.content("x")
            content.write(noise(LIMIT, number))
            if number % 2:
                content.close(wait=False)
            else:
                content.abandon()
            assert manager._in_hand._used_bytes == 0
        assert len(manager._in_hand._slabs) == 1


@pytest.mark.parametrize("step", ["_shared_for", "_append"])
def test_a_content_whose_closing_was_cut_is_closed_again(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with manager_of(MemoryKeeper()) as manager:
        content = manager.content("x")
        content.write(b"abc")
        with monkeypatch.context() as patch:
            patch.setattr(Packer, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                content.close()
        assert (content.size_bytes, content.is_closed) == (3, False)
        assert read_segments(manager, content.close()) == b"abc"


def test_one_that_waits_for_memory_to_be_packed_holds_nobody_up() -> None:
    """The store takes nothing, and the pool is full of what it should take."""
    keeper, gate = MemoryKeeper(), Gate()
    keeper.before_put = gate
    with manager_of(keeper, pool_of(128)) as manager:
        small = manager.content("small")
        small.write(noise(LIMIT))
        large = manager.content("large")
        filling = Thread(large.write, noise(200 * SLAB))
        gate.wait_reached()
        closing = Thread(lambda: small.close(wait=False))
        gate.opened.set()
        filling.join_result()
        closing.join_result()
        large.close()
        manager.commit_all()
        assert read_segments(manager, small.segments()) == noise(LIMIT)


def test_a_store_that_is_down_ends_in_an_error_and_not_in_waiting_for_ever() -> None:
    """What is kept for small contents comes back to nobody: who waits for it would wait for himself."""
    keeper, fault, pool = MemoryKeeper(), Fault(), pool_of(256)
    keeper.before_put = fault
    with manager_of(keeper, pool, backoff=Backoff(tries=1)) as manager:

        def fill() -> None:
            for number in range(2000):
                content = manager.content(f"small {number}")
                content.write(noise(400, number))
                content.close(wait=False)

        with pytest.raises(MemoryBudgetError) as caught:
            Thread(fill).join_result()
        assert "kept for" not in str(caught.value)
        fault.is_on = False
        manager.commit_all()


def test_what_is_not_used_comes_back_when_memory_is_short() -> None:
    pool = pool_of(256)
    held = InHand(pool, User(), SLAB)  # type: ignore[arg-type]
    for _ in range(4):
        assert held.take(LIMIT)
    for _ in range(3):
        held.give_back(LIMIT)
    held.shrink()
    assert pool.used_bytes == SLAB
    held.give_back(LIMIT)
    held.shrink()
    assert pool.used_bytes == 0


def test_after_its_end_it_takes_no_memory_any_more() -> None:
    pool = pool_of(256)
    with manager_of(MemoryKeeper(), pool) as manager:
        pass
    assert not manager.hold(10)
    assert pool.used_bytes == 0
