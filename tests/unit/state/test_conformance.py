"""SQLite does what every database of stores must do."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from holdfast.testing.conformance import DictionaryConformance, DictionaryMachine, TrackerConformance, TrackerMachine

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Nothing here depends on the disk, and many stores are made."""


class _InAFolder:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path / "a"


class TestDictionary(_InAFolder, DictionaryConformance):
    pass


class TestTracker(_InAFolder, TrackerConformance):
    pass


class _Folders:
    def make_place(self) -> Path | str:
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-pod-", dir=MEMORY))
        return self.folder / "a.pod"

    def remove_place(self) -> None:
        shutil.rmtree(self.folder)


class FolderDictionary(_Folders, DictionaryMachine):
    pass


class FolderTracker(_Folders, TrackerMachine):
    pass


TestAgainstAPlainDictionary = FolderDictionary.TestCase
TestAgainstAPlainDictionary.settings = settings(max_examples=40, stateful_step_count=25)
TestAgainstAPlainList = FolderTracker.TestCase
TestAgainstAPlainList.settings = settings(max_examples=40, stateful_step_count=30)
