"""Which paths are watched, and the tree in them before the command runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from holdfast.testing.recording import SINGLE_ROOT, StartFile, StartFolder, StartNode, StartSymlink

IGNORED_SUFFIXES = ("-shm",)
"""Files nobody watches: SQLite maps its index of the log into memory and makes it anew after a crash."""

Identity = tuple[int, int]
"""(device, inode): which file it is, for as long as it exists."""


def identity(status: os.stat_result) -> Identity:
    """The file's identity."""
    return status.st_dev, status.st_ino


class Roots:
    """The watched folders. They need not exist yet, but the folders that hold them must."""

    def __init__(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        paths = [os.path.realpath(folder) for folder in folders]
        labels = [SINGLE_ROOT] if len(paths) == 1 else [os.path.basename(path) for path in paths]
        if not paths or len(set(labels)) != len(labels):
            raise ValueError(f"roots must be given and have different names: {paths}")
        if any(inner != outer and inner.startswith(outer + os.sep) for inner in paths for outer in paths):
            raise ValueError(f"no root may be inside another one: {paths}")
        self._label_of = dict(zip(paths, labels, strict=True))
        self.labels = tuple(labels)

    def relative(self, path: str) -> str | None:
        """How a recording calls this absolute path (symbolic links resolved); None if it is not watched."""
        if path.endswith(IGNORED_SUFFIXES):
            return None
        for root, label in self._label_of.items():
            if path == root:
                return label
            if path.startswith(root + os.sep):
                inner = path[len(root) + 1 :]
                return inner if label == SINGLE_ROOT else f"{label}/{inner}"
        return None

    def held_by(self, folder: str) -> list[str]:
        """The labels of the roots whose directory entry is in this folder."""
        return [label for root, label in self._label_of.items() if os.path.dirname(root) == folder]

    def devices(self) -> set[int]:
        """The filesystems the roots are on, by device number."""
        return {os.stat(root).st_dev for root in self._label_of if os.path.exists(root)}

    def walk(self) -> Iterator[tuple[str, str]]:
        """(absolute path, path in the recording) of all that is there, folders ahead of what they hold, sorted."""
        pending = sorted(self._label_of, reverse=True)
        while pending:
            path = pending.pop()
            called = self.relative(path)
            if called is None or not os.path.lexists(path):
                continue
            yield path, called
            if os.path.isdir(path) and not os.path.islink(path):
                pending.extend(sorted((os.path.join(path, name) for name in os.listdir(path)), reverse=True))


def known_files(roots: Roots) -> dict[Identity, int]:
    """The ids given to the files and symbolic links that are there now."""
    ids: dict[Identity, int] = {}
    for path, _ in roots.walk():
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            ids.setdefault(identity(status), len(ids) + 1)
    return ids


def snapshot(roots: Roots, ids: Mapping[Identity, int]) -> tuple[StartNode, ...]:
    """The tree as it is now, files with their bytes. Sockets, pipes and devices are left out."""
    data: dict[int, bytes] = {}  # read once for all names of a file
    nodes: list[StartNode] = []
    for path, called in roots.walk():
        status = os.lstat(path)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            nodes.append(StartFolder(called, mode))
            continue
        file_id = ids[identity(status)]
        if stat.S_ISLNK(status.st_mode):
            nodes.append(StartSymlink(called, file_id, os.readlink(path)))
        elif stat.S_ISREG(status.st_mode):
            if file_id not in data:
                data[file_id] = Path(path).read_bytes()
            nodes.append(StartFile(called, file_id, data[file_id], mode))
    return tuple(nodes)
