"""Ctrl-C: the first one stops the work at the next safe point, the second one at once.

Python raises KeyboardInterrupt wherever the main thread happens to be: in the middle of a commit, or in a callback
that swallows it. So while a stage of work is under way, the first signal only sets a flag, and the stage raises when
it is next told of progress: never between the two halves of a commit. Outside a stage Ctrl-C ends the program as ever.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from holdfast.reports import Stage

_asked = threading.Event()
_stages_under_way = 0


def listen() -> None:
    """Take Ctrl-C over, for this process; only the main thread may call this."""
    _asked.clear()
    signal.signal(signal.SIGINT, _on_signal)
    sys.unraisablehook = _on_unraisable


def _on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Ctrl-C in a callback that swallows it is no news: it is raised again, and a traceback would only frighten."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    again = _asked.is_set()
    _asked.set()  # raised in a callback that swallows it, it is raised again when the next stage begins
    if again or not _stages_under_way:
        raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if the user has asked to stop."""
    if _asked.is_set():
        raise KeyboardInterrupt


class StoppableStage(Stage):
    """A stage that ends at the next sign of progress after Ctrl-C."""

    def advance(self, count_bytes: int) -> None:
        check()
        super().advance(count_bytes)

    def count(self) -> None:
        check()
        super().count()


@contextmanager
def stoppable(name: str, total_bytes: int) -> Generator[StoppableStage, None, None]:
    """A stage during which Ctrl-C waits for a safe point."""
    global _stages_under_way
    check()
    _stages_under_way += 1
    try:
        yield StoppableStage(name, total_bytes)
        check()
    finally:
        _stages_under_way -= 1
