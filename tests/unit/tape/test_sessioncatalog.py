"""Catalogs of sessions are believed only if every line is there."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path

import pytest

from holdfast.errors import IntegrityError
from holdfast.tape.sessioncatalog import ObjectTold, open_catalog

PAIR, SESSION, OBJECT = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
HEAD = {"is": "catalog", "format": 1, "vault": str(uuid.uuid4()), "pair": str(PAIR), "session": str(SESSION)}
AN_OBJECT = {"is": "object", "id": str(OBJECT), "tape_file": 1, "first_block": 3, "size": 1024, "blake3": "07" * 32}


def write(path: Path, *lines: object) -> Path:
    text = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    path.write_bytes(gzip.compress(text))
    return path


def test_a_whole_catalog_tells_of_its_objects_and_lines_of_new_kinds_are_passed_over(tmp_path: Path) -> None:
    lines = [HEAD, AN_OBJECT | {"later": 1}, {"is": "of a later release", "what": []}, {"is": "last", "lines": 3}]
    catalog = open_catalog(write(tmp_path / "c", *lines), PAIR, SESSION)
    assert catalog.objects() == {1: ObjectTold(OBJECT, 1, 3, 1024, b"\7" * 32)}


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([], "no last line"),
        ([HEAD, AN_OBJECT], "no last line"),
        ([HEAD, {"is": "last", "lines": 5}], "lacks lines"),
        ([HEAD, {"is": "last", "lines": 1}, AN_OBJECT], "no last line"),
        ([AN_OBJECT, {"is": "last", "lines": 1}], "no first line"),
        ([HEAD, b"{damaged\n", {"is": "last", "lines": 2}], "damaged line"),
        ([HEAD | {"format": 9}, {"is": "last", "lines": 1}], "newer format"),
        ([HEAD | {"pair": str(uuid.uuid4())}, {"is": "last", "lines": 1}], "another pair"),
    ],
)
def test_a_catalog_that_is_not_whole_is_not_believed(tmp_path: Path, lines: list[object], text: str) -> None:
    with pytest.raises(IntegrityError, match=text):
        open_catalog(write(tmp_path / "c", *lines), PAIR, SESSION)


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: data[:30] + b"\xff" * 8 + data[38:]])
def test_a_catalog_that_cannot_be_unpacked_is_damaged(tmp_path: Path, spoil: object) -> None:
    path = write(tmp_path / "c", HEAD, *[AN_OBJECT] * 50, {"is": "last", "lines": 51})
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(IntegrityError):
        open_catalog(path, PAIR, SESSION)


def test_a_line_that_says_something_impossible_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "c", HEAD, AN_OBJECT | {"blake3": "xx"}, {"is": "last", "lines": 2})
    with pytest.raises(IntegrityError, match="damaged line"):
        open_catalog(path, PAIR, SESSION).objects()
