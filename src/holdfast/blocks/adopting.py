"""Filling an empty catalog again from sealed packs that lie on a backend, without fetching them.

A sealed pack has an index, proven by its digest, of the blocks and manifests in it; so a few small reads of each pack
tell all that the catalog must know. That the blocks are good is seen when they are read. Packs on the local disk are
scanned instead (`holdfast.blocks.recover`), and the two must take turns, as the manifests of each may name blocks of
the other: see `adopt_held`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blake3 import blake3

from holdfast.blocks import manifest as manifests
from holdfast.blocks import packformat
from holdfast.blocks.backends import HeldPack, OpenPack, PackBackend
from holdfast.blocks.manifest import Manifest
from holdfast.blocks.packfile import read_bytes, read_header
from holdfast.blocks.packformat import IndexEntry, RecordType
from holdfast.blocks.store import DurableGroup, GroupSink
from holdfast.errors import HoldfastError, IntegrityError
from holdfast.values import BlockPlace, Locator


@dataclass(frozen=True, slots=True)
class _Found:
    """A pack of ours, when it was begun, and where its manifests are."""

    held: HeldPack
    created_ns: int
    manifests: tuple[IndexEntry, ...] = ()


def adopt_held(
    backend: PackBackend,
    *,
    vault_id: uuid.UUID,
    is_local: Callable[[uuid.UUID], bool],
    has_block: Callable[[Locator], bool],
    sink: GroupSink,
    adopt_local: Callable[[], object],
    warn: Callable[[HoldfastError], object],
) -> list[HeldPack]:
    """Tell the sink of all that is in the backend's packs of this vault; which they are. Doing it twice changes nothing.

    `adopt_local` does the same for the packs on the local disk. Local blocks come first, as the scan has proven them,
    and then those of the newest packs, as blocks are repaired into new ones; then all versions, then the ends that name
    them. The sink is not told that any pack is sealed: as long as it has not been, all this may be done again. A pack
    whose index is damaged is told to `warn`, and passed over. Raises what backends raise.
    """
    adopt_local()
    ours = [item for item in _ours(backend, vault_id, warn) if not is_local(item.held.pack_id)]
    found = [_adopt_blocks(backend, item, sink, warn) for item in sorted(ours, key=_age, reverse=True)]
    adopt_local()
    whole = [_adopt_versions(backend, item, has_block, sink, warn) for item in sorted(filter(None, found), key=_age)]
    for item, ends in whole:
        for manifest in ends:
            sink.group_durable(_group(item, manifest))
    return [item.held for item, _ in whole]


def _age(item: _Found) -> tuple[int, uuid.UUID]:
    return item.created_ns, item.held.pack_id


def _ours(backend: PackBackend, vault_id: uuid.UUID, warn: Callable[[HoldfastError], object]) -> Iterable[_Found]:
    for held in backend.packs():
        pack = backend.open(held.pack_id)
        if pack is None:
            continue
        try:
            superblock = packformat.decode_superblock(read_bytes(pack, packformat.SUPERBLOCK_BYTES, 0))
            if superblock.vault_id == vault_id and superblock.pack_id == held.pack_id:
                yield _Found(held, superblock.created_ns)
        except IntegrityError as error:
            warn(_passed_over(pack, error))
        finally:
            pack.close()


def _passed_over(pack: OpenPack, error: IntegrityError) -> IntegrityError:
    return IntegrityError(
        "a pack cannot be taken into the catalog; what only it holds must come from tape",
        place=pack.place,
        expected=error.expected,
        found=error.found or error.message,
        hint="holdfast rebuild takes the tapes into the catalog",
    )


def _adopt_blocks(
    backend: PackBackend, item: _Found, sink: GroupSink, warn: Callable[[HoldfastError], object]
) -> _Found | None:
    """Tell the sink of the blocks in the pack's index; the pack with its manifests, None if the index is no good."""
    pack = backend.open(item.held.pack_id)
    if pack is None:
        return None
    try:
        index = read_index(pack, item.held.pack_id)
    except IntegrityError as error:
        warn(_passed_over(pack, error))
        return None
    finally:
        pack.close()
    places = {
        Locator(entry.blake3, entry.payload_bytes): entry.offset_bytes
        for entry in reversed(index)
        if entry.type is RecordType.BLOCK
    }
    blocks = tuple(BlockPlace(locator, item.held.pack_id, offset) for locator, offset in places.items())
    sink.group_durable(DurableGroup(item.held.pack_id, blocks, Manifest((), ()), item.held.size_bytes))
    named = tuple(entry for entry in index if entry.type is RecordType.MANIFEST)
    return _Found(item.held, item.created_ns, named)


def read_index(pack: OpenPack, pack_id: uuid.UUID) -> list[IndexEntry]:
    """What a sealed pack says is in it. Raises `IntegrityError` if the pack is not sealed, or its index is damaged."""
    footer_bytes = read_bytes(pack, packformat.FOOTER_BYTES, max(0, pack.size_bytes - packformat.FOOTER_BYTES))
    footer = packformat.decode_footer(footer_bytes)
    if footer is None or footer.pack_id != pack_id:
        raise IntegrityError("a pack without an end", expected="the footer of a sealed pack", found=repr(footer))
    return list(packformat.decode_index(_payload(pack, pack_id, footer.index_offset)))


def _payload(pack: OpenPack, pack_id: uuid.UUID, offset: int) -> bytes:
    header = read_header(pack, pack_id, offset)
    payload = read_bytes(pack, header.payload_bytes, header.payload_offset)
    if blake3(payload).digest() != header.blake3:
        raise IntegrityError(
            "a damaged record", expected=f"BLAKE3 {header.blake3.hex()}", found=blake3(payload).hexdigest()
        )
    return payload


def _adopt_versions(
    backend: PackBackend,
    item: _Found,
    has_block: Callable[[Locator], bool],
    sink: GroupSink,
    warn: Callable[[HoldfastError], object],
) -> tuple[_Found, list[Manifest]]:
    """Tell the sink of the versions of every whole group; returns what those groups say of ends."""
    ends: list[Manifest] = []
    for manifest in _manifests_of(backend, item, warn):
        if all(has_block(segment.locator) for stored in manifest.versions for segment in stored.segments):
            sink.group_durable(_group(item, Manifest(manifest.sources, manifest.versions)))
            ends += [Manifest((), (), manifest.ends)] if manifest.ends else []
    return item, ends


def _manifests_of(backend: PackBackend, item: _Found, warn: Callable[[HoldfastError], object]) -> Iterable[Manifest]:
    pack = backend.open(item.held.pack_id)
    if pack is None:
        return
    try:
        for entry in item.manifests:
            try:
                yield manifests.decode(_payload(pack, item.held.pack_id, entry.offset_bytes))
            except IntegrityError as error:
                warn(_passed_over(pack, error))
    finally:
        pack.close()


def _group(item: _Found, manifest: Manifest) -> DurableGroup:
    return DurableGroup(item.held.pack_id, (), manifest, item.held.size_bytes)


class Unsealed:
    """A sink that passes on all but the word that a pack is sealed."""

    def __init__(self, sink: GroupSink) -> None:
        self._sink = sink

    def group_durable(self, group: DurableGroup) -> None:
        self._sink.group_durable(group)

    def pack_sealed(self, pack_id: uuid.UUID, pack_bytes: int) -> None:
        """Not yet."""
