"""Who is at work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import BusyError
from holdfast.state import RunLog, vault_lock


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
        "import sys, pathlib\nfrom holdfast.state import vault_lock\n"
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
    log = RunLog(tmp_path / "state.db")
    with log.running("archive"):
        (run,) = log.latest(5)
        assert (run.command, run.pid, run.ended_ns) == ("archive", os.getpid(), None)
    with pytest.raises(ValueError, match="no"), log.running("verify"):
        raise ValueError("no")
    assert [run.outcome for run in log.latest(5)] == ["ValueError", "done"]
