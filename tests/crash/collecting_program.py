"""Keeps contents, releases some, and collects beside a writer that found what is collected; says what is durable.

Run with the vault's folder; if its settings name another place for packs, they are moved there in between. Every content is `content_of(name)`, so that a test can tell what must come back. Releasing asks
nobody here: there are no tapes, and law 4 has tests of its own.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
import uuid
from pathlib import Path

from holdfast import moving
from holdfast.blocks import StoreWriter
from holdfast.catalog import releasing
from holdfast.collecting import CollectRequest, collect
from holdfast.config import open_vault
from holdfast.reports import Silent
from holdfast.values import Attributes, Content, FileVersion, Kind, Source
from holdfast.vault import Vault, opened, owned

SOURCE = Source(uuid.UUID(int=7), "lab", "host", b"/data")
LARGE_BYTES, SMALL_BYTES = 150_000, 6_000


def bytes_of(name: str) -> bytes:
    """Names that begin alike up to a dash have the same bytes."""
    size = LARGE_BYTES if name.startswith("large") else SMALL_BYTES
    return random.Random(name.partition("-")[0]).randbytes(size)


def keep(writer: StoreWriter, name: str) -> None:
    data = bytes_of(name)
    content = Content(hashlib.sha256(data).digest(), len(data))
    version = FileVersion(
        uuid.uuid5(SOURCE.id, name),
        SOURCE.name,
        name.encode(),
        Kind.FILE,
        len(data),
        Attributes(0o644, 1, 0, 0, "ann", "staff"),
        time.time_ns(),
        content,
    )
    known = writer.find(content)
    if known is None and len(data) <= writer.small_limit_bytes:
        writer.small_room(len(data))[:] = data
        known = writer.keep_small(len(data)), ()
    elif known is None:
        large = writer.large()
        left = memoryview(data)
        while left:
            room = large.room()[: len(left)]
            room[:] = left[: len(room)]
            left = left[len(room) :]
            large.filled(len(room))
        known = large.finish(), ()
    writer.add(SOURCE, version, None, pieces=known[0], segments=known[1])


def say(text: str) -> None:
    print(text, flush=True)


def keep_all(vault: Vault, *names: str) -> None:
    with vault.store_writer() as writer:
        for name in names:
            keep(writer, name)
    for name in names:
        say(f"kept {name}")


def give_up(vault: Vault, *names: str) -> None:
    wanted = [Content(hashlib.sha256(data).digest(), len(data)) for data in map(bytes_of, names)]
    for name in names:
        say(f"releasing {name}")
    with vault.catalog.transaction() as connection:
        rows = releasing.stored_contents(connection, wanted)
        releasing.release_contents(connection, rows, time.time_ns())


def move(folder: Path) -> None:
    if open_vault(folder).blocks.store:
        say(f"moved {moving.push(folder).packs}")


def main(folder: Path) -> None:
    with owned(folder, "test", print) as vault:
        keep_all(vault, "large1", "large2", "small1", "small2")
        keep_all(vault, "large3", "small3")
    move(folder)
    with opened(folder) as vault, vault.store_writer() as writer:
        keep(writer, "large1-again")  # found, not durable yet
        keep(writer, "large4")
        give_up(vault, "large1", "large2", "small1")
        say(f"waiting {collect(folder, CollectRequest(everything=True)).waiting}")
        writer.barrier()
        say("kept large1-again")
        say("kept large4")
        keep(writer, "large2-again")  # not found any more
        writer.barrier()
        say("kept large2-again")
        say(f"waiting {collect(folder, CollectRequest(everything=True), Silent()).waiting}")
        move(folder)
    report = collect(folder, CollectRequest(everything=True))
    say(f"removed {report.packs}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
