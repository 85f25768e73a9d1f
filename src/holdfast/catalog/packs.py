"""Packs, blocks and segments: where the store keeps contents.

Functions on a connection, as in `files`. A block whose bytes were given up, as no content needed them, keeps its row
without a pack; one that is `condemned` may be given up soon: it can still be read, and nothing new may name it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, bindparam, func, insert, literal_column, or_, select, update
from sqlalchemy.dialects import sqlite

from holdfast.catalog.bulk import execute_many
from holdfast.catalog.files import chunks, insert_new
from holdfast.catalog.schema import block, content, pack, segment
from holdfast.errors import IntegrityError
from holdfast.values import BlockPlace, Locator, Segment


def record_pack(connection: Connection, pack_id: uuid.UUID, size_bytes: int) -> int:
    """Record a pack, or how long it is by now; returns its row number. It is not to be removed, if it was."""
    connection.execute(insert_new(pack).values(uuid=pack_id.bytes, size_bytes=size_bytes))
    connection.execute(update(pack).where(pack.c.uuid == pack_id.bytes).values(size_bytes=size_bytes, emptied=False))
    return connection.execute(select(pack.c.id).where(pack.c.uuid == pack_id.bytes)).scalar_one()


def seal_pack(connection: Connection, pack_id: uuid.UUID, size_bytes: int, block_bytes: int) -> None:
    """A pack is sealed, and so settled; `block_bytes`: of all blocks in it, whether they are read from there or not."""
    row = record_pack(connection, pack_id, size_bytes)
    connection.execute(update(pack).where(pack.c.id == row).values(sealed=True, block_bytes=block_bytes))


def pack_is_sealed(connection: Connection, pack_id: uuid.UUID) -> bool:
    return bool(connection.scalar(select(pack.c.sealed).where(pack.c.uuid == pack_id.bytes)))


def pack_is_kept(connection: Connection, pack_id: uuid.UUID) -> bool:
    """Whether a pack is sealed, and not collected."""
    kept = pack.c.sealed.is_(True), pack.c.emptied.is_(False)
    return connection.scalar(select(pack.c.id).where(pack.c.uuid == pack_id.bytes, *kept)) is not None


def record_blocks(connection: Connection, pack_row: int, places: Iterable[BlockPlace]) -> None:
    """Record where blocks lie; one that lies somewhere already stays there, unless it was given up or is to be."""
    rows = [
        {
            "blake3": place.locator.blake3,
            "size_bytes": place.locator.size_bytes,
            "pack_id": pack_row,
            "offset_bytes": place.offset_bytes,
            "released": False,
            "condemned": 0,
        }
        for place in places
    ]
    new = sqlite.insert(block)
    where = or_(block.c.pack_id.is_(None), block.c.condemned > new.excluded.condemned)
    names = ("pack_id", "offset_bytes", "condemned")
    moved = {name: new.excluded[name] for name in names}
    statement = new.on_conflict_do_update(index_elements=["blake3", "size_bytes"], set_=moved, where=where)
    execute_many(connection, statement, rows)


def move_block(connection: Connection, place: BlockPlace, pack_bytes: int) -> None:
    """A block lies somewhere else now. The pack is known from here on."""
    pack_row = record_pack(connection, place.pack_id, pack_bytes)
    at = block.c.blake3 == place.locator.blake3, block.c.size_bytes == place.locator.size_bytes
    connection.execute(update(block).where(*at).values(pack_id=pack_row, offset_bytes=place.offset_bytes))


def is_any_pack_sealed(connection: Connection) -> bool:
    return connection.scalar(select(pack.c.id).where(pack.c.sealed.is_(True)).limit(1)) is not None


def sealed_packs(connection: Connection) -> dict[uuid.UUID, int]:
    """The packs that nobody writes any more, and their sizes."""
    rows = connection.execute(
        select(pack.c.uuid, pack.c.size_bytes).where(pack.c.sealed.is_(True), pack.c.emptied.is_(False))
    )
    return {uuid.UUID(bytes=row.uuid): row.size_bytes for row in rows}


def known_packs(connection: Connection) -> dict[uuid.UUID, bool]:
    """Every pack that the catalog knows, and whether it was emptied: its file may be gone, or not yet."""
    return {uuid.UUID(bytes=row.uuid): row.emptied for row in connection.execute(select(pack.c.uuid, pack.c.emptied))}


def settled_packs(connection: Connection) -> set[uuid.UUID]:
    """Every pack that is known to be sealed, also those from which nothing is read any more."""
    return {uuid.UUID(bytes=row) for row in connection.scalars(select(pack.c.uuid).where(pack.c.sealed.is_(True)))}


def pack_is_emptied(connection: Connection, pack_id: uuid.UUID) -> bool | None:
    """Whether nothing is read from the pack any more: its file may be gone, or not yet. None: the pack is unknown."""
    return connection.scalar(select(pack.c.emptied).where(pack.c.uuid == pack_id.bytes))


def blocks_of_pack(connection: Connection, pack_id: uuid.UUID) -> list[BlockPlace]:
    """The blocks that are read from this pack, in the order in which they lie there."""
    query = (
        select(block.c.blake3, block.c.size_bytes, block.c.offset_bytes)
        .join(pack, pack.c.id == block.c.pack_id)
        .where(pack.c.uuid == pack_id.bytes)
        .order_by(block.c.offset_bytes)
    )
    return [
        BlockPlace(Locator(row.blake3, row.size_bytes), pack_id, row.offset_bytes) for row in connection.execute(query)
    ]


def block_rows(connection: Connection, locators: Iterable[Locator]) -> dict[Locator, int]:
    """The row numbers of those of the blocks that are in the store."""
    found: dict[Locator, int] = {}
    for part in chunks(list(dict.fromkeys(locators))):
        query = select(block.c.id, block.c.blake3, block.c.size_bytes).where(
            block.c.blake3.in_([locator.blake3 for locator in part]), block.c.pack_id.is_not(None)
        )
        for row in connection.execute(query):
            found[Locator(row.blake3, row.size_bytes)] = row.id
    return found


def known_blocks(connection: Connection, locators: Iterable[Locator]) -> set[Locator]:
    """Those of the blocks that the catalog knows, also those that were given up."""
    found: set[Locator] = set()
    for part in chunks(list(dict.fromkeys(locators))):
        query = select(block.c.blake3, block.c.size_bytes).where(block.c.blake3.in_([item.blake3 for item in part]))
        found.update(Locator(row.blake3, row.size_bytes) for row in connection.execute(query))
    return found


def record_segments(connection: Connection, contents: Mapping[int, tuple[Segment, ...]]) -> None:
    """Record where each content (by row number) lies; a content that has segments already keeps them.

    Raises `IntegrityError` when a block is not in the store: a manifest names only durable blocks (law 3).
    """
    blocks = block_rows(connection, (s.locator for segments in contents.values() for s in segments))
    for item in (item for segments in contents.values() for item in segments):
        if item.locator not in blocks:
            raise IntegrityError("a manifest names a block that is not in the store", place=str(item.locator))
    rows = [
        {
            "content_id": row,
            "number": number,
            "block_id": blocks[item.locator],
            "offset_bytes": item.offset_bytes,
            "length_bytes": item.length_bytes,
        }
        for row, segments in contents.items()
        for number, item in enumerate(segments)
    ]
    known = contents_with_segments(connection, list(contents))
    fresh = [row for row in rows if row["content_id"] not in known]
    execute_many(connection, insert(segment), fresh)


def contents_with_segments(connection: Connection, rows: Sequence[int]) -> set[int]:
    found: set[int] = set()
    for part in chunks(rows):
        found.update(connection.scalars(select(segment.c.content_id).where(segment.c.content_id.in_(part)).distinct()))
    return found


SELECT_BLOCK = (
    select(pack.c.uuid, block.c.offset_bytes)
    .join(pack, pack.c.id == block.c.pack_id)
    .where(block.c.blake3 == bindparam("digest"), block.c.size_bytes == bindparam("size"))
)
"""The place of the block with this digest and size."""

SELECT_BLOCK_TO_NAME = SELECT_BLOCK.where(block.c.condemned == literal_column("0"))
"""The same, if something new may name it."""


SELECT_SEGMENTS = (
    select(block.c.blake3, block.c.size_bytes, segment.c.offset_bytes, segment.c.length_bytes)
    .join(content, content.c.id == segment.c.content_id)
    .join(block, block.c.id == segment.c.block_id)
    .where(content.c.sha256 == bindparam("digest"), content.c.size_bytes == bindparam("size"))
    .order_by(segment.c.number)
)
"""The segments of the content with this digest and size."""


def count_store(connection: Connection) -> dict[str, int]:
    """Totals of the store: blocks, their bytes, packs, contents."""
    blocks = connection.execute(
        select(func.count(), func.coalesce(func.sum(block.c.size_bytes), 0)).where(block.c.pack_id.is_not(None))
    )
    count, total = blocks.one()
    return {
        "blocks": count,
        "block_bytes": int(total),
        "packs": connection.scalar(select(func.count()).select_from(pack).where(pack.c.emptied.is_(False))) or 0,
        "contents": connection.scalar(select(func.count()).select_from(content)) or 0,
    }
