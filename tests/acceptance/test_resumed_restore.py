"""Law 6: a restore that was killed amid a pass over a tape goes on there, and reads nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences

from holdfast.catalog import TapePlace
from holdfast.restoring import RestoreRequest, plan, restore
from holdfast.tape.recall import TapeContents
from holdfast.trees import plant

pytestmark = pytest.mark.acceptance

FILES = 12

KILLED_IN_READ = """
import os, signal, sys
from pathlib import Path
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.recall import TapeContents
from holdfast.trees import plant

left, plant.GROUP_FILES, read = int(sys.argv[3]), int(sys.argv[4]), TapeContents.read

def read_and_die(self, place, content, sink):
    global left
    left -= 1
    if left:
        return read(self, place, content, sink)

    def half(piece):
        sink(piece[:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    read(self, place, content, half)

TapeContents.read = read_and_die
restore(Path(sys.argv[1]), RestoreRequest(to=Path(sys.argv[2]), origin="tape"))
"""


@pytest.fixture
def night(tmp_path: Path, archived: Archive) -> Path:
    folder = tmp_path / "night"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:02d}.bin").write_bytes(os.urandom(400_000))
    assert archived(folder).exit_code() == 0
    return folder


def kill_in_read(vault: Path, back: Path, number: int, group_files: int) -> None:
    """Restore from tape, and SIGKILL it when a part of the `number`-th file that it reads is written."""
    command = [sys.executable, "-c", KILLED_IN_READ, str(vault), str(back), str(number), str(group_files)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Tape file and offset of every file that is read from tape."""
    seen: list[tuple[int, int]] = []
    read = TapeContents.read

    def seen_read(self: TapeContents, place: TapePlace, content: object, sink: object) -> None:
        seen.append((place.tape_file, place.data_offset))
        read(self, place, content, sink)  # type: ignore[arg-type]

    monkeypatch.setattr(TapeContents, "read", seen_read)
    return seen


@pytest.mark.parametrize("group_files", [3, plant.GROUP_FILES])
def test_law_6_a_restore_killed_amid_a_tape_reads_only_what_is_missing(
    vault: Path, night: Path, tmp_path: Path, reads: list[tuple[int, int]], group_files: int
) -> None:
    """Whether the files that were read had their names already or waited for them."""
    back = tmp_path / "back"
    kill_in_read(vault, back, 8, group_files)
    named = [path for path in (back / "night").iterdir() if path.suffix == ".bin"]
    assert len(named) == (6 if group_files == 3 else 0)
    request = RestoreRequest(to=back, origin="tape")
    told = plan(vault, request)
    assert (told.already_there, told.files_on_tape) == (7, FILES - 7)
    report = restore(vault, request)
    assert (report.exit_code(), report.already_there) == (0, 7)
    assert len(reads) == len(set(reads)) == FILES - 7, "the file amid which it was killed, and those behind it"
    assert differences(night, back / "night") == []
    reads.clear()
    assert restore(vault, request).already_there == FILES
    assert reads == []


def test_law_7_what_a_killed_run_left_is_not_believed_unless_it_is_right(
    vault: Path, night: Path, tmp_path: Path, reads: list[tuple[int, int]]
) -> None:
    back = tmp_path / "back"
    kill_in_read(vault, back, 8, plant.GROUP_FILES)
    whole = sorted((back / "night").glob(".holdfast-*.part"), key=lambda path: path.stat().st_size)[1:]
    assert len(whole) == 7
    one, other = whole[:2]
    status = one.stat()
    with one.open("r+b") as file:
        file.seek(200_000)
        byte = file.read(1)
        file.seek(200_000)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(other, ns=(10**18, 10**18))
    assert restore(vault, RestoreRequest(to=back, origin="tape")).exit_code() == 0
    assert len(reads) == FILES - 5
    assert differences(night, back / "night") == []
    assert not list(back.rglob(".holdfast-*"))


def test_what_was_left_does_not_replace_a_file_that_has_come_meanwhile(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    kill_in_read(vault, back, 8, plant.GROUP_FILES)
    (back / "night/00.bin").write_bytes(b"mine")
    report = restore(vault, RestoreRequest(to=back, origin="tape"))
    assert [error.message for error in report.errors] == ["another file is there already"]
    assert (back / "night/00.bin").read_bytes() == b"mine"
