"""Cartridges by hand, as a person at the library does it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences, make_night

from holdfast.cli.app import run
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_FAILED, EXIT_OPERATOR, EXIT_USAGE
from holdfast.journey import verify
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.changer.opening import open_changer
from holdfast.tape.drive import VirtualDrive
from holdfast.tape.drive.virtual import make_cartridge
from holdfast.vault import owned

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return make_night(tmp_path / "night")


@pytest.fixture
def barcodes(archived: Archive, night: Path) -> list[str]:
    return archived(night).written_on


def tape(vault: Path, *words: str) -> int:
    return run(["tape", *words, "--vault", str(vault)])


def where(vault: Path, capsys: Capture) -> dict[str, str | None]:
    """The drive of each cartridge, None in a slot."""
    capsys.readouterr()
    assert tape(vault, "inventory", "--json") == 0
    return {item["barcode"]: item["drive"] for item in json.loads(capsys.readouterr().out) if item["barcode"]}


def test_loading_and_unloading(vault: Path, barcodes: list[str], capsys: Capture) -> None:
    assert where(vault, capsys) == dict.fromkeys(barcodes)
    assert tape(vault, "load", barcodes[0], "--drive", "VDRIVE-1") == 0
    assert where(vault, capsys)[barcodes[0]] == "VDRIVE-1"
    assert tape(vault, "load", barcodes[0]) == EXIT_DATA_AT_RISK
    assert tape(vault, "load", barcodes[1]) == 0
    assert where(vault, capsys)[barcodes[1]] == "VDRIVE-0"
    assert tape(vault, "unload", "--drive", "VDRIVE-1") == 0
    assert tape(vault, "unload") == 0
    assert where(vault, capsys) == dict.fromkeys(barcodes)
    assert tape(vault, "load", "XX0001L8") == EXIT_OPERATOR
    assert tape(vault, "load", barcodes[0], "--drive", "NONE") == EXIT_USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_what_a_person_left_in_the_drives_is_in_nobodys_way(
    vault: Path, night: Path, barcodes: list[str], archived: Archive
) -> None:
    tape(vault, "load", barcodes[1])
    (night / "more").write_bytes(b"more")
    assert archived(night).exit_code() == 0


def test_a_label_tells_what_a_cartridge_is(vault: Path, barcodes: list[str], capsys: Capture) -> None:
    for barcode, first in (("ZZ0001L8", b"VOL1ABC123L" + b" " * 69), ("ZZ0002L8", None)):
        folder = vault / "library/cartridges" / barcode
        make_cartridge(folder, barcode, 2**26)
        if first is not None:
            drive = VirtualDrive("D", folder)
            drive.write_record(memoryview(first))
            drive.close()
    capsys.readouterr()
    expected = {
        barcodes[0]: f"side A of a pair of Holdfast, written for {barcodes[0]}",
        "ZZ0001L8": "a tape with ANSI labels, volume 'ABC123'",
        "ZZ0002L8": "a blank tape",
    }
    for barcode, words in expected.items():
        assert tape(vault, "label", barcode) == 0
        assert capsys.readouterr().out == f"{barcode}: {words}\n"
    assert tape(vault, "label", barcodes[1], "--json") == 0
    assert json.loads(capsys.readouterr().out)["label"]["twin_barcode"] == barcodes[0]


def test_a_tape_file_comes_out_as_it_lies_on_the_cartridge(
    vault: Path, barcodes: list[str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert tape(vault, "read", barcodes[0], "1") == 0
    data = capsysbinary.readouterr().out
    assert data == (vault / "library/cartridges" / barcodes[0] / "00001").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames()[-1] == "MANIFEST"
    assert tape(vault, "read", barcodes[0], "99") == EXIT_FAILED
    marks = vault / "library/cartridges" / barcodes[0] / "marks.jsonl"
    marks.write_bytes(b"".join(marks.read_bytes().splitlines(keepends=True)[:1]))  # as if the mark were not written
    assert tape(vault, "read", barcodes[0], "1") != 0


def test_a_fenced_cartridge_is_replaced_by_the_next_archive(
    vault: Path, night: Path, barcodes: list[str], archived: Archive, tmp_path: Path, capsys: Capture
) -> None:
    assert tape(vault, "fence", barcodes[1], "--why", "dropped", "--confirm", "HF0009L8") == EXIT_USAGE
    assert tape(vault, "fence", "XX0009L8", "--why", "dropped", "--confirm", "XX0009L8") == EXIT_FAILED
    assert tape(vault, "fence", barcodes[1], "--why", "it was dropped", "--confirm", barcodes[1]) == 0
    report = archived(night)
    assert (report.exit_code(), report.unproven) == (0, [])
    capsys.readouterr()
    assert tape(vault, "inventory") == 0
    assert f"{barcodes[1]:<12}replaced" in capsys.readouterr().out
    assert verify(vault, (), everything=True).exit_code() == 0
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).exit_code() == 0
    assert differences(night, tmp_path / "back/night") == []


def test_a_cartridge_leaves_the_library_and_comes_back(
    vault: Path, night: Path, barcodes: list[str], archived: Archive, capsys: Capture
) -> None:
    for _ in range(2):
        assert tape(vault, "export", barcodes[1]) == 0
    capsys.readouterr()
    assert tape(vault, "inventory") == 0
    assert f"port                    {barcodes[1]:<12}side B" in capsys.readouterr().out
    assert tape(vault, "load", barcodes[1]) == EXIT_OPERATOR
    assert f"holdfast tape import {barcodes[1]}" in capsys.readouterr().err
    (night / "more").write_bytes(b"more")
    assert archived(night).exit_code() == EXIT_OPERATOR
    assert tape(vault, "import", barcodes[1]) == 0
    assert archived(night).exit_code() == 0
    assert tape(vault, "import", "XX0001L8") == EXIT_OPERATOR
    assert tape(vault, "load", barcodes[1]) == 0
    assert tape(vault, "export", barcodes[1]) == EXIT_DATA_AT_RISK


def test_status_tells_what_is_in_the_drives_and_who_has_them(vault: Path, barcodes: list[str], capsys: Capture) -> None:
    assert tape(vault, "load", barcodes[1]) == 0
    capsys.readouterr()
    assert tape(vault, "status", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    loaded = {"drive": "VDRIVE-0", "device": None, "barcode": barcodes[1], "known_as": "side B"}
    assert (document["owner"], document["drives"][0]) == (None, loaded)
    assert tape(vault, "status") == 0
    assert "VDRIVE-1" in capsys.readouterr().out
    with owned(vault, "archive") as work:
        changer = open_changer(work.settings)
        assert tape(vault, "status", "--json") == 0
        changer.close()
    document = json.loads(capsys.readouterr().out)
    assert document["drives"] == []
    assert "'holdfast archive', process" in document["owner"]
