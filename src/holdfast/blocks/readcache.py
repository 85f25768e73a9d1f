"""Whole blocks fetched ahead or on demand, within a budget of bytes; each fetched once, however many ask for it.

The cache knows a function that fetches, and nothing of stores or of blocks being written.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future

from holdfast.values import Locator

Fetched = bytes | memoryview


class SingleFlight:
    """Runs a fetch once for all who ask for the same thing while it runs; they share its bytes, or its error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, Future[Fetched] | None] = {}

    def run(self, key: Hashable, fetch: Callable[[], Fetched]) -> Fetched:
        """What `fetch` gives, or gives to somebody who asked for `key` before."""
        shared = self._join(key)
        if shared is not None:
            return shared.result()
        try:
            fetched = fetch()
        except BaseException as error:
            waiting = self._end(key)
            if waiting is not None:
                waiting.set_exception(error)
            raise
        waiting = self._end(key)
        if waiting is not None:
            waiting.set_result(fetched)
        return fetched

    def _join(self, key: Hashable) -> Future[Fetched] | None:
        with self._lock:
            if key not in self._running:
                self._running[key] = None  # most fetches are never shared, and need nothing to wait on
                return None
            shared = self._running[key]
            if shared is None:
                shared = self._running[key] = Future()
            return shared

    def _end(self, key: Hashable) -> Future[Fetched] | None:
        with self._lock:
            return self._running.pop(key)


class ReadCache:
    """Whole blocks, the least recently used let go first. For any number of threads; `stop` it.

    `budget_bytes` bounds what it keeps and what it has been asked to fetch ahead; what somebody looks at still lives
    on with him.
    """

    def __init__(self, fetch: Callable[[Locator], Fetched], budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.kept_bytes = 0
        self._fetch = fetch
        self._flights = SingleFlight()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._kept: OrderedDict[Locator, Fetched] = OrderedDict()
        self._unread: set[Locator] = set()
        self._ahead: deque[Locator] = deque()
        self._expected: set[Locator] = set()
        self._thread: threading.Thread | None = None
        self._is_stopped = False

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
                self._unread.discard(locator)  # the flight may have been one of those ahead
        return kept

    def prefetch(self, locators: Iterable[Locator]) -> int:
        """Fetch blocks behind the caller's back, in this order, as far as they fit; returns how many are or come here.

        Blocks that were fetched ahead and not read yet are not let go for others. What fails is heard of by who reads.
        """
        count = 0
        with self._lock:
            for locator in locators:
                if locator not in self._kept and locator not in self._expected:
                    if self._is_stopped or not self._make_room(locator.size_bytes, keep_unread=True):
                        break
                    self._expect(locator)
                count += 1
            self._changed.notify()
        return count

    def _expect(self, locator: Locator) -> None:
        self._expected.add(locator)
        self._ahead.append(locator)
        self.kept_bytes += locator.size_bytes
        if self._thread is None:
            # a daemon: an interrupted `stop` shall not hang on a store that does not answer
            self._thread = threading.Thread(target=self._run, name="block-prefetch", daemon=True)
            self._thread.start()

    def forget(self, locator: Locator) -> None:
        with self._lock:
            self._drop(locator)

    def stop(self) -> None:
        """Fetch nothing ahead any more, end the thread, and let everything go."""
        with self._lock:
            self._is_stopped = True
            self._ahead.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._lock:
            self._kept.clear()
            self._expected.clear()
            self._unread.clear()
            self.kept_bytes = 0

    def _run(self) -> None:
        while (locator := self._next()) is not None:
            try:
                self._flights.run(locator, lambda locator=locator: self._load(locator, is_read=False))
            except BaseException:  # noqa: BLE001 - whoever reads the block fetches it again, and hears of it
                continue

    def _next(self) -> Locator | None:
        with self._lock:
            while not self._is_stopped:
                if not self._ahead:
                    self._changed.wait()
                elif (locator := self._ahead.popleft()) in self._expected:  # else somebody has just fetched it
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
                self._give_up(locator)
            raise
        with self._lock:
            self._keep(locator, fetched, is_read=is_read)
        return fetched

    # -- what is kept; all under the lock

    def _touch(self, locator: Locator) -> Fetched | None:
        kept = self._kept.get(locator)
        if kept is not None:
            self._kept.move_to_end(locator)
            self._unread.discard(locator)
        return kept

    def _give_up(self, locator: Locator) -> None:
        if locator in self._expected:
            self._expected.discard(locator)
            self.kept_bytes -= locator.size_bytes

    def _keep(self, locator: Locator, fetched: Fetched, *, is_read: bool) -> None:
        self._give_up(locator)
        if self._is_stopped or not self._make_room(locator.size_bytes, keep_unread=False):
            return
        self._kept[locator] = fetched
        self.kept_bytes += locator.size_bytes
        if not is_read:
            self._unread.add(locator)

    def _drop(self, locator: Locator) -> None:
        if self._kept.pop(locator, None) is not None:
            self._unread.discard(locator)
            self.kept_bytes -= locator.size_bytes

    def _make_room(self, size_bytes: int, *, keep_unread: bool) -> bool:
        for locator in list(self._kept):
            if self.kept_bytes + size_bytes <= self.budget_bytes:
                break
            if not (keep_unread and locator in self._unread):
                self._drop(locator)
        return self.kept_bytes + size_bytes <= self.budget_bytes
