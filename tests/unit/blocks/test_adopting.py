"""Filling an empty index again from packs on a backend: as from the local disk, and never from what cannot be believed."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.blocks.kit import VAULT_ID, MemoryStore, check_readable, keep, writer_for

from holdfast.blocks import BlockReader, packformat
from holdfast.blocks.adopting import adopt_held
from holdfast.blocks.backends.backend import pack_id_of
from holdfast.blocks.backends.memory import MemoryBackend, MemoryPack
from holdfast.blocks.packs import Packs
from holdfast.blocks.recover import LeftPacks
from holdfast.errors import HoldfastError
from holdfast.values import VersionEnd


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
    folder: Path, backend: MemoryBackend, warnings: list[HoldfastError], vault_id: uuid.UUID = VAULT_ID
) -> MemoryStore:
    """All that is found, as an empty catalog would be told."""
    memory = MemoryStore()
    left = LeftPacks(folder, memory, memory)
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


@pytest.mark.parametrize("where", ["superblock", "footer", "index", "manifest"])
def test_law_7_what_cannot_be_believed_is_told_and_keeps_no_other_pack_from_being_taken(
    tmp_path: Path, written: MemoryStore, where: str
) -> None:
    path = tmp_path / f"{written.groups[-1].pack_id}.pack"  # no manifest of another pack names blocks of this one
    data = bytearray(path.read_bytes())
    footer = packformat.decode_footer(bytes(data[-packformat.FOOTER_BYTES :]))
    assert footer is not None
    manifest = data.index(b'{"is":"source"')
    at = {"superblock": 70, "footer": len(data) - 8, "index": footer.index_offset + 130, "manifest": manifest + 5}[
        where
    ]
    data[at] ^= 1
    path.write_bytes(data)
    backend, warnings = move(tmp_path, {0, 1, 2, 3}), list[HoldfastError]()
    found = adopt(tmp_path, backend, warnings)
    assert len(warnings) == 1
    assert path.name in str(warnings[0].place)
    assert "holdfast rebuild" in str(warnings[0].hint)
    assert set(found.versions) < set(written.versions)
    assert found.versions
    assert all(place == written.blocks[locator] for locator, place in found.blocks.items())


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
