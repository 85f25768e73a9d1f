"""A vault as a tree of files that is only read: its sources, their folders, and any piece of any stored file.

    with VaultTree(folder) as tree:
        tree.names("night")                  what is in a folder, now or at a time
        with tree.open("night/a.uvh5") as file:
            file.seek(4096); file.read(64)

Names are `<source>/<path>`, as `holdfast ls` shows them; "" is the vault itself. No tape is mounted here: what is only on
tape has to be restored first.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from holdfast.blocks import BlockReader, ContentFile
from holdfast.catalog import Catalog, files
from holdfast.config import open_vault
from holdfast.errors import IntegrityError, SourceError
from holdfast.values import FileVersion, Kind, Segment, Source

MOST_LINKS = 40
"""So many links are followed for one name, as Linux does (path_resolution(7))."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name of the tree. `version` is None for the vault itself and for a source whose folder was never seen."""

    name: str
    kind: Kind
    size_bytes: int
    version: FileVersion | None


class VaultTree:
    """The tree of a vault as it is now, or was at a time (ns since 1970). A context manager; safe for threads.

    Every method raises `SourceError` for a name that is not there.
    """

    def __init__(self, folder: Path, as_of_ns: int | None = None) -> None:
        settings = open_vault(folder)
        self._packs_folder = settings.packs_folder
        self._as_of_ns = as_of_ns
        self._catalog = Catalog(settings.catalog_path)
        self._catalog.__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._catalog.__exit__(None, None, None)

    def entry(self, name: str) -> TreeEntry:
        """What is at a name; a link is told, not followed."""
        clean = _clean(name)
        if not clean:
            return TreeEntry("", Kind.FOLDER, 0, None)
        found = self._version(clean)
        if found is not None:
            return _entry(clean, found)
        if "/" not in clean and self._source_of(clean) is not None:
            return TreeEntry(clean, Kind.FOLDER, 0, None)
        raise _missing(clean)

    def entries(self, name: str) -> list[TreeEntry]:
        """What is in a folder, by name. Raises `SourceError` for what is none."""
        clean = _clean(name)
        if not clean:
            return [self.entry(source.name) for source in sorted(self._sources(), key=lambda item: item.name)]
        folder = self._followed(clean)
        if folder.kind is not Kind.FOLDER:
            raise SourceError("not a folder", place=name, found=folder.kind.value)
        source, path = self._split(folder.name)
        with self._catalog.reading() as connection:
            found = files.present_in_folder(connection, source.name, path, self._as_of_ns)
        begin = clean + "/"
        return [_entry(begin + os.fsdecode(path.rpartition(b"/")[2]), found[path].version) for path in sorted(found)]

    def open(self, name: str) -> ContentFile:
        """A file as one that is read from anywhere, every byte checked; links within its source are followed.

        Raises `SourceError` for what is no file, and `IntegrityError` when the block store does not have its bytes.
        """
        entry = self._followed(_clean(name))
        if entry.kind is not Kind.FILE or entry.version is None:
            raise SourceError("not a file", place=name, found=entry.kind.value)
        return ContentFile(BlockReader(self._packs_folder, self._catalog), self._segments(entry.version, name))

    def _segments(self, version: FileVersion, name: str) -> tuple[Segment, ...]:
        if version.content is not None and version.content.size_bytes == 0:
            return ()
        segments = None if version.content is None else self._catalog.find_segments(version.content)
        if segments is None:
            raise IntegrityError(
                "the block store does not have this file's bytes",
                place=name,
                hint=f"holdfast restore '{name}' --to DIR reads them from tape, if they are there",
            )
        return segments

    # -- names

    def _followed(self, name: str) -> TreeEntry:
        """What is at a name, or where the links there lead to."""
        for _ in range(MOST_LINKS):
            entry = self._through_links(name)
            if entry.kind is not Kind.LINK or entry.version is None:
                return entry
            name = self._target(entry)
        raise SourceError("too many links", place=name, expected=f"at most {MOST_LINKS}")

    def _through_links(self, name: str) -> TreeEntry:
        """What is at a name of which any folder may be a link."""
        try:
            return self.entry(name)
        except SourceError:
            for folder in _folders_above(name):
                above = self._version(folder)
                if above is not None and above.kind is Kind.LINK:
                    rest = name[len(folder) + 1 :]
                    return self._followed(f"{self._target(_entry(folder, above))}/{rest}")
            raise

    def _target(self, entry: TreeEntry) -> str:
        """Where a link leads. Raises `SourceError` if that is outside of its source, of which nothing is known."""
        assert entry.version is not None
        target = os.fsdecode(entry.version.link_target or b"")
        source = entry.version.source
        name = posixpath.normpath(posixpath.join(posixpath.dirname(entry.name), target))
        if target.startswith("/") or not (name == source or name.startswith(source + "/")):
            raise SourceError("a link leads out of its source", place=entry.name, found=target)
        return name

    def _version(self, name: str) -> FileVersion | None:
        source = self._source_of(name)
        if source is None:
            return None
        path = os.fsencode(name[len(source.name) + 1 :])
        with self._catalog.reading() as connection:
            found = files.present_at(connection, source.name, path, self._as_of_ns)
        return None if found is None else found.version

    def _split(self, name: str) -> tuple[Source, bytes]:
        source = self._source_of(name)
        if source is None:
            raise _missing(name)
        return source, os.fsencode(name[len(source.name) + 1 :])

    def _source_of(self, name: str) -> Source | None:
        fitting = (item for item in self._sources() if name == item.name or name.startswith(item.name + "/"))
        return max(fitting, key=lambda item: len(item.name), default=None)

    def _sources(self) -> list[Source]:
        with self._catalog.reading() as connection:
            return files.all_sources(connection)


def _entry(name: str, version: FileVersion) -> TreeEntry:
    return TreeEntry(name, version.kind, version.size_bytes, version)


def _clean(name: str) -> str:
    """Without slashes at its ends, `.` and empty parts. `..` stays, and names nothing."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _folders_above(name: str) -> Iterator[str]:
    """From the outermost on, without the name itself."""
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _missing(name: str) -> SourceError:
    return SourceError("no such file in the vault", place=name, hint="holdfast ls shows what is there")
