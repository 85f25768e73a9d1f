"""Stores as files that people can read, and back: lines of JSON, or the folder that tastypy wrote.

    pods.jsonl       {"holdfast":"entries","format":1,"kind":"pod","entries":2}
                     {"key":"a","value":[1]}
                     {"key":["tuple",1],"value":null}
    old.pod/0.json   see `tastypy_format`

What is written is the same for the same entries, byte for byte, and there whole or not at all.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from holdfast import durable
from holdfast.errors import IntegrityError, SourceError, StateError
from holdfast.state import tastypy_format
from holdfast.state.keys import Key, key_of

FORMAT = 1


# -- lines of JSON


def write_lines(path: Path, kind: str, count: int, entries: Iterable[tuple[Key, Any]]) -> None:
    """Write the entries to one file, compressed if its name ends in `.gz`; durable on return."""
    head = {"holdfast": "entries", "format": FORMAT, "kind": kind, "entries": count}
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with _written(part / path.name, compressed=path.suffix == ".gz") as file:
            file.write(_json(head))
            for key, value in entries:
                file.write(_json({"key": key, "value": value}))
        os.replace(part / path.name, path)
        durable.sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@contextmanager
def _written(path: Path, *, compressed: bool) -> Generator[IO[bytes]]:
    """A new file, durable when the block is left."""
    with durable.disk_full_explained(path), path.open("wb") as raw:
        if compressed:
            with gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
                yield file  # type: ignore[misc]
        else:
            yield raw
        raw.flush()
        durable.sync_file(raw.fileno())


def read_lines(path: Path) -> Iterator[tuple[Key, Any]]:
    """The entries of such a file. Raises `IntegrityError` when it is damaged, or is not whole, and says where."""
    lines = _lines(path)
    _, head = next(lines, (1, b""))
    count = _count_told(path, head)
    found = 0
    for number, line in lines:
        try:
            entry = json.loads(line)
            yield key_of(entry["key"]), entry["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(f"{path} line {number}", '{"key":…,"value":…}', repr(line[:60])) from error
        found += 1
    if found != count:
        raise _damaged(str(path), f"{count} entries", f"{found}")


def _count_told(path: Path, line: bytes) -> int:
    try:
        head = json.loads(line)
        is_ours, told, count = head["holdfast"] == "entries", head["format"], head["entries"]
    except (ValueError, KeyError, TypeError):
        is_ours, told, count = False, None, 0
    if not is_ours or told != FORMAT:
        raise _damaged(f"{path} line 1", f'{{"holdfast":"entries","format":{FORMAT},…}}', repr(line[:60]))
    return count


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its number. Raises `IntegrityError` for a compressed file that cannot be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from enumerate(file, 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(str(path), "a whole compressed file", str(error)) from error


def _damaged(place: str, expected: str, found: str) -> IntegrityError:
    return IntegrityError(
        "a file of entries is damaged; nothing was taken over",
        place=place,
        expected=expected,
        found=found,
        hint="export the store again, or mend a copy of the file by hand",
    )


# -- the folder of tastypy


def write_tastypy(folder: Path, entries: Iterable[tuple[Key, Any]], *, file_size: int, compressed: bool) -> None:
    """Write the folder as tastypy 0.0.3 would have; durable on return. Raises `StateError` when it is there."""
    if folder.exists():
        raise StateError("this folder is there already", place=str(folder), hint="name a folder that is to be made")
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        part.chmod(0o755)
        for number, lines in enumerate(tastypy_format.files_of(entries, file_size)):
            with _written(part / _name(number, compressed=compressed), compressed=compressed) as file:
                file.writelines(lines)
        durable.sync_folder(part)
        part.rename(folder)
        durable.sync_folder(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _name(number: int, *, compressed: bool) -> str:
    return f"{number}.json.gz" if compressed else f"{number}.json"


def is_of_tastypy(folder: Path) -> bool:
    """Whether tastypy has written here."""
    return any((folder / name).is_file() for name in ("0.json", "0.json.gz"))


def read_tastypy(folder: Path) -> Iterator[tuple[Key, Any]]:
    """The entries of a folder of tastypy. Raises `IntegrityError` when a file is missing, or is not whole."""
    compressed = not (folder / "0.json").is_file()
    count = _count_files(folder, compressed=compressed)
    size: int | None = None
    for number in range(count):
        path, lines = folder / _name(number, compressed=compressed), 0
        for lines, line in _lines(path):
            yield tastypy_format.entry_of(line, f"{path} line {lines}")
        size = lines if size is None else size
        if number + 1 < count and lines != size:
            raise _damaged(str(path), f"{size} lines, as in the first file", f"{lines}")


def _count_files(folder: Path, *, compressed: bool) -> int:
    suffix = ".json.gz" if compressed else ".json"
    if (folder / "0.json").is_file() and (folder / "0.json.gz").is_file():
        raise _damaged(str(folder), "0.json or 0.json.gz", "both")
    names = [path.name.removesuffix(suffix) for path in folder.iterdir() if path.name.endswith(suffix)]
    numbers = sorted(int(name) for name in names if name.isascii() and name.isdecimal())
    for number, found in enumerate(numbers):
        if found != number:
            raise _damaged(str(folder / f"{number}{suffix}"), "this file", f"none, and {found}{suffix}")
    return len(numbers)


def read(path: Path) -> Iterator[tuple[Key, Any]]:
    """The entries of a folder of tastypy, or of a file of lines. Raises `SourceError` when there is neither."""
    if path.is_dir() and is_of_tastypy(path):
        return read_tastypy(path)
    if path.is_file():
        return read_lines(path)
    raise SourceError(
        "no entries to import",
        place=str(path),
        expected="a file that `export` has written, or a folder of tastypy",
        found="another folder" if path.is_dir() else "nothing",
    )
