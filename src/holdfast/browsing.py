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
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from holdfast.blocks import BlockReader, ContentFile
from holdfast.catalog import Catalog, files
from holdfast.config import open_vault
from holdfast.errors import IntegrityError, SourceError
from holdfast.values import FileVersion, Kind, Segment, Source
from holdfast.vault import packs_of

MOST_LINKS = 40
"""So many links are followed for one name, as Linux does (path_resolution(7))."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name of the tree, and where it is: in which source, at which path of it, links followed.

    `version` is None for the vault itself and for a source whose folder was never seen.
    """

    name: str
    kind: Kind
    size_bytes: int
    version: FileVersion | None
    source: str = ""
    path: bytes = b""


class VaultTree:
    """The tree of a vault as it is now, or was at a time (ns since 1970). A context manager; safe for threads.

    Every method raises `SourceError` for a name that is not there.
    """

    def __init__(self, folder: Path, as_of_ns: int | None = None) -> None:
        settings = open_vault(folder)
        self._packs = packs_of(settings)
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
        """What is at a name; links in the folders above it are followed, and one at the name itself is told."""
        return self._walk(_clean(name), follow_last=False)

    def entries(self, name: str) -> list[TreeEntry]:
        """What is in a folder, or where a link there leads, by name. Raises `SourceError` for what is none."""
        clean = _clean(name)
        if not clean:
            return [self.entry(source.name) for source in sorted(self._sources(), key=lambda item: item.name)]
        folder = self._walk(clean, follow_last=True)
        if folder.kind is not Kind.FOLDER:
            raise SourceError("not a folder", place=name, found=folder.kind.value)
        with self._catalog.reading() as connection:
            found = files.present_in_folder(connection, folder.source, folder.path, self._as_of_ns)
        return [_entry(f"{clean}/{_last(path)}", found[path].version) for path in sorted(found)]

    def open(self, name: str) -> ContentFile:
        """A file as one that is read from anywhere, every byte checked; links within its source are followed.

        Raises `SourceError` for what is no file, and `IntegrityError` when the block store does not have its bytes.
        """
        entry = self._walk(_clean(name), follow_last=True)
        if entry.kind is not Kind.FILE or entry.version is None:
            raise SourceError("not a file", place=name, found=entry.kind.value)
        return ContentFile(BlockReader(self._packs, self._catalog), self._segments(entry.version, name))

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

    def _walk(self, name: str, *, follow_last: bool) -> TreeEntry:
        """What is at a name, part by part as path_resolution(7) says: a link is followed before what stands behind it."""
        if not name:
            return TreeEntry("", Kind.FOLDER, 0, None)
        source = self._source_of(name)
        if source is None:
            raise _missing(name)
        todo = deque(_parts(name[len(source.name) :]))
        if ".." in todo:
            raise _missing(name)  # in a name, as opposed to a link: nobody needs it
        at, links = list[bytes](), 0
        entry = self._at(source, at, name)
        while todo:
            at = _step(at, todo.popleft(), name)
            entry = self._at(source, at, name)
            if entry.kind is Kind.LINK and (todo or follow_last):
                links += 1
                at = at[:-1]
                todo.extendleft(reversed(_target(entry, links)))
                entry = self._at(source, at, name)
            elif entry.kind is not Kind.FOLDER and todo:
                raise _missing(name)
        return replace(entry, name=name)

    def _at(self, source: Source, parts: list[bytes], name: str) -> TreeEntry:
        """What is at a path of a source, no link followed."""
        path = b"/".join(parts)
        with self._catalog.reading() as connection:
            found = files.present_at(connection, source.name, path, self._as_of_ns)
        if found is not None:
            return _entry(name, found.version)
        if not path:
            return TreeEntry(name, Kind.FOLDER, 0, None, source.name)
        raise _missing(name)

    def _source_of(self, name: str) -> Source | None:
        fitting = (item for item in self._sources() if name == item.name or name.startswith(item.name + "/"))
        return max(fitting, key=lambda item: len(item.name), default=None)

    def _sources(self) -> list[Source]:
        with self._catalog.reading() as connection:
            return files.all_sources(connection)


def _entry(name: str, version: FileVersion) -> TreeEntry:
    return TreeEntry(name, version.kind, version.size_bytes, version, version.source, version.path)


def _step(at: list[bytes], part: str, name: str) -> list[bytes]:
    """The place that one part of a name leads to. Raises `SourceError` where that is outside of the source."""
    if part != "..":
        return [*at, _as_bytes(part, name)]
    if not at:
        raise SourceError("a link leads out of its source", place=name)
    return at[:-1]


def _target(entry: TreeEntry, links: int) -> list[str]:
    """The parts of where a link leads. Raises `SourceError` if nothing is known of that, or after too many links."""
    assert entry.version is not None
    target = os.fsdecode(entry.version.link_target or b"")
    if target.startswith("/"):
        raise SourceError("a link leads out of its source", place=entry.name, found=target)
    if links > MOST_LINKS:
        raise SourceError("too many links", place=entry.name, expected=f"at most {MOST_LINKS}")
    return _parts(target)


def _as_bytes(part: str, name: str) -> bytes:
    try:
        return os.fsencode(part)
    except UnicodeEncodeError:
        raise _missing(repr(name)) from None


def _parts(name: str) -> list[str]:
    """Without empty parts and `.`."""
    return [part for part in name.split("/") if part not in ("", ".")]


def _clean(name: str) -> str:
    return "/".join(_parts(name))


def _last(path: bytes) -> str:
    return os.fsdecode(path.rpartition(b"/")[2])


def _missing(name: str) -> SourceError:
    return SourceError("no such file in the vault", place=name, hint="holdfast ls shows what is there")
