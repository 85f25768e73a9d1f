"""What lies in a block: the pieces of contents, and the files whose contents they are.

Functions on a connection, as in `files`; asked by who has found a block damaged.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from holdfast.catalog.files import chunks, select_versions, version_from
from holdfast.catalog.schema import block, content, segment, source, version
from holdfast.values import Content, FileVersion, Locator


@dataclass(frozen=True, slots=True)
class BlockPart:
    """A piece of a content that lies in a block: `length_bytes` from byte `content_offset` of it, at `block_offset`."""

    content: Content
    content_offset: int
    block_offset: int
    length_bytes: int


def parts_in_block(
    connection: Connection, locator: Locator, within: tuple[int, int], *, after: int, limit: int
) -> tuple[list[BlockPart], int | None]:
    """The pieces of contents in a block, of those contents that have bytes from the one to before the other number of it.

    At most so many contents, those that follow `after` (0 at first); and the number to go on with, None at the end.
    """
    row = _block_row(connection, locator)
    begin, end = within
    inside = (
        select(segment.c.content_id)
        .where(segment.c.block_id == row, segment.c.content_id > after)
        .where(segment.c.offset_bytes < end, segment.c.offset_bytes + segment.c.length_bytes > begin)
        .distinct()
        .order_by(segment.c.content_id)
        .limit(limit)
        .subquery()
    )
    query = (
        select(content.c.sha256, content.c.size_bytes, segment)
        .join(inside, inside.c.content_id == segment.c.content_id)
        .join(content, content.c.id == segment.c.content_id)
        .order_by(segment.c.content_id, segment.c.number)
    )
    parts, at, last, count = list[BlockPart](), 0, after, 0
    for found in connection.execute(query):
        at, count = (at, count) if found.number else (0, count + 1)
        if found.block_id == row:
            whole = Content(found.sha256, found.size_bytes)
            parts.append(BlockPart(whole, at, found.offset_bytes, found.length_bytes))
        at, last = at + found.length_bytes, found.content_id
    return parts, last if count == limit else None


def _block_row(connection: Connection, locator: Locator) -> int:
    """The row number of a block, and one that no block has, if it is not known."""
    query = select(block.c.id).where(block.c.blake3 == locator.blake3, block.c.size_bytes == locator.size_bytes)
    return connection.scalar(query) or -1


def needed(connection: Connection, locators: Collection[Locator]) -> set[Locator]:
    """Those blocks in which a piece of a content lies."""
    found = set[Locator]()
    for part in chunks(list(locators)):
        named = block.c.blake3.in_([item.blake3 for item in part])
        rows = {row.id: Locator(row.blake3, row.size_bytes) for row in connection.execute(select(block).where(named))}
        used = select(segment.c.block_id).where(segment.c.block_id.in_(list(rows))).distinct()
        found.update(rows[row] for row in (connection.scalars(used) if rows else ()))
    return found


def files_in_block(connection: Connection, locator: Locator, limit: int) -> tuple[list[FileVersion], int]:
    """Files whose contents lie in a block, those that are still there first; at most `limit`, and how many there are."""
    inside = select(segment.c.content_id).where(segment.c.block_id == _block_row(connection, locator)).distinct()
    held = version.c.content_id.in_(inside)
    query = select_versions().where(held).order_by(version.c.ended_ns.is_not(None), version.c.id).limit(limit)
    count = connection.scalar(select(func.count()).select_from(version).where(held)) or 0
    return [version_from(row) for row in connection.execute(query)], count


def files_of_content(
    connection: Connection, wanted: Content, limit: int, *, hosts: Sequence[str] | None = None
) -> list[FileVersion]:
    """Files with this content, those that are still there first, then the newest; of all hosts, or of these."""
    query = select_versions().where(content.c.sha256 == wanted.sha256, content.c.size_bytes == wanted.size_bytes)
    if hosts is not None:
        query = query.where(source.c.host.in_(hosts))
    rows = connection.execute(query.order_by(version.c.ended_ns.is_not(None), version.c.id.desc()).limit(limit))
    return [version_from(row) for row in rows]
