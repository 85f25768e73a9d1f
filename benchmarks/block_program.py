"""The block store under one load, in a process of its own: `block_program.py KIND PART FOLDER COUNT` prints JSON.

KIND is holdfast, arvados (its client over a Keep service in memory that takes MD5, as any must), or blake3 (taken of the
same bytes in reused memory: the limit). CPU-seconds are of the load alone, of all its threads.

    memory   COUNT MiB in appends of 1 MiB, to a store that keeps nothing; `sha256` the same with the content's SHA-256
    disk     COUNT MiB in appends of 1 MiB, durable at the end
    small    COUNT contents of 10 KiB, packed, durable at the end
    reads    COUNT random reads of 64 KiB out of 256 MiB that are stored, and out of 48 MiB that are still being written
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MIB = 2**20
READ_BYTES = 64 * 1024
SMALL_BYTES = 10 * 1024
STORED_MIB, WRITABLE_MIB = 256, 48


def fresh(count: int, size_bytes: int) -> list[bytes]:
    """Incompressible buffers, different from each other."""
    noise = random.Random(7).randbytes(size_bytes)
    return [number.to_bytes(8, "big") + noise[8:] for number in range(count)]


def measured(act: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def positions(count: int, within_bytes: int) -> list[int]:
    chance = random.Random(11)
    return [chance.randrange(within_bytes // READ_BYTES) * READ_BYTES for _ in range(count)]


def reads(read: Callable[[int], Any], count: int, within_bytes: int) -> float:
    """Reads a second; `read` gives the bytes at a position, which are looked at."""
    places = positions(count, within_bytes)

    def act() -> None:
        for place in places:
            read(place)

    return count / measured(act)["wall_s"]


# -- Holdfast


class Sink:
    """Index and sink in memory: what the catalog does is measured elsewhere."""

    def __init__(self) -> None:
        self.places: dict[Any, Any] = {}

    def find_block(self, locator: Any) -> Any:
        return self.places.get(locator)

    find_block_to_name = find_block

    def group_durable(self, group: Any) -> None:
        self.places.update((place.locator, place) for place in group.blocks)

    def pack_sealed(self, *_: object) -> None:
        pass


class Holdfast:
    def __init__(self, folder: Path) -> None:
        from holdfast import blocks

        self.blocks = blocks
        self.folder = folder

    def memory(self, count: int, *, sha256: bool = False) -> dict[str, float]:
        from holdfast.blocks.buffered.keeper import MemoryKeeper

        with self.blocks.BlockManager(MemoryKeeper(is_forgetful=True)) as manager:
            return self._write(manager, count, sha256=sha256)

    def _write(self, manager: Any, count: int, *, sha256: bool = False) -> dict[str, float]:
        pieces = fresh(16, MIB)
        stir = [memoryview(bytearray(piece)) for piece in pieces]

        def act() -> None:
            digest = hashlib.sha256()
            with manager.content("large") as content:
                for number in range(count):
                    piece = stir[number % 16]
                    piece[:8] = number.to_bytes(8, "big")
                    if sha256:
                        digest.update(piece)
                    content.write(piece)

        return measured(act)

    def _keeper(self) -> Any:
        import uuid

        from holdfast.blocks.buffered.packkeeper import PackKeeper

        sink, fence = Sink(), self.blocks.Fence(self.folder / "fence")
        return PackKeeper(self.folder, vault_id=uuid.uuid4(), pack_bytes=2**30, index=sink, sink=sink, fence=fence)

    def disk(self, count: int) -> dict[str, float]:
        with self._keeper() as keeper, self.blocks.BlockManager(keeper) as manager:
            return self._write(manager, count)

    def small(self, count: int) -> dict[str, float]:
        data = fresh(count, SMALL_BYTES)
        with self._keeper() as keeper, self.blocks.BlockManager(keeper) as manager:

            def act() -> None:
                for number, item in enumerate(data):
                    content = manager.content(str(number))
                    content.write(item)
                    content.close(wait=False)
                manager.commit_all()

            return measured(act)

    def reads(self, count: int) -> dict[str, float]:
        keeper = self._keeper()
        with keeper, self.blocks.BlockManager(keeper) as manager:
            self._write(manager, STORED_MIB)
            stored = sorted(keeper._index.places, key=lambda item: keeper._index.places[item].offset_bytes)
            found = {"stored": reads(self._reader(manager, stored), count, STORED_MIB * MIB)}
            writable = manager.alloc("writable")
            for piece in fresh(WRITABLE_MIB, MIB):
                manager.append(writable, piece)

            def read(place: int) -> None:
                with manager.read(writable, place, READ_BYTES) as view:
                    view[0]

            return found | {"writable": reads(read, count, WRITABLE_MIB * MIB)}

    def _reader(self, manager: Any, stored: list[Any]) -> Callable[[int], None]:
        size = stored[0].size_bytes

        def read(place: int) -> None:
            with manager.read(stored[place // size], place % size, READ_BYTES) as view:
                view[0]

        return read


# -- Arvados


class Keep:
    """A Keep service in memory, as far as the client's files need one."""

    def __init__(self, *, keeps: bool = False) -> None:
        self.blocks: dict[str, bytes] = {}
        self.keeps = keeps
        self.num_retries, self.num_prefetch_threads = 0, 2
        self.lock = threading.Lock()

    def put(self, data: Any, *_: object, **__: object) -> str:
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if self.keeps:
            self.blocks[digest] = bytes(data)
        return f"{digest}+{len(data)}"

    def get(self, locator: str, *_: object, **__: object) -> bytes:
        return self.blocks[locator.partition("+")[0]]

    get_from_cache = get

    def block_prefetch(self, *_: object) -> None:
        pass


class Arvados:
    def __init__(self, folder: Path) -> None:
        import arvados.collection

        self.module = arvados.collection
        del folder

    def _collection(self, *, keeps: bool = False) -> Any:
        return self.module.Collection(keep_client=Keep(keeps=keeps), api_client=api(), num_retries=0)

    def memory(self, count: int, *, collection: Any = None) -> dict[str, float]:
        collection = self._collection() if collection is None else collection
        stir = [bytearray(piece) for piece in fresh(16, MIB)]

        def act() -> None:
            with collection.open("large", "wb") as file:
                for number in range(count):
                    piece = stir[number % 16]
                    piece[:8] = number.to_bytes(8, "big")
                    file.write(bytes(piece))
            collection.manifest_text()

        return measured(act)

    def small(self, count: int) -> dict[str, float]:
        data, collection = fresh(count, SMALL_BYTES), self._collection()

        def act() -> None:
            for number, item in enumerate(data):
                file = collection.open(f"{number}", "wb")
                file.write(item)
                file.close(flush=False)  # else each has a block of its own
            collection.manifest_text()

        return measured(act)

    def reads(self, count: int) -> dict[str, float]:
        collection = self._collection(keeps=True)
        self.memory(STORED_MIB, collection=collection)
        with collection.open("large", "rb") as file:
            found = {"stored": reads(self._reader(file), count, STORED_MIB * MIB)}
        with collection.open("writable", "wb+") as file:
            for piece in fresh(WRITABLE_MIB, MIB):
                file.write(piece)
            few = max(20, count // 500)
            return found | {"writable": reads(self._reader(file), few, WRITABLE_MIB * MIB)}

    def _reader(self, file: Any) -> Callable[[int], None]:
        def read(place: int) -> None:
            file.seek(place)
            file.read(READ_BYTES)[0]

        return read


def api() -> Any:
    """What the client asks of its API server, without one."""
    classes = {"StorageClasses": {"default": {"Default": True}}}
    return SimpleNamespace(keep=None, config=lambda: classes, _rootDesc={"defaultCollectionReplication": 2})


class Blake3:
    """The limit: the digest of the same bytes, in memory that is used again."""

    def __init__(self, folder: Path) -> None:
        del folder

    def memory(self, count: int) -> dict[str, float]:
        from blake3 import blake3

        block = bytearray(64 * MIB)
        stir = [bytearray(piece) for piece in fresh(16, MIB)]

        def act() -> None:
            for begin in range(0, count, 64):
                digest = blake3()
                for number in range(min(64, count - begin)):
                    place = memoryview(block)[number * MIB : (number + 1) * MIB]
                    place[:] = stir[number % 16]
                    digest.update(place)
                digest.digest()

        return measured(act)


def main(kind: str, part: str, folder: str, count: int) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    store: Any = {"holdfast": Holdfast, "arvados": Arvados, "blake3": Blake3}[kind](Path(folder))
    if part == "sha256":
        found = store.memory(count, sha256=True)
    else:
        found = getattr(store, part)(count)
    print(json.dumps(found | {"peak_bytes": peak_bytes()}), flush=True)
    os._exit(0)  # what a peer keeps running must not count


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
