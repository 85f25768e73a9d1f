"""Reading the blocks of a pack back, all of them, and telling which of their bytes are not as they were written."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blake3 import blake3

from holdfast.blocks import packformat
from holdfast.blocks.backends import OpenPack
from holdfast.blocks.packfile import read_bytes, read_header
from holdfast.blocks.packformat import RecordHeader
from holdfast.blocks.packs import Packs
from holdfast.errors import IntegrityError
from holdfast.values import BlockPlace

LOST = (errno.ENOENT, errno.EIO)
"""What a pack that is lost is opened with; or one whose disk is away."""
Range = tuple[int, int]
"""Bytes of a block: from the first number to before the second."""


@dataclass(frozen=True, slots=True)
class DamagedBlock:
    """A block that is not as it was written: which of its bytes are not, and in words why.

    `bad` is empty where all bytes are good, and only the record around them is not.
    """

    place: BlockPlace
    bad: tuple[Range, ...]
    problem: str


def scrub_pack(
    packs: Packs, pack_id: uuid.UUID, places: Iterable[BlockPlace]
) -> Iterator[tuple[int, DamagedBlock | None]]:
    """Read each block of a pack in full, in the order given; how many bytes it has, and what is wrong with it.

    Pages are dropped before, so that the disk is asked and not the memory. Raises OSError when the pack cannot be opened,
    or is missing: what cannot be looked at is not known to be damaged; and `BackendError` when the place where it may be
    cannot be reached.
    """
    with opened_pack(packs, pack_id) as pack:
        for place in places:
            yield place.locator.size_bytes, look_at_block(pack, place)[1]


@contextmanager
def opened_pack(packs: Packs, pack_id: uuid.UUID) -> Generator[OpenPack, None, None]:
    """A pack, to be read from the disk, or from where it was moved to; raises as `Packs.open` does."""
    pack = packs.open(pack_id, from_medium=True)
    try:
        yield pack
    finally:
        pack.close()


def lost_block(place: BlockPlace, why: str) -> DamagedBlock:
    """A block of a pack that is lost for good: nothing of it is left."""
    return DamagedBlock(place, ((0, place.locator.size_bytes),), f"its pack: {why}")


def look_at_block(pack: OpenPack, place: BlockPlace) -> tuple[bytearray, DamagedBlock | None]:
    """The payload of a block as the medium gives it, zeros where it gives nothing; and what is wrong, if anything is.

    A pack that came over a wire and seems damaged is asked once more.
    """
    payload, damage = _look_once(pack, place)
    if damage is not None and pack.forget():
        return _look_once(pack, place)
    return payload, damage


def _look_once(pack: OpenPack, place: BlockPlace) -> tuple[bytearray, DamagedBlock | None]:
    payload, unread = _read(pack, place.offset_bytes + packformat.HEADER_BYTES, place.locator.size_bytes)
    is_whole = not unread and blake3(payload).digest() == place.locator.blake3
    # where the head is damaged the table still lies behind the payload, whose size the block's name tells
    table_offset = place.offset_bytes + packformat.HEADER_BYTES + len(payload)
    table = b""
    try:
        table = read_bytes(pack, 8 * packformat.piece_count(len(payload)), table_offset)
        packformat.check_table(_header_of(pack, place), table)
    except (IntegrityError, OSError) as error:
        bad = () if is_whole else _bad_pieces(payload, table, unread)
        return payload, DamagedBlock(place, bad, f"its record: {error}")
    if is_whole:
        return payload, None
    return payload, DamagedBlock(place, _bad_pieces(payload, table, unread), "its bytes")


def _header_of(pack: OpenPack, place: BlockPlace) -> RecordHeader:
    header = read_header(pack, place.pack_id, place.offset_bytes)
    if (header.blake3, header.payload_bytes) != (place.locator.blake3, place.locator.size_bytes):
        raise IntegrityError("another block is here", expected=str(place.locator), found=header.blake3.hex())
    return header


def _read(pack: OpenPack, offset: int, size_bytes: int) -> tuple[bytearray, set[int]]:
    """The bytes, and the numbers of the pieces that the medium does not give."""
    data, unread = bytearray(size_bytes), set[int]()
    view = memoryview(data)
    try:
        if pack.read_into(view, offset) == size_bytes:
            return data, unread
    except OSError:
        pass  # piece by piece then
    for number in range(packformat.piece_count(size_bytes)):
        begin = number * packformat.PIECE_BYTES
        piece = view[begin : begin + packformat.PIECE_BYTES]
        try:
            got_bytes = pack.read_into(piece, offset + begin)
        except OSError:
            got_bytes = 0
        if got_bytes != len(piece):
            piece[:] = bytes(len(piece))
            unread.add(number)
    return data, unread


def _bad_pieces(payload: bytearray, table: bytes, unread: set[int]) -> tuple[Range, ...]:
    """Where the payload is not as its piece table says; all of it, if the table finds nothing wrong.

    The table may be damaged as well: that a piece matches a damaged sum by chance is not to be feared, so what matches is
    good, and what does not may be. In the end the block's digest decides.
    """
    view, bad = memoryview(payload), list[Range]()
    for number in range(packformat.piece_count(len(payload))):
        begin = number * packformat.PIECE_BYTES
        piece = view[begin : begin + packformat.PIECE_BYTES]
        if number in unread or packformat.piece_sum(piece) != table[8 * number : 8 * number + 8]:
            first = bad.pop()[0] if bad and bad[-1][1] == begin else begin
            bad.append((first, begin + len(piece)))
    return tuple(bad) or ((0, len(payload)),)
