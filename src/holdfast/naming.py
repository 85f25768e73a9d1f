"""Finding file versions by the names that people use: `<source>/<path>`, a path on this machine, or a pattern."""

from __future__ import annotations

import fnmatch
import os
import socket
from collections.abc import Callable
from datetime import datetime

from holdfast.catalog import Catalog, PresentVersion, files
from holdfast.errors import SourceError, UsageError
from holdfast.values import FileVersion, Kind, Source, show_path

Matcher = Callable[[FileVersion], bool]


def matcher(catalog: Catalog, patterns: tuple[str, ...]) -> Matcher:
    """Whether a version is meant by any of the patterns; everything is meant when there are none.

    A pattern is a name, a folder (then everything below it is meant), or a glob over the whole name, in which `*`
    also stands for `/`. Paths on this machine that lie in a source are taken as well.
    """
    if not patterns:
        return lambda _: True
    with catalog.reading() as connection:
        sources = files.all_sources(connection)
    names = [_as_name(os.fsencode(pattern), sources) for pattern in patterns]
    return lambda version: any(_matches(version.full_path, name) for name in names)


def _matches(full_path: bytes, name: bytes) -> bool:
    return full_path == name or full_path.startswith(name + b"/") or fnmatch.fnmatchcase(full_path, name)


def _as_name(pattern: bytes, sources: list[Source]) -> bytes:
    """The name in the vault that a pattern means: a path on this machine becomes `<source>/<path>`."""
    host = socket.gethostname()
    first = pattern.partition(b"/")[0].decode("utf-8", "replace")
    if not any(fnmatch.fnmatchcase(source.name, first) for source in sources):
        full = os.path.normpath(os.path.join(os.getcwdb(), pattern))
        for source in sorted(sources, key=lambda item: -len(item.root)):
            if source.host == host and (full == source.root or full.startswith(source.root.rstrip(b"/") + b"/")):
                rest = full[len(source.root) :].lstrip(b"/")
                return source.name.encode() + (b"/" + rest if rest else b"")
    return pattern.rstrip(b"/")


def find_version(catalog: Catalog, name: str, as_of_ns: int | None = None) -> PresentVersion:
    """The version with that very name that was there at a time, or the last one that was.

    Raises `SourceError` when there never was one.
    """
    with catalog.reading() as connection:
        sources = files.all_sources(connection)
        full = _as_name(os.fsencode(name), sources)
        for source in sorted(sources, key=lambda item: -len(item.name)):
            prefix = source.name.encode()
            if full == prefix or full.startswith(prefix + b"/"):
                found = files.versions_of_path(connection, source.name, full[len(prefix) + 1 :])
                for present, ended_ns in found:
                    if _is_void(present.version, ended_ns):
                        continue  # void: it changed before it was read, and nobody has its bytes
                    seen_ns = present.version.seen_ns
                    if as_of_ns is None or (seen_ns <= as_of_ns and (ended_ns is None or ended_ns > as_of_ns)):
                        return present
    raise SourceError("no such file in the vault", place=show_path(full), hint="holdfast ls shows what is there")


def _is_void(version: FileVersion, ended_ns: int | None) -> bool:
    return version.kind is Kind.FILE and version.content is None and ended_ns == version.seen_ns


def parse_time(text: str) -> int:
    """A time as people write it, in ns since 1970: ISO 8601 (local unless it says otherwise), or seconds since 1970.

    Raises `UsageError` for anything else.
    """
    try:
        if text.replace(".", "", 1).isdigit():
            return int(float(text) * 10**9)
        moment = datetime.fromisoformat(text)
        seconds = int(moment.replace(microsecond=0).timestamp())
        return seconds * 10**9 + moment.microsecond * 1000
    except (ValueError, OverflowError):
        raise UsageError(
            "not a time", expected="such as 2026-11-21T06:30 or 2026-11-21T06:30:00+00:00", found=repr(text)
        ) from None
