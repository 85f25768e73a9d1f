"""Copying out of packs what is still needed, so that their files may go.

A new pack gets the needed blocks, every manifest that the packs hold, as the names of files must never go, and which contents
were released: whoever fills an empty catalog from packs can tell by that why a manifest names blocks that are nowhere. It is
sealed before anything else is said of it. Nothing is removed here, and what is damaged is never left behind as if it were whole.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from holdfast import durable
from holdfast.blocks import manifest as manifests
from holdfast.blocks.manifest import Manifest
from holdfast.blocks.packfile import PackWriter, list_records, pack_path, read_record
from holdfast.blocks.packformat import IndexEntry, RecordType
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

    def __init__(self, folder: Path, vault_id: uuid.UUID) -> None:
        self._folder = folder
        self._pack = PackWriter(folder, vault_id=vault_id, pack_id=uuid.uuid4(), created_ns=time.time_ns())
        self._result = Gathered(self._pack.pack_id)
        self._is_sealed = False

    def __enter__(self) -> Gatherer:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_sealed:
            # the file goes before its lock does: nobody shall adopt it meanwhile
            self._pack.path.unlink(missing_ok=True)
            self._pack.close()
            durable.sync_folder(self._folder)

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
        `IntegrityError` when a needed block is damaged, or one is here that the index has never heard of; and `DamagedNames` when a manifest is, or nobody can tell what is
        in the pack; then the pack is not among those that may go.
        """
        path = pack_path(self._folder, pack_id)
        with _opened(path) as descriptor:
            try:
                records = list_records(descriptor, pack_id)
                named = [read_record(descriptor, pack_id, e) for e in records if e.type is RecordType.MANIFEST]
            except (IntegrityError, OSError) as error:
                raise DamagedNames(_stays(path, error)) from error
            _check_known(path, records, known)
            try:
                for place in needed:
                    self._result.moved[place] = self._copy_block(descriptor, place)
                for entry in records:
                    if entry.type is RecordType.BLOCK:
                        self._copy_if_lost(descriptor, pack_id, entry, find_block)
            except (IntegrityError, OSError) as error:
                raise _stays(path, error) from error
        for payload in named:
            self._append_manifest(payload)
        self._result.packs.append(pack_id)

    def _copy_if_lost(self, descriptor: int, pack_id: uuid.UUID, entry: IndexEntry, find_block: FindBlock) -> None:
        here = BlockPlace(Locator(entry.blake3, entry.payload_bytes), pack_id, entry.offset_bytes)
        place = find_block(here.locator)
        if place is not None and place.pack_id not in (pack_id, self._pack.pack_id) and not self._is_whole(place):
            self._result.moved[place] = self._copy_block(descriptor, here)

    def _is_whole(self, place: BlockPlace) -> bool:
        try:
            with _opened(pack_path(self._folder, place.pack_id)) as descriptor:
                return look_at_block(descriptor, place)[1] is None
        except IntegrityError:
            return False

    def _copy_block(self, descriptor: int, place: BlockPlace) -> BlockPlace:
        payload, damage = look_at_block(descriptor, place)
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


@contextmanager
def _opened(path: Path) -> Generator[int, None, None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise IntegrityError(
            "a pack of the block store cannot be opened",
            place=str(path),
            found=error.strerror or str(error),
            hint="is its disk mounted? If the pack is lost for good: holdfast scrub --replace-lost",
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_known(path: Path, records: Sequence[IndexEntry], known: KnownBlocks) -> None:
    """Nobody can say of a block that it is not needed, if nobody knows what named it."""
    here = {Locator(entry.blake3, entry.payload_bytes) for entry in records if entry.type is RecordType.BLOCK}
    if unknown := here - known(here):
        raise IntegrityError(
            "a pack of which little is needed stays, as it holds blocks that the catalog does not know",
            place=str(path),
            expected="what the catalog knows",
            found=f"{len(unknown)} more",
            hint="holdfast doctor --repair takes them into the catalog; then collect again",
        )


class DamagedNames(Exception):
    """What a pack says of files cannot be read in full; `error` tells of it."""

    def __init__(self, error: IntegrityError) -> None:
        super().__init__(str(error))
        self.error = error


def _stays(path: Path, error: IntegrityError | OSError) -> IntegrityError:
    place = error.place if isinstance(error, IntegrityError) else None
    return IntegrityError(
        "a pack of which little is needed stays, as it is damaged",
        place=f"{path} {place}" if place else str(path),
        expected=getattr(error, "expected", None),
        found=str(error),
        hint="holdfast scrub repairs blocks; names of files that cannot be read here are in the catalog and on tape",
    )
