"""The bytes of a pack: they must never drift, and damage must never pass."""

from __future__ import annotations

import hashlib
import os
import struct
import uuid
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.blocks.kit import VAULT_ID
from xxhash import xxh3_64_intdigest

from holdfast.blocks import packfile, packformat
from holdfast.blocks.packfile import PackReader, PackWriter
from holdfast.blocks.packformat import Footer, IndexEntry, RecordType, Superblock
from holdfast.errors import IntegrityError
from holdfast.values import BlockPlace, Locator

PACK_ID = uuid.UUID("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
BLOCK = bytes(range(256)) * 300  # 76,800 bytes: two pieces, the second one short
MANIFEST = b'{"is":"version"}\n'
CREATED_NS = 1_700_000_000_123_456_789


def write_golden(folder: Path, *, sealed: bool = True) -> Path:
    writer = PackWriter(folder, vault_id=VAULT_ID, pack_id=PACK_ID, created_ns=CREATED_NS)
    writer.append(RecordType.BLOCK, blake3(BLOCK).digest(), memoryview(BLOCK))
    writer.append(RecordType.MANIFEST, blake3(MANIFEST).digest(), memoryview(MANIFEST))
    if sealed:
        writer.seal()
    writer.close()
    return writer.path


def golden_place() -> BlockPlace:
    return BlockPlace(Locator(blake3(BLOCK).digest(), len(BLOCK)), PACK_ID, 4096)


# What stands here is format 1 for ever: a change of any of it is a new format, with a reader for both.
GOLDEN_BYTES = 82944
GOLDEN_SHA256 = "f41aba116ccd078f9f39a0cf5dee943da571c990ddabd396db0735587a870eae"
GOLDEN_PARTS = {
    "superblock": (0, 4096, "24c6c33de68a429dd48baa47a0c419f9"),
    "block record": (4096, 81408, "be0d1b8526650c304127e038cc7ce8e2"),
    "manifest record": (81408, 81920, "aec74688cf3814a514b716b606b0a792"),
    "index record": (81920, 82432, "037aba75a8b2759ed4c93fedb0b0c744"),
    "footer": (82432, 82944, "7a0fbd90bf9d2d0d209f5d0e40cbe075"),
}
GOLDEN_BLOCK_HEADER = (
    "48465245434f52440101000002000000002c0100000000000000000000000000"
    "aaaaaaaabbbb4ccc8dddeeeeeeeeeeee541e436ef3da83be3c875163929ad965"
    "989bd0592e268bcc0c785bff05bc101f00100000000000008eed8fe545fe964c"
    "0000000000000000000000000000000000000000000000002a5fb25975a81857"
)


def test_golden_pack_bytes_do_not_drift(tmp_path: Path) -> None:
    data = write_golden(tmp_path).read_bytes()
    parts = {
        name: (start, end, hashlib.sha256(data[start:end]).hexdigest()[:32])
        for name, (start, end, _) in GOLDEN_PARTS.items()
    }
    assert parts == GOLDEN_PARTS
    assert (len(data), hashlib.sha256(data).hexdigest()) == (GOLDEN_BYTES, GOLDEN_SHA256)
    assert data[4096 : 4096 + 128].hex() == GOLDEN_BLOCK_HEADER


def test_golden_pack_is_what_the_page_says(tmp_path: Path) -> None:
    """Read with `struct` alone, by the offsets that the module's text gives."""
    data = write_golden(tmp_path).read_bytes()
    assert data[:16] == b"HOLDFAST-PACK\r\n\x1a"
    assert struct.unpack_from("<4I", data, 16) == (1, 512, 65536, 0)
    assert data[32:64] == VAULT_ID.bytes + PACK_ID.bytes
    assert struct.unpack_from("<Q", data, 64) == (CREATED_NS,)
    assert data[72:4064] == bytes(3992)
    assert data[4064:4096] == blake3(data[:4064]).digest()

    head = data[4096 : 4096 + 128]
    assert head[:8] == b"HFRECORD"
    assert struct.unpack_from("<BBHIQQ", head, 8) == (1, 1, 0, 2, len(BLOCK), 0)
    assert head[32:48] == PACK_ID.bytes
    assert head[48:80] == blake3(BLOCK).digest()
    table = data[4096 + 128 + len(BLOCK) : 4096 + 128 + len(BLOCK) + 16]
    assert struct.unpack_from("<QQ", head, 80) == (4096, xxh3_64_intdigest(table))
    assert head[96:120] == bytes(24)
    assert struct.unpack_from("<Q", head, 120) == (xxh3_64_intdigest(head[:120]),)
    assert data[4096 + 128 :].startswith(BLOCK)
    assert struct.unpack("<2Q", table) == (xxh3_64_intdigest(BLOCK[:65536]), xxh3_64_intdigest(BLOCK[65536:]))

    footer = data[-512:]
    index_offset, records = struct.unpack_from("<QQ", footer, 16)
    assert footer[:16] == b"HFPACKEND\r\n\x1a".ljust(16, b"\0")
    assert records == 2
    assert footer[32:48] == PACK_ID.bytes
    assert footer[48:504] == bytes(456)
    assert struct.unpack_from("<Q", footer, 504) == (xxh3_64_intdigest(footer[:504]),)
    entry = struct.unpack_from("<B7xQQ32s", data, index_offset + 128)
    assert entry == (1, 4096, len(BLOCK), blake3(BLOCK).digest())


ids = st.uuids()
numbers = st.integers(0, 2**64 - 1)


@given(ids, ids, numbers)
def test_superblock_round_trip(vault_id: uuid.UUID, pack_id: uuid.UUID, created_ns: int) -> None:
    superblock = Superblock(vault_id, pack_id, created_ns)
    data = packformat.encode_superblock(superblock)
    assert len(data) == packformat.SUPERBLOCK_BYTES
    assert packformat.decode_superblock(data) == superblock


@given(st.binary(max_size=200_000), st.sampled_from([RecordType.BLOCK, RecordType.MANIFEST]), ids, numbers, numbers)
@settings(max_examples=40)
def test_header_round_trip(payload: bytes, kind: RecordType, pack_id: uuid.UUID, number: int, offset: int) -> None:
    payload = payload or b"x"
    table = packformat.piece_table(memoryview(payload))
    digest = blake3(payload).digest()
    data = packformat.encode_header(kind, digest, len(payload), table, pack_id=pack_id, number=number, offset=offset)
    header = packformat.decode_header(data, pack_id=pack_id, offset=offset)
    assert (header.type, header.payload_bytes, header.number, header.blake3) == (kind, len(payload), number, digest)
    packformat.check_table(header, table)
    assert header.end_offset % 512 == offset % 512
    assert header.end_offset - header.table_offset >= len(table)


@given(
    st.lists(st.builds(IndexEntry, st.sampled_from(RecordType), numbers, numbers, st.binary(min_size=32, max_size=32)))
)
def test_index_round_trip(entries: list[IndexEntry]) -> None:
    assert list(packformat.decode_index(packformat.encode_index(entries))) == entries


@given(numbers, numbers, ids)
def test_footer_round_trip(index_offset: int, records: int, pack_id: uuid.UUID) -> None:
    footer = Footer(index_offset, records, pack_id)
    assert packformat.decode_footer(packformat.encode_footer(footer)) == footer


@given(st.integers(0, packformat.FOOTER_BYTES * 8 - 1))
def test_law_7_a_flipped_bit_makes_a_footer_none(bit: int) -> None:
    data = flipped(packformat.encode_footer(Footer(4096, 3, PACK_ID)), bit)
    assert packformat.decode_footer(data) is None


@given(st.integers(0, packformat.SUPERBLOCK_BYTES * 8 - 1))
@settings(max_examples=50)
def test_law_7_a_flipped_bit_makes_a_superblock_damaged(bit: int) -> None:
    data = flipped(packformat.encode_superblock(Superblock(VAULT_ID, PACK_ID, 7)), bit)
    with pytest.raises(IntegrityError):
        packformat.decode_superblock(data)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def remade_header(**changes: int) -> bytes:
    """A whole header whose checksum is right, with fields that no writer of this release puts there."""
    table = packformat.piece_table(memoryview(BLOCK))
    fields = {"kind": 1, "format": 1, "pieces": 2, "payload": len(BLOCK)} | changes
    head = struct.pack(
        "<8sBBHIQQ16s32sQQ24x",
        b"HFRECORD",
        fields["kind"],
        fields["format"],
        0,
        fields["pieces"],
        fields["payload"],
        0,
        PACK_ID.bytes,
        blake3(BLOCK).digest(),
        4096,
        xxh3_64_intdigest(table),
    )
    return head + struct.pack("<Q", xxh3_64_intdigest(head))


def test_a_remade_header_is_the_real_one() -> None:
    packformat.decode_header(remade_header(), pack_id=PACK_ID, offset=4096)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 0},
        {"kind": 9},
        {"format": 2},
        {"pieces": 3},
        {"payload": 0, "pieces": 0},
        {"payload": 2**26 + 1, "pieces": 1025},
        {"payload": 2**63, "pieces": 0},
    ],
)
def test_a_record_of_a_form_that_is_not_known_is_refused_not_misread(changes: dict[str, int]) -> None:
    with pytest.raises(IntegrityError):
        packformat.decode_header(remade_header(**changes), pack_id=PACK_ID, offset=4096)


@pytest.mark.parametrize(("pack_id", "offset"), [(VAULT_ID, 4096), (PACK_ID, 4608)])
def test_law_7_a_record_of_another_place_is_refused(pack_id: uuid.UUID, offset: int) -> None:
    with pytest.raises(IntegrityError, match="another place"):
        packformat.decode_header(remade_header(), pack_id=pack_id, offset=offset)


# -- every bit


def interesting_bits() -> list[int]:
    """Every bit of header and table of the first record, one of each 401 payload bytes, and of what comes behind."""
    record = range(4096 * 8, (4096 + 128) * 8)
    payload = range((4096 + 128) * 8, (4096 + 128 + len(BLOCK)) * 8, 401 * 8 + 1)
    table = range((4096 + 128 + len(BLOCK)) * 8, (4096 + 128 + len(BLOCK) + 16) * 8)
    manifest = range(81408 * 8, (81408 + 128 + len(MANIFEST) + 8) * 8, 7)
    return [*record, *payload, *table, *manifest]


def test_law_7_no_flipped_bit_of_a_pack_passes(tmp_path: Path) -> None:
    path = write_golden(tmp_path, sealed=False)
    whole = path.read_bytes()
    place = golden_place()
    descriptor = os.open(path, os.O_RDWR)
    try:
        for bit in interesting_bits():
            byte, mask = divmod(bit, 8)
            os.pwrite(descriptor, bytes([whole[byte] ^ 1 << mask]), byte)
            in_block = byte < 81408
            found = [record.header.type for record in packfile.scan_pack(descriptor, PACK_ID)]
            assert found == [RecordType.MANIFEST] if in_block else found == [RecordType.BLOCK], byte
            if in_block:
                assert_detected(tmp_path, place, byte)
            os.pwrite(descriptor, whole[byte : byte + 1], byte)
        found = [record.header.type for record in packfile.scan_pack(descriptor, PACK_ID)]
        assert found == [RecordType.BLOCK, RecordType.MANIFEST]
    finally:
        os.close(descriptor)


def assert_detected(folder: Path, place: BlockPlace, byte: int) -> None:
    reader = PackReader(folder)
    try:
        start = byte - 4096 - 128
        in_payload = 0 <= start < len(BLOCK)
        offset = start if in_payload else 5
        with pytest.raises(IntegrityError) as caught:
            reader.read(place, offset, 1)
        assert str(PACK_ID) in str(caught.value)
        assert str(place.locator) in str(caught.value)
        other = 70_000 if start < 65_536 else 5
        if in_payload:  # the other piece is as it was, and is given
            assert reader.read(place, other, 10) == BLOCK[other : other + 10]
    finally:
        reader.close()
