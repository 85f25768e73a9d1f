"""Whole blocks fetched ahead or on demand, within a budget of bytes; each fetched once, however many ask for it.

The cache knows a function that fetches, and nothing of stores or of blocks being written.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Literal

from holdfast.blocks.buffered.waiting import Bell
from holdfast.values import Locator

Fetched = bytes | memoryview

UNREAD_PATIENCE = 4
"""After so many others were asked for ahead in vain, what was fetched ahead and is not read by anybody is let go."""


class _Flight:
    """A fetch that runs: its leader holds the lock until it has ended, however it ends."""

    __slots__ = ("error", "fetched", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.fetched: Fetched | None = None
        self.error: Exception | None = None


class SingleFlight:
    """Runs a fetch once for all who ask for the same thing while it runs; they share its bytes, or its error.

    An interrupt of the thread that fetches is nobody else's: one of those who wait fetches then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, _Flight] = {}

    def run(self, key: Hashable, fetch: Callable[[], Fetched]) -> Fetched:
        """What `fetch` gives, or gives to somebody who asked for `key` before."""
        while True:
            mine = _Flight()
            with mine.lock:
                flight = self._join(key, mine)
                if flight is mine:
                    return self._lead(key, mine, fetch)
            with flight.lock:
                pass
            if flight.error is not None:
                raise flight.error
            if flight.fetched is not None:
                return flight.fetched
            self._end(key, flight)  # its leader was interrupted, perhaps before he could say so

    def _lead(self, key: Hashable, mine: _Flight, fetch: Callable[[], Fetched]) -> Fetched:
        try:
            fetched = mine.fetched = fetch()
        except Exception as error:
            mine.error = error
            raise
        finally:
            self._end(key, mine)
        return fetched

    def _join(self, key: Hashable, mine: _Flight) -> _Flight:
        """The flight that runs, or `mine` if there is none."""
        with self._lock:
            return self._running.setdefault(key, mine)

    def _end(self, key: Hashable, flight: _Flight) -> None:
        with self._lock:
            if self._running.get(key) is flight:
                del self._running[key]


class ReadCache:
    """Whole blocks, the least recently used let go first. For any number of threads; `stop` it.

    `budget_bytes` bounds what it keeps and what it has been asked to fetch ahead; what somebody looks at still lives
    on with him.
    """

    def __init__(self, fetch: Callable[[Locator], Fetched], budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._fetch = fetch
        self._flights = SingleFlight()
        self._lock = threading.Lock()
        self._changed = Bell()
        self._kept: OrderedDict[Locator, Fetched] = OrderedDict()
        self._unread: set[Locator] = set()
        self._refused: set[Locator] = set()
        self._ahead: deque[Locator] = deque()
        self._expected: set[Locator] = set()
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    @property
    def kept_bytes(self) -> int:
        """What is here or comes, in bytes."""
        return sum(locator.size_bytes for kept in (self._kept, self._expected) for locator in kept)

    def get(self, locator: Locator) -> Fetched | None:
        """The block if it is here, or is being fetched (then this waits for it); else None.

        Raises what the fetch raised.
        """
        if not self._kept and not self._expected:  # without the lock: the usual case, and a late answer costs a fetch
            return None
        with self._lock:
            kept = self._touch(locator)
            if kept is not None or locator not in self._expected:
                return kept
        return self.load(locator)

    def load(self, locator: Locator) -> Fetched:
        """The block, from here or fetched now; one fetch for all who ask. Raises what the fetch raises."""
        with self._lock:
            kept = self._touch(locator)
        if kept is None:
            kept = self._flights.run(locator, lambda: self._load(locator, is_read=True))
            with self._lock:
                self._is_read(locator)  # the flight may have been one of those ahead
        return kept

    def prefetch(self, locators: Iterable[Locator]) -> int:
        """Fetch blocks behind the caller's back, in this order, as far as they fit; returns how many are or come here.

        Blocks that were fetched ahead and not read yet are let go for others only when nobody reads them for long. What
        fails is heard of by who reads.
        """
        count = 0
        for locator in locators:  # the caller's: no lock is held, for he may read for it
            if not self._ask_ahead(locator):
                break
            count += 1
        return count

    def _ask_ahead(self, locator: Locator) -> bool:
        with self._lock:
            if locator in self._kept or locator in self._expected:
                return True
            if self._is_stopped or not self._make_room_ahead(locator):
                return False
            self._ahead.append(locator)
            self._expected.add(locator)
            if self._thread is None:
                # a daemon: an interrupted `stop` shall not hang on a store that does not answer
                thread = threading.Thread(target=self._run, name="block-prefetch", daemon=True)
                thread.start()
                self._thread = thread
        self._changed.ring()
        return True

    def _make_room_ahead(self, locator: Locator) -> bool:
        if self._make_room(locator.size_bytes, keep_unread=True):
            return True
        self._refused.add(locator)
        if len(self._refused) < UNREAD_PATIENCE:
            return False
        self._refused.clear()
        self._unread.clear()
        return self._make_room(locator.size_bytes, keep_unread=False)

    def forget(self, locator: Locator) -> None:
        with self._lock:
            self._drop(locator)

    def stop(self) -> None:
        """Fetch nothing ahead any more, end the thread, and let everything go."""
        with self._lock:
            self._is_stopped = True
            self._ahead.clear()
        self._changed.ring()
        thread = self._thread
        if thread is not None:
            thread.join()
        with self._lock:
            self._kept.clear()
            self._expected.clear()
            self._unread.clear()
            self._refused.clear()

    def _run(self) -> None:
        while (locator := self._changed.until(self._next)) is not False:
            try:
                self._flights.run(locator, lambda locator=locator: self._load(locator, is_read=False))
            except BaseException:  # noqa: BLE001 - whoever reads the block fetches it again, and hears of it
                continue

    def _next(self) -> Locator | Literal[False] | None:
        """The next one to fetch; False at the end."""
        with self._lock:
            if self._is_stopped:
                return False
            while self._ahead:
                locator = self._ahead.popleft()
                if locator in self._expected:  # else somebody has just fetched it
                    return locator
            return None

    def _load(self, locator: Locator, *, is_read: bool) -> Fetched:
        with self._lock:
            kept = self._kept.get(locator)
        if kept is not None:  # another flight has just ended
            return kept
        try:
            fetched = self._fetch(locator)
        except BaseException:
            with self._lock:
                self._expected.discard(locator)
            raise
        with self._lock:
            self._keep(locator, fetched, is_read=is_read)
        return fetched

    # -- what is kept; all under the lock

    def _touch(self, locator: Locator) -> Fetched | None:
        kept = self._kept.get(locator)
        if kept is not None:
            self._kept.move_to_end(locator)
            self._is_read(locator)
        return kept

    def _is_read(self, locator: Locator) -> None:
        if locator in self._unread:
            self._unread.discard(locator)
            self._refused.clear()

    def _keep(self, locator: Locator, fetched: Fetched, *, is_read: bool) -> None:
        self._expected.discard(locator)
        if self._is_stopped or not self._make_room(locator.size_bytes, keep_unread=False):
            return
        self._kept[locator] = fetched
        if not is_read:
            self._unread.add(locator)

    def _drop(self, locator: Locator) -> None:
        self._kept.pop(locator, None)
        self._unread.discard(locator)

    def _make_room(self, size_bytes: int, *, keep_unread: bool) -> bool:
        kept_bytes = self.kept_bytes
        for locator in list(self._kept):
            if kept_bytes + size_bytes <= self.budget_bytes:
                break
            if not (keep_unread and locator in self._unread):
                self._drop(locator)
                kept_bytes -= locator.size_bytes
        return kept_bytes + size_bytes <= self.budget_bytes
