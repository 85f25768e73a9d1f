"""Samples: the ends always, the rest by a lot that can be drawn again."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import EXIT_USAGE, UsageError
from holdfast.tape.sample import Sample, parse_share

KINDS = [(0, "label")] + [(n, "catalog" if n in (51, 52, 103, 104) else "object") for n in range(1, 105)]
ALWAYS = {0, 1, 102, 103, 104}


def test_the_ends_are_always_read_and_a_share_of_the_rest() -> None:
    chosen = Sample(Fraction(1, 4), 1).chosen("HF0001L8", KINDS)
    assert chosen >= ALWAYS
    assert len(chosen) == len(ALWAYS) + 25  # of 98 other objects, rounded up
    assert not chosen & {51, 52}, "the catalogs of an earlier session"


def test_the_same_seed_chooses_the_same_in_every_release() -> None:
    sample = Sample(Fraction(1, 20), 20261121)
    assert sorted(sample.chosen("HF0001L8", KINDS) - ALWAYS) == [28, 31, 55, 62, 70]
    assert sample.chosen("HF0001L8", KINDS) != sample.chosen("HF0002L8", KINDS), "each cartridge has its own lot"
    assert sample.chosen("HF0001L8", KINDS) != Sample(Fraction(1, 20), 3).chosen("HF0001L8", KINDS)


def test_many_seeds_read_every_tape_file_in_time() -> None:
    seen = frozenset[int]().union(*(Sample(Fraction(1, 10), seed).chosen("HF0001L8", KINDS) for seed in range(100)))
    assert seen == {number for number, _ in KINDS} - {51, 52}


@given(st.integers(0, 40), st.fractions(min_value=Fraction(1, 1000), max_value=1), st.integers())
def test_a_sample_is_of_what_is_there_and_at_least_its_share(objects: int, share: Fraction, seed: int) -> None:
    kinds = [(0, "label"), *((n + 1, "object") for n in range(objects))]
    chosen = Sample(share, seed).chosen("HF0001L8", kinds)
    assert chosen <= {number for number, _ in kinds}
    assert len(chosen) - 1 >= share * objects
    if share == 1:
        assert len(chosen) == len(kinds)


def test_a_blank_cartridge_has_no_sample() -> None:
    assert Sample(Fraction(1, 4), 1).chosen("HF0001L8", []) == frozenset()


@pytest.mark.parametrize(("text", "share"), [("25%", "1/4"), ("12.5%", "1/8"), ("100%", "1"), ("0.1 %", "1/1000")])
def test_shares_as_people_write_them(text: str, share: str) -> None:
    assert parse_share(text) == Fraction(share)
    assert str(Sample(parse_share(text), 1)) == text.replace(" ", "")


@pytest.mark.parametrize("text", ["", "25", "0%", "0.0%", "101%", "-5%", "a quarter", "1e1%", "1/4", "٢٥%", "25%%"])
def test_what_is_no_share_is_wrong_use_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="not a share") as raised:
        parse_share(text)
    assert raised.value.exit_code == EXIT_USAGE
    assert "--sample 25%" in (raised.value.hint or "")
