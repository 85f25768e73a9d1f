"""The state holds work and no fact: whoever deletes it, and whenever, loses nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.acceptance.nights import differences

from holdfast.cli.app import run
from holdfast.journey import ArchiveRequest, archive
from holdfast.reports import Silent
from holdfast.restoring import RestoreRequest, restore
from holdfast.work import look_at_work

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = tmp_path / "night"
    night.mkdir()
    for number in range(3):
        (night / f"file-{number}").write_bytes(os.urandom(100_000))
    return night


class Deleting(Silent):
    """Deletes the state as soon as something is said that begins so."""

    def __init__(self, vault: Path, begin: str) -> None:
        self._vault, self._begin = vault, begin
        self.deleted = 0

    def say(self, text: str) -> None:
        if text.startswith(self._begin):
            shutil.rmtree(self._vault / "state")
            self.deleted += 1


@pytest.mark.parametrize("moment", ["kept", "committed", "verified"])
def test_a_state_deleted_amid_a_run_costs_a_warning_and_no_fact(
    vault: Path, night: Path, tmp_path: Path, moment: str
) -> None:
    watch = Deleting(vault, moment)
    report = archive(vault, ArchiveRequest(paths=(night,), now=True), watch)
    assert watch.deleted == 1
    assert (report.exit_code(), report.unproven) == (0, [])
    assert [str(warning) for warning in report.warnings if "the state holds no facts" not in str(warning)] == []
    assert len(report.warnings) == 1
    again = archive(vault, ArchiveRequest(paths=(night,), now=True))
    assert (again.exit_code(), again.objects, again.tape_files, again.warnings) == (0, 0, 0, [])
    restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert differences(night, tmp_path / "back" / night.name) == []


def test_a_damaged_state_stops_no_archive_and_is_told(vault: Path, night: Path, capsys: Capture) -> None:
    assert run(["archive", str(night), "--vault", str(vault)]) == 0
    for path in (vault / "state").glob("state.db*"):
        path.write_bytes(b"no database" * 1000)
    (night / "new").write_bytes(b"new")
    assert run(["archive", str(night), "--now", "--vault", str(vault)]) == 0
    assert "move this folder away" in capsys.readouterr().out
    assert run(["status", "--vault", str(vault)]) == 0
    assert "work        not known" in capsys.readouterr().out
    shutil.rmtree(vault / "state")
    assert run(["archive", str(night), "--vault", str(vault)]) == 0
    capsys.readouterr()
    assert run(["status", "--json", "--vault", str(vault)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["proven"], facts["work"], facts["work_unknown"]) == (facts["versions"], [], None)
    assert [item["outcome"] for item in facts["runs"]] == ["done"]


def test_every_step_of_the_journey_is_a_task_with_its_attempts(vault: Path, night: Path) -> None:
    seen: dict[str, list[str]] = {}

    class Looking(Silent):
        def say(self, text: str) -> None:
            found = look_at_work(vault / "state")
            seen[text.split(maxsplit=1)[0]] = [f"{step.step} {step.state}" for step in found.steps]
            assert [item.outcome for item in found.runs] == ["running"]

    report = archive(vault, ArchiveRequest(paths=(night,), now=True), Looking())
    assert report.exit_code() == 0
    assert list(seen) == ["kept", "committed", "verified"]
    assert look_at_work(vault / "state").steps == []
