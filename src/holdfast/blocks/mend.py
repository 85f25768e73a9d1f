"""Putting damaged blocks right: finding other whole records of them, and laying them down once more.

A block is named by its digest, so whoever can put its bytes together can prove it, and may lay it down anywhere: all
that names the block stays as it is. Nothing is written over.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from holdfast import durable
from holdfast.blocks.backends import OpenPack
from holdfast.blocks.backends.backend import pack_id_of
from holdfast.blocks.packfile import PACK_SUFFIX, PackWriter, asked_twice, pack_path, read_index, read_superblock
from holdfast.blocks.packformat import RecordType
from holdfast.blocks.packs import Packs
from holdfast.blocks.scrub import look_at_block, opened_pack
from holdfast.errors import BackendError, CapacityError, IntegrityError, UsageError
from holdfast.values import BlockPlace, Locator


def whole_copies(
    packs: Packs, vault_id: uuid.UUID, wanted: Collection[Locator], heed: Callable[[], object]
) -> Iterator[tuple[BlockPlace, int]]:
    """Where whole records of these blocks lie, in whatever sealed pack of the vault; and the size of that pack.

    A repair that was killed before the catalog was told of it leaves such a record. Packs and indexes that cannot be read
    are passed over, and so is a place that cannot be reached, and packs there of other vaults: those may go when their own
    vault needs them no more. `heed` is called before each pack.
    """
    left = set(wanted)
    yield from _copies(packs, _here(packs, vault_id), left, heed)
    with suppress(BackendError, UsageError):
        yield from _copies(packs, _elsewhere(packs, vault_id), left, heed)


def _copies(
    packs: Packs, pack_ids: Iterator[uuid.UUID], left: set[Locator], heed: Callable[[], object]
) -> Iterator[tuple[BlockPlace, int]]:
    while left:  # nobody is asked for more packs than are needed
        pack_id = next(pack_ids, None)
        if pack_id is None:
            return
        heed()
        for place, pack_bytes in _copies_in(packs, pack_id, left):
            left.discard(place.locator)
            yield place, pack_bytes


def _here(packs: Packs, vault_id: uuid.UUID) -> Iterator[uuid.UUID]:
    for path in packs.folder.glob("*" + PACK_SUFFIX):
        if (pack_id := pack_id_of(path.name)) is not None and _is_of(packs, pack_id, vault_id):
            yield pack_id


def _elsewhere(packs: Packs, vault_id: uuid.UUID) -> Iterator[uuid.UUID]:
    """Of these a few small reads are enough, as their indexes lie at their ends."""
    backend = packs.backend()
    for held in backend.packs() if backend is not None else ():
        if not packs.is_local(held.pack_id) and _is_of(packs, held.pack_id, vault_id):
            yield held.pack_id


def _is_of(packs: Packs, pack_id: uuid.UUID, vault_id: uuid.UUID) -> bool:
    try:
        with opened_pack(packs, pack_id) as pack:
            return asked_twice(pack, lambda: read_superblock(pack)).vault_id == vault_id
    except IntegrityError:
        return packs.is_local(pack_id)  # too damaged to say; nobody else has a claim on what lies here
    except OSError:
        return False


def _copies_in(packs: Packs, pack_id: uuid.UUID, wanted: Collection[Locator]) -> list[tuple[BlockPlace, int]]:
    try:
        with opened_pack(packs, pack_id) as pack:
            places = _listed(pack, pack_id, wanted)
            return [(place, pack.size_bytes) for place in places if look_at_block(pack, place)[1] is None]
    except (OSError, IntegrityError):
        return []  # no help


def _listed(pack: OpenPack, pack_id: uuid.UUID, wanted: Collection[Locator]) -> list[BlockPlace]:
    index = asked_twice(pack, lambda: read_index(pack, pack_id))
    listed = [entry for entry in index if entry.type is RecordType.BLOCK]
    places = (BlockPlace(Locator(e.blake3, e.payload_bytes), pack_id, e.offset_bytes) for e in listed)
    return [place for place in places if place.locator in wanted]


class RepairPack:
    """A new pack for blocks that were put right. It is made with the first of them; `seal` or `close` it.

    `tell` is told of each block when it is durable, with the size of the pack by then. A pack of which nothing was told,
    as the disk was full, is nothing to anybody: `close` removes it.
    """

    def __init__(self, folder: Path, vault_id: uuid.UUID, tell: Callable[[BlockPlace, int], object]) -> None:
        self._folder = folder
        self._vault_id = vault_id
        self._tell = tell
        self._pack: PackWriter | None = None
        self._is_told = False

    def add(self, locator: Locator, payload: bytearray) -> None:
        """Lay a block down once more, durably, and tell of it. Raises `IntegrityError` if these are not its bytes."""
        found = blake3(payload).digest()
        if found != locator.blake3:
            raise IntegrityError(
                "a block cannot be put together again", place=str(locator), found=f"BLAKE3 {found.hex()}"
            )
        if self._pack is None:
            self._pack = self._begin()
        offset = self._pack.append(RecordType.BLOCK, locator.blake3, memoryview(payload))
        self._pack.sync()
        self._is_told = True  # before it is: who fails in telling may have told
        self._tell(BlockPlace(locator, self._pack.pack_id, offset), self._pack.size_bytes)

    def _begin(self) -> PackWriter:
        pack_id = uuid.uuid4()
        try:
            return PackWriter(self._folder, vault_id=self._vault_id, pack_id=pack_id, created_ns=time.time_ns())
        except (CapacityError, OSError):
            self._remove(pack_path(self._folder, pack_id))
            raise

    def seal(self) -> tuple[uuid.UUID, int, int] | None:
        """End the pack: which it is, its size, and that of its blocks; None where nothing was laid down."""
        if self._pack is None:
            return None
        pack, self._pack = self._pack, None
        pack.seal()
        return pack.pack_id, pack.size_bytes, pack.block_bytes

    def close(self) -> None:
        """Leave it: what was told stays, and the next command that works on the vault seals the pack."""
        if self._pack is not None:
            if not self._is_told:
                self._remove(self._pack.path)
            self._pack.close()

    def _remove(self, path: Path) -> None:
        with suppress(OSError):  # what made it fail is told; and the next recovery removes what was never whole
            path.unlink(missing_ok=True)
            durable.sync_folder(path.parent)
