"""Running the real command on a copy of what a scene began with, and looking at how it ended."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.crash.laws import OnTape, check_end, check_vault
from tests.crash.scenes import Scene, shrunk
from tests.crash.sources import differences, facts_of

T = TypeVar("T")


@dataclass(frozen=True)
class Ground:
    """A folder with the vault as it was before the recorded run."""

    scene: Scene
    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def vault(self) -> Path:
        return self.work / "vault"

    def archive_command(self) -> list[str]:
        return self.scene.archive_command(self.vault)

    def restore_command(self) -> list[str]:
        return self.scene.command("restore", "--vault", self.vault, "--to", self.work / "restored")


def lay_out(scene: Scene, folder: Path) -> Ground:
    ground = Ground(scene, folder)
    scene.start().write_to(ground.work)
    return ground


def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def demand_done(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def check_cut(ground: Ground, said: bytes) -> OnTape:
    """The laws that hold at any instant."""
    return check_vault(ground.vault, ground.scene, said, ground.folder)


def run_again_and_check(ground: Ground, before: OnTape) -> None:
    """The same real command again, then restore; both as undisturbed runs."""
    done = run(ground.archive_command())
    demand_done(done)
    assert "PROVEN: all" in done.stdout
    with shrunk(ground.scene):
        check_end(ground.vault, ground.scene, before, ground.folder, everything=True)
    demand_done(run(ground.restore_command()))
    check_restored(ground)
    shutil.rmtree(ground.folder)


def check_restored(ground: Ground) -> None:
    wrong = differences(ground.scene.expected, facts_of(ground.work / "restored" / ground.scene.source.name))
    assert not wrong


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many of the items, evenly, the first and the last among them."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[number * (len(items) - 1) // (count - 1)] for number in range(count)]
