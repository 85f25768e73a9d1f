"""Adopting what a killed run left in the packs.

A pack without a footer was left by a run that was killed or lost power. What it holds whole is true: blocks by their
digests, manifests because they are written only after their blocks are durable. So its records are handed to the
sink as one would hand over a fresh group, and the pack is sealed. Doing it twice changes nothing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from holdfast import durable
from holdfast.blocks import manifest as manifests
from holdfast.blocks import packfile
from holdfast.blocks.manifest import Manifest
from holdfast.blocks.packfile import FoundRecord
from holdfast.blocks.packformat import RecordType
from holdfast.blocks.store import DurableGroup, GroupSink
from holdfast.values import BlockPlace, Locator


def recover_packs(
    folder: Path, *, is_settled: Callable[[uuid.UUID], bool], has_block: Callable[[Locator], bool], sink: GroupSink
) -> int:
    """Adopt and seal every pack that `is_settled` (sealed, and known to be) does not know; returns how many.

    `has_block` says whether a block is durable elsewhere. A manifest that names a block found nowhere is left out:
    power was cut before its group was whole, and nobody was told of it. A pack without one whole record is removed.
    """
    count = 0
    for path in sorted(folder.glob("*" + packfile.PACK_SUFFIX)):
        pack_id = _id_of(path)
        if pack_id is not None and not is_settled(pack_id):
            _recover(path, pack_id, has_block, sink)
            count += 1
    return count


def _id_of(path: Path) -> uuid.UUID | None:
    try:
        return uuid.UUID(path.stem)
    except ValueError:
        return None  # not one of ours: left alone


def _recover(path: Path, pack_id: uuid.UUID, has_block: Callable[[Locator], bool], sink: GroupSink) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        found = list(packfile.scan_pack(descriptor, pack_id))
        if not found:
            path.unlink()
            durable.sync_folder(path.parent)
            return
        # what is believed must first survive a power cut: the run that wrote it may not have synced it
        durable.sync_file(descriptor)
        durable.sync_folder(path.parent)
        _adopt(descriptor, pack_id, found, has_block, sink)
        if packfile.read_footer(descriptor) is None:
            with durable.disk_full_explained(path):
                packfile.seal_scanned(descriptor, pack_id, found)
        sink.pack_sealed(pack_id, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _adopt(
    descriptor: int,
    pack_id: uuid.UUID,
    found: list[FoundRecord],
    has_block: Callable[[Locator], bool],
    sink: GroupSink,
) -> None:
    places: dict[Locator, BlockPlace] = {}
    for record in found:
        if record.header.type is RecordType.BLOCK:
            place = record.place()
            places.setdefault(place.locator, place)
    size = os.fstat(descriptor).st_size
    sink.group_durable(DurableGroup(pack_id, tuple(places.values()), Manifest((), ()), size))
    for record in found:
        if record.header.type is RecordType.MANIFEST:
            manifest = manifests.decode(packfile.read_payload(descriptor, record.header))
            if all(s.locator in places or has_block(s.locator) for v in manifest.versions for s in v.segments):
                sink.group_durable(DurableGroup(pack_id, (), manifest, size))
