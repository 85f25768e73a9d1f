"""A content on its way, with a manager that does what the test says."""

from __future__ import annotations

import pytest
from tests.unit.blocks.buffered.blockkit import SLAB, interrupted, manager_of, noise, pool_of, read_segments

from holdfast.blocks import BlockManager, BufferBlock, ContentWriter, MemoryKeeper
from holdfast.errors import BlockStateError


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
        assert manager.unfinished() is None


def check_unfinished(manager: BlockManager, content: ContentWriter) -> None:
    assert manager.unfinished() == content.owner


def test_a_content_is_unfinished_until_it_is_durable_or_abandoned() -> None:
    with manager_of(MemoryKeeper()) as manager:
        content = manager.content("night.dat")
        assert manager.unfinished() is None
        content.write(b"abc")
        check_unfinished(manager, content)
        content.close(wait=False)
        assert "shared block" in str(manager.unfinished())
        manager.commit_all()
        assert manager.unfinished() is None
        content = manager.content("unwanted")
        content.write(b"abc")
        content.abandon()
        assert manager.unfinished() is None
