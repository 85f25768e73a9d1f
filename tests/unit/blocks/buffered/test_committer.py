"""The committer alone: each block is somewhere at any time, and an interrupted call is made up for."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
from tests.unit.blocks.buffered.blockkit import PATIENCE_S, Fault, Gate, Thread, interrupted, locator_of, pool_of

from holdfast.blocks import Backoff, BlockState, BufferBlock, MemoryKeeper
from holdfast.blocks.buffered.committer import Committer
from holdfast.blocks.buffered.line import Flight, Line
from holdfast.blocks.buffered.waiting import Trust
from holdfast.errors import BlockError, IntegrityError
from holdfast.values import Locator

pytestmark = pytest.mark.timeout(30)


class Kit:
    def __init__(self) -> None:
        self.keeper, self.pool, self.trust = MemoryKeeper(), pool_of(64), Trust()
        self.gathered = 0
        self.committer = Committer(
            self.keeper,
            workers=1,
            line_limit=2,
            backoff=Backoff(tries=1),
            gather=self.gather,
            pause=lambda _: None,
            trust=self.trust,
        )
        self.committer.start()

    def gather(self) -> None:
        self.gathered += 1

    def sealed(self, data: bytes = b"abc") -> BufferBlock:
        block = BufferBlock(self.pool, "x")
        block.append(memoryview(data))
        block.seal()
        return block

    def failed(self, data: bytes = b"abc") -> BufferBlock:
        block, fault = self.sealed(data), Fault()
        self.keeper.before_put = fault
        self.committer.submit(block)
        self.committer.wait_settled([block])
        assert self.committer.failed() == [block]
        fault.is_on = False
        return block


@pytest.fixture
def kit() -> Generator[Kit, None, None]:
    kit = Kit()
    yield kit
    kit.committer.stop()
    assert kit.pool.used_bytes == 0


def test_a_block_that_is_submitted_twice_is_put_once(kit: Kit) -> None:
    gate = Gate()
    kit.keeper.before_put = gate
    block = kit.sealed()
    kit.committer.submit(block)
    gate.wait_reached()
    kit.committer.submit(block)  # as by the clean-up after an interrupt
    gate.opened.set()
    kit.committer.wait_settled([block])
    kit.committer.submit(block)
    assert kit.keeper.puts == [block.locator]
    assert block.state is BlockState.COMMITTED
    assert kit.committer.unstored() == []


def test_a_block_that_is_tried_again_is_seen_all_the_time(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier that comes meanwhile must find it among those that failed or those on their way."""
    block = kit.failed()
    reached, go_on, real_retry = threading.Event(), threading.Event(), BufferBlock.retry

    def retry(block: BufferBlock) -> bool:
        done = real_retry(block)
        reached.set()
        assert go_on.wait(PATIENCE_S)
        return done

    monkeypatch.setattr(BufferBlock, "retry", retry)
    retrying = Thread(kit.committer.retry_failed)
    assert reached.wait(PATIENCE_S)
    looking = Thread(kit.committer.unstored)
    finding = Thread(kit.committer.find, block.locator)
    go_on.set()
    assert block in looking.join_result() or block.state is BlockState.COMMITTED  # type: ignore[operator]
    assert finding.join_result() is block or block.state is BlockState.COMMITTED
    retrying.join_result()
    kit.committer.wait_settled([block])
    assert block.state is BlockState.COMMITTED


def test_an_interrupt_amid_a_retry_leaves_no_block_behind(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    block, real_enqueue, once = kit.failed(), Committer._enqueue, [True]

    def enqueue(committer: Committer, block: BufferBlock) -> None:
        if once and once.pop():
            raise KeyboardInterrupt
        real_enqueue(committer, block)

    monkeypatch.setattr(Committer, "_enqueue", enqueue)
    with interrupted(KeyboardInterrupt):
        kit.committer.retry_failed()
    kit.committer.wait_settled([block])
    assert block.state is BlockState.COMMITTED
    kit.trust.check()


def test_law_1_what_another_ones_failed_sync_has_lost_is_put_again(kit: Kit) -> None:
    """Two users of one keeper: the sync of the other fails between our put and our sync."""
    gate = Gate()
    kit.keeper.before_put = gate
    block = kit.sealed()
    real_put = kit.keeper.put

    def put(locator: Locator, parts: object) -> None:
        real_put(locator, parts)  # type: ignore[arg-type]
        if len(kit.keeper.puts) == 1:
            kit.keeper.before_sync = Fault(times=1)
            with interrupted(OSError):
                kit.keeper.sync()

    kit.keeper.put = put  # type: ignore[method-assign]
    gate.opened.set()
    kit.committer.submit(block)
    kit.committer.wait_settled([block])
    assert block.state is BlockState.COMMITTED
    assert set(kit.keeper.durable) == {locator_of(b"abc")}
    assert len(kit.keeper.puts) == 2


def test_a_late_submit_wakes_who_waits(kit: Kit) -> None:
    block = kit.sealed()
    waiting = Thread(kit.committer.wait_settled, [block])
    kit.committer.stop()
    kit.committer.submit(block)
    waiting.join_result()
    assert block.state is BlockState.DELETED
    with pytest.raises(BlockError, match="the block manager is stopped"):
        kit.committer.wait_for_room()


def test_an_interrupted_stop_lets_everything_go_and_a_second_one_ends_the_threads(kit: Kit) -> None:
    gate = Gate()
    kit.keeper.before_put = gate
    blocks = [kit.sealed(data) for data in (b"first", b"second")]
    for block in blocks:
        kit.committer.submit(block)
    gate.wait_reached()
    thread = kit.committer._threads[0]
    thread.join = interrupt  # type: ignore[method-assign]
    with interrupted(KeyboardInterrupt):
        kit.committer.stop()
    assert {block.state for block in blocks} == {BlockState.DELETED}
    del thread.join
    gate.opened.set()
    kit.committer.stop()
    assert not thread.is_alive()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_bytes_that_changed_after_an_interrupt_are_not_stored_under_the_name(kit: Kit) -> None:
    block = kit.sealed()
    kit.pool.note(OSError("no interrupt"))
    assert not kit.pool.is_doubtful
    kit.pool.note(KeyboardInterrupt())
    block._slabs[0][0:1] = b"x"
    kit.committer.submit(block)
    kit.committer.wait_settled([block])
    assert isinstance(block.error, IntegrityError)
    assert "have changed in memory" in str(block.error)
    assert kit.keeper.puts == []


def test_requests_for_a_sync_that_come_before_it_begins_are_one(kit: Kit) -> None:
    gate = Gate()
    kit.keeper.before_put = gate
    block = kit.sealed()
    kit.committer.submit(block)
    gate.wait_reached()
    for _ in range(5):
        kit.committer.request_sync()
    gate.opened.set()
    kit.committer.wait_settled([block])
    kit.committer.stop()
    assert kit.gathered <= 1


def test_a_job_that_is_taken_is_put_in_again_only_when_it_is_done() -> None:
    line, job = Line(2, Trust()), Flight(locator_of(b"abc"), [])
    line.put(job)
    line.put(job)
    assert line.take() == (job,)
    line.put(job)
    assert line.is_empty()
    line.done(job)
    line.put(job)
    line.put(None)
    waiting = Thread(line.wait_for_room)
    assert line.take() == (job,)
    waiting.join_result()
    assert line.take() == (None,)
    line.close()
    line.put(job)
    assert line.take() is None
