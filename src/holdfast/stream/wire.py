"""The bytes of a record on the wire.

Pure. A record's key is the 16 bytes of its version's id; its value is

    offset  bytes
         0      4  "HFS1", the format
         4      1  u8 kind of record: 1 BEGIN, 2 DATA, 3 END, 4 ABORT
         5      3  zeros
         8     16  the version's id
        24     32  BLAKE3 of all that follows, with the 24 bytes before it in front
        56      8  u64 DATA: offset in the file, big-endian; else zeros
        64         DATA: the bytes themselves; else MessagePack

The MessagePack of BEGIN is a map {run, ordinal, source, version}, of END {version}, of ABORT {reason}, where source and
version have the same keys as the lines in packs and on tapes (`holdfast.jsonform`). Readers skip keys that they do not know.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable

import msgspec
from blake3 import blake3

from holdfast import jsonform
from holdfast.errors import UsageError
from holdfast.stream.records import DIGEST_BYTES, Abort, Begin, Data, End, Poison, Record

MAGIC = b"HFS1"
HEAD = struct.Struct(">4sB3x16s")
OFFSET = struct.Struct(">Q")
BODY_AT = HEAD.size + DIGEST_BYTES
HEAD_BYTES = BODY_AT + OFFSET.size
"""What a record takes beside its bytes or its MessagePack."""
BEGIN, DATA, END, ABORT = 1, 2, 3, 4
TEXT_LIMIT_BYTES = 256 * 1024
"""No MessagePack is longer: a path and a link's target have at most 4,096 bytes each in Linux (PATH_MAX)."""


class _Begin(msgspec.Struct):
    run: bytes
    ordinal: int
    source: jsonform.SourceLine
    version: jsonform.VersionLine


class _End(msgspec.Struct):
    version: jsonform.VersionLine


class _Abort(msgspec.Struct):
    reason: str


def key_of(version_id: uuid.UUID) -> bytes:
    """The key of each of a version's records."""
    return version_id.bytes


def encode(record: Record) -> bytes:
    """The value of a record."""
    if isinstance(record, Data):
        return frame(DATA, record.version_id, record.offset_bytes, record.data)
    if isinstance(record, Begin):
        source, version = jsonform.source_line(record.source), jsonform.version_line(record.version)
        return _packed(BEGIN, record.version_id, _Begin(record.run_id.bytes, record.ordinal, source, version))
    if isinstance(record, End):
        return _packed(END, record.version_id, _End(jsonform.version_line(record.version)))
    return _packed(ABORT, record.version_id, _Abort(record.reason))


def _packed(kind: int, version_id: uuid.UUID, what: msgspec.Struct) -> bytes:
    return frame(kind, version_id, 0, msgspec.msgpack.encode(what))


def frame(kind: int, version_id: uuid.UUID, offset_bytes: int, body: bytes | memoryview) -> bytes:
    """A value with this body, whatever it is."""
    head, offset = HEAD.pack(MAGIC, kind, version_id.bytes), OFFSET.pack(offset_bytes)
    return b"".join((head, _digest(head, offset, body), offset, body))


def _digest(head: bytes | memoryview, *rest: bytes | memoryview) -> bytes:
    hasher = blake3(head)
    for part in rest:
        hasher.update(part)
    return hasher.digest()


def decode(key: bytes | None, value: bytes | None) -> Record:
    """Read a record. Raises `Poison` with the reason if it is none of ours, damaged, or says what cannot be.

    The bytes of a DATA record are a view of `value`, proven by their digest.
    """
    if value is None:
        raise Poison("a record without a value")
    if not value.startswith(MAGIC):
        raise Poison(f"a record of another format: it begins with {value[:4]!r}, not {MAGIC!r}")
    if len(value) <= HEAD_BYTES:
        raise Poison(f"a record that is cut off: {len(value)} bytes")
    view = memoryview(value)
    _, kind, raw_id = HEAD.unpack_from(view)
    version_id = uuid.UUID(bytes=raw_id)
    if value[HEAD.size : BODY_AT] != _digest(view[: HEAD.size], view[BODY_AT:]):
        raise Poison("a record whose bytes are not those that were sent: its digest is wrong", version_id)
    if key != raw_id:
        raise Poison(f"a record of the version {version_id} under another key: {key!r}", version_id)
    try:
        return _read(kind, version_id, view)
    except (msgspec.DecodeError, UsageError, ValueError) as error:
        raise Poison(f"a record that cannot be: {error}", version_id) from error


def _read(kind: int, version_id: uuid.UUID, view: memoryview) -> Record:
    body = view[HEAD_BYTES:]
    if kind == DATA:
        return Data(version_id, OFFSET.unpack_from(view, BODY_AT)[0], body)
    reader = _READERS.get(kind)
    if reader is None:
        raise ValueError(f"its kind is {kind}")
    if len(body) > TEXT_LIMIT_BYTES:
        raise ValueError(f"{len(body)} bytes that name a file")
    record = reader(version_id, body)
    if record.version_id != version_id:
        raise ValueError(f"it speaks of the version {record.version_id} under the id {version_id}")
    return record


def _read_begin(_: uuid.UUID, body: memoryview) -> Begin:
    read = msgspec.msgpack.decode(body, type=_Begin)
    run_id = uuid.UUID(bytes=read.run)
    return Begin(run_id, read.ordinal, jsonform.source_of(read.source), jsonform.version_of(read.version))


def _read_end(_: uuid.UUID, body: memoryview) -> End:
    return End(jsonform.version_of(msgspec.msgpack.decode(body, type=_End).version))


def _read_abort(version_id: uuid.UUID, body: memoryview) -> Abort:
    return Abort(version_id, msgspec.msgpack.decode(body, type=_Abort).reason)


_READERS: dict[int, Callable[[uuid.UUID, memoryview], Begin | End | Abort]] = {
    BEGIN: _read_begin,
    END: _read_end,
    ABORT: _read_abort,
}
