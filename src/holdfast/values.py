"""The nouns, as small frozen types that every room shares.

Pure: no files, no clock, no database. Each type checks itself when it is made, so the rest of the code trusts it.
Paths are bytes everywhere, relative to their source's root, parts joined by `/`; they become text only to be shown.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from holdfast.errors import UsageError

BLOCK_LIMIT_BYTES = 64 * 1024 * 1024
"""No block is larger (Arvados Keep's limit, so that a block can travel through a Keep door)."""

LOCATOR_PATTERN = re.compile(r"b3:([0-9a-f]{64})\+([1-9][0-9]{0,7})")


class Kind(StrEnum):
    """What a file version is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"  # a symbolic link; hard links are files that name their first version


class Side(StrEnum):
    """One half of a pair of cartridges."""

    A = "A"
    B = "B"


@dataclass(frozen=True, slots=True)
class Content:
    """(SHA-256, size): what deduplication, proof and release are about. `sha256` is 32 bytes."""

    sha256: bytes
    size_bytes: int

    def __post_init__(self) -> None:
        if len(self.sha256) != 32 or self.size_bytes < 0:
            raise ValueError(f"not a content: {self.sha256.hex()}, {self.size_bytes} bytes")


TIME_LIMIT_NS = 2**63 * 10**9 - 1
"""The latest time that a kernel can give; as long before 1970 is the earliest. File systems hold such times."""

EMPTY_CONTENT = Content(hashlib.sha256(b"").digest(), 0)


@dataclass(frozen=True, slots=True)
class Locator:
    """The name of a block: the BLAKE3 digest (32 bytes) of its bytes, and their count."""

    blake3: bytes
    size_bytes: int

    def __post_init__(self) -> None:
        if len(self.blake3) != 32 or not 0 < self.size_bytes <= BLOCK_LIMIT_BYTES:
            raise ValueError(f"not a locator: {self.blake3.hex()}, {self.size_bytes} bytes")

    def __str__(self) -> str:
        return f"b3:{self.blake3.hex()}+{self.size_bytes}"

    @classmethod
    def parse(cls, text: str) -> Locator:
        """Read `b3:<64 hex digits>+<size>`. Raises `UsageError` that says what is wrong with anything else."""
        found = LOCATOR_PATTERN.fullmatch(text)
        if found is None or int(found[2]) > BLOCK_LIMIT_BYTES:
            raise UsageError(
                "malformed block locator",
                expected=f"b3:<64 hex digits>+<size from 1 to {BLOCK_LIMIT_BYTES}>",
                found=repr(text),
            )
        return cls(bytes.fromhex(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a content inside a block."""

    locator: Locator
    offset_bytes: int
    length_bytes: int

    def __post_init__(self) -> None:
        if self.length_bytes <= 0 or self.offset_bytes < 0:
            raise ValueError(f"not a segment: {self.offset_bytes}, {self.length_bytes} bytes")
        if self.offset_bytes + self.length_bytes > self.locator.size_bytes:
            raise ValueError(f"segment ends after its block: {self}")


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is kept of a file beside its name and bytes. Times are nanoseconds since 1970; `mode` is 12 bits."""

    mode: int
    mtime_ns: int
    uid: int
    gid: int
    user: str
    group: str
    sparse: bool = False

    def __post_init__(self) -> None:
        if not -TIME_LIMIT_NS <= self.mtime_ns <= TIME_LIMIT_NS:
            raise ValueError(f"a time that no file has: {self.mtime_ns} ns since 1970")
        if not (self.user.isascii() and self.group.isascii()):
            # a name in another encoding comes from the system with surrogates, which no file or database takes
            for field in ("user", "group"):
                name = getattr(self, field).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                object.__setattr__(self, field, name)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What tells whether a file is the same as when it was last looked at."""

    device: int
    inode: int
    ctime_ns: int
    looked_ns: int


@dataclass(frozen=True, slots=True)
class FileVersion:
    """One path of one source at one time; never changes.

    `content` is None for folders and links, and for a file that is archived in place and was not read yet.
    `hard_link_of` is the version of the same inode that was met first, if there is one.
    """

    id: uuid.UUID
    source: str
    path: bytes
    kind: Kind
    size_bytes: int
    attributes: Attributes
    seen_ns: int
    content: Content | None = None
    link_target: bytes | None = None
    hard_link_of: uuid.UUID | None = None

    def __post_init__(self) -> None:
        check_relative_path(self.path, empty_allowed=self.kind is Kind.FOLDER)
        if self.content is not None and self.content.size_bytes != self.size_bytes:
            raise ValueError(f"a version of {self.size_bytes} bytes with a content of {self.content.size_bytes}")

    @property
    def full_path(self) -> bytes:
        """`<source>/<path>`: the name on tape and in a restored tree."""
        return self.source.encode() + b"/" + self.path if self.path else self.source.encode()


def check_relative_path(path: bytes, *, empty_allowed: bool = False) -> None:
    """Raise `ValueError` unless `path` is relative, normalised, and stays inside its root.

    An empty path is the root folder itself and allowed only where that is meant.
    """
    if path == b"" and empty_allowed:
        return
    if b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise ValueError(f"not a safe relative path: {path!r}")


def path_digest(path: bytes) -> bytes:
    """The 32 bytes by which a path is found in the catalog, whatever a collation would do to its text."""
    return hashlib.sha256(path).digest()


def parent_path(path: bytes) -> bytes:
    """The path of the folder that holds `path`; empty for the root's own entries."""
    return path.rpartition(b"/")[0]


def show_path(path: bytes) -> str:
    """`path` for people: UTF-8 where it is, `\\xNN` where it is not; control characters never reach a terminal."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def path_fields(path: bytes) -> dict[str, str]:
    """`path` for JSON: readable, and exact in base64 beside it when reading alone would not give it back."""
    shown = show_path(path)
    fields = {"path": shown}
    if shown.encode() != path:
        fields["path_b64"] = base64.b64encode(path).decode()
    return fields


def show_bytes(count_bytes: float) -> str:
    """A size for people, in decimal units as drives and cartridges are sold: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count_bytes) < 1000 or unit == "TB":
            return f"{count_bytes:.0f} B" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1000
    raise AssertionError("unreachable")


def show_seconds(seconds: float) -> str:
    """A time that something takes, as precisely as people plan: `40 s`, `7 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


DECIMAL_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS = DECIMAL_UNITS | {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_bytes(text: str, *, least: int = 1) -> int:
    """Read a size such as `4 GiB`, `12TB` or `65536`. Raises `UsageError` for anything else or for less than `least`."""
    found = re.fullmatch(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)\s*", text)
    size_bytes = int(Fraction(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else -1
    if size_bytes < least:
        raise UsageError("not a size", expected="a number and a unit, such as '4 GiB' or '12 TB'", found=repr(text))
    return size_bytes


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """Where a block lies: the record that starts at `offset_bytes` of a pack."""

    locator: Locator
    pack_id: uuid.UUID
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """A named root that files come from. `root` is an absolute path on `host`."""

    id: uuid.UUID
    name: str
    host: str
    root: bytes

    def __post_init__(self) -> None:
        check_source_name(self.name)


@dataclass(frozen=True, slots=True)
class VersionEnd:
    """The fact that a version was found gone, or replaced by another, at a time."""

    version_id: uuid.UUID
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Release:
    """The fact that the store gave a content up at a time, as two proven copies were on tape."""

    content: Content
    released_ns: int


NAMES_ON_TAPE = ("MANIFEST", "NO-FILES.txt")


def check_source_name(name: str) -> None:
    """Raise `UsageError` unless `name` can be the first folder of every name on tape.

    Tape files have members of their own called `MANIFEST` and `NO-FILES.txt`, so no source may be called that.
    """
    plain = name.isprintable() and "/" not in name and name == name.strip()
    if not plain or name in ("", ".", "..", *NAMES_ON_TAPE) or name.startswith("-") or len(name.encode()) > 100:
        raise UsageError(
            "this cannot be the name of a source",
            expected="1 to 100 bytes of printable text without '/', not starting with '-', not MANIFEST or NO-FILES.txt",
            found=repr(name),
            hint="choose another with --source NAME",
        )
