"""The block manager: what is said is durable, what fails is heard of once and mended, nothing hangs, nothing leaks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.blocks.buffered.blockkit import (
    BLOCK,
    PATIENCE_S,
    SLAB,
    Fault,
    Gate,
    Thread,
    block_threads,
    interrupted,
    locator_of,
    manager_of,
    noise,
    nothing_leaks,
    pool_of,
    read_segments,
)
from tests.unit.blocks.kit import FENCE, VAULT_ID, MemoryStore

from holdfast.blocks import (
    Backoff,
    BlockManager,
    BlockState,
    BufferBlock,
    ContentWriter,
    MemoryKeeper,
    PackKeeper,
    SlabPool,
)
from holdfast.blocks.buffered.blockstate import CLAIM_BYTES
from holdfast.blocks.buffered.readcache import SingleFlight
from holdfast.errors import BlockError, BlockStateError, IntegrityError, MemoryBudgetError, NotKeptError
from holdfast.values import Locator, Segment

pytestmark = pytest.mark.timeout(60)


def write(manager: BlockManager, data: bytes, owner: str = "file") -> ContentWriter:
    content = manager.content(owner)
    content.write(data)
    return content


# -- contents


def test_small_contents_share_a_block_and_lie_in_it_whole() -> None:
    keeper, data = MemoryKeeper(), [noise(size, size) for size in (1, 10, BLOCK // 4, BLOCK // 4 - 7)]
    with manager_of(keeper) as manager:
        contents = [write(manager, part) for part in data]
        for content in contents:
            content.close(wait=False)
        manager.commit_all()
        assert keeper.puts == [locator_of(b"".join(data))]
        segments = [content.segments() for content in contents]
        assert [[(s.offset_bytes, s.length_bytes) for s in found] for found in segments] == [
            [(0, 1)],
            [(1, 10)],
            [(11, BLOCK // 4)],
            [(11 + BLOCK // 4, BLOCK // 4 - 7)],
        ]
        assert [read_segments(manager, found) for found in segments] == data


def test_large_contents_have_blocks_of_their_own_so_that_equal_ones_are_equal() -> None:
    keeper, data = MemoryKeeper(), noise(2 * BLOCK + 100)
    with manager_of(keeper) as manager:
        write(manager, b"something small").close(wait=False)
        segments = write(manager, data).close()
        assert [s.length_bytes for s in segments] == [BLOCK, BLOCK, 100]
        assert {s.offset_bytes for s in segments} == {0}
        again = manager.content("again")
        for start in range(0, len(data), 777):
            again.write(data[start : start + 777])
        assert again.close() == segments
        assert read_segments(manager, segments) == data
    assert sorted(map(str, keeper.puts)) == sorted(map(str, set(keeper.puts)))
    assert keeper.found == {s.locator for s in segments}


def test_an_empty_content_has_no_segments() -> None:
    with manager_of(MemoryKeeper()) as manager:
        assert manager.content("empty").close() == ()
        assert write(manager, b"").close() == ()


def test_a_shared_block_holds_so_many_contents_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.blocks.buffered.packing.SHARED_CONTENTS", 3)
    keeper = MemoryKeeper()
    with manager_of(keeper) as manager:
        contents = [write(manager, noise(10, number)) for number in range(7)]
        for content in contents:
            content.close(wait=False)
    assert [locator.size_bytes for locator in keeper.puts] == [30, 30, 10]


def test_law_1_close_returns_when_the_content_is_durable() -> None:
    keeper, gate = MemoryKeeper(), Gate()
    keeper.before_sync = gate
    with manager_of(keeper) as manager:
        content = write(manager, b"abc")
        closing = Thread(content.close)
        gate.wait_reached()
        assert closing.is_alive()
        with pytest.raises(BlockStateError, match="when it is durable"):
            content.segments()
        assert keeper.durable == {}
        gate.opened.set()
        assert closing.join_result() == (Segment(locator_of(b"abc"), 0, 3),)
        assert set(keeper.durable) == {locator_of(b"abc")}
        assert content.close() == content.segments()


def test_contents_that_close_while_a_sync_runs_share_the_next_one() -> None:
    keeper, gate = MemoryKeeper(), Gate()
    keeper.before_sync = gate
    with manager_of(keeper, workers=2) as manager:
        first = Thread(write(manager, b"first").close)
        gate.wait_reached()
        packed = threading.Semaphore(0)
        real_make_durable = manager.make_durable

        def make_durable(blocks: list, owner: str) -> None:  # type: ignore[type-arg]
            packed.release()
            real_make_durable(blocks, owner)

        manager.make_durable = make_durable  # type: ignore[method-assign]
        closing = [Thread(write(manager, noise(100, number)).close) for number in range(20)]
        for _ in closing:
            assert packed.acquire(timeout=PATIENCE_S)
        gate.opened.set()
        segments = [thread.join_result() for thread in closing]
        assert first.join_result()
        assert len(set(keeper.puts)) <= 3
        assert [read_segments(manager, found) for found in segments] == [noise(100, n) for n in range(20)]  # type: ignore[arg-type]


def test_a_closed_or_abandoned_content_takes_nothing_more() -> None:
    pool = pool_of(100)
    with manager_of(MemoryKeeper(), pool) as manager:
        closed, abandoned = write(manager, b"abc"), write(manager, noise(3 * SLAB))
        closed.close(wait=False)
        abandoned.abandon()
        for content in (closed, abandoned):
            with pytest.raises(BlockStateError, match="takes no more bytes"):
                content.write(b"x")
        with pytest.raises(BlockStateError, match="abandoned content"):
            abandoned.close()
        manager.commit_all()
        assert pool.used_bytes == 0


def test_a_content_is_a_context() -> None:
    with manager_of(MemoryKeeper()) as manager:
        with manager.content("good") as content:
            content.write(b"abc")
        assert content.segments() == (Segment(locator_of(b"abc"), 0, 3),)
        with interrupted(KeyError), manager.content("bad") as content:
            content.write(b"abc")
            raise KeyError
        with pytest.raises(BlockStateError):
            content.close()
        with manager.content("unwanted") as content:
            content.abandon()


# -- blocks


def test_a_block_is_filled_committed_read_and_deleted() -> None:
    keeper, data = MemoryKeeper(), noise(5 * SLAB + 3)
    with manager_of(keeper) as manager:
        block = manager.alloc("x")
        assert manager.append(block, data) == len(data)
        with manager.read(block, 10, 20) as found:
            assert found == data[10:30]
        manager.commit(block, wait=True)
        assert block.state is BlockState.COMMITTED
        assert block.locator == locator_of(data)
        for what in (block, block.locator):
            with manager.read(what) as found:
                assert found == data
            with manager.read(what, 4000) as found:
                assert found == data[4000:]
            with pytest.raises(ValueError, match=f"bytes 0 to {len(data) + 1} of"):
                manager.read(what, 0, len(data) + 1)
        manager.commit(block, wait=True)
        with pytest.raises(BlockStateError, match="writable block only"):
            manager.append(block, b"x")
        manager.delete(block)
        with pytest.raises(BlockStateError, match="deleted block is not read"):
            manager.read(block)
        with pytest.raises(BlockStateError, match="empty or deleted"):
            manager.commit(block)


def test_more_than_a_block_is_taken_as_far_as_it_fits() -> None:
    with manager_of(MemoryKeeper()) as manager:
        block = manager.alloc("x")
        assert manager.append(block, bytes(BLOCK + 5)) == BLOCK
        assert manager.append(block, b"x") == 0
        manager.commit(block)
        with pytest.raises(BlockStateError, match="empty or deleted"):
            manager.commit(manager.alloc("empty"))


def test_the_barrier_takes_blocks_that_were_not_committed_and_leaves_open_contents() -> None:
    keeper = MemoryKeeper()
    with manager_of(keeper) as manager:
        block, content = manager.alloc("x"), write(manager, b"open")
        manager.append(block, b"block")
        manager.alloc("empty")
        manager.commit_all()
        assert block.state is BlockState.COMMITTED
        assert set(keeper.durable) == {locator_of(b"block")}
        content.write(b" and closed")
        assert read_segments(manager, content.close()) == b"open and closed"


def test_identical_blocks_in_flight_are_put_once() -> None:
    keeper, gate = MemoryKeeper(), Gate()
    keeper.before_put = gate
    with manager_of(keeper) as manager:
        blocks = [manager.alloc(f"x{number}") for number in range(5)]
        for block in blocks:
            manager.append(block, b"same")
            manager.commit(block)
        gate.wait_reached()
        manager.delete(blocks[0])  # the one being put
        gate.opened.set()
        manager.commit_all()
        assert keeper.puts == [locator_of(b"same")]
        assert [block.state for block in blocks] == [BlockState.DELETED] + 4 * [BlockState.COMMITTED]


def test_a_block_that_is_deleted_before_its_turn_is_not_put() -> None:
    keeper, gate = MemoryKeeper(), Gate()
    keeper.before_put = gate
    with manager_of(keeper, workers=1) as manager:
        first, second, third = (manager.alloc(name) for name in "abc")
        for block, data in ((first, b"first"), (second, b"second"), (third, b"second")):
            manager.append(block, data)
            manager.commit(block)
        gate.wait_reached()
        manager.delete(second)
        manager.delete(third)
        gate.opened.set()
        manager.commit_all()
        assert keeper.puts == [locator_of(b"first")]


def test_who_waits_for_a_block_hears_that_it_was_deleted() -> None:
    keeper, gate = MemoryKeeper(), Gate()
    keeper.before_put = gate
    with manager_of(keeper) as manager:
        block = manager.alloc("x")
        manager.append(block, b"abc")
        waiting = Thread(lambda: manager.commit(block, wait=True))
        gate.wait_reached()
        manager.delete(block)
        with pytest.raises(BlockStateError, match="let go before it was stored"):
            waiting.join_result()
        gate.opened.set()


# -- what fails


def test_a_put_that_fails_is_tried_again_with_growing_pauses() -> None:
    keeper, pauses = MemoryKeeper(), list[float]()
    keeper.before_put = Fault(times=3)
    backoff = Backoff(tries=4, first_pause_s=1, factor=10, longest_pause_s=50)
    with manager_of(keeper, backoff=backoff, pause=pauses.append) as manager:
        assert write(manager, b"abc").close()
    assert pauses == [1, 10, 50]


def test_a_sync_that_fails_has_everything_put_again() -> None:
    keeper, pauses = MemoryKeeper(), list[float]()
    keeper.before_sync = Fault(times=1)
    with manager_of(keeper, pause=pauses.append) as manager:
        segments = write(manager, b"abc").close()
        assert read_segments(manager, segments) == b"abc"
    assert keeper.puts == 2 * [locator_of(b"abc")]
    assert len(pauses) == 1


@pytest.mark.parametrize("step", ["before_put", "before_sync"])
def test_failures_are_raised_once_per_barrier_and_pass_with_the_fault(step: str) -> None:
    keeper, fault, large = MemoryKeeper(), Fault(), noise(BLOCK + 500)
    setattr(keeper, step, fault)
    pool = pool_of(256)
    with nothing_leaks(pool), manager_of(keeper, pool) as manager:
        contents = [write(manager, b"small", "small.dat"), write(manager, b"tiny", "tiny.dat")]
        contents.append(write(manager, large, "large.dat"))
        for content in contents:
            content.close(wait=False)
        for _ in range(3):
            with pytest.raises(NotKeptError) as caught:
                manager.commit_all()
            check_failures(caught.value, large)
            assert set(manager.errors()) == set(caught.value.failures)
        with manager.read(locator_of(b"smalltiny")) as found:  # what failed is read all the same
            assert found == b"smalltiny"
        fault.is_on = False
        manager.commit_all()
        manager.commit_all()
        assert manager.errors() == ()
        found = [read_segments(manager, content.segments()) for content in contents]
        assert found == [b"small", b"tiny", large]
        assert pool.used_bytes <= SLAB  # what small contents are held in until they are closed


def check_failures(error: NotKeptError, large: bytes) -> None:
    failures = {(f.owner, f.content_offset, f.length_bytes, f.block, str(f.cause)) for f in error.failures}
    no = "[Errno 5] the disk says no"
    shared, first, second = (str(locator_of(data)) for data in (b"smalltiny", large[:BLOCK], large[BLOCK:]))
    assert failures == {
        ("small.dat", 0, 5, shared, no),
        ("tiny.dat", 0, 4, shared, no),
        ("large.dat", 0, BLOCK, first, no),
        ("large.dat", BLOCK, 500, second, no),
    }
    assert str(error).startswith("the store did not take 3 blocks, which stay in memory; found: ")
    assert f"large.dat bytes {BLOCK} to {BLOCK + 500} in block {second}: {no}" in str(error)


def test_close_raises_what_of_its_content_failed_and_may_be_called_again() -> None:
    keeper, fault = MemoryKeeper(), Fault()
    keeper.before_put = fault
    with manager_of(keeper) as manager:
        write(manager, b"other", "other").close(wait=False)
        content = write(manager, b"mine", "mine")
        with pytest.raises(NotKeptError, match="the store did not take 1 block, ") as caught:
            content.close()
        assert [failure.owner for failure in caught.value.failures] == ["mine"]
        fault.is_on = False
        assert read_segments(manager, content.close()) == b"mine"


def test_a_failed_block_is_committed_again() -> None:
    keeper, fault = MemoryKeeper(), Fault()
    keeper.before_put = fault
    with manager_of(keeper) as manager:
        block = manager.alloc("x")
        manager.append(block, b"abc")
        with pytest.raises(NotKeptError):
            manager.commit(block, wait=True)
        assert block.state is BlockState.ERROR
        fault.is_on = False
        manager.commit(block, wait=True)
        assert block.state is BlockState.COMMITTED


def test_a_store_that_is_down_is_not_tried_many_times_for_each_block() -> None:
    keeper, pauses, fault = MemoryKeeper(), list[float](), Fault()
    keeper.before_put = fault
    with manager_of(keeper, backoff=Backoff(tries=4), pause=pauses.append, workers=1) as manager:
        for number in range(10):
            block = manager.alloc("x")
            manager.append(block, noise(10, number))
            manager.commit(block)
        with pytest.raises(NotKeptError):
            manager.commit_all()
        assert len(pauses) <= 6  # three for the first block, and three for the first that the barrier tries again
        fault.is_on = False


def test_a_failed_block_may_be_deleted_and_is_heard_of_no_more() -> None:
    keeper, pool = MemoryKeeper(), pool_of(64)
    keeper.before_put = Fault()
    with manager_of(keeper, pool) as manager:
        content = write(manager, noise(BLOCK), "x")
        with pytest.raises(NotKeptError):
            content.close()
        content.abandon()
        manager.commit_all()
        assert pool.used_bytes == 0


def test_a_shared_block_that_can_never_be_stored_goes_with_the_last_content_in_it() -> None:
    """As one whose bytes have changed in memory: else every later barrier would tell of it."""
    keeper, pool, fault = MemoryKeeper(), pool_of(64), Fault()
    keeper.before_put = fault
    with manager_of(keeper, pool) as manager:
        contents = [write(manager, name.encode(), name) for name in ("first", "second")]
        for content in contents:
            content.close(wait=False)
        with pytest.raises(NotKeptError):
            manager.commit_all()
        contents[0].abandon()
        contents[0].abandon()
        with pytest.raises(NotKeptError) as caught:
            manager.commit_all()
        assert [failure.owner for failure in caught.value.failures] == ["second"]
        contents[1].abandon()
        manager.commit_all()
        assert pool.used_bytes == 0
        assert manager.errors() == ()


def test_a_shared_block_stays_as_long_as_a_content_in_it_is_wanted() -> None:
    with manager_of(MemoryKeeper()) as manager:
        contents = [write(manager, name.encode(), name) for name in ("first", "second")]
        for content in contents:
            content.close(wait=False)
        contents[0].abandon()
        assert read_segments(manager, contents[1].close()) == b"second"
        contents[1].abandon()  # too late: it is stored, and stays
        only = write(manager, b"only")
        only.close(wait=False)
        only.abandon()
        after = write(manager, b"after")  # another block: that one was deleted
        assert read_segments(manager, after.close()) == b"after"


class LatePuts(MemoryKeeper):
    """Puts whose end is late: `gate` is passed by the first put of `slow`, which has happened already."""

    def __init__(self, slow: Locator, gate: Gate) -> None:
        super().__init__()
        self.slow, self.gate = slow, gate

    def put(self, locator: Locator, parts: Sequence[memoryview]) -> None:
        super().put(locator, parts)
        if locator == self.slow:
            self.gate(locator)


def test_law_1_a_put_that_overlaps_a_failing_sync_is_done_again() -> None:
    gate, has_failed, slow = Gate(), threading.Event(), locator_of(b"slow")
    keeper = LatePuts(slow, gate)
    with manager_of(keeper, workers=2, pause=lambda _: has_failed.set()) as manager:
        late, quick = manager.alloc("late"), manager.alloc("quick")
        manager.append(late, b"slow")
        manager.append(quick, b"quick")
        manager.commit(late)
        gate.wait_reached()
        keeper.before_sync = Fault(times=1)
        manager.commit(quick)
        assert has_failed.wait(PATIENCE_S)
        gate.opened.set()
        manager.commit_all()
        assert keeper.puts.count(slow) == 2
        assert set(keeper.durable) == {slow, locator_of(b"quick")}


# -- memory


def peak_bytes() -> int:
    """The most memory this process had since `reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def test_law_9_a_thousand_contents_at_once_stay_in_the_budget_and_come_back_right(tmp_path: Path) -> None:
    store, pool = MemoryStore(), SlabPool(16 * 2**20)
    steps, step = 24, 8 * 1024
    reset_peak()
    before = peak_bytes()
    with (
        nothing_leaks(pool),
        PackKeeper(tmp_path, vault_id=VAULT_ID, pack_bytes=2**30, index=store, sink=store, fence=FENCE) as keeper,
        BlockManager(keeper, pool=pool, block_bytes=2**20) as manager,
    ):
        contents = [manager.content(f"file {number}") for number in range(1000)]
        for round_ in range(steps):
            for number, content in enumerate(contents):
                content.write(noise(step, number * steps + round_))
        for content in contents:
            content.close(wait=False)
        manager.commit_all()
        assert pool.peak_bytes == pool.budget_bytes  # it was needed, and not passed
        assert peak_bytes() - before < pool.budget_bytes + 24 * 2**20
        for number, content in enumerate(contents):
            expected = b"".join(noise(step, number * steps + round_) for round_ in range(steps))
            assert read_segments(manager, content.segments()) == expected


def test_law_9_what_is_remembered_of_tiny_contents_is_in_the_budget_too() -> None:
    keeper, pool, fault = MemoryKeeper(), pool_of(64), Fault()
    keeper.before_put = fault
    with manager_of(keeper, pool, backoff=Backoff(tries=1)) as manager:
        contents = list[ContentWriter]()
        with interrupted(MemoryBudgetError):
            while len(contents) < 1000:
                contents.append(write(manager, b"x", f"file {len(contents)}"))
                contents[-1].close(wait=False)
        assert pool.budget_bytes // CLAIM_BYTES // 2 < len(contents) <= pool.budget_bytes // CLAIM_BYTES + 64
        with pytest.raises(NotKeptError) as caught:
            manager.commit_all()
        assert len(caught.value.failures) >= len(contents) - 1
        assert len(str(caught.value)) < 5000
        assert str(caught.value).startswith(f"the store did not take {len(manager._committer.failed())} blocks, ")
        assert f"; and {len(caught.value.failures) - 20} more; " in str(caught.value)
        fault.is_on = False
        manager.commit_all()
        assert read_segments(manager, contents[0].segments()) == b"x"


def test_many_threads_that_write_at_once_all_make_progress() -> None:
    keeper, pool = MemoryKeeper(), pool_of(24)
    with nothing_leaks(pool), manager_of(keeper, pool) as manager:

        def work(number: int) -> bytes:
            data = noise(number * 997 % (2 * BLOCK), number)
            content = manager.content(f"file {number}")
            for start in range(0, len(data), 1500):
                content.write(data[start : start + 1500])
            assert read_segments(manager, content.close()) == data
            return data

        threads = [Thread(work, number) for number in range(60)]
        for thread in threads:
            thread.join_result()
    assert pool.peak_bytes <= pool.budget_bytes


def test_small_contents_that_hold_all_the_memory_are_cut_rather_than_stuck() -> None:
    keeper, pool = MemoryKeeper(), pool_of(4)
    with manager_of(keeper, pool) as manager:
        contents = [write(manager, noise(SLAB, number)) for number in range(4)]
        for content in contents:
            content.close(wait=False)
        manager.commit_all()
        assert [read_segments(manager, c.segments()) for c in contents] == [noise(SLAB, n) for n in range(4)]


def test_a_block_that_was_cut_says_so_by_what_it_takes() -> None:
    pool = pool_of(4)
    with manager_of(MemoryKeeper(), pool) as manager:
        first, second = manager.alloc("first"), manager.alloc("second")
        assert manager.append(first, noise(3 * SLAB)) == 3 * SLAB
        assert manager.append(second, noise(2 * SLAB)) == 2 * SLAB
        assert first.sealed_early
        assert manager.append(first, b"more") == 0
        manager.commit_all()
        assert first.locator == locator_of(noise(3 * SLAB))


def test_memory_is_shared_between_managers() -> None:
    pool = pool_of(8)
    with nothing_leaks(pool), manager_of(MemoryKeeper(), pool) as one, manager_of(MemoryKeeper(), pool) as other:
        block = one.alloc("one's")
        one.append(block, noise(7 * SLAB))
        assert read_segments(other, write(other, noise(6 * SLAB)).close()) == noise(6 * SLAB)
        assert block.sealed_early
        one.commit_all()


def test_failed_blocks_that_hold_all_the_memory_are_named_until_the_store_is_mended() -> None:
    keeper, pool, fault = MemoryKeeper(), pool_of(16), Fault()
    keeper.before_put = fault
    with manager_of(keeper, pool) as manager:
        content = manager.content("night.dat")
        with pytest.raises(
            MemoryBudgetError, match=r"block b3:[0-9a-f]{64}\+\d+ of night.dat \(failed: .*the disk says no\)"
        ) as caught:
            content.write(noise(3 * BLOCK))
        assert caught.value.expected is not None
        done = content.size_bytes
        fault.is_on = False
        content.write(noise(3 * BLOCK)[done:])
        assert read_segments(manager, content.close()) == noise(3 * BLOCK)


def test_a_reader_that_holds_all_the_memory_is_named() -> None:
    pool = pool_of(4, patience_s=0)
    with manager_of(MemoryKeeper(), pool) as manager:
        block = manager.alloc("looked at")
        manager.append(block, noise(4 * SLAB))
        with manager.read(block, 0, 10) as data:
            manager.commit(block, wait=True)
            with pytest.raises(MemoryBudgetError, match=r"looked at .* is being read"):
                manager.append(manager.alloc("x"), noise(SLAB))
            assert data == noise(4 * SLAB)[:10]
        assert manager.append(manager.alloc("x"), noise(SLAB)) == SLAB


def test_readers_never_wait_for_a_writer_that_waits_for_memory() -> None:
    keeper, gate, pool = MemoryKeeper(), Gate(), pool_of(20)
    with manager_of(keeper, pool) as manager:
        stored = write(manager, noise(2 * BLOCK, 1)).close()
        keeper.before_put = gate
        open_block = manager.alloc("open")
        manager.append(open_block, noise(2 * SLAB, 2))
        writer = manager.content("waits")
        writing = Thread(writer.write, noise(4 * BLOCK, 3))
        gate.wait_reached()
        pending = locator_of(noise(4 * BLOCK, 3)[:BLOCK])
        # each read would hang here if it needed anything that the writer holds or waits for
        for _ in range(50):
            assert read_segments(manager, stored) == noise(2 * BLOCK, 1)
            with manager.read(pending, 5, 7) as found:
                assert found == noise(4 * BLOCK, 3)[5:12]
            with manager.read(open_block, 100, 50) as found:
                assert found == noise(2 * SLAB, 2)[100:150]
        assert writing.is_alive()
        gate.opened.set()
        assert writing.join_result() == 4 * BLOCK
        writer.close()


# -- reading


@pytest.mark.parametrize("cheap_ranges", [True, False])
def test_concurrent_reads_of_a_missing_block_make_one_fetch(
    monkeypatch: pytest.MonkeyPatch, cheap_ranges: bool
) -> None:
    keeper, gate, joined = MemoryKeeper(cheap_ranges=cheap_ranges), Gate(), threading.Semaphore(0)
    real_join = SingleFlight._join

    def join(flight: SingleFlight, *arguments: object) -> object:
        found = real_join(flight, *arguments)  # type: ignore[arg-type]
        joined.release()
        return found

    monkeypatch.setattr(SingleFlight, "_join", join)
    with manager_of(keeper) as manager:
        segment = write(manager, noise(BLOCK)).close()[0]
        keeper.before_fetch = gate
        reading = [Thread(read_segments, manager, (segment,)) for _ in range(8)]
        for _ in reading:
            assert joined.acquire(timeout=PATIENCE_S)
        gate.opened.set()
        assert {thread.join_result() for thread in reading} == {noise(BLOCK)}
        assert keeper.fetch_count == 1


def test_prefetched_blocks_are_read_without_a_fetch() -> None:
    keeper = MemoryKeeper()
    with manager_of(keeper, cache_bytes=2 * BLOCK) as manager:
        segments = write(manager, noise(3 * BLOCK)).close()
        locators = [segment.locator for segment in segments]
        gate = Gate()
        keeper.before_fetch = gate
        assert manager.prefetch(locators) == 2
        assert manager.prefetch(locators[:1]) == 1
        gate.opened.set()
        assert read_segments(manager, segments[:2]) == noise(3 * BLOCK)[: 2 * BLOCK]
        assert keeper.fetch_count == 2
        assert read_segments(manager, segments[2:]) == noise(3 * BLOCK)[2 * BLOCK :]
        assert keeper.fetch_count == 3
        assert manager.prefetch(locators[2:]) == 1  # those that were read make room
    assert block_threads() == []


def test_a_missing_block_is_an_error_of_the_keeper() -> None:
    with manager_of(MemoryKeeper()) as manager, pytest.raises(IntegrityError, match="missing from the store"):
        manager.read(locator_of(b"never stored"))


# -- the end


def test_nothing_leaks_when_the_caller_fails() -> None:
    keeper, gate, pool = MemoryKeeper(), Gate(), pool_of(64)
    keeper.before_put = gate
    with nothing_leaks(pool), interrupted(KeyboardInterrupt), manager_of(keeper, pool) as manager:
        content = write(manager, noise(3 * BLOCK))
        manager.append(manager.alloc("open"), noise(100))
        write(manager, b"small").close(wait=False)
        gate.wait_reached()
        gate.opened.set()
        raise KeyboardInterrupt
    with pytest.raises(BlockError):
        content.close()
    with pytest.raises(BlockError, match="stopped"):
        manager.alloc("x")
    manager.stop()


def test_nothing_leaks_when_the_store_stays_broken() -> None:
    keeper, pool = MemoryKeeper(), pool_of(64)
    keeper.before_sync = Fault()
    with nothing_leaks(pool), pytest.raises(NotKeptError), manager_of(keeper, pool) as manager:
        write(manager, noise(2 * BLOCK)).close(wait=False)


def test_a_view_stays_good_when_the_manager_stops() -> None:
    pool = pool_of(8)
    manager = manager_of(MemoryKeeper(), pool)
    with interrupted(KeyError), manager:
        block = manager.alloc("x")
        manager.append(block, b"abc")
        view = manager.read(block, 0, 3)
        raise KeyError
    with view as data:
        assert data == b"abc"
    assert pool.used_bytes == 0


def test_stop_ends_a_pause_and_wakes_who_waits() -> None:
    keeper, fault, pool = MemoryKeeper(), Fault(), pool_of(64)
    keeper.before_put = fault
    with nothing_leaks(pool):
        manager = manager_of(
            keeper, pool, backoff=Backoff(tries=3, first_pause_s=3600, longest_pause_s=3600), pause=None
        )
        manager.__enter__()
        waiting = Thread(write(manager, b"abc").close)
        while fault.count == 0:
            threading.Event().wait(0.001)
        manager.stop()
        with pytest.raises(BlockError):
            waiting.join_result()


def test_a_manager_of_impossible_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 0 bytes"):
        manager_of(MemoryKeeper(), block_bytes=0)


def test_a_barrier_does_not_pass_while_somebody_else_tries_failed_blocks_again() -> None:
    keeper, fault = MemoryKeeper(), Fault()
    keeper.before_put = fault
    with manager_of(keeper) as manager:
        content = write(manager, noise(3000))
        content.close(wait=False)
        with pytest.raises(NotKeptError):
            manager.commit_all()
        fault.is_on = False
        gate, real_submit = Gate(), manager._committer.submit

        def submit(block: BufferBlock) -> None:
            gate(None)
            real_submit(block)

        manager._committer.submit = submit  # type: ignore[method-assign]
        retrying = Thread(manager.retry_failed)  # as the pool has it done
        while not gate.reached.is_set() and retrying.is_alive():
            threading.Event().wait(0.001)
        manager.commit_all()
        assert set(keeper.durable) == {locator_of(noise(3000))}
        gate.opened.set()
        retrying.join_result()
        assert read_segments(manager, content.segments()) == noise(3000)


def test_an_unwanted_block_that_is_deleted_as_it_is_committed_early_is_no_error_of_the_one_who_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = pool_of(8)
    with manager_of(MemoryKeeper(), pool) as manager:
        unwanted = manager.content("unwanted")
        unwanted.write(noise(7 * SLAB))
        real_seal = BufferBlock.seal

        def seal(block: BufferBlock) -> Locator:
            if block.owner == "unwanted":
                Thread(unwanted.abandon).join_result()
            return real_seal(block)

        monkeypatch.setattr(BufferBlock, "seal", seal)
        wanted = write(manager, noise(6 * SLAB))  # has the other one committed early
        assert read_segments(manager, wanted.close()) == noise(6 * SLAB)
        assert manager._writable.all() == []
        manager.commit_all()


def test_a_manager_that_is_interrupted_as_it_begins_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(8)
    manager = manager_of(MemoryKeeper(), pool)
    real_start = manager._committer.start

    def start() -> None:
        real_start()
        raise KeyboardInterrupt

    monkeypatch.setattr(manager._committer, "start", start)
    with nothing_leaks(pool), interrupted(KeyboardInterrupt), manager:
        pass
