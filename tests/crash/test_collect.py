"""Collecting after any end of it, beside a writer: what was said to be kept is there, and running again ends the same."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.acceptance.stores import use_store
from tests.crash import collecting_program
from tests.crash.collecting_program import bytes_of

from holdfast import moving
from holdfast.blocks import BlockReader
from holdfast.catalog import Catalog, files, releasing
from holdfast.collecting import CollectRequest, collect
from holdfast.config import init_vault, open_vault
from holdfast.errors import HoldfastError
from holdfast.testing import Recording, count_events, disk_full, distinct_states, record, run_killed_at, run_with_fault
from holdfast.values import Content
from holdfast.vault import Vault, owned, packs_of, take_over
from holdfast.work import Work

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("tracing"), pytest.mark.timeout(1800)]
EVERYTHING = CollectRequest(everything=True)
Count = Callable[[str, object], None]
PARTS = 4


def command(root: Path) -> list[str]:
    return [sys.executable, collecting_program.__file__, str(root / "vault")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    init_vault(root / "vault", SMALL)
    return root


def content_of(name: str) -> Content:
    data = bytes_of(name)
    return Content(hashlib.sha256(data).digest(), len(data))


def check(root: Path, said: bytes) -> None:
    """Law 1 for what was said to be kept and never released; what was released may be there, and then it is whole."""
    vault, shelf = root / "vault", root / "shelf"
    if shelf.exists():
        use_store(vault, shelf.as_uri())  # the state may lie in another folder than the one that it was recorded in
    kept = set(re.findall(r"^kept (\S+)$", said.decode(), re.MULTILINE))
    given_up = set(re.findall(r"^releasing (\S+)$", said.decode(), re.MULTILINE))
    with owned(vault, "check", print):
        pass  # adopts what is left
    for _ in range(2):
        collect(vault, EVERYTHING)
        check_contents(vault / "catalog/catalog.db", vault, kept, given_up)
    assert (collect(vault, EVERYTHING).packs, len(emptied_files(vault))) == (0, 0)
    if shelf.exists():
        moving.push(vault)
        check_contents(vault / "catalog/catalog.db", vault, kept, given_up)
    check_names_in_packs(vault, root / "from-packs", kept, given_up)


def emptied_files(vault: Path) -> set[str]:
    """Pack files from which nothing is read and that hold blocks."""
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        return {str(item.pack_id) for item in releasing.wasteful_packs(connection) if item.needed_bytes == 0}


def check_contents(database: Path, vault: Path, kept: set[str], given_up: set[str]) -> None:
    with Catalog(database) as catalog, BlockReader(packs_of(open_vault(vault)), catalog) as reader:
        with catalog.reading() as connection:
            present = {item.version.path.decode() for item in files.all_versions(connection)}
        assert kept <= present, "law 1: a name that was said to be kept is gone"
        for name in kept:
            segments = catalog.find_segments(content_of(name))
            if segments is None:
                assert name in given_up, f"law 1: {name} was said to be kept, and was not released"
                continue
            assert b"".join(map(bytes, reader.read(segments))) == bytes_of(name), "law 7"


def check_names_in_packs(vault: Path, folder: Path, kept: set[str], given_up: set[str]) -> None:
    """The packs alone give back all names, and all bytes that were not released."""
    folder.mkdir()
    settings = open_vault(vault)
    with Catalog(folder / "catalog.db") as catalog:
        take_over(Vault(settings, catalog, Work(None), packs_of(settings)), catalog, refuse)
    check_contents(folder / "catalog.db", vault, kept, given_up)


def recorded(root: Path) -> Recording:
    recording = record(command(root), root)
    assert recording.returncode == 0, recording.stderr.decode()
    said = recording.stdout.decode().splitlines()
    waiting = [line for line in said if line.startswith("waiting")]
    # at first the writer may still name what is condemned; then it has, and what it wrote anew lies twice
    assert waiting == ["waiting True", "waiting False"]
    assert said[-1].startswith("removed ")
    return recording


def refuse(problem: HoldfastError) -> None:
    raise AssertionError(problem)


def put_on_shelf(root: Path, where: str) -> None:
    if where == "elsewhere":
        (root / "shelf").mkdir()
        use_store(root / "vault", (root / "shelf").as_uri())


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("part", range(PARTS))
def test_law_1_what_was_kept_survives_a_collection_that_ends_anywhere(
    root: Path, tmp_path: Path, share: float, part: int, where: str, record_property: Count
) -> None:
    put_on_shelf(root, where)
    states = 0
    every = distinct_states(recorded(root), ("killed", "dropped", "torn"), seeds=(0,), share=share)
    for number, state in enumerate(every):
        if number % PARTS != part:
            continue
        folder = tmp_path / "state" / str(number)
        state.tree.write_to(folder)
        if not (folder / "vault/holdfast.toml").exists():
            continue
        try:
            check(folder, state.said)
        except Exception as error:
            raise AssertionError(f"{state.label}: {error}") from error
        states += 1
    record_property(f"states of a collection beside a writer, packs {where}", states)


def test_law_10_a_killed_writer_holds_no_fence(root: Path, tmp_path: Path, share: float) -> None:
    """Really killed, at points all over the run: the kernel lets go of its passes, so a collection need not wait."""
    del tmp_path
    last = count_events(command(root), root)
    vault = root / "vault"
    for n in range(1, last, max(1, round(40 / share))):
        outcome = run_killed_at(command(root), n, root)
        with owned(vault, "check", print):
            pass
        assert collect(vault, EVERYTHING).waiting is False, outcome.stderr
        said = outcome.stdout.decode()
        names = set(re.findall(r"^kept (\S+)$", said, re.MULTILINE))
        check_contents(vault / "catalog/catalog.db", vault, names, {*re.findall(r"releasing (\S+)", said)})


@pytest.mark.parametrize("after_bytes", [600_000, 780_000, 830_000])
def test_a_disk_that_fills_up_under_a_collection_loses_nothing(root: Path, after_bytes: int) -> None:
    ran = run_with_fault(command(root), disk_full("*.pack", after_bytes=after_bytes), root)
    assert ran.injected, ran.stdout
    check(root, ran.stdout)
