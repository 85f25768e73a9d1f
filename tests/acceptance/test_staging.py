"""Drives start when enough is staged for them to stream, and what was begun is ended all the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.acceptance.nights import differences, make_night

from holdfast.cli.app import run
from holdfast.config import init_vault
from holdfast.errors import EXIT_FAILED
from holdfast.journey import ArchiveRequest, archive
from holdfast.reports import ArchiveReport
from holdfast.restoring import RestoreRequest, restore
from holdfast.testing.tapefaults import ProcessStopped, TapeFault, Trouble, Troubles, faulty_library

Capture = pytest.CaptureFixture[str]

START_BYTES = 20_000_000


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    folder = tmp_path / "vault"
    init_vault(folder, replace(SMALL, start_at=f"{START_BYTES} B"))
    return folder


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return make_night(tmp_path / "night")


def archived(vault: Path, night: Path, *, now: bool = False, in_place: bool = False) -> ArchiveReport:
    return archive(vault, ArchiveRequest(paths=(night,), now=now, in_place=in_place))


def add(night: Path, size_bytes: int) -> None:
    with (night / "added").open("wb") as file:
        file.truncate(size_bytes)


@pytest.mark.parametrize("in_place", [False, True])
def test_too_little_waits_and_touches_no_drive(vault: Path, night: Path, tmp_path: Path, in_place: bool) -> None:
    with faulty_library(troubles := Troubles()):
        for _ in range(2):
            report = archived(vault, night, in_place=in_place)
            assert report.exit_code() == EXIT_FAILED
            assert report.errors == []
            assert 0 < report.staged_bytes < report.wanted_bytes == START_BYTES
            assert report.unproven
        assert troubles.operations == []
    assert list((vault / "journals").glob("HF*")) == []
    add(night, START_BYTES - report.staged_bytes)
    report = archived(vault, night, in_place=in_place)
    assert (report.exit_code(), report.unproven, report.staged_bytes, report.wanted_bytes) == (0, [], 0, 0)
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).exit_code() == 0
    assert differences(night, tmp_path / "back/night") == []


def test_the_boundary_is_what_was_asked_for(vault: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    add(tmp_path / "one", START_BYTES - 1)
    assert archived(vault, tmp_path / "one").staged_bytes == START_BYTES - 1
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "last").write_bytes(b"1")
    report = archived(vault, tmp_path / "two")  # what waits is that of all sources
    assert (report.exit_code(), report.totals["proven"]) == (0, report.totals["versions"])


def test_now_writes_however_little_is_staged(vault: Path, night: Path) -> None:
    archived(vault, night)
    assert archived(vault, night, now=True).exit_code() == 0
    report = archived(vault, night)
    assert (report.exit_code(), report.wanted_bytes) == (0, 0)


@pytest.mark.parametrize("mark", [1, 2, 3, 4, 5, 7])
def test_law_6_what_a_killed_run_began_is_ended_though_less_is_left_than_starts_the_drives(
    vault: Path, night: Path, mark: int
) -> None:
    add(night, START_BYTES)
    fault = TapeFault(Trouble.STOPPED, drive="VDRIVE-1", operation="write_file_mark", nth=mark, after=True)
    with faulty_library(troubles := Troubles([fault])), pytest.raises(ProcessStopped):
        archived(vault, night)
    troubles.demand_all_happened()
    report = archived(vault, night)
    assert (report.exit_code(), report.wanted_bytes) == (0, 0)


def test_law_6_what_was_written_and_not_verified_is_verified(vault: Path, night: Path) -> None:
    fault = TapeFault(Trouble.STOPPED, drive="VDRIVE-0", barcode="HF0002L8", operation="read_record", nth=3)
    with faulty_library(troubles := Troubles([fault])), pytest.raises(ProcessStopped):
        archived(vault, night, now=True)
    troubles.demand_all_happened()
    (night / "a little more").write_bytes(b"more")
    assert archived(vault, night).exit_code() == 0


def test_a_fenced_side_is_replaced_whatever_is_staged(vault: Path, night: Path) -> None:
    barcodes = archived(vault, night, now=True).written_on
    words = ["tape", "fence", barcodes[1], "--why", "dropped", "--confirm", barcodes[1], "--vault", str(vault)]
    assert run(words) == 0
    add(night, 1000)
    assert archived(vault, night).exit_code() == 0


def test_law_4_what_lost_both_proven_copies_does_not_wait_for_more(vault: Path, night: Path, tmp_path: Path) -> None:
    barcodes = archived(vault, night, now=True).written_on
    for barcode in barcodes:
        words = ["tape", "fence", barcode, "--why", "flood", "--confirm", barcode, "--vault", str(vault)]
        assert run(words) == 0
    report = archived(vault, night)
    assert (report.exit_code(), report.unproven) == (0, []), report.errors
    assert set(report.written_on).isdisjoint(barcodes)
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).exit_code() == 0
    assert differences(night, tmp_path / "back/night") == []


def test_report_and_status_say_what_waits_and_what_to_do(vault: Path, night: Path, capsys: Capture) -> None:
    assert run(["archive", str(night), "--vault", str(vault)]) == EXIT_FAILED
    told = " ".join(capsys.readouterr().out.split())
    assert "staged; the drives start at 20.0 MB, or with --now" in told
    assert f"keep the source. To write now: holdfast archive --now --vault {vault} PATH..." in told
    assert run(["archive", str(night), "--json", "--vault", str(vault)]) == EXIT_FAILED
    document = json.loads(capsys.readouterr().out)
    assert (document["wanted_bytes"], document["exit_code"]) == (START_BYTES, EXIT_FAILED)
    assert run(["status", "--vault", str(vault)]) == 0
    assert "to be written on tape; the drives start at 20.0 MB" in capsys.readouterr().out
    assert run(["status", "--json", "--vault", str(vault)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["staged_bytes"], facts["start_at_bytes"]) == (document["staged_bytes"], START_BYTES)
    assert run(["archive", "--now", str(night), "--vault", str(vault)]) == 0
    capsys.readouterr()
    assert run(["status", "--vault", str(vault)]) == 0
    assert "staged" not in capsys.readouterr().out
