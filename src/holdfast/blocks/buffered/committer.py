"""Bringing sealed blocks to the keeper: behind the caller's back, each byte once, again when it fails.

Workers take blocks from a bounded line, put them, and sync when the line is empty or much was put. Only then is a
block COMMITTED, so its memory is there for another try until the keeper has it durably. Equal blocks on their way are
one flight, put once, unless what was found for the first is not safe for the next (`BlockKeeper.look`). A block that
fails is put again after a pause that grows; when its tries are used up it is in ERROR until somebody asks to try again.
What was put and then lost, because somebody else's sync of the same keeper failed, is put again. What goes into a block,
and who writes, is not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from holdfast.blocks.buffered.blockstate import BlockState
from holdfast.blocks.buffered.bufferblock import BufferBlock
from holdfast.blocks.buffered.keeper import BlockKeeper
from holdfast.blocks.buffered.line import Flight, Line
from holdfast.blocks.buffered.waiting import Bell, Trust
from holdfast.errors import BlockStateError
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
        pause: Callable[[float], object] | None = None,
        trust: Trust | None = None,
    ) -> None:
        self._keeper = keeper
        self._backoff = backoff
        self._gather = gather
        self._trust = trust or Trust()
        self._is_stopping = False
        self._until_stop = threading.Lock()
        self._until_stop.acquire()
        self._pause = pause or self._wait_or_stop
        self._line = Line(line_limit, self._trust)
        self._lock = threading.Lock()
        self._settled = Bell()
        self._sync_lock = threading.Lock()
        self._flights: dict[BufferBlock, Flight] = {}  # that a block is on its way in
        self._open_flights: dict[Locator, Flight] = {}  # that an equal block may join
        self._unsynced: list[Flight] = []
        self._failed: dict[BufferBlock, None] = {}
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
        """End the workers after what each has in hand; blocks that are not durable by then are deleted.

        Interrupted, it has deleted them all the same, and a second call waits for the workers again.
        """
        try:
            self._tell_stop()
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
            self._let_go()
        except BaseException:
            self._tell_stop()
            self._let_go()
            raise

    def _tell_stop(self) -> None:
        with self._lock:
            if not self._is_stopping:
                self._is_stopping = True
                self._until_stop.release()
        self._line.close()

    def _let_go(self) -> None:
        with self._lock:
            for block in (*self._flights, *self._failed):
                block.delete()
            self._flights.clear()
            self._open_flights.clear()
            self._unsynced.clear()
            self._failed.clear()
        self._settled.ring()

    # -- asked by those who write

    def wait_for_room(self) -> None:
        """Wait until the line has room; hold no lock. Raises `BlockError` when the committer is stopped."""
        self._line.wait_for_room()

    def submit(self, block: BufferBlock) -> None:
        """A PENDING block shall be brought to the keeper. Never waits; deleted at once when the committer is stopped.

        It may be called again for a block whose call was interrupted.
        """
        with self._lock:
            if self._is_stopping:
                block.delete()
            elif block.state is BlockState.PENDING:
                self._enqueue(block)
        if self._is_stopping:
            self._settled.ring()

    def _enqueue(self, block: BufferBlock) -> None:
        assert block.locator is not None, "a pending block has its name"
        flight = self._flights.get(block) or self._flight_for(block.locator)
        if block not in flight.blocks:
            flight.blocks.append(block)
        self._flights[block] = flight
        self._line.put(flight)

    def _flight_for(self, locator: Locator) -> Flight:
        look, flight = self._keeper.look, self._open_flights.get(locator)
        if flight is None or flight.look != look:
            flight = self._open_flights[locator] = Flight(locator, [], look)
        return flight

    def request_sync(self) -> None:
        """Have a worker gather and sync soon. Requests that come before it begins are one."""
        self._line.put(None)

    def retry_failed(self, blocks: Sequence[BufferBlock] | None = None) -> None:
        """Send failed blocks on their way again, all of them or those given."""
        if not self._failed:
            return
        try:
            self._retry(blocks)
        except BaseException as error:
            try:
                self._retry(blocks)  # to its end
            except BaseException:
                self._trust.lost = error
                raise
            raise

    def _retry(self, blocks: Sequence[BufferBlock] | None) -> None:
        with self._lock:  # in one: nobody who looks sees a block in neither place
            for block in list(self._failed if blocks is None else blocks):
                if block in self._failed:
                    self._is_store_down = False
                    if block.retry() or block.state is BlockState.PENDING:
                        self._enqueue(block)
                    self._failed.pop(block, None)

    def wait_settled(self, blocks: Iterable[BufferBlock]) -> None:
        """Wait until none of the blocks is on its way; one that is WRITABLE is to be sealed when things are gathered.

        Others may have sent one that failed on its way again by then.
        """
        for block in blocks:
            self._settled.until(lambda block=block: self._is_settled(block))

    def _is_settled(self, block: BufferBlock) -> bool | None:
        if block.state not in (BlockState.WRITABLE, BlockState.PENDING):
            return True
        self._trust.check()
        if block.state is BlockState.WRITABLE:
            self.request_sync()
        return None

    def unstored(self) -> list[BufferBlock]:
        """What is on its way, and what has failed; in one look, as a block may go from either to the other."""
        with self._lock:
            return [*self._flights, *self._failed]

    def failed(self) -> list[BufferBlock]:
        with self._lock:
            return list(self._failed)

    def forget(self, block: BufferBlock) -> None:
        """The block was deleted; whoever waits for it need not."""
        with self._lock:
            self._failed.pop(block, None)
        self._settled.ring()

    def find(self, locator: Locator) -> BufferBlock | None:
        """A block of this name that is on its way or has failed."""
        with self._lock:
            flight = self._open_flights.get(locator)
            if flight is not None:
                return flight.source()
            return next((block for block in self._failed if block.locator == locator), None)

    # -- the workers

    def _wait_or_stop(self, pause_s: float) -> None:
        if self._until_stop.acquire(timeout=pause_s):
            self._until_stop.release()  # the next one does not wait, either

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
            self._line.done(None)
            try:
                self._gather()
            except BaseException:  # noqa: BLE001 - what was not sealed is writable still; who waits for it asks again
                return

    def _is_much_unsynced(self) -> bool:
        with self._lock:
            return sum(flight.locator.size_bytes for flight in self._unsynced) >= SYNC_BYTES

    def _put(self, flight: Flight) -> None:
        """Put a flight, as often as it takes and may."""
        while (source := self._source_or_drop(flight)) is not None:
            flight.epoch = self._keeper.epoch  # before anything is looked for or put in it
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
                self._unsynced.append(flight)
            return

    def _source_or_drop(self, flight: Flight) -> BufferBlock | None:
        with self._lock:
            source = flight.source()
            if source is None:
                self._end(flight)
            return source

    def _end(self, flight: Flight) -> None:
        if self._open_flights.get(flight.locator) is flight:
            del self._open_flights[flight.locator]
        for block in flight.blocks:
            self._flights.pop(block, None)
        self._line.done(flight)

    def _put_once(self, locator: Locator, source: BufferBlock) -> None:
        if not self._keeper.has(locator):
            with source.parts() as parts:
                source.check_name(parts)
                self._keeper.put(locator, parts)

    def _is_last_try(self, flight: Flight) -> bool:
        """Count a try. While the store is down, one each is enough."""
        flight.tries += 1
        return self._is_stopping or self._is_store_down or flight.tries >= self._backoff.tries

    def _may_try_again(self, flight: Flight) -> bool:
        """Count a try; pause, if there is another one."""
        if self._is_last_try(flight):
            self._is_store_down = True
            return False
        self._pause(self._backoff.pause_s(flight.tries))
        return True

    def _sync(self) -> None:
        with self._sync_lock:
            epoch = self._keeper.epoch
            with self._lock:
                batch = [flight for flight in self._unsynced if flight.epoch == epoch]
                lost = [flight for flight in self._unsynced if flight.epoch != epoch]
                self._unsynced = batch.copy()
            self._put_in_line(lost)  # somebody else's sync has failed
            if not batch:
                return
            try:
                self._keeper.sync(epoch)
            except BaseException as error:  # noqa: BLE001 - kept by the blocks; the next barrier raises it
                self._sync_failed(error)
                return
            self._is_store_down = False
            with self._lock:
                del self._unsynced[: len(batch)]
            self._settle(batch, None)

    def _put_in_line(self, flights: Iterable[Flight]) -> None:
        for flight in flights:
            self._line.done(flight)
            self._line.put(flight)

    def _sync_failed(self, error: BaseException) -> None:
        with self._lock:
            unsynced, self._unsynced = self._unsynced, []
        last = [flight for flight in unsynced if self._is_last_try(flight)]
        again = [flight for flight in unsynced if flight not in last]
        self._settle(last, error)
        if not again:
            self._is_store_down = True
            return
        self._pause(self._backoff.pause_s(max(flight.tries for flight in again)))
        self._put_in_line(again)

    def _settle(self, flights: Sequence[Flight], error: BaseException | None) -> None:
        """The flights have ended: durable, or with an error."""
        with self._lock:
            for flight in flights:
                for block in flight.blocks:
                    if error is None:
                        block.committed()
                    elif block.failed(error):
                        self._failed[block] = None
                self._end(flight)
        self._settled.ring()
