"""Other records of a block, and laying one down again: nothing is left of what nobody was told of."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import pytest
from blake3 import blake3
from tests.unit.blocks.kit import VAULT_ID

from holdfast.blocks.backends.memory import MemoryBackend, MemoryPack
from holdfast.blocks.mend import RepairPack, whole_copies
from holdfast.blocks.packfile import PackWriter
from holdfast.blocks.packformat import RecordType
from holdfast.blocks.packs import Packs
from holdfast.errors import CapacityError, IntegrityError
from holdfast.testing import flip_bit
from holdfast.testing.backendfaults import BackendFault, FaultyBackend
from holdfast.values import BlockPlace, Locator

DATA = os.urandom(100_000)
LOCATOR = Locator(blake3(DATA).digest(), len(DATA))


def new_pack(folder: Path, *blocks: bytes, sealed: bool = True) -> PackWriter:
    writer = PackWriter(folder, vault_id=VAULT_ID, pack_id=uuid.uuid4(), created_ns=1)
    for data in blocks:
        writer.append(RecordType.BLOCK, blake3(data).digest(), memoryview(data))
    if sealed:
        writer.seal()
    writer.close()
    return writer


def copies(folder: Path) -> list[tuple[BlockPlace, int]]:
    return list(whole_copies(Packs(folder), VAULT_ID, {LOCATOR}, lambda: None))


def test_a_whole_record_is_found_in_any_pack_and_told_once(tmp_path: Path) -> None:
    damaged, whole = new_pack(tmp_path, DATA), new_pack(tmp_path, b"other" * 1000, DATA, b"third")
    flip_bit(damaged.path, 4096 + 1000)
    ((place, size_bytes),) = copies(tmp_path)
    assert (place.locator, place.pack_id, size_bytes) == (LOCATOR, whole.pack_id, whole.path.stat().st_size)
    new_pack(tmp_path, DATA)
    assert len(copies(tmp_path)) == 1


def test_packs_that_tell_nothing_are_passed_over(tmp_path: Path) -> None:
    new_pack(tmp_path, DATA, sealed=False)
    cut, bad_index = new_pack(tmp_path, DATA), new_pack(tmp_path, DATA)
    os.truncate(cut.path, 5000)
    flip_bit(bad_index.path, bad_index.path.stat().st_size - 512 - 512 + 10)
    (tmp_path / "x.pack").write_bytes(b"not ours")
    (tmp_path / f"{uuid.uuid4()}.pack").symlink_to("nowhere")
    assert copies(tmp_path) == []


@pytest.mark.parametrize("call", ["", "packs", "open", "read"])
def test_a_whole_record_is_found_elsewhere_too_unless_that_place_cannot_be_reached(tmp_path: Path, call: str) -> None:
    damaged, whole = new_pack(tmp_path, DATA), new_pack(tmp_path, DATA)
    flip_bit(damaged.path, 4096 + 1000)
    faulty = FaultyBackend(MemoryBackend(), *([BackendFault(call, count=None)] if call else []))
    faulty.inner.put(whole.pack_id, MemoryPack(whole.path.read_bytes()), lambda _: None)
    whole.path.unlink()
    found = list(whole_copies(Packs(tmp_path, lambda: faulty), VAULT_ID, {LOCATOR}, lambda: None))
    assert [place.pack_id for place, _ in found] == ([] if call else [whole.pack_id])
    new_pack(tmp_path, DATA)
    calls = dict(faulty.calls)
    assert len(list(whole_copies(Packs(tmp_path, lambda: faulty), VAULT_ID, {LOCATOR}, lambda: None))) == 1
    assert faulty.calls == calls  # what is here is enough


def test_a_record_in_a_pack_of_another_vault_is_no_copy(tmp_path: Path) -> None:
    """That vault may give it up whenever it likes."""
    (tmp_path / "shelf").mkdir()
    shelf = MemoryBackend()
    for vault_id in (uuid.uuid4(), VAULT_ID):
        pack = PackWriter(tmp_path / "shelf", vault_id=vault_id, pack_id=uuid.uuid4(), created_ns=1)
        pack.append(RecordType.BLOCK, LOCATOR.blake3, memoryview(DATA))
        pack.seal()
        shelf.put(pack.pack_id, MemoryPack(pack.path.read_bytes()), lambda _: None)
        found = list(whole_copies(Packs(tmp_path, lambda: shelf), VAULT_ID, {LOCATOR}, lambda: None))
        assert [place.pack_id for place, _ in found] == ([pack.pack_id] if vault_id == VAULT_ID else [])


def test_a_block_is_told_when_it_is_durable(tmp_path: Path) -> None:
    told: list[tuple[BlockPlace, int]] = []
    pack = RepairPack(tmp_path, VAULT_ID, lambda *what: told.append(what))
    with pytest.raises(IntegrityError, match="put together"):
        pack.add(LOCATOR, bytearray(len(DATA)))
    assert pack.seal() is None
    assert list(tmp_path.iterdir()) == []
    pack.add(LOCATOR, bytearray(DATA))
    sealed = pack.seal()
    pack.close()
    assert sealed is not None
    assert [place for place, _ in copies(tmp_path)] == [place for place, _ in told]


@pytest.mark.parametrize("room", [0, 1000, 50_000])
def test_a_pack_that_the_disk_has_no_room_for_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    def full(descriptor: int, data: memoryview | bytes) -> None:
        if len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.write(descriptor, data)

    monkeypatch.setattr("holdfast.durable.write_all", full)
    monkeypatch.setattr("holdfast.blocks.packfile.os.writev", lambda descriptor, parts: os.write(descriptor, parts[0]))
    pack = RepairPack(tmp_path, VAULT_ID, lambda *_: None)
    with pytest.raises(CapacityError):
        pack.add(LOCATOR, bytearray(DATA))
    pack.close()
    assert list(tmp_path.iterdir()) == []


def test_a_pack_of_which_something_was_told_stays(tmp_path: Path) -> None:
    def failed(*_: object) -> None:
        raise OSError(errno.EIO, "told, perhaps")

    pack = RepairPack(tmp_path, VAULT_ID, failed)
    with pytest.raises(OSError, match="perhaps"):
        pack.add(LOCATOR, bytearray(DATA))
    pack.close()
    assert len(list(tmp_path.iterdir())) == 1
