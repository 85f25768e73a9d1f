"""A night to two drives without a robot, with a scripted person and drives in memory; then the same with nobody there."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.acceptance.nights import differences, make_night
from tests.unit.tape.changer.test_operator import DEVICES, Person
from tests.unit.tape.drive.fake_st import MARK, Tape

from holdfast.config import InitOptions, VaultSettings, init_vault
from holdfast.errors import EXIT_OPERATOR, MediaError, OperatorNeeded
from holdfast.handling import erase
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.changer.opening import expected_on
from holdfast.tape.changer.operator import ATTEMPTS, Asker, NobodyThere, OperatorChanger, OperatorOptions


class Desk:
    """Two drives, and whoever is there."""

    def __init__(self) -> None:
        self.person = Person()
        self.asker: Asker = self.person

    def open_changer(self, settings: VaultSettings) -> OperatorChanger:
        options = OperatorOptions(
            DEVICES,
            ("HFA", "HFB"),
            "L6",
            2**30,
            lambda barcode: expected_on(settings.journals_folder, barcode),
            ready_seconds=0.0,
        )
        return OperatorChanger(settings.library_folder, options, self.asker, self.person.open_node)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk()
    monkeypatch.setattr("holdfast.tape.library.open_changer", made.open_changer)
    return made


def test_a_night_to_two_drives_and_a_person(desk: Desk, tmp_path: Path) -> None:
    night, vault = make_night(tmp_path / "night"), tmp_path / "vault"
    drives = tuple(map(str, DEVICES.values()))
    init_vault(vault, InitOptions(library="operator", drives=drives, scratch_a="HFA", scratch_b="HFB"))
    report = archive(vault, ArchiveRequest(paths=(night,)))
    assert (report.exit_code(), report.unproven) == (0, [])
    asked = [(barcode, drive.split()[0]) for barcode, drive, _ in desk.person.asked]
    assert asked == [("HFA001L6", "DRVX"), ("HFB001L6", "DRVY"), ("HFA001L6", "DRVY"), ("HFB001L6", "DRVX")]

    desk.asker = NobodyThere()
    for _ in range(2):
        outcome = verify(vault, (), everything=True)
        assert outcome.exit_code() == EXIT_OPERATOR
        wanted = {error.expected: error.place or "" for error in outcome.errors if isinstance(error, OperatorNeeded)}
        assert set(wanted) == {"HFA001L6", "HFB001L6"}
    for barcode, place in wanted.items():
        assert barcode is not None
        (drive,) = (drive for device, drive in desk.person.drives.items() if str(device) in place)
        assert drive.tape is None
        drive.tape = desk.person.shelf[barcode]
    assert verify(vault, (), everything=True).exit_code() == 0

    desk.asker = desk.person
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).exit_code() == 0
    assert differences(night, tmp_path / "back/night") == []


def test_a_foreign_cartridge_is_refused_erased_and_taken(desk: Desk, tmp_path: Path) -> None:
    night, vault = make_night(tmp_path / "night"), tmp_path / "vault"
    drives = tuple(map(str, DEVICES.values()))
    init_vault(vault, InitOptions(library="operator", drives=drives, scratch_a="HFA", scratch_b="HFB"))
    foreign = desk.person.shelf["HFA001L6"] = Tape([b"VOL1ABC123L" + b" " * 69, MARK], is_write_protected=True)
    desk.person.mistakes = [foreign] * ATTEMPTS
    assert archive(vault, ArchiveRequest(paths=(night,))).exit_code() == EXIT_OPERATOR
    assert foreign.items[0] is not None

    told: list[str] = []
    with pytest.raises(MediaError, match="write-protected") as caught:
        erase(vault, "HFA001L6", lambda found: told.append(found.words))
    assert "tab" in str(caught.value.hint)
    assert told == ["a tape with ANSI labels, volume 'ABC123'"]
    foreign.is_write_protected = False
    for drive in desk.person.drives.values():
        drive.erases = False
    erase(vault, "HFA001L6", lambda found: told.append(found.words))
    assert foreign.items == [MARK]
    assert all(drive.tape is None for drive in desk.person.drives.values())
    report = archive(vault, ArchiveRequest(paths=(night,)))
    assert (report.exit_code(), report.written_on) == (0, ["HFA001L6", "HFB001L6"])
    assert len(foreign.items) > 3
