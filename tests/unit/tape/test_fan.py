"""One read feeds both drives: the same records, bounded memory, no failure lost and nobody left waiting."""

from __future__ import annotations

import ctypes
import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import CapacityError, MediaError
from holdfast.tape import fan as fans
from holdfast.tape.drive.protocol import EarlyWarning, EndOfMedium
from holdfast.tape.drive.timing import LTO_6, MB, DriveTimer
from holdfast.tape.fan import RecordFan

pytestmark = pytest.mark.timeout(30)

RECORD = 64
RING = 8  # records
PATIENCE = 20  # seconds that a test waits for what must happen at once


@pytest.fixture(autouse=True)
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fans, "RING_BYTES", RING * RECORD)


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("write-")] == []


@dataclass
class FakeDrive:
    """Keeps what it is given: bytes for a record, None for a mark. `before` is called with each record's number."""

    serial: str = "FAKE-0"
    before: Callable[[int], None] = lambda number: None
    written: list[bytes | None] = field(default_factory=list)
    addresses: set[int] = field(default_factory=set)
    records: int = 0

    def write_record(self, data: memoryview) -> None:
        self.before(self.records)
        self.records += 1
        self.addresses.add(ctypes.addressof(ctypes.c_char.from_buffer(data)))
        self.written.append(bytes(data))

    def write_file_mark(self, *, synchronous: bool) -> None:
        self.written.append(None)

    # the rest of a drive, which the fan has no use for

    def erase(self) -> None:
        raise NotImplementedError

    def read_record(self, buffer: memoryview) -> int:
        raise NotImplementedError

    def rewind(self) -> None:
        raise NotImplementedError

    def locate(self, block: int) -> None:
        raise NotImplementedError

    def space_file_marks(self, count: int) -> None:
        raise NotImplementedError

    def tell(self) -> int:
        raise NotImplementedError

    def used_bytes(self) -> int:
        raise NotImplementedError


def pair() -> tuple[FakeDrive, FakeDrive]:
    return FakeDrive("A"), FakeDrive("B")


def fail_at(number: int, error: BaseException) -> Callable[[int], None]:
    def before(record: int) -> None:
        if record == number:
            raise error

    return before


def mark(fan: RecordFan) -> None:
    fan.each(lambda drive: drive.write_file_mark(synchronous=False))


pieces = st.lists(st.tuples(st.sampled_from(["write", "fill", "zeros"]), st.binary(max_size=3 * RECORD)), max_size=8)


@settings(max_examples=60)
@given(st.lists(pieces, max_size=4))
def test_both_drives_get_the_same_records_however_they_are_filled(tape_files: list[list[tuple[str, bytes]]]) -> None:
    drives = pair()
    expected: list[bytes | None] = []
    with RecordFan(drives, RECORD) as fan:
        for pieces in tape_files:
            content = b""
            for how, data in pieces:
                content += put(fan, how, data)
                assert fan.offset == len(content)
            whole = content.ljust(-(-len(content) // RECORD) * RECORD, b"\0")
            written = fan.end_file()
            assert (written.size_bytes, written.blake3) == (len(whole), blake3(whole).digest())
            mark(fan)
            expected += [whole[start : start + RECORD] for start in range(0, len(whole), RECORD)]
            expected.append(None)
        fan.wait()
        assert [drive.written for drive in drives] == [expected, expected]


def put(fan: RecordFan, how: str, data: bytes) -> bytes:
    if how == "write":
        fan.write(data)
    elif how == "zeros":
        fan.write_zeros(len(data))
        return bytes(len(data))
    else:
        left = memoryview(data)
        while left:
            room = fan.room()
            assert room
            count = min(len(room), len(left), 7)
            room[:count] = left[:count]
            fan.filled(count)
            left = left[count:]
    return data


def test_what_is_asked_for_and_not_filled_is_no_record() -> None:
    drives = pair()
    with RecordFan(drives, RECORD) as fan:
        fan.room()
        written = fan.end_file()
        assert written.size_bytes == 0
        fan.write(b"next")
        assert fan.end_file().size_bytes == RECORD
    assert drives[0].written == [b"next".ljust(RECORD, b"\0")]


def test_memory_is_a_ring_that_is_used_again_and_again() -> None:
    drives = pair()
    with RecordFan(drives, RECORD) as fan:
        for number in range(20 * RING):
            fan.write(bytes([number % 256]) * RECORD)
    assert len(drives[0].addresses) <= RING
    assert drives[0].addresses | drives[1].addresses == drives[0].addresses
    assert drives[0].records == 20 * RING


def test_a_record_is_not_used_again_before_the_slowest_has_it() -> None:
    fast, slow = pair()
    all_used = threading.Event()
    fast.before = lambda number: all_used.set() if number == RING - 1 else None
    slow.before = lambda number: None if all_used.wait(PATIENCE) else pytest.fail("nobody filled the ring")
    with RecordFan((fast, slow), RECORD) as fan:
        for number in range(5 * RING):
            fan.write(bytes([number]) * RECORD)
        fan.wait()
    assert slow.written == fast.written == [bytes([number]) * RECORD for number in range(5 * RING)]


def test_the_producer_waits_for_the_slowest() -> None:
    fast, slow = pair()
    go, filled = threading.Event(), threading.Event()
    slow.before = lambda number: None if go.wait(PATIENCE) else pytest.fail("never let go")
    progress: list[int] = []

    def produce() -> None:
        with RecordFan((fast, slow), RECORD) as fan:
            for number in range(3 * RING):
                if number == RING:
                    filled.set()
                fan.write(bytes(RECORD))
                progress.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        assert filled.wait(PATIENCE)
        producer.join(0.02)  # time to run ahead, if it could
        assert len(progress) == RING
    finally:
        go.set()
        producer.join(PATIENCE)
    assert len(progress) == 3 * RING


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("number", [0, 1, RING - 1, RING, 3 * RING])
def test_a_failure_reaches_the_producer_and_the_other_drive_is_whole(failing: int, number: int) -> None:
    drives = pair()
    error = CapacityError("the disk is full")
    drives[failing].before = fail_at(number, error)
    handed_over = 0

    def produce_for_ever() -> None:
        nonlocal handed_over
        with RecordFan(drives, RECORD) as fan:
            while True:
                fan.write(b"%064d" % handed_over)
                handed_over += 1

    with pytest.raises(CapacityError) as caught:
        produce_for_ever()
    assert caught.value is error
    assert drives[failing].records == number
    assert drives[1 - failing].written == [b"%064d" % record for record in range(handed_over)]
    assert handed_over <= number + 2 * RING + 1


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("number", [0, 1, RING - 1, RING, 3 * RING])
def test_a_drive_whose_medium_fails_is_left_behind_and_the_other_goes_on(failing: int, number: int) -> None:
    drives = pair()
    error = MediaError("write error")
    drives[failing].before = fail_at(number, error)
    data = [b"%064d" % record for record in range(6 * RING)]
    with RecordFan(drives, RECORD) as fan:
        for item in data:
            fan.write(item)
        fan.each(lambda drive: drive.write_file_mark(synchronous=True))
        fan.wait()
        assert fan.lost == {failing: error}
    assert drives[failing].written == data[:number]
    assert drives[1 - failing].written == [*data, None]


@pytest.mark.parametrize("failures", [(0, 0), (0, 7), (9, 2)])
def test_when_the_media_of_all_drives_failed_the_producer_is_told(failures: tuple[int, int]) -> None:
    drives = pair()
    for drive, number in zip(drives, failures, strict=True):
        drive.before = fail_at(number, MediaError("write error"))
    with pytest.raises(MediaError), RecordFan(drives, RECORD) as fan:
        write_for_ever(fan)


@pytest.mark.parametrize("number", [0, 5])
def test_the_end_of_a_medium_is_never_a_failed_medium(number: int) -> None:
    drives = pair()
    drives[1].before = fail_at(number, EndOfMedium("the end"))
    with pytest.raises(EarlyWarning), RecordFan(drives, RECORD) as fan:
        write_for_ever(fan)
    assert fan.lost == {}


def test_a_failure_while_the_producer_waits_for_room() -> None:
    fast, failing = pair()
    all_used = threading.Event()
    error = CapacityError("the disk is full")

    def before(number: int) -> None:
        assert all_used.wait(PATIENCE)
        raise error

    fast.before = lambda number: all_used.set() if number == RING - 1 else None
    failing.before = before
    with pytest.raises(CapacityError) as caught, RecordFan((fast, failing), RECORD) as fan:
        write_for_ever(fan)
    assert caught.value is error


def write_for_ever(fan: RecordFan) -> None:
    while True:
        fan.write(bytes(RECORD))


def test_a_failure_before_a_barrier_is_raised_there() -> None:
    drives = pair()
    drives[1].before = fail_at(0, CapacityError("the disk is full"))
    with RecordFan(drives, RECORD) as fan:
        fan.write(bytes(RECORD))
        with pytest.raises(CapacityError):
            fan.wait()
        with pytest.raises(CapacityError):
            fan.wait()  # it does not go away
        with pytest.raises(CapacityError):
            fan.room()


def test_a_failed_step_is_raised_at_the_barrier_and_nothing_follows_it() -> None:
    drives = pair()
    done: list[str] = []

    def step(drive: object) -> None:
        if drive is drives[0]:
            raise EarlyWarning("A")
        done.append("B")

    with RecordFan(drives, RECORD) as fan:
        fan.write(bytes(RECORD))
        fan.each(step)
        fan.each(lambda drive: drive.write_file_mark(synchronous=True))
        with pytest.raises(EarlyWarning):
            fan.wait()
    assert drives[0].written == [bytes(RECORD)]  # no mark: it must not look committed
    assert drives[1].written == [bytes(RECORD), None]
    assert done == ["B"]


@pytest.mark.parametrize("failed", [0, 1])
def test_a_full_drive_ends_the_work_though_the_medium_of_the_other_failed(failed: int) -> None:
    drives = pair()
    error = MediaError("write error")
    drives[failed].before = fail_at(0, error)
    drives[1 - failed].before = fail_at(0, EarlyWarning("full"))
    with RecordFan(drives, RECORD) as fan:
        fan.write(bytes(RECORD))
        with pytest.raises(EarlyWarning):
            fan.wait()
        assert fan.lost == {failed: error}


def test_steps_are_done_behind_the_records_before_them() -> None:
    drives = pair()
    seen: list[int] = []
    with RecordFan(drives[:1], RECORD) as fan:
        for _ in range(3):
            fan.write(bytes(2 * RECORD))
            fan.each(lambda drive: seen.append(drives[0].records))
        fan.wait()
    assert seen == [2, 4, 6]


def test_wait_waits_for_everything() -> None:
    slow = FakeDrive()
    go = threading.Event()
    slow.before = lambda number: None if go.wait(PATIENCE) else pytest.fail("never let go")
    with RecordFan([slow], RECORD) as fan:
        fan.write(bytes(3 * RECORD))
        threading.Timer(0, go.set).start()
        fan.wait()
        assert slow.records == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("the source broke")])
def test_an_exception_of_the_producer_ends_the_threads(error: BaseException) -> None:
    drives = pair()

    def produce() -> None:
        with RecordFan(drives, RECORD) as fan:
            fan.write(bytes(3 * RECORD))
            raise error

    with pytest.raises(type(error)):
        produce()
    assert drives[0].records == drives[1].records == 3


def test_a_fan_that_is_never_entered_starts_nothing() -> None:
    RecordFan(pair(), RECORD)


def test_a_thread_that_cannot_be_started_leaves_no_other_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    really = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "write-B":
            raise RuntimeError("can't start new thread")
        really(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"), RecordFan(pair(), RECORD):
        pass


def test_more_than_the_room_cannot_be_filled() -> None:
    with RecordFan(pair(), RECORD) as fan:
        room = fan.room()
        with pytest.raises(AssertionError):
            fan.filled(len(room) + 1)


def test_law_9_the_ring_does_not_grow_with_the_drives_or_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fans, "RING_BYTES", 16 * 2**20)
    drives = [FakeDrive(str(number)) for number in range(4)]
    with RecordFan(drives, 2**19) as fan:
        for drive in drives:
            drive.written = Nothing()
        fan.write_zeros(100 * 2**19)
    assert {len(drive.addresses) for drive in drives} <= set(range(1, 33))


def test_law_9_the_memory_of_a_fan_goes_with_it() -> None:
    gc.collect()
    gc.disable()  # not some time later
    try:
        fan = RecordFan(pair(), RECORD)
        with fan:
            fan.write(bytes(3 * RECORD))
        gone = weakref.ref(fan)
        del fan
        assert gone() is None
    finally:
        gc.enable()


class Nothing(list[bytes | None]):
    """Keeps nothing."""

    def append(self, item: bytes | None) -> None:
        pass


# -- the drives start when the ring is full


class ClockedDrive(FakeDrive):
    """A drive of LTO-6 with next to no buffer of its own, on a virtual clock. `handed_over`: when it got each record."""

    def __init__(self) -> None:
        kind = replace(LTO_6, buffer_bytes=2 * MB)
        self.timer = DriveTimer(kind, scale=MB / RECORD)
        self.handed_over: queue.SimpleQueue[float] = queue.SimpleQueue()
        super().__init__(before=self._take)

    def _take(self, number: int) -> None:
        self.timer.wait_until(self.handed_over.get())
        self.timer.wrote(number * RECORD, RECORD)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> ClockedDrive:
    """`source_s` is when the source gave what is handed over now."""
    drive = ClockedDrive()
    put = fans._Writer.put

    def put_at(writer: fans._Writer, work: object) -> None:
        if isinstance(work, fans._Record):
            drive.handed_over.put(SOURCE["now_s"])
        put(writer, work)  # type: ignore[arg-type]

    monkeypatch.setattr(fans._Writer, "put", put_at)
    monkeypatch.setitem(SOURCE, "now_s", 0.0)
    return drive


SOURCE = {"now_s": 0.0}


def feed(fan: RecordFan, records: int, seconds: float) -> None:
    """Records of 1 MB on the virtual clock, one in so many seconds."""
    for _ in range(records):
        SOURCE["now_s"] += seconds
        fan.write(bytes(RECORD))


def test_a_source_that_begins_slowly_causes_no_back_hitch(clocked: ClockedDrive) -> None:
    with RecordFan([clocked], RECORD) as fan:
        for _ in range(3):
            feed(fan, RING, seconds=1.0)  # at 1 MB/s; the drive follows 54 MB/s at least
            feed(fan, 20 * RING, seconds=1 / 200)
            fan.each(lambda drive: drive.write_file_mark(synchronous=True))
            fan.wait()
            clocked.timer.marked(synchronous=True)
    assert clocked.timer.counts.written_bytes == 3 * 21 * RING * MB
    assert clocked.timer.counts.back_hitches == 0


def test_the_clock_sees_the_back_hitches_of_a_source_that_goes_on_slowly(clocked: ClockedDrive) -> None:
    with RecordFan([clocked], RECORD) as fan:
        feed(fan, 3 * RING, seconds=1.0)
    assert clocked.timer.counts.back_hitches >= 3


def test_small_tape_files_at_the_begin_fill_the_ring_together(clocked: ClockedDrive) -> None:
    with RecordFan([clocked], RECORD) as fan:
        for _ in range(RING - 1):
            feed(fan, 1, seconds=1.0)
            fan.end_file()
            mark(fan)
        assert clocked.handed_over.empty()
        feed(fan, 1, seconds=1.0)
        fan.wait()
    assert clocked.written == [bytes(RECORD), None] * (RING - 1) + [bytes(RECORD)]
    assert clocked.timer.counts.back_hitches == 0
