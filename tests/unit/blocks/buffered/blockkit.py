"""What the tests of the block manager share: small pools, hooks that hold a keeper up or fail, and a look at leaks."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import pytest
from blake3 import blake3

from holdfast.blocks import BlockManager, MemoryKeeper, SlabPool
from holdfast.blocks.buffered.committer import Backoff
from holdfast.values import Locator, Segment

SLAB = 1024
BLOCK = 16 * SLAB
PATIENCE_S = 20.0
"""A test that waits so long for an event has failed."""


def locator_of(data: bytes) -> Locator:
    return Locator(blake3(data).digest(), len(data))


def noise(size: int, seed: int = 0) -> bytes:
    return blake3(b"%d" % seed).digest(length=size) if size else b""


class Gate:
    """A hook of `MemoryKeeper` that says when somebody comes, and lets nobody through before it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _: Locator | None) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE_S), "nobody opened the gate"

    def wait_reached(self) -> None:
        assert self.reached.wait(PATIENCE_S), "nobody came to the gate"


class Fault:
    """A hook that raises while `is_on`, and counts how often; `times` faults at most."""

    def __init__(self, times: int | None = None) -> None:
        self.is_on = True
        self.times = times
        self.count = 0

    def __call__(self, locator: Locator | None) -> None:
        if self.is_on and (self.times is None or self.count < self.times):
            self.count += 1
            raise OSError(5, "the disk says no")


class Thread(threading.Thread):
    """A thread whose result or error `join_result` gives."""

    def __init__(self, target: object, *args: object) -> None:
        super().__init__(daemon=True)
        self._call, self._arguments = target, args
        self.result: object = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call(*self._arguments)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - raised by who joins
            self.error = error

    def join_result(self) -> object:
        self.join(PATIENCE_S)
        assert not self.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error
        return self.result


def pool_of(slabs: int, *, patience_s: float = PATIENCE_S, slab_bytes: int = SLAB) -> SlabPool:
    return SlabPool(slabs * slab_bytes, slab_bytes=slab_bytes, patience_s=patience_s)


def manager_of(keeper: MemoryKeeper, pool: SlabPool | None = None, **options: object) -> BlockManager:
    """A manager of small blocks that never really pauses."""
    given: dict[str, object] = {"block_bytes": BLOCK, "backoff": Backoff(tries=2), "pause": lambda _: None}
    return BlockManager(keeper, pool=pool or pool_of(256), **(given | options))  # type: ignore[arg-type]


def read_segments(manager: BlockManager, segments: tuple[Segment, ...]) -> bytes:
    """The bytes of a content as they are read now."""
    found: list[bytes] = []
    for segment in segments:
        with manager.read(segment.locator, segment.offset_bytes, segment.length_bytes) as data:
            found.append(bytes(data))
    return b"".join(found)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def block_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("block-")]


@contextmanager
def interrupted(kind: type[BaseException]) -> Generator[None, None, None]:
    """What is inside ends with an exception of `kind` of the caller's own."""
    with pytest.raises(kind):
        yield


@contextmanager
def nothing_leaks(*pools: SlabPool) -> Generator[None, None, None]:
    """Afterwards there are as many descriptors, and no slab and no thread of a manager is left."""
    before = descriptors()
    yield
    assert block_threads() == []
    assert descriptors() == before
    assert [pool.used_bytes for pool in pools] == [0] * len(pools)


class Interrupter:
    """Raises `KeyboardInterrupt` in this thread where a signal could: as a function of the package begins, and as a
    built-in one has ended. At the points of these numbers, counted from 1; `count` says how many were passed.
    """

    def __init__(self, *points: int) -> None:
        self.points = points
        self.count = 0

    def __enter__(self) -> Interrupter:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_return") or f"blocks{os.sep}buffered{os.sep}" not in frame.f_code.co_filename:
            return
        if f"{os.sep}tests{os.sep}" in frame.f_code.co_filename:
            return
        self.count += 1
        if self.count in self.points:
            sys.setprofile(None)
            if self.count < max(self.points):
                sys.setprofile(self._look)
            raise KeyboardInterrupt
