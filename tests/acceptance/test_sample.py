"""A sample reads a share of the tape files of both sides, and proves what it read and nothing else."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive

from holdfast import journey
from holdfast.catalog import Catalog, proof, tapes
from holdfast.cli.app import run
from holdfast.journey import verify
from holdfast.reports import VerifyReport
from holdfast.tape.drive.virtual import data_path
from holdfast.tape.sample import Sample
from holdfast.testing import flip_bit

pytestmark = pytest.mark.acceptance

OBJECTS = 12
PAIR = ("HF0001L8", "HF0002L8")
LABEL_ENDS_AND_CATALOGS = 5


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """As many files as objects: each is nearly as long as one."""
    folder = tmp_path / "night"
    folder.mkdir()
    for number in range(OBJECTS):
        (folder / f"{number:02d}.bin").write_bytes(os.urandom(900_000))
    return folder


def proven(vault: Path) -> dict[str, set[int]]:
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        return {barcode: proof.proven_tape_files(connection, barcode) for barcode in PAIR}


def objects_on(vault: Path, barcode: str) -> list[int]:
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        return [item.number for item in tapes.tape_files(connection, barcode) if item.kind == "object"]


def sampled(vault: Path, share: Fraction, seed: int) -> VerifyReport:
    return verify(vault, (), everything=False, sample=Sample(share, seed))


def chosen(vault: Path, barcode: str, sample: Sample) -> frozenset[int]:
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        return sample.chosen(barcode, [(f.number, f.kind) for f in tapes.tape_files(connection, barcode)])


@pytest.fixture
def unverified(vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vault whose run ended before anything was read back."""
    with monkeypatch.context() as patch:
        patch.setattr(journey, "_verify", lambda *_, **__: None)
        archived(night)
    assert proven(vault) == {barcode: set() for barcode in PAIR}
    return vault


def test_law_4_a_sample_proves_what_it_read_and_nothing_else(unverified: Path) -> None:
    report = sampled(unverified, Fraction(1, 4), 1)
    read = {barcode: set(chosen(unverified, barcode, Sample(Fraction(1, 4), 1))) for barcode in PAIR}
    assert proven(unverified) == read
    in_between = len(objects_on(unverified, PAIR[0])) - 2
    assert in_between >= 8
    assert report.tape_files == 2 * (LABEL_ENDS_AND_CATALOGS + -(-in_between // 4))
    assert report.committed_tape_files == 2 * (LABEL_ENDS_AND_CATALOGS + in_between)
    assert report.totals["proven"] <= 1 + 2 + -(-in_between // 4), "at most the ends, and what both lots hit"
    full = verify(unverified, (), everything=True)
    assert full.totals["proven"] == full.totals["versions"]


def test_law_4_a_sample_that_passes_damage_by_takes_nothing_back(vault: Path, night: Path, archived: Archive) -> None:
    archived(night)
    middle = objects_on(vault, PAIR[0])[OBJECTS // 2]
    damaged = data_path(vault / "library/cartridges" / PAIR[0], middle)
    flip_bit(damaged, 300_000)
    assert verify(vault, (), everything=True).exit_code() == 3
    flip_bit(damaged, 300_000)  # good again, but the evidence says otherwise until it is read
    share = Fraction(1, 10)
    missing = next(n for n in range(100) if middle not in chosen(vault, PAIR[0], Sample(share, n)))
    hitting = next(n for n in range(100) if middle in chosen(vault, PAIR[0], Sample(share, n)))
    report = sampled(vault, share, missing)
    assert report.exit_code() == 0
    assert middle not in proven(vault)[PAIR[0]]
    assert report.totals["proven"] < report.totals["versions"]
    assert sampled(vault, share, hitting).totals["proven"] == report.totals["versions"]


def test_a_sample_finds_damage_at_both_ends_whatever_the_seed(vault: Path, night: Path, archived: Archive) -> None:
    archived(night)
    first, *_, last = objects_on(vault, PAIR[1])
    for number in (first, last):
        flip_bit(data_path(vault / "library/cartridges" / PAIR[1], number), 300_000)
    for seed in (1, 2):
        report = sampled(vault, Fraction(1, 1000), seed)
        assert report.exit_code() == 3
        places = " ".join(error.place or "" for error in report.errors)
        assert f"HF0002L8 tape file {first} " in places
        assert f"HF0002L8 tape file {last} " in places


def test_the_command_says_how_many_of_how_many_and_the_seed_reads_the_same_again(
    vault: Path, night: Path, archived: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    archived(night)
    capsys.readouterr()
    assert run(["verify", "--sample", "25%", "--json", "--vault", str(vault)]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["sample"] == "25%"
    assert first["tape_files"] < first["committed_tape_files"]
    assert run(["verify", "--sample", "25%", "--seed", str(first["seed"]), "--vault", str(vault)]) == 0
    text = capsys.readouterr().out
    figures = f"read {first['tape_files']} of {first['committed_tape_files']} tape files (a sample of 25%; "
    assert figures + f"--seed {first['seed']} reads the same again) with {first['members']} members" in text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--sample", "0%"], "--sample 25%"),
        (["--sample", "a lot"], "--sample 25%"),
        (["--sample", "120%"], "--sample 25%"),
        (["--seed", "3"], "--sample 25% --seed 3"),
        (["--sample", "5%", "--all"], "one of --all, --unproven, --sample"),
        (["--unproven", "--all"], "one of --all, --unproven, --sample"),
    ],
)
def test_wrong_use_of_samples_is_told_with_an_example(
    vault: Path, options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", *options, "--vault", str(vault)]) == 2
    assert text in capsys.readouterr().err
