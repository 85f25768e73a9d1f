"""Blocks on their way together, and the line in which they wait for a worker."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from holdfast.blocks.buffered.blockstate import BlockState
from holdfast.blocks.buffered.bufferblock import BufferBlock
from holdfast.blocks.buffered.waiting import Bell, Trust
from holdfast.errors import BlockError
from holdfast.values import Locator


@dataclass(slots=True, eq=False)
class Flight:
    """Equal blocks on their way together."""

    locator: Locator
    blocks: list[BufferBlock]
    look: int = 0  # the keeper's, when it began
    tries: int = 0
    epoch: int = -1  # the keeper's, when it was put

    def source(self) -> BufferBlock | None:
        """A block that has the bytes still, or None when nobody wants them any more."""
        return next((block for block in self.blocks if block.state is not BlockState.DELETED), None)


class Line:
    """Jobs for the workers, in order, each once. Bounded by those who wait for room before they put something in.

    A job that was taken is not put in again before it is `done`: whoever is interrupted may put it as often as he likes.
    """

    def __init__(self, limit: int, trust: Trust) -> None:
        self._limit = limit
        self._trust = trust
        self._lock = threading.Lock()
        self._changed = Bell()
        self._jobs: dict[Flight | None, None] = {}
        self._taken: set[Flight | None] = set()
        self._is_closed = False

    def wait_for_room(self) -> None:
        """Wait until fewer jobs wait than the limit. Raises `BlockError` when the line is closed."""
        self._changed.until(self._has_room)

    def _has_room(self) -> bool | None:
        self._trust.check()
        if self._is_closed:
            raise BlockError("the block manager is stopped")
        return True if len(self._jobs) < self._limit else None

    def put(self, job: Flight | None) -> None:
        """Add a job, `None` for a sync, without waiting; nothing when it waits or is taken, or the line is closed."""
        with self._lock:
            if not self._is_closed and job not in self._taken:
                self._jobs[job] = None
        self._changed.ring()

    def take(self) -> tuple[Flight | None] | None:
        """The next job, as soon as there is one; None when the line is closed."""
        found = self._changed.until(self._next)
        self._changed.ring()  # there is room
        return found or None

    def _next(self) -> tuple[Flight | None] | tuple[()] | None:
        with self._lock:
            if self._is_closed:
                return ()
            if not self._jobs:
                return None
            job = next(iter(self._jobs))
            self._taken.add(job)
            del self._jobs[job]
            return (job,)

    def done(self, job: Flight | None) -> None:
        """The job may be put in again."""
        with self._lock:
            self._taken.discard(job)

    def is_empty(self) -> bool:
        return not self._jobs

    def close(self) -> None:
        """Drop what waits, and let nobody wait any more."""
        with self._lock:
            self._is_closed = True
            self._jobs.clear()
        self._changed.ring()
