"""Bits that turn on tape: wherever it is, the twin has what is damaged; where both are, it is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.acceptance.nights import differences

from holdfast.config import InitOptions, init_vault
from holdfast.errors import EXIT_DATA_AT_RISK
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.reports import RestoreReport
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape import layout
from holdfast.tape.drive.virtual import data_path
from holdfast.tape.reader import ReadMember, TarReader
from holdfast.testing import flip_bit

A, B = "HF0001L8", "HF0002L8"
OBJECT = 1
FILES = {"one": 700, "two": 90_000, "three": 300_001, "in/four": 1, "in/five" + "x" * 120: 5000}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    night = tmp_path_factory.mktemp("damage") / "night"
    for name, size in FILES.items():
        path = night / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    (night / "link").symlink_to("one")
    os.link(night / "two", night / "two again")
    return night


@pytest.fixture(scope="module")
def vault(night: Path) -> Path:
    vault = night.parent / "vault"
    init_vault(vault, InitOptions(cartridge_capacity="64 MiB", record_size="256 KiB"))
    assert archive(vault, ArchiveRequest(paths=(night,))).exit_code() == 0
    return vault


def tape_file(vault: Path, barcode: str, number: int) -> Path:
    return data_path(vault / "library/cartridges" / barcode, number)


def members_of(path: Path) -> list[ReadMember]:
    """The members of a tape file; MANIFEST is none of them."""
    found: list[ReadMember] = []
    TarReader(found.append).feed(memoryview(path.read_bytes()))
    return found


def regions(path: Path) -> Iterator[tuple[str, int]]:
    """A byte in every region of a tape file, and what the region is."""
    yield "global header", 5
    yield "global header's comment", layout.TAR_BLOCK_BYTES + 9
    members = members_of(path)
    for member in members:
        name, size = member.header.name.decode(), member.header.size_bytes
        yield f"first header of {name}", member.header_offset + 3
        yield f"checksum of the header of {name}", member.data_offset - layout.TAR_BLOCK_BYTES + 150
        yield f"size in the header of {name}", member.data_offset - layout.TAR_BLOCK_BYTES + 130
        yield f"end of the header of {name}", member.data_offset - 1
        if member.header.type == layout.TYPE_FILE and size:
            yield f"first byte of {name}", member.data_offset
            yield f"middle of {name}", member.data_offset + size // 2
            yield f"last byte of {name}", member.data_offset + size - 1
            if size % layout.TAR_BLOCK_BYTES:
                yield f"padding behind {name}", member.data_offset + size
    data = path.read_bytes()
    manifest = data.rindex(b"MANIFEST\0")
    yield "header of the MANIFEST", manifest + 2
    yield "the MANIFEST", manifest + layout.TAR_BLOCK_BYTES + 10
    yield "the MANIFEST's last line", len(data.rstrip(b"\0")) - 3
    yield "end of the archive", len(data.rstrip(b"\0")) + 600
    yield "last byte of the last record", len(data) - 1


@contextmanager
def flipped(*places: tuple[Path, int]) -> Iterator[None]:
    for path, offset in places:
        flip_bit(path, offset)
    try:
        yield
    finally:
        for path, offset in places:
            flip_bit(path, offset)


def back(vault: Path, folder: Path) -> RestoreReport:
    return restore(vault, RestoreRequest(to=folder, origin="tape"))


def test_law_7_every_mismatch_speaks_a_bit_in_every_region_of_an_object(
    vault: Path, night: Path, tmp_path: Path
) -> None:
    """On one side, then on the other: everything comes back, byte for byte."""
    count = 0
    for barcode in (A, B):
        path = tape_file(vault, barcode, OBJECT)
        for region, offset in regions(path):
            count += 1
            with flipped((path, offset)):
                report = back(vault, tmp_path / str(count))
            assert report.errors == [], f"{barcode}, {region}"
            assert differences(night, tmp_path / str(count) / "night") == [], f"{barcode}, {region}"
    assert count >= 2 * 50


def test_law_7_every_mismatch_speaks_a_bit_in_every_tape_file_is_found_and_named(vault: Path, night: Path) -> None:
    """Every region of each tape file of both sides; one of each at a time, as each must be named by itself."""
    numbers = [n for n in range(100) if tape_file(vault, A, n).exists()]
    assert len(numbers) == 4  # the label, an object, the catalog twice
    paths = {(barcode, n): tape_file(vault, barcode, n) for barcode in (A, B) for n in numbers}
    places = {file: list(regions(path)) for file, path in paths.items()}
    for turn in range(max(map(len, places.values()))):
        hit = {file: found[turn] for file, found in places.items() if turn < len(found)}
        with flipped(*((paths[file], offset) for file, (_, offset) in hit.items())):
            report = verify(vault, (), everything=True)
        assert report.exit_code() == EXIT_DATA_AT_RISK
        named = {" ".join(str(error.place).split()[:4]) for error in report.errors}
        assert named == {f"{barcode} tape file {n}" for barcode, n in hit}, hit
    assert verify(vault, (), everything=True).errors == []


def test_twins_that_are_damaged_in_different_members_give_everything(vault: Path, night: Path, tmp_path: Path) -> None:
    places = {member.header.name: member.data_offset for member in members_of(tape_file(vault, A, OBJECT))}
    for number, (first, second) in enumerate([("one", "two"), ("two", "one"), ("three", "in/four")]):
        one = tape_file(vault, A, OBJECT), places[f"night/{first}".encode()]
        other = tape_file(vault, B, OBJECT), places[f"night/{second}".encode()]
        with flipped(one, other):
            report = back(vault, tmp_path / str(number))
        assert report.errors == []
        assert report.warnings
        assert differences(night, tmp_path / str(number) / "night") == []


@pytest.mark.parametrize("name", ["one", "three", "in/four"])
def test_a_member_that_is_damaged_on_both_twins_is_named_and_the_rest_restored(
    vault: Path, night: Path, tmp_path: Path, name: str
) -> None:
    places = {member.header.name: member.data_offset for member in members_of(tape_file(vault, A, OBJECT))}
    offset = places[f"night/{name}".encode()]
    with flipped((tape_file(vault, A, OBJECT), offset), (tape_file(vault, B, OBJECT), offset)):
        report = back(vault, tmp_path / "back")
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert any(f"night/{name}" in str(error) for error in report.errors)
    left = {path.relative_to(night) for path in night.rglob("*") if path.is_file() and not path.is_symlink()}
    there = {
        path.relative_to(tmp_path / "back/night")
        for path in (tmp_path / "back/night").rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert left - there == {Path(name)}
    assert all((tmp_path / "back/night" / path).read_bytes() == (night / path).read_bytes() for path in there)
