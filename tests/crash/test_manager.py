"""The block manager after any end of it: what was said to be kept is there, byte for byte."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.crash import manager_program
from tests.crash.manager_program import NAMES, bytes_of

from holdfast.blocks import BlockReader
from holdfast.catalog import Catalog
from holdfast.config import init_vault, open_vault
from holdfast.testing import count_events, disk_full, distinct_states, record, run_killed_at, run_with_fault
from holdfast.values import Locator, Segment
from holdfast.vault import Vault, owned, packs_of, take_over
from holdfast.work import Work

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("tracing"), pytest.mark.timeout(1800)]
Count = Callable[[str, object], None]
SAID = re.compile(r"^kept (\S+)((?: \S+,\d+,\d+)*)$", re.MULTILINE)


def command(root: Path) -> list[str]:
    return [sys.executable, manager_program.__file__, str(root / "vault")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    init_vault(root / "vault", SMALL)
    return root


def segments_of(places: str) -> tuple[Segment, ...]:
    parts = (place.split(",") for place in places.split())
    return tuple(Segment(Locator.parse(name), int(offset), int(length)) for name, offset, length in parts)


def check(root: Path, said: bytes) -> int:
    """Law 1 for what was said, by the catalog, and by the packs alone; how much that is."""
    vault = root / "vault"
    with owned(vault, "check", print):
        pass  # adopts what is left
    told = SAID.findall(said.decode())
    alone = root / "alone"
    alone.mkdir()
    settings = open_vault(vault)
    with Catalog(alone / "catalog.db") as catalog:
        take_over(Vault(settings, catalog, Work(None), packs_of(settings)), catalog, print)
    for database in (vault / "catalog/catalog.db", alone / "catalog.db"):
        with Catalog(database) as catalog, BlockReader(vault / "packs", catalog) as reader:
            for name, places in told:
                found = b"".join(map(bytes, reader.read(segments_of(places))))
                assert found == bytes_of(name), f"law 1: {name} was said to be kept"
    return len(told)


@pytest.mark.parametrize("part", range(2))
def test_law_1_what_the_manager_said_is_durable_survives_any_end(
    root: Path, tmp_path: Path, share: float, part: int, record_property: Count
) -> None:
    recording = record(command(root), root)
    assert recording.returncode == 0, recording.stderr.decode()
    assert len(SAID.findall(recording.stdout.decode())) == len(NAMES) + 1
    states, most = 0, 0
    for number, state in enumerate(distinct_states(recording, ("killed", "dropped", "torn"), seeds=(0,), share=share)):
        if number % 2 != part:
            continue
        folder = tmp_path / "state" / str(number)
        state.tree.write_to(folder)
        try:
            most = max(most, check(folder, state.said))
        except Exception as error:
            raise AssertionError(f"{state.label}: {error}") from error
        states += 1
    assert most > len(NAMES) // 2
    record_property("states of the block manager", states)


def test_law_1_really_killed(root: Path, share: float) -> None:
    last = count_events(command(root), root)
    for n in range(1, last, max(1, round(20 / share))):
        outcome = run_killed_at(command(root), n, root)
        check(root, outcome.stdout)
        shutil.rmtree(root / "alone")


@pytest.mark.parametrize("after_bytes", [100_000, 500_000])
def test_a_disk_that_fills_up_under_the_manager(root: Path, after_bytes: int) -> None:
    ran = run_with_fault(command(root), disk_full("*.pack", after_bytes=after_bytes), root)
    assert ran.injected
    assert ran.returncode != 0
    assert b"the disk is full" in ran.stderr
    check(root, ran.stdout)
