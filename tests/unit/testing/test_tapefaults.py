"""Every trouble comes when it is asked for, once, and does what its name says."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from holdfast.errors import MediaError
from holdfast.tape.changer import VirtualChanger
from holdfast.tape.drive import EarlyWarning, EndOfData, EndOfMedium, TapeDrive
from holdfast.tape.drive.virtual import MARKS_NAME, VirtualDrive, make_cartridge
from holdfast.testing.conformance import DriveMachine, TapeDriveConformance
from holdfast.testing.conformance.drive import MARK, place, read_on, write
from holdfast.testing.tapefaults import (
    FaultyChanger,
    FaultyDrive,
    Happened,
    ProcessStopped,
    TapeFault,
    Trouble,
    Troubles,
    lose_buffers,
)
from holdfast.values import Side

THREE = [b"one", b"two", b"three", MARK]


class Stand:
    """A library with one cartridge, and whatever troubles a test makes."""

    def __init__(self, folder: Path) -> None:
        self.changer = VirtualChanger(folder, barcode_prefix="HF", media="L8", cartridge_bytes=2**26)
        (self.barcode,) = self.changer.scratch([Side.A], set())
        self.folder = self.changer.cartridge_folder(self.barcode)

    def load(self, troubles: Troubles, drive: str = "VDRIVE-0") -> FaultyDrive:
        self.faulty = FaultyChanger(self.changer, troubles)
        return self.faulty.load(self.barcode, drive)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    stand = Stand(tmp_path)
    yield stand
    stand.changer.close()


def on_tape(drive: FaultyDrive) -> list[bytes | None]:
    drive.rewind()
    return read_on(drive, 512)


def fault(trouble: Trouble, operation: str = "*", nth: int = 1, **more: object) -> Troubles:
    return Troubles([TapeFault(trouble, operation=operation, nth=nth, **more)])  # type: ignore[arg-type]


def the_one(troubles: Troubles) -> Happened:
    troubles.demand_all_happened()
    (happened,) = troubles.happened
    return happened


def test_without_troubles_the_drive_is_the_one_behind_it(stand: Stand) -> None:
    troubles = Troubles()
    drive = stand.load(troubles)
    write(drive, THREE, synchronous=True)
    assert drive.tell() == place(THREE, 4)
    assert on_tape(drive) == THREE
    names = [item.name for item in troubles.operations]
    assert names[:5] == ["load", "write_record", "write_record", "write_record", "write_file_mark"]
    assert [item.number for item in troubles.operations] == list(range(1, len(names) + 1))
    assert troubles.happened == []


def test_a_fault_that_did_not_happen_is_told() -> None:
    with pytest.raises(AssertionError, match="did not happen"):
        fault(Trouble.WRITE_ERROR).demand_all_happened()


def test_a_record_that_cannot_be_read_stays_so_for_every_drive_until_it_is_written_over(stand: Stand) -> None:
    troubles = fault(Trouble.READ_ERROR, nth=2)
    drive = stand.load(troubles)
    write(drive, THREE, synchronous=True)
    with pytest.raises(MediaError, match="cannot be read"):
        on_tape(drive)
    assert the_one(troubles).operation.block == 1
    stand.faulty.unload("VDRIVE-0")
    drive = stand.load(troubles, "VDRIVE-1")
    with pytest.raises(MediaError, match="cannot be read"):
        on_tape(drive)
    drive.locate(place(THREE, 1))
    write(drive, [b"new", MARK])
    assert on_tape(drive) == [b"one", b"new", MARK]


@pytest.mark.parametrize("operation", ["write_record", "write_file_mark"])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_write_error_writes_nothing_and_only_a_lasting_one_comes_again(
    stand: Stand, operation: str, lasting: bool
) -> None:
    troubles = fault(Trouble.LASTING_WRITE_ERROR if lasting else Trouble.WRITE_ERROR, operation)
    drive = stand.load(troubles)
    if operation == "write_file_mark":
        drive.write_record(memoryview(b"one"))
    here = drive.tell()
    with pytest.raises(MediaError):
        write(drive, THREE if operation == "write_record" else [MARK])
    assert drive.tell() == here
    assert the_one(troubles).operation.block == here.block
    if lasting:
        with pytest.raises(MediaError):
            write(drive, THREE if operation == "write_record" else [MARK])
    else:
        write(drive, THREE)
        assert len(on_tape(drive)) == len(THREE) + here.block


def test_an_early_warning_comes_every_other_time_from_its_block_on(stand: Stand) -> None:
    troubles = fault(Trouble.EARLY_WARNING, nth=2)
    drive = stand.load(troubles)
    drive.write_record(memoryview(b"one"))
    for data in (b"two", b"three"):
        with pytest.raises(EarlyWarning):
            drive.write_record(memoryview(data))
        drive.write_record(memoryview(data))
    drive.write_file_mark(synchronous=True)
    assert on_tape(drive) == THREE
    drive.rewind()
    drive.write_record(memoryview(b"before it there is room"))
    assert the_one(troubles).operation.block == 1


def test_at_the_end_of_the_medium_only_marks_can_be_written(stand: Stand) -> None:
    troubles = fault(Trouble.END_OF_MEDIUM, nth=2)
    drive = stand.load(troubles)
    drive.write_record(memoryview(b"one"))
    for _ in range(2):
        with pytest.raises(EndOfMedium):
            drive.write_record(memoryview(b"two"))
    drive.write_file_mark(synchronous=True)
    assert on_tape(drive) == [b"one", MARK]
    the_one(troubles)


@pytest.mark.parametrize("trouble", [Trouble.FAILED_BUT_DONE, Trouble.NOT_DONE])
def test_a_command_that_is_told_as_failed_was_done_or_not(stand: Stand, trouble: Trouble) -> None:
    troubles = fault(trouble, "write_record", nth=2)
    drive = stand.load(troubles)
    drive.write_record(memoryview(b"one"))
    with pytest.raises(MediaError, match="told as failed"):
        drive.write_record(memoryview(b"two"))
    drive.write_file_mark(synchronous=True)
    assert on_tape(drive) == [b"one", *([b"two"] if trouble is Trouble.FAILED_BUT_DONE else []), MARK]
    the_one(troubles)


def test_a_fault_may_come_several_times_in_a_row(stand: Stand) -> None:
    troubles = fault(Trouble.WRITE_ERROR, "write_record", nth=2, times=3)
    drive = stand.load(troubles)
    came = []
    for number in range(8):
        try:
            drive.write_record(memoryview(b"data"))
        except MediaError:
            came.append(number)
    assert came == [1, 2, 3]
    troubles.demand_all_happened()


def test_a_dead_drive_does_nothing_more_and_loses_its_buffer(stand: Stand) -> None:
    troubles = fault(Trouble.DRIVE_DIES, "write_file_mark", nth=2)
    drive = stand.load(troubles)
    write(drive, THREE, synchronous=True)
    drive.write_record(memoryview(b"lost"))
    with pytest.raises(MediaError, match="died"):
        drive.write_file_mark(synchronous=True)
    for _ in range(2):
        with pytest.raises(MediaError, match="does not answer"):
            drive.rewind()
    stand.faulty.unload("VDRIVE-0")
    with pytest.raises(MediaError, match="does not answer"):
        stand.load(troubles)
    the_one(troubles)
    troubles.repair_drives()
    assert read_on(stand.load(troubles), 512)[:4] == THREE


def test_a_load_that_fails_leaves_the_cartridge_in_its_slot(stand: Stand) -> None:
    troubles = fault(Trouble.LOAD_FAILS)
    with pytest.raises(MediaError, match="load fails"):
        stand.load(troubles)
    assert stand.changer.inventory().slots == (stand.barcode,)
    assert on_tape(stand.load(troubles)) == []
    the_one(troubles)


@pytest.mark.parametrize("after", [False, True])
def test_a_process_that_is_stopped_does_nothing_more_at_either_drive(stand: Stand, after: bool) -> None:
    troubles = fault(Trouble.STOPPED, "write_record", nth=2, after=after)
    drive = stand.load(troubles)
    drive.write_record(memoryview(b"one"))
    for step in (
        lambda: drive.write_record(memoryview(b"two")),
        drive.rewind,
        lambda: drive.write_record(memoryview(b"x")),
    ):
        with pytest.raises(ProcessStopped):
            step()
    assert drive.tell().block == (2 if after else 1)
    the_one(troubles)


def test_the_same_seed_meets_the_same_and_another_one_other_troubles(stand: Stand) -> None:
    def met(seed: int) -> list[tuple[Trouble, int]]:
        troubles = Troubles(seed=seed, rates={Trouble.WRITE_ERROR: 0.1, Trouble.FAILED_BUT_DONE: 0.1})
        drive = stand.load(troubles)
        for number in range(100):
            try:
                drive.write_record(memoryview(bytes([number])))
            except MediaError:
                pass
        stand.changer.unload("VDRIVE-0")
        return [(item.trouble, item.operation.number) for item in troubles.happened]

    assert met(1) == met(1)
    assert met(1) != met(2)
    assert 5 < len(met(3)) < 45
    assert {trouble for trouble, _ in met(3)} == {Trouble.WRITE_ERROR, Trouble.FAILED_BUT_DONE}


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(stand: Stand, seed: int) -> None:
    drive = stand.load(Troubles())
    write(drive, THREE, synchronous=True)
    write(drive, [b"x" * 300, MARK, b"y" * 400])
    assert isinstance(drive.drive, VirtualDrive)
    drive.drive.abandon()
    stand.changer.unload("VDRIVE-0")
    marks = (stand.folder / MARKS_NAME).read_bytes()
    lost = lose_buffers(stand.folder, random.Random(seed))
    assert 0 <= lost <= 700
    assert (stand.folder / MARKS_NAME).read_bytes() == marks
    drive = stand.load(Troubles())
    found: list[bytes | None] = []
    try:
        found = read_on(drive, 512)
    except (EndOfData, MediaError):
        pass
    assert found[:4] == THREE
    stand.changer.unload("VDRIVE-0")


def test_power_cuts_differ(stand: Stand) -> None:
    sizes = set()
    for seed in range(30):
        drive = stand.load(Troubles())
        write(drive, THREE, synchronous=True)
        write(drive, [b"x" * 300, MARK, b"y" * 400])
        assert isinstance(drive.drive, VirtualDrive)
        drive.drive.abandon()
        stand.changer.unload("VDRIVE-0")
        sizes.add(lose_buffers(stand.folder, random.Random(seed)))
    assert {0, 700} < sizes
    assert len(sizes) > 5


# -- without troubles it is a drive like any other, and a power cut by `lose_buffers` is one that it survives


class FaultyStand:
    """Virtual cartridges in faulty drives that have no troubles; power cuts tear at random."""

    largest_record_bytes = 8192
    capacity_bytes: int | None = 4 * 2**20
    can_cut_power = True
    has_hard_end = True

    def __init__(self, folder: Path, capacity_bytes: int = 4 * 2**20) -> None:
        self.folder = folder
        self.dice = random.Random(str(capacity_bytes))
        make_cartridge(folder, "HF0001L8", capacity_bytes)

    def load(self) -> FaultyDrive:
        return FaultyDrive(VirtualDrive("VDRIVE-0", self.folder), "HF0001L8", Troubles())

    def unload(self, drive: TapeDrive) -> None:
        assert isinstance(drive, FaultyDrive)
        assert isinstance(drive.drive, VirtualDrive)
        drive.drive.close()

    def cut_power(self, drive: TapeDrive) -> None:
        assert isinstance(drive, FaultyDrive)
        assert isinstance(drive.drive, VirtualDrive)
        drive.drive.abandon()
        lose_buffers(self.folder, self.dice)

    def close(self) -> None:
        pass


class TestFaultyDrive(TapeDriveConformance):
    @pytest.fixture
    def stand(self, tmp_path: Path) -> FaultyStand:
        return FaultyStand(tmp_path / "HF0001L8")


class FaultyDriveMachine(DriveMachine):
    def make_stand(self) -> FaultyStand:
        self.top = tempfile.mkdtemp()
        return FaultyStand(Path(self.top) / "HF0001L8", 2**30)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.top)


TestFaultyDriveMachine = FaultyDriveMachine.TestCase
TestFaultyDriveMachine.settings = settings(max_examples=20, stateful_step_count=40)
