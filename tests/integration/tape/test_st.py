"""The driver for `st` on a drive behind the kernel's own `st`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from tests.integration.tape.conftest import RealLibrary

from holdfast.errors import BusyError, MediaError
from holdfast.tape.drive import BEGIN_OF_TAPE, EndOfData, Position, TapeDrive
from holdfast.tape.drive.st import StDrive, serial_number
from holdfast.testing.conformance import DriveMachine, TapeDriveConformance
from holdfast.testing.conformance.drive import MARK, read_on, write

KILLED = """
import sys, time
from pathlib import Path
from holdfast.tape.drive.st import StDrive
drive = StDrive(Path(sys.argv[1]), "DRIVE", "TAPE")
drive.write_record(memoryview(b"committed"))
drive.write_file_mark(synchronous=True)
drive.write_record(memoryview(b"not committed"))
print("written", flush=True)
time.sleep(60)
"""


class StStand:
    """A drive and a cartridge that nobody has written on, moved by `mtx`."""

    largest_record_bytes = 2**20  # what the emulated drive takes
    capacity_bytes: int | None = 64 * 2**20
    can_cut_power = False  # what `tgtd` wrote is in the host's memory, not in the guest's
    has_hard_end = False  # it warns for ever

    def __init__(self, library: RealLibrary) -> None:
        self.library = library
        self.serial = min(library.drives)
        self.barcode, self.slot = library.blank()
        self.loaded: list[StDrive] = []

    @property
    def device(self) -> Path:
        return self.library.drives[self.serial]

    def load(self) -> StDrive:
        if not self.loaded:
            self.library.mtx("load", str(self.slot), str(self.library.element(self.serial)))
        self.loaded.append(StDrive(self.device, self.serial, self.barcode))
        return self.loaded[-1]

    def unload(self, drive: TapeDrive) -> None:
        assert isinstance(drive, StDrive)
        drive.close()
        self.library.mtx("unload", str(self.slot), str(self.library.element(self.serial)))
        self.loaded.clear()

    def cut_power(self, drive: TapeDrive) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for drive in self.loaded:
            drive.abandon()
        self.library.empty_drives()


@pytest.fixture
def stand(library: RealLibrary) -> Iterator[StStand]:
    stand = StStand(library)
    yield stand
    stand.close()


class TestStDrive(TapeDriveConformance):
    @pytest.fixture
    def stand(self, stand: StStand) -> StStand:
        return stand


@pytest.mark.timeout(300)
def test_an_arbitrary_way_is_that_of_the_simplest_tape(library: RealLibrary) -> None:
    class Machine(DriveMachine):
        unit_bytes = 512  # of records of 35 or 37 bytes the emulated drive gave the last few as zeros, now and then

        def make_stand(self) -> StStand:
            return StStand(library)

    case = Machine.TestCase
    case.settings = settings(
        max_examples=10, stateful_step_count=30, database=None, derandomize=True, phases=[Phase.generate]
    )
    case("runTest").runTest()


def test_the_kernel_tells_the_serial_number(library: RealLibrary, stand: StStand) -> None:
    assert sorted(library.drives) == ["HFDRV00008", "HFDRV00009"]
    link = Path(f"/dev/tape/by-id/scsi-{stand.serial}-nst")
    assert link.resolve() == stand.device
    assert serial_number(link) == stand.serial


def test_an_empty_drive_is_told_without_waiting_two_minutes(library: RealLibrary, stand: StStand) -> None:
    begun = time.monotonic()
    with pytest.raises(MediaError, match="no cartridge in the drive"):
        StDrive(stand.device, stand.serial, "HFX001L6", ready_seconds=0.5)
    assert time.monotonic() - begun < 30


def test_this_drive_goes_without_locate(stand: StStand) -> None:
    """If the emulator learns to locate one day, the other way must be tested some other way."""
    drive = stand.load()
    write(drive, [b"aa", b"bb", MARK, b"cc", MARK])
    drive.locate(Position(0, 1, 1))
    drive.locate(Position(1, 0, 3))
    assert read_on(drive, 512) == [b"cc", MARK]
    with pytest.raises(OSError, match="Input/output"):
        drive._node.told_block()  # type: ignore[union-attr] # what the driver itself found out


def test_a_killed_owner_leaves_what_was_committed(stand: StStand) -> None:
    """`st` writes a mark when the device of a killed process is closed: behind the commit, where nothing is owed."""
    stand.load().close()
    command = [sys.executable, "-c", KILLED, str(stand.device)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"written\n"
        with pytest.raises(BusyError):
            StDrive(stand.device, stand.serial, stand.barcode)
        os.kill(owner.pid, signal.SIGKILL)
    drive = StDrive(stand.device, stand.serial, stand.barcode)
    stand.loaded.append(drive)
    assert read_on(drive, 512) == [b"committed", MARK, b"not committed", MARK]


def test_letting_go_writes_no_mark(stand: StStand) -> None:
    drive = stand.load()
    write(drive, [b"a", MARK, b"b"])
    drive.abandon()
    drive = stand.load()
    assert read_on(drive, 512) == [b"a", MARK, b"b"]


def test_writing_at_the_end_of_data_after_reading_there(stand: StStand) -> None:
    """On a blank tape, behind a record, and behind a mark: `st` comes to each end in another state."""
    drive = stand.load()
    expected: list[bytes | None] = []
    for more in ([b"a", b"A", b"1"], [b"b", b"B", MARK], [b"c", b"C"], [MARK, MARK], [b"d", b"D", b"4", MARK]):
        assert read_on(drive, 512) == expected
        write(drive, more)
        expected += more
        drive.abandon()
        drive = stand.load()
    assert read_on(drive, 512) == expected


def test_tar_reads_what_was_written(stand: StStand, tmp_path: Path) -> None:
    """Law 8: the tape tools of the system come to the same tape files."""
    drive = stand.load()
    (tmp_path / "measured").write_bytes(b"0123456789" * 100)
    packed = subprocess.run(["tar", "-b", "8", "-C", tmp_path, "-cf", "-", "measured"], check=True, capture_output=True)
    write(drive, [b"label", MARK])
    for first in range(0, len(packed.stdout), 4096):
        drive.write_record(memoryview(packed.stdout[first : first + 4096]))
    drive.write_file_mark(synchronous=True)
    drive.close()
    for command in (["mt", "-f", stand.device, "rewind"], ["mt", "-f", stand.device, "fsf", "1"]):
        subprocess.run(command, check=True, timeout=60)
    out = subprocess.run(["tar", "-b", "8", "-xOf", stand.device], check=True, capture_output=True, timeout=60)
    assert out.stdout == b"0123456789" * 100


def test_two_drives_at_once(library: RealLibrary, stand: StStand) -> None:
    other = StStand(library)
    other.serial = sorted(library.drives)[1]
    drives = [stand.load(), other.load()]
    for number, drive in enumerate(drives):
        write(drive, [b"%d" % number * 1000, MARK], synchronous=True)
    for number, drive in enumerate(drives):
        drive.rewind()
        assert drive.tell() == BEGIN_OF_TAPE
        assert read_on(drive, 2000) == [b"%d" % number * 1000, MARK]
        with pytest.raises(EndOfData):
            drive.read_record(memoryview(bytearray(10)))
    for one in (stand, other):
        one.unload(one.loaded[0])


def test_a_cartridge_that_was_taken_out_is_told(library: RealLibrary, stand: StStand) -> None:
    drive = stand.load()
    write(drive, [b"a", MARK], synchronous=True)
    library.mtx("unload", str(stand.slot), str(library.element(stand.serial)))
    with pytest.raises(MediaError):
        drive.write_record(memoryview(b"b"))
    with pytest.raises(MediaError):
        drive.rewind()
    drive.abandon()
    stand.loaded.clear()
    assert read_on(stand.load(), 512) == [b"a", MARK]


def test_a_reset_is_told_and_nothing_is_written_until_the_place_is_known(stand: StStand) -> None:
    drive = stand.load()
    write(drive, [b"a", MARK], synchronous=True)
    drive.write_record(memoryview(b"b"))
    generic = next(Path(f"/sys/class/scsi_tape/{stand.device.name}/device/scsi_generic").iterdir()).name
    subprocess.run(["sg_reset", "-N", "-d", f"/dev/{generic}"], check=True, timeout=60)
    with pytest.raises(MediaError, match="was reset"):
        drive.write_record(memoryview(b"c"))
    with pytest.raises(MediaError, match="was reset"):
        drive.write_file_mark(synchronous=True)
    drive.locate(Position(1, 0, 2))
    write(drive, [b"d", MARK], synchronous=True)
    drive.rewind()
    assert read_on(drive, 512) == [b"a", MARK, b"d", MARK]
