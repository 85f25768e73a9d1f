from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.testing import READS, RENAMES, SYNCS, WRITES, Fault, Sync, Write, disk_full, record, run_with_fault

pytestmark = pytest.mark.usefixtures("tracing")

Python = Callable[..., list[str]]

# Tries each action and says which error it met.
TRIER = """
    import errno, os, sys
    os.chdir(sys.argv[1])
    def attempt(name, action):
        try:
            print(name, action() or "ok", flush=True)
        except OSError as error:
            print(name, errno.errorcode[error.errno], flush=True)
    file = os.open("a", os.O_RDWR | os.O_CREAT)
    for number in range(4):
        attempt("write", lambda: os.write(file, b"0123456789"))
    attempt("pwrite", lambda: os.pwrite(file, b"0123456789", 0))
    attempt("fsync", lambda: os.fsync(file))
    attempt("folder", lambda: os.fsync(os.open(".", os.O_RDONLY)))
    attempt("read", lambda: len(os.pread(file, 100, 0)))
    attempt("rename", lambda: os.rename("a", "b"))
    attempt("create", lambda: os.close(os.open("c", os.O_WRONLY | os.O_CREAT)))
    attempt("reopen", lambda: os.close(os.open("b", os.O_WRONLY | os.O_CREAT)))
"""


def tried(root: Path, python: Python, fault: Fault) -> tuple[list[str], int]:
    outcome = run_with_fault(python(TRIER, root), fault, root)
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    return outcome.stdout.decode().splitlines(), outcome.injected


FINE = [
    *["write 10"] * 4,
    "pwrite 10",
    "fsync ok",
    "folder ok",
    "read 40",
    "rename ok",
    "create ok",
    "reopen ok",
]


def but(**changed: str) -> list[str]:
    """FINE, with other words for some lines: `line_3="write EIO"`."""
    lines = {f"line_{number}": line for number, line in enumerate(FINE)}
    assert lines.keys() >= changed.keys()
    return list({**lines, **changed}.values())


def test_without_a_match_nothing_happens(root: Path, python: Python) -> None:
    assert tried(root, python, Fault(path_glob="other")) == (FINE, 0)


def test_the_nth_write_fails_and_does_nothing(root: Path, python: Python) -> None:
    lines, injected = tried(root, python, Fault(errno.ENOSPC, frozenset({"write"}), nth=2, count=2))
    assert (lines, injected) == (but(line_1="write ENOSPC", line_2="write ENOSPC", line_7="read 20"), 2)


def test_writes_fail_for_ever(root: Path, python: Python) -> None:
    lines, injected = tried(root, python, Fault(errno.EIO, WRITES, "a", nth=4, count=None))
    assert (lines, injected) == (but(line_3="write EIO", line_4="pwrite EIO", line_7="read 30"), 2)


def test_a_failing_fsync_of_a_file_and_of_a_folder(root: Path, python: Python) -> None:
    assert tried(root, python, Fault(errno.EIO, SYNCS, "a")) == (but(line_5="fsync EIO"), 1)


def test_a_failing_fsync_of_a_folder(root: Path, python: Python) -> None:
    assert tried(root, python, Fault(errno.EIO, SYNCS, ".")) == (but(line_6="folder EIO"), 1)


def test_reading_and_renaming_can_fail(root: Path, python: Python) -> None:
    lines, injected = tried(root, python, Fault(errno.EIO, READS | RENAMES, count=None))
    assert injected == 2
    assert lines[7:9] == ["read EIO", "rename EIO"]


def test_a_short_write(root: Path, python: Python) -> None:
    lines, injected = tried(root, python, Fault(calls=WRITES, nth=2, count=1, short_write=True))
    assert (lines, injected) == (but(line_1="write 5", line_7="read 35"), 1)
    assert (root / "b").read_bytes() == b"01234567890123401234567890123456789"


def test_the_disk_fills_up(root: Path, python: Python) -> None:
    lines, injected = tried(root, python, disk_full(after_bytes=25))
    full = {f"line_{number}": "write ENOSPC" for number in (2, 3)}
    assert lines == but(**full, line_4="pwrite ENOSPC", line_7="read 20", line_9="create ENOSPC")
    assert injected == 4


def test_what_still_fits_is_written_before_the_disk_is_full(root: Path, python: Python) -> None:
    lines, injected = tried(root, python, disk_full(after_bytes=25, short_write=True))
    rest = {"line_2": "write 5", "line_3": "write ENOSPC", "line_4": "pwrite ENOSPC"}
    assert lines == but(**rest, line_7="read 25", line_9="create ENOSPC")
    assert injected == 4


def test_standard_output_is_spared_unless_it_is_meant(root: Path, python: Python) -> None:
    code = "import os\ntry: os.write(1, b'x')\nexcept OSError as error: os.write(2, str(error.errno).encode())"
    assert run_with_fault(python(code), Fault(count=None), root).stdout == b"x"
    outcome = run_with_fault(python(code), Fault(errno.EPIPE, path_glob=""), root)
    assert (outcome.stdout, outcome.stderr, outcome.injected) == (b"", str(errno.EPIPE).encode(), 1)


def test_a_run_with_a_fault_can_be_recorded(root: Path, python: Python) -> None:
    recording = record(python(TRIER, root), root, fault=Fault(errno.EIO, SYNCS | {"pwrite64"}, count=None))
    assert not any(isinstance(event, Sync) for event in recording.events)
    assert sum(isinstance(event, Write) for event in recording.events) == 4


def test_a_program_that_does_not_expect_it_fails_as_it_would(root: Path, python: Python) -> None:
    code = "import sys; open(sys.argv[1] + '/a', 'w').write('x' * 100000)"
    outcome = run_with_fault(python(code, root), Fault(errno.ENOSPC), root)
    assert outcome.returncode == 1
    assert b"No space left on device" in outcome.stderr


def test_a_fault_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="no such calls"):
        Fault(calls=frozenset({"wriet"}))
    with pytest.raises(ValueError, match="counted from 1"):
        Fault(nth=0)
