"""One interrupt at every point where one can come: the others go on, no byte is wrong, and all memory comes back."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
from blake3 import blake3
from tests.unit.blocks.buffered.blockkit import (
    SLAB,
    Interrupter,
    Thread,
    block_threads,
    manager_of,
    noise,
    pool_of,
    read_segments,
)

from holdfast.blocks import BlockManager, ContentWriter, MemoryKeeper, SlabPool
from holdfast.errors import BlockError

pytestmark = pytest.mark.timeout(120)

POOL_SLABS = 12


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that was interrupted is made up for soon."""
    monkeypatch.setattr("holdfast.blocks.buffered.waiting.LOOK_AGAIN_S", 0.01)


class Run:
    """A manager short of memory, what was handed over to it, and what is open."""

    def __init__(self, slabs: int = POOL_SLABS) -> None:
        self.keeper, self.pool = MemoryKeeper(), pool_of(slabs)
        self.manager = manager_of(self.keeper, self.pool).__enter__()
        self.open: list[ContentWriter] = []
        self.kept: list[tuple[ContentWriter, bytes]] = []
        self.add("before", 1500)
        self.kept.append((self.open.pop(), noise(1500)))
        self.kept[0][0].close(wait=False)

    def add(self, owner: str, size: int) -> ContentWriter:
        content = self.manager.content(owner)
        self.open.append(content)
        content.write(noise(size))
        return content

    def close(self, content: ContentWriter, size: int, *, wait: bool) -> None:
        content.close(wait=wait)
        self.open.remove(content)
        self.kept.append((content, noise(size)))

    def check_others_go_on(self) -> None:
        """Contents that were not closed are abandoned; then everything else must work, in all the memory."""
        for content in self.open:
            content.abandon()
        self.close(self.add("small after", SLAB), SLAB, wait=False)
        large = self.manager.content("after")
        large.write(noise(3 * POOL_SLABS * SLAB))
        self.kept.append((large, noise(3 * POOL_SLABS * SLAB)))
        large.close()
        self.manager.commit_all()
        assert self.manager._committer.unstored() == []
        assert [block for block in self.manager._writable.all() if block.size_bytes] == []
        for locator, data in self.keeper.durable.items():
            assert blake3(data).digest() == locator.blake3, "a block is named by a digest of other bytes"
        for content, data in self.kept:
            assert read_segments(self.manager, content.segments()) == data

    def check_end(self) -> None:
        self.manager.stop()
        assert self.pool.used_bytes == 0
        assert block_threads() == []


def work(run: Run) -> None:
    """Own blocks, early commits of others', packing, a wait, and a barrier."""
    first = run.add("first", 7 * SLAB)
    second = run.add("second", 6 * SLAB)  # the first is committed early for it
    small = run.add("small", 2 * SLAB + 5)
    run.close(small, 2 * SLAB + 5, wait=False)
    run.close(second, 6 * SLAB, wait=True)
    run.add("abandoned", SLAB).abandon()
    run.close(first, 7 * SLAB, wait=False)
    run.manager.commit_all()


def read(run: Run) -> None:
    """Of a block that is being filled, and of one that is stored."""
    block = run.manager.alloc("read")
    run.manager.append(block, noise(3 * SLAB))
    with run.manager.read(block, 10, 20) as data:
        assert data == noise(3 * SLAB)[10:30]
    run.manager.commit(block, wait=True)
    assert block.locator is not None
    with run.manager.read(block.locator) as data:
        assert data == noise(3 * SLAB)
    run.manager.prefetch([block.locator])
    run.manager.delete(block)


def hold(run: Run) -> None:
    """Small contents that need no block of their own: closed, abandoned, and grown out of hand."""
    run.close(run.add("one", 100), 100, wait=False)
    run.add("unwanted", 200).abandon()
    grown = run.add("grown", 300)
    grown.write(noise(SLAB)[300:])
    run.close(grown, SLAB, wait=False)
    run.close(run.add("waited for", 400), 400, wait=True)
    run.manager.commit_all()


def every_point(act: Callable[[Run], None], *more: int) -> Generator[tuple[Run, int], None, None]:
    """A run for each point of `act`, interrupted there, and `more` points later."""
    number, was_interrupted = 0, True
    while was_interrupted:
        number, was_interrupted, run = number + 1, False, Run(256 if act is hold else POOL_SLABS)
        try:
            with Interrupter(number, *(number + 1 + (number + step) % 17 for step in more)):
                act(run)
        except KeyboardInterrupt:
            was_interrupted = True
        yield run, number
    assert number > 50


@pytest.mark.parametrize("act", [work, read, hold])
def test_after_an_interrupt_anywhere_all_others_go_on(act: Callable[[Run], None]) -> None:
    for run, number in every_point(act):
        try:
            Thread(run.check_others_go_on).join_result()
            run.check_end()
        except BaseException as error:
            raise AssertionError(f"interrupted at point {number}") from error


@pytest.mark.parametrize("act", [work, read, hold])
def test_after_two_interrupts_nobody_hangs_and_the_memory_comes_back(act: Callable[[Run], None]) -> None:
    """Where even the clean-up was interrupted the manager may refuse to go on."""
    for run, number in every_point(act, 0):
        try:
            try:
                Thread(run.check_others_go_on).join_result()
            except BlockError as error:
                assert "interrupted amid a step" in str(error) or "no memory is left" in str(error)  # noqa: PT017
            run.check_end()
        except BaseException as error:
            raise AssertionError(f"interrupted at point {number}, and after it") from error


def test_an_interrupted_stop_gives_the_memory_back_and_a_second_one_ends_the_threads() -> None:
    def stop(run: Run) -> None:
        run.manager.stop()

    for run, number in every_point(stop):
        Thread(run.manager.stop).join_result()
        assert (number, run.pool.used_bytes, block_threads()) == (number, 0, [])


def test_a_manager_that_cannot_be_trusted_says_so_and_still_gives_its_memory_back() -> None:
    run = Run()
    block = run.manager.alloc("x")
    run.manager.append(block, noise(SLAB))
    manager: BlockManager = run.manager
    waiting = run.manager.content("open")
    manager._trust.lost = KeyboardInterrupt()
    for act in (
        lambda: manager.content("y"),
        lambda: manager.alloc("y"),
        lambda: manager.append(block, b"y"),
        lambda: manager.commit(block),
        lambda: manager.read(block),
        lambda: waiting.write(b"y"),
        waiting.close,
        manager.commit_all,
    ):
        with pytest.raises(BlockError, match="interrupted amid a step that it could not end"):
            act()
    other = manager_of(MemoryKeeper(), run.pool)
    with other:
        taken = other.content("other's")
        taken.write(noise(4 * SLAB))
        taken.close()  # asks the lost one for nothing
    manager.stop()
    assert run.pool.used_bytes == 0
    manager.stop()


def test_memory_that_an_interrupt_has_lost_comes_back_with_the_end_of_its_manager() -> None:
    pool: SlabPool = pool_of(4)
    manager = manager_of(MemoryKeeper(), pool).__enter__()
    lost = pool.take(3, user=manager)
    manager.stop()
    assert pool.used_bytes == 0
    others = pool.take(4)
    assert not {id(slab) for slab in lost} & {id(slab) for slab in others}
    pool.give_back(lost)  # he looked at them until now
    pool.give_back(others)
    assert pool.used_bytes == 0
