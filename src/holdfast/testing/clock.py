"""Time that only moves when a test says so."""

from __future__ import annotations

from typing import Protocol

NS_PER_SECOND = 1_000_000_000


class Clock(Protocol):
    """What code needs of time, so that a test can give it another one."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970 (UTC)."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some moment in the past; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Come back after `seconds`."""
        ...


class FakeClock:
    """A `Clock` that stands still except for `advance` and `sleep`, which both return at once.

    `slept_s` lists the sleeps that were asked for. The wall clock may be set back (`set_now_ns`) as an operator
    would; the monotonic one cannot be.
    """

    def __init__(self, start_ns: int = 1_700_000_000 * NS_PER_SECOND) -> None:
        self._wall_ns = start_ns
        self._monotonic_ns = 0
        self.slept_s: list[float] = []

    def now_ns(self) -> int:
        """Nanoseconds since 1970 (UTC), virtually."""
        return self._wall_ns

    def monotonic_s(self) -> float:
        """Seconds since the clock was made, virtually."""
        return self._monotonic_ns / NS_PER_SECOND

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Raises `ValueError` if they are negative."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds} s")
        step_ns = round(seconds * NS_PER_SECOND)
        self._wall_ns += step_ns
        self._monotonic_ns += step_ns

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass and note it in `slept_s`; never waits."""
        self.advance(seconds)
        self.slept_s.append(seconds)

    def set_now_ns(self, now_ns: int) -> None:
        """Set the wall clock, forward or back, without any time passing."""
        self._wall_ns = now_ns
