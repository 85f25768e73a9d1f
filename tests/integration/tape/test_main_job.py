"""The main job on a real library: no code above the drives and the changer can tell which one it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.acceptance.nights import differences, make_night
from tests.integration.tape.conftest import RealLibrary

from holdfast import journey
from holdfast.cli.app import run as main
from holdfast.config import init_vault, open_vault
from holdfast.errors import EXIT_USAGE
from holdfast.journey import ArchiveRequest, archive
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape import rescue
from holdfast.tape.changer.opening import open_changer
from holdfast.testing.conformance.drive import MARK, write

TAR_BLOCKS = "512"  # of 512 bytes: the vault's records of 256 KiB


@pytest.fixture
def vault(library: RealLibrary, tmp_path: Path) -> Iterator[Path]:
    """A vault whose settings name the real library, with cartridges that nobody has used.

    The emulated library does not tell the last drive's serial number whole, so the settings say where it is.
    """
    library.empty_drives()
    folder = tmp_path / "vault"
    side_a, side_b = library.blank_prefixes()
    init_vault(folder, replace(SMALL, library="mtx", changer=str(library.changer), scratch_a=side_a, scratch_b=side_b))
    last = max(library.drives, key=library.element)
    with (folder / "holdfast.toml").open("a") as settings:
        settings.write(f'"{last}" = {library.element(last)}\n')
    yield folder
    library.empty_drives()


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return make_night(tmp_path / "night", before_1970=False)


def run(*words: object, folder: Path | None = None) -> bytes:
    command = [str(word) for word in words]
    return subprocess.run(command, check=True, timeout=100, capture_output=True, cwd=folder).stdout


def go_to(device: Path, tape_file: int) -> bool:
    run("mt", "-f", device, "rewind")
    words = ["mt", "-f", str(device), "fsf", str(tape_file)]
    return tape_file == 0 or subprocess.run(words, check=False, capture_output=True).returncode == 0


@pytest.fixture
def two_sessions(vault: Path, night: Path) -> tuple[str, str]:
    """The barcodes of a pair with two verified sessions."""
    for text in (b"", b"added"):
        if text:
            (night / "added").write_bytes(text)
        report = archive(vault, ArchiveRequest(paths=(night,)))
        assert report.exit_code() == 0, report
        assert report.warnings == []
    barcodes = sorted(path.stem for path in (vault / "journals").glob("HF*.jsonl"))
    assert len(barcodes) == 2
    return barcodes[0], barcodes[1]


@pytest.mark.timeout(300)
def test_two_nights_are_archived_verified_and_restored_from_tape(
    library: RealLibrary, vault: Path, night: Path, two_sessions: tuple[str, str], tmp_path: Path
) -> None:
    report = journey.verify(vault, two_sessions, everything=True)
    assert report.exit_code() == 0, report
    back = restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert back.errors == []
    assert differences(night, tmp_path / "back" / "night") == []


@pytest.mark.timeout(300)
def test_law_8_tapes_outlive_us_with_mt_tar_and_sha256sum(
    library: RealLibrary, night: Path, two_sessions: tuple[str, str], tmp_path: Path
) -> None:
    """As the README on the tape says; the end of data is where there is no tape file with a MANIFEST."""
    everything = tmp_path / "everything"
    everything.mkdir()
    device = min(library.drives.values())
    library.mtx("load", str(library.slot_of(two_sessions[1])), "0")
    files = 0
    while go_to(device, files):
        folder = tmp_path / f"{files:05d}"
        folder.mkdir()
        unpacked = subprocess.run(
            ["tar", "-b", TAR_BLOCKS, "-xpf", device], cwd=folder, check=False, capture_output=True
        )
        if not (folder / "MANIFEST").exists():
            break  # the end of data
        assert (unpacked.returncode, unpacked.stderr) == (0, b"")
        assert b"FAILED" not in run("sha256sum", "--strict", "-c", "MANIFEST", folder=folder)
        run("cp", "-a", f"{folder}/.", everything)
        files += 1
    assert files >= 7
    assert differences(night, everything / "night") == []


@pytest.mark.timeout(300)
def test_rescue_reads_the_drive_without_holdfast(
    library: RealLibrary, night: Path, two_sessions: tuple[str, str], tmp_path: Path
) -> None:
    device = min(library.drives.values())
    library.mtx("load", str(library.slot_of(two_sessions[0])), "0")
    (night / "empty").chmod(0o755)  # it gives no file the right to run as another user
    command = [sys.executable, "-I", "-S", rescue.__file__, "extract", str(device), str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, timeout=200)
    assert done.returncode == 0, done
    assert differences(night, tmp_path / "out" / "night") == []


def journal_lines(vault: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (vault / "journals").glob("HF*.jsonl"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lines", [3, 5, 8])
def test_law_6_resume_is_running_again_on_a_real_library(vault: Path, night: Path, tmp_path: Path, lines: int) -> None:
    """Killed while it writes: `st` then writes a mark of its own where the tape stands, behind the last commit."""
    child = os.fork()
    if child == 0:
        archive(vault, ArchiveRequest(paths=(night,)))
        os._exit(0)
    while journal_lines(vault) < lines and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.005)  # journals announce nothing
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    report = archive(vault, ArchiveRequest(paths=(night,)))
    assert report.exit_code() == 0, report
    barcodes = tuple(sorted(path.stem for path in (vault / "journals").glob("HF*.jsonl")))
    assert len(barcodes) == 2
    assert journey.verify(vault, barcodes, everything=True).exit_code() == 0
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).errors == []
    assert differences(night, tmp_path / "back" / "night") == []


@pytest.mark.timeout(300)
def test_a_foreign_cartridge_is_left_alone_until_it_is_erased_and_taken_then(
    vault: Path, night: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The emulated drive cannot erase (MTERASE: EIO), so a mark at the begin stands for it."""
    prefix = open_vault(vault).tape.library.scratch_a  # type: ignore[union-attr]
    changer = open_changer(open_vault(vault))
    foreign = min(name for name in changer.inventory().slots if name.startswith(prefix))
    serial = min(changer.inventory().drives)
    drive = changer.load(foreign, serial)
    write(drive, [b"VOL1ABC123L" + b" " * 69, MARK, b"somebody's", MARK], synchronous=True)
    changer.unload(serial)
    changer.close()

    barcodes = archive(vault, ArchiveRequest(paths=(night,))).written_on
    assert foreign not in barcodes
    assert main(["tape", "erase", barcodes[0], "--confirm", barcodes[0], "--vault", str(vault)]) == EXIT_USAGE
    assert "a cartridge of this vault is never erased" in capsys.readouterr().err
    assert main(["tape", "erase", foreign, "--confirm", foreign, "--vault", str(vault)]) == 0
    told = capsys.readouterr()
    assert "a tape with ANSI labels, volume 'ABC123'" in told.err
    assert told.out == f"{foreign} is erased, was read, and is blank\n"

    assert main(["tape", "fence", barcodes[0], "--why", "x", "--confirm", barcodes[0], "--vault", str(vault)]) == 0
    report = archive(vault, ArchiveRequest(paths=(night,)))
    assert (report.exit_code(), report.unproven) == (0, [])
    assert report.written_on == [foreign, barcodes[1]]
