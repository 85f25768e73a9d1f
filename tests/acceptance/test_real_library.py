"""The main job on a changer with drives behind `st`, both in memory: what only real libraries have on the way."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.acceptance.nights import differences, make_night
from tests.unit.tape.changer.test_mtx import OPTIONS, FakeLibrary
from tests.unit.tape.drive.fake_st import Tape

from holdfast.config import VaultSettings, init_vault
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.changer.mtx import MtxChanger


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary()
    options = replace(OPTIONS, cartridge_bytes=2**26)

    def open_changer(_: VaultSettings) -> MtxChanger:
        return MtxChanger(library.robot(), options, library.open_node)

    monkeypatch.setattr("holdfast.tape.library.open_changer", open_changer)
    return library


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return make_night(tmp_path / "night")


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    real = replace(SMALL, library="mtx", changer="/dev/sg9", scratch_a="HFA", scratch_b="HFB")
    init_vault(tmp_path / "vault", real)
    return tmp_path / "vault"


def back_from_tape(vault: Path, night: Path, to: Path) -> None:
    assert verify(vault, (), everything=True).exit_code() == 0
    assert restore(vault, RestoreRequest(to=to, origin="tape")).exit_code() == 0
    assert differences(night, to / "night") == []


def test_law_5_another_tape_under_the_barcode_of_ours_is_replaced_while_it_is_in_a_drive(
    library: FakeLibrary, vault: Path, night: Path, tmp_path: Path
) -> None:
    """Whether a new cartridge is blank is looked into in a drive, and the failure has left both full."""
    archive(vault, ArchiveRequest(paths=(night,)))
    twin = [*library.tapes["HFB001L6"].items]
    library.tapes["HFA001L6"] = Tape([*twin])
    (night / "later").write_bytes(os.urandom(1000))
    report = archive(vault, ArchiveRequest(paths=(night,)))
    assert (report.exit_code(), report.written_on) == (0, ["HFA002L6", "HFB001L6"]), report.errors
    assert library.tapes["HFA001L6"].items == twin
    back_from_tape(vault, night, tmp_path / "back")


def test_cartridges_that_somebody_left_in_all_drives_are_put_back_before_new_ones_are_looked_for(
    library: FakeLibrary, vault: Path, night: Path, tmp_path: Path
) -> None:
    robot = library.robot()
    robot.load(2, 0)
    robot.load(4, 1)
    robot.close()
    report = archive(vault, ArchiveRequest(paths=(night,)))
    assert (report.exit_code(), report.written_on) == (0, ["HFA001L6", "HFB001L6"]), report.errors
    back_from_tape(vault, night, tmp_path / "back")
