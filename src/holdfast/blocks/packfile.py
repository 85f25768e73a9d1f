"""Pack files: appending records on a local disk, reading pieces of them from wherever they lie, scanning and sealing.

The bytes are those of `packformat`. One `PackWriter` owns a pack while it grows; `PackReader` may read any pack at the
same time. Nothing that was written is ever written over, and nothing is deleted here but a pack that its own writer has
just begun (`discard`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from holdfast import durable
from holdfast.blocks import packformat
from holdfast.blocks import packs as packplaces
from holdfast.blocks.backends import OpenPack
from holdfast.blocks.packformat import IndexEntry, RecordHeader, RecordType
from holdfast.blocks.packs import Packs, pack_path
from holdfast.errors import BackendError, BusyError, IntegrityError, UsageError
from holdfast.values import BlockPlace, Locator

WRITEV_PARTS = 1024
"""The kernel takes no more in one call (IOV_MAX)."""
AnyPack = OpenPack | int
"""An open pack; a descriptor stands for the file that it is of."""
T = TypeVar("T")


class PackWriter:
    """Appends records to one new pack, of `size_bytes` by now, `block_bytes` in blocks. Owned by one thread."""

    def __init__(self, folder: Path, *, vault_id: uuid.UUID, pack_id: uuid.UUID, created_ns: int) -> None:
        self.pack_id = pack_id
        self.path = pack_path(folder, pack_id)
        self.size_bytes = packformat.SUPERBLOCK_BYTES
        self.block_bytes = 0
        self._index: list[IndexEntry] = []
        self._descriptor = durable.create_file(self.path)
        superblock = packformat.Superblock(vault_id, pack_id, created_ns)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # at most somebody looks whether it is being written
            if not os.fstat(self._descriptor).st_nlink:
                raise BusyError("another command took a pack that was just begun", place=str(self.path))
            with durable.disk_full_explained(self.path):
                durable.write_all(self._descriptor, packformat.encode_superblock(superblock))
        except BaseException:
            self.discard()
            raise

    def append(self, kind: RecordType, digest: bytes, payload: memoryview) -> int:
        """Add a record; returns its offset. It is durable only after `sync`."""
        return self.append_parts(kind, digest, [payload])

    def append_parts(self, kind: RecordType, digest: bytes, parts: Sequence[memoryview]) -> int:
        """The same for a payload in parts, each but the last of whole pieces."""
        offset = self.size_bytes
        with durable.disk_full_explained(self.path):
            self.size_bytes = write_record(
                self._descriptor, kind, digest, parts, pack_id=self.pack_id, number=len(self._index), offset=offset
            )
        payload_bytes = sum(map(len, parts))
        self._index.append(IndexEntry(kind, offset, payload_bytes, digest))
        if kind is RecordType.BLOCK:
            self.block_bytes += payload_bytes
        return offset

    def cut_back(self) -> None:
        """Cut off what a failed `append` has left, so that another may follow: it was no record, and nobody knows it."""
        os.ftruncate(self._descriptor, self.size_bytes)

    def sync(self) -> None:
        """When this returns, every record appended so far survives a power cut."""
        with durable.disk_full_explained(self.path):
            durable.sync_file(self._descriptor)

    def seal(self) -> None:
        """Write index and footer, durably, and close the pack for ever."""
        try:
            with durable.disk_full_explained(self.path):
                self.size_bytes = write_seal(self._descriptor, self.pack_id, self._index, self.size_bytes)
        finally:
            self.close()

    def discard(self) -> None:
        """Remove the pack. Only for one of whose records nobody was ever told."""
        try:
            if self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink:  # else another command has removed it
                self.path.unlink(missing_ok=True)
        finally:
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def own_pack(descriptor: int) -> bool:
    """Whether the open pack is ours now: nobody else is writing it (law 10). The lock ends with the descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_record(
    descriptor: int,
    kind: RecordType,
    digest: bytes,
    payload: Sequence[memoryview],
    *,
    pack_id: uuid.UUID,
    number: int,
    offset: int,
) -> int:
    """Write one record at `offset` without syncing; returns the offset where the next one goes.

    The payload comes in parts, each but the last of whole pieces.
    """
    payload_bytes = sum(map(len, payload))
    table = packformat.piece_table_of(payload)
    header = packformat.encode_header(kind, digest, payload_bytes, table, pack_id=pack_id, number=number, offset=offset)
    end = offset + packformat.record_bytes(payload_bytes)
    padding = bytes(end - offset - len(header) - payload_bytes - len(table))
    os.lseek(descriptor, offset, os.SEEK_SET)
    parts = [memoryview(header), *payload, memoryview(table), memoryview(padding)]
    for first in range(0, len(parts), WRITEV_PARTS):
        _write_parts(descriptor, parts[first : first + WRITEV_PARTS])
    return end


def _write_parts(descriptor: int, parts: Sequence[memoryview]) -> None:
    written = os.writev(descriptor, parts)
    for part in parts:  # the kernel may take fewer bytes than it was given
        done = min(written, len(part))
        written -= done
        durable.write_all(descriptor, part[done:])


def write_seal(descriptor: int, pack_id: uuid.UUID, index: list[IndexEntry], offset: int) -> int:
    """Write the index record and the footer from `offset` on, durably; returns the size of the sealed pack."""
    payload = packformat.encode_index(index)
    footer_offset = write_record(
        descriptor,
        RecordType.INDEX,
        blake3(payload).digest(),
        [memoryview(payload)],
        pack_id=pack_id,
        number=len(index),
        offset=offset,
    )
    durable.write_all(descriptor, packformat.encode_footer(packformat.Footer(offset, len(index), pack_id)))
    durable.sync_file(descriptor)
    return footer_offset + packformat.FOOTER_BYTES


PACK_SUFFIX = packplaces.PACK_SUFFIX
FROM_TAPE = "holdfast restore --from tape reads the copies on tape"


@dataclass(frozen=True, slots=True)
class _OpenRecord:
    header: RecordHeader
    table: bytes


class PackReader:
    """Reads pieces of records, each checked before it is handed out. Owned by one thread; `close` it.

    Keeps a few packs open and the piece tables of the records used last. A folder stands for the packs in it.
    """

    OPEN_PACKS = 8
    KEPT_TABLES = 512

    def __init__(self, packs: Packs | Path) -> None:
        self._packs = Packs(packs) if isinstance(packs, Path) else packs
        self._buffer = bytearray(packformat.PIECE_BYTES)
        self._opened: OrderedDict[uuid.UUID, OpenPack] = OrderedDict()
        self._records: OrderedDict[tuple[uuid.UUID, int], _OpenRecord] = OrderedDict()

    def read(self, place: BlockPlace, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset` of the block at `place`, in memory that is good until the next read.

        Raises `IntegrityError` naming pack, offset and digests when any byte of a piece that is touched is not what
        was written, or cannot be read at all; of a pack in another place, if that is so when it is asked once more, and
        `BackendError` if that place cannot be reached.
        """
        if offset < 0 or length < 0 or offset + length > place.locator.size_bytes:
            raise ValueError(f"bytes {offset} to {offset + length} of block {place.locator}")
        pack = self._pack(place.pack_id)
        try:
            return asked_twice(pack, lambda: self._read(pack, place, offset, length))
        except (BackendError, UsageError) as error:
            self._packs.was_in_vain(error)
            self._opened.pop(place.pack_id).close()
            raise

    def _read(self, pack: OpenPack, place: BlockPlace, offset: int, length: int) -> memoryview:
        record = self._record(pack, place)
        first = offset // packformat.PIECE_BYTES * packformat.PIECE_BYTES
        end = min(-(-(offset + length) // packformat.PIECE_BYTES) * packformat.PIECE_BYTES, place.locator.size_bytes)
        if len(self._buffer) < end - first:
            self._buffer = bytearray(end - first)
        view = memoryview(self._buffer)[: end - first]
        try:
            got_bytes = pack.read_into(view, record.header.payload_offset + first)
        except OSError as error:
            raise _damage(pack, place, first, f"{end - first} bytes", error.strerror or str(error)) from error
        if got_bytes != end - first:
            raise _damage(pack, place, first, f"{end - first} bytes", f"{got_bytes} bytes")
        self._check_pieces(pack, place, record, first, view)
        return view[offset - first : offset - first + length]

    def _check_pieces(
        self, pack: OpenPack, place: BlockPlace, record: _OpenRecord, first: int, view: memoryview
    ) -> None:
        entry = first // packformat.PIECE_BYTES * 8
        for start in range(0, len(view), packformat.PIECE_BYTES):
            found = packformat.piece_sum(view[start : start + packformat.PIECE_BYTES])
            expected = record.table[entry : entry + 8]
            if found != expected:
                raise _damage(pack, place, first + start, f"XXH3-64 {expected.hex()}", f"XXH3-64 {found.hex()}")
            entry += 8

    def _record(self, pack: OpenPack, place: BlockPlace) -> _OpenRecord:
        key = (place.pack_id, place.offset_bytes)
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = _open_record(pack, place)
            if len(self._records) > self.KEPT_TABLES:
                self._records.popitem(last=False)
        self._records.move_to_end(key)
        return record

    def _pack(self, pack_id: uuid.UUID) -> OpenPack:
        pack = self._opened.get(pack_id)
        if pack is None:
            pack = self._opened[pack_id] = self._open_pack(pack_id)
            if len(self._opened) > self.OPEN_PACKS:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(pack_id)
        return pack

    def _open_pack(self, pack_id: uuid.UUID) -> OpenPack:
        try:
            return self._packs.open(pack_id)
        except OSError as error:
            raise IntegrityError(
                "a pack of the block store cannot be opened",
                place=self._packs.place_of(pack_id),
                found=error.strerror or str(error),
                hint=FROM_TAPE,
            ) from error

    def close(self) -> None:
        for pack in self._opened.values():
            pack.close()
        self._opened.clear()
        self._records.clear()


def asked_twice(pack: OpenPack, read: Callable[[], T]) -> T:
    """What `read` gives; what it finds damaged is asked once more, if it came over a wire."""
    try:
        return read()
    except IntegrityError:
        if not pack.forget():
            raise
        return read()


def _open_record(pack: OpenPack, place: BlockPlace) -> _OpenRecord:
    try:
        header = read_header(pack, place.pack_id, place.offset_bytes)
        table = read_table(pack, header)
    except IntegrityError as error:
        raise _damage(pack, place, 0, error.expected or "a whole record", error.found or error.message) from error
    except OSError as error:
        raise _damage(pack, place, 0, "a whole record", error.strerror or str(error)) from error
    if (header.blake3, header.payload_bytes) != (place.locator.blake3, place.locator.size_bytes):
        raise _damage(pack, place, 0, str(place.locator), f"b3:{header.blake3.hex()}+{header.payload_bytes}")
    return _OpenRecord(header, table)


def read_header(pack: AnyPack, pack_id: uuid.UUID, offset: int) -> RecordHeader:
    """The head of the record at `offset`. Raises `IntegrityError` if there is none, OSError if the disk fails."""
    return packformat.decode_header(read_bytes(pack, packformat.HEADER_BYTES, offset), pack_id=pack_id, offset=offset)


def read_table(pack: AnyPack, header: RecordHeader) -> bytes:
    """The piece table of a record. Raises as `read_header` does."""
    table = read_bytes(pack, 8 * header.pieces, header.table_offset)
    packformat.check_table(header, table)
    return table


def read_bytes(pack: AnyPack, size_bytes: int, offset: int) -> bytes:
    """So many bytes of an open pack, or those before its end."""
    if isinstance(pack, int):
        return os.pread(pack, size_bytes, offset)
    data = bytearray(size_bytes)
    return bytes(data[: pack.read_into(memoryview(data), offset)])


def _damage(pack: OpenPack, place: BlockPlace, offset: int, expected: str, found: str) -> IntegrityError:
    return IntegrityError(
        "damaged bytes in the block store",
        place=f"{pack.place} block {place.locator} byte {offset}",
        expected=expected,
        found=found,
        hint=FROM_TAPE,
    )


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A whole record that a scan found; its payload was read and matches its digest."""

    header: RecordHeader

    def place(self) -> BlockPlace:
        """Where the block is. Only for records of type BLOCK."""
        locator = Locator(self.header.blake3, self.header.payload_bytes)
        return BlockPlace(locator, self.header.pack_id, self.header.offset_bytes)


def scan_pack(pack: AnyPack, pack_id: uuid.UUID) -> Iterator[FoundRecord]:
    """Every whole record of the open pack, in order; damaged stretches are passed over."""
    size = _size_of(pack)
    offset = packformat.SUPERBLOCK_BYTES
    while offset + packformat.HEADER_BYTES <= size:
        header = _whole_record(pack, pack_id, offset)
        if header is None:
            offset += packformat.ALIGNMENT_BYTES
            continue
        yield FoundRecord(header)
        offset = header.end_offset


def _size_of(pack: AnyPack) -> int:
    return os.fstat(pack).st_size if isinstance(pack, int) else pack.size_bytes


def _whole_record(pack: AnyPack, pack_id: uuid.UUID, offset: int) -> RecordHeader | None:
    try:
        header = read_header(pack, pack_id, offset)
        read_table(pack, header)
        return header if _payload_digest(pack, header) == header.blake3 else None
    except IntegrityError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None  # the disk does not give these bytes: damaged like any other


def _payload_digest(pack: AnyPack, header: RecordHeader) -> bytes:
    hasher = blake3()
    position, end = header.payload_offset, header.table_offset
    while position < end:
        data = read_bytes(pack, min(2**20, end - position), position)
        if not data:
            break
        hasher.update(data)
        position += len(data)
    return hasher.digest()


def read_payload(pack: AnyPack, header: RecordHeader) -> bytes:
    """The whole payload of a record that `scan_pack` found."""
    return read_bytes(pack, header.payload_bytes, header.payload_offset)


def _whole_payload(pack: AnyPack, pack_id: uuid.UUID, offset: int) -> tuple[RecordHeader, bytes] | None:
    """The record at `offset`, in two reads: its digest decides, whatever became of its piece table. None if it is not whole."""
    try:
        header = read_header(pack, pack_id, offset)
        payload = read_payload(pack, header)
    except IntegrityError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    return (header, payload) if blake3(payload).digest() == header.blake3 else None


def read_superblock(pack: AnyPack) -> packformat.Superblock:
    """What the pack says of itself. Raises `IntegrityError` when that is damaged."""
    return packformat.decode_superblock(read_bytes(pack, packformat.SUPERBLOCK_BYTES, 0))


def read_footer(pack: AnyPack) -> packformat.Footer | None:
    """The footer of the open pack, or None when it is not sealed."""
    size = _size_of(pack)
    if size < packformat.SUPERBLOCK_BYTES + packformat.FOOTER_BYTES:
        return None
    return packformat.decode_footer(read_bytes(pack, packformat.FOOTER_BYTES, size - packformat.FOOTER_BYTES))


def write_superblock(descriptor: int, superblock: packformat.Superblock) -> None:
    """In the place of one that is torn; durable when it returns."""
    durable.write_all_at(descriptor, memoryview(packformat.encode_superblock(superblock)), 0)
    durable.sync_file(descriptor)


def seal_scanned(descriptor: int, pack_id: uuid.UUID, found: list[FoundRecord]) -> None:
    """Seal a pack that a killed run left open: index and footer go behind whatever is there; nothing is cut off."""
    index = [
        IndexEntry(r.header.type, r.header.offset_bytes, r.header.payload_bytes, r.header.blake3)
        for r in found
        if r.header.type is not RecordType.INDEX
    ]
    end = packformat.aligned(os.fstat(descriptor).st_size)
    write_seal(descriptor, pack_id, index, end)


def read_index(pack: AnyPack, pack_id: uuid.UUID) -> list[IndexEntry]:
    """What a sealed pack says is in it. Raises `IntegrityError` when it is not sealed, or its index is damaged."""
    footer = read_footer(pack)
    if footer is None or footer.pack_id != pack_id:
        raise IntegrityError(
            "the pack has no footer of its own", expected="the footer of a sealed pack", found=repr(footer)
        )
    found = _whole_payload(pack, pack_id, footer.index_offset)
    if found is None or found[0].type is not RecordType.INDEX:
        raise IntegrityError("damaged index of a pack", place=f"byte {footer.index_offset}")
    return list(packformat.decode_index(found[1]))


def list_records(pack: AnyPack, pack_id: uuid.UUID) -> list[IndexEntry]:
    """What is in a sealed pack: by its index, or, if that is damaged, by its records, which then must be there all of them.

    Raises `IntegrityError` when nobody can tell.
    """
    try:
        return read_index(pack, pack_id)
    except IntegrityError as error:
        footer = read_footer(pack)
        found = [record.header for record in scan_pack(pack, pack_id)]
        begins = [header.offset_bytes for header in found] + [footer.index_offset if footer else -1]
        if begins != [packformat.SUPERBLOCK_BYTES, *(header.end_offset for header in found)]:
            raise error
        return [IndexEntry(h.type, h.offset_bytes, h.payload_bytes, h.blake3) for h in found]


def read_record(pack: AnyPack, pack_id: uuid.UUID, entry: IndexEntry) -> bytes:
    """The payload of a record that the index tells of. Raises `IntegrityError` when it is not whole any more."""
    found = _whole_payload(pack, pack_id, entry.offset_bytes)
    if found is None or (found[0].type, found[0].blake3) != (entry.type, entry.blake3):
        raise IntegrityError(
            "damaged record in a pack", place=f"byte {entry.offset_bytes}", expected=f"BLAKE3 {entry.blake3.hex()}"
        )
    return found[1]
