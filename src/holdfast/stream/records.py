"""What travels: the three records of a file version, and what makes one of them useless.

Pure. A version is sent as one BEGIN, its bytes as DATA in any number, and one END, all keyed by the version's id, so that
they stay in one partition and in order. BEGIN says what is meant to be sent; END says what was read, and only END's word
counts. Each may come twice or more: a sender that was killed does not know what arrived.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from holdfast.values import FileVersion, Kind, Source, check_source_name

DIGEST_BYTES = 32
SIZE_LIMIT_BYTES = 2**63 - 1
"""No file is larger: the kernel's offsets are signed 64-bit numbers (`off_t`)."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A version is on its way. `version.content` is not known yet; its size is what the sender saw.

    `ordinal` counts the versions that the sender's run `run_id` began in this partition, from 0: a number that is left out
    is a version of which nothing came.
    """

    run_id: uuid.UUID
    ordinal: int
    source: Source
    version: FileVersion

    def __post_init__(self) -> None:
        if not 0 <= self.ordinal < 2**63:
            raise ValueError(f"not an ordinal: {self.ordinal}")
        if self.source.name != self.version.source:
            raise ValueError(f"a version of {self.version.source!r} with the source {self.source.name!r}")

    @property
    def version_id(self) -> uuid.UUID:
        return self.version.id


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a version from `offset_bytes` on. `data` may be a view of the record that it came in."""

    version_id: uuid.UUID
    offset_bytes: int
    data: bytes | memoryview

    def __post_init__(self) -> None:
        if not self.data or not 0 <= self.offset_bytes <= SIZE_LIMIT_BYTES - len(self.data):
            raise ValueError(f"no file has these bytes: {len(self.data)} from {self.offset_bytes} on")

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + len(self.data)


@dataclass(frozen=True, slots=True)
class End:
    """All was read, and the file was the same after it as before: this is the version, with its content."""

    version: FileVersion

    def __post_init__(self) -> None:
        check_source_name(self.version.source)
        if self.version.kind is Kind.FILE and self.version.content is None:
            raise ValueError("an END of a file that does not say what its bytes are")

    @property
    def version_id(self) -> uuid.UUID:
        return self.version.id


@dataclass(frozen=True, slots=True)
class Abort:
    """The version will not be ended: the file changed while it was read, or is gone. What came of it is nothing."""

    version_id: uuid.UUID
    reason: str


Record = Begin | Data | End | Abort


class Poison(Exception):
    """A record that nothing can be done with: set it aside with this reason, and go on.

    Not one of the tree of errors: nobody's work has failed. `version_id` is there if it could be told.
    """

    def __init__(self, reason: str, version_id: uuid.UUID | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.version_id = version_id
