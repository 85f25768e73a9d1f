"""A night's whole way in one piece, with the vault lost and got back: a generated night, or the one that
HOLDFAST_NIGHT names (`make test-tape-vm ARGS='--night DIR'`). The commands are those that people give.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.acceptance.nights import differences, make_night
from tests.integration.tape.conftest import RealLibrary, Vaults
from tests.integration.tape.steps import (
    archived,
    back_as_it_was,
    committed_kinds,
    contents,
    killed_amid,
    make_few,
    pair_of,
    run,
    unpacked_plainly,
    verified,
)

from holdfast.cli.app import run as run_command
from holdfast.rebuilding import rebuild

NIGHT = "HOLDFAST_NIGHT"
OBJECT_BYTES = 2**20  # of the vaults of these tests


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A night that may be changed."""
    given = os.environ.get(NIGHT)
    if not given:
        return make_night(tmp_path / "night", before_1970=False)
    night = tmp_path / Path(given).name
    run("cp", "-a", given, night)
    return night


def holdfast(vault: Path, *words: object) -> int:
    return run_command([*map(str, words), "--vault", str(vault)])


def regular_files(night: Path) -> list[Path]:
    """Files with one name, the smallest first."""
    found = [Path(folder, name) for folder, _, names in os.walk(night) for name in names]
    plain = [path for path in found if not path.is_symlink() and path.is_file() and path.stat().st_nlink == 1]
    return sorted(plain, key=lambda path: (path.stat().st_size, str(path)))


def change(night: Path) -> None:
    """The next day: a file and a folder are new, the largest file is another one, the smallest is gone."""
    smallest, *_, largest = regular_files(night)
    (night / "calibration").mkdir()
    (night / "calibration" / "gains").write_bytes(os.urandom(40_000))
    largest.chmod(0o644)
    largest.write_bytes(largest.read_bytes()[:-1] + b"?")
    smallest.unlink()


@pytest.mark.timeout(1500)
def test_a_real_night_goes_to_tape_and_back_though_its_writer_is_killed_and_its_vault_lost(
    library: RealLibrary, vaults: Vaults, night: Path, tmp_path: Path
) -> None:
    pools = library.blank_prefixes()
    vault = vaults.make(tmp_path / "vault", pools)
    objects = sum(path.stat().st_size for path in regular_files(night)) // OBJECT_BYTES
    killed_amid(lambda: holdfast(vault, "archive", night), vault, 4 + objects)
    pair = pair_of(vault)
    assert committed_kinds(vault, pair[0])[:2] == ["label", "object"]
    assert "catalog" not in committed_kinds(vault, pair[0])
    assert holdfast(vault, "archive", night) == 0

    change(night)
    assert holdfast(vault, "archive", night) == 0
    assert pair_of(vault) == pair
    assert holdfast(vault, "verify") == 0
    restored(vault, night, tmp_path / "back")

    for drive, barcode in enumerate(pair):
        library.mtx("load", str(library.slot_of(barcode)), str(drive))
        device = sorted(library.drives.values())[drive]
        plain = unpacked_plainly(device, len(committed_kinds(vault, barcode)), tmp_path / f"plain{drive}")
        assert contents(night).items() <= contents(plain / night.name).items()
        shutil.rmtree(plain.parent)
    library.empty_drives()

    shutil.rmtree(vault)
    words = ("--changer", library.changer, "--scratch-a", pools[0], "--scratch-b", pools[1])
    assert holdfast(vault, "init", *words, "--cartridge-capacity", "64 MiB") == 0
    vaults.say_where_the_last_drive_is(vault)
    assert holdfast(vault, "rebuild", pair[0]) == 0
    restored(vault, night, tmp_path / "again")
    assert holdfast(vault, "verify") == 0


def restored(vault: Path, night: Path, to: Path) -> None:
    assert holdfast(vault, "restore", "--from", "tape", "--to", to) == 0
    assert differences(night, to / night.name) == []
    shutil.rmtree(to)


@pytest.mark.timeout(300)
def test_a_pair_is_written_on_after_its_vault_was_lost_and_rebuilt(
    library: RealLibrary, vaults: Vaults, tmp_path: Path
) -> None:
    pools, few = library.blank_prefixes(), make_few(tmp_path / "few")
    vault = vaults.make(tmp_path / "vault", pools)
    archived(vault, few)
    (few / "second").write_bytes(os.urandom(5000))
    (few / "one").unlink()
    archived(vault, few)
    pair = pair_of(vault)
    kinds = [committed_kinds(vault, barcode) for barcode in pair]

    shutil.rmtree(vault)
    vaults.make(vault, pools)
    report = rebuild(vault, pair)
    assert (report.exit_code(), report.errors, report.pairs) == (0, [], 1), report
    assert [committed_kinds(vault, barcode) for barcode in pair] == kinds
    verified(vault)
    back_as_it_was(vault, few, tmp_path / "back")

    (few / "third").write_bytes(os.urandom(5000))
    report = archived(vault, few)
    assert (report.kept.new_versions, report.written_on) == (2, [*pair])  # the file, and its folder
    verified(vault)
    back_as_it_was(vault, few, tmp_path / "back-again")
