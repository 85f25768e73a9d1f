"""Where a tracker stands, and how long the rest will take. Pure: from numbers that others have counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.state.tasks import Tally

Span: TypeAlias = "tuple[int, int, int | None]"
"""An attempt: when it began and ended, in ns, and how many bytes it moved, where that was told."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a tracker stands. `rate_per_s` is that of the time in which anybody was at work, of the last attempts.

    `eta_s` is how much of such time is left, as far as that can be told: by the bytes that are left, where the values of
    tasks say how large they are (`size_bytes`).
    """

    entries: int
    done: int
    tried: int
    aborted: int
    dead: int
    leased: int
    todo: int
    todo_bytes: int
    rate_per_s: float | None
    bytes_per_s: float | None
    eta_s: float | None


def progress(tally: Tally, attempts: Sequence[Span]) -> Progress:
    """From what is there, and from the last successful attempts."""
    busy_s = _busy_s([(begun_ns, ended_ns) for begun_ns, ended_ns, _ in attempts])
    sized = [(begun_ns, ended_ns, size) for begun_ns, ended_ns, size in attempts if size is not None]
    sizes, sized_s = [size for _, _, size in sized], _busy_s([(begun_ns, ended_ns) for begun_ns, ended_ns, _ in sized])
    rate_per_s = len(attempts) / busy_s if busy_s else None
    bytes_per_s = sum(sizes) / sized_s if sized_s and any(sizes) else None
    return Progress(
        tally.entries,
        tally.done,
        tally.tried,
        tally.aborted,
        tally.dead,
        tally.leased,
        tally.todo,
        tally.todo_bytes,
        rate_per_s,
        bytes_per_s,
        _eta_s(tally, rate_per_s, bytes_per_s, sum(sizes) / len(sizes) if sizes else 0.0),
    )


def _eta_s(tally: Tally, rate_per_s: float | None, bytes_per_s: float | None, mean_bytes: float) -> float | None:
    """By bytes where any are known to be left; tasks that do not say are as large as those that were done."""
    if bytes_per_s and tally.todo_sized:
        return (tally.todo_bytes + (tally.todo - tally.todo_sized) * mean_bytes) / bytes_per_s
    return tally.todo / rate_per_s if rate_per_s else None


def _busy_s(spans: list[tuple[int, int]]) -> float:
    """How long anybody was at work: spans that overlap count once, and the time between them not at all."""
    total_ns, end_ns = 0, 0
    for begun, ended in sorted(spans):
        total_ns += max(0, ended - max(begun, end_ns))
        end_ns = max(end_ns, ended)
    return total_ns / 1e9


def percent(fraction: float, decimals: int = 2) -> str:
    """As text: `34.70 %`."""
    return f"{100 * fraction:.{decimals}f} %"
