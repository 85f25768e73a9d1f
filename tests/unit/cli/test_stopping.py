"""Ctrl-C that is swallowed, or comes amid a stage."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from holdfast.cli import stopping


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    before = signal.getsignal(signal.SIGINT)
    stopping.listen()
    yield
    stopping.listen()
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def work(steps: list[str], *, interruptions: int) -> None:
    with stopping.stoppable("dump", 10) as stage:
        for _ in range(interruptions):
            interrupt()
        steps.append("the other half of a commit")
        stage.advance(1)
        steps.append("went on")


@pytest.mark.parametrize(("interruptions", "steps"), [(1, ["the other half of a commit"]), (2, [])])
def test_the_first_ctrl_c_amid_a_stage_waits_for_progress_the_second_does_not(
    interruptions: int, steps: list[str]
) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work(done, interruptions=interruptions)
    assert done == steps


def test_ctrl_c_that_a_callback_swallowed_stops_the_next_stage() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        interrupt()
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work(done, interruptions=0)
    assert done == []
