"""Pack files: appending, reading pieces, scanning, and letting go of every descriptor."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.blocks.kit import VAULT_ID

from holdfast import durable
from holdfast.blocks import packfile
from holdfast.blocks.packfile import PackReader, PackWriter
from holdfast.blocks.packformat import RecordType
from holdfast.errors import CapacityError, IntegrityError
from holdfast.testing import flip_bit
from holdfast.values import BlockPlace, Locator


def new_writer(folder: Path, pack_id: uuid.UUID | None = None) -> PackWriter:
    return PackWriter(folder, vault_id=VAULT_ID, pack_id=pack_id or uuid.uuid4(), created_ns=1)


def append_block(writer: PackWriter, data: bytes) -> BlockPlace:
    locator = Locator(blake3(data).digest(), len(data))
    offset = writer.append(RecordType.BLOCK, locator.blake3, memoryview(data))
    return BlockPlace(locator, writer.pack_id, offset)


def open_descriptors() -> set[str]:
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass
    return {target for target in found if target.endswith(".pack")}


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[PackReader]:
    reader = PackReader(tmp_path)
    yield reader
    reader.close()


def test_every_piece_of_every_record_reads_back(tmp_path: Path) -> None:
    blocks = [os.urandom(size) for size in (1, 511, 65_535, 65_536, 65_537, 200_000)]
    writer = new_writer(tmp_path)
    places = [append_block(writer, data) for data in blocks]
    writer.seal()
    reader = PackReader(tmp_path)

    @given(st.integers(0, len(blocks) - 1), st.data())
    @settings(max_examples=200)
    def check(which: int, draw: st.DataObject) -> None:
        data = blocks[which]
        start = draw.draw(st.integers(0, len(data) - 1))
        length = draw.draw(st.integers(0, len(data) - start))
        assert bytes(reader.read(places[which], start, length)) == data[start : start + length]

    check()
    reader.close()
    assert not open_descriptors()


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 11), (10, 1), (0, -1)])
def test_bytes_that_a_block_has_not_are_not_given(tmp_path: Path, reader: PackReader, offset: int, length: int) -> None:
    writer = new_writer(tmp_path)
    place = append_block(writer, b"0123456789")
    writer.close()
    with pytest.raises(ValueError, match="block b3:"):
        reader.read(place, offset, length)


def test_law_7_a_block_under_the_name_of_another_is_refused(tmp_path: Path, reader: PackReader) -> None:
    writer = new_writer(tmp_path)
    place = append_block(writer, b"what is there")
    writer.close()
    other = BlockPlace(Locator(blake3(b"what was want").digest(), 13), place.pack_id, place.offset_bytes)
    with pytest.raises(IntegrityError) as caught:
        reader.read(other, 0, 1)
    assert (caught.value.expected, caught.value.found) == (str(other.locator), str(place.locator))
    assert caught.value.hint


def test_law_7_a_pack_that_is_cut_off_or_gone_is_named(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    place = append_block(writer, bytes(100_000))
    writer.close()
    for size in (4096 + 128 + 70_000, 4096 + 100, 100):
        os.truncate(writer.path, size)
        reader = PackReader(tmp_path)
        with pytest.raises(IntegrityError, match=writer.path.name):
            reader.read(place, 66_000, 20_000)
        reader.close()
    writer.path.unlink()
    reader = PackReader(tmp_path)
    with pytest.raises(IntegrityError, match="cannot be opened") as caught:
        reader.read(place, 0, 1)
    assert caught.value.place == str(writer.path)
    reader.close()


@pytest.mark.parametrize("good_calls", [0, 1, 2], ids=["header", "table", "payload"])
def test_law_7_what_the_disk_cannot_read_is_damage_by_name(
    tmp_path: Path, reader: PackReader, monkeypatch: pytest.MonkeyPatch, good_calls: int
) -> None:
    writer = new_writer(tmp_path)
    place = append_block(writer, b"here")
    writer.close()

    preadv, left = os.preadv, iter(range(good_calls))

    def fails(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if next(left, None) is not None:
            return preadv(descriptor, buffers, offset)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(IntegrityError, match=str(place.locator)[:20]) as caught:
        reader.read(place, 0, 4)
    assert caught.value.found == "Input/output error"


def test_law_9_many_packs_keep_few_descriptors_open(tmp_path: Path, reader: PackReader) -> None:
    places: list[BlockPlace] = []
    for number in range(3 * PackReader.OPEN_PACKS):
        writer = new_writer(tmp_path)
        places.append(append_block(writer, b"%d" % number))
        writer.close()
    for _ in range(2):
        for number, place in enumerate(places):
            assert bytes(reader.read(place, 0, place.locator.size_bytes)) == b"%d" % number
            assert len(open_descriptors()) <= PackReader.OPEN_PACKS


def test_a_scan_passes_over_damage_and_reads_the_rest(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    places = [append_block(writer, bytes([number]) * 3000) for number in range(5)]
    writer.close()
    descriptor = os.open(writer.path, os.O_RDWR)
    os.pwrite(descriptor, b"\xff", places[1].offset_bytes + 500)  # payload
    os.pwrite(descriptor, b"\xff", places[3].offset_bytes + 100)  # header
    found = [record.place() for record in packfile.scan_pack(descriptor, writer.pack_id)]
    os.close(descriptor)
    assert found == [places[0], places[2], places[4]]


def test_a_scan_passes_over_what_the_disk_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = new_writer(tmp_path)
    places = [append_block(writer, bytes([number]) * 3000) for number in range(3)]
    writer.close()
    real = os.pread

    def fails(descriptor: int, count: int, offset: int) -> bytes:
        if places[1].offset_bytes <= offset < places[2].offset_bytes:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", fails)
    descriptor = os.open(writer.path, os.O_RDWR)
    found = [record.place() for record in packfile.scan_pack(descriptor, writer.pack_id)]
    os.close(descriptor)
    assert found == [places[0], places[2]]


def test_a_stored_copy_of_a_pack_is_not_taken_for_the_pack(tmp_path: Path) -> None:
    """Somebody archives a vault: its packs lie, 512 aligned or not, within blocks of ours."""
    inner = new_writer(tmp_path)
    append_block(inner, b"inner" * 1000)
    inner.seal()
    outer = new_writer(tmp_path)
    copy = append_block(outer, bytes(512 - 128) + inner.path.read_bytes())  # so that its records are aligned
    outer.close()
    descriptor = os.open(outer.path, os.O_RDWR)
    os.pwrite(descriptor, b"\xff", copy.offset_bytes + 130)  # the block is damaged: the scan looks inside
    assert list(packfile.scan_pack(descriptor, outer.pack_id)) == []
    os.close(descriptor)


def test_law_10_a_pack_has_one_owner(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    descriptor = os.open(writer.path, os.O_RDWR)
    assert not packfile.own_pack(descriptor)
    writer.close()
    assert packfile.own_pack(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("failing", ["write_all", "sync_file"])
def test_a_pack_that_cannot_be_begun_or_sealed_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = new_writer(tmp_path)
    append_block(writer, b"data")
    monkeypatch.setattr(durable, failing, full)
    with pytest.raises(CapacityError) as caught:
        writer.seal()
    assert caught.value.place == str(writer.path)
    if failing == "write_all":
        with pytest.raises(CapacityError):
            new_writer(tmp_path)
    assert not open_descriptors()


def test_a_pack_is_never_made_over_a_file(tmp_path: Path) -> None:
    pack_id = uuid.uuid4()
    path = packfile.pack_path(tmp_path, pack_id)
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        new_writer(tmp_path, pack_id)
    assert path.read_bytes() == b"precious"


def test_a_short_write_of_the_kernel_is_completed(
    tmp_path: Path, reader: PackReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def short(descriptor: int, parts: list[memoryview]) -> int:
        return real(descriptor, [b"".join(parts)[:200]])

    monkeypatch.setattr(os, "writev", short)
    writer = new_writer(tmp_path)
    data = os.urandom(70_000)
    place = append_block(writer, data)
    second = append_block(writer, b"next")
    writer.seal()
    assert bytes(reader.read(place, 0, len(data))) == data
    assert bytes(reader.read(second, 0, 4)) == b"next"


def test_a_damaged_index_is_made_up_for_by_records_that_are_all_there(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path, vault_id=uuid.uuid4(), pack_id=uuid.uuid4(), created_ns=1)
    for number in range(3):
        payload = bytes([number]) * 70_000
        writer.append(RecordType.BLOCK, blake3(payload).digest(), memoryview(payload))
    index_offset = writer.size_bytes
    writer.seal()
    with writer.path.open("r+b") as file:
        whole = packfile.list_records(file.fileno(), writer.pack_id)
        assert whole == packfile.read_index(file.fileno(), writer.pack_id)
        assert len(whole) == 3
    flip_bit(writer.path, index_offset + 200)
    with writer.path.open("rb") as file:
        with pytest.raises(IntegrityError, match="damaged index"):
            packfile.read_index(file.fileno(), writer.pack_id)
        assert packfile.list_records(file.fileno(), writer.pack_id) == whole
    flip_bit(writer.path, whole[1].offset_bytes + 5000)
    with writer.path.open("rb") as file, pytest.raises(IntegrityError, match="damaged index"):
        packfile.list_records(file.fileno(), writer.pack_id)


def test_a_pack_that_cannot_be_begun_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_all(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(durable, "write_all", write_all)
    with pytest.raises(CapacityError, match="the disk is full"):
        PackWriter(tmp_path, vault_id=VAULT_ID, pack_id=uuid.uuid4(), created_ns=1)
    assert list(tmp_path.iterdir()) == []
