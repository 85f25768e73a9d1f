"""The main job on hostile trees: what went in comes out, from the store and from tape, now and as of then."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences, make_night

from holdfast.journey import verify
from holdfast.reports import RestoreReport
from holdfast.restoring import RestoreRequest, restore


def bring_back(vault: Path, to: Path, **options: object) -> RestoreReport:
    report = restore(vault, RestoreRequest(to=to, **options))  # type: ignore[arg-type]
    assert report.exit_code() == 0, report.errors
    return report


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("origin", ["any", "tape"])
def test_a_night_comes_back_as_it_was(
    tmp_path: Path, vault: Path, archived: Archive, in_place: bool, origin: str
) -> None:
    night = make_night(tmp_path / "night")
    report = archived(night, in_place=in_place)
    assert report.exit_code() == 0, (report.errors, report.unproven, report.kept.problems)
    assert report.totals["proven"] == report.totals["versions"] > 30
    bring_back(vault, tmp_path / "back", origin=origin)
    assert differences(night, tmp_path / "back" / "night") == []


def test_a_second_run_does_nothing(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    age(night)
    archived(night)  # whatever was modified just before the first look is looked at once more
    before = vault_files(vault)
    report = archived(night)
    assert report.exit_code() == 0
    assert (report.kept.new_versions, report.kept.read_bytes, report.objects, report.tape_files) == (0, 0, 0, 0)
    assert vault_files(vault) == before


def age(night: Path) -> None:
    """Let the clock run until a look at the night is more than two seconds after its last change."""
    newest = max(os.lstat(os.path.join(folder, name)).st_ctime for folder, _, names in os.walk(night) for name in names)
    while time.time() < newest + 2.1:
        time.sleep(0.05)


def vault_files(vault: Path) -> dict[str, int]:
    """Every file that holds data, with its size: packs and cartridges."""
    kept = [path for room in ("packs", "library/cartridges") for path in (vault / room).rglob("*") if path.is_file()]
    return {str(path): path.stat().st_size for path in kept}


@pytest.mark.parametrize("in_place", [False, True])
def test_changed_added_and_removed_files_are_new_versions(
    tmp_path: Path, vault: Path, archived: Archive, in_place: bool
) -> None:
    night = make_night(tmp_path / "night")
    assert archived(night, in_place=in_place).exit_code() == 0
    shutil.copytree(night, tmp_path / "first", symlinks=True, copy_function=shutil.copy2)
    relink(tmp_path / "first")
    between = time.time_ns()
    change(night)
    report = archived(night, in_place=in_place)
    assert report.exit_code() == 0, (report.errors, report.unproven)
    assert report.kept.ended > 0
    bring_back(vault, tmp_path / "now", origin="tape")
    assert differences(night, tmp_path / "now" / "night") == []
    bring_back(vault, tmp_path / "then", as_of_ns=between, origin="tape" if in_place else "any")
    assert differences(tmp_path / "first", tmp_path / "then" / "night") == []


def relink(copy: Path) -> None:
    """`copytree` makes two files of a hard link, and touches folders."""
    (copy / "zen.2458661.uv/hard-link").unlink()
    os.link(copy / "visdata", copy / "zen.2458661.uv/hard-link")
    source = copy.parent / "night"
    for folder, _, _ in os.walk(copy, topdown=False):
        original = os.stat(source / os.path.relpath(folder, copy))
        os.utime(folder, ns=(original.st_atime_ns, original.st_mtime_ns))


def change(night: Path) -> None:
    (night / "added").write_bytes(b"new" * 1000)
    (night / "larger-than-a-block").write_bytes(b"changed " * 50_000)
    (night / "new\nline").unlink()
    shutil.rmtree(night / "deep")
    (night / "-rf").chmod(0o600)  # only the mode: no byte of it goes on tape again
    (night / "empty-folder").rmdir()
    (night / "empty-folder").write_bytes(b"a file now")
    (night / "link").unlink()
    (night / "link").symlink_to("elsewhere")


def test_a_file_whose_mode_changed_is_not_written_on_tape_again(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    (night / "larger-than-a-block").chmod(0o600)
    report = archived(night)
    assert report.exit_code() == 0, report.unproven
    assert report.objects == 0
    bring_back(vault, tmp_path / "back", origin="tape")
    assert differences(night, tmp_path / "back" / "night") == []


def test_identical_content_is_stored_once(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = tmp_path / "night"
    night.mkdir()
    data = os.urandom(700_000)
    for number in range(5):
        (night / f"copy-{number}").write_bytes(data)
        (night / f"small-{number}").write_bytes(data[:5000])
    report = archived(night)
    assert report.kept.duplicate_files == 8
    assert report.totals["block_bytes"] < 720_000
    assert report.exit_code() == 0


def test_when_a_cartridge_is_full_the_next_pair_is_taken(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = tmp_path / "night"
    night.mkdir()
    for number in range(40):
        (night / f"{number:02d}").write_bytes(os.urandom(3 * 2**20))
    report = archived(night)
    assert report.exit_code() == 0, (report.errors, report.unproven)
    assert len(report.written_on) >= 4
    bring_back(vault, tmp_path / "back", origin="tape")
    assert differences(night, tmp_path / "back" / "night") == []


def test_several_sources_and_patterns(tmp_path: Path, vault: Path, archived: Archive) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.fits").write_bytes(name.encode() * 100)
        (tmp_path / name / "log.txt").write_bytes(b"log")
    report = archived(tmp_path / "one", tmp_path / "two")
    assert report.exit_code() == 0
    bring_back(vault, tmp_path / "back", patterns=("*.fits",))
    found = sorted(str(path.relative_to(tmp_path / "back")) for path in (tmp_path / "back").rglob("*.*"))
    assert found == ["one/data.fits", "two/data.fits"]


def test_a_part_of_a_source_ends_nothing_elsewhere(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    (night / "empty").unlink()
    (night / "zen.2458661.uv" / "flags").write_bytes(b"flags")
    report = archived(night / "zen.2458661.uv")
    assert report.kept.ended == 0
    assert report.exit_code() == 0
    restored = bring_back(vault, tmp_path / "back", patterns=("night/zen.2458661.uv/flags", "night/empty"))
    assert restored.files == 2


def test_restore_run_again_leaves_alone_what_is_there(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    bring_back(vault, tmp_path / "back")
    again = bring_back(vault, tmp_path / "back")
    assert again.planted_bytes == 0
    assert differences(night, tmp_path / "back" / "night") == []


def test_verify_everything_finds_nothing(tmp_path: Path, vault: Path, archived: Archive) -> None:
    archived(make_night(tmp_path / "night"))
    report = verify(vault, (), everything=True)
    assert report.exit_code() == 0
    assert report.tape_files >= 8


@pytest.mark.parametrize("in_place", [False, True])
def test_names_that_are_joined_or_parted_later_come_back_so(
    tmp_path: Path, vault: Path, archived: Archive, in_place: bool
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    (night / "m").write_bytes(b"one file")
    (night / "x").write_bytes(b"linked" * 100)
    (night / "y").hardlink_to(night / "x")
    (night / "z").hardlink_to(night / "x")
    assert archived(night, in_place=in_place).exit_code() == 0
    (night / "a").hardlink_to(night / "m")  # a new name, met before the old one
    for name in ("x", "z"):  # the same bytes and times, but files of their own: of the first name, and of another
        shutil.copy2(night / name, night / "copy")
        (night / "copy").rename(night / name)
    assert archived(night, in_place=in_place).exit_code() == 0
    bring_back(vault, tmp_path / "back", origin="tape")
    assert differences(night, tmp_path / "back" / "night") == []
