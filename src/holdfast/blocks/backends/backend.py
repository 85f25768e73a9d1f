"""What a backend must do, and adding a pack to any of them so that the local one may go.

A backend may fail, lie about success, and give short or wrong data. So nothing here believes what it says of a pack that
it took: `add_pack` reads all of it back. `holdfast.testing.conformance.BackendConformance` tells the promises as tests.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from blake3 import blake3

from holdfast.blocks.packformat import SUPERBLOCK_BYTES, decode_superblock
from holdfast.errors import IntegrityError

PACK_SUFFIX = ".pack"
COPY_BYTES = 4 * 1024 * 1024
"""So much of a pack is in memory at once while it is compared."""
READ_BACKS = 2
"""A pack that reads back otherwise is read once more: what came over a wire may have suffered there."""

Progress = Callable[[int], object]
"""Is told how many bytes more have been sent or read back; may raise, to stop."""


@dataclass(frozen=True, slots=True)
class HeldPack:
    """A pack that a backend has.

    `tag`: another one after every change of its bytes, as far as the place can tell; empty where it cannot.
    """

    pack_id: uuid.UUID
    size_bytes: int
    tag: str = field(default="", compare=False)


class OpenPack(Protocol):
    """One pack, opened to be read. Owned by one thread; `close` it."""

    @property
    def place(self) -> str:
        """Its path or URL, for people."""
        ...

    @property
    def size_bytes(self) -> int: ...

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from byte `offset` on; how many bytes there were: fewer only where the pack ends.

        Raises OSError when a disk fails, `BackendError` when a backend cannot be reached.
        """
        ...

    def forget(self) -> bool:
        """Let go of bytes that were read ahead; whether reading again may give others, as they come over a wire."""
        ...

    def close(self) -> None: ...


class PackBackend(Protocol):
    """Keeps sealed packs by their ids. Safe for threads.

    Every method raises `BackendError` when the place cannot be reached, in bounded time and after bounded retries, and
    `UsageError` when it refuses for want of credentials or of the bucket.
    """

    @property
    def url(self) -> str:
        """Where it is, for people and for `holdfast.toml`; without secrets."""
        ...

    def packs(self) -> Iterator[HeldPack]:
        """Every pack, in any order. What has another name than a pack has is not ours, and left alone."""
        ...

    def held(self, pack_id: uuid.UUID) -> HeldPack | None:
        """The pack as it is listed; None where it is not there, though the place is."""
        ...

    def open(self, pack_id: uuid.UUID) -> OpenPack | None:
        """The pack, to be read; None where it is not there, though the place is."""
        ...

    def put(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> bool:
        """Take a pack, whole or not at all. False where one of this name is: that stays as it is. Durable in either case."""
        ...

    def remove(self, pack_id: uuid.UUID) -> None:
        """The pack is gone, durably; also where it was not there."""
        ...


def pack_name(pack_id: uuid.UUID) -> str:
    """What a pack is called, in whatever holds it."""
    return f"{pack_id}{PACK_SUFFIX}"


def pack_id_of(name: str) -> uuid.UUID | None:
    """The pack that is called so; None for a name that no pack has."""
    stem = name.removesuffix(PACK_SUFFIX)
    try:
        pack_id = uuid.UUID(stem)
    except ValueError:
        return None
    return pack_id if name == pack_name(pack_id) else None


INCOMING = ".incoming"


def incoming_name(pack_id: uuid.UUID) -> str:
    """A name of its own for a pack that is on its way: two on the way to one name must not meet before its end."""
    return f"{pack_name(pack_id)}.{uuid.uuid4().hex}{INCOMING}"


def is_incoming(name: str, pack_id: uuid.UUID) -> bool:
    """Whether a thing of this name is, or was when its process was killed, on its way to be this pack."""
    return name.startswith(f"{pack_name(pack_id)}.") and name.endswith(INCOMING)


def may_be_of(backend: PackBackend, pack_id: uuid.UUID, vault_id: uuid.UUID) -> bool:
    """Whether a pack that is there may be this vault's; it may be if it is too damaged to say. Raises what backends raise."""
    pack = backend.open(pack_id)
    if pack is None:
        return False
    with closing(pack):
        data = memoryview(bytearray(SUPERBLOCK_BYTES))
        for _ in range(READ_BACKS):
            try:
                pack.read_into(data, 0)
                return decode_superblock(bytes(data)).vault_id == vault_id
            except (IntegrityError, OSError):
                pack.forget()
    return True


def parts_of(source: OpenPack, part_bytes: int, progress: Progress) -> Iterator[memoryview]:
    """The bytes of a pack in order, each part in memory of its own.

    Raises `IntegrityError` if there are fewer, or the disk does not give them.
    """
    offset = 0
    while offset < source.size_bytes:
        part = memoryview(bytearray(min(part_bytes, source.size_bytes - offset)))
        try:
            got_bytes = source.read_into(part, offset)
        except OSError as error:
            raise _damaged(source, f"byte {offset}: {error.strerror or error}") from error
        if got_bytes != len(part):
            raise _damaged(source, f"{offset + got_bytes} bytes")
        yield part
        offset += got_bytes
        progress(got_bytes)


def digest_of(source: OpenPack, progress: Progress = lambda _: None) -> bytes:
    """The BLAKE3 of a whole pack. Raises `IntegrityError` if it has fewer bytes than it says."""
    hasher = blake3()
    for part in parts_of(source, COPY_BYTES, progress):
        hasher.update(part)
    return hasher.digest()


def _damaged(source: OpenPack, found: str) -> IntegrityError:
    return IntegrityError(
        "a pack cannot be read to its end",
        place=source.place,
        expected=f"{source.size_bytes} bytes",
        found=found,
        hint="holdfast scrub looks at every block of it, and repairs what is damaged from the tapes",
    )


def add_pack(
    backend: PackBackend,
    pack_id: uuid.UUID,
    source: OpenPack,
    progress: Progress = lambda _: None,
    *,
    take_away: bool,
) -> bool:
    """Have the backend hold the very bytes of `source`; whether they were sent, or were there already.

    Whatever the backend says, all of them are read back and compared by digest before this returns. Raises
    `IntegrityError` when others are there: those of somebody else stay, those that were just sent are taken away again if
    the caller may `take_away`: only whoever has the vault, as its owner may have found them good and removed his own.
    `progress` is told of each byte twice, when it was sent (or need not be) and when it was read back.
    """
    expected = digest_of(source)
    sent = backend.put(pack_id, source, progress)
    if not sent:
        progress(source.size_bytes)
    found = _read_back(backend, pack_id, source.size_bytes, expected, progress)
    if found is None:
        return sent
    if sent and take_away:
        backend.remove(pack_id)  # ours, and no pack; as it stands it would only be in the way of the next try
    raise IntegrityError(
        "a pack did not arrive as it was sent; it stays where it was"
        if sent
        else "another pack of this name is there already; both stay as they are",
        place=f"{backend.url}/{pack_name(pack_id)}",
        expected=f"{source.size_bytes} bytes, BLAKE3 {expected.hex()}",
        found=found,
        hint="holdfast scrub first, as the damaged one may be that of the local folder; then run the same command again; "
        "if it says the same, look at what is at that place, and move it away",
    )


def _read_back(
    backend: PackBackend, pack_id: uuid.UUID, size_bytes: int, expected: bytes, progress: Progress
) -> str | None:
    """What the backend has of a pack, in words; None if it is all there, byte for byte."""
    found = "no such pack"
    for _ in range(READ_BACKS):
        told = _Once(progress, size_bytes)
        held = backend.open(pack_id)
        if held is None:
            continue
        try:
            if held.size_bytes != size_bytes:
                found = f"{held.size_bytes} bytes"
                continue
            digest = digest_of(held, told.tell)
            if digest == expected:
                return None
            found = f"{size_bytes} bytes, BLAKE3 {digest.hex()}"
        except IntegrityError as error:
            found = f"{error.found}, and then no more"
        finally:
            held.close()
    return found


class _Once:
    """Passes on what was read back, and not a second time when it is read again."""

    def __init__(self, progress: Progress, size_bytes: int) -> None:
        self._progress = progress
        self._left_bytes = size_bytes

    def tell(self, count_bytes: int) -> None:
        count_bytes = min(count_bytes, self._left_bytes)
        self._left_bytes -= count_bytes
        self._progress(count_bytes)
