"""Reading a session's catalog back from tape: out of its tape file into a scratch file, checked, and line by line.

However long a catalog is, no more than a line of it is in memory.
"""

from __future__ import annotations

import gzip
import json
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from holdfast import durable, jsonform
from holdfast.catalog import Evidence
from holdfast.errors import IntegrityError
from holdfast.tape.drive import TapeDrive
from holdfast.tape.facts import CATALOG_FORMAT, CATALOG_NAME, evidence_of
from holdfast.tape.layout import MemberHeader
from holdfast.tape.reader import ReadMember, TarReader
from holdfast.tape.scan import RecordBuffer, read_tape_file

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ObjectTold:
    """An object, as the catalog of a session tells of it."""

    id: uuid.UUID
    tape_file: int
    first_block: int
    size_bytes: int
    blake3: bytes


class _HeadLine(msgspec.Struct):
    format: int
    vault: uuid.UUID
    pair: uuid.UUID
    session: uuid.UUID


class _ObjectLine(msgspec.Struct):
    id: uuid.UUID
    tape_file: int
    first_block: int
    size: int
    blake3: str


class _LastLine(msgspec.Struct):
    lines: int


class _AnyLine(msgspec.Struct, rename={"what": "is"}):
    what: str


CatalogLine = jsonform.SourceLine | jsonform.VersionLine | jsonform.EndLine | ObjectTold | Evidence


def spool_catalog(
    drive: TapeDrive, buffer: RecordBuffer, path: Path, on_bytes: Callable[[int], None]
) -> tuple[TarReader, IntegrityError | None]:
    """Read the catalog that begins here and put its lines, still packed, at `path`; what is wrong with it, if anything.

    Raises `EndOfData` and `MediaError` as the drive does.
    """
    digests: dict[bytes, bytes | None] = {}

    def note(member: ReadMember) -> None:
        digests[member.header.name] = member.sha256

    with durable.disk_full_explained(path), path.open("wb") as file:

        def keep(header: MemberHeader, piece: memoryview) -> None:
            if header.name == CATALOG_NAME:
                file.write(piece)

        reader = read_tape_file(drive, buffer, on_member=note, on_data=keep, on_bytes=on_bytes)
    return reader, _what_is_wrong(reader, digests)


def _what_is_wrong(reader: TarReader, digests: dict[bytes, bytes | None]) -> IntegrityError | None:
    if reader.problem is not None:
        return reader.problem
    try:
        expected = reader.manifest_digests().get(CATALOG_NAME)
    except IntegrityError as error:
        return error
    found = digests.get(CATALOG_NAME)
    if found is not None and found == expected:
        return None
    return IntegrityError(
        "a catalog on tape is not what its MANIFEST says",
        expected="SHA-256 " + (expected or b"").hex(),
        found="SHA-256 " + (found or b"").hex(),
    )


class SessionCatalog:
    """The lines of a catalog that was put at `path`. Made by `open_catalog`, which has seen that they are whole."""

    def __init__(self, path: Path, session_id: uuid.UUID) -> None:
        self.path = path
        self.session_id = session_id

    def lines(self, *kinds: str) -> Iterator[CatalogLine]:
        """The lines of these kinds (see `session`), in their order."""
        for kind, line in _split(self.path):
            if kind in kinds:
                yield _decode(kind, line)

    def objects(self) -> dict[int, ObjectTold]:
        """Every object that it tells of, by tape file."""
        told = (line for line in self.lines("object") if isinstance(line, ObjectTold))
        return {item.tape_file: item for item in told}


def open_catalog(path: Path, pair_id: uuid.UUID, session_id: uuid.UUID) -> SessionCatalog:
    """Look through a catalog: every line must be there.

    Raises `IntegrityError` when it is not whole, of another pair or session, or of a newer format.
    """
    count, last = 0, -1
    for kind, line in _split(path):
        if count == 0:
            _check_head(kind, line, pair_id, session_id)
        if kind == "last":
            last = _read(line, _LastLine).lines
            if last != count:
                raise IntegrityError("a catalog on tape lacks lines", expected=f"{last} lines", found=f"{count} lines")
        count += 1
    if last < 0 or last + 1 != count:
        raise IntegrityError("a catalog on tape has no last line", found=f"{count} lines")
    return SessionCatalog(path, session_id)


def _check_head(kind: str, line: bytes, pair_id: uuid.UUID, session_id: uuid.UUID) -> None:
    if kind != "catalog":
        raise IntegrityError("a catalog on tape has no first line", found=repr(line[:80]))
    head = _read(line, _HeadLine)
    if head.format > CATALOG_FORMAT:
        raise IntegrityError(
            "a catalog on tape is of a newer format than this Holdfast knows",
            expected=f"format {CATALOG_FORMAT} or older",
            found=f"format {head.format}",
            hint="pip install --upgrade holdfast",
        )
    if (head.pair, head.session) != (pair_id, session_id):
        raise IntegrityError(
            "a catalog on tape is of another pair or session than its tape file says",
            expected=f"pair {pair_id}, session {session_id}",
            found=f"pair {head.pair}, session {head.session}",
        )


def _split(path: Path) -> Iterator[tuple[str, bytes]]:
    """What each line is, and the line."""
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                yield _read(line, _AnyLine).what, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise IntegrityError("a catalog on tape cannot be unpacked", found=str(error)) from None


def _read(line: bytes, form: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IntegrityError("damaged line in a catalog on tape", found=f"{error}: {line[:80]!r}") from None


def _decode(kind: str, line: bytes) -> CatalogLine:
    if kind == "version":
        return _read(line, jsonform.VersionLine)
    if kind == "source":
        return _read(line, jsonform.SourceLine)
    if kind == "end":
        return _read(line, jsonform.EndLine)
    try:
        if kind == "evidence":
            return evidence_of(json.loads(line))
        told: Any = _read(line, _ObjectLine)
        return ObjectTold(told.id, told.tape_file, told.first_block, told.size, bytes.fromhex(told.blake3))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("damaged line in a catalog on tape", found=f"{error}: {line[:80]!r}") from None
