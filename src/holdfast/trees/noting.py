"""The in-place way: files are noted, not stored; the dump reads them from the source itself.

A version noted here has no content until it was dumped. A file that is not what was noted when the dump comes to it
is void there, and is noted anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from holdfast.catalog import Catalog, PresentVersion, files
from holdfast.errors import SourceError
from holdfast.reports import Kept, Problem
from holdfast.trees import steady
from holdfast.trees.keep import ReadFile
from holdfast.trees.walk import Entry, dropped_attributes
from holdfast.values import EMPTY_CONTENT, Content, FileVersion, Sighting, Source, VersionEnd, show_path

BATCH = 4096
READ_BYTES = 1024 * 1024


class NotingRecorder:
    """Records versions without reading them, except where only reading can tell whether one changed."""

    knows_contents = False

    def __init__(self, catalog: Catalog, progress: Callable[[int], None]) -> None:
        self._catalog = catalog
        self._progress = progress
        self._sources: dict[str, Source] = {}
        self._versions: list[tuple[FileVersion, Sighting]] = []
        self._looks: list[tuple[int, Sighting]] = []
        self._ends: list[VersionEnd] = []

    def read(self, source: Source, entry: Entry, known: PresentVersion | None, kept: Kept, /) -> ReadFile:
        looked_ns = steady.now_ns()
        self._progress(entry.stat.st_size)
        _look_inside(source, entry, kept)
        if entry.stat.st_size == 0:
            return ReadFile(entry, looked_ns, EMPTY_CONTENT)
        if known is None or known.version.content is None or known.version.size_bytes != entry.stat.st_size:
            return ReadFile(entry, looked_ns)
        kept.read_bytes += entry.stat.st_size
        return ReadFile(entry, looked_ns, _digest(source, entry))

    def add(self, source: Source, version: FileVersion, file: ReadFile) -> None:
        self._sources[source.name] = source
        content = version.content
        if content is not None and content.size_bytes:
            # read only to compare: the dump reads it again, so its content is not known before that
            version = _without_content(version)
        self._versions.append((version, steady.sighting_of(file.entry.stat, file.looked_ns)))
        self._flush_if_full()

    def look(self, row: int, file: ReadFile) -> None:
        self._looks.append((row, steady.sighting_of(file.entry.stat, file.looked_ns)))
        self._flush_if_full()

    def end(self, end: VersionEnd) -> None:
        self._ends.append(end)
        self._flush_if_full()

    def _flush_if_full(self) -> None:
        if len(self._versions) + len(self._looks) + len(self._ends) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Record what was collected, in one transaction."""
        with self._catalog.transaction() as connection:
            files.record_sources(connection, self._sources.values())
            files.record_versions(connection, self._versions)
            files.record_looks(connection, self._looks)
            files.record_ends(connection, self._ends)
        self._versions, self._looks, self._ends = [], [], []


def _without_content(version: FileVersion) -> FileVersion:
    return FileVersion(
        id=version.id,
        source=version.source,
        path=version.path,
        kind=version.kind,
        size_bytes=version.size_bytes,
        attributes=version.attributes,
        seen_ns=version.seen_ns,
        hard_link_of=version.hard_link_of,
    )


def _look_inside(source: Source, entry: Entry, kept: Kept) -> None:
    """Raise `SourceError` if the file cannot be opened: better now than when room was taken for it on tape."""
    try:
        descriptor = steady.open_steady(source.root, entry.path)
    except OSError as error:
        raise SourceError(f"the file cannot be opened: {error.strerror}") from error
    try:
        if names := dropped_attributes(descriptor):
            reason = "extended attributes are not kept: " + ", ".join(names)
            kept.problems.append(Problem(source.name + "/" + show_path(entry.path), reason, failed=False))
    finally:
        os.close(descriptor)


def _digest(source: Source, entry: Entry) -> Content:
    digest = hashlib.sha256()
    try:
        with os.fdopen(steady.open_steady(source.root, entry.path), "rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                digest.update(piece)
            steady.check_unchanged(entry.stat, file.fileno(), entry.path)
    except OSError as error:
        raise SourceError(f"the file cannot be read: {error.strerror}") from error
    return Content(digest.digest(), entry.stat.st_size)


class InPlaceContents:
    """Where the dump takes the bytes of noted versions from: the source itself."""

    def __init__(self, catalog: Catalog) -> None:
        with catalog.reading() as connection:
            self._sources = {source.name: source for source in files.all_sources(connection)}

    def open(self, item: PresentVersion) -> InPlaceFile:
        return InPlaceFile(self._sources[item.version.source], item)


class InPlaceFile:
    """One file of a source, read while it is dumped; believed only if it is what was noted, before and after."""

    def __init__(self, source: Source, item: PresentVersion) -> None:
        self._item = item
        self._descriptor = -1
        self._root = source.root

    def __enter__(self) -> InPlaceFile:
        self._descriptor = steady.open_steady(self._root, self._item.version.path)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        try:
            self.check()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read_into(self, room: memoryview) -> int:
        return os.readv(self._descriptor, [room])

    def check(self) -> None:
        status = os.fstat(self._descriptor)
        version, sighting = self._item.version, self._item.sighting
        found = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        noted = (version.size_bytes, version.attributes.mtime_ns, sighting.ctime_ns, sighting.inode)
        if found != noted:
            raise steady.Changed("the file changed after it was looked at")
