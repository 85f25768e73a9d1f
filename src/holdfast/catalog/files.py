"""Sources, versions, contents and where the store keeps them.

Functions on a connection: those that record are idempotent (a fact told twice is one fact, by uuid or digest), so
that adopting after a crash may repeat what was recorded already. They do not commit.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import sqlite

from holdfast.catalog.bulk import execute_many
from holdfast.catalog.schema import content, source, version
from holdfast.errors import VaultError
from holdfast.values import (
    Attributes,
    Content,
    FileVersion,
    Kind,
    Sighting,
    Source,
    VersionEnd,
    parent_path,
    path_digest,
    show_path,
)

IN_LIMIT = 400
"""Values in one `IN (...)`: well below every database's limit on parameters."""

T = TypeVar("T")


def chunks(items: Sequence[T], size: int = IN_LIMIT) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def insert_new(table: Table) -> Insert:
    """An INSERT that passes over rows whose unique key is there already, and over no other mistake."""
    return sqlite.insert(table).on_conflict_do_nothing()


@dataclass(frozen=True, slots=True)
class PresentVersion:
    """A version as the catalog holds it, with its row number and last sighting."""

    row: int
    version: FileVersion
    sighting: Sighting


# -- sources


def record_sources(connection: Connection, sources: Iterable[Source]) -> None:
    """Record sources. Raises `VaultError` when another source has one of the names: their versions would mix."""
    new = list(sources)
    rows = [{"uuid": s.id.bytes, "name": s.name, "host": s.host, "root": s.root} for s in new]
    execute_many(connection, insert_new(source), rows)
    known = {s.name: s for s in all_sources(connection)}
    for item in new:
        if item.name not in known or known[item.name].id != item.id:
            raise VaultError(
                "two sources of one name",
                place=item.name,
                expected=str(known[item.name].id) if item.name in known else "a name of its own",
                found=f"{item.id}, {item.host}:{show_path(item.root)}",
                hint="name one of them otherwise: --source NAME",
            )


def place_source(connection: Connection, known: Source) -> None:
    """A source of which only the name was known has its host and root now."""
    where = (source.c.uuid == known.id.bytes, source.c.host == "")
    connection.execute(update(source).where(*where).values(host=known.host, root=known.root))


def all_sources(connection: Connection) -> list[Source]:
    rows = connection.execute(select(source).order_by(source.c.id))
    return [Source(uuid.UUID(bytes=row.uuid), row.name, row.host, row.root) for row in rows]


def source_rows(connection: Connection) -> dict[str, int]:
    """Row number of each source by name."""
    return {row.name: row.id for row in connection.execute(select(source.c.name, source.c.id))}


# -- contents and their segments


def record_contents(connection: Connection, contents: Iterable[Content]) -> dict[Content, int]:
    """Record the contents; returns the row number of each."""
    wanted = list(dict.fromkeys(contents))
    execute_many(
        connection, insert_new(content), [{"sha256": item.sha256, "size_bytes": item.size_bytes} for item in wanted]
    )
    found: dict[Content, int] = {}
    for part in chunks(wanted):
        query = select(content).where(content.c.sha256.in_([item.sha256 for item in part]))
        for row in connection.execute(query):
            found[Content(row.sha256, row.size_bytes)] = row.id
    return found


# -- versions


def new_version_id(seen_ns: int) -> uuid.UUID:
    """A fresh identity that begins with the time (UUID version 7): those of one run lie together in the index."""
    stamp, chance = seen_ns // 10**6 % 2**48, uuid.uuid4().int % 2**76
    return uuid.UUID(int=stamp << 80 | 7 << 76 | chance & ~(3 << 62) | 2 << 62)


def record_versions(
    connection: Connection, versions: Iterable[tuple[FileVersion, Sighting | None]]
) -> dict[Content, int]:
    """Record versions; their sources must be recorded. One that is known by its uuid is passed over.

    Returns the row number of each of their contents.
    """
    known = list(versions)
    contents = record_contents(connection, (v.content for v, _ in known if v.content is not None))
    sources = source_rows(connection)
    rows = [_version_row(v, sighting, sources, contents) for v, sighting in known]
    execute_many(connection, insert_new(version), rows)
    return contents


def _version_row(
    item: FileVersion, sighting: Sighting | None, sources: Mapping[str, int], contents: Mapping[Content, int]
) -> dict[str, Any]:
    a = item.attributes
    mtime_s, mtime_part_ns = divmod(a.mtime_ns, 10**9)
    return {
        "uuid": item.id.bytes,
        "source_id": sources[item.source],
        "path": item.path,
        "path_digest": path_digest(item.path),
        "folder_digest": path_digest(parent_path(item.path)),
        "kind": item.kind.value,
        "size_bytes": item.size_bytes,
        "mode": a.mode,
        "mtime_s": mtime_s,
        "mtime_part_ns": mtime_part_ns,
        "uid": a.uid,
        "gid": a.gid,
        "user": a.user,
        "group": a.group,
        "sparse": a.sparse,
        "link_target": item.link_target,
        "hard_link_of": item.hard_link_of.bytes if item.hard_link_of else None,
        "content_id": contents[item.content] if item.content else None,
        "seen_ns": item.seen_ns,
        "void": False,
        "device": signed(sighting.device) if sighting else 0,
        "inode": signed(sighting.inode) if sighting else 0,
        "ctime_ns": sighting.ctime_ns if sighting else 0,
        "looked_ns": sighting.looked_ns if sighting else 0,
    }


def signed(number: int) -> int:
    """An unsigned 64-bit number as the signed one that databases can hold (inodes may have the top bit set)."""
    return number - 2**64 if number >= 2**63 else number


def unsigned(number: int) -> int:
    return number + 2**64 if number < 0 else number


VERSION_COLUMNS = (
    version,
    source.c.name.label("source_name"),
    content.c.sha256.label("sha256"),
)


def select_versions() -> Select[Any]:
    """Versions joined with their source's name and content's digest; see `version_from`."""
    return (
        select(*VERSION_COLUMNS)
        .join(source, source.c.id == version.c.source_id)
        .outerjoin(content, content.c.id == version.c.content_id)
    )


def version_from(row: Row[Any]) -> FileVersion:
    """The version of a row of `select_versions`."""
    mtime_ns = row.mtime_s * 10**9 + row.mtime_part_ns
    return FileVersion(
        id=uuid.UUID(bytes=row.uuid),
        source=row.source_name,
        path=row.path,
        kind=Kind(row.kind),
        size_bytes=row.size_bytes,
        attributes=Attributes(row.mode, mtime_ns, row.uid, row.gid, row.user, row.group, row.sparse),
        seen_ns=row.seen_ns,
        content=None if row.sha256 is None else Content(row.sha256, row.size_bytes),
        link_target=row.link_target,
        hard_link_of=None if row.hard_link_of is None else uuid.UUID(bytes=row.hard_link_of),
    )


def present_from(row: Row[Any]) -> PresentVersion:
    sighting = Sighting(unsigned(row.device), unsigned(row.inode), row.ctime_ns, row.looked_ns)
    return PresentVersion(row.id, version_from(row), sighting)


def present_in_folder(
    connection: Connection, source_name: str, folder: bytes, moment_ns: int | None = None
) -> dict[bytes, PresentVersion]:
    """The versions that were there when the folder was last looked at, or at a moment, by path; not the root itself."""
    query = select_versions().where(
        source.c.name == source_name,
        version.c.folder_digest == path_digest(folder),
        seen_at(moment_ns),
    )
    # oldest first: should a path have two, which no run leaves behind, the newest is the one that counts
    rows = connection.execute(query.order_by(version.c.id))
    return {row.path: present_from(row) for row in rows if row.path}


def at_path(path: bytes) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Versions of one path; the folder is named too, as the index begins with it."""
    return version.c.folder_digest == path_digest(parent_path(path)), version.c.path_digest == path_digest(path)


def present_at(
    connection: Connection, source_name: str, path: bytes, moment_ns: int | None = None
) -> PresentVersion | None:
    """The version that was last seen at `path` and is not ended, or was there at a moment."""
    query = select_versions().where(source.c.name == source_name, *at_path(path), seen_at(moment_ns))
    row = connection.execute(query.order_by(version.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else present_from(row)


def leads_hard_links(connection: Connection, version_id: uuid.UUID) -> bool:
    """Whether another version that is there now was recorded as a further name of this one's file."""
    query = (
        select(version.c.id).where(version.c.hard_link_of == version_id.bytes, version.c.ended_ns.is_(None)).limit(1)
    )
    return connection.scalar(query) is not None


def record_looks(connection: Connection, looks: Iterable[tuple[int, Sighting]]) -> None:
    """A version (by row number) was looked at again and is unchanged."""
    rows = [
        {
            "row": row,
            "new_device": signed(s.device),
            "new_inode": signed(s.inode),
            "new_ctime": s.ctime_ns,
            "new_looked": s.looked_ns,
        }
        for row, s in looks
    ]
    statement = (
        update(version)
        .where(version.c.id == bindparam("row"))
        .values(
            device=bindparam("new_device"),
            inode=bindparam("new_inode"),
            ctime_ns=bindparam("new_ctime"),
            looked_ns=bindparam("new_looked"),
        )
    )
    execute_many(connection, statement, rows)


def record_ends(connection: Connection, ends: Iterable[VersionEnd]) -> None:
    """Versions ended; the first end that was recorded stays."""
    rows = [{"which": end.version_id.bytes, "at": end.ended_ns} for end in ends]
    statement = (
        update(version)
        .where(version.c.uuid == bindparam("which"), version.c.ended_ns.is_(None))
        .values(ended_ns=bindparam("at"))
    )
    execute_many(connection, statement, rows)


def record_read_contents(connection: Connection, read: Mapping[uuid.UUID, Content]) -> None:
    """In-place versions were read: their contents are known now."""
    contents = record_contents(connection, read.values())
    rows = [
        {"which": version_id.bytes, "row": contents[item], "size": item.size_bytes} for version_id, item in read.items()
    ]
    if rows:
        connection.execute(
            update(version)
            .where(
                version.c.uuid == bindparam("which"),
                version.c.content_id.is_(None),
                version.c.void.is_(False),
                version.c.size_bytes == bindparam("size"),  # or it is not this version that was read
            )
            .values(content_id=bindparam("row")),
            rows,
        )


def record_void(connection: Connection, versions: Iterable[uuid.UUID]) -> None:
    """In-place versions that changed while they were read: they name no bytes that anybody has."""
    rows = [{"which": version_id.bytes} for version_id in versions]
    if rows:
        connection.execute(
            update(version)
            .where(version.c.uuid == bindparam("which"), version.c.content_id.is_(None))
            .values(void=True, ended_ns=version.c.seen_ns),
            rows,
        )


def seen_at(moment_ns: int | None) -> ColumnElement[bool]:
    """Versions that were there at a moment (None: now)."""
    if moment_ns is None:
        return and_(version.c.ended_ns.is_(None), version.c.void.is_(False))
    return and_(
        version.c.seen_ns <= moment_ns,
        or_(version.c.ended_ns.is_(None), version.c.ended_ns > moment_ns),
        version.c.void.is_(False),
    )


PAGE_ROWS = 2000


def versions_at(connection: Connection, moment_ns: int | None) -> Iterator[PresentVersion]:
    """Every version that was there at a moment, in the order in which they were recorded, page by page."""
    return _page_by_page(connection, seen_at(moment_ns))


def all_versions(connection: Connection) -> Iterator[PresentVersion]:
    """Every version that ever was there, in the same way."""
    return _page_by_page(connection, version.c.void.is_(False))


def _page_by_page(connection: Connection, wanted: ColumnElement[bool]) -> Iterator[PresentVersion]:
    last = 0
    while True:
        query = select_versions().where(wanted, version.c.id > last)
        page = connection.execute(query.order_by(version.c.id).limit(PAGE_ROWS)).all()
        yield from map(present_from, page)
        if len(page) < PAGE_ROWS:
            return
        last = page[-1].id


def versions_of_path(connection: Connection, source_name: str, path: bytes) -> list[tuple[PresentVersion, int | None]]:
    """Every version of one path, newest first, each with the time when it ended, if it did."""
    query = select_versions().where(source.c.name == source_name, *at_path(path))
    # by time: a catalog that was filled from tapes got its rows in another order
    rows = connection.execute(query.order_by(version.c.seen_ns.desc(), version.c.id.desc())).all()
    return [(present_from(row), row.ended_ns) for row in rows]


def versions_by_id(connection: Connection, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, PresentVersion]:
    found: dict[uuid.UUID, PresentVersion] = {}
    for part in chunks(ids):
        query = select_versions().where(version.c.uuid.in_([item.bytes for item in part]))
        for row in connection.execute(query):
            present = present_from(row)
            found[present.version.id] = present
    return found


def version_row_numbers(connection: Connection, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, int]:
    found: dict[uuid.UUID, int] = {}
    for part in chunks(ids):
        query = select(version.c.uuid, version.c.id).where(version.c.uuid.in_([item.bytes for item in part]))
        found.update((uuid.UUID(bytes=row.uuid), row.id) for row in connection.execute(query))
    return found


def count_versions(connection: Connection) -> int:
    """How many versions were ever recorded."""
    return connection.scalar(select(func.count()).select_from(version)) or 0


def versions_by_row(connection: Connection, rows: Sequence[int]) -> Iterator[PresentVersion]:
    """The versions with these row numbers."""
    for part in chunks(rows):
        query = select_versions().where(version.c.id.in_(part)).order_by(version.c.id)
        yield from map(present_from, connection.execute(query))


def present_among(
    connection: Connection, ids: Sequence[uuid.UUID], moment_ns: int | None
) -> dict[uuid.UUID, PresentVersion]:
    """Those of the versions that were there at a moment."""
    found: dict[uuid.UUID, PresentVersion] = {}
    for part in chunks(ids):
        query = select_versions().where(version.c.uuid.in_([item.bytes for item in part]), seen_at(moment_ns))
        for row in connection.execute(query):
            present = present_from(row)
            found[present.version.id] = present
    return found
