"""The bytes of a pack. Pure: bytes in, facts out, and back; no files.

    superblock (4096 bytes) | record | record | ... | index record | footer (512 bytes)

All numbers are little-endian; every record starts on a multiple of 512 bytes, so that a scan can find the next good
one after damage. The index and the footer are there only in a sealed pack, and can always be made again by scanning.

    superblock   0 magic "HOLDFAST-PACK\\r\\n\\x1a" | 16 u32 format=1 | 20 u32 alignment=512 | 24 u32 piece=65536 | 28 u32 0
                32 vault id (16) | 48 pack id (16) | 64 u64 created, ns since 1970 | 72 zeros | 4064 BLAKE3 of 0..4064
    record       0 magic "HFRECORD" | 8 u8 type | 9 u8 1 | 10 u16 0 | 12 u32 pieces | 16 u64 payload length
                24 u64 number in this pack, from 0 | 32 pack id (16) | 48 BLAKE3 of the payload (32)
                80 u64 offset of this record | 88 u64 XXH3-64 of the piece table | 96 zeros | 120 u64 XXH3-64 of 0..120
               128 payload | piece table: u64 XXH3-64 of each 64 KiB of the payload | zeros to the next 512
    index        a record whose payload is, for each record before it: u8 type | 7 zeros | u64 offset | u64 payload
                length | BLAKE3 (32)
    footer       0 magic "HFPACKEND\\r\\n\\x1a" and zeros to 16 | 16 u64 offset of the index record | 24 u64 records
                32 pack id (16) | 48 zeros | 504 u64 XXH3-64 of 0..504

BLAKE3 names and proves a whole payload; the XXH3-64 of each piece lets a read of a few bytes be checked as well
(law 7) without reading the block.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from blake3 import blake3
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from holdfast.errors import IntegrityError
from holdfast.values import BLOCK_LIMIT_BYTES

PACK_FORMAT = 1
ALIGNMENT_BYTES = 512
PIECE_BYTES = 64 * 1024
SUPERBLOCK_BYTES = 4096
HEADER_BYTES = 128
RECORD_FORMAT = 1
FOOTER_BYTES = 512

PACK_MAGIC = b"HOLDFAST-PACK\r\n\x1a"
RECORD_MAGIC = b"HFRECORD"
FOOTER_MAGIC = b"HFPACKEND\r\n\x1a".ljust(16, b"\0")

_SUPERBLOCK = struct.Struct("<16s4I16s16sQ")
_HEADER = struct.Struct("<8sBBHIQQ16s32sQQ24xQ")
_HEADER_SUMMED = HEADER_BYTES - 8
_INDEX_ENTRY = struct.Struct("<B7xQQ32s")
_FOOTER = struct.Struct("<16sQQ16s")


class RecordType(IntEnum):
    """What a record's payload is."""

    BLOCK = 1
    MANIFEST = 2
    INDEX = 3


_OTHER_TYPES = (RecordType.MANIFEST, RecordType.INDEX)


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The head of a record; sizes and offsets in bytes."""

    type: RecordType
    payload_bytes: int
    number: int
    pack_id: uuid.UUID
    blake3: bytes
    offset_bytes: int
    table_sum: int

    @property
    def pieces(self) -> int:
        return piece_count(self.payload_bytes)

    @property
    def payload_offset(self) -> int:
        return self.offset_bytes + HEADER_BYTES

    @property
    def table_offset(self) -> int:
        return self.payload_offset + self.payload_bytes

    @property
    def end_offset(self) -> int:
        return self.offset_bytes + record_bytes(self.payload_bytes)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One record as the index of a sealed pack lists it."""

    type: RecordType
    offset_bytes: int
    payload_bytes: int
    blake3: bytes


@dataclass(frozen=True, slots=True)
class Superblock:
    """The first 4096 bytes of a pack."""

    vault_id: uuid.UUID
    pack_id: uuid.UUID
    created_ns: int


@dataclass(frozen=True, slots=True)
class Footer:
    """The last 512 bytes of a sealed pack."""

    index_offset: int
    records: int
    pack_id: uuid.UUID


def piece_count(payload_bytes: int) -> int:
    return -(-payload_bytes // PIECE_BYTES)


def aligned(size_bytes: int) -> int:
    """`size_bytes` rounded up to the alignment of records."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def record_bytes(payload_bytes: int) -> int:
    """The room that a record with such a payload takes, padding and piece table included."""
    return aligned(HEADER_BYTES + payload_bytes + 8 * piece_count(payload_bytes))


def encode_superblock(superblock: Superblock) -> bytes:
    head = _SUPERBLOCK.pack(
        PACK_MAGIC,
        PACK_FORMAT,
        ALIGNMENT_BYTES,
        PIECE_BYTES,
        0,
        superblock.vault_id.bytes,
        superblock.pack_id.bytes,
        superblock.created_ns,
    ).ljust(SUPERBLOCK_BYTES - 32, b"\0")
    return head + blake3(head).digest()


def decode_superblock(data: bytes) -> Superblock:
    """Raises `IntegrityError` when the bytes are not a whole superblock of a format that is known."""
    if len(data) != SUPERBLOCK_BYTES or not data.startswith(PACK_MAGIC):
        raise IntegrityError("not a pack", expected=repr(PACK_MAGIC), found=repr(data[:16]))
    if not is_whole_superblock(data):
        raise IntegrityError("damaged superblock", expected=data[-32:].hex(), found=blake3(data[:-32]).hexdigest())
    _, version, _, _, _, vault_id, pack_id, created_ns = _SUPERBLOCK.unpack_from(data)
    if version != PACK_FORMAT:
        raise IntegrityError("a pack of another format", expected=str(PACK_FORMAT), found=str(version))
    return Superblock(uuid.UUID(bytes=vault_id), uuid.UUID(bytes=pack_id), created_ns)


def is_whole_superblock(data: bytes) -> bool:
    """Whether these are the bytes that were written, of whatever format."""
    return len(data) == SUPERBLOCK_BYTES and blake3(data[:-32]).digest() == data[-32:]


def piece_table(payload: memoryview) -> bytes:
    """The XXH3-64 of each 64 KiB of `payload`, little-endian, one after the other."""
    # the library's digest is big-endian by its canonical form; the format is little-endian throughout
    return b"".join(
        xxh3_64_digest(payload[start : start + PIECE_BYTES])[::-1] for start in range(0, len(payload), PIECE_BYTES)
    )


def piece_table_of(parts: Sequence[memoryview]) -> bytes:
    """The piece table of the payload that `parts` are together; each but the last must be whole pieces."""
    if any(len(part) % PIECE_BYTES for part in parts[:-1]):
        raise ValueError(f"a part that does not end with a piece of {PIECE_BYTES} bytes")
    return b"".join(map(piece_table, parts))


def piece_sum(piece: memoryview) -> bytes:
    """The entry of the piece table that `piece` must have."""
    return xxh3_64_digest(piece)[::-1]


def encode_header(
    kind: RecordType, digest: bytes, payload_bytes: int, table: bytes, *, pack_id: uuid.UUID, number: int, offset: int
) -> bytes:
    head = _HEADER.pack(
        RECORD_MAGIC,
        kind,
        RECORD_FORMAT,
        0,
        piece_count(payload_bytes),
        payload_bytes,
        number,
        pack_id.bytes,
        digest,
        offset,
        xxh3_64_intdigest(table),
        0,
    )
    return head[:_HEADER_SUMMED] + xxh3_64_digest(head[:_HEADER_SUMMED])[::-1]


def decode_header(data: bytes, *, pack_id: uuid.UUID, offset: int) -> RecordHeader:
    """Read the 128 bytes found at `offset` of pack `pack_id`.

    Raises `IntegrityError` when they are damaged, belong to another pack or another place, or are of no known kind.
    """
    if len(data) != HEADER_BYTES or not data.startswith(RECORD_MAGIC):
        raise IntegrityError("no record here", expected=repr(RECORD_MAGIC), found=repr(data[:8]))
    if xxh3_64_digest(data[:_HEADER_SUMMED])[::-1] != data[_HEADER_SUMMED:]:
        raise IntegrityError("damaged record header")
    _, kind, version, _, pieces, payload_bytes, number, owner, digest, own_offset, table_sum, _ = _HEADER.unpack(data)
    if owner != pack_id.bytes or own_offset != offset:
        raise IntegrityError(
            "a record of another place", expected=f"{pack_id} at {offset}", found=f"{uuid.UUID(bytes=owner)}"
        )
    possible = 0 < payload_bytes <= BLOCK_LIMIT_BYTES if kind == RecordType.BLOCK else kind in _OTHER_TYPES
    if version != RECORD_FORMAT or not possible or pieces != piece_count(payload_bytes):
        found = f"type {kind}, format {version}, {payload_bytes} bytes in {pieces} pieces"
        raise IntegrityError("a record of a form that is not known", found=found)
    return RecordHeader(RecordType(kind), payload_bytes, number, pack_id, digest, offset, table_sum)


def check_table(header: RecordHeader, table: bytes) -> None:
    """Raise `IntegrityError` unless `table` is the piece table that belongs to `header`."""
    if len(table) != 8 * header.pieces or xxh3_64_intdigest(table) != header.table_sum:
        raise IntegrityError("damaged piece table of a record")


def encode_index(entries: Iterable[IndexEntry]) -> bytes:
    return b"".join(_INDEX_ENTRY.pack(e.type, e.offset_bytes, e.payload_bytes, e.blake3) for e in entries)


def decode_index(payload: bytes) -> Iterator[IndexEntry]:
    for kind, offset, payload_bytes, digest in _INDEX_ENTRY.iter_unpack(payload):
        yield IndexEntry(RecordType(kind), offset, payload_bytes, digest)


def encode_footer(footer: Footer) -> bytes:
    head = _FOOTER.pack(FOOTER_MAGIC, footer.index_offset, footer.records, footer.pack_id.bytes)
    head = head.ljust(FOOTER_BYTES - 8, b"\0")
    return head + xxh3_64_digest(head)[::-1]


def decode_footer(data: bytes) -> Footer | None:
    """The footer, or None when the bytes are none: then the pack is not sealed."""
    if len(data) != FOOTER_BYTES or xxh3_64_digest(data[:-8])[::-1] != data[-8:]:
        return None
    magic, index_offset, records, pack_id = _FOOTER.unpack_from(data)
    return Footer(index_offset, records, uuid.UUID(bytes=pack_id)) if magic == FOOTER_MAGIC else None
