"""Showing: errors, JSON documents, and work in progress as a bar on a terminal or plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from holdfast.cli.stopping import stoppable
from holdfast.errors import HoldfastError
from holdfast.reports import Stage, Watch

TICK_S = 0.2


def console() -> Console:
    """For words on standard output. Made anew, so that it follows a redirected stream."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def print_line(text: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def when(time_ns: int) -> str:
    """A time for people, as the clock on the wall here shows it."""
    try:
        return datetime.fromtimestamp(time_ns // 10**9, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return f"{time_ns // 10**9} s"  # no calendar of ours goes there; seconds since 1970


def print_json(document: Any) -> None:
    """One JSON document on standard output, and nothing else."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_error(error: HoldfastError, *, as_json: bool) -> None:
    """What happened, where, expected and found, and the next command to run."""
    if as_json:
        print_json(error.facts() | {"exit_code": error.exit_code})
        return
    out = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for number, (name, text) in enumerate(error.facts().items()):
        out.print(
            Text(f"holdfast: {text}" if number == 0 else f"  {name + ':':<10}{text}", "bold red" if number == 0 else "")
        )


def show_warning(error: HoldfastError) -> None:
    """What was got round, on standard error."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"got round: {error}")


class PlainWatch:
    """A line when something has become durable; nothing while it has not."""

    def stage(self, name: str, total_bytes: int = 0) -> AbstractContextManager[Stage]:
        return stoppable(name, total_bytes)

    def say(self, text: str) -> None:
        print_line(text)


class QuietWatch(PlainWatch):
    """Nothing at all: for those who want one JSON document."""

    def say(self, text: str) -> None:
        """Say nothing."""


class BarWatch:
    """A progress bar for each stage, on a terminal."""

    def __init__(self, out: Console) -> None:
        self._out = out

    @contextmanager
    def stage(self, name: str, total_bytes: int = 0) -> Generator[Stage, None, None]:
        columns = (
            TextColumn(f"{name:<9}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
        )
        with (
            stoppable(name, total_bytes) as stage,
            Progress(*columns, console=self._out, transient=True) as progress,
        ):
            task = progress.add_task(name, total=total_bytes or None)
            done = threading.Event()

            def follow() -> None:
                while not done.wait(TICK_S):
                    progress.update(task, completed=stage.done_bytes)

            follower = threading.Thread(target=follow, name="progress")
            follower.start()
            try:
                yield stage
            finally:
                done.set()
                follower.join()
                progress.update(task, completed=stage.done_bytes)

    def say(self, text: str) -> None:
        self._out.print(Text(f"  {text}", "green"))


def watch(*, as_json: bool) -> Watch:
    """Who watches: nobody when JSON is wanted, bars on a terminal, plain lines elsewhere."""
    if as_json:
        return QuietWatch()
    out = console()
    return BarWatch(out) if out.is_terminal else PlainWatch()
