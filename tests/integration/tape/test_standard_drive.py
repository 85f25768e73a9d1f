"""The driver for `st` on the kernel's own `st`, and a drive behind it that does what the standard says: it locates,
knows its end of data, comes to an end, loses what was not put on the medium, and has bad spots.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from tests.integration.tape.hands import ask
from tests.tapevm import standard_drive
from tests.unit.tape.building import file, tar_bytes

from holdfast.errors import MediaError
from holdfast.tape import rescue
from holdfast.tape.changer.mtx import find_drives
from holdfast.tape.drive import EndOfData, Position, TapeDrive
from holdfast.tape.drive.mtio import Operation
from holdfast.tape.drive.st import StDrive, open_node, serial_number
from holdfast.testing.conformance import DriveMachine, TapeDriveConformance
from holdfast.testing.conformance.drive import MARK, read_on, write


def tar_of(name: bytes) -> bytes:
    return tar_bytes([file(b"s/" + name, b"1")]).ljust(8192, b"\0")


UNLOAD, LOAD = (0x1B, 0, 0, 0, 0, 0), (0x1B, 0, 0, 0, 1, 0)


class StandardStand:
    """The drive, with a new blank cartridge."""

    largest_record_bytes = 2**20
    capacity_bytes: int | None = standard_drive.CAPACITY_BYTES
    can_cut_power = True
    has_hard_end = True

    def __init__(self) -> None:
        self.device = find_drives()[standard_drive.SERIALS[0]]
        self.opened: list[StDrive] = []
        self.ask(standard_drive.BLANK_CARTRIDGE)

    def ask(self, *command: int) -> None:
        ask(self.device, *command)

    def load(self) -> StDrive:
        self.ask(*LOAD)
        self.opened.append(StDrive(self.device, standard_drive.SERIALS[0], "HFS001L6", ready_seconds=5.0))
        return self.opened[-1]

    def unload(self, drive: TapeDrive) -> None:
        assert isinstance(drive, StDrive)
        drive.close()
        self.ask(*UNLOAD)

    def cut_power(self, drive: TapeDrive) -> None:
        assert isinstance(drive, StDrive)
        self.ask(standard_drive.CUT_POWER)
        drive.abandon()

    def close(self) -> None:
        for drive in self.opened:
            drive.abandon()


@pytest.fixture
def stand() -> Iterator[StandardStand]:
    stand = StandardStand()
    yield stand
    stand.close()


class TestStandardDrive(TapeDriveConformance):
    @pytest.fixture
    def stand(self, stand: StandardStand) -> StandardStand:
        return stand


@pytest.mark.timeout(300)
def test_an_arbitrary_way_with_power_cuts_is_that_of_the_simplest_tape() -> None:
    class Machine(DriveMachine):
        def make_stand(self) -> StandardStand:
            return StandardStand()

    case = Machine.TestCase
    case.settings = settings(
        max_examples=10, stateful_step_count=30, database=None, derandomize=True, phases=[Phase.generate]
    )
    case("runTest").runTest()


class WatchedNode:
    """Notes what is asked for, and does not let options be set, as for a user that is not root."""

    def __init__(self, device: Path, asked: list[Operation], *, is_root: bool) -> None:
        self._node = open_node(device)
        self._asked, self._is_root = asked, is_root
        self.status, self.told_block = self._node.status, self._node.told_block
        self.read_into, self.write, self.close = self._node.read_into, self._node.write, self._node.close

    def operate(self, operation: Operation, count: int = 1) -> None:
        self._asked.append(operation)
        if operation is Operation.SET_OPTIONS and not self._is_root:
            raise PermissionError(errno.EPERM, "not root")
        self._node.operate(operation, count)


@pytest.mark.parametrize("is_root", [True, False])
def test_it_locates_by_logical_block_numbers_only(stand: StandardStand, is_root: bool) -> None:
    """Without the option the numbers are the drive's own, and not used. `st` keeps the option until it is unloaded."""
    subprocess.run(["mt", "-f", stand.device, "stclearoptions", "scsi2logical"], check=True, timeout=60)
    asked: list[Operation] = []
    drive = StDrive(stand.device, "D", "T", opener=lambda device: WatchedNode(device, asked, is_root=is_root))
    stand.opened.append(drive)
    items = [b"a", b"b", MARK, b"c", b"d", MARK, b"e", MARK]
    write(drive, items, synchronous=True)
    for position, rest in (
        (Position(1, 1, 4), 4),
        (Position(0, 1, 1), 1),
        (Position(3, 0, 8), 8),
        (Position(1, 0, 3), 3),
    ):
        drive.locate(position)
        assert drive.tell() == position
        assert read_on(drive, 512) == items[rest:]
    assert (Operation.LOCATE in asked) == is_root


def test_a_bad_spot_is_an_error_and_no_end_of_data(stand: StandardStand) -> None:
    drive = stand.load()
    write(drive, [b"a", b"b", b"c", MARK, b"d", MARK], synchronous=True)
    stand.ask(standard_drive.BREAK_BLOCK, 0, 0, 0, 0, 1)
    drive.rewind()
    buffer = memoryview(bytearray(512))
    assert drive.read_record(buffer) == 1
    with pytest.raises(MediaError, match="record 1, block 1"):
        drive.read_record(buffer)
    drive.locate(Position(0, 2, 2))
    assert read_on(drive, 512) == [b"c", MARK, b"d", MARK]


def test_the_end_of_data_after_records_without_a_mark(stand: StandardStand) -> None:
    drive = stand.load()
    write(drive, [b"a", MARK, b"b"])
    drive.abandon()
    drive = stand.load()
    assert read_on(drive, 512) == [b"a", MARK, b"b"]
    with pytest.raises(EndOfData):
        drive.read_record(memoryview(bytearray(512)))
    write(drive, [b"c", MARK])
    drive.rewind()
    assert read_on(drive, 512) == [b"a", MARK, b"b", b"c", MARK]


def test_a_write_protected_cartridge(stand: StandardStand) -> None:
    drive = stand.load()
    write(drive, [b"a", MARK], synchronous=True)
    stand.unload(drive)
    stand.ask(standard_drive.PROTECT)
    drive = stand.load()
    assert drive.is_write_protected
    assert read_on(drive, 512) == [b"a", MARK]
    with pytest.raises(MediaError, match="write-protected"):
        drive.write_record(memoryview(b"b"))
    stand.unload(drive)


def test_law_5_after_a_power_cut_nothing_is_written_at_the_begin(stand: StandardStand) -> None:
    """The tape is at its begin then, and whatever is written there is written over the label."""
    drive = stand.load()
    write(drive, [b"label", MARK, b"object", MARK], synchronous=True)
    drive.write_record(memoryview(b"lost"))
    stand.ask(standard_drive.CUT_POWER)
    for step in (
        lambda: drive.write_record(memoryview(b"x")),
        lambda: drive.write_record(memoryview(b"x")),
        lambda: drive.write_file_mark(synchronous=True),
        lambda: drive.read_record(memoryview(bytearray(512))),
    ):
        with pytest.raises(MediaError):
            step()
    drive.close()
    assert read_on(stand.load(), 512) == [b"label", MARK, b"object", MARK]


def test_an_unloaded_drive_is_told(stand: StandardStand) -> None:
    stand.ask(*UNLOAD)
    with pytest.raises(MediaError, match="no cartridge"):
        StDrive(stand.device, "D", "T", ready_seconds=0.5)
    assert serial_number(stand.device) == standard_drive.SERIALS[0]


@pytest.mark.parametrize("items", [[], [tar_of(b"alpha"), MARK], [tar_of(b"alpha"), MARK, tar_of(b"beta")]])
def test_rescue_comes_to_the_end_of_data(stand: StandardStand, items: list[bytes | None]) -> None:
    """On a blank tape, behind a mark, and behind a tape file whose writer was killed before its mark."""
    drive = stand.load()
    write(drive, items)
    drive.abandon()
    command = [sys.executable, "-I", "-S", rescue.__file__, "list", str(stand.device)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "cannot be read" not in done.stdout
