"""Pages that pass: what the kernel is told, in which order, and that nothing depends on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.tape.drive import VirtualDrive
from holdfast.tape.drive.passing import WINDOW_BYTES, WRITING_WINDOWS, PassingPages
from holdfast.tape.drive.virtual import make_cartridge

W = WINDOW_BYTES
Told = list[tuple[int, int]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Begin and end of what was let go of, in windows."""
    calls: Told = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        assert offset % W == 0
        assert length % W == 0
        calls.append((offset // W, (offset + length) // W))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return calls


def test_what_was_read_goes_at_once_in_whole_windows(told: Told) -> None:
    pages = PassingPages(7, written=False)
    for offset in range(0, 3 * W + 1, W // 4):
        pages.passed(offset)
    assert told == [(0, 1), (1, 2), (2, 3)]


def test_what_was_written_is_begun_at_once_and_goes_later(told: Told) -> None:
    pages = PassingPages(7, written=True)
    for window in range(1, WRITING_WINDOWS + 3):
        pages.passed(window * W + 17)
    begun = [(n, n + 1) for n in range(WRITING_WINDOWS + 2)]
    assert told[:WRITING_WINDOWS] == begun[:WRITING_WINDOWS]
    assert told[WRITING_WINDOWS:] == [begun[-2], (0, 1), begun[-1], (1, 2)]


def test_every_window_goes_exactly_once_however_long_the_steps_are(told: Told) -> None:
    pages = PassingPages(7, written=False)
    for offset in (W - 1, 5 * W // 2, 5 * W // 2, 9 * W, 9 * W + 5):
        pages.passed(offset)
    assert told == [(0, 2), (2, 9)]


def test_going_back_tells_of_the_same_windows_again(told: Told) -> None:
    pages = PassingPages(7, written=False)
    for offset in (4 * W, W + 1, 2 * W, 3 * W):
        pages.passed(offset)
    assert told == [(0, 4), (1, 2), (2, 3)]


def test_advice_that_is_refused_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    make_cartridge(tmp_path / "HF0001L8", "HF0001L8", 2**30)
    drive = VirtualDrive("VDRIVE-0", tmp_path / "HF0001L8")
    monkeypatch.setattr("holdfast.tape.drive.passing.os.posix_fadvise", refuse)
    record = memoryview(os.urandom(1024 * 1024))
    for _ in range(2 * W // len(record)):
        drive.write_record(record)
    drive.write_file_mark(synchronous=True)
    drive.close()


def test_bytes_written_and_read_past_many_windows_are_the_same(tmp_path: Path) -> None:
    make_cartridge(tmp_path / "HF0001L8", "HF0001L8", 2**30)
    drive = VirtualDrive("VDRIVE-0", tmp_path / "HF0001L8")
    pieces = [os.urandom(1024 * 1024 - 512) for _ in range(4)]
    count = (WRITING_WINDOWS + 3) * W // (1024 * 1024)
    for number in range(count):
        drive.write_record(memoryview(pieces[number % 4]))
    drive.write_file_mark(synchronous=False)
    drive.rewind()
    buffer = memoryview(bytearray(1024 * 1024))
    for number in range(count):
        assert drive.read_record(buffer) == len(pieces[0])
        assert buffer[: len(pieces[0])] == pieces[number % 4]
    assert drive.read_record(buffer) == 0
    drive.close()
