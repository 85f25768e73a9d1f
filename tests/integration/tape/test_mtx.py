"""A changer behind the kernel's own drivers, moved by `mtx`, with its drives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.tape.conftest import RealLibrary
from tests.tapevm import standard_drive

from holdfast.errors import MediaError
from holdfast.tape.changer import Changer
from holdfast.tape.changer.elements import drive_serials, parse_status
from holdfast.tape.changer.mtx import LibraryOptions, MtxChanger, MtxRobot, find_drives
from holdfast.testing.conformance import ChangerConformance
from holdfast.testing.conformance.drive import MARK, read_on, write
from holdfast.values import Side

Open = Callable[[], MtxChanger]


@pytest.fixture
def options(library: RealLibrary) -> LibraryOptions:
    """Cartridges that no other test has: two pairs, each from prefixes of its own.

    The emulated library does not tell the last drive's serial number whole, so its owner has to say where it is.
    """
    library.empty_drives()
    last = max(library.drives, key=library.element)
    pools = library.blank_prefixes()
    return LibraryOptions(find_drives(), pools, {last: library.element(last)}, ready_seconds=10.0)


@pytest.fixture
def open_changer(library: RealLibrary, options: LibraryOptions) -> Iterator[Open]:
    opened: list[MtxChanger] = []

    def open_changer() -> MtxChanger:
        opened.append(MtxChanger(MtxRobot(library.changer), options))
        return opened[-1]

    yield open_changer
    for changer in opened:
        changer.close()
    library.empty_drives()


class TestMtxChanger(ChangerConformance):
    @pytest.fixture
    def open_changer(self, open_changer: Open) -> Callable[[], Changer]:
        return open_changer


def test_the_library_tells_its_drives_apart(library: RealLibrary) -> None:
    robot = MtxRobot(library.changer)
    told = drive_serials(robot.drive_identifiers())
    elements = parse_status(robot.status())
    robot.close()
    assert len(told) == len(elements.drives) == 2
    first = min(library.drives, key=library.element)
    assert told[0] == first  # the emulator cuts the last one off
    changer = MtxChanger(MtxRobot(library.changer), LibraryOptions(find_drives(), ("HFA", "HFB")))
    assert list(changer.inventory().drives) == [first]
    changer.close()


def test_the_drives_of_this_host_are_found(library: RealLibrary) -> None:
    found = find_drives()
    assert {serial: found[serial] for serial in library.drives} == library.drives
    assert set(found) - set(library.drives) == set(standard_drive.SERIALS)  # they are in no library


def test_a_wrong_mapping_ends_in_an_error_not_in_a_wrong_tape(library: RealLibrary, options: LibraryOptions) -> None:
    """The drive that the library does not name, and one element for both: no; and the other one's: not ready."""
    first = min(library.drives, key=library.element)
    last = max(library.drives, key=library.element)
    with pytest.raises(MediaError, match="which drive"):
        MtxChanger(
            MtxRobot(library.changer), LibraryOptions(find_drives(), ("HFA", "HFB"), {last: library.element(first)})
        )
    swapped = {last: find_drives()[first], first: find_drives()[last]}
    wrong = LibraryOptions(swapped, options.scratch_prefixes, options.elements, ready_seconds=0.5)
    changer = MtxChanger(MtxRobot(library.changer), wrong)
    barcode, _ = library.blank()
    try:
        with pytest.raises(MediaError, match="no cartridge in the drive"):
            changer.load(barcode, first)
        changer.unload(first)
        assert barcode in changer.inventory().slots
    finally:
        changer.close()


def test_the_device_may_be_named_by_the_library_s_serial_number(options: LibraryOptions) -> None:
    """Numbers of /dev/sg* change from boot to boot."""
    robot = MtxRobot(next(Path("/dev/tape/by-id").glob("*-changer")))
    assert len(parse_status(robot.status()).drives) == 2
    robot.close()


def test_both_drives_at_work_and_swapped(open_changer: Open) -> None:
    changer = open_changer()
    serials = sorted(changer.inventory().drives)
    pair = changer.scratch((Side.A, Side.B), set())
    for barcode, serial in zip(pair, serials, strict=True):
        write(changer.load(barcode, serial), [barcode.encode() * 1000, MARK], synchronous=True)
    for serial in serials:
        changer.unload(serial)
    for barcode, serial in zip(pair, reversed(serials), strict=True):
        assert read_on(changer.load(barcode, serial), 2**16) == [barcode.encode() * 1000, MARK]
    for serial in serials:
        changer.unload(serial)
    assert set(pair) <= set(changer.inventory().slots)
