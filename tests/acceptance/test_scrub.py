"""Scrubbing the block store: damage is found before the bytes are needed, and put right from tape."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences

from holdfast.blocks.packs import Packs
from holdfast.blocks.scrub import scrub_pack
from holdfast.catalog import Catalog, files
from holdfast.cli.app import run
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_FAILED, EXIT_USAGE
from holdfast.restoring import RestoreRequest, restore
from holdfast.scrubbing import ScrubRequest, scrub
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
        return [place for pack in files.sealed_packs(connection) for place in files.blocks_of_pack(connection, pack)]


def pack_of(vault: Path, place: BlockPlace) -> Path:
    return vault / "packs" / f"{place.pack_id}.pack"


def check_store(vault: Path, night: Path, to: Path) -> None:
    """All comes back from the store alone, and a scrub finds nothing."""
    report = restore(vault, RestoreRequest(to=to, origin="store"))
    assert (report.exit_code(), report.warnings) == (0, [])
    assert differences(night, to / night.name) == []
    again = scrub(vault, ScrubRequest())
    assert (again.exit_code(), again.damaged_blocks, again.packs) == (0, 0, again.packs_in_store)


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


def test_a_pack_that_is_gone_is_put_right_from_tape(kept: Path, night: Path, tmp_path: Path) -> None:
    lost = [place for place in places(kept) if place.pack_id == places(kept)[0].pack_id]
    pack_of(kept, lost[0]).unlink()
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.repaired_blocks) == (0, len(lost))
    check_store(kept, night, tmp_path / "back")


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
    archived(night)
    shutil.rmtree(vault / "library", ignore_errors=True)
    place = places(vault)[0]
    flip_bit(pack_of(vault, place), place.offset_bytes + 1000)
    for _ in range(2):
        report = scrub(vault, ScrubRequest())
        assert (report.exit_code(), report.damaged_blocks, report.repaired_blocks) == (EXIT_DATA_AT_RISK, 1, 0)
        assert str(place.locator) in str(report.errors[0])
        assert "could not be repaired" in (report.errors[0].hint or "")


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

    monkeypatch.setattr("holdfast.scrubbing.scrub_pack", note)
    count = scrub(vault, ScrubRequest()).packs_in_store
    assert len({*read}) == len(read) == count >= 3
    first, read[:] = list(read), []
    for _ in range(count + 1):
        turns = iter([False, True])
        monkeypatch.setattr("holdfast.scrubbing._Pace.is_over", lambda _, turns=turns: next(turns))
        assert scrub(vault, ScrubRequest()).packs == 1
    assert read == [*first, first[0]]


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
    turns = iter([False, True])
    monkeypatch.setattr("holdfast.scrubbing._Pace.is_over", lambda _: next(turns))
    limited = scrub(kept, ScrubRequest())
    assert (limited.exit_code(), limited.packs, limited.repaired_blocks) == (0, 1, 1)


def test_a_block_is_repaired_though_a_content_of_it_is_only_in_the_store(
    vault: Path, tmp_path: Path, archived: Archive
) -> None:
    """The bytes that two contents share are on tape with one of them."""
    same = os.urandom(256 * 1024)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(same + os.urandom(200_000))
    archived(tmp_path / "one", now=True)
    settings = vault / "holdfast.toml"
    settings.write_text(re.sub("start_at = .*", 'start_at = "1 GiB"', settings.read_text()))
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
