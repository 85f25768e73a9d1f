"""The only place that makes bytes durable.

Every fsync of Holdfast's own files is here, so that law 1 ("durable before said") can be read in one page. The rules
are those of POSIX taken strictly: a file's bytes survive a power cut after the file is synced; its *name* survives
after the folder that holds it is synced. SQLite does the same for its own files. Nothing here knows what it writes.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.errors import CapacityError, IntegrityError


@contextmanager
def disk_full_explained(place: Path) -> Generator[None, None, None]:
    """Turn "no space left on device" below this line into a `CapacityError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full_error(place) from error


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
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents; when this returns, every one of them survives a power cut."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def create_file(path: Path, mode: int = 0o644) -> int:
    """Create `path`, which must not exist; its name is durable when the open descriptor (read, write) is returned."""
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


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`: old or new content, never a mixture, and the new one for ever once this returns."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with disk_full_explained(path):
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

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Add the entries, in order; when this returns they survive a power cut."""
        if not entries:
            return
        data = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries).encode()
        with disk_full_explained(self.path):
            descriptor = self._open_for_append()
            try:
                write_all(descriptor, data)
                sync_file(descriptor)
            finally:
                os.close(descriptor)

    def _open_for_append(self) -> int:
        if not self.path.exists():
            return create_file(self.path)
        end = sum(len(line) for line in self._whole_lines())
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(descriptor, end)
        os.lseek(descriptor, end, os.SEEK_SET)
        return descriptor

    def _whole_lines(self) -> Iterator[bytes]:
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n") or b"\0" in line:
                    return
                yield line

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every whole line, oldest first; none when the journal does not exist."""
        for number, line in enumerate(self._whole_lines(), start=1):
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
