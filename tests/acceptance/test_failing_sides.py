"""One side of a pair fails: the other goes on, and in the end there are two good ones again."""

from __future__ import annotations

import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.nights import differences

from holdfast.catalog import Catalog, proof, tapes
from holdfast.config import InitOptions, init_vault, open_vault
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_OPERATOR, HoldfastError, MediaError, OperatorNeeded
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.reports import ArchiveReport
from holdfast.restoring import RestoreRequest, cat, restore
from holdfast.tape import dump, pairs
from holdfast.tape.changer import VirtualChanger
from holdfast.tape.drive import VirtualDrive
from holdfast.tape.drive.virtual import data_path
from holdfast.tape.library import TapeLibrary
from holdfast.testing import flip_bit
from holdfast.values import Side

OPTIONS = InitOptions(
    block_size="64 KiB",
    pack_size="1 MiB",
    cartridge_capacity="8 MiB",
    record_size="256 KiB",
    object_size="300 KiB",
    commit_every="600 KiB",
)

Fails = Callable[[VirtualDrive, int], bool]
"""Whether a drive fails now; the number counts all records written to this cartridge since it was made."""


@contextmanager
def failing(fails: Fails) -> Iterator[list[str]]:
    """Writes to virtual cartridges fail as told; the barcodes of those that did, in order."""
    failed: list[str] = []
    writes: Counter[str] = Counter()
    whole = VirtualDrive.write_record

    def write_record(self: VirtualDrive, data: memoryview) -> None:
        writes[self.barcode] += 1
        if fails(self, writes[self.barcode]):
            failed.append(self.barcode)
            raise MediaError("a write error", place=f"{self.barcode} in drive {self.serial}", hint="see above")
        whole(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualDrive, "write_record", write_record)
        yield failed


def at(barcode: str, *numbers: int) -> Fails:
    return lambda drive, number: drive.barcode == barcode and number in numbers


def from_on(barcode: str, tape_file: int) -> Fails:
    """A place of the medium that cannot be written, however often it is tried."""
    return lambda drive, _: drive.barcode == barcode and drive.tell().tape_file >= tape_file


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = tmp_path / "night"
    night.mkdir()
    for number in range(5):
        (night / f"{number}.bin").write_bytes(os.urandom(230_000))
    (night / "small").write_bytes(b"small")
    return night


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    init_vault(tmp_path / "vault", OPTIONS)
    return tmp_path / "vault"


def run(vault: Path, night: Path, *, in_place: bool = False) -> ArchiveReport:
    return archive(vault, ArchiveRequest(paths=(night,), in_place=in_place))


def cartridges(vault: Path) -> dict[str, str | None]:
    """Every cartridge, and why it is fenced if it is."""
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        now = [item for pair in tapes.all_pairs(connection) for item in pair.cartridges]
        return {item.barcode: item.fenced for item in (*now, *tapes.replaced_cartridges(connection))}


def check_all_is_well(vault: Path, night: Path, back: Path) -> None:
    """Both sides of every pair hold the same objects, proven; and everything comes back from tape."""
    assert verify(vault, (), everything=True).errors == []
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        totals = proof.count_proven(connection)
        assert totals["proven"] == totals["versions"] > 0
        for pair in (pair for pair in tapes.all_pairs(connection) if pair.state != "fenced"):
            a, b = (tapes.tape_files(connection, item.barcode) for item in pair.cartridges)
            assert [(f.number, f.kind, f.blake3) for f in a[1:]] == [(f.number, f.kind, f.blake3) for f in b[1:]]
    assert restore(vault, RestoreRequest(to=back, origin="tape")).exit_code() == 0
    assert differences(night, back / "night") == []


RECORDS = 9
"""At least so many records go to each side."""


@pytest.mark.parametrize("barcode", ["HF0001L8", "HF0002L8"])
@pytest.mark.parametrize("number", range(2, RECORDS))
def test_after_one_write_error_the_side_is_caught_up_on_the_same_cartridge(
    vault: Path, night: Path, tmp_path: Path, barcode: str, number: int
) -> None:
    with failing(at(barcode, number)) as failed:
        report = run(vault, night)
    assert failed == [barcode]
    assert (report.exit_code(), report.unproven) == (0, [])
    assert [error.message for error in report.warnings] == ["a write error"]
    assert cartridges(vault) == {"HF0001L8": None, "HF0002L8": None}
    check_all_is_well(vault, night, tmp_path / "back")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("barcode", ["HF0001L8", "HF0002L8"])
@pytest.mark.parametrize("tape_file", range(6))
def test_a_side_that_cannot_be_written_on_gets_another_cartridge(
    vault: Path, night: Path, tmp_path: Path, barcode: str, tape_file: int, in_place: bool
) -> None:
    with failing(from_on(barcode, tape_file)) as failed:
        report = run(vault, night, in_place=in_place)
    assert set(failed) == {barcode}
    assert (report.exit_code(), report.unproven) == (0, [])
    fenced = cartridges(vault)
    assert fenced.keys() == {"HF0001L8", "HF0002L8", "HF0003L8"}
    assert [name for name, reason in fenced.items() if reason] == [barcode]
    check_all_is_well(vault, night, tmp_path / "back")


@pytest.mark.parametrize("in_place", [False, True])
def test_what_only_the_twin_has_is_copied_from_it(vault: Path, night: Path, tmp_path: Path, in_place: bool) -> None:
    """Neither the source nor the store has the first night any more."""
    run(vault, night, in_place=in_place)
    between_ns = time.time_ns()
    expected = tmp_path / "expected"
    night.rename(expected)
    night.mkdir()
    (night / "new").write_bytes(b"new")
    for pack in (vault / "packs").glob("*.pack"):
        pack.unlink()
    if not in_place:
        (vault / "packs").rmdir()
        (vault / "packs").mkdir()
    flip_bit(data_path(vault / "library/cartridges/HF0001L8", 2), 100_000)
    verify(vault, (), everything=True)
    report = run(vault, night, in_place=True)
    assert (report.exit_code(), report.unproven) == (0, [])
    assert [name for name, reason in cartridges(vault).items() if reason] == ["HF0001L8"]
    check_all_is_well(vault, night, tmp_path / "back")
    old = RestoreRequest(to=tmp_path / "old", origin="tape", as_of_ns=between_ns)
    assert restore(vault, old).exit_code() == 0
    assert differences(expected, tmp_path / "old" / "night") == []
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        copies = [tapes.tape_files(connection, name) for name in ("HF0002L8", "HF0003L8")]
    assert [f.blake3 for f in copies[0][1:]] == [f.blake3 for f in copies[1][1:]]


def test_both_sides_fail_and_nothing_is_said_that_is_not_true(vault: Path, night: Path, tmp_path: Path) -> None:
    with failing(lambda drive, _: drive.tell().tape_file >= 2):
        report = run(vault, night)
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert report.unproven
    assert report.errors
    again = run(vault, night)
    assert (again.exit_code(), again.unproven) == (0, [])
    check_all_is_well(vault, night, tmp_path / "back")


def test_what_one_drive_cannot_write_the_other_writes_and_no_cartridge_is_blamed(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    with failing(lambda drive, _: drive.serial == "VDRIVE-1") as failed:
        report = run(vault, night)
    assert failed
    assert (report.exit_code(), report.unproven) == (0, [])
    assert report.warnings
    assert cartridges(vault) == {"HF0001L8": None, "HF0002L8": None}
    check_all_is_well(vault, night, tmp_path / "back")


def test_drives_that_ruin_every_cartridge_do_not_use_up_the_library(vault: Path, night: Path) -> None:
    with failing(lambda drive, _: True):
        report = run(vault, night)
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert len(cartridges(vault)) <= 4


def test_a_side_whose_replacements_fail_in_a_row_gets_no_more_until_a_person_looked(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    """Both drives ruin whatever is put in as side B; side A is good all the time."""
    with failing(lambda drive, _: drive.barcode != "HF0001L8" and drive.tell().tape_file >= 2):
        for _ in range(6):
            report = run(vault, night)
        assert len(cartridges(vault)) == 2 + pairs.REPLACEMENTS
        assert report.exit_code() == EXIT_OPERATOR
        (error,) = report.errors
        assert "3 cartridges in a row failed as side B" in error.message
        assert error.found is not None
        assert "HF0003L8, HF0004L8, HF0005L8 failed" in error.found
        assert "--replace-again" in str(error.hint)
        (night / "new").write_bytes(b"new")
        run(vault, night)  # nor does a new pair get any
        assert len(cartridges(vault)) == 2 + pairs.REPLACEMENTS
        for _ in range(3):  # somebody says so, but nobody cleaned the drives: one each time at most
            before = len(cartridges(vault))
            archive(vault, ArchiveRequest(paths=(night,), replace_again=True))
            assert len(cartridges(vault)) <= before + 1
    assert run(vault, night).exit_code() in (0, EXIT_OPERATOR)
    report = archive(vault, ArchiveRequest(paths=(night,), replace_again=True))
    assert (report.exit_code(), report.unproven) == (0, [])
    check_all_is_well(vault, night, tmp_path / "back")


def test_a_replacement_that_was_good_once_ends_the_row_of_those_that_failed(vault: Path, night: Path) -> None:
    run(vault, night)
    for number in range(2, 2 + pairs.REPLACEMENTS + 1):
        flip_bit(data_path(vault / f"library/cartridges/HF000{number}L8", 3), 5000)
        verify(vault, (), everything=True)
        assert run(vault, night).exit_code() == 0
    assert len(cartridges(vault)) == 2 + pairs.REPLACEMENTS + 1


def test_without_a_blank_cartridge_the_good_side_stays_and_an_operator_is_asked(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    whole = VirtualChanger.scratch

    def scratch(self: VirtualChanger, sides: Sequence[Side], known: set[str]) -> tuple[str, ...]:
        if known:
            raise OperatorNeeded("no blank cartridge", hint="put one into a slot, then run the same command again")
        return whole(self, sides, known)

    with pytest.MonkeyPatch.context() as patch, failing(from_on("HF0002L8", 2)):
        patch.setattr(VirtualChanger, "scratch", scratch)
        report = run(vault, night)
    assert report.exit_code() in (EXIT_OPERATOR, EXIT_DATA_AT_RISK)
    assert "no blank cartridge" in str(report.errors)
    assert len(report.unproven) == 7
    again = run(vault, night)
    assert (again.exit_code(), again.unproven, again.objects) == (0, [], 0)
    check_all_is_well(vault, night, tmp_path / "back")


@pytest.mark.parametrize(("error", "code"), [(OperatorNeeded, EXIT_OPERATOR), (MediaError, EXIT_DATA_AT_RISK)])
def test_without_any_blank_cartridge_what_is_on_tape_is_verified_all_the_same(
    vault: Path, night: Path, error: type[HoldfastError], code: int
) -> None:
    for number in range(3):  # the first pair does not hold all of it
        (night / f"{number}.bin").write_bytes(os.urandom(3_000_000))

    def scratch(self: VirtualChanger, sides: Sequence[Side], known: set[str]) -> tuple[str, ...]:
        if known:
            raise error("no blank cartridge", hint="put one into a slot, then run the same command again")
        return whole(self, sides, known)

    whole = VirtualChanger.scratch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualChanger, "scratch", scratch)
        report = run(vault, night)
    assert report.exit_code() == code
    assert report.tape_files > 0
    assert report.totals["proven"] > 0
    assert run(vault, night).exit_code() == 0


def test_a_side_that_reads_back_other_bytes_is_made_again_from_its_twin(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    run(vault, night)
    flip_bit(data_path(vault / "library/cartridges/HF0002L8", 3), 5000)
    assert verify(vault, (), everything=True).exit_code() == EXIT_DATA_AT_RISK
    report = run(vault, night)
    assert (report.exit_code(), report.unproven) == (0, [])
    assert any("read back with other bytes" in error.message for error in report.warnings)
    assert cartridges(vault).keys() == {"HF0001L8", "HF0002L8", "HF0003L8"}
    assert json.loads((vault / "journals/HF0003L8.jsonl").read_text().splitlines()[0])["replaces"] == "HF0002L8"
    check_all_is_well(vault, night, tmp_path / "back")


def damage_both(vault: Path) -> None:
    for name, tape_file in (("HF0001L8", 1), ("HF0002L8", 3)):
        flip_bit(data_path(vault / "library/cartridges" / name, tape_file), 5000)
    verify(vault, (), everything=True)


def test_twins_that_are_damaged_in_different_places_are_written_again_on_another_pair(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    """Neither can be made again from the other, and all that they hold is in the store."""
    run(vault, night)
    damage_both(vault)
    report = run(vault, night)
    assert (report.exit_code(), report.unproven, report.gone_unproven) == (0, [], []), report.errors
    assert {name for name, why in cartridges(vault).items() if why} == {"HF0001L8", "HF0002L8"}
    assert set(report.written_on) == {"HF0003L8", "HF0004L8"}
    assert run(vault, night).exit_code() == 0
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).exit_code() == 0
    assert differences(night, tmp_path / "back" / "night") == []


@pytest.mark.parametrize("is_mounted", [True, False])
def test_law_4_twins_that_are_both_damaged_are_not_fenced_while_they_alone_hold_something(
    vault: Path, night: Path, tmp_path: Path, is_mounted: bool
) -> None:
    """In place, and the source may not be mounted. Restoring takes each file from where it is good."""
    run(vault, night, in_place=True)
    damage_both(vault)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_bytes(b"of another source")
    kept = night if is_mounted else night.rename(tmp_path / "kept")
    assert run(vault, night if is_mounted else other, in_place=True).exit_code() == EXIT_DATA_AT_RISK
    assert not any(cartridges(vault).values())
    back = tmp_path / "back"
    assert restore(vault, RestoreRequest(to=back, origin="tape")).exit_code() == 0
    assert differences(kept, back / "night") == []


@pytest.mark.parametrize("is_gone", ["the folder", "one file"])
def test_what_lost_both_copies_waits_for_its_source_and_takes_no_room_on_tape(
    vault: Path, night: Path, tmp_path: Path, is_gone: str
) -> None:
    """In place, both sides are fenced, and another source is archived while that of the first is not mounted."""
    run(vault, night, in_place=True)
    with Catalog(vault / "catalog/catalog.db") as catalog, TapeLibrary(open_vault(vault), catalog) as library:
        for barcode in ("HF0001L8", "HF0002L8"):
            library.fence(barcode, "a person said so")
    lost = night if is_gone == "the folder" else night / "3.bin"
    away = lost.rename(tmp_path / "away")
    (other := tmp_path / "other").mkdir()
    (other / "file").write_bytes(b"of another source")
    for again in (False, True):
        report = run(vault, other, in_place=True)
        assert report.exit_code() == 1
        (error,) = report.errors
        assert "cannot be read from its source" in error.message
        assert (str(error.place), error.hint is not None) == (str(night), True)
        readable_bytes = sum(file.stat().st_size for file in (*night.glob("*"), other / "file"))
        assert report.written_bytes < readable_bytes + 300_000  # a padded record
        assert (report.objects == 0) is again
    assert restore(vault, RestoreRequest(to=tmp_path / "meanwhile", origin="tape")).exit_code() == 0
    away.rename(lost)
    for source in (night, other):
        report = run(vault, source, in_place=True)
        assert (report.exit_code(), report.errors, report.unproven) == (0, [], [])
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).exit_code() == 0
    assert differences(night, tmp_path / "back" / "night") == []


@pytest.fixture
def only_replaced(vault: Path, night: Path, tmp_path: Path) -> Path:
    """A vault whose replaced cartridge has the last good copy of one file."""
    with failing(from_on("HF0001L8", 5)):
        run(vault, night)
    assert run(vault, night).exit_code() == 0
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        assert [item.barcode for item in tapes.replaced_cartridges(connection)] == ["HF0001L8"]
        assert 1 in {item.number for item in tapes.tape_files(connection, "HF0001L8")}
        (pair,) = tapes.all_pairs(connection)
    for cartridge in pair.cartridges:
        flip_bit(data_path(vault / "library/cartridges" / cartridge.barcode, 1), 100_000)
    return vault


def test_the_last_good_copy_is_taken_from_a_replaced_cartridge_and_that_is_told(
    only_replaced: Path, night: Path, tmp_path: Path
) -> None:
    report = restore(only_replaced, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert (report.exit_code(), report.errors, report.files, report.from_replaced) == (0, [], 6, 1)
    damaged, _, told = report.warnings
    assert "not what was written" in damaged.message
    assert "one in whose place another one is" in told.message
    assert str(told.place).endswith(": HF0001L8")
    assert differences(night, tmp_path / "back" / "night") == []
    damaged_file = night / str(told.place).removeprefix("night/").removesuffix(": HF0001L8")
    for pack in (only_replaced / "packs").glob("*.pack"):
        pack.unlink()
    out = io.BytesIO()
    cat(only_replaced, f"night/{damaged_file.name}", out, origin="tape")
    assert out.getvalue() == damaged_file.read_bytes()


def test_law_7_bad_bytes_never_pass_from_a_replaced_cartridge_either(
    only_replaced: Path, night: Path, tmp_path: Path
) -> None:
    flip_bit(data_path(only_replaced / "library/cartridges/HF0001L8", 1), 100_000)
    report = restore(only_replaced, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert (report.exit_code(), report.from_replaced) == (EXIT_DATA_AT_RISK, 0)
    assert len(report.errors) == 1
    assert report.files == 6


def test_a_replaced_cartridge_is_not_even_mounted_while_a_current_one_is_good(
    vault: Path, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(from_on("HF0001L8", 5)):
        run(vault, night)
    loaded, whole = list[str](), VirtualChanger.load

    def load(self: VirtualChanger, barcode: str, drive: str) -> VirtualDrive:
        loaded.append(barcode)
        return whole(self, barcode, drive)

    monkeypatch.setattr(VirtualChanger, "load", load)
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).warnings == []
    assert sorted(loaded) == ["HF0002L8", "HF0003L8"]


# -- what hostile eyes found


@pytest.mark.parametrize("trouble", ["write", "unload"])
def test_law_1_durable_before_said_a_file_that_changed_is_told_though_the_session_broke(
    vault: Path, night: Path, tmp_path: Path, trouble: str
) -> None:
    """In place, a file changes while it is dumped; later in the same session both drives fail, or the changer."""
    whole, changed = dump._ObjectWriter._write_data, list[bytes]()

    def write_data(self: Any, present: Any, header: Any) -> Any:
        if present.version.path == b"0.bin" and not changed:
            changed.append(b"0.bin")
            (night / "0.bin").write_bytes(b"another size")
        return whole(self, present, header)

    unload, broken = VirtualChanger.unload, list[str]()

    def unload_once(self: VirtualChanger, drive: str) -> None:
        if trouble == "unload" and changed and not broken:
            broken.append(drive)
            raise MediaError("the changer is stuck", place=drive, hint="see above")
        unload(self, drive)

    hit: set[str] = set()

    def fails(drive: VirtualDrive, _: int) -> bool:
        late = trouble == "write" and drive.tell().tape_file == 4 and drive.barcode not in hit
        return late and not hit.add(drive.barcode)

    with pytest.MonkeyPatch.context() as patch, failing(fails) as failed:
        patch.setattr(dump._ObjectWriter, "_write_data", write_data)
        patch.setattr(VirtualChanger, "unload", unload_once)
        report = run(vault, night, in_place=True)
    assert changed
    assert failed or broken
    assert report.exit_code() == 0
    check_all_is_well(vault, night, tmp_path / "back")


def test_law_4_one_failed_reading_does_not_take_the_proofs_of_what_has_no_source(vault: Path, night: Path) -> None:
    """One side has a write error, and its twin cannot be read once while it is copied from."""
    run(vault, night, in_place=True)
    before = {path: path.read_bytes() for path in night.iterdir()}
    for path in before:
        path.unlink()
    (night / "new").write_bytes(os.urandom(400_000))
    whole, failures = VirtualDrive.read_record, list[str]()

    def read_record(self: VirtualDrive, buffer: memoryview) -> int:
        if failed and not failures and self.barcode == "HF0002L8" and self.tell().tape_file > 7:
            failures.append(self.barcode)
            raise MediaError("a read error", place=self.barcode, hint="see above")
        return whole(self, buffer)

    def fails(drive: VirtualDrive, _: int) -> bool:
        return drive.barcode == "HF0001L8" and drive.tell().tape_file > 7 and not failed

    with pytest.MonkeyPatch.context() as patch, failing(fails) as failed:
        patch.setattr(VirtualDrive, "read_record", read_record)
        report = run(vault, night, in_place=True)
    assert failures
    assert (report.exit_code(), report.unproven) == (0, [])
    assert cartridges(vault) == {"HF0001L8": None, "HF0002L8": None}


def test_a_drive_that_fails_again_in_a_later_round_of_the_same_run_speaks_against_no_cartridge(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    """In place, a file changes while it is dumped, so it is dumped again: the same cartridge, the same bad drive."""
    whole, changed = dump._ObjectWriter._write_data, list[bytes]()

    def write_data(self: Any, present: Any, header: Any) -> Any:
        if present.version.path == b"0.bin" and not changed:
            changed.append(b"0.bin")
            (night / "0.bin").write_bytes(b"another size")
        return whole(self, present, header)

    with pytest.MonkeyPatch.context() as patch, failing(lambda drive, _: drive.serial == "VDRIVE-1") as failed:
        patch.setattr(dump._ObjectWriter, "_write_data", write_data)
        report = run(vault, night, in_place=True)
    assert changed
    assert failed.count("HF0002L8") > 1
    assert (report.exit_code(), report.unproven) == (0, [])
    assert cartridges(vault) == {"HF0001L8": None, "HF0002L8": None}
    check_all_is_well(vault, night, tmp_path / "back")


@pytest.mark.parametrize("serial", ["VDRIVE-0", "VDRIVE-1"])
def test_law_4_a_drive_that_reads_other_bytes_speaks_against_no_cartridge(
    vault: Path, night: Path, tmp_path: Path, serial: str
) -> None:
    run(vault, night)
    (night / "new").write_bytes(b"new")
    whole = VirtualDrive.read_record

    def read_record(self: VirtualDrive, buffer: memoryview) -> int:
        count = whole(self, buffer)
        if self.serial == serial and count:
            buffer[count // 2] ^= 1
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualDrive, "read_record", read_record)
        for _ in range(2):
            assert run(vault, night).exit_code() != 0
    assert len(cartridges(vault)) <= 3
    assert run(vault, night).exit_code() == 0
    check_all_is_well(vault, night, tmp_path / "back")


def test_law_4_a_drive_that_writes_well_and_cannot_read_speaks_against_no_cartridge(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    """Each side is read in both drives, and the good one reads both."""
    run(vault, night)
    whole = VirtualDrive.read_record

    def read_record(self: VirtualDrive, buffer: memoryview) -> int:
        if self.serial == "VDRIVE-1" and self.tell().tape_file > 0:
            raise MediaError("a dirty head", place=self.barcode, hint="clean the drive")
        return whole(self, buffer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualDrive, "read_record", read_record)
        assert verify(vault, (), everything=True).exit_code() != 0
        run(vault, night)
    assert cartridges(vault) == {"HF0001L8": None, "HF0002L8": None}
    assert run(vault, night).exit_code() == 0
    check_all_is_well(vault, night, tmp_path / "back")


def test_a_twin_that_rotted_unseen_is_found_before_the_other_side_is_given_up(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    """One side has a bit turned in its label only, the other in an object: each file is still good somewhere."""
    run(vault, night)
    flip_bit(data_path(vault / "library/cartridges/HF0002L8", 3), 5000)
    flip_bit(data_path(vault / "library/cartridges/HF0001L8", 0), 2000)
    verify(vault, ("HF0001L8",), everything=False)
    (night / "new").write_bytes(b"new")
    run(vault, night)
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape", patterns=("night/*.bin",))).errors == []


def test_law_6_a_kill_between_the_fences_of_both_sides(vault: Path, night: Path, tmp_path: Path) -> None:
    run(vault, night)
    (night / "more").write_bytes(os.urandom(100_000))
    behind = failing(lambda drive, _: drive.barcode == "HF0002L8" and drive.tell().tape_file > 7)
    with behind, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "VISITS", 1)
        run(vault, night)
    with Catalog(vault / "catalog/catalog.db") as catalog, TapeLibrary(open_vault(vault), catalog) as library:
        library._fence("HF0001L8", "and then the power failed")
    (night / "still more").write_bytes(b"x")
    for _ in range(2):
        report = run(vault, night)
    assert (report.exit_code(), report.unproven) == (0, [])
    check_all_is_well(vault, night, tmp_path / "back")
