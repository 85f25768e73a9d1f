"""Recorded runs: what the real command did to the vault, call by call, and the source that it read.

A scene is recorded once for all worker processes of a test run; the source stays as it was, so that the command can
be run again on every state of the vault that a crash would have left.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.crash import sources
from tests.crash.sources import Facts, facts_of

from holdfast.blocks import store
from holdfast.catalog import Catalog, schema
from holdfast.config import InitOptions, init_vault
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.tape.drive.virtual import data_path
from holdfast.testing import Recording, Replayer, Tree, flip_bit, record
from holdfast.trees import noting, steady

OPTIONS = InitOptions(
    block_size="64 KiB",
    pack_size="320 KiB",
    cartridge_capacity="64 MiB",
    record_size="256 KiB",
    object_size="160 KiB",
    commit_every="700 KiB",
)
"""Sizes at which a small tree fills several blocks, packs, objects and commits."""

SMALL_CARTRIDGES = replace(OPTIONS, cartridge_capacity="4 MiB", object_size="400 KiB", pack_size="1 MiB")

GROUP_VERSIONS = 6
"""A group commit of the store, or of the catalog in place, for every so many names, where a real one has thousands."""

SHRUNK = f"""
from holdfast.blocks import store
from holdfast.trees import noting, steady
store.GROUP_VERSIONS = noting.BATCH = {GROUP_VERSIONS}
steady.RACY_NS = {{racy_ns}}
from holdfast.cli import main
main()
"""


@dataclass(frozen=True)
class Scene:
    """A recorded `holdfast archive`, and what it must come to.

    `trusting`: a file counts as unchanged however young it is, so that the rerun does not read it again.
    `versions`, `cartridges`: how many rows of versions in the catalog, and how many cartridges, an undisturbed run
    leaves; `sessions`: how many it commits. `damaged`: a cartridge that holds other bytes than were written, and that
    the run replaces. `night_one`: the source as it was
    when the recorded run began, and the time between, for scenes in which the vault held something already.
    """

    name: str
    folder: Path
    recording: Recording
    expected: dict[bytes, Facts]
    versions: int
    cartridges: int = 2
    sessions: int = 1
    in_place: bool = False
    trusting: bool = False
    damaged: str = ""
    night_one: tuple[int, dict[bytes, Facts]] | None = None

    @property
    def source(self) -> Path:
        return self.folder / "night"

    def command(self, *words: str | Path) -> list[str]:
        """The real command, with groups as small as in the recording."""
        return command(*words, trusting=self.trusting)

    def archive_command(self, vault: Path) -> list[str]:
        return self.command("archive", self.source, "--vault", vault, *(["--in-place"] if self.in_place else []))

    def archive_request(self) -> ArchiveRequest:
        return ArchiveRequest(paths=(self.source,), in_place=self.in_place)

    def start(self) -> Tree:
        """The folder that holds the vault, before the recorded run."""
        return Replayer(self.recording).tree("killed")


def command(*words: str | Path, trusting: bool = False) -> list[str]:
    racy_ns = 0 if trusting else steady.RACY_NS
    return [sys.executable, "-c", SHRUNK.format(racy_ns=racy_ns), *map(str, words)]


@contextmanager
def shrunk(scene: Scene) -> Iterator[None]:
    """In this process, the sizes and trust that the recorded command had."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "GROUP_VERSIONS", GROUP_VERSIONS)
        patch.setattr(noting, "BATCH", GROUP_VERSIONS)
        if scene.trusting:
            patch.setattr(steady, "RACY_NS", 0)
        yield


# -- making them


def _night_one(folder: Path) -> Scene:
    sources.make_night_one(folder / "night")
    init_vault(folder / "work" / "vault", OPTIONS)
    return _recorded("night_one", folder)


def _night_two(folder: Path, *, in_place: bool = False) -> Scene:
    """Another night on the same pair of cartridges."""
    source, vault = folder / "night", folder / "work" / "vault"
    sources.make_night_one(source)
    init_vault(vault, OPTIONS)
    report = archive(vault, ArchiveRequest(paths=(source,), in_place=in_place))
    assert report.exit_code() == 0
    before, between_ns = facts_of(source), steady.now_ns()
    sources.change_for_night_two(source)
    name = "in_place_two" if in_place else "night_two"
    return _recorded(name, folder, in_place=in_place, trusting=True, night_one=(between_ns, before))


def _in_place_two(folder: Path) -> Scene:
    return _night_two(folder, in_place=True)


def _mended(folder: Path) -> Scene:
    """A cartridge was read back with other bytes: another one takes its place, copied from its twin."""
    source, vault = folder / "night", folder / "work" / "vault"
    sources.make_few(source)
    init_vault(vault, OPTIONS)
    report = archive(vault, ArchiveRequest(paths=(source,)))
    assert report.exit_code() == 0
    damaged = vault / "library/cartridges/HF0002L8"
    flip_bit(data_path(damaged, 1), 5000)
    assert verify(vault, (), everything=True).exit_code() != 0
    scene = _recorded("mended", folder, trusting=True)
    return replace(scene, damaged=damaged.name)


def _in_place(folder: Path) -> Scene:
    sources.make_few(folder / "night")
    init_vault(folder / "work" / "vault", OPTIONS)
    return _recorded("in_place", folder, in_place=True)


def _fresh(folder: Path) -> Scene:
    """`archive` makes the vault, with sizes as people have them."""
    sources.make_few(folder / "night")
    return _recorded("fresh", folder)


def _two_pairs(folder: Path) -> Scene:
    """The first pair becomes full amid the run."""
    sources.make_many(folder / "night")
    init_vault(folder / "work" / "vault", SMALL_CARTRIDGES)
    return _recorded("two_pairs", folder)


MAKERS = {
    "two_pairs": _two_pairs,
    "night_one": _night_one,
    "night_two": _night_two,
    "mended": _mended,
    "in_place": _in_place,
    "in_place_two": _in_place_two,
    "fresh": _fresh,
}


def _recorded(
    name: str,
    folder: Path,
    *,
    in_place: bool = False,
    trusting: bool = False,
    night_one: tuple[int, dict[bytes, Facts]] | None = None,
) -> Scene:
    work, source = folder / "work", folder / "night"
    flags = ["--in-place"] if in_place else []
    argv = command("archive", source, "--vault", work / "vault", *flags, trusting=trusting)
    recording = record(argv, work)
    assert recording.returncode == 0, recording.stderr.decode()
    assert b"PROVEN: all" in recording.stdout
    return Scene(
        name=name,
        folder=folder,
        recording=recording,
        expected=facts_of(source),
        versions=count_versions(work / "vault"),
        cartridges=len(os.listdir(work / "vault" / "library" / "cartridges")),
        sessions=recording.stdout.count(b"\ncommitted "),
        in_place=in_place,
        trusting=trusting,
        night_one=night_one,
    )


def count_versions(vault: Path) -> int:
    with Catalog(vault / "catalog" / "catalog.db") as catalog, catalog.reading() as connection:
        return connection.scalar(select(func.count()).select_from(schema.version)) or 0


def scene_of(name: str, shared: Path) -> Scene:
    """The scene, made by the first process that asks; `shared` is a folder of this test run."""
    shared.mkdir(exist_ok=True)
    kept = shared / f"{name}.pickle"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            (shared / name / "work").mkdir(parents=True)
            part = kept.with_suffix(".part")
            part.write_bytes(pickle.dumps(MAKERS[name](shared / name)))
            os.replace(part, kept)
    return pickle.loads(kept.read_bytes())
