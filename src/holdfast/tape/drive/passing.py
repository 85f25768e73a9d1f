"""Pages of a file that is written or read once, from begin to end: out to the disk early, and out of memory.

Left to itself the kernel keeps what streams by until memory is short: a pair of cartridges then pushes everything
else out, the last sync has gigabytes to write, and each page is taken anew from memory that nobody has touched yet.
Told to let go of what lies behind, it begins to write that out at once, and the same few pages serve the whole tape
file. It is advice: no byte depends on it, and what is durable is still decided by the sync alone.
"""

from __future__ import annotations

import os
from contextlib import suppress

WINDOW_BYTES = 8 * 1024 * 1024
"""Told of in such steps. Pages come in groups of a power of two, which must not lie across a step's end."""

WRITING_WINDOWS = 4
"""Written pages can be let go of once the disk has them: so many windows later."""


class PassingPages:
    """Follows the position in one open file. `written`: its pages have to reach the disk before they can go."""

    def __init__(self, descriptor: int, *, written: bool) -> None:
        self._descriptor = descriptor
        self._lag_bytes = WRITING_WINDOWS * WINDOW_BYTES if written else 0
        self._told_bytes = 0

    def passed(self, offset_bytes: int) -> None:
        """Everything before `offset_bytes` was written or read, and will not be looked at soon."""
        end = offset_bytes - offset_bytes % WINDOW_BYTES
        begin, self._told_bytes = self._told_bytes, end
        if end <= begin:
            return
        self._let_go(begin, end)  # of pages that are not on disk, this begins their writing and nothing else
        if self._lag_bytes:
            self._let_go(max(begin - self._lag_bytes, 0), max(end - self._lag_bytes, 0))

    def _let_go(self, begin: int, end: int) -> None:
        if begin < end:
            with suppress(OSError):
                os.posix_fadvise(self._descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
