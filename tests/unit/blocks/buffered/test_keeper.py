"""The keeper in memory behaves as one on a disk: what a sync has not passed may be lost, and everybody hears of it."""

from __future__ import annotations

import pytest
from tests.unit.blocks.buffered.blockkit import Fault, interrupted, locator_of, noise

from holdfast.blocks import MemoryKeeper
from holdfast.errors import BlockError, IntegrityError
from holdfast.values import Locator


def put(keeper: MemoryKeeper, data: bytes) -> Locator:
    keeper.put(locator_of(data), [memoryview(data)[:2], memoryview(data)[2:]])
    return locator_of(data)


def test_what_is_put_is_there_and_durable_after_a_sync() -> None:
    keeper = MemoryKeeper()
    locator = put(keeper, b"abc")
    assert keeper.has(locator)
    with pytest.raises(IntegrityError, match="missing from the store"):
        keeper.fetch(locator, 0, 3)
    keeper.sync(keeper.epoch)
    assert keeper.fetch(locator, 1, 2) == b"bc"
    assert keeper.has(locator)
    assert keeper.found == {locator}
    assert (keeper.sync_count, keeper.fetch_count, keeper.puts) == (1, 2, [locator])


def test_law_1_whoever_put_before_a_sync_failed_hears_of_it() -> None:
    keeper = MemoryKeeper()
    epoch = keeper.epoch
    locator = put(keeper, b"abc")
    keeper.before_sync = Fault(times=1)
    with interrupted(OSError):
        keeper.sync(epoch)  # somebody else's
    assert not keeper.has(locator)
    with pytest.raises(BlockError, match="lost, as a sync has failed since"):
        keeper.sync(epoch)
    put(keeper, b"abc")
    keeper.sync(keeper.epoch)
    assert keeper.fetch(locator, 0, 3) == b"abc"


def test_one_that_is_forgetful_keeps_nothing() -> None:
    keeper = MemoryKeeper(is_forgetful=True)
    locator = put(keeper, b"abc")
    keeper.sync()
    assert not keeper.has(locator)
    assert keeper.puts == [locator]


def test_memory_that_was_reserved_is_used_first() -> None:
    keeper = MemoryKeeper(reserve_bytes=100)
    for seed in range(3):
        put(keeper, noise(60, seed))
    keeper.sync()
    assert [keeper.fetch(locator_of(noise(60, seed)), 0, 60) for seed in range(3)] == [noise(60, s) for s in range(3)]


def test_hooks_come_before_each_step() -> None:
    keeper = MemoryKeeper()
    keeper.before_put = keeper.before_fetch = Fault()
    with pytest.raises(OSError, match="the disk says no"):
        put(keeper, b"abc")
    assert keeper.puts == []
    with pytest.raises(OSError, match="the disk says no"):
        keeper.fetch(locator_of(b"abc"), 0, 1)
