"""Looking at bytes where they lie: memory that is not reused before whoever looks at it has ended.

What the memory is, and what happens to it then, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class View:
    """Bytes of a block to look at, without a copy where they lie in one piece; use as a context manager.

    `data` is good until the end of the `with` (or `release`), and so is every slice of it: its memory is not reused
    before. Raises `BufferError` at the end when something else, an array perhaps, still rests on `data`; the memory
    stays as it is then.
    """

    __slots__ = ("_unpin", "data")

    def __init__(self, data: memoryview, unpin: Callable[[], None] | None = None) -> None:
        self.data = data
        self._unpin = unpin

    def __enter__(self) -> memoryview:
        return self.data

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Look no more. A second time does nothing."""
        self.data.release()
        unpin, self._unpin = self._unpin, None
        if unpin is not None:
            unpin()


class Parts:
    """All the bytes of a sealed block, slab by slab, pinned as a `View` is; use as a context manager."""

    __slots__ = ("_unpin", "parts")

    def __init__(self, parts: list[memoryview], unpin: Callable[[], None]) -> None:
        self.parts = parts
        self._unpin = unpin

    def __enter__(self) -> list[memoryview]:
        return self.parts

    def __exit__(self, *_: object) -> None:
        self._unpin()
