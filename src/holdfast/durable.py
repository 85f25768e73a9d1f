"""The only place that makes bytes durable.

Every fsync of Holdfast's own files is here, so that law 1 ("durable before said") can be read in one page. The rules
are those of POSIX taken strictly: a file's bytes survive a power cut after the file is synced; its *name* survives
after the folder that holds it is synced. SQLite does the same for its own files. Nothing here knows what it writes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.errors import CapacityError, IntegrityError


@contextmanager
def disk_full_explained(place: Path) -> Generator[None, None, None]:
    """Turn "no space left on device" below this line into a `CapacityError` that says what to do.

    Other errors of the system pass; those that name no file, as it was open already, name `place`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full_error(place) from error
        if error.filename is None:
            error.filename = str(place)
        raise


def disk_full_error(place: Path) -> CapacityError:
    """The error that says that the disk which holds `place` is full, and how to go on."""
    return CapacityError(
        "the disk is full; nothing that was said to be stored is lost",
        place=str(place),
        hint="make space on this disk, then run the same command again: it goes on where it stopped",
    )


def sync_file(descriptor: int) -> None:
    """When this returns, the bytes and the size of the open file survive a power cut."""
    os.fdatasync(descriptor)


def sync_folder(folder: Path) -> None:
    """When this returns, the names in `folder` (made, renamed, removed) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with disk_full_explained(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """When this returns, everything written so far on the open file's file system survives a power cut.

    One call for many small files costs far less than one for each.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def settle_file(path: Path) -> None:
    """Make durable what a killed run may have written at `path` without syncing it, so that it can be believed.

    Nobody else may be writing it. Read it after this, not before: should the disk have refused to take something,
    memory no longer says otherwise.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with disk_full_explained(path):
            sync_file(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents; when this returns, every one of them survives a power cut."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    try:
        sync_folder(folder.parent)  # a run that was killed may have made `folder` and not come to this
    except PermissionError:
        pass  # then that run was not ours: ours would have failed here as well
    with disk_full_explained(folder):
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


def create_file(path: Path, mode: int = 0o644) -> int:
    """Create `path`, which must not exist; its name is durable when the open descriptor (read, write) is returned."""
    with disk_full_explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        sync_folder(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte of `data` at the file's position, however many calls the kernel takes for it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_all_at(descriptor: int, data: memoryview, offset: int) -> None:
    """The same at an offset, wherever the file stands."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`: old or new content, never a mixture, and the new one for ever once this returns.

    For one writer at a time, as the new content is first written beside the old one, at `path` with `.new` behind it.
    """
    temporary = path.with_name(path.name + ".new")
    with disk_full_explained(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)


class Journal:
    """An append-only file of JSON lines.

    `append` returns after the lines are durable. What a power cut tore off the last append is no entry: readers stop
    there, and the next append cuts it off first. A torn tail is one without a newline, or one with NUL bytes, which
    is how pages that never reached the disk read back. Any other line that is not a JSON object is an
    `IntegrityError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole_bytes = 0  # known to end with a whole line there: not read again by each append

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Add the entries, in order; when this returns they survive a power cut."""
        if not entries:
            return
        data = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries).encode()
        with disk_full_explained(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # what looks torn may be another process's append
                self._append(descriptor, data)
            finally:
                os.close(descriptor)

    def _append(self, descriptor: int, data: bytes) -> None:
        start = self._end_of_whole_lines(descriptor)
        if start == 0:
            sync_folder(self.path.parent)  # the file's name: new, or made by a run that was killed before this
        os.ftruncate(descriptor, start)
        os.lseek(descriptor, start, os.SEEK_SET)
        try:
            write_all(descriptor, data)
            sync_file(descriptor)
        except BaseException:
            # nobody was told: what the kernel could not write must not stand, unsynced, before later entries
            os.ftruncate(descriptor, start)
            raise
        self._whole_bytes = start + len(data)

    def _end_of_whole_lines(self, descriptor: int) -> int:
        start = self._whole_bytes if self._whole_bytes <= os.fstat(descriptor).st_size else 0
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(start)
            return start + sum(map(len, _whole_lines(file)))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every whole line, oldest first; none when the journal does not exist."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file, disk_full_explained(self.path):
            for number, line in enumerate(_whole_lines(file), start=1):
                yield self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise IntegrityError(
                "damaged line in a journal",
                place=f"{self.path} line {number}",
                expected="one JSON object",
                found=repr(line[:80]),
                hint="keep a copy of the journal, then restore it from a backup",
            )
        return entry  # pyright: ignore[reportUnknownVariableType]


def _whole_lines(file: Iterable[bytes]) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n") or b"\0" in line:
            return
        yield line
