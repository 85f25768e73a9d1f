"""What a recorded command did to its files, one frozen record for each thing.

Paths are relative to the watched root, parts joined by `/`, the root itself is `.`; with several roots each path
begins with the root's own name. Names that are not UTF-8 carry surrogates, as `os.fsdecode` makes them.
A `file_id` names one file, whatever it is called: it survives renames and is never given to a second file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Write:
    """`data` was written at `offset_bytes` of the file; `path` is what it was called then ("" if it had no name)."""

    file_id: int
    path: str
    offset_bytes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """The file's size became `size_bytes`: cut, or extended with zeros."""

    file_id: int
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Create:
    """A new empty file. An "unnamed" one (O_TMPFILE) has path "" until it is linked."""

    path: str
    file_id: int
    kind: Literal["file", "unnamed"] = "file"
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Symlink:
    """A new symbolic link."""

    path: str
    file_id: int
    target: str


@dataclass(frozen=True, slots=True)
class Link:
    """The file got `path` as one more name."""

    file_id: int
    path: str


@dataclass(frozen=True, slots=True)
class Rename:
    """What was called `old` is now called `new`; what was called `new` before has lost that name."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """A file or symbolic link lost the name `path`."""

    path: str


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """A new empty folder."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class RemoveFolder:
    """An empty folder went."""

    path: str


@dataclass(frozen=True, slots=True)
class Sync:
    """fsync or fdatasync of one file (`file_id`) or of one folder (`is_folder`) came back with success.

    It covers the events before `begin_seq`, the count of events there were when the call began. The folder that
    holds a root is written as the root's path and `/..`.
    """

    path: str
    file_id: int | None
    is_folder: bool
    begin_seq: int


@dataclass(frozen=True, slots=True)
class SyncAll:
    """sync or syncfs: as if every file and every folder were synced."""

    begin_seq: int


@dataclass(frozen=True, slots=True)
class Said:
    """The command wrote `data` to its standard output."""

    data: bytes


Event: TypeAlias = (
    Write | Truncate | Create | Symlink | Link | Rename | Unlink | MakeFolder | RemoveFolder | Sync | SyncAll | Said
)

ContentEvent: TypeAlias = Write | Truncate
NameEvent: TypeAlias = Create | Symlink | Link | Rename | Unlink | MakeFolder | RemoveFolder


def describe(event: Event) -> str:
    """The event in a few words, for labels and for people."""
    match event:
        case Write():
            return f"write {event.path or 'unnamed file'} {event.offset_bytes}+{len(event.data)}"
        case Truncate():
            return f"truncate {event.path or 'unnamed file'} to {event.size_bytes}"
        case Sync():
            return f"fsync {event.path or 'unnamed file'}"
        case SyncAll():
            return "sync"
        case Said():
            return f"said {event.data[:40]!r}"
        case _:
            return _describe_name(event)


def _describe_name(event: NameEvent) -> str:
    match event:
        case Create():
            return f"create {event.path or 'unnamed file'}"
        case Symlink():
            return f"symlink {event.path} to {event.target}"
        case Link():
            return f"link {event.path}"
        case Rename():
            return f"rename {event.old} to {event.new}"
        case Unlink():
            return f"unlink {event.path}"
        case MakeFolder():
            return f"mkdir {event.path}"
        case RemoveFolder():
            return f"rmdir {event.path}"
