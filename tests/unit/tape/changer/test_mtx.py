"""A real library, with its robot and its drives in memory: the conformance suite, and what can go wrong.

tests/integration/tape has a real one.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.tape.drive.fake_st import MARK, Drive, FakeNode, Tape

from holdfast.errors import BusyError, MediaError, OperatorNeeded, UsageError
from holdfast.tape.changer import Changer
from holdfast.tape.changer.mtx import LibraryOptions, MtxChanger, MtxRobot, find_drives, match_drives
from holdfast.testing.conformance import PortsConformance
from holdfast.values import Side


@dataclass
class FakeLibrary:
    """Slots with barcodes, drives by device; `broken`: moves that do nothing."""

    slots: list[str | None] = field(default_factory=lambda: ["HFA001L6", "HFA002L6", "HFB001L6", "HFB002L6", None])
    port: str | None = None
    drives: dict[Path, Drive] = field(
        default_factory=lambda: {Path(f"/dev/nst{n}"): Drive(tells=False, stale_at_end=True) for n in (0, 1)}
    )
    tapes: dict[str, Tape] = field(default_factory=dict)
    loaded: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    is_open: bool = False
    broken: bool = False
    identifiers: bytes = b""
    moves: list[tuple[str, int, int]] = field(default_factory=list)

    def open_node(self, device: Path) -> FakeNode:
        return self.drives[device].open(device)

    def robot(self) -> FakeRobot:
        if self.is_open:
            raise BusyError("the tape library is in use by another command")
        self.is_open = True
        return FakeRobot(self)


class FakeRobot:
    """Prints what mtx prints, and moves tapes between slots and drives. Drives are numbered as the devices."""

    def __init__(self, library: FakeLibrary) -> None:
        self.library = library

    def status(self) -> str:
        library = self.library
        slots = len(library.slots) + 1
        lines = [f"  Storage Changer /dev/sg9:{len(library.drives)} Drives, {slots} Slots ( 1 Import/Export )"]
        for number in range(len(library.drives)):
            barcode, slot = library.loaded.get(number, ("", None))
            source = f"Storage Element {slot}" if slot else "Unknown Storage Element"
            tag = f":VolumeTag = {barcode}" if barcode else ""
            lines.append(
                f"Data Transfer Element {number}:"
                + (f"Full ({source} Loaded){tag}" if number in library.loaded else "Empty")
            )
        for number, name in enumerate([*library.slots, library.port], 1):
            kind = " IMPORT/EXPORT" if number == slots else ""
            lines.append(f"      Storage Element {number}{kind}:" + (f"Full :VolumeTag={name:32}" if name else "Empty"))
        return "\n".join(lines) + "\n"

    def load(self, slot: int, drive: int) -> None:
        library = self.library
        library.moves.append(("load", slot, drive))
        if library.broken:
            return
        if slot > len(library.slots):
            barcode, library.port = library.port, None
        else:
            barcode, library.slots[slot - 1] = library.slots[slot - 1], None
        assert barcode is not None
        library.loaded[drive] = (barcode, slot)
        list(library.drives.values())[drive].tape = library.tapes.setdefault(barcode, Tape())

    def unload(self, slot: int, drive: int) -> None:
        library = self.library
        library.moves.append(("unload", slot, drive))
        if library.broken:
            return
        assert library.slots[slot - 1] is None
        library.slots[slot - 1] = library.loaded.pop(drive)[0]
        list(library.drives.values())[drive].tape = None

    def transfer(self, source: int, target: int) -> None:
        library = self.library
        library.moves.append(("transfer", source, target))
        if library.broken:
            return
        places = [*library.slots, library.port]
        assert places[target - 1] is None
        places[target - 1], places[source - 1] = places[source - 1], None
        *library.slots, library.port = places

    def drive_identifiers(self) -> bytes:
        return self.library.identifiers

    def close(self) -> None:
        self.library.is_open = False


OPTIONS = LibraryOptions(
    drives={"DRVX": Path("/dev/nst1"), "DRVY": Path("/dev/nst0")},
    scratch_prefixes=("HFA", "HFB"),
    elements={"DRVX": 1, "DRVY": 0},
    ready_seconds=0.0,
)


@pytest.fixture
def library() -> FakeLibrary:
    return FakeLibrary()


Open = Callable[[], MtxChanger]


@pytest.fixture
def opened(library: FakeLibrary) -> Open:
    return lambda: MtxChanger(library.robot(), OPTIONS, library.open_node)


class TestMtxChanger(PortsConformance):
    @pytest.fixture
    def open_changer(self, opened: Open) -> Callable[[], Changer]:
        return opened


# -- moves


def test_it_is_no_virtual_library(opened: Open) -> None:
    assert not opened().is_virtual


def test_a_cartridge_goes_back_to_its_slot(library: FakeLibrary, opened: Open) -> None:
    changer = opened()
    changer.load("HFB001L6", "DRVX")
    changer.load("HFA001L6", "DRVY")
    changer.unload("DRVX")
    changer.unload("DRVY")
    assert library.moves == [("load", 3, 1), ("load", 1, 0), ("unload", 3, 1), ("unload", 1, 0)]


def test_a_cartridge_from_nobody_knows_where_goes_to_a_free_slot(library: FakeLibrary, opened: Open) -> None:
    library.loaded[1] = ("HFX001L6", None)
    library.drives[Path("/dev/nst1")].tape = Tape()
    changer = opened()
    assert changer.inventory().drives == {"DRVX": "HFX001L6", "DRVY": None}
    changer.unload("DRVX")
    assert library.slots[4] == "HFX001L6"


def test_a_full_library_needs_an_operator(library: FakeLibrary, opened: Open) -> None:
    library.loaded[1] = ("HFX001L6", None)
    library.slots[4] = "HFA003L6"
    with pytest.raises(OperatorNeeded, match="no free slot"):
        opened().unload("DRVX")
    assert library.moves == []


def test_a_cartridge_without_a_barcode_is_in_the_way(library: FakeLibrary, opened: Open) -> None:
    library.loaded[1] = ("", 5)
    changer = opened()
    assert changer.inventory().drives["DRVX"] == "(no barcode)"
    with pytest.raises(MediaError, match="already"):
        changer.load("HFA001L6", "DRVX")


def test_a_cartridge_in_the_port_is_no_scratch_and_is_loaded_when_it_was_brought_in(
    library: FakeLibrary, opened: Open
) -> None:
    library.port = "HFA000L6"
    changer = opened()
    assert changer.inventory().ports == ("HFA000L6",)
    assert changer.scratch((Side.A,), set()) == ("HFA001L6",)
    with pytest.raises(OperatorNeeded, match="in a port"):
        changer.load("HFA000L6", "DRVX")
    changer.bring_in("HFA000L6")
    changer.load("HFA000L6", "DRVX")
    changer.unload("DRVX")
    assert library.slots[4] == "HFA000L6"  # not into the port: somebody might take it out


def test_without_a_free_place_nothing_is_exported_or_brought_in(library: FakeLibrary, opened: Open) -> None:
    library.port, library.slots[4] = "HFX001L6", "HFX002L6"
    changer = opened()
    with pytest.raises(OperatorNeeded, match="no free import/export slot"):
        changer.export("HFA001L6")
    with pytest.raises(OperatorNeeded, match="no free slot"):
        changer.bring_in("HFX001L6")
    assert [move for move in library.moves if move[0] == "transfer"] == []


def test_an_export_that_did_not_happen_is_told(library: FakeLibrary, opened: Open) -> None:
    changer = opened()
    library.broken = True
    with pytest.raises(MediaError, match="did not move"):
        changer.export("HFA001L6")


def test_a_move_that_did_not_happen_is_told(library: FakeLibrary, opened: Open) -> None:
    changer = opened()
    changer.load("HFB001L6", "DRVY")
    library.broken = True
    with pytest.raises(MediaError, match="did not put"):
        changer.load("HFA001L6", "DRVX")
    with pytest.raises(MediaError, match="did not take"):
        changer.unload("DRVY")


def test_a_wrong_mapping_ends_in_an_error_not_in_a_wrong_tape(library: FakeLibrary) -> None:
    options = LibraryOptions(OPTIONS.drives, ("HFA",), {"DRVX": 0, "DRVY": 1}, ready_seconds=0.0)
    changer = MtxChanger(library.robot(), options, library.open_node)
    with pytest.raises(MediaError, match="no cartridge in the drive"):
        changer.load("HFA001L6", "DRVX")
    changer.unload("DRVX")
    assert library.slots[0] == "HFA001L6"


def test_a_drive_that_somebody_uses_is_not_unloaded(library: FakeLibrary, opened: Open) -> None:
    changer = opened()
    changer.load("HFA001L6", "DRVX").abandon()
    other = library.open_node(Path("/dev/nst1"))
    with pytest.raises(BusyError, match="fuser"):
        changer.unload("DRVX")
    other.close()
    changer.unload("DRVX")


# -- scratch cartridges


def test_sides_come_from_their_pools(opened: Open) -> None:
    changer = opened()
    assert changer.scratch((Side.A, Side.B), set()) == ("HFA001L6", "HFB001L6")
    assert changer.scratch((Side.A, Side.B), {"HFA001L6"}) == ("HFA002L6", "HFB001L6")
    assert changer.scratch((Side.A, Side.B) * 2, set()) == ("HFA001L6", "HFB001L6", "HFA002L6", "HFB002L6")
    with pytest.raises(OperatorNeeded, match="begins with HFA") as caught:
        changer.scratch((Side.A,), {"HFA001L6", "HFA002L6"})
    assert caught.value.hint is not None


def test_law_5_each_cartridge_is_looked_into_once(library: FakeLibrary, opened: Open) -> None:
    library.tapes["HFA001L6"] = Tape([b"somebody's", MARK])
    library.tapes["HFA002L6"] = Tape([MARK])  # erased, as some drives do
    library.tapes["HFB001L6"] = Tape([MARK, b"somebody's, too", MARK])
    library.tapes["HFB002L6"] = Tape(is_write_protected=True)
    library.slots[4] = "HFB003L6"
    changer = opened()
    assert changer.scratch((Side.A, Side.B), set()) == ("HFA002L6", "HFB003L6")
    count = len(library.moves)
    assert changer.scratch((Side.A, Side.B), set()) == ("HFA002L6", "HFB003L6")
    assert len(library.moves) == count
    changer.load("HFA002L6", "DRVX").write_record(memoryview(b"ours"))
    changer.unload("DRVX")
    with pytest.raises(OperatorNeeded):
        changer.scratch((Side.A,), set())


def test_law_5_what_is_on_cartridges_that_are_not_blank_is_told(library: FakeLibrary, opened: Open) -> None:
    library.tapes["HFA001L6"] = Tape([b"VOL1BACK01 " + b" " * 69, MARK])
    library.tapes["HFA002L6"] = Tape(is_write_protected=True)
    library.tapes["HFB001L6"] = Tape([MARK])
    with pytest.raises(OperatorNeeded) as caught:
        opened().scratch((Side.A, Side.B), set())
    assert caught.value.found == "HFA001L6 is a tape with ANSI labels, volume 'BACK01'; HFA002L6 is write-protected"


def test_of_many_cartridges_that_are_not_blank_a_few_are_named(library: FakeLibrary, opened: Open) -> None:
    library.slots = [f"HFA{number:03d}L6" for number in range(1, 8)]
    library.tapes = {name: Tape([MARK, b"somebody's", MARK]) for name in library.slots if name}
    with pytest.raises(OperatorNeeded) as caught:
        opened().scratch((Side.A,), set())
    found = caught.value.found or ""
    assert found.startswith("HFA001L6 is a tape that begins with a file mark; HFA002L6 is")
    assert found.endswith("; HFA005L6 is a tape that begins with a file mark; and 2 more")


def test_looking_into_cartridges_needs_a_free_drive(opened: Open) -> None:
    changer = opened()
    changer.load("HFA001L6", "DRVX")
    changer.load("HFB001L6", "DRVY")
    with pytest.raises(MediaError, match="no free drive"):
        changer.scratch((Side.A,), set())


def test_a_cartridge_that_cannot_be_read_is_put_back_and_the_next_one_is_taken(
    library: FakeLibrary, opened: Open
) -> None:
    library.tapes["HFA001L6"] = Tape([b"a bad spot", MARK])
    library.drives[Path("/dev/nst1")].failing = {"READ": errno.EIO}
    (found,) = opened().scratch((Side.A,), set())
    assert found != "HFA001L6"
    assert library.slots[0] == "HFA001L6"


def test_capacities(library: FakeLibrary, opened: Open) -> None:
    changer = opened()
    assert changer.capacity_bytes("HFA001L6") == 2_500_000_000_000
    assert changer.capacity_bytes("HFA001L9") == 18_000_000_000_000
    with pytest.raises(UsageError, match="PAPR1001"):
        changer.capacity_bytes("PAPR1001")
    changer.close()
    options = LibraryOptions(OPTIONS.drives, ("HFA",), OPTIONS.elements, cartridge_bytes=5)
    assert MtxChanger(library.robot(), options, library.open_node).capacity_bytes("PAPR1001") == 5


# -- which drive is which


def drives(*serials: str) -> dict[str, Path]:
    return {serial: Path(f"/dev/nst{number}") for number, serial in enumerate(serials)}


def test_drives_are_matched_by_serial_number() -> None:
    options = LibraryOptions(drives("A", "B"), ("HF",))
    assert match_drives([0, 1, 2], ["B", "C", "A"], options) == {"B": 0, "A": 2}
    assert match_drives([0, 1], ["B", None], options) == {"B": 0}
    assert match_drives([0, 1], ["B"], LibraryOptions(drives("A", "B"), ("HF",), {"A": 1})) == {"B": 0, "A": 1}


@pytest.mark.parametrize(
    ("told", "elements"),
    [
        ([], {}),  # nobody says anything
        (["X", "Y"], {}),  # other drives
        (["A", "B"], {"A": 1}),  # the library says otherwise
        (["A"], {"B": 0}),  # two drives in one element
        (["A"], {"B": 2}),  # no such element
        (["A"], {"C": 1}),  # no such drive on this host
    ],
)
def test_what_does_not_agree_is_told(told: list[str | None], elements: dict[str, int]) -> None:
    with pytest.raises(MediaError, match="which drive") as caught:
        match_drives([0, 1], told, LibraryOptions(drives("A", "B"), ("HF",), elements))
    assert caught.value.hint is not None


def test_a_library_that_cannot_be_understood_is_let_go(library: FakeLibrary) -> None:
    with pytest.raises(MediaError):
        MtxChanger(library.robot(), LibraryOptions(drives("A"), ("HF",)), library.open_node)
    assert not library.is_open


# -- the shell


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "sg9"
    path.write_bytes(b"")
    return path


def fake_mtx(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    for name in ("mtx", "sg_raw"):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_law_10_a_changer_has_one_owner(device: Path) -> None:
    robot = MtxRobot(device)
    with pytest.raises(BusyError):
        MtxRobot(device)
    robot.close()
    robot.close()
    MtxRobot(device).close()


def test_a_changer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be opened"):
        MtxRobot(tmp_path / "none")


def test_the_words_for_mtx(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mtx(tmp_path, monkeypatch, 'echo "$0 $@"')
    robot = MtxRobot(device)
    assert robot.status() == f"{tmp_path}/mtx -f {device} status\n"
    robot.load(3, 1)
    robot.unload(3, 1)
    assert robot.drive_identifiers().startswith(f"{tmp_path}/sg_raw -b -r 65535 {device} b8 14".encode())
    robot.close()


def test_what_mtx_complains_of_is_passed_on(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "mtx: Request Sense: Sense Key=Illegal Request\\nSource Element Address 1035 is Empty\\nmtx: Request Sense: BPV=no"
    fake_mtx(tmp_path, monkeypatch, f"printf '{said}' >&2; exit 1")
    robot = MtxRobot(device)
    with pytest.raises(MediaError, match="mtx load 12 1") as caught:
        robot.load(12, 1)
    assert caught.value.found == "Source Element Address 1035 is Empty"
    assert str(device) in str(caught.value)
    assert robot.drive_identifiers() == b""
    robot.close()


def test_a_robot_that_does_not_answer(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(words: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(words, 600)

    monkeypatch.setattr(subprocess, "run", slow)
    robot = MtxRobot(device)
    with pytest.raises(MediaError, match="no answer"):
        robot.load(1, 0)
    robot.close()


def test_without_mtx_an_operator_is_needed(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    robot = MtxRobot(device)
    with pytest.raises(OperatorNeeded, match="apt-get install mtx"):
        robot.status()
    assert robot.drive_identifiers() == b""
    robot.close()


def test_the_drives_of_a_host_are_found(tmp_path: Path) -> None:
    for name, page in (
        ("nst0", b"\1\x80\0\4DRVA"),
        ("nst0a", b"\1\x80\0\4DRVA"),
        ("st0", b""),
        ("nst10", b"\1\x80\0\4DRVB"),
    ):
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "device" / "vpd_pg80").write_bytes(page)
    (tmp_path / "nst1").mkdir()  # tells nothing
    assert find_drives(Path("/dev"), tmp_path) == {"DRVA": Path("/dev/nst0"), "DRVB": Path("/dev/nst10")}
