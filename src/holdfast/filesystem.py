"""The door for programs that read through `fsspec`: `holdfast://<source>/<path>`, read-only, every byte checked.

    pandas.read_csv("holdfast://night/log.csv", storage_options={"vault": "/archive/vault"})
    fs = fsspec.filesystem("holdfast", vault="/archive/vault", as_of="2026-11-20T12:00")
    h5py.File(fs.open("night/zen.2458661.23480.HH.uvh5"))

Options: `vault` (a folder; by default as for the commands), `as_of` (a time as `--as-of` takes it). Missing names are
`FileNotFoundError`, as programs expect; damage is `IntegrityError`. Only names and calls are translated here.
"""

# pyright: basic
# `fsspec` has no types of its own.

from __future__ import annotations

import errno
import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from fsspec.spec import AbstractFileSystem

from holdfast.browsing import TreeEntry, VaultTree
from holdfast.config import open_vault, vault_folder
from holdfast.errors import SourceError
from holdfast.naming import parse_time
from holdfast.values import Kind

BUFFER_BYTES = 64 * 1024
"""What an open file reads at least: a piece that is checked as a whole anyway."""
KEPT_TREES = 16
"""So many vaults, and times of them, stay open."""
TYPES = {Kind.FILE: "file", Kind.FOLDER: "directory", Kind.LINK: "link"}


class HoldfastFileSystem(AbstractFileSystem):
    """A vault as a file system of `fsspec`."""

    protocol: ClassVar[str] = "holdfast"
    root_marker = ""
    cachable = False  # the vault may be that of the environment, which may change; see `_tree`

    def __init__(self, vault: str | os.PathLike[str] | None = None, as_of: str | None = None, **options: Any) -> None:
        super().__init__(vault=vault, as_of=as_of, **options)
        folder = vault_folder(None if vault is None else Path(vault)).resolve()
        settings = open_vault(folder)
        made = os.stat(settings.catalog_path) if settings.catalog_path.exists() else None
        which = None if made is None else (made.st_dev, made.st_ino)
        self._vault = folder, None if as_of is None else parse_time(as_of), which

    @property
    def _tree(self) -> VaultTree:
        return _tree(*self._vault, os.getpid())  # a fork must not go on with the connections of its parent

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """A name without `holdfast://` and slashes at its ends; of a list, each."""
        return super()._strip_protocol(path)

    # -- reading

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The names in a folder, or the one of a file; with `detail` what `info` says of each."""
        name = self._strip_protocol(path)
        with _as_python_says(name):
            entry = self._tree.entry(name)
            entries = [entry] if entry.kind is Kind.FILE else self._tree.entries(name)
        return [_info(item) if detail else item.name for item in entries]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """`name`, `size` and `type`, as `fsspec` has them; and `mtime` (s), `mode`, `sha256` and `destination`."""
        name = self._strip_protocol(path)
        with _as_python_says(name):
            return _info(self._tree.entry(name))

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            _refuse(path)
        with _as_python_says(path):
            return io.BufferedReader(self._tree.open(path), BUFFER_BYTES)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file from `start` to before `end`, as a slice has them."""
        name = self._strip_protocol(path)
        with _as_python_says(name), self._tree.open(name) as file:
            begin, stop, _step = slice(start, end).indices(file.size_bytes)
            return file.part(begin, stop)

    def checksum(self, path: str) -> int:
        """Another one for another content."""
        return int(self.info(path)["sha256"] or "0", 16)

    def ukey(self, path: str) -> str:
        """What names the content: its SHA-256."""
        return self.info(path)["sha256"]

    def modified(self, path: str) -> datetime:
        """When the file was changed last, before it was archived."""
        return datetime.fromtimestamp(self.info(path)["mtime"], tz=UTC)

    # -- nothing is written

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> NoReturn:  # noqa: ARG002
        _refuse(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> NoReturn:  # noqa: ARG002
        _refuse(path)

    def rmdir(self, path: str) -> NoReturn:
        _refuse(path)

    def _rm(self, path: str) -> NoReturn:
        _refuse(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> NoReturn:  # noqa: ARG002
        _refuse(str(path))

    def cp_file(self, path1: str, path2: str, **_: Any) -> NoReturn:  # noqa: ARG002
        _refuse(path2)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> NoReturn:  # noqa: ARG002
        _refuse(path)


@lru_cache(KEPT_TREES)
def _tree(folder: Path, moment_ns: int | None, which: object, pid: int) -> VaultTree:  # noqa: ARG001
    """One tree for all who ask for the same vault, in one process: `which` tells it from another one at its place."""
    return VaultTree(folder, moment_ns)


def _refuse(path: str) -> NoReturn:
    raise OSError(errno.EROFS, "a vault is only read here; holdfast archive adds to it", path)


@contextmanager
def _as_python_says(name: str) -> Generator[None, None, None]:
    """A missing name, or one of another kind, as the error that Python's own `open` would raise."""
    try:
        yield
    except SourceError as error:
        kind = {"not a folder": NotADirectoryError, "not a file": IsADirectoryError}.get(
            error.message, FileNotFoundError
        )
        code = {NotADirectoryError: errno.ENOTDIR, IsADirectoryError: errno.EISDIR}.get(kind, errno.ENOENT)
        raise kind(code, str(error), name) from error


def _info(entry: TreeEntry) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": entry.name, "size": entry.size_bytes, "type": TYPES[entry.kind]}
    version = entry.version
    if version is not None:
        facts |= {
            "mtime": version.attributes.mtime_ns / 1e9,
            "mode": version.attributes.mode,
            "sha256": None if version.content is None else version.content.sha256.hex(),
        }
        if version.link_target is not None:
            facts |= {"islink": True, "destination": os.fsdecode(version.link_target)}
    return facts
