"""`restore --dry-run`: what it tells is what the restore then does, and telling it mounts and writes nothing."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL, Archive
from tests.acceptance.nights import make_night

from holdfast.catalog import TapePlace
from holdfast.cli.app import run
from holdfast.config import init_vault
from holdfast.restoring import RestoreRequest, plan, restore
from holdfast.restoring.order import MOUNT_S
from holdfast.tape.changer import VirtualChanger
from holdfast.tape.recall import TapeContents

pytestmark = pytest.mark.acceptance


class Seen:
    """Which cartridges were loaded, and what was read from tape, in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.loads: list[str] = []
        self.reads: list[tuple[str, int, int]] = []
        load, read = VirtualChanger.load, TapeContents.read

        def seen_load(changer: VirtualChanger, barcode: str, drive: str) -> object:
            self.loads.append(barcode)
            return load(changer, barcode, drive)

        def seen_read(contents: TapeContents, place: TapePlace, content: object, sink: object) -> None:
            self.reads.append((place.barcode, place.tape_file, place.data_offset))
            read(contents, place, content, sink)  # type: ignore[arg-type]

        patch.setattr(VirtualChanger, "load", seen_load)
        patch.setattr(TapeContents, "read", seen_read)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """One whose cartridges hold little."""
    init_vault(tmp_path / "vault", replace(SMALL, cartridge_capacity="6 MiB"))
    return tmp_path / "vault"


@pytest.fixture
def three_pairs(vault: Path, tmp_path: Path, archived: Archive) -> Path:
    """A night on more than two pairs of cartridges, met by the source in another order than that of names."""
    night = tmp_path / "night"
    night.mkdir()
    for number in range(44):
        (night / f"{number * 7 % 44:02d}.bin").write_bytes(os.urandom(300_000 + number))
    assert archived(night).exit_code() == 0
    return night


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_restore_reads_what_the_plan_told_in_that_order(
    vault: Path, three_pairs: Path, tmp_path: Path, seen: Seen
) -> None:
    seen.loads.clear()
    request = RestoreRequest(to=tmp_path / "back", origin="tape")
    told = plan(vault, request)
    assert (seen.loads, seen.reads) == ([], [])
    assert restore(vault, request).exit_code() == 0
    assert [tape.barcode for tape in told.tapes] == list(dict.fromkeys(barcode for barcode, _, _ in seen.reads))
    for tape in told.tapes:
        own = [tape_file for barcode, tape_file, _ in seen.reads if barcode == tape.barcode]
        assert tape.files == len(own)
        assert tape.tape_files == sorted(set(own))
        assert own == sorted(own), "one pass"
    assert len(told.tapes) >= 2
    assert len(seen.loads) == told.mounts == 2 * len(told.tapes)
    assert {tape.twin for tape in told.tapes} == set(seen.loads) - {tape.barcode for tape in told.tapes}
    assert told.tape_bytes == sum(path.stat().st_size for path in three_pairs.iterdir())
    mounting = 2 * MOUNT_S * len(told.tapes)
    assert told.estimated_s == pytest.approx(mounting + sum(tape.estimated_s for tape in told.tapes))


def test_what_is_there_already_needs_no_tape(vault: Path, three_pairs: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    some = RestoreRequest(to=back, patterns=("night/0*",), origin="tape")
    assert restore(vault, some).files == 10
    told = plan(vault, RestoreRequest(to=back, origin="tape"))
    assert (told.files, told.already_there, told.files_on_tape) == (44, 10, 34)
    (back / "night/01.bin").write_bytes(b"another file of that name")
    assert plan(vault, RestoreRequest(to=back, origin="tape")).already_there == 9


def test_it_makes_nothing_and_mounts_nothing(vault: Path, archived: Archive, tmp_path: Path, seen: Seen) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    seen.loads.clear()
    before = names_in(vault)
    told = plan(vault, RestoreRequest(to=tmp_path / "back"))
    assert not (tmp_path / "back").exists()
    assert names_in(vault) == before
    assert seen.loads == []
    assert (told.tapes, told.mounts, told.estimated_s) == ([], 0, 0)
    report = restore(vault, RestoreRequest(to=tmp_path / "back"))
    assert (told.files, told.folders, told.links) == (report.files, report.folders, report.links)
    assert told.store_bytes == report.planted_bytes


def test_without_packs_and_without_names_of_a_group_of_hard_links(
    vault: Path, archived: Archive, tmp_path: Path
) -> None:
    archived(make_night(tmp_path / "night"))
    request = RestoreRequest(to=tmp_path / "back", patterns=("night/zen.2458661.uv",), origin="tape")
    told = plan(vault, request)
    report = restore(vault, request)
    assert (told.files, told.folders) == (report.files, report.folders) == (3, 1)
    assert told.tape_bytes == report.planted_bytes


def test_the_command_lists_tapes_in_order_and_json_is_one_document(
    vault: Path, three_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    command = ["restore", "--dry-run", "--from", "tape", "--to", str(tmp_path / "back"), "--vault", str(vault)]
    assert run(command) == 0
    text = capsys.readouterr().out
    assert text.index("1. HF0001L8, or its twin HF0002L8: ") < text.index("2. HF0003L8, or its twin HF0004L8: ")
    assert "with LTO-8 drives" in text
    assert "nothing was mounted, nothing was written" in text
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [tape["barcode"] for tape in document["tapes"]][:2] == ["HF0001L8", "HF0003L8"]
    assert document["files"] == 44
    assert document["exit_code"] == 0


def test_what_nobody_has_is_told_and_the_exit_code_is_that_of_the_restore(
    vault: Path, archived: Archive, tmp_path: Path
) -> None:
    night = make_night(tmp_path / "night")
    archived(night, in_place=True)
    request = RestoreRequest(to=tmp_path / "back", origin="store")
    told = plan(vault, request)
    assert told.errors
    shutil.rmtree(tmp_path / "back", ignore_errors=True)
    assert told.exit_code() == restore(vault, request).exit_code() == 3
