"""The front of the catalog: the block store's index and sink, and transactions for everybody else."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from holdfast.catalog import files, packs, releasing
from holdfast.catalog.bulk import Lookup
from holdfast.catalog.database import Database
from holdfast.values import BlockPlace, Content, FileVersion, Locator, Release, Segment, Sighting, Source, VersionEnd


class _Stored(Protocol):
    @property
    def version(self) -> FileVersion: ...
    @property
    def sighting(self) -> Sighting | None: ...
    @property
    def segments(self) -> tuple[Segment, ...]: ...


class _Manifest(Protocol):
    @property
    def sources(self) -> tuple[Source, ...]: ...
    @property
    def versions(self) -> tuple[_Stored, ...]: ...
    @property
    def ends(self) -> tuple[VersionEnd, ...]: ...
    @property
    def releases(self) -> tuple[Release, ...]: ...


class _Group(Protocol):
    @property
    def pack_id(self) -> uuid.UUID: ...
    @property
    def blocks(self) -> tuple[BlockPlace, ...]: ...
    @property
    def manifest(self) -> _Manifest: ...
    @property
    def pack_bytes(self) -> int: ...
    @property
    def is_adopted(self) -> bool: ...
    @property
    def misplaced(self) -> frozenset[Content]: ...


class Catalog:
    """One vault's catalog. `close` it. Safe for several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self._block_lookup = self._database.lookup(packs.SELECT_BLOCK)
        self._to_name_lookup = self._database.lookup(packs.SELECT_BLOCK_TO_NAME)
        self._segments_lookup = self._database.lookup(packs.SELECT_SEGMENTS)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._block_lookup.close()
        self._to_name_lookup.close()
        self._segments_lookup.close()
        self._database.close()

    @contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        """See `Database.transaction`."""
        with self._database.transaction() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """See `Database.reading`."""
        with self._database.reading() as connection:
            yield connection

    # -- as the block store's index

    def find_block(self, locator: Locator) -> BlockPlace | None:
        return self._place(self._block_lookup, locator)

    def find_block_to_name(self, locator: Locator) -> BlockPlace | None:
        return self._place(self._to_name_lookup, locator)

    def _place(self, lookup: Lookup, locator: Locator) -> BlockPlace | None:
        rows = self._database.ask(lookup, digest=locator.blake3, size=locator.size_bytes)
        return BlockPlace(locator, uuid.UUID(bytes=rows[0][0]), rows[0][1]) if rows else None

    def find_segments(self, content: Content) -> tuple[Segment, ...] | None:
        rows = self._database.ask(self._segments_lookup, digest=content.sha256, size=content.size_bytes)
        segments = tuple(Segment(Locator(digest, size), offset, length) for digest, size, offset, length in rows)
        return segments or None

    # -- as the block store's sink

    def group_durable(self, group: _Group) -> None:
        """Record what a group commit made durable, in one transaction; telling it twice is telling it once."""
        manifest = group.manifest
        with self._database.transaction() as connection:
            pack_row = packs.record_pack(connection, group.pack_id, group.pack_bytes)
            packs.record_blocks(connection, pack_row, group.blocks)
            files.record_sources(connection, manifest.sources)
            released = _released_since(connection, group) if group.is_adopted else set[Content]()
            rows = files.record_versions(
                connection, [(stored.version, stored.sighting) for stored in manifest.versions]
            )
            kept = {s.version.content: s.segments for s in manifest.versions if s.version.content and s.segments}
            for content in released & kept.keys():
                del kept[content]
            # whatever gets no other place keeps the one it has: its pack may only be away for a while
            releasing.forget_places(connection, group.misplaced & kept.keys())
            packs.record_segments(connection, {rows[content]: segments for content, segments in kept.items()})
            files.record_ends(connection, manifest.ends)
            releasing.adopt_releases(connection, manifest.releases)

    def blocks_moved(self, places: Sequence[BlockPlace], pack_bytes: int) -> None:
        with self._database.transaction() as connection:
            for place in places:
                packs.move_block(connection, place, pack_bytes)

    def pack_sealed(self, pack_id: uuid.UUID, pack_bytes: int, block_bytes: int) -> None:
        with self._database.transaction() as connection:
            packs.seal_pack(connection, pack_id, pack_bytes, block_bytes)

    def pack_is_sealed(self, pack_id: uuid.UUID) -> bool:
        with self._database.reading() as connection:
            return packs.pack_is_sealed(connection, pack_id)

    def pack_is_kept(self, pack_id: uuid.UUID) -> bool:
        """Whether a pack is settled, and was not collected."""
        with self._database.reading() as connection:
            return packs.pack_is_kept(connection, pack_id)

    def was_released(self, content: Content) -> bool:
        """Whether the store gave a content up at some time."""
        with self._database.reading() as connection:
            return releasing.released_ns(connection, content) is not None


def _released_since(connection: Connection, group: _Group) -> set[Content]:
    """Contents of versions that are known already and were seen before their release: what is adopted is older than that."""
    named = [s.version for s in group.manifest.versions if s.version.content is not None]
    known = files.version_row_numbers(connection, [version.id for version in named]).keys()
    released = releasing.releases_of(connection, {v.content for v in named if v.content is not None})
    found = set[Content]()
    for version in named:
        content = version.content
        if content is not None and version.id in known and version.seen_ns <= released.get(content, 0):
            found.add(content)
    return found - {version.content for version in named if version.id not in known}
