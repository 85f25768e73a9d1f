"""The main job on a real library: no code above the drives and the changer can tell which one it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.acceptance.nights import differences, make_night
from tests.integration.tape.conftest import RealLibrary

from holdfast import journey
from holdfast.config import init_vault
from holdfast.journey import ArchiveRequest, archive
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape import rescue
from holdfast.tape.changer.mtx import LibraryOptions, MtxChanger, MtxRobot, find_drives

TAR_BLOCKS = "512"  # of 512 bytes: the vault's records of 256 KiB


@pytest.fixture
def vault(library: RealLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A vault whose library is the real one, with cartridges that nobody has used."""
    library.empty_drives()
    last = max(library.drives, key=library.element)
    options = LibraryOptions(
        find_drives(), library.blank_prefixes(), {last: library.element(last)}, cartridge_bytes=64 * 2**20
    )
    monkeypatch.setattr(
        "holdfast.tape.library.VirtualChanger", lambda *_, **__: MtxChanger(MtxRobot(library.changer), options)
    )
    init_vault(tmp_path / "vault", SMALL)
    yield tmp_path / "vault"
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
