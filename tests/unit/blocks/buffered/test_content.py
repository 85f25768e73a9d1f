"""A content on its way, with a manager that does what the test says."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from tests.unit.blocks.buffered.blockkit import (
    SLAB,
    Fault,
    Thread,
    interrupted,
    manager_of,
    noise,
    pool_of,
    read_segments,
)

from holdfast.blocks import BufferBlock, MemoryKeeper
from holdfast.blocks.buffered.blockstate import Naming
from holdfast.errors import BlockStateError, NotKeptError


def test_its_size_is_what_was_taken_also_when_the_call_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    with manager_of(MemoryKeeper()) as manager:
        content = manager.content("x")
        content.write(noise(SLAB))
        with monkeypatch.context() as patched:
            patched.setattr(BufferBlock, "_return_spare", after(BufferBlock._return_spare))
            with interrupted(KeyboardInterrupt):
                content.write(noise(3 * SLAB)[SLAB:])
        assert content.size_bytes == 3 * SLAB
        content.write(b"end")
        assert read_segments(manager, content.close()) == noise(3 * SLAB) + b"end"
        assert content.size_bytes == 3 * SLAB + 3


def after(real: object) -> object:
    """The same, interrupted once when it is done."""
    once = [True]

    def call(*arguments: object) -> object:
        result = real(*arguments)  # type: ignore[operator]
        if once:
            once.clear()
            raise KeyboardInterrupt
        return result

    return call


def test_a_content_whose_closing_was_interrupted_says_so_or_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(32)
    with manager_of(MemoryKeeper(), pool) as manager:
        lost, good = manager.content("lost"), manager.content("good")
        for content in (lost, good):
            content.write(b"abc")
        monkeypatch.setattr(manager, "pack", after(manager.pack))
        with interrupted(KeyboardInterrupt):
            lost.close()
        with pytest.raises(BlockStateError, match=r"were let go; .*closing it was interrupted"):
            lost.close()
        lost.abandon()
        assert read_segments(manager, good.close()) == b"abc"


class Namings(MemoryKeeper):
    """Counts those who have begun to name, and have not ended."""

    count = 0

    def begin_naming(self) -> Naming:
        self.count += 1

        def end() -> None:
            self.count -= 1

        return Naming(end)


def test_law_3_what_is_written_is_safe_from_a_collector_until_its_writer_says_that_it_is_named() -> None:
    keeper = Namings()
    with manager_of(keeper) as manager:
        assert manager.content("empty").close() == ()
        content, unwanted, left = (manager.content(name) for name in ("night.dat", "unwanted", "left"))
        for each in (content, unwanted, left):
            each.write(b"a")
            each.write(b"bc")  # in pieces, so that it has a block
        block, deleted = manager.alloc("x"), manager.alloc("y")
        manager.append(block, b"def")
        assert keeper.count == 5
        unwanted.abandon()
        manager.delete(deleted)
        content.close()
        manager.commit(block, wait=True)
        assert keeper.count == 3
        for _ in range(2):
            content.named()
            manager.named(block)
        assert keeper.count == 1
    assert keeper.count == 0  # what was left open is named by nobody


def test_what_is_let_go_by_the_end_of_the_manager_is_named_by_nobody() -> None:
    keeper = Namings()
    keeper.before_put = Fault()
    with interrupted(NotKeptError), manager_of(keeper) as manager:
        manager.append(manager.alloc("x"), b"def")
        manager.alloc("empty")
        content = manager.content("open")
        content.write(noise(SLAB))
    assert keeper.count == 0


def test_a_content_in_a_generator_that_is_dropped_is_abandoned_without_a_lock() -> None:
    """As by the garbage collector, which may come amid a step of the same thread."""
    keeper, pool = Namings(), pool_of(8)

    def writing() -> Generator[None, None, None]:
        with manager.content("dropped") as content:
            content.write(noise(7 * SLAB))
            yield

    def drop(generator: Generator[None, None, None]) -> None:
        with manager._writable._lock, pool._lock:
            generator.close()

    with manager_of(keeper, pool) as manager:
        first, second = writing(), writing()
        next(first)
        Thread(drop, first).join_result()
        manager.content("next")
        assert (pool.used_bytes, keeper.count) == (0, 0)
        block = manager.alloc("x")
        next(second)
        Thread(drop, second).join_result()
        manager.append(block, noise(3 * SLAB))  # needs its memory
        manager.commit(block, wait=True)
        assert keeper.puts == [block.locator]
