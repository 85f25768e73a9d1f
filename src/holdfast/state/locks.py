"""The lock that all who write to one database take: in turn, and freed by the kernel when its holder dies.

SQLite's own waiting lets some writers starve: four processes that commit single rows got 1, 13, 1,988 and 11,625
turns in three seconds, and 3,585 to 3,708 with a `flock` in front.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

from holdfast.errors import StateError

_POLL_S = 0.01
"""A `flock` cannot be waited for with an end: then it is asked for so often."""
_CLOSED, _TO_BE_OPENED = -1, -2


class CommitLock:
    """A lock among threads and processes; the thread that holds it may take it again.

    An interrupt may come behind any line: who takes the lock goes back `to_depth` at the end, however far it came.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn: Any = (
            threading.RLock()
        )  # taken once by each thread that holds the lock, however often that takes it
        self._depth = 0
        self._descriptor = _TO_BE_OPENED

    def depth(self) -> int:
        """How often this thread has taken it."""
        return self._depth if self._turn._is_owned() else 0

    def held(self) -> bool:
        """Whether this thread holds it."""
        return self._depth > 0 and self._turn._is_owned()

    def acquire(self, timeout_s: float = -1) -> bool:
        """Wait for the lock, for ever or so long; whether it was got. Raises `StateError` when it was closed."""
        depth = self.depth()
        end_s = time.monotonic() + timeout_s
        try:
            if depth or (self._turn.acquire(timeout=timeout_s) and self._flock(None if timeout_s < 0 else end_s)):
                self._depth = depth + 1
        except BaseException:
            self.to_depth(depth)
            raise
        if self.depth() == depth:
            self.to_depth(depth)
            return False
        return True

    def _flock(self, end_s: float | None) -> bool:
        if self._descriptor == _CLOSED:
            raise StateError("this store is closed", place=str(self._path.parent), hint="open it again")
        if self._descriptor == _TO_BE_OPENED:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if end_s is None:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            return True
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    return False
                time.sleep(_POLL_S)

    def release(self) -> None:
        """Give it back once."""
        self.to_depth(self.depth() - 1)

    def to_depth(self, depth: int) -> None:
        """Give it back as often as this thread has taken it more than so often. An interrupt is raised after that."""
        interrupt: BaseException | None = None
        while self._turn._is_owned() and (self._depth > depth or depth == 0):
            try:
                self._depth = min(depth, self._depth)
                if depth == 0:
                    if self._descriptor >= 0:
                        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                    self._turn.release()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def forget_in_child(self) -> None:
        """After a fork, in the child: the parent's lock is the parent's alone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)  # closing does not unlock: the parent still has the file open
            self._descriptor = _TO_BE_OPENED
        self._turn = threading.RLock()
        self._depth = 0

    def only_in_this_process(self, timeout_s: float) -> bool:
        """Keep the other threads from taking it, until `to_all`; whether that was got within so long."""
        return self._turn.acquire(timeout=timeout_s)

    def to_all(self) -> None:
        self._turn.release()

    def close(self) -> None:
        """Give it back for good; who waits for it is told that it is closed."""
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        self.to_depth(0)
