"""Law 8: with `tar` and `sha256sum` alone, every tape file can be read and checked."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences, make_night


def quiet(command: list[str], folder: Path) -> str:
    """Run a GNU tool as anybody would; it must succeed and say nothing on standard error."""
    done = subprocess.run(command, cwd=folder, capture_output=True, env=os.environ | {"LC_ALL": "C.UTF-8"}, check=False)
    assert (done.returncode, done.stderr) == (0, b""), (command, done.stderr)
    return done.stdout.decode("utf-8", "replace")


def tape_files(vault: Path, barcode: str) -> list[Path]:
    return sorted(path for path in (vault / "library/cartridges" / barcode).iterdir() if path.name.isdigit())


@pytest.fixture
def two_nights(tmp_path: Path, archived: Archive) -> Path:
    night = make_night(tmp_path / "night", before_1970=False)
    archived(night)
    (night / "added").write_bytes(b"second night")
    assert archived(night).exit_code() == 0
    return night


def test_law_8_tapes_outlive_us_every_tape_file_with_tar_and_sha256sum(
    tmp_path: Path, vault: Path, two_nights: Path
) -> None:
    everything = tmp_path / "everything"
    everything.mkdir()
    for barcode in ("HF0001L8", "HF0002L8"):
        assert len(tape_files(vault, barcode)) >= 7
        for path in tape_files(vault, barcode):
            folder = tmp_path / f"{barcode}-{path.name}"
            folder.mkdir()
            assert "MANIFEST" in quiet(["tar", "-tvf", str(path)], folder)
            quiet(["tar", "-b", "512", "-xpf", str(path)], folder)
            assert "FAILED" not in quiet(["sha256sum", "--strict", "-c", "MANIFEST"], folder)
            quiet(["tar", "-xpf", str(path)], everything)
    assert differences(two_nights, everything / "night") == []


def test_objects_and_catalogs_of_both_sides_are_byte_identical(vault: Path, two_nights: Path) -> None:
    sides = [tape_files(vault, barcode) for barcode in ("HF0001L8", "HF0002L8")]
    assert len(sides[0]) == len(sides[1])
    for a, b in zip(sides[0][1:], sides[1][1:], strict=True):
        assert filecmp.cmp(a, b, shallow=False), a.name


def test_the_label_explains_the_tape_to_somebody_without_holdfast(
    tmp_path: Path, vault: Path, two_nights: Path
) -> None:
    label = tape_files(vault, "HF0001L8")[0]
    with tarfile.open(label) as tar:
        names = tar.getnames()
        readme = tar.extractfile("README.txt")
        assert readme is not None
        text = readme.read().decode()
    assert names == ["VOLUME.json", "README.txt", "rescue.py", "LEDGER.jsonl", "MANIFEST"]
    assert "mt -f /dev/nst0 fsf N" in text
    assert "HF0002L8" in text


def test_rescue_brings_everything_back_without_holdfast(tmp_path: Path, vault: Path, two_nights: Path) -> None:
    with tarfile.open(tape_files(vault, "HF0001L8")[0]) as tar:
        tar.extract("rescue.py", tmp_path, filter="data")
    cartridge = vault / "library/cartridges/HF0001L8"
    (two_nights / "empty").chmod(0o755)  # it gives no file the right to run as another user
    command = [
        sys.executable,
        "-I",
        "-S",
        str(tmp_path / "rescue.py"),
        "extract",
        str(cartridge),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert differences(two_nights, tmp_path / "out" / "night") == []


def test_the_ledger_of_a_later_pair_tells_of_the_earlier_one(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = tmp_path / "night"
    night.mkdir()
    for number in range(30):
        (night / f"{number:02d}").write_bytes(os.urandom(3 * 2**20))
    assert archived(night).exit_code() == 0
    with tarfile.open(tape_files(vault, "HF0003L8")[0]) as tar:
        ledger = tar.extractfile("LEDGER.jsonl")
        assert ledger is not None
        lines = ledger.read().decode().splitlines()
    assert any('"HF0001L8"' in line for line in lines)
    assert any('"member":"night/00"' in line for line in lines)


def test_a_session_of_folders_and_links_alone_is_checked_by_sha256sum_too(
    tmp_path: Path, vault: Path, archived: Archive
) -> None:
    night = tmp_path / "night"
    (night / "folder").mkdir(parents=True)
    (night / "link").symlink_to("folder")
    assert archived(night).exit_code() == 0
    folder = tmp_path / "out"
    folder.mkdir()
    quiet(["tar", "-xpf", str(tape_files(vault, "HF0001L8")[1])], folder)
    assert quiet(["sha256sum", "--strict", "-c", "MANIFEST"], folder) == "NO-FILES.txt: OK\n"
    assert differences(night, folder / "night") == []
