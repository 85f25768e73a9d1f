"""How fast and how long; a clock that goes on when it is slept on."""

from __future__ import annotations

import pytest

from holdfast.scrubbing import pace
from holdfast.scrubbing.request import ScrubRequest


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_it_waits_until_what_was_read_is_due(clock: Clock) -> None:
    paced = pace.Pace(ScrubRequest(rate_bytes_s=10))
    paced.wait_for(30, lambda: None)
    paced.wait_for(20, lambda: None)
    assert clock.now_s == pytest.approx(105.0)


def test_it_does_not_wait_without_a_rate(clock: Clock) -> None:
    pace.Pace(ScrubRequest()).wait_for(10**12, lambda: None)
    assert clock.now_s == 100.0


def test_waiting_can_be_stopped_at_once(clock: Clock) -> None:
    def asked_to_stop() -> None:
        if clock.now_s > 101:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pace.Pace(ScrubRequest(rate_bytes_s=1)).wait_for(10**6, asked_to_stop)
    assert clock.now_s < 102


def test_it_is_over_when_it_was_to_be(clock: Clock) -> None:
    paced = pace.Pace(ScrubRequest(for_s=5))
    assert not paced.is_over()
    clock.sleep(5)
    assert paced.is_over()
    assert not pace.Pace(ScrubRequest()).is_over()
