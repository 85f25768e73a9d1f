"""Trees of files as values: kept in pages so that the next one costs little, compared by digest, written to disk."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from holdfast.testing.roots import Roots

PAGE_BYTES = 16 * 1024
DIGEST_BYTES = 16


class Page:
    """Up to PAGE_BYTES of a file, never changed, with its digest at hand."""

    __slots__ = ("_digest", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._digest: bytes | None = None

    def digest(self) -> bytes:
        """Equal for equal bytes."""
        if self._digest is None:
            self._digest = hashlib.blake2b(self.data, digest_size=DIGEST_BYTES).digest()
        return self._digest


ZERO_PAGE = Page(bytes(PAGE_BYTES))


class Content:
    """The bytes of one file. Never changed: `written` and `resized` give another one that shares most pages.

    All pages are full but the last. Holes are zeros, in shared pages.
    """

    __slots__ = ("_digest", "_pages", "size_bytes")

    def __init__(self, pages: tuple[Page, ...] = (), size_bytes: int = 0) -> None:
        self._pages = pages
        self.size_bytes = size_bytes
        self._digest: bytes | None = None

    @classmethod
    def of(cls, data: bytes) -> Content:
        """These bytes."""
        return cls(_paged(data), len(data))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Content) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __bytes__(self) -> bytes:
        return b"".join(page.data for page in self._pages)

    def digest(self) -> bytes:
        """Equal for equal bytes."""
        if self._digest is None:
            whole = hashlib.blake2b(self.size_bytes.to_bytes(8, "big"), digest_size=DIGEST_BYTES)
            for page in self._pages:
                whole.update(page.digest())
            self._digest = whole.digest()
        return self._digest

    def pages(self) -> Iterator[bytes]:
        """The bytes, a page at a time."""
        return (page.data for page in self._pages)

    def written(self, offset_bytes: int, data: bytes) -> Content:
        """With `data` at `offset_bytes`; a gap before it is filled with zeros."""
        if not data:
            return self
        before = self if offset_bytes <= self.size_bytes else self.resized(offset_bytes)
        end = offset_bytes + len(data)
        first, after = offset_bytes // PAGE_BYTES, (end - 1) // PAGE_BYTES + 1
        region = b"".join(page.data for page in before._pages[first:after])
        cut = offset_bytes - first * PAGE_BYTES
        pages = _paged(region[:cut] + data + region[cut + len(data) :])
        return Content(before._pages[:first] + pages + before._pages[after:], max(before.size_bytes, end))

    def resized(self, size_bytes: int) -> Content:
        """Cut to this size, or extended to it with zeros."""
        full, rest = divmod(size_bytes, PAGE_BYTES)
        if size_bytes <= self.size_bytes:
            tail = (Page(self._pages[full].data[:rest]),) if rest else ()
            return Content(self._pages[:full] + tail, size_bytes)
        kept, partial = divmod(self.size_bytes, PAGE_BYTES)
        pages = self._pages[:kept]
        if partial:
            pages += (Page(self._pages[kept].data.ljust(min(PAGE_BYTES, size_bytes - kept * PAGE_BYTES), b"\0")),)
        pages += (ZERO_PAGE,) * (full - len(pages))
        return Content(pages + ((Page(bytes(rest)),) if rest and len(pages) == full else ()), size_bytes)


def _paged(data: bytes) -> tuple[Page, ...]:
    return tuple(Page(data[start : start + PAGE_BYTES]) for start in range(0, len(data), PAGE_BYTES))


EMPTY = Content()


@dataclass(frozen=True, slots=True)
class File:
    """A file at one of its paths; the same `file_id` at another path is a hard link to it."""

    content: Content
    mode: int
    file_id: int


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder; what it holds has its own paths."""

    mode: int


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


Node: TypeAlias = File | Folder | Link


class Tree:
    """A tree of files, folders and symbolic links, by path as in a recording: "." is the root, "a/b" below it.

    Two trees are equal if paths, bytes, link targets and hard links are; modes do not count, since a recording does
    not follow their changes. Never changed once made.
    """

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes: Mapping[str, Node] = dict(sorted(nodes.items()))
        self._digest: bytes | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __contains__(self, path: str) -> bool:
        return path in self.nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def read(self, path: str) -> bytes:
        """The bytes of the file at `path`. Raises `FileNotFoundError` if there is no file there."""
        node = self.nodes.get(path)
        if not isinstance(node, File):
            raise FileNotFoundError(path)
        return bytes(node.content)

    def files(self) -> dict[str, bytes]:
        """The bytes of every file by its path."""
        return {path: bytes(node.content) for path, node in self.nodes.items() if isinstance(node, File)}

    def digest(self) -> bytes:
        """Equal for equal trees."""
        if self._digest is None:
            whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
            first_paths: dict[int, str] = {}
            for path, node in self.nodes.items():
                whole.update(os.fsencode(path) + b"\0" + _node_bytes(path, node, first_paths))
            self._digest = whole.digest()
        return self._digest

    def write_to(self, folder: Path) -> None:
        """Make `folder` the image of the root (with several roots: the folder that holds them).

        It must not exist or be empty. If the root is not in the tree, `folder` is not made. Hard links are kept;
        modes too, except that the owner can always read and write.
        """
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"not empty: {folder}")
        written: dict[int, Path] = {}
        if self.nodes:
            folder.mkdir(parents=True, exist_ok=True)
        for path, node in self.nodes.items():  # sorted, so folders come before what they hold
            _write_node(folder / path, node, written)

    @classmethod
    def read_from(cls, folder: Path) -> Tree:
        """The tree of a folder on disk as a recording with this single root sees it. Empty if there is no folder."""
        return cls({called: _read_node(Path(path)) for path, called in Roots([folder]).walk()})


def _node_bytes(path: str, node: Node, first_paths: dict[int, str]) -> bytes:
    match node:
        case File():
            first = first_paths.setdefault(node.file_id, path)
            return b"F" + node.content.digest() + os.fsencode("" if first == path else first) + b"\0"
        case Folder():
            return b"D"
        case Link():
            return b"L" + os.fsencode(node.target) + b"\0"


def _write_node(path: Path, node: Node, written: dict[int, Path]) -> None:
    match node:
        case Folder():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(node.mode | stat.S_IRWXU)
        case Link():
            path.symlink_to(node.target)
        case File() if node.file_id in written:
            path.hardlink_to(written[node.file_id])
        case File():
            with path.open("wb") as file:
                file.writelines(node.content.pages())
            path.chmod(node.mode | stat.S_IRUSR | stat.S_IWUSR)
            written[node.file_id] = path


def _read_node(path: Path) -> Node:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Link(os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return Folder(mode)
    return File(Content.of(path.read_bytes()), mode, status.st_ino)
