"""The tree of errors: what is shown, and the stable exit codes."""

from __future__ import annotations

import pytest

from holdfast import errors
from holdfast.errors import HoldfastError

CODES = {
    "HoldfastError": 1,
    "UsageError": 2,
    "VaultError": 1,
    "SourceError": 1,
    "BackendError": 1,
    "BusyError": 5,
    "CapacityError": 1,
    "IntegrityError": 3,
    "MediaError": 3,
    "StateError": 1,
    "NoSuchStore": 1,
    "InvalidKey": 1,
    "InvalidValue": 1,
    "ConflictError": 1,
    "LeaseLost": 1,
    "DuplicateKeyError": 1,
    "BlockError": 1,
    "BlockStateError": 1,
    "NotKeptError": 1,
    "MemoryBudgetError": 1,
    "OperatorNeeded": 4,
    "Interrupted": 130,
}


def test_every_error_has_its_documented_exit_code() -> None:
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, HoldfastError)
    }
    assert found == CODES
    for name, code in CODES.items():
        assert f"{name} " in (errors.__doc__ or "") or name == "HoldfastError"
        assert f"exit {code}" in (errors.__doc__ or "")


def test_exit_codes_tell_trouble_apart() -> None:
    codes = {
        errors.EXIT_DONE,
        errors.EXIT_FAILED,
        errors.EXIT_USAGE,
        errors.EXIT_DATA_AT_RISK,
        errors.EXIT_OPERATOR,
        errors.EXIT_BUSY,
        errors.EXIT_INTERRUPTED,
    }
    assert len(codes) == 7
    assert errors.EXIT_DONE == 0


def test_an_error_shows_its_parts_in_order() -> None:
    error = HoldfastError("bad bytes", hint="run it again", found="b", expected="a", place="tape 5")
    assert list(error.facts()) == ["error", "place", "expected", "found", "next"]
    assert str(error) == "bad bytes; place: tape 5; expected: a; found: b; next: run it again"
    assert error.args == ("bad bytes",)


@pytest.mark.parametrize(("parts", "shown"), [({}, "x"), ({"found": ""}, "x; found: "), ({"hint": "y"}, "x; next: y")])
def test_parts_that_were_not_given_are_not_shown(parts: dict[str, str], shown: str) -> None:
    assert str(HoldfastError("x", **parts)) == shown
