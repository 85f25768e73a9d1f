"""The locks that all who write to one database take: in turn, and freed when their holder dies.

    TurnLock      among the threads of a process; the database itself sees to the other processes
    CommitLock    among processes, too, by `flock`: the kernel frees it

SQLite's own waiting lets some writers starve: four processes that commit single rows got 1, 13, 1,988 and 11,625
turns in three seconds, and 3,585 to 3,708 with a `flock` in front. But to hand a lock over costs as much as a
transaction: somebody has to wake up, and nothing of what the last one wrote is in its caches. So each has it for a slice
of time, in turn.
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
_TO_BE_OPENED = -1
SLICE_S = 0.01
"""A process that has waited for its turn may take the lock again and again for so long, before it waits anew."""
NAP_S = 0.002
"""Meanwhile the next one looks so often whether the lock is free."""


class TurnLock:
    """A lock that the thread that holds it may take again.

    An interrupt may come behind any line: who takes the lock goes back `to_depth` at the end, however far it came.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        # taken once by each thread that holds the lock, however often that takes it
        self._turn: Any = threading.RLock()
        self._depth = 0
        self._is_closed = False

    def _take(self, end_s: float | None) -> bool:  # noqa: ARG002 (there is nobody to wait for)
        """Wait until no other process has it; whether that came about before `end_s`."""
        return True

    def _give(self) -> None:
        """Let the next process have it."""

    def _let_go(self) -> None:
        """Have nothing open any more, without giving back what another process holds."""

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
            if depth or (self._turn.acquire(timeout=timeout_s) and self._take_open(None if timeout_s < 0 else end_s)):
                self._depth = depth + 1
        except BaseException:
            self.to_depth(depth)
            raise
        if self.depth() == depth:
            self.to_depth(depth)
            return False
        return True

    def _take_open(self, end_s: float | None) -> bool:
        if self._is_closed:
            raise StateError("this store is closed", place=self._place, hint="open it again")
        return self._take(end_s)

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
                    self._give()
                    self._turn.release()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def forget_in_child(self) -> None:
        """After a fork, in the child: the parent's lock is the parent's alone."""
        self._let_go()
        self._turn = threading.RLock()
        self._depth = 0

    def only_in_this_process(self, timeout_s: float) -> bool:
        """Keep the other threads from taking it, until `to_all`; whether that was got within so long."""
        return self._turn.acquire(timeout=timeout_s)

    def to_all(self) -> None:
        self._turn.release()

    def close(self) -> None:
        """Give it back for good; who waits for it is told that it is closed."""
        self._is_closed = True
        self._give()
        self._let_go()
        self.to_depth(0)


class CommitLock(TurnLock):
    """The lock of a folder: `commit.lock`, behind a queue, `queue.lock`.

    Nobody holds it between transactions. Who has waited in the queue gets a slice of time, in which it may take the lock
    without waiting again; the first in the queue naps then, and sleeps when the slice must be over. As whoever wants it
    after its slice goes to the end of the queue, the one who sleeps there is next.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder
        self._descriptor = self._queue = _TO_BE_OPENED
        self._is_in_queue = False
        self._slice_end_s = 0.0

    def _take(self, end_s: float | None) -> bool:
        if self._descriptor == _TO_BE_OPENED:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._folder / "commit.lock", flags, 0o666)
            self._queue = os.open(self._folder / "queue.lock", flags, 0o666)
        if time.monotonic() < self._slice_end_s and _is_locked(self._descriptor):
            return True
        self._is_in_queue = True
        taken = _flock(self._queue, end_s) and self._take_as_first(end_s)
        self._leave_queue()
        self._slice_end_s = time.monotonic() + SLICE_S
        return taken

    def _take_as_first(self, end_s: float | None) -> bool:
        until_s = time.monotonic() + SLICE_S
        while time.monotonic() < until_s:
            if _is_locked(self._descriptor):
                return True
            time.sleep(NAP_S)
        return _flock(self._descriptor, end_s)

    def _leave_queue(self) -> None:
        if self._is_in_queue and self._queue >= 0:
            fcntl.flock(self._queue, fcntl.LOCK_UN)
        self._is_in_queue = False

    def _give(self) -> None:
        self._leave_queue()  # after an interrupt
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _let_go(self) -> None:
        descriptors, self._descriptor, self._queue = (self._descriptor, self._queue), _TO_BE_OPENED, _TO_BE_OPENED
        self._is_in_queue = False
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)  # that unlocks only if no parent has the file open


def _is_locked(descriptor: int) -> bool:
    """Whether the file could be locked at once."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flock(descriptor: int, end_s: float | None) -> bool:
    """Lock the file; whether that came about before `end_s`."""
    if end_s is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    while not _is_locked(descriptor):
        if time.monotonic() >= end_s:
            return False
        time.sleep(_POLL_S)
    return True
