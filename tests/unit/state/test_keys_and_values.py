"""Which keys and values there are, and that each comes back as it went in."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidKey, InvalidValue
from holdfast.state.jsonvalue import dump, load
from holdfast.state.keys import key_text, parse_key

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.recursive(TEXT | st.integers(), lambda keys: st.lists(keys, max_size=3).map(tuple), max_leaves=5)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXT, values, max_size=4),
    max_leaves=8,
)


HUGE = 10**5000
"""More digits than Python reads back."""


def safe_repr(value: Any) -> str:
    return "huge" if value is HUGE else ascii(value)


@given(KEYS)
def test_a_key_comes_back_as_it_went_in(key: Any) -> None:
    found = parse_key(key_text(key))
    assert (found, type(found)) == (key, type(key))


@given(KEYS, KEYS)
def test_only_equal_keys_have_the_same_text(one: Any, other: Any) -> None:
    assert (key_text(one) == key_text(other)) == (one == other)


@pytest.mark.parametrize(
    "key", [None, 1.0, b"a", [1], {"a": 1}, ("a", None), "\ud800", ("\udfff",), HUGE], ids=safe_repr
)
def test_other_keys_are_refused(key: Any) -> None:
    with pytest.raises(InvalidKey) as caught:
        key_text(key)
    assert isinstance(caught.value, ValueError)


def test_true_is_one_as_in_any_dictionary() -> None:
    assert key_text(True) == key_text(1) != key_text("1")


@pytest.mark.parametrize("text", ["1.5", "null", "true", '{"a":1}', "[1,null]"])
def test_a_text_that_no_key_has_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        parse_key(text)


@given(VALUES)
def test_a_value_comes_back_as_it_went_in(value: Any) -> None:
    assert load(dump(value)) == value


def cycle() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


def deep() -> list[Any]:
    inner: list[Any] = []
    for _ in range(5000):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        {"a": [-math.inf]},
        "\ud800",
        {"\udc00": 1},
        Ellipsis,
        {1, 2},
        b"bytes",
        {(1, 2): 3},
        {1: "a", "1": "b"},
        [{"a": {True: 1, "true": 2}}],
        HUGE,
    ],
    ids=safe_repr,
)
def test_what_json_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        dump(value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("make", [cycle, deep])
def test_a_value_without_end_is_refused(make: Any) -> None:
    with pytest.raises(InvalidValue):
        dump(make())


def test_tuples_are_lists_and_names_are_text() -> None:
    assert load(dump({"a": (1, 2), 3: None})) == {"a": [1, 2], "3": None}
