"""One virtual time for the drives of a library, and the way to give it to the library that a command opens.

The code above the drives does not know of virtual time, so what waited for what is told from who asks. Rules:

- the thread that loads and unloads does one thing after the other: it begins when all drives are done
- the threads that write or read one drive each run side by side, from where the loading thread was
- after a synchronous mark nobody goes on before the other drives' synchronous marks are over, as a commit waits for
  both sides

`with timed_library(clock):` gives timers to every virtual library that is opened in the block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from holdfast.tape.changer import Changer, VirtualChanger
from holdfast.tape.changer.virtual import DRIVES
from holdfast.tape.drive.timing import DriveCounts, DriveTimer, Generation
from holdfast.tape.library import TapeLibrary


class LibraryClock:
    """The time that two drives share; for the thread that makes it and the threads that work for it."""

    def __init__(self, generation: Generation, *, host_bytes_s: float | None = None, scale: float = 1) -> None:
        self.timers = {
            serial: DriveTimer(generation, host_bytes_s=host_bytes_s, scale=scale, pace=self) for serial in DRIVES
        }
        self._owner = threading.get_ident()
        self._lock = threading.Lock()
        self._owner_s = 0.0
        # when each drive's synchronous marks were over, since the loading thread last did anything
        self._marks: dict[DriveTimer, list[float]] = {timer: [] for timer in self.timers.values()}

    @property
    def now_s(self) -> float:
        """Virtual seconds since the clock was made."""
        return max(self._owner_s, *(timer.now_s for timer in self.timers.values()))

    def set_host(self, host_bytes_s: float | None) -> None:
        """From now on the host hands over and takes records so quickly; None: endlessly."""
        for timer in self.timers.values():
            timer.host_bytes_s = host_bytes_s

    def counts(self) -> list[DriveCounts]:
        """What each drive did."""
        return [timer.counts for timer in self.timers.values()]

    def begin(self, timer: DriveTimer) -> None:
        """An operation begins when what its thread waited for is over."""
        with self._lock:
            timer.wait_until(self.now_s if self._is_owner() else max(self._owner_s, self._commit_s(timer)))

    def end(self, timer: DriveTimer, *, synchronous: bool) -> None:
        """The loading thread goes on after it, and so do the others if it was a synchronous mark."""
        with self._lock:
            if self._is_owner():
                self._owner_s = timer.now_s
                for marks in self._marks.values():
                    marks.clear()
            elif synchronous:
                self._marks[timer].append(timer.now_s)

    def _commit_s(self, timer: DriveTimer) -> float:
        """When the newest mark of this drive was over on all drives that have come so far."""
        count = len(self._marks[timer])
        return max((marks[count - 1] for marks in self._marks.values() if len(marks) >= count > 0), default=0.0)

    def _is_owner(self) -> bool:
        return threading.get_ident() == self._owner


@contextmanager
def wrapped_library(wrap: Callable[[Changer], Changer]) -> Generator[None, None, None]:
    """Every library that is opened in the block gets the changer that `wrap` makes of its own."""
    make: Callable[..., None] = TapeLibrary.__init__

    def init(self: TapeLibrary, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self.changer = wrap(self.changer)

    with mock.patch.object(TapeLibrary, "__init__", init):
        yield


@contextmanager
def timed_library(clock: LibraryClock) -> Generator[None, None, None]:
    """Every virtual library that is opened in the block keeps its time on `clock`."""

    def wrap(changer: Changer) -> Changer:
        assert isinstance(changer, VirtualChanger)
        changer.timers = clock.timers
        return changer

    with wrapped_library(wrap):
        yield
