"""Waiting until a file of a folder is written."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from holdfast.errors import StateError
from holdfast.state.folderwatch import FolderWatch


def test_what_was_written_before_and_while_it_waits(tmp_path: Path) -> None:
    file = tmp_path / "a"
    with FolderWatch(tmp_path) as folder:
        assert not folder.wait(0)
        file.write_bytes(b"1")
        assert folder.wait(60)
        assert not folder.wait(0)
        writer = threading.Timer(0.05, lambda: file.write_bytes(b"2"))
        writer.start()
        assert folder.wait(60)
        writer.join()


def test_reading_is_not_writing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with FolderWatch(tmp_path) as folder:
        (tmp_path / "a").read_bytes()
        assert not folder.wait(0)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be watched"):
        FolderWatch(tmp_path / "none")
