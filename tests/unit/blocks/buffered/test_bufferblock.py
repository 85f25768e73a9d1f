"""One block in memory: its moves, its name, and who may look at it."""

from __future__ import annotations

import gc
import itertools
import struct
from collections.abc import Generator

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.blocks.buffered.blockkit import SLAB, Thread, locator_of, noise, pool_of

from holdfast.blocks.buffered.blockstate import LEGAL_MOVES, BlockState, check_move
from holdfast.blocks.buffered.bufferblock import BufferBlock
from holdfast.errors import BlockError, BlockStateError

W, P, C, E, D = BlockState

LEGAL = {(W, P), (P, C), (P, E), (E, P), (W, D), (P, D), (C, D), (E, D)}


@pytest.mark.parametrize(("current", "wanted"), list(itertools.product(BlockState, repeat=2)))
def test_only_the_moves_of_the_table_are_made(current: BlockState, wanted: BlockState) -> None:
    assert (wanted in LEGAL_MOVES[current]) == ((current, wanted) in LEGAL)
    if (current, wanted) in LEGAL:
        check_move(current, wanted, "b")
        return
    with pytest.raises(BlockStateError, match=f"a {current.value} block does not become {wanted.value}") as caught:
        check_move(current, wanted, "a block of x")
    assert caught.value.place == "a block of x"
    assert caught.value.found == wanted.value
    assert isinstance(caught.value, BlockError)


def test_the_expected_moves_are_named() -> None:
    with pytest.raises(BlockStateError) as caught:
        check_move(P, W, "b")
    assert caught.value.expected == "committed or deleted or failed"
    with pytest.raises(BlockStateError) as caught:
        check_move(D, P, "b")
    assert caught.value.expected == "no further step"


@given(st.lists(st.binary(max_size=3 * SLAB), max_size=12), st.sampled_from([0, 2 * SLAB, 100 * SLAB]))
def test_what_is_appended_is_named_and_read(parts: list[bytes], hash_after_bytes: int) -> None:
    pool = pool_of(40)
    block = BufferBlock(pool, "x", 40 * SLAB, hash_after_bytes=hash_after_bytes)
    assert [block.append(memoryview(part)) for part in parts] == list(map(len, parts))
    data = b"".join(parts)
    assert block.size_bytes == len(data)
    assert pool.used_bytes == -(-len(data) // SLAB) * SLAB
    if data:
        assert block.seal() == locator_of(data) == block.locator
        with block.parts() as found:
            assert b"".join(found) == data
    block.delete()
    assert pool.used_bytes == 0


@given(st.data())
def test_any_range_reads_whatever_slabs_it_lies_in(choose: st.DataObject) -> None:
    data = noise(5 * SLAB + 100)
    block = BufferBlock(pool_of(10), "x", 40 * SLAB)
    block.append(memoryview(data))
    begin = choose.draw(st.integers(0, len(data)))
    end = choose.draw(st.integers(begin, len(data)))
    view = block.view(begin, end - begin)
    assert view is not None
    with view as found:
        assert found == data[begin:end]
        assert found.readonly


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 101), (100, 1), (0, -1)])
def test_bytes_that_are_not_there_are_not_read(offset: int, length: int) -> None:
    block = BufferBlock(pool_of(1), "x")
    block.append(memoryview(bytes(100)))
    with pytest.raises(ValueError, match="block of 100 bytes of x"):
        block.view(offset, length)


def test_a_full_block_takes_what_fits() -> None:
    block = BufferBlock(pool_of(10), "x", 1500)
    assert block.append(memoryview(noise(1000))) == 1000
    assert block.append(memoryview(noise(1000))) == 500
    assert block.append(memoryview(noise(1000))) == 0
    assert block.seal() == locator_of(noise(1000) + noise(1000)[:500])


def test_only_a_writable_block_takes_bytes() -> None:
    block = BufferBlock(pool_of(2), "x")
    block.append(memoryview(b"abc"))
    block.seal()
    with pytest.raises(BlockStateError, match="writable block only"):
        block.append(memoryview(b"d"))
    assert block.try_append(memoryview(b"d")) == 0
    with pytest.raises(BlockStateError, match="pending block does not become pending"):
        block.seal()


def test_an_empty_block_has_no_name() -> None:
    with pytest.raises(BlockStateError, match="without bytes"):
        BufferBlock(pool_of(2), "x").seal()


def test_memory_is_given_back_when_a_block_is_committed_and_kept_when_it_failed() -> None:
    pool = pool_of(4)
    block = BufferBlock(pool, "x")
    block.append(memoryview(noise(3000)))
    block.seal()
    assert block.failed(OSError("no"))
    assert [str(failure.cause) for failure in block.failures()] == ["no"]
    with block.parts() as parts:
        assert b"".join(parts) == noise(3000)
    assert block.retry()
    assert not block.retry()
    assert block.failures() == []
    assert block.committed()
    assert pool.used_bytes == 0
    assert block.view(0, 3000) is None
    with pytest.raises(BlockStateError, match="in memory no more"):
        block.parts()
    assert block.delete()
    assert not block.delete()


@pytest.mark.parametrize("step", ["committed", "failed"])
def test_a_block_that_was_deleted_on_its_way_stays_so(step: str) -> None:
    block = BufferBlock(pool_of(1), "x")
    block.append(memoryview(b"abc"))
    block.seal()
    block.delete()
    assert not (block.committed() if step == "committed" else block.failed(OSError()))
    assert block.state is D


@pytest.mark.parametrize("end", ["commit", "delete"])
def test_a_slab_is_not_reused_while_somebody_looks(end: str) -> None:
    pool = pool_of(1)
    block = BufferBlock(pool, "x")
    block.append(memoryview(b"precious"))
    first, second = block.view(0, 8), block.view(3, 2)
    assert first is not None
    assert second is not None
    block.seal()
    if end == "commit":
        block.committed()
    else:
        block.delete()
    assert pool.try_take(1) is None
    first.release()
    first.release()
    assert pool.try_take(1) is None
    with second as data:
        assert data == b"ci"
    slabs = pool.try_take(1)
    assert slabs is not None
    pool.give_back(slabs)


def test_what_rests_on_a_view_keeps_its_memory() -> None:
    pool = pool_of(1)
    block = BufferBlock(pool, "x")
    block.append(memoryview(b"precious"))
    view = block.view(0, 8)
    assert view is not None
    resting = struct.iter_unpack("4s", view.data)
    block.delete()
    with pytest.raises(BufferError):
        view.release()
    assert pool.try_take(1) is None
    assert list(resting) == [(b"prec",), (b"ious",)]
    del resting
    view.release()
    assert pool.used_bytes == 0


def test_a_whole_content_goes_in_or_nothing() -> None:
    pool = pool_of(10)
    block = BufferBlock(pool, "shared", 4 * SLAB)
    slabs = pool.take(3)
    assert block.append_whole([memoryview(noise(SLAB)), memoryview(b"ab")], "a", slabs) == 0
    assert len(slabs) == 1
    assert block.append_whole([memoryview(noise(3 * SLAB))], "too large", slabs) is None
    assert block.append_whole([memoryview(noise(2 * SLAB))], "b, for which a slab is missing", []) is None
    assert block.append_whole([memoryview(noise(SLAB))], "c", slabs) == SLAB + 2
    assert block.seal() == locator_of(noise(SLAB) + b"ab" + noise(SLAB))
    assert block.append_whole([memoryview(b"x")], "late", slabs) is None
    block.failed(OSError("no"))
    assert [(f.owner, f.content_offset, f.length_bytes) for f in block.failures()] == [("a", 0, 1026), ("c", 0, 1024)]
    block.delete()
    assert slabs == []
    assert pool.used_bytes == 0


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("step", ["before", "after"])
def test_law_7_an_interrupt_amid_hashing_leaves_no_wrong_name(
    monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    """Before or after a slab was hashed: while bytes are appended, or while the block is sealed."""
    block = BufferBlock(pool_of(9), "x", 9 * SLAB)

    class Hasher:
        """A BLAKE3 with one interrupt."""

        updates = 0

        def __init__(self) -> None:
            self.real = blake3()

        def update(self, data: memoryview) -> None:
            Hasher.updates += 1
            if step == "after":
                self.real.update(data)
            if Hasher.updates == number:
                raise KeyboardInterrupt
            if step == "before":
                self.real.update(data)

        def digest(self) -> bytes:
            return self.real.digest()

    monkeypatch.setattr("holdfast.blocks.buffered.bufferblock.blake3", Hasher)
    interrupts = 0
    for act in (
        lambda: block.append(memoryview(noise(2 * SLAB))),
        lambda: block.append(memoryview(b"x" * (SLAB + 9))),
        block.seal,
    ):
        try:
            act()
        except KeyboardInterrupt:
            interrupts += 1
    if block.is_writable:
        block.seal()
    with block.parts() as parts:
        data = b"".join(parts)
    assert (interrupts, block.locator) == (1, locator_of(data))
    block.delete()


@pytest.mark.parametrize("name", ["block", "pool", "another block"])
def test_a_view_that_ends_amid_a_step_of_the_same_thread_waits_for_no_lock(name: str) -> None:
    """As the garbage collector ends it: with the lock of its block, of the pool, or of another block held."""
    pool = pool_of(4)
    block, other = BufferBlock(pool, "looked at"), BufferBlock(pool, "other")
    for each in (block, other):
        each.append(memoryview(noise(SLAB)))
    view = block.view(0, 10)
    assert view is not None
    block.seal()
    block.committed()
    lock = {"block": block._lock, "pool": pool._lock, "another block": other._lock}[name]

    def end() -> None:
        with lock:
            view.release()

    Thread(end).join_result()
    other.delete()
    pool.give_back(pool.take(4))  # takes back what could not be before
    assert pool.used_bytes == 0


def test_readers_dropped_in_cycles_end_amid_anything() -> None:
    """The collector ends their generators wherever it comes."""
    pool = pool_of(1000)
    thresholds = gc.get_threshold()

    def looking(block: BufferBlock) -> Generator[memoryview, None, None]:
        view = block.view(0, 10)
        assert view is not None
        with view as data:
            yield data

    def work() -> None:
        for _ in range(1000):
            block = BufferBlock(pool, "x")
            block.append(memoryview(noise(100)))
            reader = looking(block)
            next(reader)
            cycle: list[object] = [reader]
            cycle.append(cycle)
            block.seal()
            block.committed()

    try:
        gc.freeze()
        gc.set_threshold(7, 1, 1)
        Thread(work).join_result()
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    gc.collect()
    pool.give_back(pool.take(1000))
    assert pool.used_bytes == 0
