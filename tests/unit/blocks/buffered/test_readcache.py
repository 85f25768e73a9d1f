"""Blocks fetched ahead: each once, within a budget, and what fails is heard of by who reads."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
from tests.unit.blocks.buffered.blockkit import PATIENCE_S, Thread, locator_of, noise

from holdfast.blocks.buffered.readcache import ReadCache, SingleFlight
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


class Joins(SingleFlight):
    """Says when somebody comes."""

    def __init__(self) -> None:
        super().__init__()
        self.joined = threading.Semaphore(0)

    def _join(self, key: object, mine: object) -> object:  # type: ignore[override]
        found = super()._join(key, mine)  # type: ignore[arg-type]
        self.joined.release()
        return found

    def wait_joined(self) -> None:
        assert self.joined.acquire(timeout=PATIENCE_S)


class SharedFetch:
    """The first fetch waits for `go_on` and ends with `error`; later ones are good."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error
        self.go_on = threading.Event()

    def __call__(self) -> bytes:
        error, self.error = self.error, None
        if error is None:
            return b"anew"
        assert self.go_on.wait(PATIENCE_S)
        raise error


def test_those_who_share_a_fetch_share_its_error() -> None:
    flights, fetch = Joins(), SharedFetch(OSError("no"))
    threads = [Thread(flights.run, "key", fetch)]
    flights.wait_joined()
    threads.append(Thread(flights.run, "key", fetch))
    flights.wait_joined()
    fetch.go_on.set()
    for thread in threads:
        with pytest.raises(OSError, match="no"):
            thread.join_result()
    assert flights.run("key", fetch) == b"anew"


def test_an_interrupt_of_the_thread_that_fetches_is_not_raised_in_those_who_share_it() -> None:
    flights, fetch = Joins(), SharedFetch(KeyboardInterrupt())
    leader = Thread(flights.run, "key", fetch)
    flights.wait_joined()
    innocent = Thread(flights.run, "key", fetch)
    flights.wait_joined()
    fetch.go_on.set()
    assert innocent.join_result() == b"anew"
    with pytest.raises(KeyboardInterrupt):
        leader.join_result()


def test_a_key_does_not_stay_running_when_its_leader_is_interrupted_before_he_fetches() -> None:
    flights, fetch = SingleFlight(), SharedFetch(KeyboardInterrupt())
    fetch.error = None
    real_lead = flights._lead
    flights._lead = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        flights.run("key", fetch)
    flights._lead = real_lead  # type: ignore[method-assign]
    assert Thread(flights.run, "key", fetch).join_result() == b"anew"


def interrupt(*_: object) -> bytes:
    raise KeyboardInterrupt


def test_what_is_to_be_fetched_ahead_may_come_from_a_reader(cache: ReadCache, fetches: Fetches) -> None:
    def names() -> Generator[Locator, None, None]:
        assert cache.load(LOCATORS[0])  # an index, which says what comes
        yield LOCATORS[1]

    assert Thread(cache.prefetch, names()).join_result() == 1
    assert cache.get(LOCATORS[1]) == DATA[LOCATORS[1]]


def test_what_nobody_reads_is_let_go_when_others_are_asked_for_often(cache: ReadCache, fetches: Fetches) -> None:
    assert cache.prefetch(LOCATORS[:2]) == 2
    while len(cache._kept) < 2:
        threading.Event().wait(0.001)
    for number in (2, 3, 4) * 2:  # the same ones again and again do not count
        assert cache.prefetch([LOCATORS[number]]) == 0
    assert cache.prefetch(LOCATORS[5:]) == 1
    assert cache.prefetch(LOCATORS[2:]) == 1  # the other one is not waited for any longer, either
    assert cache.get(LOCATORS[5]) == DATA[LOCATORS[5]]
    assert cache.kept_bytes <= cache.budget_bytes


def test_who_waits_for_a_fetch_ahead_has_read_it(cache: ReadCache, fetches: Fetches) -> None:
    fetches.permits = threading.Semaphore(0)
    assert cache.prefetch(LOCATORS[:2]) == 2
    assert fetches.reached.acquire(timeout=PATIENCE_S)
    waiting = threading.Thread(target=lambda: [cache.get(locator) for locator in LOCATORS[:2]])
    waiting.start()
    fetches.permits.release(9)
    waiting.join(PATIENCE_S)
    assert cache.prefetch(LOCATORS[2:4]) == 2
