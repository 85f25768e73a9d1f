"""What several tests do: archive and be killed, lose the vault, look at the raw tape, read it with plain tools."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.nights import differences, facts

from holdfast import journey
from holdfast.durable import Journal
from holdfast.journey import ArchiveRequest, archive
from holdfast.reports import ArchiveReport
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.drive.st import StDrive
from holdfast.testing.conformance.drive import read_on

RECORD_BYTES = 256 * 2**10
TAR_BLOCKS = str(RECORD_BYTES // 512)  # what the vault's records are to `tar -b`


def make_few(root: Path, seed: int = 1) -> Path:
    """A folder of a few files, where the tapes are what matters: the guest's processor is slow."""
    rng = random.Random(seed)
    (root / "folder").mkdir(parents=True)
    for name in ("one", "two", "folder/three"):
        (root / name).write_bytes(rng.randbytes(30_000))
    return root


# -- with Holdfast


def archived(vault: Path, *paths: Path) -> ArchiveReport:
    """Archive, with everything proven in the end."""
    report = archive(vault, ArchiveRequest(paths=paths))
    assert_proven(report)
    return report


def assert_proven(report: ArchiveReport) -> None:
    told = [str(error) for error in (*report.errors, *report.warnings)]
    assert (report.exit_code(), report.errors, report.unproven) == (0, [], []), told


def pair_of(vault: Path) -> tuple[str, str]:
    """The barcodes of the vault's only pair."""
    one, two = barcodes_of(vault)
    return one, two


def barcodes_of(vault: Path) -> list[str]:
    return sorted(path.stem for path in (vault / "journals").glob("HF*.jsonl"))


def verified(vault: Path) -> None:
    """Every tape file of both sides is read, and matches."""
    report = journey.verify(vault, (), everything=True)
    assert (report.exit_code(), report.errors) == (0, [])
    assert report.tape_files == report.committed_tape_files > 0


def back_as_it_was(vault: Path, source: Path, to: Path) -> None:
    report = restore(vault, RestoreRequest(to=to, origin="tape"))
    assert (report.exit_code(), report.errors) == (0, [])
    assert differences(source, to / source.name) == []


def journal_lines(vault: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (vault / "journals").glob("HF*.jsonl"))


def committed_kinds(vault: Path, barcode: str) -> list[object]:
    entries = Journal(vault / "journals" / f"{barcode}.jsonl").entries()
    return [entry["kind"] for entry in entries if entry["event"] == "committed"]


def killed_amid(work: Callable[[], object], vault: Path, lines: int) -> None:
    """Do this in a process of its own, which is killed when the cartridges' journals have so many lines."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    while journal_lines(vault) < lines:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it could be killed"
        time.sleep(0.005)  # journals announce nothing
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


# -- without Holdfast


def run(*words: object, folder: Path | None = None) -> bytes:
    command = [str(word) for word in words]
    return subprocess.run(command, check=True, timeout=100, capture_output=True, cwd=folder).stdout


def unpacked_plainly(device: Path, files: int, work: Path) -> Path:
    """So many tape files by `mt`, `tar` and `sha256sum`, as the README on the tape says; later ones over earlier ones.

    Where data ends, the emulated library gives whatever its buffer held, so `tar` cannot find that out here.
    """
    everything = work / "everything"
    everything.mkdir(parents=True)
    for number in range(files):
        folder = work / f"{number:05d}"
        folder.mkdir()
        run("mt", "-f", device, "rewind")
        if number:
            run("mt", "-f", device, "fsf", number)
        words = ["tar", "-b", TAR_BLOCKS, "-xpf", device]
        unpacked = subprocess.run(words, cwd=folder, check=False, capture_output=True, timeout=100)
        assert (unpacked.returncode, unpacked.stderr) == (0, b"")
        assert b"FAILED" not in run("sha256sum", "--strict", "-c", "MANIFEST", folder=folder)
        run("cp", "-a", f"{folder}/.", everything)
    return everything


def contents(root: Path) -> dict[bytes, object]:
    """What every file and link of a tree holds, whatever its mode and times are."""
    return {name: what[0] for name, (what, *_) in facts(root).items() if isinstance(what, tuple)}


def items_on(device: Path) -> list[bytes | None]:
    """Every record and mark on the loaded cartridge, from its begin to the end of data."""
    drive = StDrive(device, device.name, "whatever is loaded")
    try:
        return read_on(drive, 2**20)
    finally:
        drive.abandon()
