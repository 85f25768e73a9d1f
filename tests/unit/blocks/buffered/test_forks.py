"""A fork's child never touches what the parent writes, and is refused rather than left to wait for the parent's threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.unit.blocks.buffered.blockkit import noise, pool_of, read_segments
from tests.unit.blocks.buffered.test_packkeeper import check_kept, keeper_for, put
from tests.unit.blocks.kit import MemoryStore

from holdfast.blocks import BlockManager, MemoryKeeper, SlabPool, process_pool
from holdfast.blocks.buffers import BufferPool
from holdfast.errors import BlockError

pytestmark = pytest.mark.timeout(30)


def in_child(act: Callable[[], object]) -> int:
    """Run it in a fork; 0 when all went well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check_refused(acts: Sequence[Callable[[], object]]) -> None:
    for act in acts:
        with pytest.raises(BlockError, match="cannot be used in a fork"):
            act()


def write_own() -> None:
    with BlockManager(MemoryKeeper()) as manager, manager.content("child's") as content:
        content.write(b"child" * 1000)


def test_law_7_a_child_that_writes_blocks_of_its_own_changes_none_of_the_parent() -> None:
    with BlockManager(MemoryKeeper()) as manager, manager.content("warm") as content:
        content.write(b"the pool of the process has memory by now")
    pool = process_pool()
    with BlockManager(MemoryKeeper()) as manager:
        content = manager.content("parent's")
        content.write(noise(5000))
        assert in_child(write_own) == 0
        assert read_segments(manager, content.close()) == noise(5000)
    assert process_pool() is pool


def test_the_memory_of_a_pool_is_the_parents_own() -> None:
    memories = [BufferPool(1, 4096).take().view, SlabPool(2**16).take(1)[0]]
    for view in memories:
        view[:6] = b"parent"

    def overwrite() -> None:
        for view in memories:
            view[:6] = b"child!"

    assert in_child(overwrite) == 0
    assert [bytes(view[:6]) for view in memories] == 2 * [b"parent"]


def test_a_manager_and_its_pool_refuse_in_a_child() -> None:
    pool = pool_of(64)
    with BlockManager(MemoryKeeper(), pool=pool) as manager:
        content = manager.content("x")
        content.write(b"abc")
        block = manager.alloc("y")
        calls = (
            lambda: manager.content("z"),
            lambda: content.write(b"def"),
            content.close,
            lambda: manager.append(block, b"def"),
            lambda: manager.commit(block),
            lambda: manager.read(block),
            manager.commit_all,
            BlockManager(MemoryKeeper(), pool=pool).__enter__,
        )
        assert in_child(lambda: check_refused(calls)) == 0
        assert in_child(manager.stop) == 0
        content.close()


def test_a_keeper_refuses_in_a_child_and_leaves_the_pack_alone(tmp_path: Path) -> None:
    store = MemoryStore()
    with keeper_for(tmp_path, store) as keeper:
        locator = put(keeper, b"abc")
        keeper.sync()
        calls = (
            lambda: put(keeper, b"child's"),
            keeper.sync,
            keeper.seal,
            lambda: keeper.has(locator),
            lambda: keeper.fetch(locator, 0, 3),
        )
        assert in_child(lambda: check_refused(calls)) == 0
        assert in_child(keeper.close) == 0
        put(keeper, b"def")
    check_kept(tmp_path, store, [b"abc", b"def"])
