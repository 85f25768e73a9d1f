"""The driver for `st`: the conformance suite against every kind of drive that it must cope with, and what fails.

The drives are in memory here; tests/integration/tape has real ones.
"""

from __future__ import annotations

import errno
import fcntl
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from tests.unit.tape.drive.fake_st import Drive, Tape

from holdfast.errors import BusyError, MediaError
from holdfast.tape.drive import BEGIN_OF_TAPE, EarlyWarning, EndOfData, EndOfMedium, Position, TapeDrive
from holdfast.tape.drive.st import DeviceNode, StDrive, open_node, serial_number
from holdfast.testing.conformance import DriveMachine, TapeDriveConformance
from holdfast.testing.conformance.drive import MARK, read_on, write

DEVICE = Path("/dev/nst7")
KINDS = {
    "as root": Drive(),
    "logical numbers": Drive(may_set_options=False),
    "its own numbers": Drive(may_set_options=False, numbers_are_logical=False),
    "cannot tell": Drive(tells=False),
    "emulated": Drive(tells=False, stale_at_end=True, erases=False),
    "marks wait": Drive(marks_at_once=False, erases=False),
    "old kernel": Drive(old_kernel=True),
}
RECORD_BYTES = 8192


def opened(drive: Drive, ready_seconds: float = 0.0) -> StDrive:
    return StDrive(DEVICE, "DRV1", "HFA001L6", ready_seconds=ready_seconds, opener=drive.open)


class StStand:
    """A drive of some kind with a blank cartridge."""

    largest_record_bytes = RECORD_BYTES
    capacity_bytes: int | None = 64 * RECORD_BYTES
    can_cut_power = False
    has_hard_end = True

    def __init__(self, kind: Drive) -> None:
        tape = Tape(warning_bytes=56 * RECORD_BYTES, capacity_bytes=64 * RECORD_BYTES)
        self.drive = replace(kind, tape=tape, calls=[], failing={})

    def load(self) -> StDrive:
        return opened(self.drive)

    def unload(self, drive: TapeDrive) -> None:
        assert isinstance(drive, StDrive)
        drive.close()

    def cut_power(self, drive: TapeDrive) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.mark.parametrize("kind", KINDS)
class TestStDrive(TapeDriveConformance):
    @pytest.fixture
    def stand(self, kind: str) -> StStand:
        return StStand(KINDS[kind])


class StDriveMachine(DriveMachine):
    kind = "emulated"

    def make_stand(self) -> StStand:
        stand = StStand(KINDS[self.kind])
        assert stand.drive.tape is not None
        stand.drive.tape.warning_bytes = 2**30
        stand.drive.tape.capacity_bytes = 2**31
        return stand


class OwnNumbersMachine(StDriveMachine):
    kind = "its own numbers"


class RootMachine(StDriveMachine):
    kind = "as root"


TestEmulated = StDriveMachine.TestCase
TestOwnNumbers = OwnNumbersMachine.TestCase
TestRoot = RootMachine.TestCase
for case in (TestEmulated, TestOwnNumbers, TestRoot):
    case.settings = settings(max_examples=30, stateful_step_count=40)


@pytest.fixture(params=[kind for kind, drive in KINDS.items() if not drive.stale_at_end])
def kind(request: pytest.FixtureRequest) -> Drive:
    return replace(KINDS[request.param], tape=Tape(), calls=[], failing={})


# -- getting ready


def test_it_waits_until_the_cartridge_is_ready() -> None:
    drive = Drive(Tape(), slow_opens=2)
    assert opened(drive, ready_seconds=10).tell() == BEGIN_OF_TAPE


def test_an_empty_drive_is_told() -> None:
    with pytest.raises(MediaError, match="no cartridge in the drive") as caught:
        opened(Drive())
    assert "DRV1" in str(caught.value)
    assert "HFA001L6" in str(caught.value)
    assert caught.value.hint is not None


def test_a_drive_that_does_not_get_ready_is_told_and_let_go() -> None:
    drive = Drive(Tape(), slow_opens=10**6)
    with pytest.raises(MediaError, match="not ready"):
        opened(drive)
    assert not drive.is_open


def test_law_10_a_drive_that_somebody_has_is_busy() -> None:
    drive = Drive(Tape())
    opened(drive)
    with pytest.raises(BusyError, match="fuser"):
        opened(drive)


@pytest.mark.parametrize(("number", "hint"), [(errno.ENXIO, "connected"), (errno.EACCES, "group")])
def test_a_drive_that_cannot_be_opened(number: int, hint: str) -> None:
    def refuse(_: Path) -> DeviceNode:
        raise OSError(number, "refused")

    with pytest.raises(MediaError) as caught:
        StDrive(DEVICE, "DRV1", "HFA001L6", opener=refuse)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_drive_that_fails_when_it_is_set_up_is_let_go() -> None:
    drive = Drive(Tape(), failing={"REWIND": errno.EIO})
    with pytest.raises(MediaError, match="cannot rewind"):
        opened(drive)
    assert not drive.is_open


# -- which way it locates


def test_a_drive_that_tells_is_located_by_block() -> None:
    drive = opened(node := Drive(Tape([b"a", b"b", MARK, b"c", MARK])))
    drive.locate(Position(1, 0, 3))
    assert ("LOCATE", 3) in node.calls
    assert read_on(drive, 9) == [b"c", MARK]


def test_numbers_are_believed_only_after_one_agreed() -> None:
    drive = opened(node := Drive(Tape([b"a", b"b", MARK, b"c", MARK]), may_set_options=False))
    drive.locate(Position(1, 0, 3))
    assert ("LOCATE", 3) not in node.calls
    drive.locate(Position(0, 1, 1))
    assert ("LOCATE", 1) in node.calls
    assert read_on(drive, 9) == [b"b", MARK, b"c", MARK]


def test_a_drive_that_cannot_tell_goes_forward_without_a_rewind() -> None:
    drive = opened(node := Drive(Tape([b"a", b"b", MARK, b"c", MARK]), tells=False))
    drive.locate(Position(0, 1, 1))
    drive.locate(Position(1, 0, 3))
    assert [name for name, _ in node.calls].count("REWIND") == 1
    drive.locate(Position(0, 1, 1))
    assert [name for name, _ in node.calls].count("REWIND") == 2
    assert read_on(drive, 9) == [b"b", MARK, b"c", MARK]


def test_a_drive_that_arrives_elsewhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = opened(node := Drive(Tape([b"a", b"b", MARK])))
    monkeypatch.setattr("tests.unit.tape.drive.fake_st.FakeNode._locate", lambda self, block: self._moved(0))
    with pytest.raises(MediaError, match="the tape at block 0"):
        drive.locate(Position(0, 1, 1))
    with pytest.raises(MediaError):
        drive.write_record(memoryview(b"x"))
    assert node.tape == Tape([b"a", b"b", MARK])


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("position", [Position(0, 0, 1), Position(2, 0, 1), Position(0, -1, 0), Position(1, 2, 2)])
def test_a_position_that_does_not_agree_with_itself_is_refused(position: Position, tells: bool) -> None:
    drive = opened(Drive(Tape([b"a", MARK, b"b", MARK]), tells=tells))
    with pytest.raises(ValueError, match="no such place"):
        drive.locate(position)


def test_a_long_record_is_skipped_like_any_other() -> None:
    drive = opened(Drive(Tape([b"x" * (2**20 + 1), b"b", MARK]), tells=False))
    drive.locate(Position(0, 1, 1))
    assert read_on(drive, 9) == [b"b", MARK]
    drive.rewind()
    drive.space_file_marks(1)
    assert drive.tell() == Position(1, 0, 3)


# -- failures


def test_after_a_failure_nothing_is_done_until_the_place_is_known_again(kind: Drive) -> None:
    """Law 5: what is written where nobody knows could be on top of committed data."""
    drive = opened(kind)
    write(drive, [b"a", MARK, b"b", MARK])
    drive.rewind()
    kind.failing["READ"] = errno.EIO
    with pytest.raises(MediaError) as caught:
        drive.read_record(memoryview(bytearray(9)))
    for part in ("HFA001L6", "DRV1", "/dev/nst7", "tape file 0", "block 0", "read a record", "EIO"):
        assert part in str(caught.value)
    assert caught.value.hint is not None
    for step in (
        lambda: drive.write_record(memoryview(b"x")),
        lambda: drive.write_file_mark(synchronous=True),
        lambda: drive.read_record(memoryview(bytearray(9))),
        lambda: drive.space_file_marks(1),
        drive.tell,
    ):
        with pytest.raises(MediaError):
            step()
    drive.locate(Position(1, 0, 2))
    assert read_on(drive, 9) == [b"b", MARK]


@pytest.mark.parametrize("position", [Position(0, 0, 0), Position(1, 0, 2)])
def test_a_reset_is_told(kind: Drive, position: Position) -> None:
    drive = opened(kind)
    write(drive, [b"a", MARK, b"b", MARK])
    drive.locate(position)
    kind.was_reset = True
    with pytest.raises(MediaError, match="was reset"):
        drive.read_record(memoryview(bytearray(9)))
    drive.locate(position)
    assert ("SET_BLOCK_BYTES", 0) in kind.calls[4:]
    assert read_on(drive, 9)[-2:] == [b"b", MARK]


def test_a_failure_after_a_locate_is_no_reset() -> None:
    drive = opened(kind := Drive(Tape([b"a", MARK, b"b", MARK])))
    drive.locate(Position(1, 0, 2))
    kind.failing["READ"] = errno.EIO
    with pytest.raises(MediaError) as caught:
        drive.read_record(memoryview(bytearray(9)))
    assert "reset" not in str(caught.value)


def test_a_reset_while_writing(kind: Drive) -> None:
    drive = opened(kind)
    write(drive, [b"a", MARK, b"b"])
    kind.was_reset = True
    with pytest.raises(MediaError, match="was reset"):
        drive.write_record(memoryview(b"c"))
    drive.rewind()
    assert read_on(drive, 9)[:2] == [b"a", MARK]


def test_a_short_write_is_a_failure(kind: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = opened(kind)
    monkeypatch.setattr("tests.unit.tape.drive.fake_st.FakeNode.write", lambda self, data: len(data) - 1)
    with pytest.raises(MediaError) as caught:
        drive.write_record(memoryview(b"abc"))
    assert (caught.value.expected, caught.value.found) == ("3 bytes written", "2 bytes written")
    with pytest.raises(MediaError):
        drive.write_file_mark(synchronous=True)


def test_a_record_of_a_size_that_the_drive_does_not_take(kind: Drive) -> None:
    drive = opened(kind)
    kind.failing["WRITE"] = errno.EINVAL
    with pytest.raises(MediaError, match="of a size"):
        drive.write_record(memoryview(b"abc"))


def test_a_record_that_is_too_long_is_passed(kind: Drive) -> None:
    assert kind.tape is not None
    kind.tape.items = [b"abcd", b"e", MARK]
    drive = opened(kind)
    with pytest.raises(MediaError, match="longer") as caught:
        drive.read_record(memoryview(bytearray(3)))
    assert "record 0" in str(caught.value)
    assert drive.tell() == Position(0, 1, 1)
    assert read_on(drive, 9) == [b"e", MARK]


def test_more_than_the_drive_s_longest_record_is_not_asked_for(kind: Drive) -> None:
    """As for a tape that may be anybody's: `st` would answer with EINVAL, on a blank one, too."""
    assert kind.tape is not None
    kind.largest_bytes = 2**20
    kind.tape.items = [b"a" * 2**20, MARK]
    assert read_on(opened(kind), 2**21) == [b"a" * 2**20, MARK]
    kind.tape.items = []
    with pytest.raises(EndOfData):
        opened(replace(kind, is_open=False)).read_record(memoryview(bytearray(2**21)))


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_mark_that_fails_is_a_failure(kind: Drive, synchronous: bool) -> None:
    drive = opened(kind)
    drive.write_record(memoryview(b"a"))
    kind.failing["WRITE_MARKS"] = kind.failing["WRITE_MARKS_AT_ONCE"] = errno.EIO
    with pytest.raises(MediaError, match="write a file mark"):
        drive.write_file_mark(synchronous=synchronous)


def test_a_refused_immediate_mark_is_written_synchronously() -> None:
    drive = opened(node := Drive(Tape(), tells=False, failing={"WRITE_MARKS_AT_ONCE": errno.EINVAL}))
    write(drive, [b"a", MARK, b"b", MARK])
    assert [name for name, _ in node.calls].count("WRITE_MARKS") == 2
    assert [name for name, _ in node.calls].count("WRITE_MARKS_AT_ONCE") == 1
    assert node.tape == Tape([b"a", MARK, b"b", MARK])


def test_a_mark_that_may_be_half_done_is_not_written_twice() -> None:
    drive = opened(node := Drive(Tape(), tells=False, failing={"WRITE_MARKS_AT_ONCE": errno.EIO}))
    with pytest.raises(MediaError):
        write(drive, [b"a", MARK])
    assert node.tape == Tape([b"a"])


# -- write protection


def test_a_write_protected_cartridge_is_read_and_not_written() -> None:
    drive = opened(Drive(Tape([b"a", MARK], is_write_protected=True)))
    assert read_on(drive, 9) == [b"a", MARK]
    for step in (lambda: drive.write_record(memoryview(b"x")), lambda: drive.write_file_mark(synchronous=True)):
        with pytest.raises(MediaError, match="write-protected") as caught:
            step()
        assert "tab" in str(caught.value.hint)
    assert drive.tell() == Position(1, 0, 2)
    drive.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EBADF])
def test_write_protection_that_only_a_write_finds(number: int) -> None:
    drive = opened(Drive(Tape(), failing={"WRITE": number}))
    with pytest.raises(MediaError, match="write-protected"):
        drive.write_record(memoryview(b"x"))


# -- erasing


def test_a_drive_that_cannot_erase_leaves_one_mark() -> None:
    for kind in (Drive(erases=False), Drive(erases=False, tells=False)):
        kind.tape = Tape([b"a", MARK, b"b", MARK])
        drive = opened(kind)
        drive.space_file_marks(1)
        drive.erase()
        assert kind.tape.items == [MARK]
        drive.close()
        assert kind.tape.items == [MARK]


def test_law_5_a_drive_that_was_reset_while_it_was_to_erase_writes_nothing(kind: Drive) -> None:
    """Another cartridge may be in it by now."""
    kind.tape = Tape([b"a", MARK])
    drive = opened(kind)
    drive.rewind = lambda: setattr(kind, "was_reset", True)  # type: ignore[method-assign] # just behind the rewind
    with pytest.raises(MediaError, match="the drive cannot erase the tape") as caught:
        drive.erase()
    assert kind.tape.items == [b"a", MARK]
    assert "was reset" in (caught.value.found or "")


def test_a_write_protected_cartridge_is_not_erased(kind: Drive) -> None:
    kind.tape = Tape([b"a", MARK], is_write_protected=True)
    drive = opened(kind)
    with pytest.raises(MediaError, match="write-protected"):
        drive.erase()
    assert kind.tape.items == [b"a", MARK]
    assert not any(name in ("ERASE", "WRITE_MARKS") for name, _ in kind.calls)


# -- the end of the tape


def test_the_early_warning_of_a_record_before_reaches_a_mark() -> None:
    """`st` writes behind: the warning may come with the mark, which then was not written."""
    drive = opened(node := Drive(Tape(), failing={"WRITE_MARKS": errno.ENOSPC}))
    write(drive, [b"a", MARK], synchronous=True)
    assert node.tape == Tape([b"a", MARK])
    assert drive.tell() == Position(1, 0, 2)


def test_a_mark_for_which_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = opened(Drive(Tape()))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("tests.unit.tape.drive.fake_st.FakeNode._write_marks", full)
    with pytest.raises(EndOfMedium):
        drive.write_file_mark(synchronous=True)


def test_a_warning_is_forgotten_when_a_write_succeeds_or_the_tape_moves() -> None:
    drive = opened(Drive(Tape(warning_bytes=4, capacity_bytes=100)))
    drive.write_record(memoryview(b"12345"))
    for _ in range(3):
        with pytest.raises(EarlyWarning):
            drive.write_record(memoryview(b"x"))
        drive.write_record(memoryview(b"x"))


@pytest.mark.parametrize("items", [[], [b"a"], [b"a", MARK]])
def test_writing_at_the_end_of_data_after_reading_there(items: list[bytes | None]) -> None:
    """An emulated drive calls the end of data that of the tape, and `st` refuses the next write."""
    drive = opened(node := Drive(Tape(items.copy()), tells=False, stale_at_end=True))
    assert read_on(drive, 9) == items
    write(drive, [b"b", b"c", b"d"])
    drive.close()
    assert node.tape == Tape([*items, b"b", b"c", b"d", MARK])


# -- the end of use


def test_closing_ends_the_tape_file_and_letting_go_does_not(kind: Drive) -> None:
    drive = opened(kind)
    write(drive, [b"a", MARK, b"b"])
    drive.abandon()
    assert kind.tape == Tape([b"a", MARK, b"b"])
    drive = opened(kind)
    drive.locate(Position(1, 0, 2))
    write(drive, [b"b"])
    drive.close()
    assert kind.tape == Tape([b"a", MARK, b"b", MARK])


def test_closing_puts_immediate_marks_on_the_medium(kind: Drive) -> None:
    drive = opened(kind)
    write(drive, [b"a", MARK])
    drive.close()
    assert ("WRITE_MARKS", 0) in kind.calls
    assert kind.tape == Tape([b"a", MARK])


def test_closing_after_a_failure_writes_nothing(kind: Drive) -> None:
    drive = opened(kind)
    drive.write_record(memoryview(b"a"))
    kind.failing["WRITE"] = errno.EIO
    with pytest.raises(MediaError):
        drive.write_record(memoryview(b"b"))
    drive.close()
    assert kind.tape == Tape([b"a"])
    assert not kind.is_open


def test_a_drive_that_was_let_go_does_nothing(kind: Drive) -> None:
    drive = opened(kind)
    drive.close()
    drive.close()
    drive.abandon()
    for step in (
        drive.rewind,
        drive.tell,
        lambda: drive.locate(BEGIN_OF_TAPE),
        lambda: drive.read_record(memoryview(bytearray(9))),
        lambda: drive.write_record(memoryview(b"x")),
    ):
        with pytest.raises(MediaError, match="was let go"):
            step()


def test_the_end_of_data_leaves_the_place_known(kind: Drive) -> None:
    drive = opened(kind)
    write(drive, [b"a", MARK])
    for _ in range(7):
        with pytest.raises(EndOfData):
            drive.read_record(memoryview(bytearray(9)))
        assert drive.tell() == Position(1, 0, 2)


# -- the shell


def test_a_device_is_locked_and_then_waits(tmp_path: Path) -> None:
    path = tmp_path / "nst0"
    path.write_bytes(b"")
    node = open_node(path)
    with pytest.raises(BlockingIOError):
        open_node(path)
    with path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(OSError, match="ioctl"):
        node.status()
    node.close()
    node.close()
    open_node(path).close()


def test_what_is_no_tape_device_is_told(tmp_path: Path) -> None:
    path = tmp_path / "nst0"
    path.write_bytes(b"")
    with pytest.raises(MediaError, match="ENOTTY"):
        StDrive(path, "DRV1", "HFA001L6")


def test_the_serial_number_comes_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "nst0" / "device").mkdir(parents=True)
    (tmp_path / "nst0" / "device" / "vpd_pg80").write_bytes(b"\x01\x80\x00\x04DRV1")
    link = tmp_path / "scsi-DRV1-nst"
    link.symlink_to(tmp_path / "dev" / "nst0")
    assert serial_number(Path("/dev/nst0"), tmp_path) == "DRV1"
    assert serial_number(link, tmp_path) == "DRV1"
    assert serial_number(Path("/dev/nst1"), tmp_path) is None
