"""Waiting: who has a ticket hears the bell, and a ring that was interrupted is made up for."""

from __future__ import annotations

import threading

import pytest
from tests.unit.blocks.buffered.blockkit import Thread

from holdfast.blocks.buffered.waiting import Bell, Trust
from holdfast.errors import BlockError


def test_a_ring_after_the_ticket_is_heard() -> None:
    bell = Bell()
    first, second = bell.ticket(), bell.ticket()
    bell.ring()
    bell.wait(first)
    bell.wait(second)
    late = bell.ticket()
    assert late.locked()
    bell._forget(late)
    bell.ring()
    assert late.locked()


def test_what_is_waited_for_is_given() -> None:
    bell, found, looked = Bell(), list[int](), threading.Semaphore(0)

    def look() -> int | None:
        looked.release()
        return found[0] if found else None

    waiting = Thread(bell.until, look)
    for _ in range(2):
        looked.acquire()
    found.append(7)
    bell.ring()
    assert waiting.join_result() == 7
    assert len(bell._tickets) == 0


def test_a_change_that_nobody_told_of_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.blocks.buffered.waiting.LOOK_AGAIN_S", 0.001)
    looks = iter([None, None, None, "found"])
    bell = Bell()
    assert bell.until(lambda: next(looks)) == "found"
    assert len(bell._tickets) == 0


def test_trust_that_is_lost_says_why() -> None:
    trust = Trust()
    trust.check()
    trust.lost = KeyboardInterrupt("twice")
    with pytest.raises(BlockError, match=r"KeyboardInterrupt\('twice'\)"):
        trust.check()
