"""Packs in a folder of a file system: the vault's own, or another one, such as that of a file server.

Also the one place where a local pack is opened to be read, and where it is removed once another backend has it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast import durable
from holdfast.blocks.backends.backend import (
    HeldPack,
    OpenPack,
    Progress,
    incoming_name,
    is_incoming,
    pack_id_of,
    pack_name,
    parts_of,
)
from holdfast.errors import BackendError

PART_BYTES = 4 * 1024 * 1024


class PosixPack:
    """An open pack of a file system."""

    def __init__(self, path: Path, *, from_medium: bool = False) -> None:
        """`from_medium`: drop its pages first, so that the disk is asked and not the memory. Raises OSError."""
        self.place = str(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self._descriptor).st_size
        if from_medium:
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return os.preadv(self._descriptor, [buffer], offset)

    def forget(self) -> bool:
        return False

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def remove_file(folder: Path, pack_id: uuid.UUID) -> None:
    """The pack's file is gone, durably; also where it was not there."""
    (folder / pack_name(pack_id)).unlink(missing_ok=True)
    durable.sync_folder(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        durable.sync_file(descriptor)
    finally:
        os.close(descriptor)


def _held(pack_id: uuid.UUID, status: os.stat_result) -> HeldPack:
    return HeldPack(pack_id, status.st_size, f"{status.st_ino}-{status.st_mtime_ns}")


class PosixBackend:
    """A folder of packs. A pack is written beside its name and linked to it when it is durable: whole, or not at all.

    The folder must be there: one that is made by itself might be that of a disk which is not mounted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = folder.as_uri()

    def packs(self) -> Iterator[HeldPack]:
        with self._explained(), os.scandir(self._folder) as entries:
            for entry in entries:
                pack_id = pack_id_of(entry.name)
                if pack_id is not None and entry.is_file():
                    yield _held(pack_id, entry.stat())

    def held(self, pack_id: uuid.UUID) -> HeldPack | None:
        with self._explained(pack_id):
            try:
                return _held(pack_id, (self._folder / pack_name(pack_id)).stat())
            except FileNotFoundError:
                self._folder.stat()  # the pack is not there; the folder must be
                return None

    def open(self, pack_id: uuid.UUID) -> OpenPack | None:
        with self._explained(pack_id):
            try:
                return PosixPack(self._folder / pack_name(pack_id), from_medium=True)
            except FileNotFoundError:
                self._folder.stat()  # the pack is not there; the folder must be
                return None

    def put(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> bool:
        path, incoming = self._folder / pack_name(pack_id), self._folder / incoming_name(pack_id)
        with self._explained(pack_id):
            try:
                if path.exists():
                    _sync(path)  # whoever put it there may not have
                    return False
                self._write(incoming, source, progress)
                path.hardlink_to(incoming)
            except FileExistsError:
                return False
            except FileNotFoundError:
                if not path.exists():
                    raise
                return False  # another one was quicker, and has cleared up
            finally:
                incoming.unlink(missing_ok=True)
                self._clear_up(path, pack_id)
                durable.sync_folder(self._folder)  # also of a name that somebody made who was killed before this
        return True

    def _clear_up(self, path: Path, pack_id: uuid.UUID) -> None:
        """Once the pack is there, whatever is or was on its way to its name is of no use."""
        if path.exists():
            for other in self._folder.glob(f"{path.name}.*"):
                if is_incoming(other.name, pack_id):
                    other.unlink(missing_ok=True)

    def _write(self, path: Path, source: OpenPack, progress: Progress) -> None:
        with durable.disk_full_explained(path):
            descriptor = durable.create_file(path)
            try:
                for part in parts_of(source, PART_BYTES, progress):
                    durable.write_all(descriptor, part)
                durable.sync_file(descriptor)
            finally:
                os.close(descriptor)

    def remove(self, pack_id: uuid.UUID) -> None:
        with self._explained(pack_id):
            remove_file(self._folder, pack_id)

    def is_within(self, folder: Path, pack_id: uuid.UUID | None = None) -> bool:
        """Whether this is that folder, or the pack in it that pack, by whatever name or mount of a file server.

        Never False for one that is, as far as inodes and times of change tell.
        """
        name = "" if pack_id is None else pack_name(pack_id)
        with self._explained(pack_id):
            one, other = (self._folder / name).stat(), (folder / name).stat()
        return (one.st_ino, one.st_size, one.st_ctime_ns) == (other.st_ino, other.st_size, other.st_ctime_ns)

    @contextmanager
    def _explained(self, pack_id: uuid.UUID | None = None) -> Generator[None, None, None]:
        place = self.url if pack_id is None else f"{self.url}/{pack_name(pack_id)}"
        try:
            with durable.disk_full_explained(self._folder):
                yield
        except OSError as error:
            raise BackendError(
                "the folder of packs cannot be used",
                place=place,
                found=error.strerror or str(error),
                hint="make the folder, mount it, or mend what is named; then run the same command again",
            ) from error
