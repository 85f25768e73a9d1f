"""Adopting what a killed run left in the packs.

A pack without a footer was left by a run that was killed or lost power. What it holds whole is true: blocks by their
digests, manifests because they are written only after their blocks are durable. So its records are handed to the
sink as one would hand over fresh groups, and the pack is sealed. Doing it twice changes nothing, and an empty
catalog is filled again from all the packs there are.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast import durable
from holdfast.blocks import manifest as manifests
from holdfast.blocks import packfile, packformat
from holdfast.blocks.manifest import Manifest
from holdfast.blocks.packfile import FoundRecord
from holdfast.blocks.packformat import RecordHeader, RecordType
from holdfast.blocks.store import DurableGroup, GroupSink
from holdfast.errors import IntegrityError
from holdfast.values import BlockPlace, Locator

FindBlock = Callable[[Locator], BlockPlace | None]


@dataclass(frozen=True, slots=True)
class _LeftPack:
    """An unsettled pack, and when it was begun."""

    path: Path
    id: uuid.UUID
    created_ns: int


def recover_packs(
    folder: Path, *, is_settled: Callable[[uuid.UUID], bool], find_block: FindBlock, sink: GroupSink
) -> int:
    """Adopt and seal every pack that `is_settled` (sealed, and known to be) does not know; returns how many.

    `find_block` says where a durable block lies; it must know of those that the sink was just told of. A manifest that
    names a block found nowhere is left out: power was cut before its group was whole, and nobody was told of it. A pack in which not even one record was ever
    whole is removed, unless its block is said to lie there; one that a living writer owns is left alone.
    """
    left = sorted(_left_packs(folder, is_settled), key=lambda pack: (pack.created_ns, pack.id))
    # every pack's blocks first, as a manifest may name those of any pack; versions before ends, as those name them
    found = [(pack, headers) for pack in left if (headers := _adopt_blocks(pack, find_block, sink)) is not None]
    whole = [(pack, _adopt_versions(pack, headers, find_block, sink)) for pack, headers in found]
    for pack, headers in whole:
        _adopt_ends(pack, headers, sink)
    for pack, _ in whole:
        sink.pack_sealed(pack.id, pack.path.stat().st_size)
    return len(left)


def _left_packs(folder: Path, is_settled: Callable[[uuid.UUID], bool]) -> Iterator[_LeftPack]:
    for path in folder.glob("*" + packfile.PACK_SUFFIX):
        pack_id = _id_of(path)
        if pack_id is not None and not is_settled(pack_id):
            yield _LeftPack(path, pack_id, _created_ns(path, pack_id))


def _id_of(path: Path) -> uuid.UUID | None:
    try:
        pack_id = uuid.UUID(path.stem)
    except ValueError:
        return None  # not one of ours: left alone
    return pack_id if path.stem == str(pack_id) else None


def _created_ns(path: Path, pack_id: uuid.UUID) -> int:
    with path.open("rb") as file:
        try:
            superblock = packformat.decode_superblock(file.read(packformat.SUPERBLOCK_BYTES))
        except IntegrityError:
            return os.fstat(file.fileno()).st_mtime_ns  # torn or damaged; each record names its pack, too
    if superblock.pack_id != pack_id:
        raise IntegrityError(
            "a pack has the name of another pack",
            place=str(path),
            expected=str(pack_id),
            found=str(superblock.pack_id),
            hint=f"move it out of the folder, or give it its own name again: {superblock.pack_id}{path.suffix}",
        )
    return superblock.created_ns


@contextmanager
def _opened(path: Path) -> Generator[int, None, None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _adopt_blocks(pack: _LeftPack, find_block: FindBlock, sink: GroupSink) -> tuple[RecordHeader, ...] | None:
    """Tell the sink of the pack's blocks and put an end to the pack; returns the heads of its manifests.

    None when there is nothing in it, or a living writer owns it.
    """
    with _opened(pack.path) as descriptor:
        if not packfile.own_pack(descriptor):
            return None
        # What is believed must first survive a power cut: the run that wrote it may not have synced it. And it must
        # be what the disk holds, not what memory does: after a failed sync the kernel keeps pages as if written.
        durable.sync_file(descriptor)
        durable.sync_folder(pack.path.parent)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        found = list(packfile.scan_pack(descriptor, pack.id))
        if not found and _was_never_whole(descriptor, pack.id, find_block):
            pack.path.unlink()
            durable.sync_folder(pack.path.parent)
            return None
        sink.group_durable(_group(pack, descriptor, Manifest((), ()), _places(found)))
        if packfile.read_footer(descriptor) is None:
            with durable.disk_full_explained(pack.path):
                packfile.seal_scanned(descriptor, pack.id, found)
        return tuple(record.header for record in found if record.header.type is RecordType.MANIFEST)


def _was_never_whole(descriptor: int, pack_id: uuid.UUID, find_block: FindBlock) -> bool:
    """Whether the pack ends within its first record, and that is no block which the store counts on finding here."""
    size, offset = os.fstat(descriptor).st_size, packformat.SUPERBLOCK_BYTES
    if size < offset + packformat.HEADER_BYTES:
        return True
    try:
        head = os.pread(descriptor, packformat.HEADER_BYTES, offset)
        header = packformat.decode_header(head, pack_id=pack_id, offset=offset)
    except IntegrityError:
        return False  # something lies here that cannot be read any more; it is not ours to throw away
    is_torn = header.type is RecordType.BLOCK and header.end_offset > size
    if not is_torn:
        return False
    known = find_block(FoundRecord(header).place().locator)
    return known is None or known.pack_id != pack_id  # a repair that was cut off was of a block that lies elsewhere


def _places(found: list[FoundRecord]) -> tuple[BlockPlace, ...]:
    places: dict[Locator, BlockPlace] = {}
    for record in found:
        if record.header.type is RecordType.BLOCK:
            place = record.place()
            places.setdefault(place.locator, place)
    return tuple(places.values())


def _group(pack: _LeftPack, descriptor: int, manifest: Manifest, blocks: tuple[BlockPlace, ...] = ()) -> DurableGroup:
    return DurableGroup(pack.id, blocks, manifest, os.fstat(descriptor).st_size)


def _adopt_versions(
    pack: _LeftPack, headers: tuple[RecordHeader, ...], find_block: FindBlock, sink: GroupSink
) -> tuple[RecordHeader, ...]:
    """Tell the sink of the versions of every whole group; returns the heads of those groups' manifests."""
    whole: list[RecordHeader] = []
    with _opened(pack.path) as descriptor:
        for header in headers:
            manifest = manifests.decode(packfile.read_payload(descriptor, header))
            if all(find_block(s.locator) is not None for v in manifest.versions for s in v.segments):
                sink.group_durable(_group(pack, descriptor, Manifest(manifest.sources, manifest.versions)))
                whole.append(header)
    return tuple(whole)


def _adopt_ends(pack: _LeftPack, headers: tuple[RecordHeader, ...], sink: GroupSink) -> None:
    with _opened(pack.path) as descriptor:
        for header in headers:
            manifest = manifests.decode(packfile.read_payload(descriptor, header))
            if manifest.ends:
                sink.group_durable(_group(pack, descriptor, Manifest((), (), manifest.ends)))
