"""Filling an empty catalog again from sealed packs that lie on a backend, without fetching them.

A sealed pack has an index, proven by its digest, of the blocks and manifests in it; so a few small reads of each pack
tell all that the catalog must know. That the blocks are good is seen when they are read. Packs on the local disk are
scanned instead (`holdfast.blocks.recover`), and the two must take turns, as the manifests of each may name blocks of
the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from holdfast.blocks import manifest as manifests
from holdfast.blocks.backends import HeldPack, OpenPack, PackBackend
from holdfast.blocks.manifest import Manifest
from holdfast.blocks.packfile import asked_twice, list_records, read_record, read_superblock
from holdfast.blocks.packformat import IndexEntry, RecordType
from holdfast.blocks.packs import Packs
from holdfast.blocks.recover import Known, LeftPacks, adopt_in_turn, misplaced, places_in_lost_packs, whole_versions
from holdfast.blocks.store import DurableGroup, GroupSink
from holdfast.errors import HoldfastError, IntegrityError
from holdfast.values import BlockPlace, Locator

Warn = Callable[[HoldfastError], object]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A pack that the sink was told all of, but not that it is sealed; so many bytes of blocks are in it."""

    pack_id: uuid.UUID
    size_bytes: int
    block_bytes: int


def adopt_held(
    backend: PackBackend, left: LeftPacks, *, vault_id: uuid.UUID, known: Known, sink: GroupSink, warn: Warn
) -> list[Adopted]:
    """Tell the sink of all that is in the backend's packs of this vault, and in those left in the folder; the first ones.

    Local blocks come first, as the scan has proven them, and then those of the newest packs, as blocks are repaired into
    new ones; then what was released, then all versions, then the ends that name them. The sink is not told that any pack
    is sealed: as long as it has not been, all this may be done again, and changes nothing. Packs that are known to be sealed
    are left alone. One whose index is damaged is told to `warn`, and passed over. Raises what backends raise. The caller holds
    a pass of the fence.
    """
    held = _HeldPacks(backend, left.packs, vault_id, known, sink, warn)
    adopt_in_turn(left, held)
    return held.adopted()


@dataclass(frozen=True, slots=True)
class _Found:
    """A pack of ours, when it was begun, what lies in its blocks, and where its manifests are."""

    held: HeldPack
    created_ns: int
    block_bytes: int = 0
    manifests: tuple[IndexEntry, ...] = ()


def _age(item: _Found) -> tuple[int, uuid.UUID]:
    return item.created_ns, item.held.pack_id


class _HeldPacks:
    """The backend's packs of this vault that are neither known nor in the folder, as `recover.Adoptable`."""

    def __init__(
        self, backend: PackBackend, packs: Packs, vault_id: uuid.UUID, known: Known, sink: GroupSink, warn: Warn
    ) -> None:
        self._backend = backend
        self._packs = packs
        self._vault_id = vault_id
        self._known = known
        self._sink = sink
        self._warn = warn
        self._listed: frozenset[uuid.UUID] = frozenset()
        self._found: list[_Found] = []
        self._ends: list[DurableGroup] = []

    def adopted(self) -> list[Adopted]:
        return [Adopted(item.held.pack_id, item.held.size_bytes, item.block_bytes) for item in self._found]

    def _is_there(self, pack_id: uuid.UUID) -> bool:
        return pack_id in self._listed or self._packs.is_local(pack_id)

    def adopt_blocks(self) -> None:
        ours = [item for item in self._ours() if not self._packs.is_local(item.held.pack_id)]
        found = [self._adopt_blocks(item) for item in sorted(ours, key=_age, reverse=True)]
        self._found = sorted((item for item in found if item is not None), key=_age)

    def adopt_releases(self) -> None:
        for item in self._found:
            for manifest in self._manifests_of(item, self._warn):
                if manifest.releases:
                    self._sink.group_durable(_group(item, Manifest((), (), (), manifest.releases)))

    def adopt_versions(self) -> None:
        for item in self._found:
            for manifest in self._manifests_of(item, lambda _: None):  # it was told a moment ago
                versions = tuple(whole_versions(manifest.versions, self._known, may_lack=True))
                group = _group(item, Manifest(manifest.sources, versions))
                lost = misplaced(versions, self._known, self._is_there)
                self._sink.group_durable(replace(group, misplaced=lost))
                if manifest.ends and len(versions) == len(manifest.versions):
                    self._ends.append(_group(item, Manifest((), (), manifest.ends)))

    def adopt_ends(self) -> None:
        for group in self._ends:
            self._sink.group_durable(group)

    def _ours(self) -> Iterable[_Found]:
        listed = list(self._backend.packs())
        self._listed = frozenset(held.pack_id for held in listed)
        for held in listed:
            if self._known.pack_is_sealed(held.pack_id):
                continue
            pack = self._backend.open(held.pack_id)
            if pack is None:
                continue
            try:
                superblock = asked_twice(pack, partial(read_superblock, pack))
                if superblock.vault_id == self._vault_id and superblock.pack_id == held.pack_id:
                    yield _Found(held, superblock.created_ns)
            except IntegrityError as error:
                self._warn(_passed_over(pack, error))
            finally:
                pack.close()

    def _adopt_blocks(self, item: _Found) -> _Found | None:
        """Tell of the blocks in the pack's index; the pack with its manifests, None if the index is no good."""
        pack = self._backend.open(item.held.pack_id)
        if pack is None:
            return None
        try:
            index = asked_twice(pack, lambda: list_records(pack, item.held.pack_id))
        except IntegrityError as error:
            self._warn(_passed_over(pack, error))
            return None
        finally:
            pack.close()
        blocks = [entry for entry in index if entry.type is RecordType.BLOCK]
        places = _places(item.held.pack_id, blocks)
        self._sink.group_durable(_group(item, Manifest((), ()), places))
        lost = places_in_lost_packs(item.held.pack_id, places, self._known, self._is_there)
        if lost:
            self._sink.blocks_moved(lost, item.held.size_bytes)
        named = tuple(entry for entry in index if entry.type is RecordType.MANIFEST)
        return _Found(item.held, item.created_ns, sum(entry.payload_bytes for entry in blocks), named)

    def _manifests_of(self, item: _Found, warn: Warn) -> Iterator[Manifest]:
        pack = self._backend.open(item.held.pack_id)
        if pack is None:
            return
        try:
            for entry in item.manifests:
                try:
                    yield manifests.decode(_payload(pack, item.held.pack_id, entry))
                except IntegrityError as error:
                    warn(_passed_over(pack, error))
        finally:
            pack.close()


def _payload(pack: OpenPack, pack_id: uuid.UUID, entry: IndexEntry) -> bytes:
    return asked_twice(pack, lambda: read_record(pack, pack_id, entry))


def _places(pack_id: uuid.UUID, blocks: list[IndexEntry]) -> tuple[BlockPlace, ...]:
    """Of a block that lies there twice, the first."""
    offsets = {Locator(entry.blake3, entry.payload_bytes): entry.offset_bytes for entry in reversed(blocks)}
    return tuple(BlockPlace(locator, pack_id, offset) for locator, offset in offsets.items())


def _group(item: _Found, manifest: Manifest, blocks: tuple[BlockPlace, ...] = ()) -> DurableGroup:
    return DurableGroup(item.held.pack_id, blocks, manifest, item.held.size_bytes, is_adopted=True)


def _passed_over(pack: OpenPack, error: IntegrityError) -> IntegrityError:
    return IntegrityError(
        "a pack cannot be taken into the catalog; what only it holds must come from tape",
        place=pack.place,
        expected=error.expected,
        found=error.found or error.message,
        hint="holdfast rebuild takes the tapes into the catalog",
    )
