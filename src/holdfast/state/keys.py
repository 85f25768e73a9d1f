"""The keys of a dictionary, and the text under which each is stored. Pure.

A key is text, a whole number, or a tuple of keys. Its text is JSON (RFC 8259) without spaces, a tuple being an array,
so that `1` and `'1'` stay two keys, and whoever opens the database can read them. As in any dictionary of Python,
`True` is the key `1`.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any, TypeAlias, cast

from holdfast.errors import InvalidKey

Key: TypeAlias = "str | int | tuple[Key, ...]"


MAX_DEPTH = 100


def key_text(key: object, depth: int = MAX_DEPTH) -> str:
    """The text of `key`, the same for equal keys only. Raises `InvalidKey`; tuples may be so deep in each other."""
    if isinstance(key, str):
        return _text_of_str(key)
    if isinstance(key, int):
        return _text_of_int(key)
    if isinstance(key, tuple) and depth:
        return "[" + ",".join([key_text(part, depth - 1) for part in cast("tuple[object, ...]", key)]) + "]"
    raise InvalidKey(
        "keys are text, whole numbers, or tuples of such",
        expected="str, int, or a tuple of keys",
        found=type(cast("object", key)).__name__,
    )


def _text_of_str(key: str) -> str:
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise InvalidKey("a key with half of a character (a lone surrogate)", found=ascii(key)[:80]) from error
    return encode_basestring(key)


def _text_of_int(key: int) -> str:
    try:
        return int.__repr__(key) if key is not True and key is not False else str(int(key))
    except ValueError as error:
        raise InvalidKey("a number with more digits than can be read back", found=str(error)) from error


def parse_key(text: str) -> Key:
    """The key whose text this is. Raises `ValueError` for a text that `key_text` does not give."""
    return key_of(json.loads(text))


def key_of(value: Any) -> Key:
    """The key that JSON has as `value`. Raises `ValueError` for what no key is."""
    if isinstance(value, list):
        return tuple(map(key_of, cast("list[Any]", value)))
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"no key: {value!r:.80}")
