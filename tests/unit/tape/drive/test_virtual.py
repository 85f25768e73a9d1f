"""The virtual drive: the conformance suite, the naive model, and what only files can suffer."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from holdfast import durable
from holdfast.errors import BusyError, CapacityError, IntegrityError, MediaError
from holdfast.tape.drive import BEGIN_OF_TAPE, EarlyWarning, EndOfData, Position, TapeDrive, VirtualDrive
from holdfast.tape.drive.virtual import CARTRIDGE_NAME, MARKS_NAME, early_warning_bytes, make_cartridge, read_cartridge
from holdfast.testing import Said, Sync, distinct_states, record, why_no_tracing
from holdfast.testing.conformance import DriveMachine, TapeDriveConformance
from holdfast.testing.conformance.drive import MARK, read_on, write


class VirtualStand:
    """A virtual cartridge, and drives for it."""

    largest_record_bytes = 8192
    capacity_bytes: int | None = 4 * 2**20
    can_cut_power = True
    has_hard_end = True

    def __init__(self, folder: Path, capacity_bytes: int = 4 * 2**20) -> None:
        self.folder = folder
        make_cartridge(folder, "HF0001L8", capacity_bytes)

    def load(self) -> VirtualDrive:
        return VirtualDrive("VDRIVE-0", self.folder)

    def unload(self, drive: TapeDrive) -> None:
        assert isinstance(drive, VirtualDrive)
        drive.close()

    def cut_power(self, drive: TapeDrive) -> None:
        """What has no mark on the medium may be anything: here it is cut, or noise, in turn."""
        assert isinstance(drive, VirtualDrive)
        drive.abandon()
        marks = self.folder / MARKS_NAME
        count = len(marks.read_bytes().splitlines()) if marks.exists() else 0
        for path in self.folder.iterdir():
            if path.name.isdigit() and int(path.name) >= count:
                size = path.stat().st_size
                path.write_bytes(b"\xa5" * size if int(path.name) % 2 else b"")

    def close(self) -> None:
        pass


class TestVirtualDrive(TapeDriveConformance):
    @pytest.fixture
    def stand(self, tmp_path: Path) -> VirtualStand:
        return VirtualStand(tmp_path / "HF0001L8")


class VirtualDriveMachine(DriveMachine):
    def make_stand(self) -> VirtualStand:
        self.top = tempfile.mkdtemp()
        return VirtualStand(Path(self.top) / "HF0001L8", 2**30)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.top)


TestVirtualDriveMachine = VirtualDriveMachine.TestCase
TestVirtualDriveMachine.settings = settings(max_examples=30, stateful_step_count=40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_cartridge(tmp_path / "HF0001L8", "HF0001L8", 2**30)
    return tmp_path / "HF0001L8"


@pytest.fixture
def load(folder: Path) -> Iterator[Callable[[], VirtualDrive]]:
    """Loads the cartridge; whatever is still loaded at the end is let go."""
    loaded: list[VirtualDrive] = []

    def load() -> VirtualDrive:
        loaded.append(VirtualDrive("VDRIVE-0", folder))
        return loaded[-1]

    yield load
    for drive in loaded:
        drive.abandon()


Load = Callable[[], VirtualDrive]


# -- plain files


def test_each_tape_file_is_a_plain_file_of_its_records(load: Load, folder: Path) -> None:
    drive = load()
    write(drive, [b"a" * 512, b"b" * 512, MARK, b"c", MARK])
    drive.close()
    assert sorted(path.name for path in folder.iterdir()) == ["00000", "00001", CARTRIDGE_NAME, MARKS_NAME]
    assert (folder / "00000").read_bytes() == b"a" * 512 + b"b" * 512
    assert (folder / "00001").read_bytes() == b"c"
    lines = [json.loads(line) for line in (folder / MARKS_NAME).read_text().splitlines()]
    assert lines == [
        {"file": 0, "bytes": 1024, "records": [[512, 2]]},
        {"file": 1, "bytes": 1, "records": [[1, 1]]},
    ]


def test_other_files_in_the_folder_are_left_alone(load: Load, folder: Path) -> None:
    for name in ("notes.txt", "²", "00000.bak"):
        (folder / name).write_bytes(b"mine")
    drive = load()
    write(drive, [b"a", MARK, b"b", MARK], synchronous=True)
    drive.rewind()
    write(drive, [b"c", MARK], synchronous=True)
    drive.close()
    assert [(folder / name).read_bytes() for name in ("notes.txt", "²", "00000.bak")] == [b"mine"] * 3
    assert not (folder / "00001").exists()


def test_what_a_killed_run_left_behind_the_last_mark_vanishes(load: Load, folder: Path) -> None:
    drive = load()
    write(drive, [b"a", MARK], synchronous=True)
    write(drive, [b"b", MARK, b"c", MARK, b"d"])
    drive.abandon()
    assert (folder / "00003").exists()
    drive = load()
    assert read_on(drive, 512) == [b"a", MARK]
    write(drive, [b"e", MARK], synchronous=True)
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["00000", "00001"]


def test_marks_go_before_the_data_they_vouch_for(load: Load, folder: Path) -> None:
    """If the power fails in the middle of writing over, no mark may stand for data that are half gone."""
    drive = load()
    write(drive, [b"a", MARK, b"b", MARK, b"c", MARK], synchronous=True)
    drive.locate(Position(1, 0, 2))
    drive.write_record(memoryview(b"x"))  # no mark follows
    drive.abandon()
    assert read_on(load(), 512) == [b"a", MARK]


# -- damage


def test_a_short_tape_file_is_an_error(load: Load, folder: Path) -> None:
    drive = load()
    write(drive, [b"a" * 100, b"b" * 100, MARK])
    drive.close()
    os.truncate(folder / "00000", 150)
    drive = load()
    buffer = memoryview(bytearray(512))
    assert drive.read_record(buffer) == 100
    with pytest.raises(MediaError) as caught:
        drive.read_record(buffer)
    assert caught.value.place == "HF0001L8 in drive VDRIVE-0, tape file 0, record 1"
    assert (caught.value.expected, caught.value.found) == ("100 bytes", "50 bytes")


def test_a_missing_tape_file_is_an_error_and_the_others_are_read(load: Load, folder: Path) -> None:
    drive = load()
    write(drive, [b"a", MARK, b"b", MARK])
    drive.close()
    (folder / "00000").unlink()
    drive = load()
    with pytest.raises(MediaError, match="cannot be read"):
        drive.read_record(memoryview(bytearray(512)))
    drive.locate(Position(1, 0, 2))
    assert read_on(drive, 512) == [b"b", MARK]


def test_a_bad_sector_is_a_media_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = load()
    write(drive, [b"a", MARK])
    drive.rewind()

    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(MediaError) as caught:
        drive.read_record(memoryview(bytearray(512)))
    assert caught.value.found == "Input/output error"


@pytest.mark.parametrize(
    "line",
    [
        {"file": 0, "bytes": 1, "records": [[1, 1]]},  # tape file 0 again
        {"file": 2, "bytes": 1, "records": [[1, 1]]},
        {"file": 1, "bytes": 2, "records": [[1, 1]]},
        {"file": 1, "bytes": 0, "records": [[0, 1]]},
        {"file": 1, "bytes": -1, "records": [[-1, 1]]},
        {"file": 1, "bytes": 1, "records": [[1]]},
        {"file": 1, "bytes": 1},
        {"bytes": 1, "records": []},
        {"file": 1, "bytes": None, "records": []},
        {"file": 1, "bytes": 1, "records": 7},
    ],
)
def test_marks_that_cannot_be_are_a_media_error(load: Load, folder: Path, line: dict[str, object]) -> None:
    drive = load()
    write(drive, [b"a", MARK])
    drive.close()
    with (folder / MARKS_NAME).open("a") as marks:
        marks.write(json.dumps(line) + "\n")
    for _ in range(2):  # the lock is let go
        with pytest.raises(MediaError, match="the marks of the cartridge are damaged"):
            load()


def test_a_line_of_marks_that_is_no_json_is_an_integrity_error(load: Load, folder: Path) -> None:
    (folder / MARKS_NAME).write_bytes(b"nonsense\n")
    with pytest.raises(IntegrityError):
        load()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "{}", '{"barcode": "A"}', '{"barcode": "A", "capacity_bytes": null}']
)
def test_what_is_no_cartridge_is_a_media_error(folder: Path, text: str) -> None:
    (folder / CARTRIDGE_NAME).write_text(text)
    with pytest.raises(MediaError, match="not a virtual cartridge"):
        read_cartridge(folder)
    with pytest.raises(MediaError, match="not a virtual cartridge"):
        VirtualDrive("VDRIVE-0", folder)


# -- the disk below fails


def failing(error: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def test_law_1_after_a_failed_sync_nothing_is_called_written(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a lost page once: a second sync would succeed, and prove nothing."""
    drive = load()
    write(drive, [b"a", MARK], synchronous=True)
    drive.write_record(memoryview(b"lost"))
    with monkeypatch.context() as context:
        context.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(MediaError, match="cannot be put on the medium"):
            drive.write_file_mark(synchronous=True)
    for step in (
        lambda: drive.write_file_mark(synchronous=True),
        lambda: drive.write_record(memoryview(b"b")),
        lambda: drive.read_record(memoryview(bytearray(512))),
        drive.rewind,
        lambda: drive.locate(BEGIN_OF_TAPE),
        lambda: drive.space_file_marks(1),
    ):
        with pytest.raises(MediaError, match="cannot be put on the medium"):
            step()
    drive.close()
    assert read_on(load(), 512) == [b"a", MARK]


def test_a_full_disk_is_told_and_the_committed_stays(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = load()
    write(drive, [b"a", MARK], synchronous=True)
    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(CapacityError) as caught:
            drive.write_record(memoryview(b"b"))
    assert caught.value.hint is not None
    drive.close()
    drive = load()
    assert read_on(drive, 512) == [b"a", MARK]
    write(drive, [b"b", MARK], synchronous=True)
    drive.close()
    assert read_on(load(), 512) == [b"a", MARK, b"b", MARK]


def test_a_write_error_is_a_media_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = load()
    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", failing(errno.EIO))
        with pytest.raises(MediaError, match="a record cannot be written"):
            drive.write_record(memoryview(b"b"))
    drive.close()
    assert read_on(load(), 512) == []


def test_a_record_that_the_kernel_takes_in_pieces_is_written_whole(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: really(file, data[:7], offset))
    drive = load()
    items = [bytes(range(100)), b"x" * 20, MARK]
    write(drive, items)
    drive.close()
    assert read_on(load(), 512) == items


# -- early warning


@pytest.mark.parametrize(
    ("capacity", "warning"), [(2**20, 2**14), (2**30, 4 * 2**20), (12 * 10**12, 24 * 10**9), (64, 1), (0, 0)]
)
def test_how_long_before_the_end_the_warning_comes(capacity: int, warning: int) -> None:
    assert early_warning_bytes(capacity) == warning


def test_a_warning_is_not_swallowed_after_going_back(tmp_path: Path) -> None:
    make_cartridge(tmp_path / "c", "c", 2**20)
    drive = VirtualDrive("D", tmp_path / "c")
    data = memoryview(bytes(2**13))
    for _ in range(126):
        drive.write_record(data)
    with pytest.raises(EarlyWarning):
        drive.write_record(data)
    drive.locate(Position(0, 126, 126))  # no write followed the warning
    with pytest.raises(EarlyWarning):
        drive.write_record(data)
    drive.close()


# -- owners and resources


def test_law_10_a_second_drive_is_told_who_is_busy(load: Load, folder: Path) -> None:
    drive = load()
    with pytest.raises(BusyError) as caught:
        VirtualDrive("VDRIVE-1", folder)
    assert caught.value.place == "HF0001L8"
    drive.close()
    VirtualDrive("VDRIVE-1", folder).close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_no_descriptor_is_left_open(folder: Path) -> None:
    before = descriptors()
    for end in (VirtualDrive.close, VirtualDrive.abandon):
        drive = VirtualDrive("D", folder)
        write(drive, [b"a", MARK, b"b", MARK])
        drive.rewind()
        read_on(drive, 512)
        drive.locate(BEGIN_OF_TAPE)
        drive.write_record(memoryview(b"c"))
        end(drive)
        end(drive)  # twice does no harm
    (folder / MARKS_NAME).write_bytes(b"{}\n")
    with pytest.raises(MediaError):
        VirtualDrive("D", folder)
    assert descriptors() == before


def test_a_closed_drive_neither_writes_nor_reads(load: Load, folder: Path) -> None:
    """It has no lock any more: another drive may hold the cartridge."""
    first = load()
    write(first, [b"a", MARK])
    first.close()
    second = load()
    for step in (lambda: first.write_record(memoryview(b"b")), lambda: first.write_file_mark(synchronous=True)):
        with pytest.raises(MediaError, match="the drive is empty"):
            step()
    assert read_on(second, 512) == [b"a", MARK]


def test_a_session_does_not_slow_down_with_the_tape_files_before_it(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: appending a tape file reads neither the marks nor the folder again."""
    drive = load()
    for _ in range(50):
        write(drive, [b"a", MARK])
    counted: list[str] = []
    really_iterdir = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        counted.append("iterdir")
        return really_iterdir(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(
        type(drive._journal),
        "entries",
        lambda _: pytest.fail("the marks were read again"),
    )
    for _ in range(50):
        write(drive, [b"a", MARK], synchronous=True)
        drive.tell()
    assert counted == []


def test_three_thousand_tape_files(load: Load, folder: Path) -> None:
    """A tape of objects of 4 GB: 3,000 tape files, 12 TB. Loading, going about and appending must stay quick."""
    read = range(0, 3000, 30)  # only these are looked at, so only they need data
    for number in read:
        (folder / f"{number:05d}").write_bytes(b"%04d" % number)
    marks = "".join(f'{{"file":{number},"bytes":4,"records":[[4,1]]}}\n' for number in range(3000))
    (folder / MARKS_NAME).write_text(marks)
    drive = load()
    buffer = memoryview(bytearray(16))
    for number in reversed(read):
        drive.locate(Position(number, 0, 2 * number))
        assert drive.tell() == Position(number, 0, 2 * number)
        assert bytes(buffer[: drive.read_record(buffer)]) == b"%04d" % number
    drive.locate(Position(3000, 0, 6000))
    for _ in range(3):
        write(drive, [b"x", MARK], synchronous=True)
    drive.rewind()
    drive.space_file_marks(3003)
    with pytest.raises(EndOfData):
        drive.read_record(buffer)
    drive.locate(Position(3000, 1, 6001))
    assert (folder / MARKS_NAME).read_text().startswith(marks)


def test_memory_does_not_grow_with_the_records(load: Load) -> None:
    drive = load()
    for _ in range(10_000):
        drive.write_record(memoryview(b"12345678"))
    drive.write_file_mark(synchronous=True)
    line = (drive._folder / MARKS_NAME).read_text()
    assert json.loads(line)["records"] == [[8, 10_000]]


# -- power cuts, as the kernel would let them happen

LOADS = """
import sys
from pathlib import Path
from holdfast.tape.drive import VirtualDrive
drive = VirtualDrive("D", Path(sys.argv[1]))
drive.read_record(memoryview(bytearray(2000)))
print("read", flush=True)
drive.abandon()
"""


def test_law_1_what_a_killed_run_left_is_on_the_medium_before_it_is_read(folder: Path) -> None:
    if (reason := why_no_tracing()) is not None:
        pytest.skip(reason)
    drive = VirtualDrive("D", folder)
    write(drive, [b"a" * 1000, MARK], synchronous=True)
    drive.abandon()
    recording = record([sys.executable, "-c", LOADS, str(folder)], roots=folder)
    assert recording.returncode == 0
    events = list(recording.events)
    said = next(n for n, event in enumerate(events) if isinstance(event, Said))
    assert {event.path for event in events[:said] if isinstance(event, Sync)} == {"marks.jsonl", "."}


def test_a_cartridge_that_cannot_be_written_can_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = VirtualDrive("D", folder)
    write(drive, [b"a" * 1000, MARK], synchronous=True)
    drive.abandon()

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(durable, "settle_file", refuse)
    drive = VirtualDrive("D", folder)
    assert read_on(drive, 2000) == [b"a" * 1000, MARK]
    drive.abandon()


COMMITS = """
import sys
from pathlib import Path
from holdfast.tape.drive import Position, VirtualDrive
drive = VirtualDrive("D", Path(sys.argv[1]))
def put(block, *names, synchronous=True):
    drive.locate(Position(block // 2, 0, block))
    for name in names:
        drive.write_record(memoryview(name.encode() * 1000))
        drive.write_file_mark(synchronous=synchronous)
def say(*names):
    print(" ".join(names), flush=True)
put(0, "a"); say("a")
put(2, "b", "c", synchronous=False)
put(6, "d"); say("a", "b", "c", "d")
say("a", "b")
put(4, "e"); say("a", "b", "e")
drive.locate(Position(3, 0, 6))
drive.write_record(memoryview(b"f" * 1000))
drive.close(); say("a", "b", "e", "f")
"""


def test_law_1_whatever_was_said_survives_a_power_cut_at_any_point(folder: Path, tmp_path: Path) -> None:
    """Law 1: at every point where the power may fail, the tape holds what was said last, whole, and in order.

    Before tape files are written over, the script says that it counts on less.
    """
    if (reason := why_no_tracing()) is not None:
        pytest.skip(reason)
    recording = record([sys.executable, "-c", COMMITS, str(folder)], roots=folder)
    assert recording.returncode == 0
    count = 0
    for state in distinct_states(recording, share=0.3):
        place = tmp_path / "state"
        state.tree.write_to(place)
        check_what_survived(place, state.said.decode().splitlines())
        shutil.rmtree(place)
        count += 1
    assert count > 20


def check_what_survived(folder: Path, said: list[str]) -> None:
    expected = said[-1].split() if said else []
    drive = VirtualDrive("D", folder)
    try:
        found = [item[:1].decode() for item in read_on(drive, 2000) if item is not None]
        assert found[: len(expected)] == expected
    finally:
        drive.abandon()


@pytest.mark.parametrize("done", range(4))
def test_erasing_can_be_stopped_anywhere_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """Marks go first: what is left without them is nobody's."""
    stand = VirtualStand(tmp_path / "HF0001L8")
    drive = stand.load()
    items = [b"a", MARK, b"b", MARK, b"c", MARK]
    write(drive, items, synchronous=True)
    left = [done]
    unlink = Path.unlink

    def stop(path: Path, *, missing_ok: bool = False) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            drive.erase()
    drive.abandon()
    drive = stand.load()
    assert read_on(drive, 9) == ([] if done else items)
    drive.erase()
    assert [path.name for path in stand.folder.iterdir()] == [CARTRIDGE_NAME]
