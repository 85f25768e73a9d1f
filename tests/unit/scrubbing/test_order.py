"""Which pack comes first: what was looked at longest ago, and known damage between that."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from holdfast.scrubbing.order import Look, in_turn

A, B, C, D = (uuid.UUID(int=number) for number in range(4))


def test_what_was_read_longest_ago_comes_first_and_what_never_was_before_it() -> None:
    looks = {A: Look(30, is_damaged=False), B: Look(10, is_damaged=False), C: Look(20, is_damaged=False)}
    assert in_turn([A, B, C, D], looks) == [D, B, C, A]


def test_damage_comes_between_and_first_only_if_it_was_not_looked_at_last() -> None:
    looks = {A: Look(10, is_damaged=False), B: Look(20, is_damaged=False), C: Look(5, is_damaged=True)}
    assert in_turn([A, B, C], looks) == [C, A, B]
    assert in_turn([A, B, C], looks | {C: Look(30, is_damaged=True)}) == [A, C, B]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 3))
def test_with_time_for_few_packs_every_one_gets_its_turn(damaged: list[bool], a_run: int) -> None:
    packs = [uuid.UUID(int=number) for number in range(len(damaged))]
    looks: dict[uuid.UUID, Look] = {}
    clock = 0
    for _ in range(2 * len(packs)):
        order = in_turn(packs, looks)
        assert sorted(order) == packs
        for pack in order[:a_run]:
            clock += 1
            looks[pack] = Look(clock, is_damaged=damaged[pack.int])
    assert set(looks) == set(packs)
