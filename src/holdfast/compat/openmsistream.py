"""The messages of OpenMSIStream and its ancestor, read and written, so that their programs and ours can talk to each other.

Pure. A value is a MessagePack array of ten fields (written since 2026-04; without the last one before; eight, with the sender's
own path in front, by the ancestor of 2021):

    0 file name | 1 SHA-512 of the file | 2 SHA-512 of the chunk | 3 offset | 4 number, from 1 | 5 count of chunks
    6 folder, "" at the root | 7 what goes before the name's last suffix | 8 the bytes | 9 mtime in seconds, 0.0 if unknown

Each message has a key of its own, so the chunks of a file come from any partition in any order; and nothing says how large a
file is, or that it is at its end. So a file is whole when all its numbers have come, with no gap, and is what its SHA-512 says.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import msgspec

from holdfast.stream.ranges import Ranges
from holdfast.stream.records import SIZE_LIMIT_BYTES, Poison
from holdfast.values import check_relative_path

SHA512_BYTES = 64
COUNT_LIMIT = 2**31
"""So many chunks of 16 KiB are 32 TiB; a larger count is no file."""
VERSIONS = uuid.UUID("5b1c1c2e-6a3f-5d59-9a53-0a6f2f6f0a10")
"""The name space of `version_id`."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A message: a piece of a file. `name` and `folder` are text, as in their format; `number` counts from 1.

    `mtime_s` is None where the sender does not know it or its format has no room for it.
    """

    folder: str
    name: str
    file_sha512: bytes
    number: int
    count: int
    offset_bytes: int
    data: bytes
    mtime_s: float | None = None
    appendix: str = ""

    def __post_init__(self) -> None:
        check_relative_path(self.path)
        if "/" in self.name or len(self.file_sha512) != SHA512_BYTES:
            raise ValueError("not a name, or not the SHA-512 of a file")
        if not 1 <= self.number <= self.count <= COUNT_LIMIT:
            raise ValueError(f"number {self.number} of {self.count} chunks")
        if not self.data or not 0 <= self.offset_bytes <= SIZE_LIMIT_BYTES - len(self.data):
            raise ValueError(f"no file has these bytes: {len(self.data)} from {self.offset_bytes} on")

    @property
    def path(self) -> bytes:
        """Where the file is to lie."""
        name = self.name
        if self.appendix:
            plain = PurePosixPath(name)
            name = plain.stem + self.appendix + plain.suffix
        return (f"{self.folder}/{name}" if self.folder else name).encode()

    @property
    def version_id(self) -> uuid.UUID:
        """The same for each chunk of a file with these bytes, whoever sends it and however often; of other bytes another."""
        return uuid.uuid5(VERSIONS, f"{self.path.hex()}/{self.file_sha512.hex()}")


def key_of(chunk: Chunk) -> bytes:
    """The key that their sender gives the message. It is no identity: `a_b/c` and `a/b_c` have the same."""
    return f"{'_'.join(chunk.folder.split('/'))}_{chunk.name}_chunk_{chunk.number}_of_{chunk.count}".encode()


def encode(chunk: Chunk) -> bytes:
    """The ten-field message."""
    digest = hashlib.sha512(chunk.data).digest()
    place = (chunk.offset_bytes, chunk.number, chunk.count, chunk.folder, chunk.appendix)
    return _PACK((chunk.name, chunk.file_sha512, digest, *place, chunk.data, chunk.mtime_s or 0.0))


_PACK = msgspec.msgpack.Encoder().encode


def decode(value: bytes | None) -> Chunk:
    """Read a message of ten, nine or eight fields. Raises `Poison` with the reason for anything else."""
    try:
        fields = msgspec.msgpack.decode(value or b"", type=list[Any])
        chunk, digest = _chunk_of(fields)
    except (msgspec.DecodeError, ValueError, TypeError, IndexError) as error:
        raise Poison(f"not a message of OpenMSIStream: {error}") from error
    if hashlib.sha512(chunk.data).digest() != digest:
        raise Poison("the bytes of a chunk are not those that were sent: its SHA-512 is wrong", chunk.version_id)
    return chunk


def _chunk_of(fields: list[Any]) -> tuple[Chunk, bytes]:
    if len(fields) == 8:  # the ancestor's: the first is the sender's own path
        _, name, file_sha512, digest, offset, number, count, data = fields
        folder, appendix, mtime_s = "", "", 0.0
    elif len(fields) in (9, 10):
        name, file_sha512, digest, offset, number, count, folder, appendix, data, *rest = fields
        mtime_s = rest[0] if rest else 0.0
    else:
        raise ValueError(f"{len(fields)} fields")
    _check(str, name, folder, appendix)
    _check(bytes, file_sha512, digest, data)
    _check(int, offset, number, count)
    _check((int, float), mtime_s)
    return Chunk(folder, name, file_sha512, number, count, offset, data, mtime_s or None, appendix), digest


def _check(kind: type | tuple[type, ...], *fields: object) -> None:
    for item in fields:
        if not isinstance(item, kind) or isinstance(item, bool):
            raise TypeError(f"a {type(item).__name__} where none belongs")


@dataclass(slots=True)
class Gathered:
    """What has come of one file. Not for two threads at once."""

    count: int
    numbers: Ranges = field(default_factory=Ranges)
    bytes: Ranges = field(default_factory=Ranges)

    def feed(self, chunk: Chunk) -> tuple[tuple[int, int], ...]:
        """Which bytes of the file are new with a chunk; none for a repetition. Raises `Poison`, and nothing has changed."""
        if chunk.count != self.count:
            raise Poison(f"the same file in {chunk.count} chunks, and in {self.count} before", chunk.version_id)
        if not self.numbers.missing(chunk.number, chunk.number + 1):
            return ()
        end = chunk.offset_bytes + len(chunk.data)
        if self.bytes.missing(chunk.offset_bytes, end) != [(chunk.offset_bytes, end)]:
            raise Poison(f"chunk {chunk.number} lies where others do", chunk.version_id)
        self.numbers.add(chunk.number, chunk.number + 1)
        return tuple(self.bytes.add(chunk.offset_bytes, end))

    @property
    def is_whole(self) -> bool:
        """Whether every chunk has come, and they leave no gap; the SHA-512 of the file must be compared still."""
        return self.numbers.length_bytes == self.count and self.bytes.length_bytes == self.bytes.end_bytes

    @property
    def size_bytes(self) -> int:
        """How large the file is, once it is whole."""
        return self.bytes.end_bytes
