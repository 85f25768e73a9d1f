"""The main job on a real library: no code above the drives and the changer can tell which one it has."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.acceptance.nights import differences, make_night
from tests.integration.tape.conftest import RealLibrary, Vaults
from tests.integration.tape.steps import (
    archived,
    back_as_it_was,
    committed_kinds,
    killed_amid,
    make_few,
    pair_of,
    unpacked_plainly,
    verified,
)

from holdfast.catalog import Catalog, tapes
from holdfast.cli.app import run as main
from holdfast.config import open_vault
from holdfast.durable import Journal
from holdfast.errors import EXIT_USAGE
from holdfast.journey import ArchiveRequest, archive
from holdfast.tape import rescue
from holdfast.tape.changer.opening import open_changer
from holdfast.testing.conformance.drive import MARK, write


@dataclass(frozen=True)
class TwoSessions:
    """A pair with two verified sessions of a night; the cartridges are in their slots."""

    vault: Path
    night: Path
    pair: tuple[str, str]


@pytest.fixture(scope="module")
def two_sessions(library: RealLibrary, tmp_path_factory: pytest.TempPathFactory) -> TwoSessions:
    folder = tmp_path_factory.mktemp("two-sessions")
    library.empty_drives()
    vault = Vaults(library).make(folder / "vault", library.blank_prefixes())
    night = make_night(folder / "night", before_1970=False)
    assert archived(vault, night).warnings == []
    (night / "added").write_bytes(b"added")
    assert archived(vault, night).warnings == []
    return TwoSessions(vault, night, pair_of(vault))


@pytest.mark.timeout(300)
def test_two_nights_are_archived_verified_and_restored_from_tape(two_sessions: TwoSessions, tmp_path: Path) -> None:
    verified(two_sessions.vault)
    back_as_it_was(two_sessions.vault, two_sessions.night, tmp_path / "back")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("vaults")
def test_law_8_tapes_outlive_us_with_mt_tar_and_sha256sum(
    library: RealLibrary, two_sessions: TwoSessions, tmp_path: Path
) -> None:
    library.mtx("load", str(library.slot_of(two_sessions.pair[1])), "0")
    files = len(committed_kinds(two_sessions.vault, two_sessions.pair[1]))
    assert files >= 7
    everything = unpacked_plainly(min(library.drives.values()), files, tmp_path / "plain")
    assert differences(two_sessions.night, everything / "night") == []


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("vaults")
def test_rescue_reads_the_drive_without_holdfast(
    library: RealLibrary, two_sessions: TwoSessions, tmp_path: Path
) -> None:
    device = min(library.drives.values())
    library.mtx("load", str(library.slot_of(two_sessions.pair[0])), "0")
    command = [sys.executable, "-I", "-S", rescue.__file__, "extract", str(device), str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, timeout=200)
    assert done.returncode == 0, done
    empty = tmp_path / "out" / "night" / "empty"
    assert empty.stat().st_mode & 0o7777 == 0o755  # it gives no file the right to run as another user
    empty.chmod(0o4755)
    assert differences(two_sessions.night, tmp_path / "out" / "night") == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lines", [3, 5])
def test_law_6_resume_is_running_again_on_a_real_library(vault: Path, tmp_path: Path, lines: int) -> None:
    """Killed amid the labels, and when one side is ahead: `st` then writes a mark of its own where the tape stands."""
    few = make_few(tmp_path / "few")
    killed_amid(lambda: archive(vault, ArchiveRequest(paths=(few,))), vault, lines)
    archived(vault, few)
    pair_of(vault)
    back_as_it_was(vault, few, tmp_path / "back")


def drives_that_read(vault: Path, barcode: str) -> set[str]:
    entries = Journal(vault / "journals" / "evidence.jsonl").entries()
    return {str(entry["drive"]) for entry in entries if entry["barcode"] == barcode}


@pytest.mark.timeout(300)
def test_cartridges_that_stand_in_each_other_s_drive_when_a_run_begins(
    library: RealLibrary, vault: Path, tmp_path: Path
) -> None:
    """The library numbers its drives the other way round than their serial numbers sort; the kernel its devices, too.

    Each cartridge is written in one drive and read in the other, wherever somebody left it.
    """
    first, last = sorted(library.drives)
    assert (library.element(first), library.element(last)) == (1, 0)
    few = make_few(tmp_path / "few")
    archived(vault, few)
    side_a, side_b = pair_of(vault)
    assert (drives_that_read(vault, side_a), drives_that_read(vault, side_b)) == ({last}, {first})

    def stand(in_first: str, in_last: str) -> None:
        library.mtx("load", str(library.slot_of(in_first)), str(library.element(first)))
        library.mtx("load", str(library.slot_of(in_last)), str(library.element(last)))

    stand(side_b, side_a)
    (few / "later").write_bytes(os.urandom(1000))
    assert archived(vault, few).written_on == [side_a, side_b]
    assert (drives_that_read(vault, side_a), drives_that_read(vault, side_b)) == ({last}, {first})
    stand(side_a, side_b)
    verified(vault)
    assert (drives_that_read(vault, side_a), drives_that_read(vault, side_b)) == ({last}, {first})
    stand(side_b, side_a)
    back_as_it_was(vault, few, tmp_path / "back")


@pytest.mark.timeout(300)
def test_a_full_pair_is_closed_and_the_next_one_is_taken(library: RealLibrary, vaults: Vaults, tmp_path: Path) -> None:
    """By the capacity in the settings: the emulated cartridges are larger."""
    vault = vaults.make(tmp_path / "vault", library.blank_prefixes(), cartridge_capacity="4 MiB")
    few = make_few(tmp_path / "few")
    for number in range(4):
        (few / f"large{number}").write_bytes(os.urandom(600_000))
    report = archived(vault, few)
    assert report.warnings == []
    assert len(report.written_on) == 4
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        assert [pair.state for pair in tapes.all_pairs(connection)] == ["full", "open"]
    back_as_it_was(vault, few, tmp_path / "back")


@pytest.mark.timeout(300)
def test_a_foreign_cartridge_is_left_alone_until_it_is_erased_and_taken_then(
    vault: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The emulated drive cannot erase (MTERASE: EIO), so a mark at the begin stands for it."""
    few = make_few(tmp_path / "few")
    prefix = open_vault(vault).tape.library.scratch_a  # type: ignore[union-attr]
    changer = open_changer(open_vault(vault))
    foreign = min(name for name in changer.inventory().slots if name.startswith(prefix))
    serial = min(changer.inventory().drives)
    drive = changer.load(foreign, serial)
    write(drive, [b"VOL1ABC123L" + b" " * 69, MARK, b"somebody's", MARK], synchronous=True)
    changer.unload(serial)
    changer.close()

    barcodes = archive(vault, ArchiveRequest(paths=(few,))).written_on
    assert foreign not in barcodes
    assert main(["tape", "erase", barcodes[0], "--confirm", barcodes[0], "--vault", str(vault)]) == EXIT_USAGE
    assert "a cartridge of this vault is never erased" in capsys.readouterr().err
    assert main(["tape", "erase", foreign, "--confirm", foreign, "--vault", str(vault)]) == 0
    told = capsys.readouterr()
    assert "a tape with ANSI labels, volume 'ABC123'" in told.err
    assert told.out == f"{foreign} is erased, was read, and is blank\n"

    assert main(["tape", "fence", barcodes[0], "--why", "x", "--confirm", barcodes[0], "--vault", str(vault)]) == 0
    report = archive(vault, ArchiveRequest(paths=(few,)))
    assert (report.exit_code(), report.unproven) == (0, [])
    assert report.written_on == [foreign, barcodes[1]]
