"""Whatever is done to a folder between archives: every state that was archived comes back as it was then."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.acceptance.conftest import SMALL
from tests.acceptance.nights import facts

from holdfast.config import init_vault
from holdfast.journey import ArchiveRequest, archive
from holdfast.restoring import RestoreRequest, restore

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff", b"new\nline"])
FOLDERS = st.sampled_from([b"", b"a", b"f", b"f/g"])
CONTENTS = st.sampled_from([b"", b"one", b"two", b"three" * 30_000, b"four" * 90_000])


class ArchivedFolder(RuleBasedStateMachine):
    """A folder that somebody works in, archived now and then, in place or not."""

    @initialize()
    def begin(self) -> None:
        self.room = Path(tempfile.mkdtemp(prefix="holdfast-model-"))
        self.night = self.room / "night"
        self.night.mkdir()
        (self.night / "first").write_bytes(b"first")
        self.vault = self.room / "vault"
        init_vault(self.vault, SMALL)
        self.states: list[tuple[int, dict[bytes, tuple[object, ...]]]] = []

    def teardown(self) -> None:
        if hasattr(self, "room"):
            shutil.rmtree(self.room)

    def path(self, folder: bytes, name: bytes) -> bytes:
        return os.path.join(os.fsencode(self.night), folder, name)

    def clear(self, path: bytes) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)

    @rule(folder=FOLDERS, name=NAMES, data=CONTENTS)
    def write(self, folder: bytes, name: bytes, data: bytes) -> None:
        path = self.path(folder, name)
        if os.path.isdir(os.path.dirname(path)) and not os.path.isdir(path):
            with open(path, "wb") as file:
                file.write(data)

    @rule(folder=FOLDERS, name=NAMES)
    def make_folder(self, folder: bytes, name: bytes) -> None:
        for path in (self.path(b"", b"f"), self.path(b"f", b"g"), self.path(folder, name)):
            if os.path.isdir(os.path.dirname(path)) and not os.path.lexists(path):
                os.mkdir(path)

    @rule(folder=FOLDERS, name=NAMES)
    def remove(self, folder: bytes, name: bytes) -> None:
        self.clear(self.path(folder, name))

    @rule(folder=FOLDERS, name=NAMES, other=NAMES)
    def rename(self, folder: bytes, name: bytes, other: bytes) -> None:
        old, new = self.path(folder, name), self.path(b"", other)
        if os.path.lexists(old) and not (new + b"/").startswith(old + b"/") and not old.startswith(new + b"/"):
            self.clear(new)
            os.rename(old, new)

    @rule(folder=FOLDERS, name=NAMES, other=NAMES)
    def hard_link(self, folder: bytes, name: bytes, other: bytes) -> None:
        old, new = self.path(folder, name), self.path(b"", other)
        if os.path.isfile(old) and not os.path.islink(old) and not os.path.lexists(new):
            os.link(old, new)

    @rule(folder=FOLDERS, name=NAMES, pointed_at=NAMES)
    def link(self, folder: bytes, name: bytes, pointed_at: bytes) -> None:
        path = self.path(folder, name)
        if os.path.isdir(os.path.dirname(path)):
            self.clear(path)
            os.symlink(pointed_at, path)

    @rule(folder=FOLDERS, name=NAMES, data=CONTENTS)
    def change_unseen(self, folder: bytes, name: bytes, data: bytes) -> None:
        """Other bytes, the same size and mtime: only ctime tells."""
        path = self.path(folder, name)
        if os.path.isfile(path) and not os.path.islink(path):
            before = os.stat(path)
            with open(path, "r+b") as file:
                file.write((data * (before.st_size // max(1, len(data)) + 1))[: before.st_size])
            os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))

    @rule(folder=FOLDERS, name=NAMES, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def chmod(self, folder: bytes, name: bytes, mode: int) -> None:
        path = self.path(folder, name)
        if os.path.lexists(path) and not os.path.islink(path):
            os.chmod(path, mode | 0o700 if os.path.isdir(path) else mode)

    @rule(in_place=st.booleans(), recheck=st.booleans())
    def archive(self, in_place: bool, recheck: bool) -> None:
        request = ArchiveRequest(paths=(self.night,), in_place=in_place, recheck=recheck)
        report = archive(self.vault, request)
        assert report.exit_code() == 0, (report.errors, report.unproven, report.kept.problems)
        self.states.append((time.time_ns(), facts(self.night)))

    @precondition(lambda self: self.states)
    @rule(data=st.data(), origin=st.sampled_from(["any", "tape"]))
    def bring_back(self, data: st.DataObject, origin: str) -> None:
        number = data.draw(st.integers(0, len(self.states) - 1))
        moment, expected = self.states[number]
        to = self.room / "back"
        report = restore(self.vault, RestoreRequest(to=to, as_of_ns=moment, origin=origin))
        assert report.exit_code() == 0, report.errors
        assert facts(to / "night") == expected
        shutil.rmtree(to)

    @invariant()
    def nothing_is_left_over(self) -> None:
        if hasattr(self, "vault"):
            assert not list((self.vault / "scratch").iterdir())


ArchivedFolder.TestCase.settings = settings(
    settings.get_profile(settings.get_current_profile_name()),
    max_examples=15,
    stateful_step_count=18,
    suppress_health_check=list(HealthCheck),
)
TestArchivedFolder = ArchivedFolder.TestCase
