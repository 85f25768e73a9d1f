"""What the tests of the catalog share: versions, groups, pairs of cartridges, and evidence."""

from __future__ import annotations

import hashlib
import itertools
import os
import uuid
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from holdfast.blocks import DurableGroup, Manifest, StoredVersion
from holdfast.catalog import Cartridge, Catalog, Evidence, MemberFacts, Pair, TapeFile, files, proof, tapes
from holdfast.values import (
    Attributes,
    BlockPlace,
    Content,
    FileVersion,
    Kind,
    Locator,
    Segment,
    Side,
    Sighting,
    Source,
    VersionEnd,
)

SOURCE = Source(uuid.uuid4(), "lab", "host", b"/data")
OTHER = Source(uuid.uuid4(), "other", "host", b"/more")
ATTRIBUTES = Attributes(0o644, 17, 1000, 1000, "ann", "staff")
PACK = uuid.uuid4()
counter = itertools.count(1)


@contextmanager
def quick_folder() -> Generator[Path, None, None]:
    """A folder in memory, where syncing is no wait; on disk where there is no such file system."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def content(name: object, size_bytes: int = 100) -> Content:
    return Content(digest(name), size_bytes)


def version(
    path: bytes, held: Content | None = None, *, seen_ns: int = 1, kind: Kind = Kind.FILE, source: Source = SOURCE
) -> FileVersion:
    size_bytes = held.size_bytes if held is not None else 0
    return FileVersion(uuid.uuid4(), source.name, path, kind, size_bytes, ATTRIBUTES, seen_ns, held)


def record(catalog: Catalog, *versions: FileVersion, sighting: Sighting | None = None) -> None:
    """Record versions, without segments."""
    with catalog.transaction() as connection:
        files.record_sources(connection, [SOURCE, OTHER])
        files.record_versions(connection, [(item, sighting) for item in versions])


def end(catalog: Catalog, *ends: tuple[FileVersion, int]) -> None:
    with catalog.transaction() as connection:
        files.record_ends(connection, [VersionEnd(item.id, moment) for item, moment in ends])


def group(*versions: FileVersion, ends: Iterable[VersionEnd] = ()) -> DurableGroup:
    """A group whose contents lie in one block."""
    held = [item.content for item in versions if item.content is not None and item.content.size_bytes]
    locator = Locator(digest("block", *(item.sha256 for item in held)), max(1, sum(item.size_bytes for item in held)))
    stored: list[StoredVersion] = []
    offset = 0
    for item in versions:
        segments: tuple[Segment, ...] = ()
        if item.content is not None and item.content.size_bytes:
            segments = (Segment(locator, offset, item.size_bytes),)
            offset += item.size_bytes
        stored.append(StoredVersion(item, Sighting(1, 2, 3, 4), segments))
    place = BlockPlace(locator, PACK, 4096 * next(counter))
    return DurableGroup(PACK, (place,) if held else (), Manifest((SOURCE, OTHER), tuple(stored), tuple(ends)), 10_000)


def new_pair(catalog: Catalog, *, virtual: bool = False, domains: tuple[str, str] = ("vault A", "vault B")) -> Pair:
    number = next(counter)
    pair_id = uuid.uuid4()
    a, b = (
        Cartridge(
            barcode=f"T{number:04d}{side.value}L8",
            volume_id=uuid.uuid4(),
            pair_id=pair_id,
            side=side,
            capacity_bytes=10**12,
            virtual=virtual,
            failure_domain=domain,
        )
        for side, domain in zip(Side, domains, strict=True)
    )
    pair = Pair(pair_id, "open", 512 * 1024, (a, b))
    with catalog.transaction() as connection:
        tapes.record_pair(connection, pair)
    return pair


def write_object(
    catalog: Catalog,
    pair: Pair,
    number: int,
    versions: Sequence[FileVersion],
    *,
    sides: str = "AB",
    void: Sequence[FileVersion] = (),
) -> uuid.UUID:
    """Record an object with these members as committed on the sides of a pair."""
    object_id = uuid.uuid4()
    members = [
        MemberFacts(item.id, None if item in void else item.content, 1024 * row, 1024 * row + 512, item in void)
        for row, item in enumerate(versions)
    ]
    with catalog.transaction() as connection:
        tapes.record_object(connection, object_id, pair.id, number, members)
        for side in sides:
            cartridge = pair.on(Side(side))
            tapes.record_tape_files(connection, cartridge.barcode, [object_file(number, object_id)])
    return object_id


def object_file(number: int, object_id: uuid.UUID) -> TapeFile:
    return TapeFile(number, "object", object_id, 1000 * number, 2**20, digest(object_id))


def evidence(
    pair: Pair,
    side: str,
    number: int,
    object_id: uuid.UUID | None,
    *,
    matched: bool = True,
    reloaded: bool = True,
    ended_ns: int = 100,
    found: bytes | None = None,
) -> Evidence:
    expected = digest(object_id)
    return Evidence(
        id=uuid.uuid4(),
        barcode=pair.on(Side(side)).barcode,
        tape_file=number,
        object_id=object_id,
        drive="D1",
        begun_ns=ended_ns - 50,
        ended_ns=ended_ns,
        size_bytes=2**20,
        members=1,
        expected=found or expected,
        found=found or (expected if matched else bytes(32)),
        matched=matched,
        reloaded=reloaded,
        problem=None if matched else "bad bytes",
    )


def tell(catalog: Catalog, *items: Evidence) -> None:
    with catalog.transaction() as connection:
        proof.record_evidence(connection, items)
