"""What every tape drive must do: the semantics of `st` in variable-block mode that the code above relies on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import pytest

from holdfast.errors import BusyError, MediaError
from holdfast.tape.drive import BEGIN_OF_TAPE, EarlyWarning, EndOfData, EndOfMedium, Position, TapeDrive

MARK = None
"""A file mark, in a list of what is on a tape."""

OnTape = Sequence[bytes | None]

NOTHING: tuple[list[bytes | None], ...] = ([], [MARK])
"""What a tape may hold that was erased: a drive that cannot erase leaves a mark."""


class DriveStand(Protocol):
    """A drive and one scratch cartridge. `load` is called first on a blank one."""

    largest_record_bytes: int
    """Records of one byte up to this size can be written."""

    capacity_bytes: int | None
    """What the cartridge holds, if a test may fill it; None if that would take too long."""

    can_cut_power: bool
    """Whether `cut_power` works."""

    has_hard_end: bool
    """Whether writing comes to an end behind the early warning: a tape does, some emulators warn for ever."""

    def load(self) -> TapeDrive:
        """The drive with the cartridge in it, at its begin. Raises `BusyError` while it is loaded already."""
        ...

    def unload(self, drive: TapeDrive) -> None:
        """Take the cartridge out, as the changer does."""
        ...

    def cut_power(self, drive: TapeDrive) -> None:
        """As if the power had failed: what was not put on the medium by then may be gone or be anything."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


def record(number: int, size_bytes: int) -> bytes:
    """A record that no other one equals."""
    return (b"%d " % number * (size_bytes // 2 + 1))[:size_bytes]


def place(items: OnTape, block: int) -> Position:
    """Where a block of such a tape is; one behind its end counts as of its last tape file."""
    before = list(items[:block])
    begin = max((number + 1 for number, item in enumerate(before) if item is MARK), default=0)
    return Position(before.count(MARK), block - begin, block)


def write(drive: TapeDrive, items: OnTape, *, synchronous: bool = False) -> None:
    """Write records and marks from here on."""
    for item in items:
        if item is None:
            drive.write_file_mark(synchronous=synchronous)
        else:
            drive.write_record(memoryview(item))


def read_on(drive: TapeDrive, buffer_bytes: int) -> list[bytes | None]:
    """Everything from here to the end of data."""
    found: list[bytes | None] = []
    buffer = memoryview(bytearray(buffer_bytes))
    while True:
        try:
            count = drive.read_record(buffer)
        except EndOfData:
            return found
        found.append(bytes(buffer[:count]) if count else MARK)


class TapeDriveConformance:
    """The suite. Subclasses give the fixture `stand`."""

    @pytest.fixture
    def stand(self) -> DriveStand:
        raise NotImplementedError("a subclass gives its stand")

    @pytest.fixture
    def drive(self, stand: DriveStand) -> TapeDrive:
        return stand.load()

    @pytest.fixture
    def three_files(self) -> OnTape:
        """Three tape files of 3, 1 and 2 records; with their marks 9 blocks."""
        sizes = (700, 700, 13, MARK, 1, MARK, 512, 2000, MARK)
        return [size and record(number, size) for number, size in enumerate(sizes)]

    def reload(self, stand: DriveStand, drive: TapeDrive) -> TapeDrive:
        stand.unload(drive)
        return stand.load()

    # -- a blank cartridge

    def test_a_blank_tape_holds_nothing(self, drive: TapeDrive) -> None:
        assert drive.tell() == BEGIN_OF_TAPE
        assert read_on(drive, 512) == []
        drive.rewind()
        drive.locate(BEGIN_OF_TAPE)
        with pytest.raises(EndOfData):
            drive.space_file_marks(1)
        with pytest.raises(MediaError):
            drive.locate(place([], 1))

    def test_the_drive_tells_its_serial_number_the_same_at_each_load(self, stand: DriveStand, drive: TapeDrive) -> None:
        serial = drive.serial
        assert serial
        assert serial.isprintable()
        assert self.reload(stand, drive).serial == serial

    # -- records and marks

    def test_records_and_marks_come_back_in_order(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape
    ) -> None:
        write(drive, three_files)
        drive.rewind()
        assert read_on(drive, stand.largest_record_bytes) == three_files

    @pytest.mark.parametrize("synchronous", [False, True])
    def test_all_is_there_after_the_cartridge_was_taken_out(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape, synchronous: bool
    ) -> None:
        write(drive, three_files, synchronous=synchronous)
        drive = self.reload(stand, drive)
        assert drive.tell() == BEGIN_OF_TAPE
        assert read_on(drive, stand.largest_record_bytes) == three_files

    def test_the_smallest_and_the_largest_record(self, stand: DriveStand, drive: TapeDrive) -> None:
        items = [record(1, stand.largest_record_bytes), record(2, 1), MARK, record(3, stand.largest_record_bytes), MARK]
        write(drive, items)
        drive.rewind()
        assert read_on(drive, stand.largest_record_bytes) == items

    def test_an_empty_record_is_refused(self, drive: TapeDrive) -> None:
        """A read of nothing is a file mark, so a record of nothing must not be."""
        with pytest.raises(ValueError, match="at least one byte"):
            drive.write_record(memoryview(b""))
        assert read_on(drive, 512) == []

    def test_marks_may_follow_each_other(self, drive: TapeDrive) -> None:
        write(drive, [MARK, MARK, b"x", MARK, MARK])
        drive.rewind()
        assert read_on(drive, 512) == [MARK, MARK, b"x", MARK, MARK]

    def test_reading_fills_only_what_the_record_takes(self, drive: TapeDrive) -> None:
        write(drive, [b"abc", MARK])
        drive.rewind()
        memory = bytearray(b"." * 10)
        assert drive.read_record(memoryview(memory)[2:8]) == 3
        assert memory == b"..abc....."

    def test_a_part_of_a_larger_buffer_is_written(self, drive: TapeDrive) -> None:
        buffer = memoryview(bytearray(b"0123456789"))
        drive.write_record(buffer[2:5])
        buffer[2:5] = b"..."  # the record was taken: the buffer may be used again
        drive.rewind()
        assert read_on(drive, 512) == [b"234", MARK]

    def test_a_buffer_that_is_too_short_is_an_error(self, drive: TapeDrive) -> None:
        write(drive, [record(1, 700), MARK])
        drive.rewind()
        with pytest.raises(MediaError):
            drive.read_record(memoryview(bytearray(699)))

    def test_the_end_of_data_is_told_again(self, drive: TapeDrive) -> None:
        write(drive, [b"a", MARK])
        for _ in range(2):
            with pytest.raises(EndOfData):
                drive.read_record(memoryview(bytearray(512)))

    def test_going_elsewhere_after_a_write_ends_the_tape_file(self, stand: DriveStand, drive: TapeDrive) -> None:
        drive.write_record(memoryview(b"a"))
        drive.rewind()
        assert read_on(drive, 512) == [b"a", MARK]
        drive.write_record(memoryview(b"b"))
        drive.locate(BEGIN_OF_TAPE)
        assert read_on(drive, 512) == [b"a", MARK, b"b", MARK]
        drive.write_record(memoryview(b"c"))
        drive = self.reload(stand, drive)
        assert read_on(drive, 512) == [b"a", MARK, b"b", MARK, b"c", MARK]

    # -- where the tape stands

    def test_every_block_can_be_located_and_is_told(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape
    ) -> None:
        write(drive, three_files)
        assert drive.tell() == place(three_files, len(three_files))
        for block in (8, 0, 3, 4, 2, 9, 7, 5, 1, 6):
            drive.locate(place(three_files, block))
            assert drive.tell() == place(three_files, block)
            assert read_on(drive, stand.largest_record_bytes) == three_files[block:]
            assert drive.tell() == place(three_files, len(three_files))

    def test_a_block_behind_the_end_of_data_cannot_be_located(self, drive: TapeDrive, three_files: OnTape) -> None:
        write(drive, three_files)
        for block in (10, 11, 1000):
            drive.rewind()
            with pytest.raises(MediaError):
                drive.locate(place(three_files, block))

    def test_a_failed_locate_never_leaves_the_tape_where_committed_data_would_be_written_over(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape
    ) -> None:
        write(drive, three_files, synchronous=True)
        drive.rewind()
        with pytest.raises(MediaError):
            drive.locate(place(three_files, 1000))
        with suppress(MediaError):  # a drive may refuse to write until it was told again where to go
            write(drive, [b"wrongly", MARK])
        drive.rewind()
        assert read_on(drive, stand.largest_record_bytes)[: len(three_files)] == three_files

    def test_spacing_over_file_marks(self, stand: DriveStand, drive: TapeDrive, three_files: OnTape) -> None:
        write(drive, three_files)
        for count, block in ((0, 0), (1, 4), (2, 6), (3, 9)):
            drive.rewind()
            drive.space_file_marks(count)
            assert drive.tell() == place(three_files, block)
        drive.locate(place(three_files, 2))
        drive.space_file_marks(1)
        assert drive.tell() == place(three_files, 4)
        drive.space_file_marks(1)
        assert read_on(drive, stand.largest_record_bytes) == three_files[6:]

    def test_spacing_over_more_file_marks_than_there_are(self, drive: TapeDrive, three_files: OnTape) -> None:
        write(drive, three_files)
        drive.rewind()
        with pytest.raises(EndOfData):
            drive.space_file_marks(4)

    # -- writing over

    @pytest.mark.parametrize("reloaded", [False, True])
    @pytest.mark.parametrize("block", range(10))
    def test_whatever_lay_behind_a_write_is_gone(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape, block: int, reloaded: bool
    ) -> None:
        write(drive, three_files, synchronous=True)
        drive.locate(place(three_files, block))
        write(drive, [b"new", MARK], synchronous=True)
        drive = self.reload(stand, drive) if reloaded else drive
        drive.rewind()
        assert read_on(drive, stand.largest_record_bytes) == [*three_files[:block], b"new", MARK]

    @pytest.mark.parametrize("block", range(10))
    def test_whatever_lay_behind_a_file_mark_is_gone(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape, block: int
    ) -> None:
        write(drive, three_files, synchronous=True)
        drive.locate(place(three_files, block))
        drive.write_file_mark(synchronous=True)
        drive = self.reload(stand, drive)
        assert read_on(drive, stand.largest_record_bytes) == [*three_files[:block], MARK]

    def test_appending_session_after_session(self, stand: DriveStand, drive: TapeDrive, three_files: OnTape) -> None:
        expected: list[bytes | None] = []
        for _ in range(3):
            drive.locate(place(expected, len(expected)))
            write(drive, three_files, synchronous=True)
            expected += three_files
            drive = self.reload(stand, drive)
        assert read_on(drive, stand.largest_record_bytes) == expected

    # -- erasing

    @pytest.mark.parametrize("block", [0, 2, 9])
    def test_an_erased_tape_is_blank_wherever_it_stood(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape, block: int
    ) -> None:
        write(drive, three_files, synchronous=True)
        drive.locate(place(three_files, block))
        drive.erase()
        assert drive.tell() == BEGIN_OF_TAPE
        assert read_on(drive, stand.largest_record_bytes) in NOTHING
        drive = self.reload(stand, drive)
        assert read_on(drive, stand.largest_record_bytes) in NOTHING

    def test_an_erased_tape_is_written_from_its_begin(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape
    ) -> None:
        write(drive, three_files)
        drive.write_record(memoryview(b"without a mark"))
        drive.erase()
        drive.erase()
        write(drive, three_files, synchronous=True)
        drive = self.reload(stand, drive)
        assert read_on(drive, stand.largest_record_bytes) == three_files

    def test_law_1_what_was_erased_does_not_come_back_after_a_power_cut(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape
    ) -> None:
        self._needs_power_cuts(stand)
        write(drive, three_files, synchronous=True)
        drive.erase()
        stand.cut_power(drive)
        drive = stand.load()
        assert read_on(drive, stand.largest_record_bytes) in NOTHING

    # -- one owner, and power cuts

    def test_law_10_a_cartridge_has_one_owner(self, stand: DriveStand, drive: TapeDrive) -> None:
        with pytest.raises(BusyError):
            stand.load()
        drive = self.reload(stand, drive)
        assert read_on(drive, 512) == []

    def test_a_drive_whose_cartridge_was_taken_out_does_nothing(self, stand: DriveStand, drive: TapeDrive) -> None:
        write(drive, [b"a", MARK])
        stand.unload(drive)
        with pytest.raises(MediaError):
            drive.write_record(memoryview(b"b"))
        with pytest.raises(MediaError):
            drive.read_record(memoryview(bytearray(512)))
        drive = stand.load()
        assert read_on(drive, 512) == [b"a", MARK]

    def test_law_1_what_lies_before_a_synchronous_mark_survives_a_power_cut(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape
    ) -> None:
        self._needs_power_cuts(stand)
        write(drive, three_files, synchronous=True)
        drive.write_record(memoryview(b"lost"))
        stand.cut_power(drive)
        drive = stand.load()
        assert read_on(drive, stand.largest_record_bytes)[: len(three_files)] == three_files

    def test_law_1_one_synchronous_mark_covers_the_tape_files_before_it(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape
    ) -> None:
        self._needs_power_cuts(stand)
        write(drive, three_files)
        drive.write_file_mark(synchronous=True)
        write(drive, three_files)
        stand.cut_power(drive)
        drive = stand.load()
        assert read_on(drive, stand.largest_record_bytes)[:10] == [*three_files, MARK]

    def test_after_a_power_cut_writing_goes_on_behind_the_last_commit(
        self, stand: DriveStand, drive: TapeDrive, three_files: OnTape
    ) -> None:
        self._needs_power_cuts(stand)
        write(drive, three_files, synchronous=True)
        write(drive, [b"lost", MARK, b"lost too"])
        stand.cut_power(drive)
        drive = stand.load()
        drive.locate(place(three_files, len(three_files)))
        write(drive, [b"new", MARK], synchronous=True)
        stand.cut_power(drive)
        drive = stand.load()
        assert read_on(drive, stand.largest_record_bytes) == [*three_files, b"new", MARK]

    def _needs_power_cuts(self, stand: DriveStand) -> None:
        if not stand.can_cut_power:
            pytest.skip("the power of this drive cannot be cut")

    # -- the end of the tape

    def _fill(self, stand: DriveStand, drive: TapeDrive) -> list[bytes | None]:
        """Write until the drive warns; what was written."""
        if stand.capacity_bytes is None:
            pytest.skip("this cartridge takes too long to fill")
        written: list[bytes | None] = []
        while True:
            data = record(len(written), stand.largest_record_bytes)
            try:
                drive.write_record(memoryview(data))
            except EarlyWarning:
                return written
            written.append(data)

    def test_near_the_end_writes_fail_and_succeed_in_turn(self, stand: DriveStand, drive: TapeDrive) -> None:
        written = self._fill(stand, drive)
        for turn in range(4):
            data = record(turn, stand.largest_record_bytes)
            drive.write_record(memoryview(data))  # the write after a warning is let through
            written.append(data)
            with pytest.raises(EarlyWarning):
                drive.write_record(memoryview(data))  # and this one is not written
        drive.write_file_mark(synchronous=True)
        drive = self.reload(stand, drive)
        assert read_on(drive, stand.largest_record_bytes) == [*written, MARK]

    def test_the_warning_comes_before_the_end(self, stand: DriveStand, drive: TapeDrive) -> None:
        if not stand.has_hard_end:
            pytest.skip("this cartridge has no end")
        written = self._fill(stand, drive)
        while True:
            data = record(len(written), stand.largest_record_bytes)
            try:
                drive.write_record(memoryview(data))
            except EarlyWarning:
                continue
            except EndOfMedium:
                break
            written.append(data)
        drive.write_file_mark(synchronous=True)  # always possible
        drive = self.reload(stand, drive)
        assert read_on(drive, stand.largest_record_bytes) == [*written, MARK]

    def test_after_a_warning_the_session_closes_behind_its_last_commit(
        self, stand: DriveStand, drive: TapeDrive
    ) -> None:
        write(drive, [b"committed", MARK], synchronous=True)
        self._fill(stand, drive)
        drive.locate(place([b"committed", MARK], 2))
        write(drive, [b"trailer", MARK], synchronous=True)
        drive = self.reload(stand, drive)
        assert read_on(drive, 512) == [b"committed", MARK, b"trailer", MARK]

    def test_a_second_filling_warns_as_the_first_did(self, stand: DriveStand, drive: TapeDrive) -> None:
        """A warning must not be swallowed because an earlier one was followed by no write."""
        first = self._fill(stand, drive)
        drive.rewind()
        second = self._fill(stand, drive)
        assert len(first) == len(second)
