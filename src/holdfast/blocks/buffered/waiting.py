"""Waiting for a change with no lock in hand, and what is known after an interrupt amid a step, or a fork.

An interrupt (Ctrl-C) may come between any two calls of the main thread. The steps of this package are written for it:
what must not be torn apart stands in lines without a call or a loop between them, where none can come; a step that may
be cut is one that may be done again; and clean-up is done once more when it is cut itself. Conditions of the standard
library are not used: interrupted at the wrong place they leave a lock held, or release one that somebody else holds.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from holdfast.errors import BlockError

LOOK_AGAIN_S = 0.5
"""Who waits looks again after so long: an interrupt may have come between a change and its telling."""

_T = TypeVar("_T")


class Bell:
    """Wakes those who wait for a change. For any number of threads."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: deque[threading.Lock] = deque()

    def ring(self) -> None:
        """Wake everybody who has a ticket by now. Ring after the change."""
        for _ in range(len(self._tickets)):
            try:
                ticket = self._tickets.popleft()
            except IndexError:  # another one rings, too
                return
            ticket.release()

    def ticket(self) -> threading.Lock:
        """Take it before you look: a change that comes after the look wakes you in `wait`."""
        ticket = threading.Lock()
        ticket.acquire()
        self._tickets.append(ticket)
        return ticket

    def wait(self, ticket: threading.Lock) -> None:
        """Until the bell rings, or it is time to look again."""
        if not ticket.acquire(timeout=LOOK_AGAIN_S):
            self._forget(ticket)

    def until(self, look: Callable[[], _T | None]) -> _T:
        """What `look` gives, as soon as it is not None. It takes the locks it needs."""
        found = look()
        while found is None:
            ticket = self.ticket()
            found = look()
            if found is None:
                self.wait(ticket)
            else:
                self._forget(ticket)
        return found

    def _forget(self, ticket: threading.Lock) -> None:
        try:
            self._tickets.remove(ticket)
        except ValueError:
            pass  # it has just been rung


_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class Home:
    """The process in which something was made. A fork's child has a copy of it, without its threads, and perhaps with
    its locks held for ever; its files are the parent's.
    """

    __slots__ = ("_forks",)

    def __init__(self) -> None:
        self._forks = _forks

    @property
    def is_here(self) -> bool:
        return self._forks == _forks

    def check(self) -> None:
        """Raise `BlockError` in a fork's child."""
        if self._forks != _forks:
            raise BlockError(
                "what writes and reads blocks cannot be used in a fork of the process that made it",
                hint="start processes by 'spawn' (multiprocessing.get_context), or make it in the fork",
            )


class Trust(Home):
    """Whether a manager can be relied on: in its own process only, and not once even the clean-up after an interrupt
    was interrupted.
    """

    __slots__ = ("lost",)

    def __init__(self) -> None:
        super().__init__()
        self.lost: BaseException | None = None

    def check(self) -> None:
        """Raise `BlockError` when it cannot: nobody shall wait for what may never come."""
        if self._forks != _forks:
            super().check()
        if self.lost is not None:
            raise BlockError(
                "the block manager was interrupted amid a step that it could not end",
                found=repr(self.lost),
                hint="stop it, which gives its memory back, and write what was not said to be stored with another one",
            ) from self.lost
