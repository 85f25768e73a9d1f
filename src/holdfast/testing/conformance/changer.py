"""What every changer must do."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

from holdfast.errors import BusyError, MediaError, OperatorNeeded, UsageError
from holdfast.tape.changer import Changer
from holdfast.tape.drive import BEGIN_OF_TAPE
from holdfast.testing.conformance.drive import MARK, read_on, write
from holdfast.values import Side


class ChangerConformance:
    """The suite. Subclasses give the fixture `open_changer`: it opens the library anew, with at least two blank
    cartridges in slots (or the means to make them) and two drives. Whoever opened it closes it, and may be gone
    without having done so: then the next one must get it all the same.
    """

    @pytest.fixture
    def open_changer(self) -> Callable[[], Changer]:
        raise NotImplementedError("a subclass gives its library")

    @pytest.fixture
    def changer(self, open_changer: Callable[[], Changer]) -> Generator[Changer, None, None]:
        changer = open_changer()
        yield changer
        changer.close()

    @pytest.fixture
    def drives(self, changer: Changer) -> tuple[str, str]:
        first, second, *_ = sorted(changer.inventory().drives)
        return first, second

    @pytest.fixture
    def barcodes(self, changer: Changer) -> tuple[str, str]:
        first, second = changer.scratch((Side.A, Side.B), set())
        return first, second

    def test_the_drives_are_empty_at_first(self, changer: Changer) -> None:
        drives = changer.inventory().drives
        assert len(drives) >= 2
        assert set(drives.values()) == {None}

    def test_scratch_cartridges_lie_in_slots(self, changer: Changer) -> None:
        barcodes = changer.scratch((Side.A, Side.B), set())
        assert len(set(barcodes)) == 2
        assert set(barcodes) <= set(changer.inventory().slots)
        assert all(changer.capacity_bytes(barcode) > 0 for barcode in barcodes)

    def test_a_cartridge_moves_into_a_drive_and_back(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        drive = changer.load(barcodes[0], drives[0])
        assert drive.serial == drives[0]
        assert drive.tell() == BEGIN_OF_TAPE
        inventory = changer.inventory()
        assert inventory.drives[drives[0]] == barcodes[0]
        assert inventory.drives[drives[1]] is None
        assert barcodes[0] not in inventory.slots
        assert barcodes[1] in inventory.slots
        changer.unload(drives[0])
        assert changer.inventory().drives[drives[0]] is None
        assert barcodes[0] in changer.inventory().slots

    def test_what_is_written_in_one_drive_is_read_in_the_other(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        for barcode, serial in zip(barcodes, drives, strict=True):
            write(changer.load(barcode, serial), [barcode.encode(), MARK])
        for serial in drives:
            changer.unload(serial)
        for barcode, serial in zip(barcodes, reversed(drives), strict=True):
            assert read_on(changer.load(barcode, serial), 512) == [barcode.encode(), MARK]

    def test_unloading_puts_all_on_the_medium(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        drive = changer.load(barcodes[0], drives[0])
        drive.write_record(memoryview(b"no mark yet"))
        changer.unload(drives[0])
        assert read_on(changer.load(barcodes[0], drives[1]), 512) == [b"no mark yet", MARK]

    def test_unloading_an_empty_drive_does_nothing(self, changer: Changer, drives: tuple[str, str]) -> None:
        before = changer.inventory()
        changer.unload(drives[0])
        assert changer.inventory() == before

    def test_a_full_drive_takes_no_second_cartridge(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        changer.load(barcodes[0], drives[0])
        with pytest.raises(MediaError) as caught:
            changer.load(barcodes[1], drives[0])
        assert caught.value.found == barcodes[0]
        assert changer.inventory().drives[drives[0]] == barcodes[0]

    def test_a_cartridge_is_not_in_two_drives(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        changer.load(barcodes[0], drives[0])
        with pytest.raises(MediaError) as caught:
            changer.load(barcodes[0], drives[1])
        assert caught.value.place == drives[0]
        assert changer.inventory().drives[drives[1]] is None

    def test_a_missing_cartridge_needs_an_operator(self, changer: Changer, drives: tuple[str, str]) -> None:
        with pytest.raises(OperatorNeeded) as caught:
            changer.load("NOSUCHL8", drives[0])
        assert caught.value.expected == "NOSUCHL8"
        assert caught.value.hint is not None
        assert "NOSUCHL8" in caught.value.hint
        assert changer.inventory().drives[drives[0]] is None

    def test_a_drive_that_is_not_there(self, changer: Changer, barcodes: tuple[str, str]) -> None:
        with pytest.raises(UsageError):
            changer.load(barcodes[0], "NO-SUCH-DRIVE")
        with pytest.raises(UsageError):
            changer.unload("NO-SUCH-DRIVE")
        assert barcodes[0] in changer.inventory().slots

    def test_blank_cartridges_are_offered_again_until_they_are_known(self, changer: Changer) -> None:
        first = changer.scratch((Side.A, Side.B), set())
        assert changer.scratch((Side.A, Side.B), set()) == first
        second = changer.scratch((Side.A, Side.B), set(first))
        assert not set(first) & set(second)

    def test_law_5_a_written_cartridge_is_no_scratch(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        write(changer.load(barcodes[0], drives[0]), [b"data", MARK])
        changer.unload(drives[0])
        assert barcodes[0] not in changer.scratch((Side.A, Side.B), set())
        assert read_on(changer.load(barcodes[0], drives[0]), 512) == [b"data", MARK]

    def test_a_loaded_cartridge_is_no_scratch(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        changer.load(barcodes[0], drives[0])
        assert barcodes[0] not in changer.scratch((Side.A, Side.B), set())

    def test_law_10_a_library_has_one_owner(self, changer: Changer, open_changer: Callable[[], Changer]) -> None:
        with pytest.raises(BusyError):
            open_changer()
        changer.close()
        open_changer().close()

    def test_what_the_last_owner_left_in_a_drive_is_found_there(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str], open_changer: Callable[[], Changer]
    ) -> None:
        drive = changer.load(barcodes[0], drives[0])
        write(drive, [b"committed", MARK], synchronous=True)
        drive.write_record(memoryview(b"not committed"))
        changer.close()
        following = open_changer()
        try:
            assert following.inventory().drives[drives[0]] == barcodes[0]
            following.unload(drives[0])
            assert barcodes[0] in following.inventory().slots
            assert read_on(following.load(barcodes[0], drives[1]), 512)[:2] == [b"committed", MARK]
        finally:
            following.close()

    def test_closing_twice_does_no_harm(self, open_changer: Callable[[], Changer]) -> None:
        changer = open_changer()
        changer.close()
        changer.close()


class PortsConformance(ChangerConformance):
    """The suite for libraries with import/export slots, of which one at least is free, and so is a slot."""

    def test_an_exported_cartridge_needs_an_operator_until_it_is_brought_in(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        write(changer.load(barcodes[0], drives[0]), [b"data", MARK])
        changer.unload(drives[0])
        for _ in range(2):
            changer.export(barcodes[0])
        inventory = changer.inventory()
        assert barcodes[0] in inventory.ports
        assert barcodes[0] not in inventory.slots
        with pytest.raises(OperatorNeeded) as caught:
            changer.load(barcodes[0], drives[0])
        assert caught.value.expected == barcodes[0]
        assert f"holdfast tape import {barcodes[0]}" in (caught.value.hint or "")
        assert changer.inventory().drives[drives[0]] is None
        for _ in range(2):
            changer.bring_in(barcodes[0])
        assert barcodes[0] in changer.inventory().slots
        assert barcodes[0] not in changer.inventory().ports
        assert read_on(changer.load(barcodes[0], drives[1]), 512) == [b"data", MARK]

    def test_an_exported_cartridge_is_no_scratch(self, changer: Changer, barcodes: tuple[str, str]) -> None:
        changer.export(barcodes[0])
        assert barcodes[0] not in changer.scratch((Side.A, Side.B), set())

    def test_a_loaded_cartridge_is_not_exported(
        self, changer: Changer, drives: tuple[str, str], barcodes: tuple[str, str]
    ) -> None:
        changer.load(barcodes[0], drives[0])
        for move in (changer.export, changer.bring_in):
            with pytest.raises(MediaError) as caught:
                move(barcodes[0])
            assert caught.value.found == barcodes[0]
        assert changer.inventory().drives[drives[0]] == barcodes[0]

    def test_a_missing_cartridge_is_neither_exported_nor_brought_in(self, changer: Changer) -> None:
        for move in (changer.export, changer.bring_in):
            with pytest.raises(OperatorNeeded) as caught:
                move("NOSUCHL8")
            assert caught.value.expected == "NOSUCHL8"

    def test_the_next_owner_finds_what_was_exported(
        self, changer: Changer, barcodes: tuple[str, str], open_changer: Callable[[], Changer]
    ) -> None:
        changer.export(barcodes[0])
        changer.close()
        following = open_changer()
        assert barcodes[0] in following.inventory().ports
        following.close()
