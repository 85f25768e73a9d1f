"""What goes wrong on purpose: in each case nothing is lost, nothing untrue is said, and the next run goes on."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences

from holdfast import journey
from holdfast.catalog import Catalog, tapes
from holdfast.errors import EXIT_DATA_AT_RISK, HoldfastError, IntegrityError, SourceError
from holdfast.journey import verify
from holdfast.restoring import RestoreRequest, cat, restore
from holdfast.tape import dump, session
from holdfast.tape.drive import virtual
from holdfast.trees import noting


@pytest.fixture
def night(tmp_path: Path) -> Path:
    folder = tmp_path / "night"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(os.urandom(100_000))
    return folder


def folder_of(vault: Path, barcode: str) -> Path:
    return vault / "library" / "cartridges" / barcode


def back_as_they_were(vault: Path, night: Path, to: Path, **options: object) -> bool:
    report = restore(vault, RestoreRequest(to=to, **options))  # type: ignore[arg-type]
    assert report.exit_code() == 0, report.errors
    return differences(night, to / night.name) == []


# -- in place


def before_each_dump_of(monkeypatch: pytest.MonkeyPatch, path: bytes, step: Callable[[], None]) -> None:
    enter = noting.InPlaceFile.__enter__

    def interfering(self: noting.InPlaceFile) -> noting.InPlaceFile:
        if self._item.version.path == path:  # pyright: ignore[reportPrivateUsage]
            step()
        return enter(self)

    monkeypatch.setattr(noting.InPlaceFile, "__enter__", interfering)


def test_in_place_a_file_that_never_holds_still_is_not_passed_over_in_silence(
    night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        (night / "a").write_bytes(os.urandom(100_000))

    before_each_dump_of(monkeypatch, b"a", change)
    report = archived(night, in_place=True)
    assert report.exit_code() == 1
    assert [(error.place, error.message) for error in report.errors] == [
        ("night/a", "the file changed after it was looked at")
    ]
    monkeypatch.undo()
    assert archived(night, in_place=True).exit_code() == 0


def test_in_place_a_file_that_cannot_be_read_is_not_passed_over_in_silence(
    night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    before_each_dump_of(monkeypatch, b"a", refuse)
    report = archived(night, in_place=True)
    assert (report.exit_code(), [error.place for error in report.errors]) == (1, ["night/a"])


def test_in_place_extended_attributes_are_reported_as_dropped(night: Path, archived: Archive) -> None:
    try:
        os.setxattr(night / "a", "user.origin", b"telescope")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    report = archived(night, in_place=True)
    assert [(p.path, p.failed) for p in report.kept.problems] == [("night/a", False)]
    assert report.exit_code() == 0


def test_in_place_bytes_dumped_by_a_killed_run_do_not_pass_for_newer_ones(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the journals and the catalog; then the file changes, and keeps its size and time."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dump.tapes, "record_object", killed)
    with pytest.raises(KeyboardInterrupt):
        archived(night, in_place=True)
    monkeypatch.undo()
    status = (night / "a").stat()
    (night / "a").write_bytes(os.urandom(100_000))
    os.utime(night / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    report = archived(night, in_place=True)
    assert report.exit_code() == 0, (report.errors, report.unproven)
    assert back_as_they_were(vault, night, tmp_path / "back", origin="tape")


# -- what is looked at


def test_an_empty_file_that_is_gone_before_its_dump_is_written_all_the_same(
    night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are known: the source is not needed, and was never to be asked again."""
    (night / "empty").touch()
    make_dump = journey._dump  # pyright: ignore[reportPrivateUsage]

    def late(*arguments: object, **options: object) -> object:
        (night / "empty").unlink(missing_ok=True)
        return make_dump(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(journey, "_dump", late)
    report = archived(night)
    assert (report.exit_code(), report.errors, report.unproven) == (0, [], [])


def test_paths_that_overlap_are_recorded_once(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = tmp_path / "night"
    (night / "sub").mkdir(parents=True)
    (night / "sub" / "file").write_bytes(b"data")
    report = archived(night, night / "sub", night / "sub" / "file", night)
    assert (report.exit_code(), report.totals["versions"]) == (0, 3)
    assert back_as_they_were(vault, night, tmp_path / "back")


def test_a_very_deep_folder_can_go(night: Path, archived: Archive) -> None:
    descriptor = os.open(night, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    assert archived(night).totals["versions"] == 1203
    remove_deep(night / "d")
    report = archived(night)
    assert (report.exit_code(), report.kept.ended, report.totals["versions"]) == (0, 1200, 3)


def remove_deep(folder: Path) -> None:
    """Bring the inner folder up, again and again: no path becomes too long."""
    while folder.exists():
        inner, above = folder / "d", folder.with_name("up")
        if inner.exists():
            inner.rename(above)
        folder.rmdir()
        if above.exists():
            above.rename(folder)


def test_a_vault_is_not_archived_into_itself(vault: Path, archived: Archive) -> None:
    with pytest.raises(SourceError, match="into itself"):
        archived(vault)


# -- one cartridge is lost or broken: that is what there are two for


def lose(folder: Path) -> None:
    shutil.rmtree(folder)


def spoil_marks(folder: Path) -> None:
    (folder / virtual.MARKS_NAME).write_bytes(b"not a mark\n")


def spoil_name(folder: Path) -> None:
    (folder / virtual.CARTRIDGE_NAME).write_bytes(b"{}")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("spoil", [lose, spoil_marks, spoil_name])
def test_a_cartridge_that_cannot_be_mounted_is_named_and_its_twin_delivers(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, spoil: Callable[[Path], None], side: int
) -> None:
    barcodes = archived(night).written_on
    spoil(folder_of(vault, barcodes[side]))
    report = restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert (report.exit_code(), report.files, len(report.warnings)) == (0, 2, 1)
    assert barcodes[side] in str(report.warnings[0])
    assert differences(night, tmp_path / "back" / "night") == []
    out = io.BytesIO()
    cat(vault, "night/a", out, origin="tape")
    assert out.getvalue() == (night / "a").read_bytes()
    checked = verify(vault, (), everything=True)
    assert (checked.exit_code() != 0, len(checked.errors), checked.tape_files) == (True, 1, 4)


def test_both_cartridges_lost_is_an_error_for_each_file(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    for barcode in archived(night).written_on:
        lose(folder_of(vault, barcode))
    report = restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert [error.place for error in report.errors] == ["night/a", "night/b"]
    assert report.exit_code() == 3
    with pytest.raises(HoldfastError):
        cat(vault, "night/a", io.BytesIO(), origin="tape")


def test_a_broken_pair_does_not_keep_others_from_being_verified(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    (first, second) = archived(night).written_on
    with Catalog(vault / "catalog" / "catalog.db") as catalog, catalog.transaction() as connection:
        (pair,) = tapes.all_pairs(connection)
        tapes.set_pair_state(connection, pair.id, "full")
    flip(folder_of(vault, first) / "00001")
    verify(vault, (), everything=True)
    lose(folder_of(vault, second))
    (night / "c").write_bytes(b"new")
    report = archived(night)
    assert report.exit_code() == 3  # said, and the new pair is proven all the same
    assert "night/c" not in report.unproven
    assert len(set(report.written_on) - {first, second}) == 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_cat_takes_from_tape_what_is_damaged_in_the_store_even_amid_the_file(
    vault: Path, night: Path, archived: Archive
) -> None:
    (night / "big").write_bytes(os.urandom(3_000_000))
    archived(night)
    for pack in (vault / "packs").glob("*.pack"):
        flip(pack)
    out = io.BytesIO()
    cat(vault, "night/big", out)
    assert out.getvalue() == (night / "big").read_bytes()
    with pytest.raises(IntegrityError):
        cat(vault, "night/big", io.BytesIO(), origin="store")


# -- law 5: where may be written on?


def test_law_5_never_overwrite_by_a_journal_that_is_older_than_the_catalog(
    night: Path, vault: Path, archived: Archive
) -> None:
    """Somebody put back yesterday's journals: what was committed since is not written over."""
    barcodes = archived(night).written_on
    old = {path: path.read_bytes() for path in (vault / "journals").glob("*L8.jsonl")}
    (night / "c").write_bytes(os.urandom(100_000))
    assert archived(night).exit_code() == 0
    before = tape_files(vault, barcodes)
    new = {path: path.read_bytes() for path in old}
    for path, data in old.items():
        path.write_bytes(data)
    (night / "d").write_bytes(b"more")
    report = archived(night)
    assert (report.exit_code(), set(report.written_on) & set(barcodes)) == (EXIT_DATA_AT_RISK, set())
    assert "nothing was written" in str(report.errors[0])
    assert tape_files(vault, barcodes) == before
    for path, data in new.items():
        path.write_bytes(data)
    assert archived(night).exit_code() == 0


def tape_files(vault: Path, barcodes: list[str]) -> dict[str, bytes]:
    paths = [path for barcode in barcodes for path in folder_of(vault, barcode).iterdir()]
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


def test_law_5_never_overwrite_a_cartridge_whose_fencing_only_the_journal_tells(
    night: Path, vault: Path, archived: Archive
) -> None:
    barcodes = archived(night).written_on
    with (vault / "journals" / f"{barcodes[0]}.jsonl").open("a") as file:
        file.write(json.dumps({"event": "fenced", "reason": "another tape", "at_ns": 1}) + "\n")
    before = tape_files(vault, barcodes[:1])
    (night / "c").write_bytes(b"more")
    report = archived(night)
    assert tape_files(vault, barcodes[:1]) == before
    assert "fenced" in str(report.warnings[0])
    assert (report.exit_code(), set(report.written_on) & set(barcodes)) == (0, {barcodes[1]})


def test_law_6_resume_is_running_again_though_the_twin_lacks_catalogs_and_is_nearly_full(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the journals of both sides; what is copied to the twin lies behind early warning."""

    def one_side(library: object, mounted: object, committed: object) -> None:
        first = mounted.pair.cartridges[0]  # type: ignore[attr-defined]
        library.journal(first.barcode).committed(committed, 1)  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "commit_journals", one_side)
    with pytest.raises(KeyboardInterrupt):
        archived(night)
    monkeypatch.undo()
    monkeypatch.setattr(virtual, "early_warning_bytes", lambda capacity_bytes: capacity_bytes)  # pyright: ignore[reportUnknownLambdaType,reportUnknownArgumentType]
    archived(night)
    monkeypatch.undo()
    assert archived(night).exit_code() == 0
    assert back_as_they_were(vault, night, tmp_path / "back", origin="tape")


def test_law_6_resume_is_running_again_though_what_a_killed_run_committed_cannot_be_read(
    tmp_path: Path, vault: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog does not know an object that is damaged meanwhile: its cartridge is fenced, and a new pair taken."""
    night = tmp_path / "night"
    night.mkdir()
    for number in range(3):
        (night / str(number)).write_bytes(os.urandom(900_000))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dump.tapes, "record_object", killed)
    with pytest.raises(KeyboardInterrupt):
        archived(night)
    monkeypatch.undo()
    folder = min((vault / "library" / "cartridges").iterdir())
    flip(folder / "00001")
    report = archived(night)
    assert report.exit_code() == 0
    assert {error.message for error in report.warnings} == {"a committed tape file cannot be read back"}
    assert back_as_they_were(vault, night, tmp_path / "back", origin="tape")
