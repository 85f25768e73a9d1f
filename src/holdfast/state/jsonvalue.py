"""Values and their text: JSON (RFC 8259), strictly. Pure.

What `dump` takes, `load` gives back equal, but for what JSON does not tell apart: tuples are lists, and the keys of a
dictionary inside a value are text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

from holdfast.errors import InvalidValue

Parts: TypeAlias = "dict[object, object] | list[object] | tuple[object, ...]"
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAX_DEPTH = 100
"""Lists and dictionaries inside each other: what Python can still write may be too deep for it to read."""
_CONTAINERS = (dict, list, tuple)
_SCALARS = {str, int, float, bool, type(None)}
_STR_ONLY = {str}
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def dump(value: object) -> str:
    """The text of `value`. Raises `InvalidValue`; nothing else is done."""
    try:
        text = _encode(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue("a value with half of a character (a lone surrogate)", found=ascii(value)[:80]) from error
    except RecursionError as error:
        raise InvalidValue("a value that is nested too deeply", found=type(value).__name__) from error
    except (TypeError, ValueError) as error:
        raise InvalidValue("a value that JSON does not have", found=str(error)) from error
    if isinstance(value, _CONTAINERS):
        _check_parts(cast("Parts", value), MAX_DEPTH)
    return text


def load(text: str) -> Any:
    """The value whose text this is. Raises `ValueError` for text that is no JSON."""
    return _decode(text)


def plain(value: Any) -> Any:
    """A copy of `value` as it will be read back. Raises `InvalidValue`."""
    return load(dump(value))


def _check_parts(value: Parts, depth: int) -> None:
    """Two names of a dictionary must not become one, as 1 and '1' do in JSON; and what is inside may be so deep."""
    if not depth:
        raise InvalidValue("a value that is nested too deeply", expected=f"at most {MAX_DEPTH} inside each other")
    if isinstance(value, dict):
        if set(map(type, value)) - _STR_ONLY and len(set(map(_name, value))) != len(value):
            raise InvalidValue("a dictionary with names that are one in JSON", found=repr(value)[:80])
        parts: Iterable[object] = value.values()
    else:
        parts = value
    if set(map(type, parts)) - _SCALARS:
        for part in parts:
            if isinstance(part, _CONTAINERS):
                _check_parts(cast("Parts", part), depth - 1)


def _name(key: object) -> str:
    return key if isinstance(key, str) else _encode(key)
