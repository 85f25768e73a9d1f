"""What the tests of the block store share: an index and sink in memory, and small contents to keep."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from holdfast.blocks import BlockReader, DurableGroup, Fence, StoredVersion, StoreWriter
from holdfast.blocks.store import Pieces
from holdfast.values import (
    Attributes,
    BlockPlace,
    Content,
    FileVersion,
    Kind,
    Locator,
    Segment,
    Sighting,
    Source,
    VersionEnd,
)

BLOCK_BYTES = 64 * 1024
_fences = TemporaryDirectory()
FENCE = Fence(Path(_fences.name))
FENCE.take_pass().end()
VAULT_ID = uuid.UUID("11111111-2222-3333-4444-555555555555")
SOURCE = Source(uuid.UUID("99999999-8888-7777-6666-555555555555"), "lab", "host", b"/data")
ATTRIBUTES = Attributes(0o644, 1_700_000_000_000_000_001, 1000, 1000, "ann", "staff")
SIGHTING = Sighting(5, 2**63 + 7, 11, 12)


def content_of(data: bytes) -> Content:
    return Content(hashlib.sha256(data).digest(), len(data))


def version_of(path: bytes, data: bytes, seen_ns: int = 1) -> FileVersion:
    return FileVersion(uuid.uuid4(), SOURCE.name, path, Kind.FILE, len(data), ATTRIBUTES, seen_ns, content_of(data))


class MemoryStore:
    """Index and sink of a store: remembers what it was told, as the catalog would."""

    def __init__(self) -> None:
        self.groups: list[DurableGroup] = []
        self.blocks: dict[Locator, BlockPlace] = {}
        self.segments: dict[Content, tuple[Segment, ...]] = {}
        self.versions: dict[uuid.UUID, StoredVersion] = {}
        self.ends: dict[uuid.UUID, VersionEnd] = {}
        self.sealed: dict[uuid.UUID, int] = {}
        self.packs: dict[uuid.UUID, int] = {}
        self.released: set[Content] = set()

    def find_block(self, locator: Locator) -> BlockPlace | None:
        return self.blocks.get(locator)

    def find_block_to_name(self, locator: Locator) -> BlockPlace | None:
        return self.blocks.get(locator)

    def find_segments(self, content: Content) -> tuple[Segment, ...] | None:
        return self.segments.get(content)

    def group_durable(self, group: DurableGroup) -> None:
        self.groups.append(group)
        self.packs[group.pack_id] = group.pack_bytes
        for place in group.blocks:
            self.blocks.setdefault(place.locator, place)
        for content in group.misplaced:
            self.segments.pop(content, None)
        for stored in group.manifest.versions:
            self.versions.setdefault(stored.version.id, stored)
            for segment in stored.segments:
                assert segment.locator in self.blocks, "law 3: a manifest names only durable blocks"
            if stored.version.content is not None and stored.segments:
                self.segments.setdefault(stored.version.content, stored.segments)
        for end in group.manifest.ends:
            if end.version_id in self.versions:  # else it ends nothing, as in the catalog
                self.ends.setdefault(end.version_id, end)
        self.released.update(item.content for item in group.manifest.releases)

    def blocks_moved(self, places: Sequence[BlockPlace], pack_bytes: int) -> None:
        for place in places:
            self.packs[place.pack_id] = pack_bytes
            self.blocks[place.locator] = place

    def pack_sealed(self, pack_id: uuid.UUID, pack_bytes: int, block_bytes: int) -> None:
        self.sealed[pack_id] = pack_bytes

    def pack_is_sealed(self, pack_id: uuid.UUID) -> bool:
        return pack_id in self.sealed

    def has_block(self, locator: Locator) -> bool:
        return locator in self.blocks

    def was_released(self, content: Content) -> bool:
        return content in self.released

    def facts(self) -> tuple[object, ...]:
        """All that is known, to compare two stores."""
        return (self.blocks, self.segments, self.versions, self.ends, self.sealed)


def writer_for(folder: Path, store: MemoryStore, *, pack_bytes: int = 2**30) -> StoreWriter:
    return StoreWriter(
        folder,
        vault_id=VAULT_ID,
        block_bytes=BLOCK_BYTES,
        pack_bytes=pack_bytes,
        index=store,
        sink=store,
        fence=FENCE,
    )


def keep(writer: StoreWriter, path: bytes, data: bytes, seen_ns: int = 1) -> FileVersion:
    """Keep one content as the trees do: small ones in shared room, large ones in blocks of their own, known ones not."""
    version = version_of(path, data, seen_ns)
    content = version.content
    assert content is not None
    pieces: Pieces = ()
    segments: tuple[Segment, ...] = ()
    if data and len(data) <= writer.small_limit_bytes:
        room = writer.small_room(len(data))
        room[: len(data)] = data
        known = writer.find(content)
        pieces, segments = known or (writer.keep_small(len(data)), ())
    elif data:
        pieces = keep_large(writer, data)
        pieces, segments = writer.find(content) or (pieces, ())
    writer.add(SOURCE, version, SIGHTING, pieces=pieces, segments=segments)
    return version


def keep_large(writer: StoreWriter, data: bytes) -> Pieces:
    large = writer.large()
    start = 0
    while start < len(data):
        room = large.room()
        count = min(len(room), len(data) - start, 50_000)
        room[:count] = data[start : start + count]
        large.filled(count)
        start += count
    return large.finish()


def read_back(folder: Path, store: MemoryStore, stored: StoredVersion) -> bytes:
    with BlockReader(folder, store) as reader:
        return b"".join(map(bytes, reader.read(stored.segments)))


def check_readable(folder: Path, store: MemoryStore) -> None:
    """Everything that the sink was told of reads back with its digest."""
    with BlockReader(folder, store) as reader:
        for stored in store.versions.values():
            digest = hashlib.sha256()
            for piece in reader.read(stored.segments):
                digest.update(piece)
            if stored.version.content is not None:
                assert digest.digest() == stored.version.content.sha256
