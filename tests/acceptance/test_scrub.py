"""Scrubbing the block store: damage is found before the bytes are needed, and put right from tape."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3
from sqlalchemy import insert, select
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences

from holdfast.blocks.packs import Packs
from holdfast.blocks.scrub import scrub_pack
from holdfast.catalog import Catalog, packs, schema
from holdfast.cli.app import run
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_FAILED, EXIT_USAGE, OperatorNeeded
from holdfast.reports import Silent, Stage
from holdfast.restoring import RestoreRequest, restore
from holdfast.restoring.pieces import read_pieces
from holdfast.scrubbing import ScrubRequest, scrub
from holdfast.scrubbing.running import _Run
from holdfast.tape.library import TapeLibrary
from holdfast.tape.recall import TapeContents
from holdfast.testing import flip_bit
from holdfast.values import BlockPlace
from holdfast.work import vault_lock

Capture = pytest.CaptureFixture[str]
LARGE = os.urandom(3_000_000)


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = tmp_path / "night"
    night.mkdir()
    (night / "large").write_bytes(LARGE)
    for number in range(20):
        (night / f"small-{number}").write_bytes(os.urandom(10_000))
    return night


@pytest.fixture
def kept(vault: Path, night: Path, archived: Archive) -> Path:
    """A vault whose night is in the store and on two tapes."""
    archived(night, now=True)
    return vault


def places(vault: Path) -> list[BlockPlace]:
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        return [place for pack in packs.sealed_packs(connection) for place in packs.blocks_of_pack(connection, pack)]


def pack_of(vault: Path, place: BlockPlace) -> Path:
    return vault / "packs" / f"{place.pack_id}.pack"


def check_store(vault: Path, night: Path, to: Path) -> None:
    """All comes back from the store alone, and a scrub finds nothing."""
    report = restore(vault, RestoreRequest(to=to, origin="store"))
    assert (report.exit_code(), report.warnings) == (0, [])
    assert differences(night, to / night.name) == []
    again = scrub(vault, ScrubRequest())
    assert (again.exit_code(), again.damaged_blocks, again.packs) == (0, 0, again.packs_in_store)


def only_packs(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next scrub has time for so many packs."""
    turns = iter([*[False] * count, True])
    monkeypatch.setattr("holdfast.scrubbing.pace.Pace.is_over", lambda _: next(turns))


def damage(vault: Path, place: BlockPlace, *, at: int = 1000) -> None:
    flip_bit(pack_of(vault, place), place.offset_bytes + at)


def pack_files(vault: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (vault / "packs").iterdir()}


def no_dumps(vault: Path) -> None:
    """From now on archives go to the store only."""
    settings = vault / "holdfast.toml"
    settings.write_text(re.sub("start_at = .*", 'start_at = "1 GiB"', settings.read_text()))


def no_tapes(vault: Path) -> None:
    (vault / "library").rename(vault / "library-elsewhere")


def test_a_good_store_is_read_in_full(kept: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert run(["scrub", "--json", "--vault", str(kept)]) == 0
    report = json.loads(capsys.readouterr().out)
    count = len(list((kept / "packs").iterdir()))
    assert (report["packs"], report["packs_in_store"], report["damaged_blocks"]) == (count, count, 0)
    assert report["read_bytes"] == sum(place.locator.size_bytes for place in places(kept)) == 3_200_000


@pytest.mark.parametrize("where", ["payload", "header", "table", "first and last piece"])
def test_law_7_a_damaged_block_is_put_right_from_tape(
    kept: Path, night: Path, tmp_path: Path, where: str, capsys: Capture
) -> None:
    for place in places(kept):
        size = place.locator.size_bytes
        at = {"payload": [128 + size // 2], "header": [60], "table": [128 + size + 3]}
        for offset in at.get(where, [128, 128 + size - 1]):
            flip_bit(pack_of(kept, place), place.offset_bytes + offset)
    damaged = len(places(kept))
    before = {path: path.read_bytes() for path in (kept / "packs").iterdir()}
    capsys.readouterr()
    assert run(["scrub", "--vault", str(kept)]) == 0
    said = capsys.readouterr().out
    assert f"{damaged} damaged blocks, {damaged} repaired" in said
    assert {path: path.read_bytes() for path in before} == before  # nothing is written over
    check_store(kept, night, tmp_path / "back")


def test_a_pack_that_is_missing_is_replaced_only_when_it_is_said_to_be_lost(
    kept: Path, night: Path, tmp_path: Path, capsys: Capture
) -> None:
    lost = [place for place in places(kept) if place.pack_id == places(kept)[0].pack_id]
    path = pack_of(kept, lost[0])
    path.rename(tmp_path / "away")
    before = {*(kept / "packs").iterdir()}
    for _ in range(2):
        report = scrub(kept, ScrubRequest())
        assert (report.exit_code(), report.repaired_blocks, report.unread_packs) == (EXIT_DATA_AT_RISK, 0, 1)
        (error,) = report.errors  # one, not one for each block
        assert "is its disk mounted?" in error.message
        assert error.place == str(path)
        assert "--replace-lost" in (error.hint or "")
        assert {*(kept / "packs").iterdir()} == before
    assert run(["scrub", "--replace-lost", "--vault", str(kept)]) == 0
    assert f"{len(lost)} repaired" in capsys.readouterr().out
    check_store(kept, night, tmp_path / "back")


def test_a_store_whose_packs_are_all_lost_is_put_together_when_it_is_said_to_be(
    kept: Path, night: Path, tmp_path: Path
) -> None:
    for path in (kept / "packs").iterdir():
        path.unlink()
    count = len(places(kept))
    report = scrub(kept, ScrubRequest(replace_lost=True))
    assert (report.exit_code(), report.repaired_blocks) == (0, count)
    check_store(kept, night, tmp_path / "back")


def test_a_disk_that_drops_out_in_mid_run_is_not_shadowed(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pack was read, and damaged; when its block is to be laid down again, its folder is a bare mount point."""
    place = places(kept)[0]
    flip_bit(pack_of(kept, place), place.offset_bytes + 1000)

    def drop_out(*args: object) -> dict[object, object]:
        (kept / "packs").rename(tmp_path / "disk")
        (kept / "packs").mkdir()
        return read_pieces(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.scrubbing.repairing.read_pieces", drop_out)
        report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks) == (EXIT_DATA_AT_RISK, 0)
    assert any("is its disk mounted?" in error.message for error in report.errors)
    assert list((kept / "packs").iterdir()) == []
    (kept / "packs").rmdir()
    (tmp_path / "disk").rename(kept / "packs")
    assert scrub(kept, ScrubRequest()).repaired_blocks == 1


def test_what_was_put_right_survives_the_loss_of_the_catalog(
    kept: Path, night: Path, tmp_path: Path, archived: Archive
) -> None:
    place = max(places(kept), key=lambda item: item.locator.size_bytes)
    flip_bit(pack_of(kept, place), place.offset_bytes + 1000)
    assert scrub(kept, ScrubRequest()).repaired_blocks == 1
    shutil.rmtree(kept / "catalog")
    (kept / "catalog").mkdir()
    assert run(["rebuild", "--vault", str(kept)]) == 0
    check_store(kept, night, tmp_path / "back")


def test_damage_that_nobody_can_repair_is_told_each_time(vault: Path, night: Path, archived: Archive) -> None:
    no_dumps(vault)
    archived(night)
    shutil.rmtree(night)
    place = max(places(vault), key=lambda item: item.offset_bytes)  # small files lie together, in the last block
    flip_bit(pack_of(vault, place), place.offset_bytes + 1000)
    for _ in range(2):
        report = scrub(vault, ScrubRequest())
        assert (report.exit_code(), report.damaged_blocks, report.repaired_blocks) == (EXIT_DATA_AT_RISK, 1, 0)
        (error,) = report.errors
        assert str(place.locator) in str(error)
        assert "could not be repaired: night/" in (error.hint or "")
        assert "no copy on tape can be read" in (error.hint or "")
        assert "No such file" in (error.hint or "")
        named = re.search(r"in use by (night/\S+), (night/\S+), (night/\S+) and (\d+) other files", error.found or "")
        assert named is not None
        assert int(named[4]) >= 7


def test_only_telling_mounts_no_tape_and_writes_nothing(kept: Path, capsys: Capture) -> None:
    place = places(kept)[0]
    flip_bit(pack_of(kept, place), place.offset_bytes + 1000)
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if not {"state", "catalog"} & {*path.parts}}
    assert run(["scrub", "--no-repair", "--vault", str(kept)]) == EXIT_DATA_AT_RISK
    assert "holdfast scrub repairs it" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_was_read_longest_ago_comes_first_and_a_limit_ends_it(
    vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (night / f"more-{number}").write_bytes(os.urandom(50_000))
        archived(night)
    read: list[object] = []

    def note(packs: Packs, pack: object, places: object) -> Iterator[object]:
        read.append(pack)
        return iter(())

    monkeypatch.setattr("holdfast.scrubbing.running.scrub_pack", note)
    scrub(vault, ScrubRequest())
    count = len({place.pack_id for place in places(vault)})
    assert len({*read}) == len(read) == count >= 3
    first, read[:] = list(read), []
    for _ in range(3 * count):
        only_packs(1, monkeypatch)
        assert scrub(vault, ScrubRequest()).packs == 1
    assert read[: count + 1] == [*first, first[0]]


def test_a_rate_is_kept(kept: Path) -> None:
    begun = time.monotonic()
    report = scrub(kept, ScrubRequest(rate_bytes_s=10_000_000))
    assert time.monotonic() - begun >= report.read_bytes / 10_000_000


def test_a_damaged_state_stops_no_scrub(kept: Path) -> None:
    for path in (kept / "state").glob("state.db*"):
        path.write_bytes(b"no database" * 1000)
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.packs, len(report.warnings)) == (0, report.packs_in_store, 1)


def test_reading_goes_on_beside_others_and_repairing_waits_for_the_vault(kept: Path, capsys: Capture) -> None:
    with vault_lock(kept / "vault.lock", "archive"):
        assert run(["scrub", "--vault", str(kept)]) == 0
        place = places(kept)[0]
        flip_bit(pack_of(kept, place), place.offset_bytes + 1000)
        assert run(["scrub", "--vault", str(kept)]) == EXIT_DATA_AT_RISK
        told = capsys.readouterr().err
        assert "the vault is in use" in told
        assert str(place.locator) in told
    assert run(["scrub", "--vault", str(kept)]) == 0
    assert "1 repaired" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--for", "3 weeks"], ["--for", "-1s"], ["--rate", "fast"], ["--rate", "0"]])
def test_wrong_limits_are_told(vault: Path, arguments: list[str], capsys: Capture) -> None:
    assert run(["scrub", *arguments, "--vault", str(vault)]) == EXIT_USAGE
    assert "expected" in capsys.readouterr().err


def test_what_is_damaged_stays_due_until_it_is_repaired(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = places(kept)[-1]
    flip_bit(pack_of(kept, place), place.offset_bytes + 1000)
    with vault_lock(kept / "vault.lock", "archive"):
        assert scrub(kept, ScrubRequest()).exit_code() == EXIT_DATA_AT_RISK
    only_packs(2, monkeypatch)
    limited = scrub(kept, ScrubRequest())
    assert (limited.exit_code(), limited.packs, limited.repaired_blocks) == (0, 2, 1)


def test_a_block_is_repaired_though_a_content_of_it_is_only_in_the_store(
    vault: Path, tmp_path: Path, archived: Archive
) -> None:
    """The bytes that two contents share are on tape with one of them."""
    same = os.urandom(256 * 1024)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(same + os.urandom(200_000))
    archived(tmp_path / "one", now=True)
    no_dumps(vault)
    archived(tmp_path / "two")
    shared = next(place for place in places(vault) if place.locator.blake3 == blake3(same).digest())
    flip_bit(pack_of(vault, shared), shared.offset_bytes + 1000)
    report = scrub(vault, ScrubRequest())
    assert (report.exit_code(), report.damaged_blocks, report.repaired_blocks) == (0, 1, 1)


def test_each_content_is_read_once_and_each_pair_mounted_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = places(kept)[0]
    damaged = [place for place in places(kept) if place.pack_id == first.pack_id]
    for place in damaged:
        flip_bit(pack_of(kept, place), place.offset_bytes + 1000)
    read, mounted = list[object](), list[object]()
    read_any, mounted_sides = TapeContents.read_any, TapeLibrary.mounted_sides
    monkeypatch.setattr(TapeContents, "read_any", lambda *args: read.append(args[2]) or read_any(*args))
    monkeypatch.setattr(
        TapeLibrary, "mounted_sides", lambda *args, **more: mounted.append(args) or mounted_sides(*args, **more)
    )
    assert scrub(kept, ScrubRequest()).repaired_blocks == len(damaged) > 1
    assert len(read) == len({*read})
    assert len(mounted) == 1


def test_a_full_scratch_disk_is_told_and_the_reading_goes_on(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in places(kept):
        flip_bit(pack_of(kept, place), place.offset_bytes + 1000)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("holdfast.durable.write_all_at", full)
    report = scrub(kept, ScrubRequest())
    assert (report.packs, report.repaired_blocks, report.damaged_blocks) == (
        report.packs_in_store,
        0,
        len(places(kept)),
    )
    assert "the disk is full" in str(report.errors[0])
    assert report.exit_code() == EXIT_DATA_AT_RISK


def test_packs_that_are_all_gone_are_a_disk_that_is_not_mounted(kept: Path, capsys: Capture) -> None:
    (kept / "packs").rename(kept / "elsewhere")
    (kept / "packs").mkdir()
    assert run(["scrub", "--vault", str(kept)]) == EXIT_FAILED
    assert "is its disk mounted?" in capsys.readouterr().err
    assert list((kept / "packs").iterdir()) == []


def test_a_pack_that_cannot_be_looked_for_is_no_damage(kept: Path) -> None:
    place = places(kept)[0]
    with pytest.raises(NotADirectoryError):
        list(scrub_pack(Packs(kept / "holdfast.toml"), place.pack_id, [place]))


def test_a_repair_on_a_full_disk_leaves_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(kept, places(kept)[0])
    before = pack_files(kept)
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.blocks.packfile.os.writev", lambda descriptor, parts: os.write(descriptor, parts[0]))

        def full(descriptor: int, data: memoryview) -> None:
            if len(data) > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            os.write(descriptor, data)

        patch.setattr("holdfast.durable.write_all", full)
        for _ in range(2):
            report = scrub(kept, ScrubRequest())
            assert report.exit_code() == EXIT_DATA_AT_RISK
            assert "the disk is full" in str(report.errors[0])
            assert pack_files(kept) == before
    assert scrub(kept, ScrubRequest()).repaired_blocks == 1


def test_a_block_that_cannot_be_repaired_takes_not_all_of_the_time(
    vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_dumps(vault)
    for number in range(4):
        (night / f"more-{number}").write_bytes(os.urandom(50_000))
        archived(night)
    shutil.rmtree(night)
    damage(vault, places(vault)[0])
    assert scrub(vault, ScrubRequest()).exit_code() == EXIT_DATA_AT_RISK
    read: list[uuid.UUID] = []
    monkeypatch.setattr(
        _Run,
        "_read_blocks",
        lambda run, pack, places, real=_Run._read_blocks: read.append(pack) or real(run, pack, places),
    )
    for _ in range(2 * len(pack_files(vault))):
        only_packs(1, monkeypatch)
        scrub(vault, ScrubRequest())
    assert {*read} == {place.pack_id for place in places(vault)}
    assert read.count(places(vault)[0].pack_id) >= len(pack_files(vault)) - 1


def add_unneeded(vault: Path, place: BlockPlace) -> None:
    """A block that no content names, in the pack of another one, as of a file that changed while it was read."""
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.transaction() as connection:
        row = connection.scalar(select(schema.pack.c.id).where(schema.pack.c.uuid == place.pack_id.bytes))
        values = {"blake3": os.urandom(32), "size_bytes": 1000, "pack_id": row, "offset_bytes": place.offset_bytes}
        connection.execute(insert(schema.block).values(values))


def test_a_damaged_block_that_nothing_needs_is_no_error(kept: Path) -> None:
    add_unneeded(kept, places(kept)[0])
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.damaged_blocks, report.repaired_blocks) == (0, 1, 0)
    assert "nothing needs it" in (report.warnings[0].hint or "")


def test_a_lost_pack_that_was_replaced_is_missed_no_more_for_what_nothing_needs(kept: Path) -> None:
    place = places(kept)[0]
    add_unneeded(kept, place)
    pack_of(kept, place).unlink()
    assert scrub(kept, ScrubRequest()).exit_code() == EXIT_DATA_AT_RISK
    assert scrub(kept, ScrubRequest(replace_lost=True)).exit_code() == 0
    again = scrub(kept, ScrubRequest())
    assert (again.exit_code(), again.unread_packs) == (0, 0)
    assert "nothing needs it" in (again.warnings[0].hint or "")


def test_a_pack_that_cannot_be_opened_stops_no_other(kept: Path, capsys: Capture) -> None:
    lame = pack_of(kept, places(kept)[0])
    other = next(place for place in places(kept) if pack_of(kept, place) != lame)
    damage(kept, other)
    lame.unlink()
    lame.symlink_to(lame.name)
    assert run(["scrub", "--vault", str(kept)]) == EXIT_DATA_AT_RISK
    told = capsys.readouterr()
    assert "1 damaged block, 1 repaired, 1 pack not read" in told.out
    assert str(lame) in told.err
    assert "cannot be read" in told.err


def test_a_pack_that_the_disk_does_not_find_is_replaced_only_when_it_is_said_to_be_lost(
    kept: Path, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [place for place in places(kept) if place.pack_id == places(kept)[0].pack_id]
    path, real = pack_of(kept, lost[0]), os.open

    def bad_sector(name: object, *args: object, **more: object) -> int:
        if name == path:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(name, *args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.blocks.backends.posix.os.open", bad_sector)
        report = scrub(kept, ScrubRequest())
        assert (report.exit_code(), report.repaired_blocks, report.unread_packs) == (EXIT_DATA_AT_RISK, 0, 1)
        assert "--replace-lost" in (report.errors[0].hint or "")
        assert scrub(kept, ScrubRequest(replace_lost=True)).repaired_blocks == len(lost)
    check_store(kept, night, tmp_path / "back")


def test_a_disk_that_is_read_only_is_told_and_so_is_what_is_damaged(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in places(kept):
        damage(kept, place)

    def read_only(path: Path) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("holdfast.durable.create_file", read_only)
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.packs) == (EXIT_DATA_AT_RISK, report.packs_in_store)
    told = [error for error in report.errors if "Read-only file system" in str(error)]
    assert {error.place for error in told} == {str(pack_of(kept, place)) for place in places(kept)}
    assert len(report.errors) == len(told) + len(places(kept))


def test_a_repair_that_was_killed_before_it_was_told_needs_no_tape(
    kept: Path, night: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damage(kept, places(kept)[0])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.catalog.packs.move_block", killed)
        with pytest.raises(KeyboardInterrupt):
            scrub(kept, ScrubRequest())
    no_tapes(kept)
    night.rename(tmp_path / "gone")
    before = {*pack_files(kept)}
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks) == (0, 1)
    assert {*pack_files(kept)} == before  # nothing was copied
    (tmp_path / "gone").rename(night)
    check_store(kept, night, tmp_path / "back")


def test_what_is_on_no_tape_is_taken_from_its_source(
    vault: Path, night: Path, tmp_path: Path, archived: Archive
) -> None:
    no_dumps(vault)
    archived(night)
    for place in places(vault):
        damage(vault, place)
    report = scrub(vault, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks) == (0, len({place.locator for place in places(vault)}))
    check_store(vault, night, tmp_path / "back")


def test_a_source_that_changed_is_not_taken(vault: Path, night: Path, archived: Archive) -> None:
    no_dumps(vault)
    archived(night)
    for path in night.iterdir():
        path.write_bytes(os.urandom(path.stat().st_size))
    damage(vault, places(vault)[0])
    report = scrub(vault, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks) == (EXIT_DATA_AT_RISK, 0)
    assert "it has other bytes" in (report.errors[0].hint or "")


def test_what_somebody_else_repaired_meanwhile_is_left_alone(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(kept, places(kept)[0])
    repair, after = _Run._repair, list[object]()

    def second(*args: object) -> object:
        monkeypatch.setattr(_Run, "_repair", repair)
        assert scrub(kept, ScrubRequest()).repaired_blocks == 1
        after.extend((pack_files(kept), places(kept)))
        no_tapes(kept)
        return repair(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_Run, "_repair", second)
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks) == (0, 0)
    assert [pack_files(kept), places(kept)] == after


def test_what_is_whole_when_read_again_is_left_alone(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(kept, places(kept)[0])
    before, repair = pack_files(kept), _Run._repair

    def healed(*args: object) -> object:
        damage(kept, places(kept)[0])
        return repair(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_Run, "_repair", healed)
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks, pack_files(kept)) == (0, 0, before)
    assert "whole when read again" in (report.warnings[0].hint or "")


def test_bytes_of_a_bad_copy_replace_no_good_ones(vault: Path, tmp_path: Path, archived: Archive) -> None:
    """All of a block is in doubt; one of its contents is good on tape, the other one in what the disk still gives."""
    night = tmp_path / "night"
    night.mkdir()
    one, other = os.urandom(60_000), os.urandom(60_000)
    (night / "one").write_bytes(one)
    (night / "other").write_bytes(other)
    archived(night, now=True)
    (place,) = places(vault)
    payload = pack_of(vault, place).read_bytes()[place.offset_bytes + 128 :]
    damage(vault, place, at=128 + payload.index(one) + 30_000)
    for number in range(0, 8 * 3, 8):  # its table
        damage(vault, place, at=128 + place.locator.size_bytes + number)
    for path in (vault / "library").rglob("*"):
        if path.is_file() and (at := path.read_bytes().find(other)) >= 0:
            flip_bit(path, at + 30_000)
    (night / "other").unlink()
    report = scrub(vault, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks) == (0, 1)


def test_sums_that_mislead_are_not_believed_in_the_end(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its sums another piece is bad than is: the digest says that it was not enough, and all of it is fetched."""
    place = max(places(kept), key=lambda item: item.locator.size_bytes)
    damage(kept, place, at=128 + place.locator.size_bytes - 1000)
    monkeypatch.setattr("holdfast.blocks.scrub._bad_pieces", lambda *_: ((0, 65_536),))
    assert scrub(kept, ScrubRequest()).repaired_blocks == 1


def test_blocks_that_need_no_tape_do_not_wait_for_the_library(
    kept: Path, night: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(night)
    same_pack = [place for place in places(kept) if place.pack_id == places(kept)[0].pack_id]
    damage(kept, same_pack[0], at=60)  # its head only
    damage(kept, same_pack[1])

    def no_library(*_: object) -> None:
        raise OperatorNeeded("the changer does not answer")

    monkeypatch.setattr("holdfast.restoring.pieces.TapeLibrary", no_library)
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks) == (EXIT_DATA_AT_RISK, 1)
    (error,) = report.errors
    assert str(same_pack[1].locator) in str(error)
    assert "night/" in (error.hint or "")
    assert "the changer does not answer" in (error.hint or "")


def test_law_9_repairs_are_made_in_batches_and_pages(
    kept: Path, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (kept / "packs").iterdir():
        path.unlink()
    monkeypatch.setattr("holdfast.scrubbing.repairing.BATCH_BYTES", 300_000)
    monkeypatch.setattr("holdfast.scrubbing.repairing.PAGE_CONTENTS", 3)
    most = list[int]()
    monkeypatch.setattr(
        "holdfast.scrubbing.repairing.read_pieces", lambda *args: most.append(len(args[1])) or read_pieces(*args)
    )
    assert scrub(kept, ScrubRequest(replace_lost=True)).exit_code() == 0
    assert max(most) < 2 * 3
    check_store(kept, night, tmp_path / "back")


def test_law_9_reports_are_bounded(kept: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.scrubbing.findings.KEPT", 2)
    for place in places(kept):
        damage(kept, place)
    count = len(places(kept))
    assert run(["scrub", "--no-repair", "--json", "--vault", str(kept)]) == EXIT_DATA_AT_RISK
    report = json.loads(capsys.readouterr().out)
    assert (len(report["errors"]), report["damaged_blocks"], report["totals"]["errors"]) == (2, count, count)
    assert run(["scrub", "--no-repair", "--vault", str(kept)]) == EXIT_DATA_AT_RISK
    assert f"and {count - 2} more" in capsys.readouterr().out


class Stopping(Silent):
    """Ctrl-C comes as soon as a tape is read."""

    def __init__(self) -> None:
        self.is_asked = False

    @contextmanager
    def stage(self, name: str, total_bytes: int = 0) -> Generator[Stage, None, None]:
        stage = Stage(name, total_bytes)
        advance = stage.advance

        def check(count_bytes: int) -> None:
            if self.is_asked:
                raise KeyboardInterrupt
            advance(count_bytes)

        stage.advance = check  # type: ignore[method-assign]
        yield stage


def test_a_repair_is_stopped_while_a_tape_is_read(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = places(kept)[0]
    damage(kept, place)
    before, watch, read_any = pack_files(kept), Stopping(), TapeContents.read_any
    read = list[object]()

    def asked(*args: object) -> object:
        watch.is_asked = True
        read.append(args[2])
        return read_any(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TapeContents, "read_any", asked)
        with pytest.raises(KeyboardInterrupt):
            scrub(kept, ScrubRequest(), watch)
    assert len(read) == 1
    assert pack_files(kept) == before
    assert scrub(kept, ScrubRequest()).repaired_blocks == 1
