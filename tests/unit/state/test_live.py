"""The bar: what it shows of a tracker, and that it keeps out of the way."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from holdfast.state import Tracker
from holdfast.state.live import bar, in_words, show
from holdfast.state.progress import Progress


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    with Tracker(tmp_path / "a") as tracker:
        yield tracker


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(shown: io.StringIO) -> Console:
    return Console(file=shown, width=100)


def test_around_a_loop(tracker: Tracker, console: Console, shown: io.StringIO) -> None:
    tracker.add_many("abcd")
    tracker.mark_done("a")
    seen: list[object] = []
    for key in bar(tracker.try_keys(), tracker, "nights", every_s=0, console=console):
        seen.append(key)
        tracker.mark_done(key)
    assert seen == ["b", "c", "d"]
    assert shown.getvalue().startswith("nights ")
    assert " 4/4 " in shown.getvalue()


def test_work_of_others_is_shown_to_its_end(tracker: Tracker, console: Console, shown: io.StringIO) -> None:
    tracker.add_many(range(5))

    def work() -> None:
        for task in tracker.claim(5):
            task.done(size_bytes=10_000)

    worker = threading.Thread(target=work)
    worker.start()
    standing = show(tracker, "nights", every_s=0, console=console)
    worker.join()
    assert (standing.done, standing.todo) == (5, 0)
    assert "5/5" in shown.getvalue()


def test_an_error_in_the_loop_passes(tracker: Tracker, console: Console) -> None:
    tracker.add_many("ab")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 (the loop is what it passes through)
        for _ in bar(tracker.try_keys(), tracker, console=console):
            _ = 1 / 0


def test_in_words() -> None:
    standing = Progress(10, 4, 6, 1, 2, 1, 3, 0, 0.5, 1_500_000.0, 6.0)
    assert in_words(standing) == "0.5/s  1.5 MB/s  6 s left  2 dead  1 aborted"
    nothing_known = Progress(10, 4, 6, 0, 0, 1, 6, 0, None, None, None)
    assert in_words(nothing_known) == ""
    assert in_words(nothing_known, 2.0) == "2.0/s  3 s left"
