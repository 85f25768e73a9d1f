"""The budget of memory: never more than it, and nobody waits for ever."""

from __future__ import annotations

import mmap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.blocks.buffered.blockkit import PATIENCE_S, SLAB, Thread, pool_of

from holdfast.blocks.buffered import slabs
from holdfast.blocks.buffered.slabs import ARENA_BYTES, Hold, Holder, SlabPool, choose_fullest, process_pool
from holdfast.blocks.buffered.waiting import Bell
from holdfast.errors import MemoryBudgetError

pytestmark = pytest.mark.timeout(30)


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(-3, 60))
def test_the_fullest_are_chosen_and_no_more_than_it_takes(sizes: list[int], wanted: int) -> None:
    chosen = choose_fullest(sizes, wanted)
    taken = [sizes[number] for number in chosen]
    assert len(set(chosen)) == len(chosen)
    assert 0 not in taken
    assert taken == sorted(sizes, reverse=True)[: len(taken)]
    assert sum(taken) >= wanted or len(taken) == len([size for size in sizes if size])
    assert not taken or sum(taken[:-1]) < wanted


def test_the_budget_is_never_passed_and_memory_is_reused() -> None:
    pool = pool_of(3)
    first = pool.take(2)
    assert pool.try_take(2) is None
    second = pool.take(1)
    assert pool.used_bytes == pool.peak_bytes == pool.budget_bytes == 3 * SLAB
    addresses = {id(slab.obj) for slab in first + second}
    pool.give_back(first)
    assert {id(slab.obj) for slab in pool.take(2)} <= addresses
    assert pool.peak_bytes == 3 * SLAB


def test_memory_is_asked_for_in_arenas_as_it_is_needed() -> None:
    pool = SlabPool(3 * ARENA_BYTES)
    held = pool.take(1)
    assert len({id(slab.obj) for slab in held}) == 1
    assert isinstance(held[0].obj, mmap.mmap)
    assert len(held[0].obj) == ARENA_BYTES
    held += pool.take(ARENA_BYTES // pool.slab_bytes)
    assert len({id(slab.obj) for slab in held}) == 2
    with pytest.raises(RuntimeError, match="129 slabs are in use"):
        pool.close()
    pool.give_back(held)
    held.clear()
    pool.close()


def test_a_system_that_cannot_find_pages_at_once_is_asked_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "_MADV_POPULATE_WRITE", 9999)
    assert len(pool_of(5).take(5)) == 5


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="no room for a slab"):
        SlabPool(100)
    with pytest.raises(ValueError, match="4 slabs of a pool of 3"):
        pool_of(3).take(4)


def test_there_is_one_pool_for_the_process() -> None:
    assert process_pool() is process_pool()
    assert process_pool().budget_bytes == slabs.DEFAULT_BUDGET_BYTES


class Line(slabs.SlabPool):
    """Says when somebody begins to wait."""

    def __init__(self, count: int, patience_s: float = PATIENCE_S) -> None:
        super().__init__(count * SLAB, slab_bytes=SLAB, patience_s=patience_s)
        self.waiting = threading.Semaphore(0)

    def _wait_for_change(self, turn: Bell, ticket: threading.Lock) -> None:
        self.waiting.release()
        super()._wait_for_change(turn, ticket)

    def wait_until_somebody_waits(self) -> None:
        assert self.waiting.acquire(timeout=PATIENCE_S)


def test_who_comes_first_is_served_first_even_when_he_wants_more() -> None:
    pool = Line(4)
    held = [pool.take(1) for _ in range(4)]
    large = Thread(pool.take, 3)
    pool.wait_until_somebody_waits()
    pool.give_back(held.pop())
    assert pool.try_take(1) is None  # there is one, and somebody waits for three
    small = Thread(pool.take, 1)
    pool.give_back(held.pop())
    pool.give_back(held.pop())
    assert len(large.join_result()) == 3  # type: ignore[arg-type]
    assert small.is_alive()
    pool.give_back(held.pop())
    assert len(small.join_result()) == 1  # type: ignore[arg-type]


class Block:
    user = None

    def __init__(self, name: str, slab_count: int) -> None:
        self.name, self.slab_count = name, slab_count

    def try_let_go(self) -> bool:
        return False

    def __str__(self) -> str:
        return self.name


class User:
    """A memory user whose blocks go where the test says."""

    def __init__(self, pool: SlabPool) -> None:
        self.pool = pool
        self.writable: dict[Holder, list[memoryview]] = {}
        self.early: list[str] = []
        self.retries = 0
        self.recovers = False
        pool.join(self)

    def add(self, name: str, count: int) -> None:
        self.writable[Block(name, count)] = self.pool.take(count)

    def check(self) -> None:
        pass

    def writable_blocks(self) -> list[Holder]:
        return list(self.writable)

    def commit_early(self, block: Holder) -> None:
        self.early.append(str(block))
        self.pool.set_hold(block, Hold.ON_ITS_WAY)
        slabs = self.writable.pop(block)
        self.pool.set_hold(block, None)
        self.pool.give_back(slabs)

    def retry_failed(self) -> None:
        self.retries += 1
        if self.recovers:
            self.commit_early(next(iter(self.writable)))


def test_the_fullest_blocks_of_all_users_make_room() -> None:
    pool = pool_of(16)
    one, other = User(pool), User(pool)
    one.add("one's large", 5)
    one.add("one's small", 2)
    other.add("other's larger", 6)
    other.add("other's small", 3)
    assert len(pool.take(8)) == 8
    assert one.early + other.early == ["one's large", "other's larger"]
    pool.leave(one)
    pool.leave(other)


def test_what_failed_blocks_hold_is_named_after_they_were_tried_again() -> None:
    pool = pool_of(8)
    user = User(pool)
    block = Block("the failed block", 6)
    held = pool.take(6)
    pool.set_hold(block, Hold.FAILED)
    with pytest.raises(MemoryBudgetError, match="found: the failed block; next: mend the store") as caught:
        pool.take(3)
    assert caught.value.expected == f"{3 * SLAB} of {8 * SLAB} bytes"
    assert user.retries == 1
    assert len(pool.take(2)) == 2  # there is some; only more than that is refused
    pool.set_hold(block, None)
    pool.give_back(held)
    assert len(pool.take(3)) == 3


def test_very_many_failed_blocks_are_not_all_named() -> None:
    pool = pool_of(30)
    pool.take(30)
    for number in range(30):
        pool.set_hold(Block(f"block {number}", 1), Hold.FAILED)
    with pytest.raises(MemoryBudgetError, match="block 19; and 10 more"):
        pool.take(1)


def test_a_failed_block_that_recovers_makes_room() -> None:
    pool = pool_of(8)
    user = User(pool)
    user.add("failed", 6)
    block = next(iter(user.writable))
    pool.set_hold(block, Hold.FAILED)
    user.writable_blocks = list  # type: ignore[method-assign] # it cannot be committed early, only tried again
    user.recovers = True
    assert len(pool.take(3)) == 3


def test_memory_that_readers_hold_is_waited_for_with_patience() -> None:
    pool = Line(4)
    held = pool.take(4)
    block = Block("looked at", 4)
    pool.set_hold(block, Hold.PINNED)
    waiting = Thread(pool.take, 1)
    pool.wait_until_somebody_waits()
    pool.set_hold(block, None)
    pool.give_back(held)
    assert waiting.join_result()


def test_readers_that_never_end_are_named_when_patience_ends() -> None:
    pool = pool_of(4, patience_s=0)
    pool.take(4)
    pool.set_hold(Block("the block", 4), Hold.PINNED)
    with pytest.raises(MemoryBudgetError, match="the block is being read"):
        pool.take(1)
    assert pool.try_take(0) == []  # nobody stands in line any more


def test_memory_in_hand_is_waited_for() -> None:
    pool = Line(4)
    user = User(pool)
    in_hand = pool.take(4)
    waiting = Thread(pool.take, 2)
    pool.wait_until_somebody_waits()
    user.writable[Block("filled now", 4)] = in_hand
    pool.tell_grown()
    assert waiting.join_result()
    assert user.early == ["filled now"]
