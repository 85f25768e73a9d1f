"""Parts of a pack, read by a thread of their own while the part before is on its way.

Not only for speed: a library that asks for the next part from within its own machinery must not be asked by that very
thread for bytes of another pack, as it would wait for itself; and a pack may come from one object store to go to another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Self


class ReadAhead:
    """An iterator over parts that another thread reads, one ahead. `close` it; what reading raises, it raises."""

    def __init__(self, parts: Iterator[memoryview]) -> None:
        self._parts = parts
        self._read: SimpleQueue[memoryview | BaseException | None] = SimpleQueue()
        self._room = threading.Semaphore(1)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for part in self._parts:
                self._read.put(part)
                self._room.acquire()
                if self._is_closed:
                    return
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the next part
            last = error
        self._read.put(last)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> memoryview:
        part = self._read.get()
        if isinstance(part, memoryview):
            self._room.release()
            return part
        self._read.put(None)  # whoever asks again is told of the end
        if part is not None:
            raise part
        raise StopIteration

    def close(self) -> None:
        """Returns when nothing is being read any more."""
        self._is_closed = True
        self._room.release()
        self._thread.join()
