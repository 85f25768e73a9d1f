"""The virtual changer: the conformance suite, and what only files can suffer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.errors import BusyError, CapacityError, MediaError, OperatorNeeded
from holdfast.tape.changer import VirtualChanger
from holdfast.tape.drive import VirtualDrive
from holdfast.tape.drive.virtual import make_cartridge, read_cartridge
from holdfast.testing.conformance import PortsConformance
from holdfast.testing.conformance.drive import MARK, read_on, write
from holdfast.values import Side

Open = Callable[[], VirtualChanger]
FIRST, SECOND = "VDRIVE-0", "VDRIVE-1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "library"


@pytest.fixture
def open_changer(folder: Path) -> Iterator[Open]:
    """Opens the library; whatever is still open at the end is closed."""
    opened: list[VirtualChanger] = []

    def open_changer() -> VirtualChanger:
        opened.append(VirtualChanger(folder, barcode_prefix="HF", media="L8", cartridge_bytes=2**20))
        return opened[-1]

    yield open_changer
    for changer in opened:
        changer.close()


@pytest.fixture
def changer(open_changer: Open) -> VirtualChanger:
    return open_changer()


class TestVirtualChanger(PortsConformance):
    @pytest.fixture
    def open_changer(self, open_changer: Open) -> Open:
        return open_changer


def test_it_says_that_its_cartridges_are_files(changer: VirtualChanger) -> None:
    assert changer.is_virtual


def test_cartridges_are_made_and_numbered_as_they_are_needed(changer: VirtualChanger, folder: Path) -> None:
    assert changer.scratch((Side.A, Side.B), set()) == ("HF0001L8", "HF0002L8")
    assert changer.scratch((Side.A, Side.B, Side.A), {"HF0001L8", "HF0002L8"}) == ("HF0003L8", "HF0004L8", "HF0005L8")
    assert changer.capacity_bytes("HF0003L8") == 2**20
    assert sorted(path.name for path in (folder / "cartridges").iterdir()) == [f"HF000{n}L8" for n in range(1, 6)]


def test_a_number_is_not_used_again_for_a_cartridge_that_was_taken_out(changer: VirtualChanger, folder: Path) -> None:
    changer.scratch((Side.A, Side.B), set())
    shutil.rmtree(folder / "cartridges" / "HF0002L8")  # it lies in a safe now
    assert changer.scratch((Side.A, Side.B), {"HF0001L8", "HF0002L8"}) == ("HF0003L8", "HF0004L8")


def test_law_5_when_the_numbers_are_used_up_nothing_is_made_scratch_again(
    changer: VirtualChanger, folder: Path
) -> None:
    make_cartridge(folder / "cartridges" / "HF9999L8", "HF9999L8", 2**20)
    drive = VirtualDrive("D", folder / "cartridges" / "HF9999L8")
    write(drive, [b"data", MARK])
    drive.close()
    with pytest.raises(OperatorNeeded) as caught:
        changer.scratch((Side.A,), set())
    assert caught.value.hint is not None
    assert "barcode_prefix" in caught.value.hint
    assert sorted(path.name for path in (folder / "cartridges").iterdir()) == ["HF9999L8"]


def test_cartridges_of_other_libraries_are_no_scratch(changer: VirtualChanger, folder: Path) -> None:
    for barcode in ("XX0001L8", "HF0001L9", "HF001L8", "HF00001L8", "HF٠٠٠١L8"):
        make_cartridge(folder / "cartridges" / barcode, barcode, 2**20)
    assert changer.scratch((Side.A,), set()) == ("HF0001L8",)
    assert "XX0001L8" in changer.inventory().slots


def test_a_cartridge_that_was_not_made_to_the_end_is_made_again(changer: VirtualChanger, folder: Path) -> None:
    half = folder / "cartridges" / "HF0001L8"
    half.mkdir()
    (half / "cartridge.json.new").write_bytes(b"{")
    assert changer.scratch((Side.A,), set()) == ("HF0001L8",)
    assert read_cartridge(half)["barcode"] == "HF0001L8"


@pytest.mark.parametrize("name", ["00000", "marks.jsonl", "anything"])
def test_law_5_a_cartridge_with_anything_on_it_is_no_scratch(changer: VirtualChanger, folder: Path, name: str) -> None:
    changer.scratch((Side.A,), set())
    (folder / "cartridges" / "HF0001L8" / name).touch()
    assert changer.scratch((Side.A,), set()) == ("HF0002L8",)


def test_law_5_a_folder_with_the_name_of_another_cartridge_is_not_loaded(changer: VirtualChanger, folder: Path) -> None:
    first, second = changer.scratch((Side.A, Side.B), set())
    (folder / "cartridges" / first).rename(folder / "aside")
    (folder / "cartridges" / second).rename(folder / "cartridges" / first)
    with pytest.raises(MediaError) as caught:
        changer.load(first, FIRST)
    assert (caught.value.expected, caught.value.found) == (first, second)
    assert changer.inventory().drives[FIRST] is None
    VirtualDrive("D", folder / "cartridges" / first).close()  # it is not locked


def test_a_cartridge_that_somebody_else_reads_is_busy(changer: VirtualChanger, folder: Path) -> None:
    (barcode,) = changer.scratch((Side.A,), set())
    other = VirtualDrive("D", folder / "cartridges" / barcode)
    with pytest.raises(BusyError):
        changer.load(barcode, FIRST)
    assert changer.inventory().drives[FIRST] is None
    other.close()
    changer.load(barcode, FIRST)


def test_a_move_that_cannot_be_noted_is_undone(changer: VirtualChanger, monkeypatch: pytest.MonkeyPatch) -> None:
    (barcode,) = changer.scratch((Side.A,), set())

    def full(*_: object) -> None:
        raise CapacityError("the disk is full")

    with monkeypatch.context() as context:
        context.setattr("holdfast.durable.replace_file", full)
        with pytest.raises(CapacityError):
            changer.load(barcode, FIRST)
    assert changer.inventory().drives[FIRST] is None
    assert changer.load(barcode, FIRST).barcode == barcode


def test_unloading_a_drive_that_failed_lets_the_cartridge_go(
    changer: VirtualChanger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (barcode,) = changer.scratch((Side.A,), set())
    drive = changer.load(barcode, FIRST)
    write(drive, [b"a", MARK], synchronous=True)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as context:
        context.setattr(os, "fdatasync", fail)
        with pytest.raises(MediaError):
            write(drive, [b"b", MARK], synchronous=True)
        changer.unload(FIRST)
    assert read_on(changer.load(barcode, SECOND), 512) == [b"a", MARK]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"drives": 7}', '{"drives": []}', "{}"])
def test_a_damaged_inventory_is_an_error_with_a_way_out(open_changer: Open, folder: Path, text: str) -> None:
    changer = open_changer()
    changer.load(changer.scratch((Side.A,), set())[0], FIRST)
    changer.close()
    (folder / "library.json").write_text(text)
    for _ in range(2):  # the lock is let go
        with pytest.raises(MediaError) as caught:
            open_changer()
        assert caught.value.hint is not None
    (folder / "library.json").unlink()
    assert open_changer().inventory().drives == {FIRST: None, SECOND: None}


CRASH = """
import os, sys
from pathlib import Path
from holdfast.tape.changer import VirtualChanger
from holdfast.values import Side
changer = VirtualChanger(Path(sys.argv[1]), barcode_prefix="HF", media="L8", cartridge_bytes=2**20)
barcode, other = changer.scratch((Side.A, Side.B), set())
drive = changer.load(barcode, "VDRIVE-1")
drive.write_record(memoryview(b"committed"))
drive.write_file_mark(synchronous=True)
drive.write_record(memoryview(b"not committed"))
changer.load(other, "VDRIVE-0")
os.kill(os.getpid(), 9)
"""


def test_a_killed_owner_leaves_its_cartridges_in_the_drives_and_no_locks(open_changer: Open, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, str(folder)], check=False)
    assert done.returncode == -9
    changer = open_changer()
    assert changer.inventory().drives == {FIRST: "HF0002L8", SECOND: "HF0001L8"}
    assert changer.inventory().slots == ()
    with pytest.raises(MediaError):
        changer.load("HF0001L8", FIRST)
    for drive in (FIRST, SECOND):
        changer.unload(drive)
    assert changer.inventory().slots == ("HF0001L8", "HF0002L8")
    assert read_on(changer.load("HF0001L8", FIRST), 512) == [b"committed", MARK]


def test_no_descriptor_is_left_open(folder: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(2):
        changer = VirtualChanger(folder, barcode_prefix="HF", media="L8", cartridge_bytes=2**20)
        barcode, other = changer.scratch((Side.A, Side.B), set())
        changer.load(barcode, FIRST)
        changer.load(other, SECOND)
        changer.unload(FIRST)
        changer.close()
        changer = VirtualChanger(folder, barcode_prefix="HF", media="L8", cartridge_bytes=2**20)
        changer.unload(FIRST)
        changer.unload(SECOND)
        changer.close()
    assert set(os.listdir("/proc/self/fd")) == before


# -- out of the library


def test_law_6_an_export_that_was_cut_is_finished_by_the_same_command(
    changer: VirtualChanger, open_changer: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (barcode,) = changer.scratch((Side.A,), set())
    changer.export(barcode)
    changer.bring_in(barcode)

    def cut(_: Path) -> None:
        raise OSError(5, "power cut")

    with monkeypatch.context() as context:
        context.setattr("holdfast.durable.sync_folder", cut)
        context.setattr("holdfast.durable.make_folder", lambda _: None)
        with pytest.raises(OSError, match="power cut"):
            changer.export(barcode)
        with pytest.raises(OSError, match="power cut"):
            changer.export(barcode)  # law 1: not said before it is durable
    changer.close()
    following = open_changer()
    following.export(barcode)
    assert (following.inventory().slots, following.inventory().ports) == ((), (barcode,))


def test_law_5_a_cartridge_is_not_put_in_the_place_of_another_one(changer: VirtualChanger, folder: Path) -> None:
    (barcode,) = changer.scratch((Side.A,), set())
    (folder / "cartridges" / barcode / "00000").touch()
    changer.export(barcode)
    make_cartridge(folder / "cartridges" / barcode, barcode, 2**20)
    (folder / "cartridges" / barcode / "00000").write_bytes(b"other")
    for move in (changer.export, changer.bring_in):
        with pytest.raises(MediaError, match="two cartridges with one barcode"):
            move(barcode)
    assert (folder / "ports" / barcode / "00000").exists()
    assert (folder / "cartridges" / barcode / "00000").read_bytes() == b"other"
