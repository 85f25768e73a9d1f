"""Filling an empty index again from packs on a backend: as from the local disk, and never from what cannot be believed."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3
from tests.unit.blocks.kit import SOURCE, VAULT_ID, MemoryStore, check_readable, keep, writer_for

from holdfast.blocks import BlockReader, packformat
from holdfast.blocks.adopting import adopt_held
from holdfast.blocks.backends import PackBackend
from holdfast.blocks.backends.backend import pack_id_of
from holdfast.blocks.backends.memory import MemoryBackend, MemoryPack
from holdfast.blocks.manifest import Manifest, encode
from holdfast.blocks.packfile import PackWriter
from holdfast.blocks.packformat import RecordType
from holdfast.blocks.packs import Packs
from holdfast.blocks.recover import LeftPacks
from holdfast.errors import HoldfastError
from holdfast.testing import flip_bit
from holdfast.testing.backendfaults import BackendFault, FaultyBackend
from holdfast.values import Release, VersionEnd


@pytest.fixture
def written(tmp_path: Path) -> MemoryStore:
    """A store of several packs, whose manifests name blocks of others, and ends of versions in others."""
    memory = MemoryStore()
    for number in range(4):
        with writer_for(tmp_path, memory) as writer:
            first = keep(writer, b"same", b"the same bytes" * 50)
            keep(writer, b"own-%d" % number, bytes([number]) * 70_000)
            writer.barrier()
            writer.end(VersionEnd(first.id, 5))
            keep(writer, b"same", b"the same bytes" * 50, seen_ns=5 + number)
    return memory


def move(folder: Path, which: set[int]) -> MemoryBackend:
    """Some of the packs, by number, are on a backend."""
    backend = MemoryBackend()
    for number, path in enumerate(sorted(folder.glob("*.pack"))):
        pack_id = pack_id_of(path.name)
        assert pack_id is not None
        if number in which:
            assert backend.put(pack_id, MemoryPack(path.read_bytes()), lambda _: None)
            path.unlink()
    return backend


def adopt(
    folder: Path, backend: PackBackend, warnings: list[HoldfastError], vault_id: uuid.UUID = VAULT_ID
) -> MemoryStore:
    """All that is found, as an empty catalog would be told."""
    memory = MemoryStore()
    left = LeftPacks(folder, VAULT_ID, memory, memory)
    held = adopt_held(backend, left, vault_id=vault_id, known=memory, sink=memory, warn=warnings.append)
    assert memory.sealed == {}
    for pack in held:
        memory.pack_sealed(pack.pack_id, pack.size_bytes, pack.block_bytes)
    left.tell_sealed()
    return memory


@pytest.mark.parametrize("which", [set[int](), {0}, {3}, {0, 2}, {1, 3}, {0, 1, 2, 3}], ids=str)
def test_law_6_all_is_found_whatever_lies_where(tmp_path: Path, written: MemoryStore, which: set[int]) -> None:
    backend, warnings = move(tmp_path, which), list[HoldfastError]()
    found = adopt(tmp_path, backend, warnings)
    assert warnings == []
    assert found.facts() == written.facts()
    with BlockReader(Packs(tmp_path, lambda: backend), found) as reader:
        for stored in found.versions.values():
            assert sum(len(piece) for piece in reader.read(stored.segments)) == stored.version.size_bytes


def test_a_pack_in_both_places_is_taken_once(tmp_path: Path, written: MemoryStore) -> None:
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pack")}
    backend = move(tmp_path, {0, 1, 2, 3})
    for path, data in before.items():
        path.write_bytes(data)
    found = adopt(tmp_path, backend, [])
    assert found.facts() == written.facts()
    check_readable(tmp_path, found)


def test_packs_of_another_vault_are_left_alone(tmp_path: Path, written: MemoryStore) -> None:
    found = adopt(tmp_path, move(tmp_path, {0, 1, 2, 3}), [], vault_id=uuid.uuid4())
    assert found.facts() == MemoryStore().facts()


@pytest.mark.parametrize("where", ["superblock", "footer", "manifest"])
def test_law_7_what_cannot_be_believed_is_told_and_keeps_no_other_pack_from_being_taken(
    tmp_path: Path, written: MemoryStore, where: str
) -> None:
    path = tmp_path / f"{written.groups[-1].pack_id}.pack"  # no manifest of another pack names blocks of this one
    data = bytearray(path.read_bytes())
    footer = packformat.decode_footer(bytes(data[-packformat.FOOTER_BYTES :]))
    assert footer is not None
    manifest = data.index(b'{"is":"source"')
    at = {"superblock": 70, "footer": len(data) - 8, "manifest": manifest + 5}
    data[at[where]] ^= 1
    path.write_bytes(data)
    backend, warnings = move(tmp_path, {0, 1, 2, 3}), list[HoldfastError]()
    found = adopt(tmp_path, backend, warnings)
    assert len(warnings) == 1
    assert path.name in str(warnings[0].place)
    assert "holdfast rebuild" in str(warnings[0].hint)
    assert set(found.versions) < set(written.versions)
    assert found.versions
    assert all(place == written.blocks[locator] for locator, place in found.blocks.items())


def test_a_pack_whose_index_has_rotted_is_read_instead(tmp_path: Path, written: MemoryStore) -> None:
    path = tmp_path / f"{written.groups[-1].pack_id}.pack"
    footer = packformat.decode_footer(path.read_bytes()[-packformat.FOOTER_BYTES :])
    assert footer is not None
    flip_bit(path, footer.index_offset + 130)
    backend, warnings = move(tmp_path, {0, 1, 2, 3}), list[HoldfastError]()
    found = adopt(tmp_path, backend, warnings)
    assert (found.blocks, found.versions, warnings) == (written.blocks, written.versions, [])


def test_of_a_block_that_lies_twice_the_newest_counts(tmp_path: Path) -> None:
    """A repaired one lies in a newer pack than the one that rotted."""
    first, second = MemoryStore(), MemoryStore()
    for memory in (first, second):
        with writer_for(tmp_path, memory) as writer:
            keep(writer, b"file", b"x" * 70_000)
    backend = move(tmp_path, {0, 1})
    assert adopt(tmp_path, backend, []).blocks == second.blocks
    for held in backend.packs():
        pack = backend.open(held.pack_id)
        assert pack is not None
        with closing(pack):
            assert pack.size_bytes == held.size_bytes


def gathering(folder: Path, *manifests: Manifest) -> None:
    """A pack of names only, as a collection leaves it: those of others, and what was released."""
    pack = PackWriter(folder, vault_id=VAULT_ID, pack_id=uuid.uuid4(), created_ns=time.time_ns())
    for manifest in manifests:
        payload = encode(manifest)
        pack.append(RecordType.MANIFEST, blake3(payload).digest(), memoryview(payload))
    pack.seal()


@pytest.mark.parametrize("which", [{0}, {1}, {0, 1}], ids=str)
def test_versions_are_taken_one_by_one_and_those_of_released_contents_without_a_place(
    tmp_path: Path, which: set[int]
) -> None:
    """Of one manifest: a version whose block is there, one that was released, and one whose block is nowhere."""
    old, kept = MemoryStore(), MemoryStore()
    with writer_for(tmp_path, old) as writer:
        released = keep(writer, b"released", b"r" * 70_000)
        lost = keep(writer, b"lost", b"l" * 70_000)
    for path in tmp_path.glob("*.pack"):
        path.unlink()
    with writer_for(tmp_path, kept) as writer:
        there = keep(writer, b"there", b"t" * 70_000)
    assert released.content is not None
    named = [old.versions[item.id] for item in (released, lost)]
    gathering(
        tmp_path,
        Manifest((SOURCE,), (*named, kept.versions[there.id]), (VersionEnd(there.id, 9),)),
        Manifest((), (), (), (Release(released.content, 5),)),
    )
    found = adopt(tmp_path, move(tmp_path, which), [])
    assert {*found.versions} == {there.id, released.id}
    assert found.versions[released.id].segments == ()
    assert {*found.segments} == {there.content}
    assert found.released == {released.content}
    assert found.ends == {}  # they stand in a manifest of which a version is missing


def test_what_lies_in_the_blocks_of_each_pack_is_told(tmp_path: Path, written: MemoryStore) -> None:
    backend, told = move(tmp_path, {0, 1, 2, 3}), MemoryStore()
    held = adopt_held(
        backend,
        LeftPacks(tmp_path, VAULT_ID, told, told),
        vault_id=VAULT_ID,
        known=told,
        sink=told,
        warn=lambda _: None,
    )
    sizes = Counter[uuid.UUID]()
    for place in written.blocks.values():
        sizes[place.pack_id] += place.locator.size_bytes
    assert {item.pack_id: item.block_bytes for item in held} == sizes


@pytest.mark.parametrize("nth", range(1, 12))
def test_what_suffers_once_on_the_way_back_is_asked_once_more(tmp_path: Path, written: MemoryStore, nth: int) -> None:
    backend, warnings = FaultyBackend(move(tmp_path, {0, 1, 2, 3}), BackendFault("read", "flip", nth=nth)), []
    found = adopt(tmp_path, backend, warnings)
    assert (warnings, found.facts()) == ([], written.facts())
