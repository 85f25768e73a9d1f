"""Two standard drives without a robot, and a person who makes mistakes; cartridges that end sooner than was said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.integration.tape.hands import Hands
from tests.integration.tape.steps import (
    archived,
    back_as_it_was,
    barcodes_of,
    committed_kinds,
    make_few,
    verified,
)

from holdfast.catalog import Catalog, tapes
from holdfast.config import init_vault, open_vault
from holdfast.errors import EXIT_OPERATOR, MediaError
from holdfast.journey import ArchiveRequest, archive
from holdfast.tape.changer.opening import ask_with
from holdfast.tape.changer.operator import NobodyThere
from holdfast.tape.drive.st import StDrive
from holdfast.testing.conformance.drive import MARK, write


@pytest.fixture
def hands() -> Iterator[Hands]:
    hands = Hands()
    ask_with(hands)
    yield hands
    ask_with(NobodyThere())
    hands.empty_drives()


@pytest.fixture
def vault(hands: Hands, tmp_path: Path) -> Path:
    drives = tuple(str(device) for device in hands.drives.values())
    init_vault(tmp_path / "vault", replace(SMALL, library="operator", drives=drives, scratch_a="HFA", scratch_b="HFB"))
    return tmp_path / "vault"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return make_few(tmp_path / "few")


@pytest.mark.timeout(300)
def test_law_5_a_wrong_cartridge_in_the_drive_is_told_and_never_written(
    hands: Hands, vault: Path, few: Path, tmp_path: Path
) -> None:
    first, last = sorted(hands.drives)
    device = hands.put("foreign", first)
    subprocess.run(["tar", "-b", "20", "-cf", device, "-C", few, "."], check=True, timeout=60)
    subprocess.run(["mt", "-f", device, "offline"], check=True, timeout=60)
    foreign = hands.items("foreign")

    # not blank, when a new one is wanted; and each in the other one's drive, when they are to be read
    hands.mistakes = ["foreign", "HFA001L8", "HFB001L8", "HFB001L8"]
    archived(vault, few)
    a, b = "HFA001L8", "HFB001L8"
    tar = "it is not blank, and a new cartridge must be (a tar archive that is no label of Holdfast)"
    assert hands.asked == [
        (a, first, ""),
        ("new A", "", tar),
        (a, first, ""),
        (b, last, ""),
        (a, last, ""),
        (a, last, f"it is {b}, not {a}"),
        (b, first, ""),
    ]
    ours = [hands.items(name) for name in (a, b)]

    (few / "later").write_bytes(os.urandom(1000))
    hands.mistakes = ["foreign", b, "blank"]
    report = archive(vault, ArchiveRequest(paths=(few,)))
    assert [error.found for error in report.errors] == [f"it is blank, and {a} is not"]
    assert (report.exit_code(), hands.mistakes) == (EXIT_OPERATOR, [])
    assert [hands.items(name) for name in (a, b, "foreign", "blank")] == [*ours, foreign, []]
    assert (report.written_on, report.unproven) == (["HFA002L8", "HFB002L8"], [])  # new ones instead

    (few / "later still").write_bytes(os.urandom(1000))
    assert archived(vault, few).written_on == [a, b]
    verified(vault)
    back_as_it_was(vault, few, tmp_path / "back")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("capacity_kib", "behind_kib", "last", "said"),
    [
        (5120, 1024, "catalog", set[str]()),
        (2752, 128, "object", {"the cartridge ends before its label or its catalogs"}),
    ],
    ids=["warned in time", "no room for the catalogs"],
)
def test_cartridges_that_end_sooner_than_the_settings_say_are_followed_by_others(
    hands: Hands, vault: Path, few: Path, tmp_path: Path, capacity_kib: int, behind_kib: int, last: str, said: set[str]
) -> None:
    """Early warning (ENOSPC from `st`), and the physical end behind it; the settings say 64 MiB."""
    hands.capacity_bytes, hands.warning_bytes = capacity_kib * 2**10, behind_kib * 2**10
    for number in range(6):
        (few / f"large{number}").write_bytes(os.urandom(600_000))
    report = archive(vault, ArchiveRequest(paths=(few,)))
    assert report.unproven == []
    assert {error.message for error in report.errors} == said
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        states = [pair.state for pair in tapes.all_pairs(connection)]
    assert states[0] == "full"
    assert len(barcodes_of(vault)) == 2 * len(states) == 4
    assert {committed_kinds(vault, name)[-1] for name in barcodes_of(vault)} == {last}
    back_as_it_was(vault, few, tmp_path / "back")
    assert archived(vault, few).written_on == []


def test_law_5_nothing_is_written_on_a_cartridge_that_took_the_place_of_the_loaded_one(hands: Hands) -> None:
    """Somebody presses the button of a drive in use, and puts in another one."""
    first = min(hands.drives)
    drive = StDrive(hands.put("meant", first), first, "meant")
    write(drive, [b"a label", MARK, b"an object", MARK], synchronous=True)
    hands.empty_drives()
    hands.put("other", first)
    for step in (
        lambda: drive.write_record(memoryview(b"x")),
        lambda: drive.write_file_mark(synchronous=True),
        lambda: drive.read_record(memoryview(bytearray(512))),
    ):
        with pytest.raises(MediaError):
            step()
    drive.close()
    hands.empty_drives()
    assert hands.items("other") == []
    assert hands.items("meant") == [b"a label", MARK, b"an object", MARK]
