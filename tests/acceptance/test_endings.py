"""How runs end: what is wrong in one place is told, the rest is done all the same, and the report says what is so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences

from holdfast.catalog import Catalog, tapes
from holdfast.errors import EXIT_DATA_AT_RISK
from holdfast.restoring import RestoreRequest, restore


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
