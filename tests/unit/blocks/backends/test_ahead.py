"""Reading ahead: in order, no further than one, and whatever goes wrong is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from holdfast.blocks.backends.ahead import ReadAhead


def parts(count: int, *, then: BaseException | None = None) -> Iterator[memoryview]:
    for number in range(count):
        yield memoryview(bytes([number]))
    if then is not None:
        raise then


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_all_parts_come_in_order_and_then_no_more(count: int) -> None:
    ahead = ReadAhead(parts(count))
    assert [part[0] for part in ahead] == list(range(count))
    assert next(ahead, None) is None
    ahead.close()


def test_law_9_it_reads_one_ahead_and_no_more() -> None:
    begun = [threading.Event() for _ in range(4)]

    def watched() -> Iterator[memoryview]:
        for event in begun:
            event.set()
            yield memoryview(b"x")

    ahead = ReadAhead(watched())
    assert begun[1].wait(10)
    next(ahead)
    assert begun[2].wait(10)
    assert not begun[3].is_set()
    ahead.close()


@pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt()])
def test_what_reading_raises_is_raised(error: BaseException) -> None:
    ahead = ReadAhead(parts(2, then=error))
    assert [next(ahead)[0], next(ahead)[0]] == [0, 1]
    with pytest.raises(type(error)):
        next(ahead)
    assert next(ahead, None) is None
    ahead.close()


def test_closing_ends_the_thread_wherever_it_is() -> None:
    before = threading.active_count()
    for taken in range(4):
        ahead = ReadAhead(parts(10))
        for _ in range(taken):
            next(ahead)
        ahead.close()
    assert threading.active_count() == before
