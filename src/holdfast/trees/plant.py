"""Putting files back on disk: below one folder and never outside it, each complete or not there.

Every step goes through descriptors of folders that were opened without following links, so no link on the way, old or
just planted, leads outside. A file is written under a temporary name, checked, and given its owner, mode and times;
a group of files is synced at once, and only then do they get their names. Folders get their modes and times last,
deepest first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast import durable
from holdfast.errors import HoldfastError, SourceError
from holdfast.values import FileVersion, show_path

COMPARE_BYTES = 1024 * 1024
HOLE_BYTES = 4096

GROUP_FILES = 512
GROUP_BYTES = 256 * 1024 * 1024
"""So many files, or bytes, are synced together before they get their names."""


class Occupied(SourceError):
    """Something else is there already."""


@dataclass(slots=True)
class NewFile:
    """A file that is being written; `write` every piece in order."""

    descriptor: int
    sparse: bool

    def write(self, piece: memoryview) -> None:
        if self.sparse and not any(piece[:HOLE_BYTES]) and not any(piece):
            os.lseek(self.descriptor, len(piece), os.SEEK_CUR)
        else:
            durable.write_all(self.descriptor, piece)

    def restart(self) -> None:
        """Forget what was written: the copy it came from was bad."""
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)


class Planter:
    """Plants versions below `root`; use as a context manager, and call `flush` before what needs the files' names.

    `refused` is told of each file that could not be given its name, as another had come there meanwhile.
    """

    def __init__(self, root: Path, *, overwrite: bool, refused: Callable[[FileVersion, HoldfastError], None]) -> None:
        self._refused = refused
        self._waiting: list[FileVersion] = []
        self._waiting_bytes = 0
        durable.make_folder(root)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._overwrite = overwrite
        self._is_root_user = os.geteuid() == 0

    def __enter__(self) -> Planter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for version in self._waiting:
                with self._folder(_parent(version)) as folder:
                    _remove(folder, _temporary(version))
        finally:
            os.close(self._root)

    @contextmanager
    def _folder(self, path: bytes) -> Generator[int, None, None]:
        """An open descriptor of the folder at `path`, made where it is missing."""
        descriptor = os.dup(self._root)
        try:
            for part in path.split(b"/") if path else ():
                inner = _open_or_make(descriptor, part)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def folder(self, version: FileVersion) -> None:
        """Make the folder; its mode and times come last, by `finish_folder`."""
        with self._explained(version), self._folder(version.full_path):
            pass

    def finish_folder(self, version: FileVersion) -> None:
        with self._explained(version), self._folder(version.full_path) as descriptor:
            self._dress(descriptor, version)

    def link(self, version: FileVersion) -> bool:
        """Plant a symbolic link; False when the very same is there already."""
        name, target = _name(version), version.link_target or b""
        with self._explained(version), self._folder(_parent(version)) as folder:
            if _read_link(folder, name) == target:
                return False
            temporary = _temporary(version)
            _remove(folder, temporary)
            os.symlink(target, temporary, dir_fd=folder)
            if self._is_root_user:
                os.chown(temporary, *_owner(version), dir_fd=folder, follow_symlinks=False)
            times = (version.attributes.mtime_ns, version.attributes.mtime_ns)
            os.utime(temporary, ns=times, dir_fd=folder, follow_symlinks=False)
            self._rename(folder, temporary, name)
        return True

    def hard_link(self, version: FileVersion, first: FileVersion) -> None:
        """Plant a further name of a file that was planted before."""
        name, target = _name(version), _name(first)
        with self._explained(version), self._folder(_parent(version)) as folder, self._folder(_parent(first)) as other:
            if _same_inode(folder, name, other, target):
                return
            temporary = _temporary(version)
            _remove(folder, temporary)
            os.link(target, temporary, src_dir_fd=other, dst_dir_fd=folder, follow_symlinks=False)
            self._rename(folder, temporary, name)

    def is_planted(self, version: FileVersion) -> bool:
        """Whether the file is there already: same size, mode, mtime, and the same SHA-256 when read."""
        with self._explained(version), self._folder(_parent(version)) as folder:
            return _holds(folder, _name(version), version)

    def take_over(self, version: FileVersion) -> bool:
        """Whether a run that was killed left the whole file, under its temporary name: then `flush` names it.

        The same is asked of it as of a file that is there already; mtime is set last of all.
        """
        with self._explained(version), self._folder(_parent(version)) as folder:
            if not _holds(folder, _temporary(version), version):
                return False
            self._refuse_occupied(folder, _name(version))
        self._will_be_named(version)
        return True

    def file(self, version: FileVersion, fill: Callable[[NewFile], None]) -> None:
        """Plant a file: `fill` writes its bytes, and raises unless they are what the version says.

        The file is whole, under a temporary name, when this returns; `flush` gives it its own. Raises what `fill`
        raises, `Occupied` when another file is in the way, and `SourceError` when the disk refuses it.
        """
        with self._explained(version), self._folder(_parent(version)) as folder:
            self._refuse_occupied(folder, _name(version))
            self._write(folder, version, fill)
        self._will_be_named(version)

    def _will_be_named(self, version: FileVersion) -> None:
        self._waiting.append(version)
        self._waiting_bytes += version.size_bytes
        if len(self._waiting) >= GROUP_FILES or self._waiting_bytes >= GROUP_BYTES:
            self.flush()

    def _write(self, folder: int, version: FileVersion, fill: Callable[[NewFile], None]) -> None:
        temporary = _temporary(version)
        _remove(folder, temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            fill(NewFile(descriptor, version.attributes.sparse))
            os.ftruncate(descriptor, version.size_bytes)
            self._dress(descriptor, version)
        except BaseException:
            _remove(folder, temporary)
            raise
        finally:
            os.close(descriptor)

    def flush(self) -> None:
        """Sync the files that wait, and give them their names."""
        if not self._waiting:
            return
        durable.sync_file_system(self._root)
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for version in waiting:
            try:
                with self._explained(version), self._folder(_parent(version)) as folder:
                    self._rename(folder, _temporary(version), _name(version))
            except SourceError as error:
                self._refused(version, error)

    def sync(self) -> None:
        """When this returns, everything that was planted survives a power cut, names and times too."""
        self.flush()
        durable.sync_file_system(self._root)

    def _dress(self, descriptor: int, version: FileVersion) -> None:
        """Owner, mode and times, in the order in which they do not undo each other."""
        if self._is_root_user:
            os.fchown(descriptor, *_owner(version))
        os.fchmod(descriptor, version.attributes.mode)
        os.utime(descriptor, ns=(version.attributes.mtime_ns, version.attributes.mtime_ns))

    def _rename(self, folder: int, temporary: bytes, name: bytes) -> None:
        try:
            self._refuse_occupied(folder, name)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            _remove(folder, temporary)
            raise

    def _refuse_occupied(self, folder: int, name: bytes) -> None:
        if not self._overwrite and _exists(folder, name):
            raise Occupied(
                "another file is there already", hint="restore to an empty folder, or add --overwrite to replace it"
            )

    @contextmanager
    def _explained(self, version: FileVersion) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise durable.disk_full_error(Path(show_path(version.full_path))) from error
            raise SourceError(f"it cannot be written: {error.strerror}", place=show_path(version.full_path)) from error
        except HoldfastError as error:
            error.place = error.place or show_path(version.full_path)
            raise


def stands(root: Path, version: FileVersion) -> bool:
    """Whether a `Planter` would find the file there, or take it over; for those who only look: nothing is made."""
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        for part in _parent(version).split(b"/") if _parent(version) else ():
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        return any(_holds(folder, name, version) for name in (_name(version), _temporary(version)))
    except OSError:
        return False
    finally:
        os.close(folder)


def _name(version: FileVersion) -> bytes:
    return version.full_path.rpartition(b"/")[2]


def _parent(version: FileVersion) -> bytes:
    return version.full_path.rpartition(b"/")[0]


def _temporary(version: FileVersion) -> bytes:
    return b".holdfast-" + version.id.hex.encode() + b".part"


def _owner(version: FileVersion) -> tuple[int, int]:
    return version.attributes.uid, version.attributes.gid


def _open_or_make(folder: int, name: bytes) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        os.mkdir(name, 0o700, dir_fd=folder)
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Occupied("a link or a file stands where a folder must be; it is not followed") from error
        raise


def _exists(folder: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove(folder: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _read_link(folder: int, name: bytes) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None


def _same_inode(folder: int, name: bytes, other: int, target: bytes) -> bool:
    try:
        one = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    two = os.stat(target, dir_fd=other, follow_symlinks=False)
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)


def _holds(folder: int, name: bytes, version: FileVersion) -> bool:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        attributes = version.attributes
        wanted = (version.size_bytes, attributes.mtime_ns, attributes.mode)
        if (status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode)) != wanted or version.content is None:
            return False
        return hashlib.file_digest(file, "sha256").digest() == version.content.sha256
