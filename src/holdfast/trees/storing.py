"""The recorder that reads files into the block store: each byte once, straight into the block that will hold it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import cast

from holdfast.blocks import StoreWriter
from holdfast.blocks.store import Pieces
from holdfast.catalog import Catalog, PresentVersion, files
from holdfast.errors import SourceError
from holdfast.reports import Kept, Problem
from holdfast.trees import steady
from holdfast.trees.keep import TRIES, ReadFile
from holdfast.trees.walk import Entry, dropped_attributes
from holdfast.values import EMPTY_CONTENT, Content, FileVersion, Segment, Sighting, Source, VersionEnd, show_path

READ_BYTES = 1024 * 1024

Place = tuple[Pieces, tuple[Segment, ...]]


class StoringRecorder:
    """See the module. Versions become durable with the writer's groups."""

    knows_contents = True

    def __init__(self, catalog: Catalog, writer: StoreWriter, progress: Callable[[int], None]) -> None:
        self._catalog = catalog
        self._writer = writer
        self._progress = progress
        self._looks: list[tuple[int, Sighting]] = []

    def read(self, source: Source, entry: Entry, known: PresentVersion | None, kept: Kept, /) -> ReadFile:
        for attempt in range(1, TRIES + 1):
            try:
                return self._read_once(source, entry, known, kept)
            except steady.Changed:
                if attempt == TRIES:
                    raise SourceError(
                        f"the file would not hold still: it changed in each of {TRIES} readings"
                    ) from None
                entry = _look_again(source, entry)
        raise AssertionError("unreachable")

    def _read_once(self, source: Source, entry: Entry, before: PresentVersion | None, kept: Kept) -> ReadFile:
        looked_ns = steady.now_ns()
        descriptor = _open(source, entry)
        try:
            steady.check_unchanged(entry.stat, descriptor, entry.path)
            content, place = self._keep(descriptor, entry)
            steady.check_unchanged(entry.stat, descriptor, entry.path)
            _report_dropped(kept, source, entry, descriptor)
        except OSError as error:
            raise SourceError(f"the file cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)
        pieces, segments = place
        known = self._writer.find(content) if content.size_bytes else None
        if known is not None:
            pieces, segments = known
        elif content.size_bytes and not pieces and not self._was_given_up(before, content):
            pieces = self._writer.keep_small(content.size_bytes)
        kept.read_bytes += content.size_bytes
        return ReadFile(entry, looked_ns, content, (pieces, segments), is_duplicate=known is not None)

    def _was_given_up(self, before: PresentVersion | None, content: Content) -> bool:
        """Whether the file holds what it held before, and the store gave that up: it need not have it again."""
        return before is not None and before.version.content == content and self._catalog.was_released(content)

    def _keep(self, descriptor: int, entry: Entry) -> tuple[Content, Place]:
        """Read the whole file; a small one lies in room that is not claimed yet, a large one in blocks of its own."""
        size = entry.stat.st_size
        if size == 0:
            return EMPTY_CONTENT, ((), ())
        if size <= self._writer.small_limit_bytes:
            return self._read_small(descriptor, size, entry), ((), ())
        return self._read_large(descriptor, size, entry)

    def _read_small(self, descriptor: int, size: int, entry: Entry) -> Content:
        room = self._writer.small_room(size)
        filled = 0
        while filled < size:
            count = os.readv(descriptor, [room[filled:]])
            if count == 0:
                raise _shrunk(entry)
            filled += count
        self._progress(size)
        return Content(hashlib.sha256(room).digest(), size)

    def _read_large(self, descriptor: int, size: int, entry: Entry) -> tuple[Content, Place]:
        large = self._writer.large()
        digest = hashlib.sha256()
        left = size
        try:
            while left:
                room = large.room()[: min(left, READ_BYTES)]
                count = os.readv(descriptor, [room])
                if count == 0:
                    raise _shrunk(entry)
                digest.update(room[:count])
                large.filled(count)
                left -= count
                self._progress(count)
        except BaseException:
            large.abandon()
            raise
        return Content(digest.digest(), size), (large.finish(), ())

    def add(self, source: Source, version: FileVersion, file: ReadFile) -> None:
        pieces, segments = _place_of(file)
        if not pieces and not segments and version.content is not None and version.size_bytes:
            pieces, segments = self._writer.find(version.content) or ((), ())
        sighting = steady.sighting_of(file.entry.stat, file.looked_ns)
        self._writer.add(source, version, sighting, pieces=pieces, segments=segments)

    def look(self, row: int, file: ReadFile) -> None:
        self._looks.append((row, steady.sighting_of(file.entry.stat, file.looked_ns)))
        if len(self._looks) >= files.PAGE_ROWS:
            self.flush_looks()

    def flush_looks(self) -> None:
        """Record the looks that were collected."""
        looks, self._looks = self._looks, []
        if looks:
            with self._catalog.transaction() as connection:
                files.record_looks(connection, looks)

    def end(self, end: VersionEnd) -> None:
        self._writer.end(end)


def _place_of(file: ReadFile) -> Place:
    return ((), ()) if file.ticket is None else cast("Place", file.ticket)


def _open(source: Source, entry: Entry) -> int:
    try:
        return steady.open_steady(source.root, entry.path)
    except OSError as error:
        raise SourceError(f"the file cannot be opened: {error.strerror}") from error


def _look_again(source: Source, entry: Entry) -> Entry:
    descriptor = _open(source, entry)
    try:
        return Entry(entry.path, entry.kind, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _shrunk(entry: Entry) -> steady.Changed:
    return steady.Changed("the file became shorter while it was read", place=show_path(entry.path))


def _report_dropped(kept: Kept, source: Source, entry: Entry, descriptor: int) -> None:
    names = dropped_attributes(descriptor)
    if names:
        reason = "extended attributes are not kept: " + ", ".join(names)
        kept.problems.append(Problem(source.name + "/" + show_path(entry.path), reason, failed=False))
