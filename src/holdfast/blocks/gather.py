"""Copying out of packs what is still needed, so that their files may go.

A new pack gets the needed blocks, every manifest that the packs hold, as the names of files must never go, and which contents
were released: whoever fills an empty catalog from packs can tell by that why a manifest names blocks that are nowhere. It is
sealed before anything else is said of it. Nothing is removed here, and what is damaged is never left behind as if it were whole.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from holdfast import durable
from holdfast.blocks import manifest as manifests
from holdfast.blocks.manifest import Manifest
from holdfast.blocks.packfile import PackWriter, list_records, pack_path, read_record
from holdfast.blocks.packformat import RecordType
from holdfast.blocks.scrub import look_at_block
from holdfast.errors import IntegrityError
from holdfast.values import BlockPlace, Release


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

    def add_pack(self, pack_id: uuid.UUID, needed: Iterable[BlockPlace]) -> None:
        """Copy what is needed of a pack: these blocks, and all its manifests.

        Raises `IntegrityError` when one of them is damaged; then the pack is not among those that may go, and what was
        copied before stays copied.
        """
        path = pack_path(self._folder, pack_id)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise IntegrityError("a pack cannot be opened", place=str(path), found=error.strerror or "") from error
        try:
            for place in needed:
                self._result.moved[place] = self._copy_block(descriptor, place)
            for entry in list_records(descriptor, pack_id):
                if entry.type is RecordType.MANIFEST:
                    self._append_manifest(read_record(descriptor, pack_id, entry))
        except (IntegrityError, OSError) as error:
            raise _stays(path, error) from error
        finally:
            os.close(descriptor)
        self._result.packs.append(pack_id)

    def _copy_block(self, descriptor: int, place: BlockPlace) -> BlockPlace:
        payload, damage = look_at_block(descriptor, place)
        if damage is not None:
            raise IntegrityError("a block is not as it was written", expected=str(place.locator), found=damage.problem)
        offset = self._pack.append(RecordType.BLOCK, place.locator.blake3, memoryview(payload))
        return BlockPlace(place.locator, self._pack.pack_id, offset)

    def _append_manifest(self, payload: bytes) -> None:
        self._pack.append(RecordType.MANIFEST, blake3(payload).digest(), memoryview(payload))

    def seal(self) -> Gathered:
        """Make it all durable; what it holds."""
        self._pack.seal()
        self._is_sealed = True
        self._result.size_bytes, self._result.block_bytes = self._pack.size_bytes, self._pack.block_bytes
        return self._result


def _stays(path: Path, error: IntegrityError | OSError) -> IntegrityError:
    return IntegrityError(
        "a pack of which little is needed stays, as it is damaged",
        place=f"{path} {error.place or ''}".strip() if isinstance(error, IntegrityError) else str(path),
        expected=getattr(error, "expected", None),
        found=str(error),
        hint="holdfast scrub repairs it from the tapes; then collect again",
    )
