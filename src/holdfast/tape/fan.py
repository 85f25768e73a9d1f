"""One read feeds both drives: a ring of reused record buffers, and a writer thread for each drive.

The producer fills a record; when it is full it goes to every drive, and its buffer comes back when the slowest has
written it. So the source is read once, memory is bounded, and no drive waits for the other by more than the ring.

The drives get nothing before the ring is full, or there is no more to come: a tape that starts while its source still
begins slowly runs out of data, stops and goes back. After each `wait` the ring is filled anew, as the tapes stand.
"""

from __future__ import annotations

import mmap
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from blake3 import blake3

from holdfast.errors import MediaError
from holdfast.tape.drive.protocol import EarlyWarning, EndOfMedium, TapeDrive

RING_BYTES = 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Record:
    view: memoryview
    writers_left: int = 0


@dataclass(slots=True, eq=False)
class _Barrier:
    """Reached when everything before it was done or given up."""

    reached: threading.Event = field(default_factory=threading.Event)


_Work = _Record | _Barrier | Callable[[TapeDrive], None]


class _Ring:
    """The record buffers: each is free, or with those writers that have not written it yet."""

    def __init__(self, record_bytes: int) -> None:
        self._free: queue.SimpleQueue[_Record] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.count = max(4, RING_BYTES // record_bytes)
        memory = memoryview(mmap.mmap(-1, self.count * record_bytes))
        for number in range(self.count):
            self._free.put(_Record(memory[number * record_bytes : (number + 1) * record_bytes]))

    def take(self) -> _Record:
        """A free record; waits for one."""
        return self._free.get()

    def give_back(self, record: _Record) -> None:
        """One of the writers is done with the record."""
        with self._lock:
            record.writers_left -= 1
            free = record.writers_left == 0
        if free:
            self._free.put(record)


class _Writer:
    """The one thread that may touch its drive. After a failure it only gives records back."""

    def __init__(self, drive: TapeDrive, ring: _Ring) -> None:
        self.drive = drive
        self.failure: BaseException | None = None
        self._ring = ring
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"write-{drive.serial}")

    def start(self) -> None:
        self._thread.start()

    def put(self, work: _Work) -> None:
        self._work.put(work)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if self.failure is None:
                self._try(work)
            if isinstance(work, _Record):
                self._ring.give_back(work)
            elif isinstance(work, _Barrier):
                work.reached.set()

    def _try(self, work: _Work) -> None:
        try:
            if isinstance(work, _Record):
                self.drive.write_record(work.view)
            elif not isinstance(work, _Barrier):
                work(self.drive)
        except BaseException as error:  # noqa: BLE001 - handed to the producer, which raises it
            self.failure = error

    def end(self) -> None:
        """Let the thread end when it has done what was handed over before."""
        self._work.put(None)

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One tape file as it went to the drives: its size (whole records) and BLAKE3."""

    size_bytes: int
    blake3: bytes


class RecordFan:
    """Writes the same records to every drive. Use as a context manager; owned by one thread.

    What a drive raises is raised to the producer by the next call, with one exception: when the medium of one of
    several drives fails (`MediaError`), that drive is left behind, in `lost`, and the others go on. The end of a
    medium is raised as `EarlyWarning`, however late it was noticed.
    """

    def __init__(self, drives: Sequence[TapeDrive], record_bytes: int) -> None:
        self.record_bytes = record_bytes
        self._ring = _Ring(record_bytes)
        self._current: _Record | None = None
        self._used = 0
        self._digest = blake3()
        self._size_bytes = 0
        self._held: list[_Work] | None = []  # what the drives get when they start; None: they run
        self._writers = [_Writer(drive, self._ring) for drive in drives]

    def __enter__(self) -> RecordFan:
        try:
            for writer in self._writers:
                writer.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._start()
        for writer in self._writers:
            writer.end()  # all of them, before a second Ctrl-C can interrupt the waiting
        for writer in self._writers:
            writer.join()

    # -- filling records

    def room(self) -> memoryview:
        """Memory for the next bytes of the tape file; never empty."""
        if self._current is None:
            self._raise_failure()
            self._current = self._ring.take()
            self._used = 0
        return self._current.view[self._used :]

    def filled(self, count_bytes: int) -> None:
        """`count_bytes` of the room hold data now."""
        assert self._current is not None
        assert self._used + count_bytes <= self.record_bytes
        self._used += count_bytes
        if self._used == self.record_bytes:
            self._dispatch()

    def write(self, data: bytes | memoryview) -> None:
        """Copy `data` in, however many records it takes."""
        view = memoryview(data)
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.filled(count)
            view = view[count:]

    def write_zeros(self, count_bytes: int) -> None:
        while count_bytes:
            room = self.room()
            count = min(len(room), count_bytes)
            room[:count] = bytes(count)
            self.filled(count)
            count_bytes -= count

    @property
    def offset(self) -> int:
        """Bytes of this tape file so far."""
        return self._size_bytes + (self._used if self._current is not None else 0)

    def end_file(self) -> WrittenFile:
        """Pad the last record with zeros and hand it over; the mark is a separate step."""
        if self._current is not None and self._used > 0:
            self.write_zeros(self.record_bytes - self._used)
        written = WrittenFile(self._size_bytes, self._digest.digest())
        self._digest, self._size_bytes = blake3(), 0
        return written

    def _dispatch(self) -> None:
        record, self._current = self._current, None
        assert record is not None
        record.writers_left = len(self._writers)
        self._hand_over(record)
        self._digest.update(record.view)
        self._size_bytes += self.record_bytes

    def _hand_over(self, work: _Work) -> None:
        """To every drive, if they run; else it is held until the ring is full."""
        if self._held is None:
            self._give([work])
            return
        self._held.append(work)
        if sum(isinstance(item, _Record) for item in self._held) == self._ring.count:
            self._start()

    def _start(self) -> None:
        held, self._held = self._held, None
        self._give(held or [])

    def _give(self, works: Sequence[_Work]) -> None:
        for writer in self._writers:
            for work in works:
                writer.put(work)

    # -- other steps on every drive

    def each(self, step: Callable[[TapeDrive], None]) -> None:
        """Do `step` on every drive, behind what was handed over before; does not wait."""
        self._hand_over(step)

    def wait(self) -> None:
        """Wait until every drive has done everything; raises what any of them raised."""
        self._start()
        barriers = [_Barrier() for _ in self._writers]
        for writer, barrier in zip(self._writers, barriers, strict=True):
            writer.put(barrier)
        for barrier in barriers:
            barrier.reached.wait()
        self._held = []
        self._raise_failure()

    @property
    def lost(self) -> dict[int, MediaError]:
        """The drives, by their number, whose medium failed; what they hold behind the last commit is worth nothing."""
        failures = enumerate(writer.failure for writer in self._writers)
        return {number: failure for number, failure in failures if _is_lost(failure)}

    def _raise_failure(self) -> None:
        failures = [writer.failure for writer in self._writers if writer.failure is not None]
        fatal = next((failure for failure in failures if not _is_lost(failure) and not _is_end(failure)), None)
        if fatal is not None:
            raise fatal
        if len(self.lost) == len(self._writers):
            raise failures[0]
        if len(self.lost) < len(failures):
            raise EarlyWarning


def _is_end(failure: BaseException | None) -> bool:
    return isinstance(failure, EarlyWarning | EndOfMedium)


def _is_lost(failure: BaseException | None) -> TypeGuard[MediaError]:
    return isinstance(failure, MediaError) and not _is_end(failure)
