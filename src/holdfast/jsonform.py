"""The JSON form of a file version, a source and an ending: one line each.

Packs (manifest records) and tapes (session catalogs) both carry these lines, so names and facts can be had back from
either alone. Pure: bytes in, values out. Every line has a key `is` that says what it is; readers skip keys that they do not
know, so later releases may add some.
"""

from __future__ import annotations

import base64
import uuid

import msgspec

from holdfast.values import (
    Attributes,
    Content,
    FileVersion,
    Kind,
    Locator,
    Release,
    Segment,
    Sighting,
    Source,
    VersionEnd,
    show_path,
)


class VersionLine(msgspec.Struct, omit_defaults=True, tag_field="is", tag="version"):
    """A file version with, where they are known, its segments in the store or its place on tape.

    `segments`: [locator, offset, length] each. `tape`: [object id, tape file, header offset, data offset], offsets in
    bytes from the start of the tape file.
    """

    id: str
    source: str
    path: str
    kind: str
    size: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    user: str
    group: str
    seen_ns: int
    path_b64: str | None = None
    sha256: str | None = None
    target_b64: str | None = None
    hard_link_of: str | None = None
    sparse: bool = False
    sighting: tuple[int, int, int, int] | None = None
    segments: list[tuple[str, int, int]] = []
    tape: tuple[str, int, int, int] | None = None
    void: bool = False


class EndLine(msgspec.Struct, tag_field="is", tag="end"):
    """A version that was found gone or replaced."""

    version: str
    ended_ns: int


class SourceLine(msgspec.Struct, tag_field="is", tag="source"):
    """A source that other lines name."""

    id: str
    name: str
    host: str
    root: str
    root_b64: str


class ReleaseLine(msgspec.Struct, tag_field="is", tag="release"):
    """A content that the block store gave up, as two proven copies were on tape."""

    sha256: str
    size: int
    released_ns: int


Line = VersionLine | EndLine | SourceLine | ReleaseLine

encode_line = msgspec.json.Encoder().encode


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def version_line(version: FileVersion, sighting: Sighting | None = None) -> VersionLine:
    """The line of `version`, still without segments and tape place."""
    shown = show_path(version.path)
    attributes = version.attributes
    return VersionLine(
        id=version.id.hex,
        source=version.source,
        path=shown,
        path_b64=None if shown.encode() == version.path else b64(version.path),
        kind=version.kind.value,
        size=version.size_bytes,
        mode=attributes.mode,
        mtime_ns=attributes.mtime_ns,
        uid=attributes.uid,
        gid=attributes.gid,
        user=attributes.user,
        group=attributes.group,
        sparse=attributes.sparse,
        seen_ns=version.seen_ns,
        sha256=version.content.sha256.hex() if version.content else None,
        target_b64=None if version.link_target is None else b64(version.link_target),
        hard_link_of=version.hard_link_of.hex if version.hard_link_of else None,
        sighting=None if sighting is None else (sighting.device, sighting.inode, sighting.ctime_ns, sighting.looked_ns),
    )


def version_of(line: VersionLine) -> FileVersion:
    """The version that `line` stands for. Raises `ValueError` for a path or digest that cannot be."""
    size = line.size
    return FileVersion(
        id=uuid.UUID(line.id),
        source=line.source,
        path=base64.b64decode(line.path_b64) if line.path_b64 is not None else line.path.encode(),
        kind=Kind(line.kind),
        size_bytes=size,
        attributes=Attributes(line.mode, line.mtime_ns, line.uid, line.gid, line.user, line.group, line.sparse),
        seen_ns=line.seen_ns,
        content=None if line.sha256 is None else Content(bytes.fromhex(line.sha256), size),
        link_target=None if line.target_b64 is None else base64.b64decode(line.target_b64),
        hard_link_of=None if line.hard_link_of is None else uuid.UUID(line.hard_link_of),
    )


def sighting_of(line: VersionLine) -> Sighting | None:
    """The sighting that `line` carries, if it does."""
    return None if line.sighting is None else Sighting(*line.sighting)


def segments_of(line: VersionLine) -> tuple[Segment, ...]:
    """The segments that `line` carries. Raises `UsageError` or `ValueError` for impossible ones."""
    return tuple(Segment(Locator.parse(name), offset, length) for name, offset, length in line.segments)


def source_line(source: Source) -> SourceLine:
    return SourceLine(source.id.hex, source.name, source.host, show_path(source.root), b64(source.root))


def source_of(line: SourceLine) -> Source:
    return Source(uuid.UUID(line.id), line.name, line.host, base64.b64decode(line.root_b64))


def end_line(end: VersionEnd) -> EndLine:
    return EndLine(end.version_id.hex, end.ended_ns)


def end_of(line: EndLine) -> VersionEnd:
    return VersionEnd(uuid.UUID(line.version), line.ended_ns)


def release_line(release: Release) -> ReleaseLine:
    return ReleaseLine(release.content.sha256.hex(), release.content.size_bytes, release.released_ns)


def release_of(line: ReleaseLine) -> Release:
    """The release that `line` stands for. Raises `ValueError` for a digest that cannot be."""
    return Release(Content(bytes.fromhex(line.sha256), line.size), line.released_ns)
