"""What the tests of the stream share: versions, and the records that carry them."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace

from holdfast.stream.records import Begin, Data, End, Record
from holdfast.values import Attributes, Content, FileVersion, Kind, Source

SOURCE = Source(uuid.UUID(int=3), "lab", "instrument", b"/data/raw")
RUN = uuid.UUID(int=4)
ATTRIBUTES = Attributes(0o640, 1_700_000_000_123_456_789, 1000, 1000, "ann", "staff")


def version_of(number: int, data: bytes, path: bytes | None = None) -> FileVersion:
    content = Content(hashlib.sha256(data).digest(), len(data))
    name = path if path is not None else b"night/%d.fits" % number
    return FileVersion(uuid.UUID(int=1000 + number), "lab", name, Kind.FILE, len(data), ATTRIBUTES, 17, content)


def begin_of(version: FileVersion, ordinal: int = 0) -> Begin:
    return Begin(RUN, ordinal, SOURCE, replace(version, content=None))


def records_of(version: FileVersion, data: bytes, chunk_bytes: int) -> list[Record]:
    """What a sender sends of a file."""
    chunks = [Data(version.id, at, data[at : at + chunk_bytes]) for at in range(0, len(data), chunk_bytes)]
    return [begin_of(version), *chunks, End(version)]
