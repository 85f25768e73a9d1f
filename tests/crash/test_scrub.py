"""Repairing the block store after any end of it: what was said to be repaired is, and running again repairs the rest."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.acceptance.nights import differences

from holdfast.catalog import Catalog, packs
from holdfast.config import init_vault
from holdfast.journey import ArchiveRequest, archive
from holdfast.restoring import RestoreRequest, restore
from holdfast.scrubbing import ScrubRequest, scrub
from holdfast.testing import Recording, disk_full, distinct_states, flip_bit, record, run_with_fault

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("tracing"), pytest.mark.timeout(1800)]
REPAIRED = re.compile(rb"repaired block (b3:[0-9a-f]+\+[0-9]+)\n")
Count = Callable[[str, object], None]


def command(root: Path) -> list[str]:
    return [sys.executable, "-m", "holdfast", "scrub", "--vault", str(root / "vault")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A vault whose night is on two tapes, and of which each block has a bad piece."""
    root = tmp_path / "root"
    (root / "night").mkdir(parents=True)
    (root / "night" / "large").write_bytes(os.urandom(400_000))
    for number in range(3):
        (root / "night" / f"small-{number}").write_bytes(os.urandom(20_000))
    init_vault(root / "vault", SMALL)
    assert archive(root / "vault", ArchiveRequest(paths=(root / "night",), now=True)).exit_code() == 0
    with Catalog(root / "vault/catalog/catalog.db") as catalog, catalog.reading() as connection:
        for pack_id in packs.sealed_packs(connection):
            for place in packs.blocks_of_pack(connection, pack_id):
                flip_bit(root / f"vault/packs/{pack_id}.pack", place.offset_bytes + 1000)
    return root


def check(root: Path, night: Path, said: bytes, back: Path) -> None:
    """Law 1 for what was said; law 6 for the rest."""
    vault = root / "vault"
    told = scrub(vault, ScrubRequest(repair=False))
    damaged = {str(error.expected).removeprefix("block ").encode() for error in told.errors}
    assert not damaged & set(REPAIRED.findall(said)), "law 1: said to be repaired, and is not"
    again = scrub(vault, ScrubRequest())
    assert (again.exit_code(), again.repaired_blocks) == (0, len(damaged))
    assert scrub(vault, ScrubRequest()).damaged_blocks == 0
    assert restore(vault, RestoreRequest(to=back, origin="store")).exit_code() == 0
    assert differences(night, back / "night") == []


def recorded(root: Path) -> Recording:
    recording = record(command(root), root)
    assert recording.returncode == 0, recording.stderr
    assert len(REPAIRED.findall(recording.stdout)) == 3
    return recording


def test_law_6_a_repair_is_completed_from_every_state_that_a_crash_could_leave(
    root: Path, tmp_path: Path, share: float, record_property: Count
) -> None:
    states = 0
    for state in distinct_states(recorded(root), ("killed", "dropped", "torn"), seeds=(0,), share=share):
        folder = tmp_path / "state" / str(states)
        state.tree.write_to(folder)
        try:
            check(folder, root / "night", state.said, tmp_path / "back" / str(states))
        except Exception as error:
            raise AssertionError(f"{state.label}: {error}") from error
        states += 1
    record_property("states of a repair of the store", states)


@pytest.mark.parametrize("after_bytes", [0, 100_000, 300_000])
def test_a_disk_that_fills_up_under_a_repair_is_told(root: Path, tmp_path: Path, after_bytes: int) -> None:
    ran = run_with_fault(command(root), disk_full("*.pack", after_bytes=after_bytes), root)
    assert ran.injected
    assert ran.returncode != 0
    assert b"the disk is full" in ran.stderr
    assert b"Traceback" not in ran.stderr
    check(root, root / "night", ran.stdout, tmp_path / "back")
