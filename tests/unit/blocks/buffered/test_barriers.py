"""What a barrier, or a close, says while others retry, seal, stop or are interrupted: it is true."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import pytest
from tests.unit.blocks.buffered.blockkit import (
    PATIENCE_S,
    SLAB,
    Fault,
    Gate,
    Thread,
    interrupted,
    locator_of,
    manager_of,
    noise,
    nothing_leaks,
    pool_of,
    read_segments,
)

from holdfast.blocks import Backoff, BlockManager, BlockState, BufferBlock, MemoryKeeper
from holdfast.blocks.buffered.blockstate import Naming
from holdfast.blocks.buffered.slabs import Hold
from holdfast.errors import BlockError, BlockStateError, NotKeptError
from holdfast.values import Locator

pytestmark = pytest.mark.timeout(60)

Act = Callable[[], object]


def failing(keeper: MemoryKeeper) -> Fault:
    keeper.before_put = fault = Fault()
    return fault


class SlowFault(Gate):
    """Waits until it is opened, and raises then."""

    def __call__(self, locator: Locator | None) -> None:
        super().__call__(locator)
        raise OSError(5, "the disk still says no")


def retry_behind_the_wait(manager: BlockManager, keeper: MemoryKeeper) -> SlowFault:
    """Once somebody has waited, and before he looks, what failed is sent again, and is on its way until he waits anew."""
    slow, real_wait = SlowFault(), manager._committer.wait_settled

    def wait(blocks: Iterable[BufferBlock]) -> None:
        if slow.reached.is_set():
            slow.opened.set()
        real_wait(blocks)
        if not slow.reached.is_set():
            keeper.before_put = slow
            manager.retry_failed()
            slow.wait_reached()

    manager._committer.wait_settled = wait  # type: ignore[method-assign]
    return slow


@pytest.mark.parametrize("is_barrier", [True, False])
def test_law_1_nothing_passes_for_stored_as_somebody_else_sends_it_again(is_barrier: bool) -> None:
    keeper = MemoryKeeper()
    fault = failing(keeper)
    with manager_of(keeper, backoff=Backoff(tries=1)) as manager:
        content = manager.content("night.dat")
        content.write(b"abc")
        content.close(wait=False)
        slow = retry_behind_the_wait(manager, keeper)
        with pytest.raises(NotKeptError, match=r"night\.dat bytes 0 to 3 in block .*the disk still says no"):
            manager.commit_all() if is_barrier else content.close()
        slow.opened.set()
        fault.is_on, keeper.before_put = False, fault
        assert read_segments(manager, content.close()) == b"abc"


def test_law_1_what_has_failed_again_before_a_barrier_looks_is_told_of() -> None:
    keeper = MemoryKeeper()
    fault = failing(keeper)
    with manager_of(keeper, backoff=Backoff(tries=1)) as manager:
        block = manager.alloc("a file")
        manager.append(block, b"abc")
        real_retry, real_wait = manager._committer.retry_failed, manager._committer.wait_settled
        manager._committer.retry_failed = then(real_retry, lambda: real_wait([block]))  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(NotKeptError, match="a file bytes 0 to 3"):
                manager.commit_all()
        fault.is_on = False


def test_law_1_two_barriers_at_once_on_a_store_that_takes_nothing_both_raise() -> None:
    keeper = MemoryKeeper()
    fault, lies = failing(keeper), list[str]()
    with manager_of(keeper, backoff=Backoff(tries=1)) as manager:
        block = manager.alloc("a file")
        manager.append(block, b"abc")

        def pass_barriers() -> None:
            for _ in range(100):
                try:
                    manager.commit_all()
                    lies.append(str(block))
                except NotKeptError:
                    pass

        for thread in [Thread(pass_barriers) for _ in range(3)]:
            thread.join_result()
        fault.is_on = False
    assert lies == []


def test_law_1_a_barrier_raises_when_the_manager_is_stopped_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, gate, pool = MemoryKeeper(), Gate(), pool_of(64)
    keeper.before_put = gate
    with nothing_leaks(pool):
        manager = manager_of(keeper, pool, workers=1, line_limit=8).__enter__()
        for number in range(3):
            manager.append(manager.alloc(f"file {number}"), noise(100, number))
        is_waiting, is_stopping = threading.Event(), threading.Event()
        real_wait, real_tell = manager._committer.wait_settled, manager._committer._tell_stop
        monkeypatch.setattr(manager._committer, "wait_settled", after(is_waiting.set, real_wait))
        monkeypatch.setattr(manager._committer, "_tell_stop", then(real_tell, is_stopping.set))
        barrier = Thread(manager.commit_all)
        assert is_waiting.wait(PATIENCE_S)
        gate.wait_reached()
        # the barrier is to end before the stop does
        monkeypatch.setattr(manager, "_let_go", after(lambda: barrier.join(PATIENCE_S), manager._let_go))
        stopping = Thread(manager.stop)
        assert is_stopping.wait(PATIENCE_S)
        gate.opened.set()
        stopping.join_result()
        assert len(keeper.puts) == 1
        with pytest.raises(BlockError, match=r"not running.*stop"):
            barrier.join_result()


def after(first: Act, call: Callable[..., object]) -> Callable[..., object]:
    def both(*arguments: object) -> object:
        first()
        return call(*arguments)

    return both


def then(call: Act, last: Act) -> Act:
    def both() -> None:
        call()
        last()

    return both


def close_as_it_is_sealed(
    manager: BlockManager, close: Act, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> list[Thread]:
    """The block of `a file` is sealed by who is short of memory; its owner closes it amid that; then it is cut."""
    closing, is_tried = list[Thread](), threading.Event()
    real_seal, real_try = BufferBlock.seal, manager._writable.try_send

    def try_send(block: BufferBlock, *, early: bool = False) -> None:
        real_try(block, early=early)
        if not early:
            is_tried.set()

    def seal(block: BufferBlock) -> Locator:
        if block.owner == "a file" and not closing:
            closing.append(Thread(close))
            assert is_tried.wait(PATIENCE_S)
            raise error
        return real_seal(block)

    monkeypatch.setattr(manager._writable, "try_send", try_send)
    monkeypatch.setattr(BufferBlock, "seal", seal)
    return closing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("wait", [True, False])
def test_law_1_a_content_closed_as_somebody_else_seals_it_in_vain_is_stored(
    wait: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, pool = MemoryKeeper(), pool_of(16)
    with manager_of(keeper, pool) as manager:
        content = manager.content("a file")
        content.write(noise(10 * SLAB))
        closing = close_as_it_is_sealed(manager, lambda: content.close(wait=wait), error, monkeypatch)
        other = manager.content("short of memory")
        with interrupted(type(error)):
            other.write(noise(10 * SLAB, 1))
        other.abandon()
        closing[0].join_result()
        manager.commit_all()
        assert read_segments(manager, content.segments()) == noise(10 * SLAB)


def test_law_1_a_block_committed_as_somebody_else_seals_it_in_vain_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, pool = MemoryKeeper(), pool_of(16)
    with manager_of(keeper, pool) as manager:
        block = manager.alloc("a file")
        manager.append(block, noise(10 * SLAB))
        commit = lambda: manager.commit(block, wait=True)  # noqa: E731
        closing = close_as_it_is_sealed(manager, commit, KeyboardInterrupt(), monkeypatch)
        with interrupted(KeyboardInterrupt):
            manager.append(manager.alloc("short of memory"), noise(10 * SLAB, 1))
        closing[0].join_result()
        assert block.state is BlockState.COMMITTED


def test_law_1_a_barrier_waits_for_what_somebody_else_is_sealing(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, gate, pool = MemoryKeeper(), Gate(), pool_of(16)
    with manager_of(keeper, pool) as manager:
        block = manager.alloc("a file")
        manager.append(block, noise(10 * SLAB))
        is_here, real_here = threading.Event(), manager._writable._is_here
        monkeypatch.setattr(manager._writable, "_is_here", after(is_here.set, real_here))
        real_submit = manager._committer.submit

        def submit(block: BufferBlock) -> None:
            gate(None)
            real_submit(block)

        manager._writable._submit = submit  # sealed, and not seen by anybody yet
        writer = Thread(manager.append, manager.alloc("short of memory"), noise(10 * SLAB, 1))
        gate.wait_reached()
        barrier = Thread(manager.commit_all)
        assert is_here.wait(PATIENCE_S)
        assert barrier.is_alive()
        gate.opened.set()
        writer.join_result()
        barrier.join_result()
        assert locator_of(noise(10 * SLAB)) in keeper.durable


def test_a_gathering_that_fails_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, faults = MemoryKeeper(), [MemoryError()]
    real_seal = BufferBlock.seal

    def seal(block: BufferBlock) -> Locator:
        if faults:
            raise faults.pop()
        return real_seal(block)

    monkeypatch.setattr(BufferBlock, "seal", seal)
    monkeypatch.setattr("holdfast.blocks.buffered.waiting.LOOK_AGAIN_S", 0.01)
    with manager_of(keeper, workers=1) as manager:
        content = manager.content("small")
        content.write(b"abc")
        assert read_segments(manager, content.close()) == b"abc"


def test_a_block_that_anothers_barrier_has_sealed_takes_no_more_and_that_is_no_error() -> None:
    with manager_of(MemoryKeeper()) as manager:
        block = manager.alloc("a file")
        assert manager.append(block, b"abc") == 3
        Thread(manager.commit_all).join_result()
        assert manager.append(block, b"def") == 0


def test_a_manager_that_is_not_entered_refuses_instead_of_hanging() -> None:
    manager = manager_of(MemoryKeeper())
    for act in (lambda: manager.content("x"), lambda: manager.alloc("x"), manager.commit_all):
        with pytest.raises(BlockError, match=r"not running.*it is not entered yet"):
            act()
    manager.stop()
    with manager:
        content = manager.content("x")
        content.write(b"abc")
        content.close()
    with pytest.raises(BlockError, match="entered once"), manager:
        pass
    with pytest.raises(BlockError, match="it is stopped"):
        content.close()


@pytest.mark.parametrize("size", [6 * SLAB, SLAB])
def test_law_1_a_barrier_waits_for_a_block_that_another_thread_is_sealing(size: int) -> None:
    """It has its name, and is on nobody's way yet: whoever was short of memory is about to hand it over."""
    keeper, reached, go = MemoryKeeper(), threading.Event(), threading.Event()
    with manager_of(keeper) as manager:
        content = manager.content("own")
        content.write(noise(size))
        (block,) = content._blocks
        real_submit = manager._writable._submit

        def submit(sealed: BufferBlock) -> None:
            if sealed is block and not reached.is_set():
                reached.set()
                assert go.wait(PATIENCE_S)
            real_submit(sealed)

        manager._writable._submit = submit
        sealing = Thread(manager.commit_early, block)
        assert reached.wait(PATIENCE_S)
        assert block.state is BlockState.PENDING

        def close() -> None:
            content.close(wait=False)
            manager.commit_all()

        closing = Thread(close)
        closing.join(0.2)  # long enough to return wrongly, and no test of how long it takes
        assert not keeper.durable or content.is_closed
        go.set()
        closing.join_result()
        sealing.join_result()
        assert block.state is BlockState.COMMITTED
        assert read_segments(manager, content.segments()) == noise(size)


def test_law_3_the_end_of_the_manager_ends_no_naming_of_what_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, ended = MemoryKeeper(), list[str]()
    monkeypatch.setattr(keeper, "begin_naming", lambda: Naming(lambda: ended.append("end")))
    with manager_of(keeper) as manager:
        begun = len(ended)
        content = manager.content("night.dat")
        content.write(noise(SLAB))
        with monkeypatch.context() as patch:
            patch.setattr(BlockManager, "ended", interrupt)
            with interrupted(KeyboardInterrupt):
                content.close()
        manager.commit_all()
        assert content.segments()
    assert len(ended) == begun
    content.named()
    assert len(ended) == begun + 1


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_abandoned_content_whose_abandoning_was_cut_is_told_of_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = MemoryKeeper()
    failing(keeper)
    with manager_of(keeper, backoff=Backoff(tries=1)) as manager:
        content = manager.content("x")
        content.write(noise(100))
        content.close(wait=False)
        with monkeypatch.context() as patch:
            patch.setattr(BufferBlock, "_end_locked", interrupt)
            with interrupted(KeyboardInterrupt):
                content.abandon()
        content.abandon()
        manager.commit_all()


def test_what_is_not_running_fetches_nothing_ahead() -> None:
    manager = manager_of(MemoryKeeper())
    with pytest.raises(BlockError, match="not running"):
        manager.prefetch([Locator(bytes(32), 10)])


def test_a_content_is_named_once_it_is_closed() -> None:
    with manager_of(MemoryKeeper()) as manager:
        content = manager.content("x")
        content.write(noise(100))
        with pytest.raises(BlockStateError, match="closed"):
            content.named()
        content.close()
        content.named()


def test_memory_whose_last_reader_ends_while_it_is_let_go_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(64)
    with nothing_leaks(pool), manager_of(MemoryKeeper(), pool) as manager:
        block = manager.alloc("x")
        manager.append(block, noise(5 * SLAB))
        view, real_hold = manager.read(block, 0, 10), pool.set_hold

        def hold(held: BufferBlock, why: Hold | None) -> None:
            real_hold(held, why)
            if why is Hold.PINNED:
                monkeypatch.setattr(pool, "set_hold", real_hold)
                view.release()

        monkeypatch.setattr(pool, "set_hold", hold)
        manager.commit(block, wait=True)
        assert len(pool.take(64)) == 64
        assert pool._holds == {}
        pool.give_back([slab for slab, _ in list(pool._lent.values())])
