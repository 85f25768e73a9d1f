"""Packs in memory: the plainest backend, to compare others with and for tests. Nothing in it survives the process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from holdfast.blocks.backends.backend import HeldPack, OpenPack, Progress, pack_name, parts_of

PART_BYTES = 1024 * 1024


class MemoryPack:
    """An open pack in memory."""

    def __init__(self, data: bytes, place: str = "memory:") -> None:
        self.place = place
        self.size_bytes = len(data)
        self._data = data

    def read_into(self, buffer: memoryview, offset: int) -> int:
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def forget(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""


class MemoryBackend:
    """A dictionary of packs."""

    url = "memory:"

    def __init__(self) -> None:
        self._packs: dict[uuid.UUID, bytes] = {}

    def packs(self) -> Iterator[HeldPack]:
        for pack_id, data in list(self._packs.items()):
            yield HeldPack(pack_id, len(data))

    def held(self, pack_id: uuid.UUID) -> HeldPack | None:
        data = self._packs.get(pack_id)
        return None if data is None else HeldPack(pack_id, len(data))

    def open(self, pack_id: uuid.UUID) -> OpenPack | None:
        data = self._packs.get(pack_id)
        return None if data is None else MemoryPack(data, f"{self.url}{pack_name(pack_id)}")

    def put(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> bool:
        if pack_id in self._packs:
            return False
        data = b"".join(map(bytes, parts_of(source, PART_BYTES, progress)))
        return self._packs.setdefault(pack_id, data) is data

    def remove(self, pack_id: uuid.UUID) -> None:
        self._packs.pop(pack_id, None)
