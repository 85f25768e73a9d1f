"""Giving contents up in the store, and the room of blocks that nothing needs any more.

Functions on a connection, as in `files`. A content may be released when law 4 allows it and every version that has it is
proven on tape by its own name; then no more is done than to forget its segments. A block in which a released content lay,
and that no segment names any more, is *condemned*: it can still be read, and nothing new may name it. Whoever found it before
may still name it, and so its bytes are given up only after all of them have ended (`holdfast.blocks.fence`), if then still
nothing names it. Blocks that nothing ever named are left: a name that is lost now may be found again.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, or_, select, update
from sqlalchemy.dialects import sqlite

from holdfast.catalog import proof
from holdfast.catalog.bulk import execute_many
from holdfast.catalog.files import chunks, record_contents, select_versions, version_from
from holdfast.catalog.schema import block, content, pack, release, segment, version
from holdfast.values import BlockPlace, Content, FileVersion, Locator, Release

PAGE_ROWS = 1000
NOT_CARRIED, ON_ITS_WAY, CARRIED = 0, 1, 2


# -- releasing


def stored_contents(connection: Connection, wanted: Iterable[Content]) -> dict[int, Content]:
    """Those of the contents that lie in the store, by row number."""
    by_digest = {item.sha256: item for item in wanted}
    stored = exists().where(segment.c.content_id == content.c.id)
    found: dict[int, Content] = {}
    for part in chunks(list(by_digest)):
        query = select(content.c.id, content.c.sha256).where(content.c.sha256.in_(part), stored)
        found.update({row.id: by_digest[row.sha256] for row in connection.execute(query)})
    return found


def stored_after(connection: Connection, row: int) -> list[int]:
    """A page of contents that lie in the store, by row number, behind this one."""
    query = select(segment.c.content_id).where(segment.c.content_id > row, segment.c.number == 0)
    return list(connection.scalars(query.order_by(segment.c.content_id).limit(PAGE_ROWS)))


def versions_of_contents(connection: Connection, rows: Sequence[int]) -> Iterator[tuple[int, FileVersion]]:
    """Every version with one of these contents, with the content's row number."""
    for part in chunks(rows):
        query = select_versions().where(version.c.content_id.in_(part), version.c.void.is_(False))
        for found in connection.execute(query):
            yield found.content_id, version_from(found)


def releasable(connection: Connection, rows: Collection[int], *, virtual_counts: bool) -> set[int]:
    """Those of the contents (by row number) that may be released: law 4, and each of their versions is proven."""
    proven = proof.doubly_proven(connection, rows, virtual_counts=virtual_counts)
    query = select(version.c.content_id).where(
        version.c.content_id.in_(proven), version.c.void.is_(False), ~proof.version_is_proven()
    )
    return proven - set(connection.scalars(query))


def release_contents(connection: Connection, rows: Collection[int], now_ns: int) -> None:
    """Forget where the contents lie in the store. The caller has asked `releasable` in this very transaction."""
    new = sqlite.insert(release)
    changed = {name: new.excluded[name] for name in ("released_ns", "carried")}
    statement = new.on_conflict_do_update(index_elements=["content_id"], set_=changed)
    told = [{"content_id": row, "released_ns": now_ns, "carried": NOT_CARRIED} for row in rows]
    execute_many(connection, statement, told)
    segments = segment.c.content_id.in_(list(rows))
    connection.execute(
        update(block).where(block.c.id.in_(select(segment.c.block_id).where(segments))).values(released=True)
    )
    connection.execute(delete(segment).where(segments))


def adopt_releases(connection: Connection, releases: Iterable[Release]) -> None:
    """A pack says that these contents were released; what lies in the store stays there."""
    told = {item.content: item.released_ns for item in releases}
    if not told:
        return
    rows = record_contents(connection, told)
    values = [{"content_id": rows[item], "released_ns": at_ns, "carried": CARRIED} for item, at_ns in told.items()]
    execute_many(connection, sqlite.insert(release).on_conflict_do_nothing(), values)


def released_ns(connection: Connection, wanted: Content) -> int | None:
    """When a content was released last, if it ever was."""
    query = select(release.c.released_ns).join(content, content.c.id == release.c.content_id)
    return connection.scalar(query.where(content.c.sha256 == wanted.sha256, content.c.size_bytes == wanted.size_bytes))


def releases_of(connection: Connection, wanted: Collection[Content]) -> dict[Content, int]:
    """Those of the contents that were released at some time, and when last, in ns since 1970."""
    by_digest = {item.sha256: item for item in wanted}
    found: dict[Content, int] = {}
    for part in chunks(list(by_digest)):
        query = select(content.c.sha256, release.c.released_ns).join(release, release.c.content_id == content.c.id)
        rows = connection.execute(query.where(content.c.sha256.in_(part)))
        found.update({by_digest[row.sha256]: row.released_ns for row in rows})
    return found


def begin_to_carry(connection: Connection) -> None:
    """What was released until now is on its way to a pack; see `releases_to_carry`."""
    connection.execute(update(release).where(release.c.carried == NOT_CARRIED).values(carried=ON_ITS_WAY))


def releases_to_carry(connection: Connection) -> Iterator[list[Release]]:
    """What is on its way to a pack, page by page."""
    query = select(content.c.sha256, content.c.size_bytes, release).join(content, content.c.id == release.c.content_id)
    last = 0
    while True:
        more = query.where(release.c.carried == ON_ITS_WAY, release.c.content_id > last).order_by(release.c.content_id)
        page = connection.execute(more.limit(PAGE_ROWS)).all()
        if page:
            yield [Release(Content(row.sha256, row.size_bytes), row.released_ns) for row in page]
            last = page[-1].content_id
        if len(page) < PAGE_ROWS:
            return


def record_carried(connection: Connection) -> None:
    """A sealed pack says all that was on its way; what was released again since is not among it."""
    connection.execute(update(release).where(release.c.carried == ON_ITS_WAY).values(carried=CARRIED))


# -- collecting


@dataclass(frozen=True, slots=True)
class Waste:
    """A pack with bytes of blocks that nothing needs: `needed_bytes` of its `block_bytes` are still read."""

    pack_id: uuid.UUID
    size_bytes: int
    block_bytes: int
    needed_bytes: int


def condemn(connection: Connection, generation: int) -> int:
    """Condemn every block of sealed packs that only released contents named, and pardon the others.

    What is condemned now is so by this generation. Returns the highest that any is condemned by, 0 when none is: nobody who
    holds a pass from it on has found one.
    """
    named = exists().where(segment.c.block_id == block.c.id)
    sealed = select(pack.c.id).where(pack.c.sealed.is_(True))
    connection.execute(update(block).where(block.c.condemned > 0, named).values(condemned=0))
    unnamed = and_(block.c.pack_id.in_(sealed), block.c.released.is_(True), block.c.condemned == 0, ~named)
    connection.execute(update(block).where(unnamed).values(condemned=generation))
    query = select(func.max(block.c.condemned)).where(block.c.pack_id.is_not(None))
    return connection.scalar(query) or 0


def wasteful_packs(connection: Connection) -> list[Waste]:
    """Sealed packs with blocks that are not read from there any more, those with the least to copy first."""
    needed = func.coalesce(
        select(func.sum(block.c.size_bytes))
        .where(block.c.pack_id == pack.c.id, block.c.condemned == 0)
        .scalar_subquery(),
        0,
    )
    query = select(pack.c.uuid, pack.c.size_bytes, pack.c.block_bytes, needed.label("needed"))
    query = query.where(pack.c.sealed.is_(True), pack.c.emptied.is_(False), pack.c.block_bytes > needed)
    found = [
        Waste(uuid.UUID(bytes=row.uuid), row.size_bytes, row.block_bytes, int(row.needed))
        for row in connection.execute(query)
    ]
    return sorted(found, key=lambda item: (item.needed_bytes, item.pack_id))


def needed_blocks(connection: Connection, pack_id: uuid.UUID) -> list[BlockPlace]:
    """The blocks of a pack that must be copied before it may go, in the order in which they lie there."""
    named = exists().where(segment.c.block_id == block.c.id)
    query = (
        select(block.c.blake3, block.c.size_bytes, block.c.offset_bytes)
        .join(pack, pack.c.id == block.c.pack_id)
        .where(pack.c.uuid == pack_id.bytes, or_(block.c.condemned == 0, named))
        .order_by(block.c.offset_bytes)
    )
    return [
        BlockPlace(Locator(row.blake3, row.size_bytes), pack_id, row.offset_bytes) for row in connection.execute(query)
    ]


def record_moves(connection: Connection, pack_row: int, moved: Mapping[BlockPlace, BlockPlace]) -> None:
    """Blocks (by their old places) were copied to new ones; one that somebody else moved or gave up meanwhile stays so."""
    for old, new in moved.items():
        here = select(pack.c.id).where(pack.c.uuid == old.pack_id.bytes).scalar_subquery()
        at = block.c.blake3 == old.locator.blake3, block.c.size_bytes == old.locator.size_bytes
        there = block.c.pack_id == here, block.c.offset_bytes == old.offset_bytes
        connection.execute(update(block).where(*at, *there).values(pack_id=pack_row, offset_bytes=new.offset_bytes))


def empty_pack(connection: Connection, pack_id: uuid.UUID) -> bool:
    """Give up the condemned blocks of a pack that still nothing names; whether nothing is read from the pack then."""
    row = connection.scalar(select(pack.c.id).where(pack.c.uuid == pack_id.bytes))
    named = exists().where(segment.c.block_id == block.c.id)
    if connection.scalar(select(block.c.id).where(block.c.pack_id == row, or_(block.c.condemned == 0, named)).limit(1)):
        return False
    connection.execute(update(block).where(block.c.pack_id == row).values(pack_id=None, condemned=0))
    connection.execute(update(pack).where(pack.c.id == row).values(emptied=True))
    return True


def _may_go() -> Any:
    return and_(pack.c.emptied.is_(True), ~exists().where(block.c.pack_id == pack.c.id))


def emptied_packs(connection: Connection) -> dict[uuid.UUID, int]:
    """Packs from which nothing is read, and whose files may be there still; and their sizes."""
    rows = connection.execute(select(pack.c.uuid, pack.c.size_bytes).where(_may_go()))
    return {uuid.UUID(bytes=row.uuid): row.size_bytes for row in rows}


def forget_pack(connection: Connection, pack_id: uuid.UUID) -> None:
    """The file of an emptied pack is gone, durably."""
    connection.execute(delete(pack).where(pack.c.uuid == pack_id.bytes, _may_go()))


def forget_places(connection: Connection, contents: Iterable[Content]) -> None:
    """These contents do not lie where they were said to lie."""
    rows = stored_contents(connection, contents)
    connection.execute(delete(segment).where(segment.c.content_id.in_(list(rows))))
