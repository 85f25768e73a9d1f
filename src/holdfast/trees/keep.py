"""Comparing a source with the catalog, and keeping what is new.

The walk says what is there; the catalog says what was there. What is unchanged is not opened. What is new or changed
goes to a *recorder*: one reads the bytes into the block store (`storing`), one only notes them down, to be read when
they are dumped (`noting`). What is gone is ended. A folder that cannot be listed ends nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from holdfast.catalog import Catalog, PresentVersion, files
from holdfast.errors import SourceError
from holdfast.reports import Kept, Problem
from holdfast.trees import steady
from holdfast.trees.walk import Entry, FolderEnd, Unreadable, walk
from holdfast.values import Content, FileVersion, Kind, Source, VersionEnd, parent_path, show_path

TRIES = 3
"""How often a file that changes while it is read is read again before it is reported."""


class Recorder(Protocol):
    """Where versions go.

    `knows_contents`: a version has its content when it is recorded; otherwise only after it was dumped.
    """

    knows_contents: bool

    def read(self, source: Source, entry: Entry, known: PresentVersion | None, kept: Kept, /) -> ReadFile:
        """The content of a file as it is now; raises `SourceError` when it cannot be read or holds not still.

        `known` is what the catalog has at its path.
        """
        ...

    def add(self, source: Source, version: FileVersion, file: ReadFile) -> None:
        """Record a new version whose content `read` (or nothing) gave."""
        ...

    def look(self, row: int, file: ReadFile) -> None:
        """A version was read again and is the same."""
        ...

    def end(self, end: VersionEnd) -> None: ...


@dataclass(slots=True)
class ReadFile:
    """What reading a file gave: its stat, its content (None: not read), and what the recorder keeps for `add`."""

    entry: Entry
    looked_ns: int
    content: Content | None = None
    ticket: object = None
    is_duplicate: bool = False


class TreeKeeper:
    """Goes through a source once, below a path, and records what changed."""

    def __init__(
        self,
        catalog: Catalog,
        source: Source,
        recorder: Recorder,
        *,
        recheck: bool,
        leave_out: tuple[int, int],
        progress: Callable[[int], None],
    ) -> None:
        self._catalog = catalog
        self._source = source
        self._recorder = recorder
        self._recheck = recheck
        self._leave_out = leave_out
        self._progress = progress
        self._known: dict[bytes, dict[bytes, PresentVersion]] = {}
        self._inodes: dict[tuple[int, int], tuple[uuid.UUID, ReadFile]] = {}
        self.kept = Kept()

    def keep(self, below: bytes) -> Kept:
        """Look at everything under `below`; raises OSError when `below` itself is not there."""
        for found in walk(self._source.root, below, leave_out=self._leave_out):
            if isinstance(found, Entry):
                self._entry(found)
            elif isinstance(found, FolderEnd):
                self._folder_end(found)
            else:
                self._unreadable(found)
        return self.kept

    def _count(self, entry: Entry) -> None:
        if entry.kind is Kind.FILE:
            self.kept.files += 1
            self.kept.seen_bytes += entry.stat.st_size
        elif entry.kind is Kind.FOLDER:
            self.kept.folders += 1
        else:
            self.kept.links += 1

    # -- what the walk found

    def _entry(self, entry: Entry) -> None:
        self._count(entry)
        known = self._known_at(entry.path)
        if entry.kind is Kind.FOLDER:
            self._known[entry.path] = self._present_in(entry.path)
        if known is not None and known.version.kind is not entry.kind:
            self._end(known, steady.now_ns())
            known = None
        if entry.kind is Kind.FILE:
            self._file(entry, known)
        else:
            self._plain(entry, known)
        self._report_dropped(entry.path, entry.dropped)

    def _known_at(self, path: bytes) -> PresentVersion | None:
        folder = self._known.get(parent_path(path)) if path else None
        if folder is not None:
            return folder.get(path)
        with self._catalog.reading() as connection:
            return files.present_at(connection, self._source.name, path)

    def _present_in(self, path: bytes) -> dict[bytes, PresentVersion]:
        with self._catalog.reading() as connection:
            return files.present_in_folder(connection, self._source.name, path)

    def _folder_end(self, end: FolderEnd) -> None:
        known = self._known.pop(end.path, {})
        if not end.whole:
            return
        now_ns = steady.now_ns()
        for path, present in known.items():
            if path.rpartition(b"/")[2] not in end.names:
                self._end(present, now_ns)

    def _unreadable(self, found: Unreadable) -> None:
        path = self._source.name + "/" + show_path(found.path)
        self.kept.problems.append(Problem(path, found.reason, failed=found.is_failure))

    def _report_dropped(self, path: bytes, names: tuple[str, ...]) -> None:
        if names:
            reason = "extended attributes are not kept: " + ", ".join(names)
            self.kept.problems.append(Problem(self._source.name + "/" + show_path(path), reason, failed=False))

    def _end(self, present: PresentVersion, now_ns: int) -> None:
        """The version is gone, and so is everything under it, however deep.

        What is in a folder ends before the folder does: were the run cut between two group commits, a folder that
        is still there in the catalog leads the next run to what is left in it.
        """
        waiting = [(present, False)]
        while waiting:
            gone, emptied = waiting.pop()
            if gone.version.kind is Kind.FOLDER and not emptied:
                waiting.append((gone, True))
                waiting += ((inside, False) for inside in self._present_in(gone.version.path).values())
            else:
                self._recorder.end(VersionEnd(gone.version.id, now_ns))
                self.kept.ended += 1

    # -- folders and links

    def _plain(self, entry: Entry, known: PresentVersion | None) -> None:
        attributes = steady.attributes_of(entry.stat)
        if known is not None:
            version = known.version
            if version.attributes == attributes and version.link_target == entry.link_target:
                self.kept.unchanged += 1
                return
        self._record(ReadFile(entry, steady.now_ns()), known, None)

    # -- files

    def _file(self, entry: Entry, known: PresentVersion | None) -> None:
        if known is not None and not self._recheck and self._is_unchanged(entry, known):
            self.kept.unchanged += 1
            self._progress(entry.stat.st_size)
            self._remember_inode(
                entry, _group_of(known.version), ReadFile(entry, known.sighting.looked_ns, known.version.content)
            )
            return
        try:
            file, first = self._read(entry, known)
        except SourceError as error:
            self.kept.problems.append(Problem(self._source.name + "/" + show_path(entry.path), error.message))
            return
        if known is not None and self._is_same(file, known) and self._is_linked_as_before(entry, known, first):
            self._recorder.look(known.row, file)
            self.kept.unchanged += 1
            self._remember_inode(entry, _group_of(known.version), file)
        else:
            self._record(file, known, first)

    def _is_unchanged(self, entry: Entry, known: PresentVersion) -> bool:
        return steady.is_unchanged(entry.stat, known.version, known.sighting) and (
            known.version.attributes == steady.attributes_of(entry.stat)
        )

    def _is_same(self, file: ReadFile, known: PresentVersion) -> bool:
        version = known.version
        if version.attributes != steady.attributes_of(file.entry.stat) or version.size_bytes != file.entry.stat.st_size:
            return False
        if version.content is None and not self._recorder.knows_contents:
            # Noted, and not dumped as far as is known: no bytes were promised, whatever another name of it gave. A
            # killed run may have dumped them, though, and the catalog learn of it later: a file that was touched
            # since is another version, or the bytes of before would pass for those of now.
            status = file.entry.stat
            return (status.st_ino, status.st_ctime_ns) == (known.sighting.inode, known.sighting.ctime_ns)
        return file.content is None or version.content == file.content

    def _is_linked_as_before(self, entry: Entry, known: PresentVersion, first: uuid.UUID | None) -> bool:
        """Whether the name belongs to the same hard links as when it was recorded."""
        version, is_other_inode = known.version, entry.stat.st_ino != known.sighting.inode
        if first is not None:
            return _group_of(version) == first
        if version.hard_link_of is not None:
            return entry.stat.st_nlink > 1 and not is_other_inode
        if not is_other_inode:
            return True
        with self._catalog.reading() as connection:
            return not files.leads_hard_links(connection, version.id)

    def _read(self, entry: Entry, known: PresentVersion | None) -> tuple[ReadFile, uuid.UUID | None]:
        """What the file holds; for a further hard link, what was read through the first one, and its version."""
        first = self._inodes.get((entry.stat.st_dev, entry.stat.st_ino)) if entry.stat.st_nlink > 1 else None
        if first is not None and steady.same_file(first[1].entry.stat, entry.stat):
            self._progress(entry.stat.st_size)
            return ReadFile(entry, first[1].looked_ns, first[1].content, first[1].ticket), first[0]
        return self._recorder.read(self._source, entry, known, self.kept), None

    def _record(self, file: ReadFile, known: PresentVersion | None, first: uuid.UUID | None) -> None:
        status = file.entry.stat
        # a further name of a file is seen now, however long ago its bytes were read
        seen_ns = file.looked_ns if first is None else steady.now_ns()
        version = FileVersion(
            id=files.new_version_id(seen_ns),
            source=self._source.name,
            path=file.entry.path,
            kind=file.entry.kind,
            size_bytes=status.st_size if file.entry.kind is Kind.FILE else 0,
            attributes=steady.attributes_of(status),
            seen_ns=seen_ns,
            content=file.content,
            link_target=file.entry.link_target,
            hard_link_of=first,
        )
        if known is not None:
            self._recorder.end(VersionEnd(known.version.id, seen_ns))
        self._recorder.add(self._source, version, file)
        if file.is_duplicate:
            self.kept.duplicate_files += 1
            self.kept.duplicate_bytes += version.size_bytes
        self._remember_inode(file.entry, _group_of(version), file)
        self.kept.new_versions += 1

    def _remember_inode(self, entry: Entry, group: uuid.UUID, file: ReadFile) -> None:
        if entry.stat.st_nlink > 1 and entry.kind is Kind.FILE:
            self._inodes.setdefault((entry.stat.st_dev, entry.stat.st_ino), (group, file))


def _group_of(version: FileVersion) -> uuid.UUID:
    """What tells the names of one file from those of another: the version of the name that was met first."""
    return version.hard_link_of or version.id
