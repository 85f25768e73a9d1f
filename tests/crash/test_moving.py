"""Moving packs to another folder, after any end of it: each pack is whole in either place, and running again ends the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.acceptance.nights import differences
from tests.acceptance.stores import digests, use_store

from holdfast import moving
from holdfast.config import init_vault
from holdfast.errors import EXIT_DONE
from holdfast.journey import ArchiveRequest, archive
from holdfast.restoring import RestoreRequest, restore
from holdfast.testing import Recording, disk_full, distinct_states, record, run_with_fault

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("tracing"), pytest.mark.timeout(1800)]
Count = Callable[[str, object], None]


def command(root: Path) -> list[str]:
    return [sys.executable, "-m", "holdfast", "store", "push", "--vault", str(root / "vault")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A vault with two packs in its folder, and a shelf that it is to move them to."""
    root = tmp_path / "root"
    init_vault(root / "vault", SMALL)
    for number in range(2):
        (root / "night").mkdir(exist_ok=True)
        (root / "night" / f"file-{number}").write_bytes(os.urandom(200_000))
        assert archive(root / "vault", ArchiveRequest(paths=(root / "night",), now=True)).exit_code() == EXIT_DONE
    (root / "shelf").mkdir()
    use_store(root / "vault", (root / "shelf").as_uri())
    return root


def check(root: Path, night: Path, packs: dict[str, str], back: Path) -> None:
    vault, shelf = root / "vault", root / "shelf"
    use_store(vault, shelf.as_uri())  # the state may lie in another folder than the one that it was recorded in
    here, there = digests(vault / "packs"), digests(shelf)
    assert here.items() <= packs.items(), "law 5: a local pack is not as it was"
    assert there.items() <= packs.items(), "law 6: a pack that is not whole has a pack's name"
    assert here.keys() | there.keys() == packs.keys(), "law 1: a pack is gone"
    between = restore(vault, RestoreRequest(to=back / "between", origin="store"))
    assert (between.exit_code(), between.warnings) == (EXIT_DONE, [])
    assert moving.push(vault).exit_code() == EXIT_DONE
    assert (digests(vault / "packs"), digests(shelf)) == ({}, packs)
    assert {path.name for path in shelf.iterdir()} == packs.keys()
    assert restore(vault, RestoreRequest(to=back / "then", origin="store")).exit_code() == EXIT_DONE
    assert differences(night, back / "then" / "night") == []


def recorded(root: Path) -> Recording:
    recording = record(command(root), root)
    assert recording.returncode == 0, recording.stderr
    return recording


def test_law_6_a_move_is_completed_from_every_state_that_a_crash_could_leave(
    root: Path, tmp_path: Path, share: float, record_property: Count
) -> None:
    packs, states = digests(root / "vault" / "packs"), 0
    assert len(packs) == 2
    for state in distinct_states(recorded(root), ("killed", "dropped", "torn"), seeds=(0,), share=share):
        folder = tmp_path / "state" / str(states)
        state.tree.write_to(folder)
        try:
            check(folder, root / "night", packs, tmp_path / "back" / str(states))
        except Exception as error:
            raise AssertionError(f"{state.label}: {error}") from error
        states += 1
    record_property("states of a move of packs", states)


@pytest.mark.parametrize("after_bytes", [0, 100_000, 300_000])
def test_a_shelf_that_fills_up_is_told(root: Path, tmp_path: Path, after_bytes: int) -> None:
    packs = digests(root / "vault" / "packs")
    ran = run_with_fault(command(root), disk_full("shelf/*", after_bytes=after_bytes), root)
    assert ran.injected
    assert ran.returncode != 0
    assert b"the disk is full" in ran.stderr
    assert b"Traceback" not in ran.stderr
    check(root, root / "night", packs, tmp_path / "back")
