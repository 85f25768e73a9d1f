"""Two drives on one virtual time, under the real command."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from holdfast.config import InitOptions, init_vault
from holdfast.journey import ArchiveRequest, archive
from holdfast.tape.drive.timing import LTO_6, LTO_9, MB
from holdfast.testing.tapetime import LibraryClock, timed_library

SMALL = InitOptions(
    block_size="64 KiB",
    pack_size="1 MiB",
    cartridge_capacity="64 MiB",
    record_size="256 KiB",
    object_size="1 MiB",
    commit_every="2 MiB",
)


def archived(folder: Path, clock: LibraryClock) -> None:
    source = folder / "night"
    source.mkdir(parents=True)
    for number in range(8):
        (source / f"{number}.bin").write_bytes(bytes([number]) * 900_000)
    init_vault(folder / "vault", SMALL)
    with timed_library(clock):
        report = archive(folder / "vault", ArchiveRequest(paths=(source,)))
    assert report.exit_code() == 0


def test_the_same_archive_takes_the_same_virtual_time_however_its_threads_run(tmp_path: Path) -> None:
    clocks = [LibraryClock(LTO_6, scale=1000) for _ in range(3)]
    for number, clock in enumerate(clocks):
        archived(tmp_path / str(number), clock)
    assert clocks[0].now_s == pytest.approx(clocks[1].now_s) == pytest.approx(clocks[2].now_s)
    one, other = clocks[0].counts()
    assert one.loads == other.loads == 2  # to be written, and swapped, to be read back
    assert one.written_bytes == other.written_bytes > 7.2e9
    assert one.synchronous_marks == other.synchronous_marks >= 5
    assert one.back_hitches == other.back_hitches == 0


def test_both_drives_work_at_the_same_time_and_the_robot_at_one_drive_after_the_other(tmp_path: Path) -> None:
    clock = LibraryClock(LTO_6, scale=10_000)
    archived(tmp_path, clock)
    for counts in clock.counts():
        work = counts.seconds["write"] + counts.seconds["read"]
        assert work > 900
        assert clock.now_s < 2 * work
    both = [sum(item.seconds[kind] for kind in ("load", "unload")) for item in clock.counts()]
    assert clock.now_s > sum(both)


def test_a_slow_host_is_told_of_by_its_back_hitches(tmp_path: Path) -> None:
    clock = LibraryClock(LTO_9, scale=10_000, host_bytes_s=50 * MB)
    archived(tmp_path, clock)
    assert all(item.back_hitches > 10 for item in clock.counts())


def test_a_commit_waits_for_the_slower_side() -> None:
    clock = LibraryClock(LTO_6)
    quick, slow = clock.timers.values()
    slow.host_bytes_s = 10 * MB

    def commit() -> None:
        for timer, size in ((quick, MB), (slow, 100 * MB)):
            timer.wrote(0, size)
            timer.marked(synchronous=True)
        quick.wrote(MB, MB)

    thread = threading.Thread(target=commit)
    thread.start()
    thread.join()
    assert quick.counts.seconds["wait"] == pytest.approx(slow.now_s - 1 / 160 - 3)
    assert clock.now_s == pytest.approx(slow.now_s, rel=1e-3)
