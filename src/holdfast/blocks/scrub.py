"""Reading the blocks of a pack back, all of them, and putting damaged ones right from bytes that are good elsewhere.

A block is named by its digest, so whoever can put its bytes together can prove it, and may lay it down anywhere: all
that names the block stays as it is. Nothing is written over.
"""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from holdfast.blocks import packformat
from holdfast.blocks.backends import OpenPack
from holdfast.blocks.packfile import PackWriter, read_header, read_table
from holdfast.blocks.packformat import RecordHeader, RecordType
from holdfast.blocks.packs import Packs
from holdfast.errors import IntegrityError
from holdfast.values import BlockPlace

GONE = (errno.ENOENT, errno.EIO)
"""What a pack that is lost is opened with."""
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

    Pages are dropped before, so that the disk is asked and not the memory. A pack that is gone, or that the disk cannot
    find, is damage of each of its blocks; raises OSError when it cannot be opened for another reason, and
    `BackendError` when the place where it may be cannot be reached.
    """
    try:
        pack = packs.open(pack_id, from_medium=True)
    except OSError as error:
        if error.errno not in GONE:
            raise
        for place in places:
            yield 0, DamagedBlock(place, ((0, place.locator.size_bytes),), f"its pack: {error.strerror}")
        return
    try:
        for place in places:
            yield place.locator.size_bytes, look_at_block(pack, place)[1]
    finally:
        pack.close()


def look_again(packs: Packs, place: BlockPlace) -> tuple[bytearray, DamagedBlock | None]:
    """One block by itself; all zeros where its pack cannot be opened."""
    try:
        pack = packs.open(place.pack_id)
    except OSError as error:
        if error.errno not in GONE:
            raise
        size = place.locator.size_bytes
        return bytearray(size), DamagedBlock(place, ((0, size),), f"its pack: {error.strerror}")
    try:
        return look_at_block(pack, place)
    finally:
        pack.close()


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
    try:
        table = read_table(pack, _header_of(pack, place))
    except (IntegrityError, OSError) as error:
        bad = () if is_whole else ((0, len(payload)),)
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
    """Where the payload is not as its piece table says; all of it, if the table finds nothing wrong."""
    view, bad = memoryview(payload), list[Range]()
    for number in range(packformat.piece_count(len(payload))):
        begin = number * packformat.PIECE_BYTES
        piece = view[begin : begin + packformat.PIECE_BYTES]
        if number in unread or packformat.piece_sum(piece) != table[8 * number : 8 * number + 8]:
            bad.append((begin, begin + len(piece)))
    return tuple(bad) or ((0, len(payload)),)


class RepairPack:
    """A new pack for blocks that were put right. It is made with the first of them; `seal` or `close` it."""

    def __init__(self, folder: Path, vault_id: uuid.UUID) -> None:
        self._folder = folder
        self._vault_id = vault_id
        self._pack: PackWriter | None = None

    def add(self, place: BlockPlace, payload: bytearray) -> BlockPlace:
        """Lay a block down once more, durably; where. Raises `IntegrityError` if these are not its bytes."""
        if blake3(payload).digest() != place.locator.blake3:
            raise IntegrityError(
                "a block cannot be put together again",
                place=str(place.locator),
                found=f"BLAKE3 {blake3(payload).hexdigest()}",
            )
        if self._pack is None:
            self._pack = PackWriter(
                self._folder, vault_id=self._vault_id, pack_id=uuid.uuid4(), created_ns=time.time_ns()
            )
        offset = self._pack.append(RecordType.BLOCK, place.locator.blake3, memoryview(payload))
        self._pack.sync()
        return BlockPlace(place.locator, self._pack.pack_id, offset)

    def size_bytes(self) -> int:
        return 0 if self._pack is None else self._pack.size_bytes

    def seal(self) -> tuple[uuid.UUID, int] | None:
        """End the pack: which it is, and its size; None where nothing was laid down."""
        if self._pack is None:
            return None
        pack, self._pack = self._pack, None
        pack.seal()
        return pack.pack_id, pack.size_bytes

    def close(self) -> None:
        if self._pack is not None:
            self._pack.close()
