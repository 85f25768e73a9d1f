"""Law 5 on real drivers: what is not blank, or not the cartridge that was meant, keeps its bytes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.tape.conftest import RealLibrary, Vaults
from tests.integration.tape.steps import (
    archived,
    assert_proven,
    back_as_it_was,
    barcodes_of,
    items_on,
    make_few,
    pair_of,
    run,
)

from holdfast import handling
from holdfast.errors import EXIT_OPERATOR
from holdfast.journey import ArchiveRequest, archive
from holdfast.tape.drive.st import StDrive
from holdfast.testing.conformance.drive import write


def write_records(device: Path, records: list[bytes]) -> None:
    """Each as a tape file of its own, without Holdfast."""
    for record in records:
        words = ["dd", f"of={device}", f"bs={len(record)}", "status=none"]
        subprocess.run(words, input=record, check=True, timeout=60)


def write_ansi(device: Path, _: Path) -> None:
    label, header = b"VOL1BACK01".ljust(80), b"HDR1THESIS".ljust(80)
    subprocess.run(["dd", f"of={device}", "bs=80", "status=none"], input=label + header, check=True, timeout=60)
    write_records(device, [b"somebody's thesis" * 100])


def write_ltfs(device: Path, _: Path) -> None:
    xml = b'<?xml version="1.0" encoding="UTF-8"?><ltfslabel version="2.4.0"/>'
    write_records(device, [b"VOL1LTF001L".ljust(24) + b"LTFS".ljust(55) + b"4", xml, b"somebody's index"])


def write_tar(device: Path, folder: Path) -> None:
    run("tar", "-b", "20", "-cf", device, "-C", folder, ".")


FOREIGN: dict[str, Callable[[Path, Path], None]] = {
    "a tar archive that is no label of Holdfast": write_tar,
    "a tape with ANSI labels, volume 'BACK01'": write_ansi,
    "an LTFS tape, volume 'LTF001'": write_ltfs,
}


def in_drive(library: RealLibrary, barcode: str, work: Callable[[Path], object]) -> object:
    """What `work` makes of the device with this cartridge in it, which is in its slot again afterwards."""
    device = min(library.drives.values())
    library.mtx("load", str(library.slot_of(barcode)), "0")
    run("mt", "-f", device, "setblk", "0")
    done = work(device)
    library.empty_drives()
    return done


@pytest.mark.timeout(300)
def test_law_5_cartridges_of_others_are_told_and_never_written(
    library: RealLibrary, vaults: Vaults, tmp_path: Path
) -> None:
    """They have barcodes of our new ones, in front of blank ones; then there are no others."""
    side_a, side_b = library.blank_prefixes()
    few = make_few(tmp_path / "few")
    names = [f"{side_a}{number}L6" for number in range(len(FOREIGN) + 1)]
    for name, put in zip(names, FOREIGN.values(), strict=False):
        in_drive(library, name, lambda device, put=put: put(device, few))
    before = [in_drive(library, name, items_on) for name in names[:-1]]
    assert all(before)

    vault = vaults.make(tmp_path / "vault", (side_a, side_b))
    archived(vault, few)
    assert pair_of(vault) == (names[-1], f"{side_b}0L6")

    for name, words in zip(names, FOREIGN, strict=False):
        assert handling.look(vault, name).words == words
    other = vaults.make(tmp_path / "other", (name, side_b))
    report = archive(other, ArchiveRequest(paths=(few,)))
    assert (report.exit_code(), report.written_on) == (EXIT_OPERATOR, [])
    assert [error.found for error in report.errors] == [f"{name} is {words}"]
    assert barcodes_of(other) == []
    assert [in_drive(library, name, items_on) for name in names[:-1]] == before


@pytest.mark.timeout(300)
def test_law_5_another_tape_under_the_barcode_of_ours_keeps_its_bytes(
    library: RealLibrary, vault: Path, tmp_path: Path
) -> None:
    """Somebody copied one side over the other, or interchanged the stickers: both now say that they are side B.

    The library knows barcodes only, so what is loaded is what was asked for, and its label tells another one.
    """
    few = make_few(tmp_path / "few")
    archived(vault, few)
    side_a, side_b = pair_of(vault)
    twin = in_drive(library, side_b, items_on)

    def copy(device: Path) -> None:
        drive = StDrive(device, device.name, side_a)
        write(drive, twin, synchronous=True)  # type: ignore[arg-type]
        drive.close()

    in_drive(library, side_a, copy)
    (few / "later").write_bytes(os.urandom(1000))
    report = archive(vault, ArchiveRequest(paths=(few,)))
    assert_proven(report)
    assert {error.message for error in report.warnings} == {"the cartridge is not the one that its barcode promises"}
    assert side_a not in report.written_on
    assert len(report.written_on) == 2
    assert in_drive(library, side_a, items_on) == twin
    back_as_it_was(vault, few, tmp_path / "back")
