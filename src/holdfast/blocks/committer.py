"""Bringing sealed blocks to the keeper: behind the caller's back, each byte once, again when it fails.

Workers take blocks from a bounded line, put them, and sync when the line is empty or much was put. Only then is a
block COMMITTED, so its memory is there for another try until the keeper has it durably. Equal blocks on their way are
one flight, put once. A block that fails is put again after a pause that grows; when its tries are used up it is in
ERROR until somebody asks to try again. What goes into a block, and who writes, is not known here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from holdfast.blocks.bufferblock import BlockState, BufferBlock
from holdfast.blocks.keeper import BlockKeeper
from holdfast.errors import BlockError, BlockStateError
from holdfast.values import Locator

SYNC_BYTES = 64 * 1024 * 1024
"""When so much was put it is synced, even though more blocks wait."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often a block is tried, and how long to wait before each further try. Pure."""

    tries: int = 4
    first_pause_s: float = 0.1
    factor: float = 3.0
    longest_pause_s: float = 10.0

    def pause_s(self, tries_done: int) -> float:
        return min(self.first_pause_s * self.factor ** (tries_done - 1), self.longest_pause_s)


@dataclass(slots=True, eq=False)
class Flight:
    """Equal blocks on their way together."""

    locator: Locator
    blocks: list[BufferBlock]
    tries: int = 0

    def source(self) -> BufferBlock | None:
        """A block that has the bytes still, or None when nobody wants them any more."""
        return next((block for block in self.blocks if block.state is not BlockState.DELETED), None)


class Line:
    """Jobs for the workers, in order. Bounded by those who wait for room before they put something in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._jobs: deque[Flight | None] = deque()
        self._is_closed = False

    def wait_for_room(self) -> None:
        """Wait until fewer jobs wait than the limit. Raises `BlockError` when the line is closed."""
        with self._lock:
            while len(self._jobs) >= self._limit and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                raise BlockError("the block manager is stopped")

    def put(self, job: Flight | None) -> None:
        """Add a job, `None` for a sync, without waiting; nothing when the line is closed."""
        with self._lock:
            if not self._is_closed:
                self._jobs.append(job)
                self._changed.notify_all()

    def take(self) -> tuple[Flight | None] | None:
        """The next job, as soon as there is one; None when the line is closed."""
        with self._lock:
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return None
            self._changed.notify_all()
            return (self._jobs.popleft(),)

    def is_empty(self) -> bool:
        return not self._jobs

    def close(self) -> None:
        """Drop what waits, and let nobody wait any more."""
        with self._lock:
            self._is_closed = True
            self._jobs.clear()
            self._changed.notify_all()


class Committer:
    """Owns the workers. `gather` is called when a sync was requested and none is running: it seals and submits what
    has come together by then, so that all who asked meanwhile share one sync.

    `pause` waits so many seconds before a try; the default one ends when `stop` is called.
    """

    def __init__(
        self,
        keeper: BlockKeeper,
        *,
        workers: int,
        line_limit: int,
        backoff: Backoff,
        gather: Callable[[], None],
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self._keeper = keeper
        self._backoff = backoff
        self._gather = gather
        self._stopping = threading.Event()
        self._pause = pause or self._wait_or_stop
        self._line = Line(line_limit)
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        self._sync_lock = threading.Lock()
        self._flights: dict[Locator, Flight] = {}
        self._unsynced: list[Flight] = []
        self._unsynced_bytes = 0
        self._failed: dict[BufferBlock, None] = {}
        self._lost_syncs = 0
        self._sync_requested = False
        self._is_store_down = False
        self._threads = [
            # daemons: whoever interrupts even `stop` shall not wait for them; what they were told of is durable or unsaid
            threading.Thread(target=self._work, name=f"block-committer-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the workers after what each has in hand; blocks that are not durable by then are deleted."""
        self._stopping.set()
        self._line.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        with self._lock:
            left = [block for flight in self._flights.values() for block in flight.blocks] + list(self._failed)
            self._flights.clear()
            self._unsynced.clear()
            self._failed.clear()
            for block in left:
                block.delete()
            self._settled.notify_all()

    # -- asked by those who write

    def wait_for_room(self) -> None:
        """Wait until the line has room; hold no lock. Raises `BlockError` when the committer is stopped."""
        self._line.wait_for_room()

    def submit(self, block: BufferBlock) -> None:
        """A PENDING block shall be brought to the keeper. Never waits; deleted at once when the committer is stopped."""
        assert block.locator is not None, "a pending block has its name"
        with self._lock:
            if self._stopping.is_set():
                block.delete()
                return
            flight = self._flights.get(block.locator)
            if flight is not None:
                flight.blocks.append(block)
                return
            flight = self._flights[block.locator] = Flight(block.locator, [block])
        self._line.put(flight)

    def request_sync(self) -> None:
        """Have a worker gather and sync soon. Requests that come before it begins are one."""
        with self._lock:
            if self._sync_requested:
                return
            self._sync_requested = True
        self._line.put(None)

    def retry_failed(self, blocks: Iterable[BufferBlock] | None = None) -> None:
        """Send failed blocks on their way again, all of them or those given."""
        with self._lock:
            chosen = [block for block in (self._failed if blocks is None else blocks) if block in self._failed]
            for block in chosen:
                del self._failed[block]
                self._is_store_down = False
            chosen = [block for block in chosen if block.retry()]
        for block in chosen:
            self.submit(block)

    def wait_settled(self, blocks: Iterable[BufferBlock]) -> None:
        """Wait until none of the blocks is on its way, or about to be sealed by somebody."""
        for block in blocks:
            with self._lock:
                while block.state in (BlockState.WRITABLE, BlockState.PENDING):
                    self._settled.wait()

    def pending(self) -> list[BufferBlock]:
        with self._lock:
            return [block for flight in self._flights.values() for block in flight.blocks]

    def failed(self) -> list[BufferBlock]:
        with self._lock:
            return list(self._failed)

    def forget(self, block: BufferBlock) -> None:
        """The block was deleted; whoever waits for it need not."""
        with self._lock:
            self._failed.pop(block, None)
            self._settled.notify_all()

    def find(self, locator: Locator) -> BufferBlock | None:
        """A block of this name that is on its way or has failed."""
        flight = self._flights.get(locator)
        if flight is not None:
            return flight.source()
        if not self._failed:
            return None
        return next((block for block in self.failed() if block.locator == locator), None)

    # -- the workers

    def _wait_or_stop(self, pause_s: float) -> None:
        self._stopping.wait(pause_s)

    def _work(self) -> None:
        while (job := self._line.take()) is not None:
            flight = job[0]
            if flight is not None:
                self._put(flight)
            else:
                self._gather_requested()
            if self._line.is_empty() or self._is_much_unsynced():
                self._sync()

    def _gather_requested(self) -> None:
        with self._sync_lock:
            with self._lock:
                self._sync_requested = False
            self._gather()

    def _is_much_unsynced(self) -> bool:
        return self._unsynced_bytes >= SYNC_BYTES

    def _put(self, flight: Flight) -> None:
        """Put a flight, as often as it takes and may."""
        while True:
            lost_syncs = self._lost_syncs
            source = self._source_or_drop(flight)
            if source is None:
                return
            try:
                self._put_once(flight.locator, source)
            except BlockStateError:
                continue  # deleted just now; another one may have the bytes
            except BaseException as error:  # noqa: BLE001 - kept by the block; the next barrier raises it
                if not self._may_try_again(flight):
                    self._settle([flight], error)
                    return
                continue
            with self._lock:
                if lost_syncs == self._lost_syncs:  # else a sync failed meanwhile and may have lost it
                    self._unsynced.append(flight)
                    self._unsynced_bytes += flight.locator.size_bytes
                    return

    def _source_or_drop(self, flight: Flight) -> BufferBlock | None:
        with self._lock:
            source = flight.source()
            if source is None:
                del self._flights[flight.locator]
            return source

    def _put_once(self, locator: Locator, source: BufferBlock) -> None:
        if not self._keeper.has(locator):
            with source.parts() as parts:
                self._keeper.put(locator, parts)

    def _may_try_again(self, flight: Flight) -> bool:
        """Count a try; pause, if there is another one. While the store is down, one try each is enough."""
        flight.tries += 1
        if self._stopping.is_set() or self._is_store_down or flight.tries >= self._backoff.tries:
            self._is_store_down = True
            return False
        self._pause(self._backoff.pause_s(flight.tries))
        return True

    def _sync(self) -> None:
        with self._sync_lock:
            with self._lock:
                batch = list(self._unsynced)
            if not batch:
                return
            try:
                self._keeper.sync()
            except BaseException as error:  # noqa: BLE001 - kept by the blocks; the next barrier raises it
                self._sync_failed(error)
                return
            self._is_store_down = False
            with self._lock:
                del self._unsynced[: len(batch)]
                self._unsynced_bytes -= sum(flight.locator.size_bytes for flight in batch)
            self._settle(batch, None)

    def _sync_failed(self, error: BaseException) -> None:
        with self._lock:
            self._lost_syncs += 1
            lost, self._unsynced, self._unsynced_bytes = self._unsynced, [], 0
        again: list[Flight] = []
        for flight in lost:
            flight.tries += 1
            is_last = self._stopping.is_set() or self._is_store_down or flight.tries >= self._backoff.tries
            if is_last:
                self._settle([flight], error)
            else:
                again.append(flight)
        if not again:
            self._is_store_down = True
            return
        self._pause(self._backoff.pause_s(max(flight.tries for flight in again)))
        for flight in again:
            self._line.put(flight)

    def _settle(self, flights: list[Flight], error: BaseException | None) -> None:
        """The flights have ended: durable, or with an error."""
        with self._lock:
            for flight in flights:
                self._flights.pop(flight.locator, None)
                for block in flight.blocks:
                    if error is None:
                        block.committed()
                    elif block.failed(error):
                        self._failed[block] = None
            self._settled.notify_all()
