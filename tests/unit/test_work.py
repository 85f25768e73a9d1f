"""Who is at work on a vault, on what, and how far."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.errors import BusyError
from holdfast.state import Tracker
from holdfast.work import RUN, Work, WorkFacts, look_at_work, vault_lock


def test_law_10_one_owner_the_other_learns_who(tmp_path: Path) -> None:
    lock = tmp_path / "vault.lock"
    busy = pytest.raises(BusyError, match="the vault is in use")
    with vault_lock(lock, "archive"), busy as caught, vault_lock(lock, "verify"):
        pass
    assert f"process {os.getpid()}" in (caught.value.found or "")
    with vault_lock(lock, "verify"):
        pass


def test_a_killed_owner_blocks_nobody(tmp_path: Path) -> None:
    lock = tmp_path / "vault.lock"
    program = (
        "import sys, pathlib\nfrom holdfast.work import vault_lock\n"
        "with vault_lock(pathlib.Path(sys.argv[1]), 'archive'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(BusyError), vault_lock(lock, "verify"):
            pass
        owner.kill()
    with vault_lock(lock, "verify"):
        pass


def test_runs_are_remembered_with_their_outcome(tmp_path: Path) -> None:
    with Work(tmp_path) as work:
        with work.doing(RUN, "archive"):
            (run,) = look_at_work(tmp_path).runs
            assert (run.command, run.pid, run.ended_ns, run.outcome) == ("archive", os.getpid(), None, "running")
        with pytest.raises(ValueError, match="no"), work.doing(RUN, "verify"):
            raise ValueError("no")
        assert [run.outcome for run in look_at_work(tmp_path).runs] == ["ValueError", "done"]
        assert look_at_work(tmp_path, 1).runs[0].command == "verify"
        assert not work.troubles()


def test_nothing_is_known_of_a_vault_on_which_nobody_worked(tmp_path: Path) -> None:
    assert look_at_work(tmp_path) == WorkFacts([], [])
    assert not (tmp_path / "state.db").exists()


def test_the_plan_of_a_step_is_what_is_to_be_done(tmp_path: Path) -> None:
    with Work(tmp_path) as work:
        work.plan("verify", {"A and B": 100, "C and D": 300})
        work.plan("dump", {"E and F": 7})
        work.plan("verify", {"C and D": 200, "G and H": 50})
        steps = look_at_work(tmp_path).steps
        assert [(step.step, step.what, step.state, step.size_bytes) for step in steps] == [
            ("verify", "C and D", "to do", 200),
            ("dump", "E and F", "to do", 7),
            ("verify", "G and H", "to do", 50),
        ]
        with work.doing("verify", "C and D"):
            pass
        assert [step.what for step in look_at_work(tmp_path).steps] == ["E and F", "G and H"]
        work.plan("verify", {"C and D": 10})
        assert [step.what for step in look_at_work(tmp_path).steps] == ["C and D", "E and F"]


def test_a_step_tells_how_far_it_is_and_how_long_it_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.work.NOTE_EVERY_S", 0.0)
    passed_on: list[int] = []
    with Work(tmp_path) as work, work.doing("dump", "A and B", 1000, also=passed_on.append) as step:
        assert look_at_work(tmp_path).steps[0].eta_s is None  # nothing was ever moved
        step.advance(100)
        step.advance(150)
        (facts,) = look_at_work(tmp_path).steps
        assert (facts.state, facts.done_bytes, facts.size_bytes, facts.pid) == ("running", 250, 1000, os.getpid())
        assert facts.eta_s is not None
        assert facts.eta_s > 0
    assert passed_on == [100, 150]


def test_a_step_that_failed_is_told_with_its_attempts_until_it_is_done(tmp_path: Path) -> None:
    with Work(tmp_path) as work:
        for _ in range(2):
            with pytest.raises(OSError, match="drive"), work.doing("dump", "A and B"):
                raise OSError("the drive is off")
        (facts,) = look_at_work(tmp_path).steps
        assert (facts.state, facts.attempts, facts.error) == ("failed", 2, "OSError: the drive is off")
        with work.doing("dump", "A and B") as step:
            step.problem = "3 problems"
        assert look_at_work(tmp_path).steps[0].error == "3 problems"
        with work.doing("dump", "A and B"):
            assert look_at_work(tmp_path).steps[0].attempts == 4
        assert not look_at_work(tmp_path).steps
        with work.doing("dump", "A and B"):
            assert look_at_work(tmp_path).steps[0].attempts == 1


def test_what_a_killed_run_did_is_told_and_done_again_at_once(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\nfrom holdfast.work import Work\n"
        "with Work(pathlib.Path(sys.argv[1])) as work, work.doing('run', 'archive'), work.doing('dump', 'A and B', 9):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    found = look_at_work(tmp_path)
    assert [run.outcome for run in found.runs] == ["killed"]
    assert [(step.state, step.what) for step in found.steps] == [("killed", "A and B")]
    with Work(tmp_path) as work:
        with work.doing(RUN, "archive"), work.doing("dump", "A and B", 9):
            assert [step.state for step in look_at_work(tmp_path).steps] == ["running"]
        assert not work.troubles()
    assert [run.outcome for run in look_at_work(tmp_path).runs] == ["done", "killed"]


def test_work_that_cannot_be_noted_is_done_and_told_once(tmp_path: Path) -> None:
    done: list[str] = []
    with Work(tmp_path / "state") as work:
        with work.doing("dump", "A and B"):
            shutil.rmtree(tmp_path / "state")
            done.append("dumped")
        work.plan("verify", {"A and B": 1})
        with work.doing("verify", "A and B") as step:
            step.advance(1)
            done.append("verified")
        (trouble,) = work.troubles()
        assert "move this folder away" in (trouble.hint or "")
        assert not work.troubles()
    assert done == ["dumped", "verified"]


def test_a_damaged_state_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    with Work(tmp_path) as work:
        with work.doing("dump", "A and B") as step:
            step.advance(5)
        assert step.done_bytes == 5
        assert len(work.troubles()) == 1


def test_what_others_put_into_the_state_stops_nobody(tmp_path: Path) -> None:
    with Tracker(tmp_path, store="work") as tracker:
        tracker.add_many([("verify",), "verify", 5, ("verify", 1), ("verify", "A", "B")])
    with Work(tmp_path) as work:
        work.plan("verify", {"A and B": 1})
        with work.doing("verify", "A and B"):
            assert [step.what for step in look_at_work(tmp_path).steps] == ["A and B"]
        assert not work.troubles()


def test_whatever_is_wrong_with_the_state_is_told_and_stops_nobody(tmp_path: Path) -> None:
    with Work(tmp_path) as work:
        work.plan("verify", {"A and B": 1})
        with work.doing("verify", "A and B") as step:
            with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
                connection.execute("DELETE FROM store")
            step.advance(1)
        (trouble,) = work.troubles()
    assert trouble.message == "what is done, and how far, cannot be noted or told"
    assert look_at_work(tmp_path).runs == []


def test_an_old_log_of_runs_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("CREATE TABLE run (id INTEGER PRIMARY KEY)")
    assert look_at_work(tmp_path) == WorkFacts([], [])
    with Work(tmp_path) as work, work.doing(RUN, "archive"):
        assert [run.outcome for run in look_at_work(tmp_path).runs] == ["running"]


def test_what_was_at_work_before_the_last_boot_is_not_running(tmp_path: Path) -> None:
    with Work(tmp_path) as work, work.doing(RUN, "archive"), work.doing("dump", "A and B"):
        with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
            connection.execute(
                "UPDATE entry_work SET owner = 'host 12345678-1234-1234-1234-123456789abc 4026531836 1 1'"
            )
        found = look_at_work(tmp_path)
        assert [run.outcome for run in found.runs] == ["killed"]
        assert [step.state for step in found.steps] == ["killed"]


def test_a_step_that_is_planned_again_begins_its_attempts_anew(tmp_path: Path) -> None:
    with Work(tmp_path) as work:
        for _ in range(3):
            work.plan("verify", {"A and B": 1})
            with work.doing("verify", "A and B"):
                assert look_at_work(tmp_path).steps[0].attempts == 1
