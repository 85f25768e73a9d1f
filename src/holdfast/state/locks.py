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

from holdfast.errors import StateError

_POLL_S = 0.01
"""A `flock` cannot be waited for with an end: then it is asked for so often."""


class CommitLock:
    """A lock among threads and processes; the thread that holds it may take it again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start()

    def _start(self) -> None:
        self._turn = threading.RLock()
        self._depth = 0
        self._owner = 0
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def acquire(self, timeout_s: float = -1) -> bool:
        """Wait for the lock, for ever or so long; whether it was got. Raises `StateError` when it was closed."""
        end_s = time.monotonic() + timeout_s
        if not self._turn.acquire(timeout=timeout_s):
            return False
        try:
            if self._descriptor < 0:
                raise StateError("this store is closed", place=str(self._path.parent), hint="open it again")
            got = self._depth > 0 or self._flock(None if timeout_s < 0 else end_s)
            if got:
                self._owner = threading.get_ident()
                self._depth += 1
        except BaseException:
            self._turn.release()
            raise
        if not got:
            self._turn.release()
        return got

    def _flock(self, end_s: float | None) -> bool:
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
        """Give it back. Raises `StateError` when this thread does not hold it."""
        if not self.held():
            raise StateError(
                "the lock is not held by this thread", place=str(self._path), hint="call lock() before unlock()"
            )
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._turn.release()

    def held(self) -> bool:
        """Whether this thread holds it."""
        return self._owner == threading.get_ident()

    def forget_in_child(self) -> None:
        """After a fork, in the child: the parent's lock is the parent's alone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)  # closing does not unlock: the parent still has the file open
        self._start()

    def close(self) -> None:
        """Give it back for good, as often as this thread has taken it; who waits for it is told that it is closed."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        depth, self._depth, self._owner = self._depth, 0, 0
        for _ in range(depth):
            self._turn.release()
