"""Manifest records: the lines that name files, kept in the packs beside the blocks they name.

Pure. A manifest is JSON lines (see `holdfast.jsonform`): the sources, then versions with their segments,
then endings, then contents that were released. It is written only after every block that it names is durable (law 3), so whoever finds one may believe it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from holdfast import jsonform
from holdfast.errors import IntegrityError, UsageError
from holdfast.values import FileVersion, Release, Segment, Sighting, Source, VersionEnd


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version with where its content lies in the store (no segments: an empty file, a folder or a link)."""

    version: FileVersion
    sighting: Sighting | None
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one group commit adds to the store's names."""

    sources: tuple[Source, ...]
    versions: tuple[StoredVersion, ...]
    ends: tuple[VersionEnd, ...] = ()
    releases: tuple[Release, ...] = ()


def encode(manifest: Manifest) -> bytes:
    """The payload of a manifest record."""
    lines = [jsonform.encode_line(jsonform.source_line(source)) for source in manifest.sources]
    for stored in manifest.versions:
        line = jsonform.version_line(stored.version, stored.sighting)
        line.segments = [(str(s.locator), s.offset_bytes, s.length_bytes) for s in stored.segments]
        lines.append(jsonform.encode_line(line))
    lines.extend(jsonform.encode_line(jsonform.end_line(end)) for end in manifest.ends)
    lines.extend(jsonform.encode_line(jsonform.release_line(item)) for item in manifest.releases)
    return b"".join(line + b"\n" for line in lines)


def decode(payload: bytes) -> Manifest:
    """Read a manifest record's payload. Raises `IntegrityError` when a line cannot be what it says it is."""
    sources: list[Source] = []
    versions: list[StoredVersion] = []
    ends: list[VersionEnd] = []
    releases: list[Release] = []
    for number, text in enumerate(payload.splitlines(), start=1):
        try:
            line = msgspec.json.decode(text, type=jsonform.Line)
            if isinstance(line, jsonform.SourceLine):
                sources.append(jsonform.source_of(line))
            elif isinstance(line, jsonform.EndLine):
                ends.append(jsonform.end_of(line))
            elif isinstance(line, jsonform.ReleaseLine):
                releases.append(jsonform.release_of(line))
            else:
                versions.append(
                    StoredVersion(jsonform.version_of(line), jsonform.sighting_of(line), jsonform.segments_of(line))
                )
        except (ValueError, UsageError, msgspec.DecodeError) as error:
            raise IntegrityError("damaged manifest", place=f"line {number}", found=str(error)) from error
    return Manifest(tuple(sources), tuple(versions), tuple(ends), tuple(releases))
