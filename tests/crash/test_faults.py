"""A full disk and a failing disk amid the real command: a clear error, nothing untrue said, and running again resumes.

Each run is recorded with its fault. What a power cut right after it would leave (a sync that failed made nothing
durable) must hold to what was said as well as what really lies on the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.crash.laws import check_vault, rerun_and_check
from tests.crash.runs import Ground, check_restored, demand_done, lay_out, run, run_again_and_check
from tests.crash.scenes import Scene, shrunk

from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_FAILED
from holdfast.journey import archive
from holdfast.testing import (
    READS,
    SYNCS,
    WRITES,
    Fault,
    Recording,
    Replayer,
    disk_full,
    flip_bit,
    record,
    run_with_fault,
)

GetScene = Callable[[str], Scene]
Count = Callable[[str, object], None]


@dataclass(frozen=True)
class Trouble:
    """A fault, the end it must come to, and a word of the error that says where.

    One failure of a drive is got round in the same run: the other drive does it.
    """

    fault: Fault
    place: str
    exit_code: int = 1
    scene: str = "night_one"

    def __str__(self) -> str:
        fault = self.fault
        what = errno.errorcode[fault.errno] if not fault.short_write else "short-" + errno.errorcode[fault.errno]
        amount = f"call {fault.nth}" if fault.after_bytes is None else f"{fault.after_bytes} bytes"
        calls = (
            "" if fault.after_bytes is not None else " " + "+".join(sorted(fault.calls & {"read", "fsync", "write"}))
        )
        return f"{what}{calls} {fault.path_glob.removeprefix('vault/')} {amount}"


def full(
    glob: str, after_bytes: int, place: str = "", *, short: bool = False, scene: str = "night_one", exit_code: int = 1
) -> Trouble:
    fault = disk_full(f"vault/{glob}", after_bytes=after_bytes, short_write=short)
    return Trouble(fault, place or "vault/" + glob.partition("*")[0], exit_code, scene)


def failing(calls: frozenset[str], glob: str, nth: int = 1, *, exit_code: int = 1, place: str = "") -> Trouble:
    fault = Fault(errno.EIO, calls, f"vault/{glob}", nth=nth)
    return Trouble(fault, place or "vault/" + glob.partition("*")[0], exit_code)


def on_tape(calls: frozenset[str], glob: str, nth: int = 1) -> Trouble:
    barcode = glob.partition("/")[0].replace("*", "HF000")
    return failing(calls, f"library/cartridges/{glob}", nth, exit_code=0, place=barcode)


FULL = [
    full("packs/*", 0),
    full("packs/*", 200_000),
    full("packs/*", 330_000, short=True),
    full("catalog/*", 0),
    full("catalog/*", 150_000),
    full("catalog/*", 300_000),
    full("catalog/*", 500_000),
    full("library/library.json*", 0),
    full("library/library.json*", 200),
    full("library/cartridges/*", 0),
    full("library/cartridges/*", 100_000),
    full("library/cartridges/*", 1_000_000, short=True),
    full("library/cartridges/*/marks.jsonl", 60),
    full("library/cartridges/*", 3_200_000),
    full("journals/*", 0),
    full("journals/HF0002L8.jsonl", 300, short=True),
    full("journals/*", 2500),
    full("journals/evidence.jsonl", 1000),
    full("scratch/*", 0),
    full("scratch/*", 300, short=True),
    # the state holds no fact: the run is done without it, and says so
    full("state/*", 0, exit_code=0),
    full("state/*", 30_000, exit_code=0),
    full("state/*", 60_000, short=True, exit_code=0),
    full("vault.lock", 0),
    full("holdfast.toml*", 0, scene="fresh"),
    full("*", 0, scene="fresh"),
    full("*", 1_500_000),
]

FAILING = [
    failing(SYNCS, "packs/*.pack"),
    failing(SYNCS, "packs/*.pack", 3),
    failing(SYNCS, "packs"),
    failing(WRITES, "packs/*", 4),
    failing(READS, "packs/*.pack", 2, exit_code=3, place="night/"),
    failing(SYNCS, "catalog/*", 3),
    failing(SYNCS, "catalog/*-wal", 4),
    failing(SYNCS, "catalog/*-wal", 9),
    failing(SYNCS, "catalog/*-wal", 20),
    failing(WRITES, "catalog/*-wal", 150),
    failing(WRITES, "state/*", exit_code=0),
    failing(WRITES, "state/*", 20, exit_code=0),
    failing(SYNCS, "state/*", 2, exit_code=0),
    failing(READS, "state/*", 3, exit_code=0),
    failing(SYNCS, "journals/HF0001L8.jsonl", 1),
    failing(SYNCS, "journals/HF0002L8.jsonl", 3),
    failing(WRITES, "journals/HF0002L8.jsonl", 2),
    failing(READS, "journals/HF0001L8.jsonl", 2),
    failing(SYNCS, "journals/evidence.jsonl", 3),
    failing(WRITES, "journals/evidence.jsonl", 16),
    failing(SYNCS, "library/library.json*", 2),
    on_tape(SYNCS, "*/00001"),
    on_tape(SYNCS, "HF0002L8/marks.jsonl", 2),
    on_tape(WRITES, "*/00003"),
    on_tape(WRITES, "HF0002L8/0000?", 5),
    on_tape(READS, "HF0002L8/00002"),
]


def check_trouble(scene: Scene, trouble: Trouble, folder: Path, number: int, *, full_disk: bool) -> None:
    ground = lay_out(scene, folder / "run")
    ran = record(ground.archive_command(), ground.work, fault=trouble.fault)
    check_error(ran, trouble, ground, full_disk=full_disk)
    check_cut_after(ran, scene, folder, number)
    with shrunk(scene):
        before = check_vault(ground.vault, scene, ran.stdout, ground.folder)
        rerun_and_check(ground.vault, scene, before, ground.folder, number=number)
    shutil.rmtree(folder)


def check_error(ran: Recording, trouble: Trouble, ground: Ground, *, full_disk: bool) -> None:
    text = ran.stderr.decode()
    told = text + ran.stdout.decode()
    assert ran.returncode == trouble.exit_code, f"{ran.returncode}: {told}"
    assert "Traceback" not in text, text
    assert trouble.place.replace("vault/", f"{ground.vault}/", 1) in told, told
    assert "next:" in told, told
    assert trouble.exit_code or "got round: " in told, told
    if full_disk and not trouble.exit_code:
        assert "the disk is full" in told
    elif full_disk:
        assert text.startswith("holdfast: the disk is full; nothing that was said to be stored is lost\n"), text
        assert "make space on this disk, then run the same command again" in text


def check_cut_after(ran: Recording, scene: Scene, folder: Path, number: int) -> None:
    """Power is cut just after the error."""
    replayer = Replayer(ran)
    replayer.advance_to(len(ran.events))
    cut = folder / "cut"
    replayer.tree("dropped").write_to(cut / "work")
    with shrunk(scene):
        before = check_vault(cut / "work" / "vault", scene, ran.stdout, cut)
        rerun_and_check(cut / "work" / "vault", scene, before, cut, number=number)


def test_disk_full_is_told_and_running_again_completes(get_scene: GetScene, tmp_path: Path) -> None:
    trouble = full("library/cartridges/*", 1_000_000, short=True)
    check_trouble(get_scene(trouble.scene), trouble, tmp_path / "full", 1, full_disk=True)


@pytest.mark.crash
@pytest.mark.parametrize("trouble", FULL, ids=str)
def test_disk_full_anywhere_is_told_and_running_again_completes(
    get_scene: GetScene, share: float, trouble: Trouble, tmp_path: Path, record_property: Count
) -> None:
    skip_by_share(FULL.index(trouble), share)
    number = FULL.index(trouble)
    check_trouble(get_scene(trouble.scene), trouble, tmp_path / "full", number, full_disk=True)
    record_property("disks full or failing", 1)


@pytest.mark.crash
@pytest.mark.parametrize("trouble", FAILING, ids=str)
def test_a_failing_disk_is_told_and_running_again_completes(
    get_scene: GetScene, share: float, trouble: Trouble, tmp_path: Path, record_property: Count
) -> None:
    skip_by_share(FAILING.index(trouble), share)
    number = FAILING.index(trouble)
    check_trouble(get_scene(trouble.scene), trouble, tmp_path / "failing", number, full_disk=False)
    record_property("disks full or failing", 1)


def test_a_stored_block_that_cannot_be_read_takes_no_pair_after_pair(get_scene: GetScene, tmp_path: Path) -> None:
    """The file is told as failed, all others are proven, and there are two cartridges, not all that can be made."""
    scene = get_scene("night_one")
    vault = cut_after_kept(scene, tmp_path)
    largest = max((vault / "packs").iterdir(), key=lambda path: path.stat().st_size)
    flip_bit(largest, 20_000)
    with shrunk(scene):
        report = archive(vault, scene.archive_request())
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert [error.message for error in report.errors] == ["damaged bytes in the block store"] * len(report.unproven)
    assert 1 <= len(report.unproven) < 9
    assert len(list((vault / "library" / "cartridges").iterdir())) == 2
    assert report.totals["proven"] == len(scene.expected) - len(report.unproven)


@pytest.mark.crash
def test_a_label_that_cannot_be_read_once_fences_no_cartridge(
    get_scene: GetScene, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene("night_one")
    ground = lay_out(scene, tmp_path / "ground")
    fault = Fault(errno.EIO, READS, "vault/library/cartridges/*/00000")
    ran = run_with_fault(ground.archive_command(), fault, ground.work)
    assert ran.returncode == 0
    assert b"got round: " in ran.stdout
    assert b"tape file 0" in ran.stdout
    assert len(os.listdir(ground.vault / "library/cartridges")) == scene.cartridges
    demand_done(run(ground.archive_command()))
    demand_done(run([*ground.restore_command(), "--from", "tape"]))
    check_restored(ground)
    record_property("disks full or failing", 1)


@pytest.mark.crash
def test_a_source_file_that_cannot_be_read_is_told_and_all_others_are_kept(
    get_scene: GetScene, tmp_path: Path, record_property: Count
) -> None:
    scene = get_scene("night_one")
    ground = lay_out(scene, tmp_path / "ground")
    fault = Fault(errno.EIO, READS, "night/own.bin")
    ran = run_with_fault(ground.archive_command(), fault, [ground.work, scene.source])
    assert ran.returncode == EXIT_FAILED
    assert b"FAILED: night/own.bin: the file cannot be read: Input/output error\n" in ran.stdout
    run_again_and_check(ground, {})
    record_property("disks full or failing", 1)


def cut_after_kept(scene: Scene, folder: Path) -> Path:
    """The vault when all was kept and nothing dumped."""
    replayer = Replayer(scene.recording)
    while not replayer.said:
        replayer.advance()
    replayer.tree("dropped").write_to(folder / "work")
    return folder / "work" / "vault"


def skip_by_share(number: int, share: float) -> None:
    if number and number * share % 1 >= share:
        pytest.skip(f"not in the share of {share}")
