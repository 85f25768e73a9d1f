"""The lines of tastypy's files, both ways, as its release 0.0.3 wrote them. Pure.

A folder holds `0.json`, `1.json` and so on (or `.json.gz`), all but the last with equally many lines. A line is the key's
JSON, a tab, the value's JSON, and a line feed; both JSON texts are ASCII, with `, ` and `: `. In the text of a key every
backslash is doubled once more. Of a tracker's values the progress comes first, in the order in which Python 2 had it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

from holdfast.errors import IntegrityError
from holdfast.state.keys import Key, key_of

_PROGRESS = ("_aborted", "_tries", "_done")


def line_of(key: Key, value: Any) -> bytes:
    """The line for one entry."""
    text = json.dumps(key).replace("\\", "\\\\")
    return f"{text}\t{json.dumps(_in_order(value))}\n".encode("ascii")


def _in_order(value: Any) -> Any:
    if not isinstance(value, dict) or not all(name in value for name in _PROGRESS):
        return cast("Any", value)
    task = cast("dict[str, Any]", value)
    return {name: task[name] for name in _PROGRESS} | task


def files_of(entries: Iterable[tuple[Key, Any]], file_size: int) -> Iterator[Iterator[bytes]]:
    """The lines of each file; a file must be taken whole before the next one."""
    left = iter(entries)
    for first in left:
        yield (line_of(key, value) for key, value in _and(first, islice(left, file_size - 1)))


def _and(first: tuple[Key, Any], more: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, Any]]:
    yield first
    yield from more


def entry_of(line: bytes, place: str) -> tuple[Key, Any]:
    """The entry of one line. Raises `IntegrityError` naming the `place` for a line that is none."""
    if not line.endswith(b"\n"):
        raise _bad(place, "a line that ends", repr(line[-40:]))
    text, tab, value = line[:-1].partition(b"\t")
    if not tab:
        raise _bad(place, "a key, a tab, and a value", repr(line[:40]))
    try:
        return key_of(json.loads(text.replace(b"\\\\", b"\\"))), json.loads(value)
    except ValueError as error:
        raise _bad(place, "JSON", str(error)) from error


def _bad(place: str, expected: str, found: str) -> IntegrityError:
    return IntegrityError(
        "a file of tastypy is damaged; nothing was taken over",
        place=place,
        expected=expected,
        found=found,
        hint="mend the line by hand, or take it out, in a copy of the folder",
    )
