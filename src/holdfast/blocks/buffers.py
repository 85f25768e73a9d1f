"""A pool of reused, fixed buffers: the byte budget of everything that is being stored."""

from __future__ import annotations

import mmap
import queue
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Buffer:
    """One block's worth of memory. `used_bytes` counts what was filled."""

    memory: mmap.mmap
    view: memoryview
    used_bytes: int = 0

    @property
    def room_bytes(self) -> int:
        return len(self.view) - self.used_bytes

    def filled(self) -> memoryview:
        return self.view[: self.used_bytes]


class BufferPool:
    """`count` buffers of `size_bytes`; whoever wants one when all are out waits until one comes back."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        for _ in range(count):
            # a fork's child has its own
            memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._free.put(Buffer(memory, memoryview(memory)))

    def take(self) -> Buffer:
        buffer = self._free.get()
        buffer.used_bytes = 0
        return buffer

    def give_back(self, buffer: Buffer) -> None:
        self._free.put(buffer)
