"""Walking a folder tree: what is there, name by name, without following links.

Only names and stats are read here. Every step goes through descriptors of open folders, so neither a path longer than
the kernel's limit nor a link that is swapped in can lead the walk astray. Entries come in the order of their bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.values import Kind


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was found. `path` is relative to the root; `link_target` is set for links only."""

    path: bytes
    kind: Kind
    stat: os.stat_result
    link_target: bytes | None = None
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that is there and cannot be kept: `reason` for people; `is_failure` if it should have been kept."""

    path: bytes
    reason: str
    is_failure: bool = True


@dataclass(frozen=True, slots=True)
class FolderEnd:
    """Every entry of the folder was told; `whole` is False when the folder could not be listed to its end."""

    path: bytes
    names: frozenset[bytes]
    whole: bool


Found = Entry | Unreadable | FolderEnd


def walk(root: bytes, below: bytes = b"", *, leave_out: tuple[int, int] | None = None) -> Iterator[Found]:
    """Everything at and under `root/below`, folders before what is in them.

    `leave_out` is the (device, inode) of a folder that is passed over: the vault itself. The root folder is told as
    the entry with the empty path. Raises OSError when `root/below` itself cannot be looked at.
    """
    start = os.path.join(root, below) if below else root
    status = os.stat(start) if not below else os.lstat(start)
    if not stat.S_ISDIR(status.st_mode):
        yield _entry_at(start, below, status)
        return
    entry = _folder_entry(start, below, status)
    yield entry
    yield from _walk_folder(start, entry, leave_out)


def _walk_folder(start: bytes, entry: Entry, leave_out: tuple[int, int] | None) -> Iterator[Found]:
    """Depth first, with an explicit stack: one open descriptor for each level."""
    try:
        stack = [_OpenFolder(os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), entry, leave_out)]
    except OSError as error:
        yield Unreadable(entry.path, f"the folder cannot be opened: {error.strerror}")
        yield FolderEnd(entry.path, frozenset(), whole=False)
        return
    try:
        while stack:
            found = next(stack[-1].steps, None)
            if found is None:
                yield stack[-1].end()
                stack.pop().close()
            elif isinstance(found, _OpenFolder):
                stack.append(found)  # owned by the stack before anybody is told of it
                yield found.entry
            else:
                yield found
    finally:
        for folder in stack:
            folder.close()


class _OpenFolder:
    """One folder of the walk: lists itself, then goes through its names."""

    def __init__(self, descriptor: int, entry: Entry, leave_out: tuple[int, int] | None) -> None:
        self.descriptor = descriptor
        self.entry = entry
        self.path = entry.path
        self.whole = True
        self.names: list[bytes] = []
        self._leave_out = leave_out
        self.steps: Iterator[Found | _OpenFolder] = self._steps()

    def end(self) -> FolderEnd:
        return FolderEnd(self.path, frozenset(self.names), self.whole)

    def close(self) -> None:
        os.close(self.descriptor)

    def _steps(self) -> Iterator[Found | _OpenFolder]:
        try:
            self.names = sorted(os.fsencode(name) for name in os.listdir(self.descriptor))
        except OSError as error:
            self.whole = False
            yield Unreadable(self.path, f"the folder cannot be listed: {error.strerror}")
        for name in self.names:
            yield from self._step(name)

    def _step(self, name: bytes) -> Iterator[Found | _OpenFolder]:
        path = self.path + b"/" + name if self.path else name
        try:
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == self._leave_out:
                yield Unreadable(path, "left out: it is the vault itself", is_failure=False)
            elif stat.S_ISDIR(status.st_mode):
                yield from self._step_into(name, path, status)
            else:
                yield self._entry(name, path, status)
        except OSError as error:
            yield Unreadable(path, error.strerror or str(error))

    def _step_into(self, name: bytes, path: bytes, status: os.stat_result) -> Iterator[Found | _OpenFolder]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self.descriptor)
        except OSError as error:
            yield Entry(path, Kind.FOLDER, status)
            yield Unreadable(path, f"the folder cannot be opened: {error.strerror}")
            yield FolderEnd(path, frozenset(), whole=False)
            return
        yield _OpenFolder(
            descriptor, Entry(path, Kind.FOLDER, status, dropped=_extended_attributes(descriptor)), self._leave_out
        )

    def _entry(self, name: bytes, path: bytes, status: os.stat_result) -> Found:
        target = None
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=self.descriptor)
        return _make_entry(path, status, target)


def _make_entry(path: bytes, status: os.stat_result, target: bytes | None) -> Found:
    if target is not None:
        return Entry(path, Kind.LINK, status, target)
    if stat.S_ISREG(status.st_mode):
        return Entry(path, Kind.FILE, status)
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    what = kinds.get(stat.S_IFMT(status.st_mode), "not a file")
    return Unreadable(path, f"left out: {what} holds no data to keep", is_failure=False)


def _entry_at(full_path: bytes, path: bytes, status: os.stat_result) -> Found:
    target = os.readlink(full_path) if stat.S_ISLNK(status.st_mode) else None
    return _make_entry(path, status, target)


def _folder_entry(full_path: bytes, path: bytes, status: os.stat_result) -> Entry:
    return Entry(path, Kind.FOLDER, status, dropped=_extended_attributes(full_path))


def _extended_attributes(target: int | bytes) -> tuple[str, ...]:
    """Names of the extended attributes (ACLs among them) of a file or folder: what will not be kept of it."""
    try:
        return tuple(os.listxattr(target))
    except OSError:
        return ()  # the file system has none


def dropped_attributes(descriptor: int) -> tuple[str, ...]:
    """Names of the extended attributes of an open file, which are not kept."""
    return _extended_attributes(descriptor)
