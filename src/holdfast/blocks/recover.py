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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Protocol

from holdfast import durable
from holdfast.blocks import manifest as manifests
from holdfast.blocks import packfile, packformat
from holdfast.blocks.fence import Fence
from holdfast.blocks.manifest import Manifest, StoredVersion
from holdfast.blocks.packfile import FoundRecord
from holdfast.blocks.packformat import RecordHeader, RecordType, Superblock
from holdfast.blocks.packs import Packs
from holdfast.blocks.store import DurableGroup, GroupSink
from holdfast.errors import BackendError, IntegrityError, UsageError
from holdfast.values import BlockPlace, Content, Locator, Segment

IsThere = Callable[[uuid.UUID], bool]
"""Whether a pack is anywhere."""


@dataclass(frozen=True, slots=True)
class _LeftPack:
    """An unsettled pack, and when it was begun; by its file, where its superblock does not say so any more."""

    path: Path
    id: uuid.UUID
    created_ns: int
    has_superblock: bool


class Known(Protocol):
    """What is known of the store already; it must know of what the sink was just told of."""

    def pack_is_sealed(self, pack_id: uuid.UUID) -> bool:
        """Whether a pack is settled: sealed, and known to be."""
        ...

    def find_block(self, locator: Locator) -> BlockPlace | None:
        """The place of a durable block, or None."""
        ...

    def find_segments(self, content: Content) -> tuple[Segment, ...] | None:
        """The segments of a durable, non-empty content, or None."""
        ...

    def was_released(self, content: Content) -> bool:
        """Whether the store gave a content up at some time."""
        ...


class Adoptable(Protocol):
    """Packs to be adopted, in steps: a manifest may name what any pack holds, so each step is for all packs at once."""

    def adopt_blocks(self) -> None: ...
    def adopt_releases(self) -> None: ...
    def adopt_versions(self) -> None: ...
    def adopt_ends(self) -> None: ...


def adopt_in_turn(*rooms: Adoptable) -> None:
    """Step by step, in each step one after the other; the sink is not told that any pack is sealed."""
    for room in rooms:
        room.adopt_blocks()
    for room in rooms:
        room.adopt_releases()
    for room in rooms:
        room.adopt_versions()
    for room in rooms:  # which name versions
        room.adopt_ends()


def recover_packs(packs: Packs | Path, *, vault_id: uuid.UUID, known: Known, sink: GroupSink, fence: Fence) -> int:
    """Adopt and seal every pack of the folder that is not settled; returns how many.

    A version that names a block found nowhere is left out: its bytes are lost, or were never whole, and then nobody was told
    of it. But if its pack was sealed before, and its content was released, it is told of without a place. Ends count where
    their manifest is whole. A block whose pack is gone is read from where it was found now. A pack in which not even one
    record was ever whole is removed; one that a living writer owns is left alone. One that is sealed now is of the vault
    `vault_id`, and says so if its superblock was torn: nobody could tell in another place.
    """
    with fence.passing():
        left = LeftPacks(packs, vault_id, known, sink)
        adopt_in_turn(left)
        left.tell_sealed()
    return left.count


def has_left_packs(folder: Path, vault_id: uuid.UUID, known: Known) -> bool:
    """Whether there are packs to recover: not settled, and nobody is writing them."""
    return any(_is_left(pack) for pack in _left_packs(folder, vault_id, known))


def _is_left(pack: _LeftPack) -> bool:
    with _owned(pack) as descriptor:
        return descriptor is not None


class LeftPacks:
    """The packs of the folder that are not settled. Whoever adopts them holds a pass of the fence."""

    def __init__(self, packs: Packs | Path, vault_id: uuid.UUID, known: Known, sink: GroupSink) -> None:
        self.packs = Packs(packs) if isinstance(packs, Path) else packs
        self._vault_id = vault_id
        self._known = known
        self._sink = sink
        self._left = sorted(
            _left_packs(self.packs.folder, vault_id, known), key=lambda pack: (pack.created_ns, pack.id)
        )
        self._is_there = cache(partial(_is_there, self.packs))
        self.count = len(self._left)
        self._found: list[_Adopted] = []
        self._whole: list[tuple[_LeftPack, tuple[RecordHeader, ...]]] = []

    def adopt_blocks(self) -> None:
        adopted = (self._adopt_blocks_of(pack) for pack in self._left)
        self._found = [item for item in adopted if item is not None]

    def _adopt_blocks_of(self, pack: _LeftPack) -> _Adopted | None:
        superblock = Superblock(self._vault_id, pack.id, pack.created_ns)
        return _adopt_blocks(pack, superblock, self._known, self._sink, self._is_there)

    def adopt_releases(self) -> None:
        for adopted in self._found:
            _adopt_releases(adopted, self._sink)

    def adopt_versions(self) -> None:
        whole = ((item, _adopt_versions(item, self._known, self._sink, self._is_there)) for item in self._found)
        self._whole = [(item.pack, headers) for item, headers in whole]

    def adopt_ends(self) -> None:
        for pack, headers in self._whole:
            _adopt_ends(pack, headers, self._sink)

    def tell_sealed(self) -> None:
        """From here on they are settled."""
        for adopted in self._found:
            self._sink.pack_sealed(adopted.pack.id, adopted.pack.path.stat().st_size, adopted.block_bytes)


@dataclass(frozen=True, slots=True)
class _Adopted:
    """A pack whose blocks were adopted, with the heads of its manifests; and whether it was sealed before that."""

    pack: _LeftPack
    manifests: tuple[RecordHeader, ...]
    block_bytes: int
    was_sealed: bool


def _left_packs(folder: Path, vault_id: uuid.UUID, known: Known) -> Iterator[_LeftPack]:
    """Those of other vaults are left alone: somebody else counts on them, or removes them."""
    for path in folder.glob("*" + packfile.PACK_SUFFIX):
        pack_id = _id_of(path)
        if pack_id is not None and not known.pack_is_sealed(pack_id):
            with suppress(FileNotFoundError):  # collected since it was listed
                pack = _left_pack(path, pack_id, vault_id)
                if pack is not None:
                    yield pack


def _id_of(path: Path) -> uuid.UUID | None:
    try:
        pack_id = uuid.UUID(path.stem)
    except ValueError:
        return None  # not one of ours: left alone
    return pack_id if path.stem == str(pack_id) else None


def _left_pack(path: Path, pack_id: uuid.UUID, vault_id: uuid.UUID) -> _LeftPack | None:
    with path.open("rb") as file:
        try:
            superblock = packformat.decode_superblock(file.read(packformat.SUPERBLOCK_BYTES))
        except IntegrityError:  # torn or damaged; each record names its pack, too
            return _LeftPack(path, pack_id, os.fstat(file.fileno()).st_mtime_ns, has_superblock=False)
    if superblock.pack_id != pack_id:
        raise IntegrityError(
            "a pack has the name of another pack",
            place=str(path),
            expected=str(pack_id),
            found=str(superblock.pack_id),
            hint=f"move it out of the folder, or give it its own name again: {superblock.pack_id}{path.suffix}",
        )
    is_ours = superblock.vault_id == vault_id
    return _LeftPack(path, pack_id, superblock.created_ns, has_superblock=True) if is_ours else None


@contextmanager
def _opened(path: Path) -> Generator[int, None, None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _owned(pack: _LeftPack) -> Generator[int | None, None, None]:
    """The open pack, ours now; None when a living writer has it, or it is gone."""
    try:
        descriptor = os.open(pack.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        # who fills a pack in vain removes it before letting go of it
        yield descriptor if packfile.own_pack(descriptor) and os.fstat(descriptor).st_nlink else None
    finally:
        os.close(descriptor)


def _adopt_blocks(
    pack: _LeftPack, superblock: Superblock, known: Known, sink: GroupSink, is_there: IsThere
) -> _Adopted | None:
    """Tell the sink of the pack's blocks and put an end to the pack, and a begin where it is torn.

    None when there is nothing in it, a living writer owns it, or it is gone.
    """
    with _owned(pack) as descriptor:
        if descriptor is None:
            return None
        # What is believed must first survive a power cut: the run that wrote it may not have synced it. And it must
        # be what the disk holds, not what memory does: after a failed sync the kernel keeps pages as if written.
        durable.sync_file(descriptor)
        durable.sync_folder(pack.path.parent)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        found = list(packfile.scan_pack(descriptor, pack.id))
        if not os.fstat(descriptor).st_nlink:
            return None  # removed meanwhile
        if not found and _was_never_whole(descriptor, pack.id, known):
            pack.path.unlink()
            durable.sync_folder(pack.path.parent)
            return None
        places = _places(found)
        sink.group_durable(_group(pack, descriptor, Manifest((), ()), places))
        lost = places_in_lost_packs(pack.id, places, known, is_there)
        if lost:
            sink.blocks_moved(lost, os.fstat(descriptor).st_size)
        was_sealed = _is_sealed(descriptor, pack.id)
        if not was_sealed:
            with durable.disk_full_explained(pack.path):
                if not pack.has_superblock:
                    packfile.write_superblock(descriptor, superblock)
                packfile.seal_scanned(descriptor, pack.id, found)
    headers = tuple(record.header for record in found if record.header.type is RecordType.MANIFEST)
    sizes = (record.header.payload_bytes for record in found if record.header.type is RecordType.BLOCK)
    return _Adopted(pack, headers, sum(sizes), was_sealed)


def places_in_lost_packs(
    pack_id: uuid.UUID, places: tuple[BlockPlace, ...], known: Known, is_there: IsThere
) -> list[BlockPlace]:
    """Blocks that are said to lie in a pack that is gone, as a catalog from before a collection says it."""
    said = [(place, at.pack_id) for place in places if (at := known.find_block(place.locator)) is not None]
    return [place for place, other in said if other != pack_id and not is_there(other)]


def _is_there(packs: Packs, pack_id: uuid.UUID) -> bool:
    """Unless it is known to be nowhere: where packs were moved to is asked only for what is not in the folder."""
    try:
        return packs.has(pack_id)
    except (BackendError, UsageError):
        return True


def _is_sealed(descriptor: int, pack_id: uuid.UUID) -> bool:
    """Whether the pack was sealed: power that was cut amid that may have left the footer, and not what it stands for."""
    try:
        packfile.list_records(descriptor, pack_id)
    except IntegrityError:
        return False
    return True


def _was_never_whole(descriptor: int, pack_id: uuid.UUID, known: Known) -> bool:
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
    place = known.find_block(FoundRecord(header).place().locator)
    return place is None or place.pack_id != pack_id  # a repair that was cut off was of a block that lies elsewhere


def _places(found: list[FoundRecord]) -> tuple[BlockPlace, ...]:
    places: dict[Locator, BlockPlace] = {}
    for record in found:
        if record.header.type is RecordType.BLOCK:
            place = record.place()
            places.setdefault(place.locator, place)
    return tuple(places.values())


def _group(pack: _LeftPack, descriptor: int, manifest: Manifest, blocks: tuple[BlockPlace, ...] = ()) -> DurableGroup:
    return DurableGroup(pack.id, blocks, manifest, os.fstat(descriptor).st_size, is_adopted=True)


def _adopt_releases(adopted: _Adopted, sink: GroupSink) -> None:
    """Which contents were released, before it is asked."""
    with _opened(adopted.pack.path) as descriptor:
        for header in adopted.manifests:
            manifest = manifests.decode(packfile.read_payload(descriptor, header))
            if manifest.releases:
                sink.group_durable(_group(adopted.pack, descriptor, Manifest((), (), (), manifest.releases)))


def _adopt_versions(adopted: _Adopted, known: Known, sink: GroupSink, is_there: IsThere) -> tuple[RecordHeader, ...]:
    """Tell the sink of the versions that are whole; returns the heads of the manifests of which all are."""
    whole: list[RecordHeader] = []
    with _opened(adopted.pack.path) as descriptor:
        for header in adopted.manifests:
            manifest = manifests.decode(packfile.read_payload(descriptor, header))
            versions = tuple(whole_versions(manifest.versions, known, may_lack=adopted.was_sealed))
            group = _group(adopted.pack, descriptor, Manifest(manifest.sources, versions))
            sink.group_durable(replace(group, misplaced=misplaced(versions, known, is_there)))
            if len(versions) == len(manifest.versions):
                whole.append(header)
    return tuple(whole)


def whole_versions(versions: tuple[StoredVersion, ...], known: Known, *, may_lack: bool) -> Iterator[StoredVersion]:
    """Those of which every block is there; and those of released contents, without a place."""
    for stored in versions:
        content = stored.version.content
        if all(known.find_block(segment.locator) is not None for segment in stored.segments):
            yield stored
        elif may_lack and content is not None and known.was_released(content):
            yield replace(stored, segments=())


def misplaced(versions: tuple[StoredVersion, ...], known: Known, is_there: IsThere) -> frozenset[Content]:
    """Contents that have a place here, and of which a block is said to lie in a pack that is gone."""
    named = (stored.version.content for stored in versions if stored.segments)
    return frozenset(content for content in named if content is not None and _is_lost(content, known, is_there))


def _is_lost(content: Content, known: Known, is_there: IsThere) -> bool:
    places = (known.find_block(segment.locator) for segment in known.find_segments(content) or ())
    return any(place is None or not is_there(place.pack_id) for place in places)


def _adopt_ends(pack: _LeftPack, headers: tuple[RecordHeader, ...], sink: GroupSink) -> None:
    with _opened(pack.path) as descriptor:
        for header in headers:
            manifest = manifests.decode(packfile.read_payload(descriptor, header))
            if manifest.ends:
                sink.group_durable(_group(pack, descriptor, Manifest((), (), manifest.ends)))
