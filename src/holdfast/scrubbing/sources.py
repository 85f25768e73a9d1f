"""Contents from the files that they came from, where these are still on this host and still the same."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence

from holdfast.catalog import Catalog, files, holders
from holdfast.errors import HoldfastError, SourceError
from holdfast.restoring.pieces import Piece, Target, catcher
from holdfast.tape.recall import Sink
from holdfast.trees import steady
from holdfast.values import Content, FileVersion, Source, show_path

READ_BYTES = 2**20
TRIED = 8
"""A content may be that of a hundred thousand files: so many of them are read."""


def read_from_sources(
    catalog: Catalog,
    wanted: Mapping[Content, Sequence[Piece]],
    failures: Mapping[Content, HoldfastError],
    target: Target,
    heed: Callable[[], object],
) -> dict[Content, HoldfastError]:
    """Hand out the pieces of those contents that failed so far; a file counts only with the very SHA-256.

    Returns the contents that no source has either, each with what was wrong on tape and at the last source.
    """
    with catalog.reading() as connection:
        sources = {source.name: source for source in files.all_sources(connection)}
    left: dict[Content, HoldfastError] = {}
    for content, failure in failures.items():
        why = _read_any(_candidates(catalog, content), sources, content, catcher(wanted[content], target, heed))
        if why is None:
            target.accept(wanted[content])
        else:
            left[content] = _on_neither(failure, why, content)
    return left


def _candidates(catalog: Catalog, content: Content) -> list[FileVersion]:
    with catalog.reading() as connection:
        return holders.files_of_content(connection, content, TRIED, hosts=[socket.gethostname()])


def _read_any(
    candidates: list[FileVersion], sources: Mapping[str, Source], content: Content, make_sink: Callable[[], Sink]
) -> str | None:
    """None when one of the files was good; else what was wrong with the last one."""
    why = "it is on another host"
    for version in candidates:
        try:
            found = _read(sources[version.source].root, version.path, content, make_sink())
        except OSError as error:
            found = error.strerror or str(error)
        if found is None:
            return None
        why = f"{show_path(version.full_path)}: {found}"
    return why


def _read(root: bytes, path: bytes, content: Content, sink: Sink) -> str | None:
    """The digest decides: it is that of the bytes that were handed out, whatever becomes of the file meanwhile."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
    with os.fdopen(steady.open_steady(root, path), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != content.size_bytes:
            return "it has another size"
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            sink(buffer[:count])
    return None if digest.digest() == content.sha256 else "it has other bytes"


def _on_neither(failure: HoldfastError, why: str, content: Content) -> HoldfastError:
    return SourceError(
        "neither a tape nor the source has it as it was",
        expected=f"SHA-256 {content.sha256.hex()}",
        found=f"on tape: {failure}; at its source: {why}",
    )
