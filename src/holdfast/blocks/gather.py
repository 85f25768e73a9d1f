"""Copying out of packs what is still needed, so that their files may go.

A new pack gets the needed blocks, every manifest that the packs hold, as the names of files must never go, and which contents
were released: whoever fills an empty catalog from packs can tell by that why a manifest names blocks that are nowhere. Packs are
read from wherever they lie; the new one is born in the folder, and sealed before anything else is said of it. Nothing is removed
here, and what is damaged is never left behind as if it were whole.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from blake3 import blake3

from holdfast import durable
from holdfast.blocks import manifest as manifests
from holdfast.blocks.backends import OpenPack
from holdfast.blocks.manifest import Manifest
from holdfast.blocks.packfile import PackWriter, asked_twice, list_records, read_record
from holdfast.blocks.packformat import IndexEntry, RecordType
from holdfast.blocks.packs import Packs
from holdfast.blocks.scrub import look_at_block
from holdfast.errors import IntegrityError
from holdfast.values import BlockPlace, Locator, Release

FindBlock = Callable[[Locator], BlockPlace | None]
KnownBlocks = Callable[[Iterable[Locator]], set[Locator]]


@dataclass(slots=True)
class Gathered:
    """What a gathering pack holds: the new place of each block by its old one, and packs that were copied whole."""

    pack_id: uuid.UUID
    size_bytes: int = 0
    block_bytes: int = 0
    moved: dict[BlockPlace, BlockPlace] = field(default_factory=dict[BlockPlace, BlockPlace])
    packs: list[uuid.UUID] = field(default_factory=list[uuid.UUID])


class Gatherer:
    """Fills one new pack. Use as a context manager: what was not sealed when it is left is removed again."""

    def __init__(self, packs: Packs, vault_id: uuid.UUID) -> None:
        self._packs = packs
        self._pack = PackWriter(packs.folder, vault_id=vault_id, pack_id=uuid.uuid4(), created_ns=time.time_ns())
        self._result = Gathered(self._pack.pack_id)
        self._is_sealed = False

    def __enter__(self) -> Gatherer:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_sealed:
            # the file goes before its lock does: nobody shall adopt it meanwhile
            self._pack.path.unlink(missing_ok=True)
            self._pack.close()
            durable.sync_folder(self._packs.folder)

    @property
    def size_bytes(self) -> int:
        return self._pack.size_bytes

    def add_releases(self, releases: Sequence[Release]) -> None:
        """Say that these contents were released."""
        self._append_manifest(manifests.encode(Manifest((), (), (), tuple(releases))))

    def add_pack(
        self, pack_id: uuid.UUID, needed: Iterable[BlockPlace], find_block: FindBlock, known: KnownBlocks
    ) -> None:
        """Copy what is needed of a pack: these blocks, and all its manifests.

        A block that is read from another pack, and is not whole there, is copied from here as well. Raises
        `IntegrityError` when a needed block is damaged, or one is here that the index has never heard of, and `DamagedNames`
        when a manifest is, or nobody can tell what is in the pack; then the pack is not among those that may go. Raises what
        backends raise when one that has to be looked at cannot be reached: then nobody knows what is whole there, and nothing
        that was gathered may count.
        """
        with self._opened(pack_id) as pack:
            try:
                records = asked_twice(pack, lambda: list_records(pack, pack_id))
                named = [_manifest(pack, pack_id, e) for e in records if e.type is RecordType.MANIFEST]
            except (IntegrityError, OSError) as error:
                raise DamagedNames(_stays(pack.place, error)) from error
            _check_known(pack, records, known)
            try:
                for place in needed:
                    self._result.moved[place] = self._copy_block(pack, place)
                for entry in records:
                    if entry.type is RecordType.BLOCK:
                        self._copy_if_lost(pack, pack_id, entry, find_block)
            except (IntegrityError, OSError) as error:
                raise _stays(pack.place, error) from error
        for payload in named:
            self._append_manifest(payload)
        self._result.packs.append(pack_id)

    @contextmanager
    def _opened(self, pack_id: uuid.UUID) -> Generator[OpenPack, None, None]:
        try:
            pack = self._packs.open(pack_id)
        except OSError as error:
            raise IntegrityError(
                "a pack of the block store cannot be opened",
                place=self._packs.place_of(pack_id),
                found=error.strerror or str(error),
                hint="is its disk mounted? If the pack is lost for good: holdfast scrub --replace-lost",
            ) from error
        try:
            yield pack
        finally:
            pack.close()

    def _copy_if_lost(self, pack: OpenPack, pack_id: uuid.UUID, entry: IndexEntry, find_block: FindBlock) -> None:
        here = BlockPlace(Locator(entry.blake3, entry.payload_bytes), pack_id, entry.offset_bytes)
        place = find_block(here.locator)
        if place is not None and place.pack_id not in (pack_id, self._pack.pack_id) and not self._is_whole(place):
            self._result.moved[place] = self._copy_block(pack, here)

    def _is_whole(self, place: BlockPlace) -> bool:
        try:
            with self._opened(place.pack_id) as pack:
                return look_at_block(pack, place)[1] is None
        except IntegrityError:
            return False

    def _copy_block(self, pack: OpenPack, place: BlockPlace) -> BlockPlace:
        payload, damage = look_at_block(pack, place)
        if damage is not None:
            raise IntegrityError("a block is not as it was written", expected=str(place.locator), found=damage.problem)
        offset = self._pack.append(RecordType.BLOCK, place.locator.blake3, memoryview(payload))
        return BlockPlace(place.locator, self._pack.pack_id, offset)

    def _append_manifest(self, payload: bytes) -> None:
        self._pack.append(RecordType.MANIFEST, blake3(payload).digest(), memoryview(payload))

    def is_idle(self) -> bool:
        """Whether nothing was gathered that is worth a pack."""
        return not self._result.packs and not self._result.moved

    def seal(self) -> Gathered:
        """Make it all durable; what it holds."""
        self._pack.seal()
        self._is_sealed = True
        self._result.size_bytes, self._result.block_bytes = self._pack.size_bytes, self._pack.block_bytes
        return self._result


def _manifest(pack: OpenPack, pack_id: uuid.UUID, entry: IndexEntry) -> bytes:
    return asked_twice(pack, lambda: read_record(pack, pack_id, entry))


def _check_known(pack: OpenPack, records: Sequence[IndexEntry], known: KnownBlocks) -> None:
    """Nobody can say of a block that it is not needed, if nobody knows what named it."""
    here = {Locator(entry.blake3, entry.payload_bytes) for entry in records if entry.type is RecordType.BLOCK}
    if unknown := here - known(here):
        raise IntegrityError(
            "a pack of which little is needed stays, as it holds blocks that the catalog does not know",
            place=pack.place,
            expected="what the catalog knows",
            found=f"{len(unknown)} more",
            hint="holdfast doctor --repair takes them into the catalog; then collect again",
        )


class DamagedNames(Exception):
    """What a pack says of files cannot be read in full; `error` tells of it."""

    def __init__(self, error: IntegrityError) -> None:
        super().__init__(str(error))
        self.error = error


def _stays(pack: str, error: IntegrityError | OSError) -> IntegrityError:
    place = error.place if isinstance(error, IntegrityError) else None
    return IntegrityError(
        "a pack of which little is needed stays, as it is damaged",
        place=f"{pack} {place}" if place else pack,
        expected=getattr(error, "expected", None),
        found=str(error),
        hint="holdfast scrub repairs blocks; names of files that cannot be read here are in the catalog and on tape",
    )
