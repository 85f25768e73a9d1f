"""Blocks fetched ahead: each once, within a budget, and what fails is heard of by who reads."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
from tests.unit.blocks.blockkit import PATIENCE_S, Thread, locator_of, noise

from holdfast.blocks.readcache import ReadCache, SingleFlight
from holdfast.values import Locator

pytestmark = pytest.mark.timeout(30)

DATA = {locator_of(noise(100, seed)): noise(100, seed) for seed in range(6)}
LOCATORS = list(DATA)


class Fetches:
    """Fetches from `DATA`, one permit each once `permits` is set; tells what was fetched."""

    def __init__(self) -> None:
        self.fetched: list[Locator] = []
        self.permits: threading.Semaphore | None = None
        self.error: BaseException | None = None
        self.reached = threading.Semaphore(0)

    def __call__(self, locator: Locator) -> bytes:
        self.reached.release()
        if self.permits is not None:
            assert self.permits.acquire(timeout=PATIENCE_S)
        self.fetched.append(locator)
        if self.error is not None:
            raise self.error
        return DATA[locator]


@pytest.fixture
def fetches() -> Fetches:
    return Fetches()


@pytest.fixture
def cache(fetches: Fetches) -> Generator[ReadCache, None, None]:
    cache = ReadCache(fetches, 250)
    yield cache
    cache.stop()
    assert cache.kept_bytes == 0


def test_what_was_loaded_is_kept_as_far_as_it_fits(cache: ReadCache, fetches: Fetches) -> None:
    for locator in LOCATORS[:3]:
        assert cache.load(locator) == DATA[locator]
    assert cache.kept_bytes == 200
    assert cache.get(LOCATORS[0]) is None
    assert cache.get(LOCATORS[1]) == cache.load(LOCATORS[1]) == DATA[LOCATORS[1]]
    cache.load(LOCATORS[3])
    assert cache.get(LOCATORS[2]) is None  # used less recently than the first
    assert fetches.fetched == LOCATORS[:4]
    cache.forget(LOCATORS[1])
    cache.forget(LOCATORS[1])
    assert cache.get(LOCATORS[1]) is None
    assert cache.kept_bytes == 100


def test_who_reads_what_is_being_fetched_waits_for_it(cache: ReadCache, fetches: Fetches) -> None:
    fetches.permits = threading.Semaphore(0)
    assert cache.prefetch(LOCATORS) == 2
    assert fetches.reached.acquire(timeout=PATIENCE_S)
    reading = Thread(cache.get, LOCATORS[0])
    fetches.permits.release(2)
    assert reading.join_result() == DATA[LOCATORS[0]]
    assert cache.get(LOCATORS[1]) == DATA[LOCATORS[1]]
    assert fetches.fetched == LOCATORS[:2]


def test_what_was_fetched_ahead_and_not_read_is_not_let_go_for_more_ahead(cache: ReadCache, fetches: Fetches) -> None:
    assert cache.prefetch(LOCATORS[:2]) == 2
    assert cache.prefetch(LOCATORS[2:3]) == 0
    assert cache.get(LOCATORS[0]) is not None
    assert cache.get(LOCATORS[1]) is not None
    assert cache.prefetch(LOCATORS[2:]) == 2
    assert cache.get(LOCATORS[2]) is not None
    assert cache.get(LOCATORS[3]) is not None
    assert sorted(map(str, fetches.fetched)) == sorted(map(str, LOCATORS[:4]))


def test_a_fetch_ahead_that_fails_is_heard_of_by_who_reads(cache: ReadCache, fetches: Fetches) -> None:
    fetches.error = OSError("no")
    fetches.permits = threading.Semaphore(1)
    assert cache.prefetch(LOCATORS[:2]) == 2
    for _ in range(2):  # the first has ended when the second is begun
        assert fetches.reached.acquire(timeout=PATIENCE_S)
    assert cache.get(LOCATORS[0]) is None
    assert cache.kept_bytes == 100
    fetches.permits.release(9)
    with pytest.raises(OSError, match="no"):
        cache.load(LOCATORS[0])
    fetches.error = None
    assert cache.load(LOCATORS[0]) == DATA[LOCATORS[0]]


def test_a_block_larger_than_the_cache_is_loaded_and_not_kept(fetches: Fetches) -> None:
    cache = ReadCache(fetches, 50)
    assert cache.load(LOCATORS[0]) == DATA[LOCATORS[0]]
    assert cache.prefetch(LOCATORS) == 0
    assert cache.kept_bytes == 0
    cache.stop()


def test_after_stop_nothing_is_fetched_ahead(fetches: Fetches) -> None:
    cache = ReadCache(fetches, 250)
    fetches.permits = threading.Semaphore(0)
    assert cache.prefetch(LOCATORS) == 2
    assert fetches.reached.acquire(timeout=PATIENCE_S)
    stopping = Thread(cache.stop)
    fetches.permits.release(1)
    stopping.join_result()
    assert cache.prefetch(LOCATORS) == 0
    assert fetches.fetched == LOCATORS[:1]


def test_those_who_share_a_fetch_share_its_error() -> None:
    flights, begun, go_on = SingleFlight(), threading.Event(), threading.Event()

    def fetch() -> bytes:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        raise OSError("no")

    first = Thread(flights.run, "key", fetch)
    assert begun.wait(PATIENCE_S)
    shared = flights._join("key")
    assert shared is not None
    go_on.set()
    with pytest.raises(OSError, match="no"):
        first.join_result()
    with pytest.raises(OSError, match="no"):
        shared.result(PATIENCE_S)
    assert flights.run("key", lambda: b"anew") == b"anew"


def test_who_waits_for_a_fetch_ahead_has_read_it(cache: ReadCache, fetches: Fetches) -> None:
    fetches.permits = threading.Semaphore(0)
    assert cache.prefetch(LOCATORS[:2]) == 2
    assert fetches.reached.acquire(timeout=PATIENCE_S)
    waiting = threading.Thread(target=lambda: [cache.get(locator) for locator in LOCATORS[:2]])
    waiting.start()
    fetches.permits.release(9)
    waiting.join(PATIENCE_S)
    assert cache.prefetch(LOCATORS[2:4]) == 2
