"""Feeding the catalog with what tapes tell, in groups: a session's catalog line by line, an object member by member.

CatalogFeeder   versions, objects with their members, listings and ends of one pair
Carried         what may be about any cartridge, ends and readings: put aside, and told when all pairs are known
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from holdfast import jsonform
from holdfast.catalog import Evidence, MemberFacts, adopting, files
from holdfast.errors import IntegrityError, UsageError
from holdfast.jsonform import EndLine, SourceLine, VersionLine
from holdfast.tape import layout
from holdfast.tape.facts import evidence_fields, evidence_of, member_facts
from holdfast.tape.layout import MemberHeader
from holdfast.tape.library import TapeLibrary
from holdfast.tape.reader import ReadMember
from holdfast.tape.sessioncatalog import CatalogLine, ObjectTold, SessionCatalog
from holdfast.values import Attributes, Content, FileVersion, Kind, Source, VersionEnd

L = TypeVar("L")
V = TypeVar("V")

GROUP = 2000
"""So many lines are told to the catalog in one transaction; of an object, all its members."""

KINDS = {
    layout.TYPE_FILE: Kind.FILE,
    layout.TYPE_HARD_LINK: Kind.FILE,
    layout.TYPE_SYMBOLIC_LINK: Kind.LINK,
    layout.TYPE_FOLDER: Kind.FOLDER,
}


class Carried:
    """Ends and readings that catalogs tell of, in scratch files: what they are about may be on another cartridge."""

    def __init__(self, library: TapeLibrary) -> None:
        self._library = library
        self._ends = library.scratch_file("rebuild-ends.jsonl")
        self._readings = library.scratch_file("rebuild-readings.jsonl")
        for path in (self._ends, self._readings):
            path.write_bytes(b"")

    def add_ends(self, ends: Iterable[EndLine]) -> None:
        with self._ends.open("ab") as file:
            file.writelines(msgspec.json.encode(item) + b"\n" for item in ends)

    def add_readings(self, told: SessionCatalog) -> None:
        """Put aside the readings that a session's catalog carries."""
        with self._readings.open("ab") as file:
            for item in told.lines("evidence"):
                if isinstance(item, Evidence):
                    entry = {"session": str(told.session_id)} | evidence_fields(item)
                    file.write(json.dumps(entry).encode() + b"\n")

    def tell(self) -> int:
        """Tell the catalog, whose pairs are all recorded now; how many readings it did not know."""
        for group in _groups(self._ends):
            with self._library.catalog.transaction() as connection:
                files.record_ends(connection, [VersionEnd(uuid.UUID(e["version"]), e["ended_ns"]) for e in group])
        new = 0
        for group in _groups(self._readings):
            told = [(uuid.UUID(fields["session"]), evidence_of(fields)) for fields in group]
            with self._library.catalog.transaction() as connection:
                new += adopting.adopt_evidence(connection, told)
        with self._library.catalog.transaction() as connection:
            adopting.end_replaced(connection)
        for path in (self._ends, self._readings):
            path.unlink()
        return new


def _groups(path: Path) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for line in file:
            group.append(json.loads(line))
            if len(group) == GROUP:
                yield group
                group = []
    yield group


class CatalogFeeder:
    """Tells the catalog what lines say of one pair, which is recorded. `finish` it."""

    def __init__(self, library: TapeLibrary, pair_id: uuid.UUID, carried: Carried) -> None:
        self._library = library
        self._pair_id = pair_id
        self._carried = carried
        self._session_id: uuid.UUID | None = None
        self._object: ObjectTold | None = None
        self._versions: list[VersionLine] = []
        self._ends: list[EndLine] = []

    def feed(self, lines: Iterable[CatalogLine], session_id: uuid.UUID | None = None) -> None:
        """The lines of a session's catalog, or of one object; `session_id` is that of versions without a place."""
        self._session_id = session_id
        for line in lines:
            self._take(line)
        self._flush()

    def _take(self, line: CatalogLine) -> None:
        if isinstance(line, SourceLine):
            self._transact(lambda connection: adopting.adopt_sources(connection, [_believed(jsonform.source_of, line)]))
        elif isinstance(line, ObjectTold):
            self._flush()
            self._object = line
        elif isinstance(line, VersionLine):
            if line.tape is None and self._object is not None:
                self._flush()
            self._versions.append(line)
        elif isinstance(line, EndLine):
            self._ends.append(line)
        if (self._object is None and len(self._versions) >= GROUP) or len(self._ends) >= GROUP:
            self._flush()

    def _transact(self, step: Callable[[Connection], None]) -> None:
        with self._library.catalog.transaction() as connection:
            step(connection)

    def _flush(self) -> None:
        """Tell the catalog what was collected: an object with all its members, or versions without one, or ends."""
        versions, self._versions = self._versions, []
        told, self._object = self._object, None
        ends, self._ends = self._ends, []

        def tell(connection: Connection) -> None:
            adopting.adopt_versions(connection, [_told(line) for line in versions])
            if told is not None:
                members = [_believed(_member, line) for line in versions]
                adopting.adopt_object(connection, told.id, self._pair_id, told.tape_file, members)
            elif versions and self._session_id is not None:
                ids = [uuid.UUID(line.id) for line in versions]
                adopting.adopt_listing(connection, self._session_id, self._pair_id, ids)
            files.record_ends(connection, [_believed(jsonform.end_of, line) for line in ends])

        if versions or told or ends:
            self._transact(tell)
        self._carried.add_ends(ends)


def _told(line: VersionLine) -> adopting.ToldVersion:
    version = _believed(jsonform.version_of, line)
    return adopting.ToldVersion(version, jsonform.sighting_of(line), line.void)


def _member(line: VersionLine) -> MemberFacts:
    version = jsonform.version_of(line)
    if line.tape is None:
        raise ValueError("a member without its place")
    content = version.content if version.kind is Kind.FILE and not line.void else None
    return MemberFacts(version.id, content, line.tape[2], line.tape[3], line.void)


def _believed(make: Callable[[L], V], line: L) -> V:
    try:
        return make(line)
    except (ValueError, UsageError) as error:
        raise IntegrityError("a line in a catalog on tape cannot be believed", found=f"{error}: {line}"[:300]) from None


# -- an object without a catalog: its members say what they are


def lines_of_object(
    told: ObjectTold, found: list[ReadMember], listed: dict[bytes, bytes], vault_id: uuid.UUID
) -> Iterator[bytes]:
    """What a session's catalog would tell of an object that was read, as far as its tar headers say it.

    They do not say when a version was seen (its id does, to the millisecond), nor where its source lies.
    """
    encode = jsonform.encode_line
    facts = {item.version_id: item for item in member_facts(found, listed)}
    ids = {item.header.name: item.header.version_id for item in found}
    for name in sorted({item.header.name.partition(b"/")[0] for item in found if item.header.version_id is not None}):
        text = name.decode("utf-8", "replace")
        yield encode(jsonform.source_line(Source(uuid.uuid5(vault_id, text), text, "", b"")))
    for item in found:
        own_id = item.header.version_id
        if own_id is not None:
            version = version_of_header(item.header, facts[own_id].content, ids.get(item.header.link_name))
            line = jsonform.version_line(version)
            line.tape = (str(told.id), told.tape_file, facts[own_id].header_offset, facts[own_id].data_offset)
            line.void = facts[own_id].void
            yield encode(line)


def version_of_header(header: MemberHeader, content: Content | None, target: uuid.UUID | None) -> FileVersion:
    """The version that a member is of. Raises `IntegrityError` for a name or kind that none can have."""
    source, _, path = header.name.rstrip(b"/").partition(b"/")
    try:
        kind = KINDS[header.type]
        if header.version_id is None:
            raise ValueError("no version")
        return FileVersion(
            id=header.version_id,
            source=source.decode("utf-8", "replace"),
            path=path,
            kind=kind,
            size_bytes=content.size_bytes if content is not None else header.size_bytes,
            attributes=Attributes(header.mode, header.mtime_ns, header.uid, header.gid, header.user, header.group),
            seen_ns=(header.version_id.int >> 80) * 10**6,
            content=content,
            link_target=header.link_name if kind is Kind.LINK else None,
            hard_link_of=target if header.type == layout.TYPE_HARD_LINK else None,
        )
    except (KeyError, ValueError) as error:
        raise IntegrityError("a member on tape that no version can be", found=f"{error}: {header}"[:300]) from None
