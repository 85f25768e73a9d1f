"""Looking at a tracker while work goes on: a bar on a terminal, of what was done before and of what is done now.

    show(tracker)                                   until nothing is left to do, whoever does it
    for key in bar(tracker.try_keys(), tracker):    around one's own loop

What was done earlier fills the bar, and is not counted into the rate: that is the one of recorded attempts, and where
there are none, the one that was seen here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from holdfast.state.progress import Progress as Standing
from holdfast.state.tracker import Tracker
from holdfast.values import show_bytes, show_seconds

T = TypeVar("T")
EVERY_S = 0.5


def show(tracker: Tracker, title: str = "", *, every_s: float = EVERY_S, console: Console | None = None) -> Standing:
    """Show how work goes on until nothing is left to do; how it stands then. Nothing is written to the tracker."""
    with _shown(tracker, title, console) as update:
        for standing in tracker.watch(every_s=every_s):
            update(standing)
    return tracker.stats()


def bar(
    items: Iterable[T], tracker: Tracker, title: str = "", *, every_s: float = EVERY_S, console: Console | None = None
) -> Generator[T, None, None]:
    """Give the items on as they come, and show meanwhile how the whole tracker stands, whoever else works on it."""
    with _shown(tracker, title, console) as update:
        due_s = time.monotonic() + every_s
        for item in items:
            yield item
            if time.monotonic() >= due_s:
                update(tracker.stats())
                due_s = time.monotonic() + every_s
        update(tracker.stats())


@contextmanager
def _shown(tracker: Tracker, title: str, console: Console | None) -> Generator[Callable[[Standing], None], None, None]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}")
    first = tracker.stats()
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        number = progress.add_task(title or str(tracker.path), total=first.entries, completed=first.done, words="")

        def update(standing: Standing) -> None:
            words = in_words(standing, progress.tasks[0].speed)
            progress.update(number, total=standing.entries, completed=standing.done, words=words)

        update(first)
        yield update


def in_words(standing: Standing, seen_per_s: float | None = None) -> str:
    """How fast, how long it will take, and what went wrong: `3.2/s  1.0 MB/s  7 min left  2 dead`."""
    rate_per_s = standing.rate_per_s or seen_per_s
    words = [f"{rate_per_s:.1f}/s"] if rate_per_s else []
    if standing.bytes_per_s:
        words.append(f"{show_bytes(standing.bytes_per_s)}/s")
    left_s = standing.eta_s or (standing.todo / rate_per_s if rate_per_s else None)
    if standing.todo and left_s:
        words.append(f"{show_seconds(left_s)} left")
    words += [f"{count} {what}" for what, count in (("dead", standing.dead), ("aborted", standing.aborted)) if count]
    return "  ".join(words)
