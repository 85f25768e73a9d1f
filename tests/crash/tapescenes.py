"""Archives that are stopped at their drives' operations: what each began with, and what it asked of its drives.

Each scene begins with everything kept in the block store and nothing of it on tape, so that a run is all dump and
verification. It is made once for all worker processes of a test run.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.crash import sources
from tests.crash.laws import check_vault, rerun_and_check
from tests.crash.scenes import OPTIONS, SMALL_CARTRIDGES, Scene, count_versions, shrunk
from tests.crash.sources import Facts, facts_of

from holdfast.config import InitOptions, init_vault
from holdfast.journey import ArchiveRequest, archive
from holdfast.reports import Silent
from holdfast.testing import Recording
from holdfast.testing.tapefaults import (
    Operation,
    ProcessStopped,
    TapeFault,
    Trouble,
    Troubles,
    faulty_library,
    lose_buffers,
)
from holdfast.trees import steady

NOTHING_RECORDED = Recording((), (), ())

WRITES = ("write_record", "write_file_mark")


@dataclass(frozen=True)
class TapeScene:
    """A scene, the vault that it begins with, and what an undisturbed run asks of the drives, in order."""

    scene: Scene
    start: Path
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Cut:
    """The run is stopped at one operation, before or after it; then the sides named lose what was not synced."""

    number: int
    operation: Operation
    after: bool
    sides: str  # of A and B, those whose power is cut; none: only the process is killed

    def __str__(self) -> str:
        when = "after" if self.after else "before"
        return f"{self.number}: {when} {self.operation}; power cut on {self.sides or 'neither side'}"


def cuts_of(scene: TapeScene) -> list[Cut]:
    """Every operation: killed before it. Every record and mark: also with the power cut on A, on B, on both.

    After a synchronous mark the run may be stopped too, before anybody was told that it was done.
    """
    cuts: list[Cut] = []
    for operation in scene.operations:
        writes = operation.name in WRITES
        for after in (False, True) if operation.synchronous else (False,):
            for sides in ("", "A", "B", "AB") if writes else ("",):
                cuts.append(Cut(len(cuts), operation, after, sides))
    return cuts


class Listening(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said = b""

    def say(self, text: str) -> None:
        self.said += text.encode() + b"\n"


def check_cut(scene: TapeScene, cut: Cut, folder: Path) -> None:
    """Stop a run there, check what must hold at any instant, run it again, and check its end; see `tests.crash.laws`."""
    vault = folder / "work" / "vault"
    shutil.copytree(scene.start, vault)
    fault = TapeFault(Trouble.STOPPED, drive=cut.operation.drive, number=cut.operation.number, after=cut.after)
    troubles, listening = Troubles([fault]), Listening()
    with shrunk(scene.scene):
        with faulty_library(troubles), pytest.raises(ProcessStopped):
            archive(vault, scene.scene.archive_request(), listening)
        troubles.demand_all_happened()
        _cut_power(vault, cut)
        before = check_vault(vault, scene.scene, listening.said, folder)
        rerun_and_check(vault, scene.scene, before, folder, number=cut.number)
    shutil.rmtree(folder)


def _cut_power(vault: Path, cut: Cut) -> None:
    """Cartridges are taken as the library does: odd numbers are sides A."""
    dice = random.Random(str(cut))
    for path in sorted((vault / "library" / "cartridges").iterdir()):
        side = "A" if int(path.name[2:6]) % 2 else "B"
        if side in cut.sides:
            lose_buffers(path, dice)


# -- making them


def _first(folder: Path) -> TapeScene:
    """The first session of a new pair."""
    sources.make_few(folder / "night")
    return _made("tape_first", folder, OPTIONS)


def _appended(folder: Path) -> TapeScene:
    """A second session on a pair that holds one."""
    source, vault = folder / "night", folder / "start"
    sources.make_night_one(source)
    init_vault(vault, OPTIONS)
    assert archive(vault, ArchiveRequest(paths=(source,))).exit_code() == 0
    before, between_ns = facts_of(source), steady.now_ns()
    sources.change_for_night_two(source)
    return _made("tape_appended", folder, None, night_one=(between_ns, before))


def _full(folder: Path) -> TapeScene:
    """The first pair becomes full, the rest goes on a second one."""
    sources.make_many(folder / "night")
    return _made("tape_full", folder, replace(SMALL_CARTRIDGES, commit_every="900 KiB"))


def _one_file(folder: Path) -> TapeScene:
    """One object of one record: few enough operations for the quick tests."""
    (folder / "night").mkdir()
    (folder / "night" / "only").write_bytes(b"only" * 1000)
    return _made("tape_one_file", folder, OPTIONS)


MAKERS = {"tape_first": _first, "tape_appended": _appended, "tape_full": _full, "tape_one_file": _one_file}


def _made(
    name: str,
    folder: Path,
    options: InitOptions | None,
    *,
    night_one: tuple[int, dict[bytes, Facts]] | None = None,
) -> TapeScene:
    if options is not None:
        init_vault(folder / "start", options)
    scene = Scene(
        name, folder, NOTHING_RECORDED, facts_of(folder / "night"), versions=0, trusting=True, night_one=night_one
    )
    with shrunk(scene):
        troubles = Troubles([TapeFault(Trouble.STOPPED, operation="load")])
        with faulty_library(troubles), pytest.raises(ProcessStopped):
            archive(folder / "start", scene.archive_request())
        troubles.demand_all_happened()
        undisturbed, listening = Troubles(), Listening()
        shutil.copytree(folder / "start", folder / "undisturbed")
        with faulty_library(undisturbed):
            report = archive(folder / "undisturbed", scene.archive_request(), listening)
    assert report.exit_code() == 0, [*map(str, report.errors)]
    scene = replace(
        scene,
        versions=count_versions(folder / "undisturbed"),
        cartridges=len(os.listdir(folder / "undisturbed" / "library" / "cartridges")),
        sessions=listening.said.count(b"committed "),
    )
    shutil.rmtree(folder / "undisturbed")
    return TapeScene(scene, folder / "start", tuple(undisturbed.operations))


def tape_scene_of(name: str, shared: Path) -> TapeScene:
    """The scene, made by the first process that asks; `shared` is a folder of this test run."""
    shared.mkdir(exist_ok=True)
    kept = shared / f"{name}.pickle"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            (shared / name).mkdir(parents=True)
            part = kept.with_suffix(".part")
            part.write_bytes(pickle.dumps(MAKERS[name](shared / name)))
            os.replace(part, kept)
    return pickle.loads(kept.read_bytes())
