"""How runs end: what is wrong in one place is told, the rest is done all the same, and the report says what is so."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences

from holdfast.catalog import Catalog, tapes
from holdfast.cli.app import run
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_FAILED, EXIT_OPERATOR, MediaError, OperatorNeeded
from holdfast.handling import fence
from holdfast.journey import verify
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.changer import VirtualChanger
from holdfast.tape.drive import VirtualDrive
from holdfast.testing import flip_bit


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = tmp_path / "night"
    night.mkdir()
    (night / "first").write_bytes(os.urandom(100_000))
    return night


def bytes_of(vault: Path, barcodes: list[str]) -> dict[Path, bytes]:
    folders = [vault / "library/cartridges" / barcode for barcode in barcodes]
    return {path: path.read_bytes() for folder in folders for path in folder.iterdir()}


def fenced(vault: Path) -> list[str]:
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        now = [item for pair in tapes.all_pairs(connection) for item in pair.cartridges]
        return [item.barcode for item in (*now, *tapes.replaced_cartridges(connection)) if item.fenced]


# -- one pair that cannot be written on


def _older(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))


def _of_another_tape(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["blake3"] = "00" * 32
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _contradicting_itself(path: Path) -> None:
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


@pytest.mark.parametrize("spoil", [_older, _of_another_tape, _contradicting_itself, Path.unlink])
def test_law_5_a_pair_that_disagrees_with_its_journal_is_told_and_the_others_are_written(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, spoil: object
) -> None:
    barcodes = archived(night).written_on
    spoil(vault / "journals" / f"{barcodes[1]}.jsonl")  # type: ignore[operator]
    before = bytes_of(vault, barcodes)
    (night / "later").write_bytes(b"later")
    report = archived(night)
    assert (report.exit_code(), len(report.errors)) == (EXIT_DATA_AT_RISK, 1), [str(e) for e in report.errors]
    (error,) = report.errors
    assert barcodes[1] in str(error.place)
    assert error.hint
    assert bytes_of(vault, barcodes) == before
    assert (report.unproven, set(report.written_on) & set(barcodes)) == ([], set())
    assert fenced(vault) == []  # the tapes are as they were: what is wrong can be mended
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).exit_code() == 0
    assert differences(night, tmp_path / "back" / "night") == []


# -- a drive that does not give its cartridge back


@contextmanager
def jammed(serial: str) -> Iterator[None]:
    """What was loaded into this drive stays there; it can be read."""
    whole = VirtualChanger.unload

    def unload(self: VirtualChanger, drive: str) -> None:
        if drive == serial and self.inventory().drives[drive] is not None:
            raise MediaError("the drive does not give its cartridge back", place=drive, hint="call the service")
        whole(self, drive)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualChanger, "unload", unload)
        yield


@pytest.fixture
def two_pairs(vault: Path, night: Path, archived: Archive) -> list[str]:
    """The barcodes of two pairs that hold a file each, beside folders with times of their own and hard links."""
    (night / "folder").mkdir()
    os.utime(night / "folder", (1, 1))
    os.link(night / "first", night / "linked")
    first = archived(night).written_on
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.transaction() as connection:
        (pair,) = tapes.all_pairs(connection)
        tapes.set_pair_state(connection, pair.id, "full")
    (night / "second").write_bytes(os.urandom(100_000))
    return first + archived(night).written_on


@pytest.mark.parametrize("serial", ["VDRIVE-0", "VDRIVE-1"])
def test_a_restore_goes_on_with_the_other_drive_and_ends_whole(
    tmp_path: Path, vault: Path, night: Path, two_pairs: list[str], serial: str
) -> None:
    with jammed(serial):
        report = restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert len(two_pairs) == 4
    assert (report.exit_code(), report.errors, report.files) == (0, [], 3)
    assert {error.message for error in report.warnings} == {"the drive does not give its cartridge back"}
    assert differences(night, tmp_path / "back" / "night") == []


@pytest.mark.parametrize("serial", ["VDRIVE-0", "VDRIVE-1"])
def test_a_cartridge_that_only_the_jammed_drive_would_have_read_is_read_in_the_other(
    tmp_path: Path, vault: Path, night: Path, two_pairs: list[str], serial: str
) -> None:
    """The side of the second pair that goes into the working drive is the one that is damaged."""
    damaged = two_pairs[3] if serial == "VDRIVE-0" else two_pairs[2]
    for path in (vault / "library/cartridges" / damaged).glob("0000[1-9]"):
        flip_bit(path, path.stat().st_size // 4)
    with jammed(serial):
        report = restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert (report.exit_code(), report.errors, report.from_twin) == (0, [], 1)
    assert differences(night, tmp_path / "back" / "night") == []


def test_verify_reports_what_it_read_though_a_drive_is_jammed(vault: Path, night: Path, two_pairs: list[str]) -> None:
    with jammed("VDRIVE-1"):
        report = verify(vault, (), everything=True)
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert report.cartridges == two_pairs
    assert report.totals["proven"] == report.totals["versions"]
    assert {error.message for error in report.errors} == {"the drive does not give its cartridge back"}


# -- what is read again, and how it is counted


def test_a_pair_that_was_not_read_as_nobody_put_it_in_is_not_read_again(
    vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, whole = Counter[str](), VirtualChanger.load

    def load(self: VirtualChanger, barcode: str, drive: str) -> VirtualDrive:
        loaded[barcode] += 1
        if barcode == "HF0002L8" and loaded[barcode] > 1:
            raise OperatorNeeded("nobody put it in", place=barcode, hint="put it in, then run the same command again")
        return whole(self, barcode, drive)

    monkeypatch.setattr(VirtualChanger, "load", load)
    report = archived(night)
    assert (report.exit_code(), [error.place for error in report.errors]) == (EXIT_OPERATOR, ["HF0002L8"])
    assert loaded == {"HF0001L8": 2, "HF0002L8": 2}
    assert (report.tape_files, report.committed_tape_files) == (4, 8)


def test_a_pair_that_is_read_twice_in_one_run_is_counted_once(vault: Path, night: Path, archived: Archive) -> None:
    archived(night)
    path = vault / "library/cartridges/HF0002L8/00001"
    flip_bit(path, path.stat().st_size // 4)
    assert verify(vault, (), everything=True).exit_code() == EXIT_DATA_AT_RISK
    report = archived(night)
    assert (report.exit_code(), report.unproven) == (0, [])
    assert report.cartridges == ["HF0001L8", "HF0002L8", "HF0003L8"]
    assert report.committed_tape_files == sum(
        len(list((vault / "library/cartridges" / barcode).glob("0*"))) for barcode in report.cartridges
    )


# -- what is gone from its source, and proven no more


@pytest.mark.parametrize("how", ["deleted", "changed"])
def test_law_4_what_lost_its_proofs_and_its_source_is_told(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept in place only, on one pair, of which both sides are taken out of use; a copy on them is readable still."""
    first = (night / "first").read_bytes()
    barcodes = archived(night, in_place=True).written_on
    before_ns = time.time_ns()
    if how == "deleted":
        (night / "first").unlink()
    else:
        (night / "first").write_bytes(b"another measurement")
    (night / "later").write_bytes(b"later")
    healthy = archived(night, in_place=True)
    assert (healthy.exit_code(), healthy.gone_unproven) == (0, [])
    assert run(["status", "--vault", str(vault)]) == 0
    for barcode in barcodes:
        fence(vault, barcode, "it was dropped")
    capsys.readouterr()

    assert run(["archive", str(night), "--in-place", "--vault", str(vault)]) == EXIT_FAILED
    told = capsys.readouterr().out
    assert "NOT PROVEN, AND GONE FROM ITS SOURCE: night/first\n" in told
    assert "1 that are gone from their source have not" in told
    assert "NOT PROVEN: " not in told  # what is present was written anew
    assert run(["status", "--vault", str(vault)]) == EXIT_DATA_AT_RISK
    told = capsys.readouterr().out
    assert "AT RISK     1 files are gone from their source" in told
    assert "night/first" in told
    assert "holdfast restore NAME --as-of" in told

    back = tmp_path / "back"
    assert restore(vault, RestoreRequest(to=back, as_of_ns=before_ns, patterns=("night/first",))).exit_code() == 0
    assert (back / "night/first").read_bytes() == first
    report = archived(back)
    assert (report.exit_code(), report.gone_unproven) == (0, [])
    assert run(["status", "--vault", str(vault), "--json"]) == 0


def test_what_the_store_still_has_is_written_again_though_it_is_gone_from_its_source(
    vault: Path, night: Path, archived: Archive
) -> None:
    barcodes = archived(night).written_on
    (night / "first").rename(night / "other")
    (night / "other").write_bytes(b"other")
    for barcode in barcodes:
        fence(vault, barcode, "it was dropped")
    report = archived(night)
    assert (report.exit_code(), report.gone_unproven, report.kept.ended > 0) == (0, [], True)
