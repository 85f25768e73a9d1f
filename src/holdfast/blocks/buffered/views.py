"""Looking at bytes where they lie: memory that is not reused before whoever looks at it has ended.

What the memory is, and what happens to it then, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any


class Pinned:
    """Something that keeps a block's memory from being reused until `release`, which waits for nobody."""

    __slots__ = ("_unpin",)

    def __init__(self, unpin: Callable[[Any], None] | None) -> None:
        self._unpin = unpin

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Look no more. A second time does nothing, or ends what an interrupt has left of the first."""
        if self._unpin is not None:
            self._unpin(self)


class View(Pinned):
    """Bytes of a block to look at, without a copy where they lie in one piece; use as a context manager.

    `data` is good until the end of the `with` (or `release`), and so is every slice of it: its memory is not reused
    before. What a slice that is kept for longer shows is undefined: it may be the bytes of another block, and there is no
    error. Raises `BufferError` at the end when something else, an array perhaps, still rests on `data` itself; the
    memory stays as it is then.
    """

    __slots__ = ("data",)

    def __init__(self, data: memoryview, unpin: Callable[[Any], None] | None = None) -> None:
        self.data = data
        self._unpin = unpin

    def __enter__(self) -> memoryview:
        return self.data

    def release(self) -> None:
        self.data.release()
        if self._unpin is not None:
            self._unpin(self)


class Parts(Pinned):
    """All the bytes of a block, slab by slab; use as a context manager."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[memoryview], unpin: Callable[[Any], None]) -> None:
        super().__init__(unpin)
        self.parts = parts

    def __enter__(self) -> list[memoryview]:
        return self.parts
