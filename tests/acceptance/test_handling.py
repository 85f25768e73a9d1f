"""Cartridges by hand, as a person at the library does it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import uuid
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL, Archive
from tests.acceptance.nights import differences, make_night

from holdfast import handling
from holdfast.cli.app import run
from holdfast.config import init_vault
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_FAILED, EXIT_OPERATOR, EXIT_USAGE
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.changer.opening import open_changer
from holdfast.tape.drive import VirtualDrive
from holdfast.tape.drive.virtual import make_cartridge
from holdfast.testing.tapefaults import ProcessStopped, TapeFault, Trouble, Troubles, faulty_library
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
    with owned(vault, "archive", lambda _: None) as work:
        changer = open_changer(work.settings)
        assert tape(vault, "status", "--json") == 0
        changer.close()
    document = json.loads(capsys.readouterr().out)
    assert document["drives"] == []
    assert "'holdfast archive', process" in document["owner"]


# -- erasing


def cartridge(vault: Path, barcode: str) -> Path:
    return vault / "library/cartridges" / barcode


def held(vault: Path, barcode: str) -> dict[str, bytes]:
    """Every byte of a virtual cartridge."""
    return {path.name: path.read_bytes() for path in sorted(cartridge(vault, barcode).iterdir())}


def put_foreign(vault: Path, barcode: str) -> None:
    make_cartridge(cartridge(vault, barcode), barcode, 2**26)
    drive = VirtualDrive("D", cartridge(vault, barcode))
    drive.write_record(memoryview(b"VOL1ABC123L" + b" " * 69))
    drive.close()


def put_other_vaults(vault: Path, night: Path, barcode: str = "HF0001L8") -> uuid.UUID:
    """A cartridge of another vault in this one's library, under this sticker; the other vault's id."""
    other = vault.with_name("other")
    settings = init_vault(other, SMALL)
    archive(other, ArchiveRequest(paths=(night,)))
    make_sticker(cartridge(other, "HF0001L8"), barcode)
    cartridge(vault, "").mkdir(exist_ok=True)
    cartridge(other, "HF0001L8").rename(cartridge(vault, barcode))
    return settings.id


def make_sticker(folder: Path, barcode: str) -> None:
    path = folder / "cartridge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"barcode": barcode}))


def erase(vault: Path, barcode: str, *words: str) -> int:
    return tape(vault, "erase", barcode, "--confirm", barcode, *words)


def test_a_foreign_cartridge_is_left_alone_until_it_is_erased_and_taken_then(
    vault: Path, night: Path, archived: Archive, capsys: Capture
) -> None:
    put_foreign(vault, "HF0001L8")
    before = held(vault, "HF0001L8")
    assert archived(night).written_on == ["HF0002L8", "HF0003L8"]
    assert held(vault, "HF0001L8") == before
    assert erase(vault, "HF0001L8") == 0
    told = capsys.readouterr()
    assert "HF0001L8 holds: a tape with ANSI labels, volume 'ABC123'" in told.err
    assert told.out == "HF0001L8 is erased, was read, and is blank\n"
    assert where(vault, capsys)["HF0001L8"] is None
    assert tape(vault, "fence", "HF0002L8", "--why", "dropped", "--confirm", "HF0002L8") == 0
    report = archived(night)
    assert (report.exit_code(), report.written_on) == (0, ["HF0001L8", "HF0003L8"])


def test_a_cartridge_of_another_vault_is_said_and_erased(
    vault: Path, night: Path, archived: Archive, capsys: Capture
) -> None:
    other = put_other_vaults(vault, night)
    assert tape(vault, "erase", "HF0001L8", "--confirm", "HF0001L8", "--json") == 0
    told = capsys.readouterr()
    assert f"vault {other}, pair " in told.err
    assert "holdfast rebuild HF0001L8" in told.err
    document = json.loads(told.out)
    assert (document["barcode"], document["erased"]) == ("HF0001L8", True)
    assert document["held"]["label"]["vault_id"] == str(other)
    assert list(held(vault, "HF0001L8")) == ["cartridge.json"]
    assert archived(night).written_on == ["HF0001L8", "HF0002L8"]


def test_a_label_with_another_barcode_than_the_sticker_must_be_named(vault: Path, night: Path, capsys: Capture) -> None:
    put_other_vaults(vault, night, "ZZ0001L8")
    before = held(vault, "ZZ0001L8")
    for words in ((), ("--labelled", "HF0002L8")):
        assert erase(vault, "ZZ0001L8", *words) == EXIT_USAGE
        assert "holdfast tape erase ZZ0001L8 --labelled HF0001L8" in capsys.readouterr().err
    assert held(vault, "ZZ0001L8") == before
    assert erase(vault, "ZZ0001L8", "--labelled", "HF0001L8") == 0
    assert list(held(vault, "ZZ0001L8")) == ["cartridge.json"]


def test_law_5_no_cartridge_of_the_vault_is_erased_whatever_its_state(
    vault: Path, night: Path, barcodes: list[str], archived: Archive, capsys: Capture
) -> None:
    def refused(barcode: str) -> None:
        before = held(vault, barcode)
        capsys.readouterr()
        assert erase(vault, barcode) == EXIT_USAGE
        assert f"holdfast tape export {barcode}" in capsys.readouterr().err
        assert held(vault, barcode) == before

    refused(barcodes[0])
    assert tape(vault, "fence", barcodes[1], "--why", "dropped", "--confirm", barcodes[1]) == 0
    refused(barcodes[1])
    assert archived(night).exit_code() == 0
    refused(barcodes[1])  # replaced now
    shutil.rmtree(vault / "catalog")
    (vault / "catalog").mkdir()
    for barcode in barcodes:  # the journals know them still
        refused(barcode)


@pytest.mark.parametrize("damage", [b"", b"VOLUME.json", b"holdfast_tape"])
def test_law_5_a_cartridge_of_the_vault_is_known_by_its_label_whatever_its_sticker_says(
    vault: Path, barcodes: list[str], capsys: Capture, damage: bytes
) -> None:
    cartridge(vault, barcodes[1]).rename(cartridge(vault, "ZZ0009L8"))
    make_sticker(cartridge(vault, "ZZ0009L8"), "ZZ0009L8")
    label = cartridge(vault, "ZZ0009L8") / "00000"
    label.write_bytes(label.read_bytes().replace(damage, b"?" * len(damage), 1))
    before = held(vault, "ZZ0009L8")
    assert erase(vault, "ZZ0009L8", "--labelled", barcodes[1]) == EXIT_USAGE
    assert "a cartridge that this vault wrote is never erased" in capsys.readouterr().err
    assert held(vault, "ZZ0009L8") == before


def test_law_5_a_cartridge_that_the_vault_forgot_is_still_its_own(
    vault: Path, barcodes: list[str], capsys: Capture
) -> None:
    for room in ("catalog", "journals"):
        shutil.rmtree(vault / room)
        (vault / room).mkdir()
    before = held(vault, barcodes[0])
    assert erase(vault, barcodes[0]) == EXIT_USAGE
    assert "holdfast rebuild" in capsys.readouterr().err
    assert held(vault, barcodes[0]) == before


def test_erasing_demands_the_barcode(vault: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    put_foreign(vault, "HF0001L8")
    before = held(vault, "HF0001L8")
    assert tape(vault, "erase", "HF0001L8", "--confirm", "HF0002L8") == EXIT_USAGE
    assert "ANSI labels" not in capsys.readouterr().err  # nothing was moved
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert tape(vault, "erase", "HF0001L8") == EXIT_USAGE
    told = capsys.readouterr().err
    assert told.index("ANSI labels") < told.index("type HF0001L8 to erase it") < told.index("not confirmed")
    assert held(vault, "HF0001L8") == before
    assert where(vault, capsys)["HF0001L8"] is None
    monkeypatch.setattr("sys.stdin", io.StringIO("HF0001L8\n"))
    assert tape(vault, "erase", "HF0001L8") == 0
    assert list(held(vault, "HF0001L8")) == ["cartridge.json"]
    assert tape(vault, "erase", "XX0001L8", "--confirm", "XX0001L8") == EXIT_OPERATOR


@pytest.mark.parametrize("after", [False, True])
def test_law_6_erasing_is_done_again_after_it_was_stopped(
    vault: Path, night: Path, archived: Archive, capsys: Capture, after: bool
) -> None:
    put_foreign(vault, "HF0001L8")
    troubles = Troubles([TapeFault(Trouble.STOPPED, operation="erase", after=after)])
    with faulty_library(troubles), pytest.raises(ProcessStopped):
        handling.erase(vault, "HF0001L8", lambda _: None)
    troubles.demand_all_happened()
    assert erase(vault, "HF0001L8") == 0
    assert where(vault, capsys)["HF0001L8"] is None
    assert archived(night).written_on == ["HF0001L8", "HF0002L8"]


def test_a_cartridge_that_is_not_blank_afterwards_is_told(
    vault: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_foreign(vault, "HF0001L8")
    monkeypatch.setattr(VirtualDrive, "erase", VirtualDrive.rewind)
    assert erase(vault, "HF0001L8") == EXIT_DATA_AT_RISK
    assert "was erased, and is not blank" in capsys.readouterr().err
