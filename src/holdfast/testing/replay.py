"""What a disk may hold after a cut at any point of a recording.

Three kinds of cut:

killed
    The process is gone, the system lives: every write of the prefix is there.
dropped
    Power cut, everything not synced is lost. A file has its bytes (and size) as of its last fsync or fdatasync; a
    folder its entries as of its own last fsync. Syncing a file does not make its name durable: what has no durable
    name is gone, and a durable name of a file never synced is an empty file.
torn
    Power cut, in between, chosen by a seed: each write that is not synced survives whole, cut at a 512-byte boundary
    (head or tail), or not at all; a size change survives or not; the file may have the size it had, with zeros. Of
    each folder's unsynced changes a prefix survives.

A rename between two folders is atomic in all three: a sync of either folder makes it durable in both, together with
the earlier changes of the very names it touches, and only those.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal, NamedTuple, TypeAlias

from holdfast.testing.errors import ImpossibleEvent
from holdfast.testing.events import (
    ContentEvent,
    Create,
    Event,
    Link,
    MakeFolder,
    NameEvent,
    RemoveFolder,
    Rename,
    Said,
    Symlink,
    Sync,
    SyncAll,
    Truncate,
    Unlink,
    Write,
    describe,
)
from holdfast.testing.recording import SINGLE_ROOT, Recording, StartFile, StartFolder, StartNode, StartSymlink
from holdfast.testing.tree import EMPTY, Content, File, Folder, Node, Tree
from holdfast.testing.tree import Link as LinkNode

SECTOR_BYTES = 512
"""What a disk writes at once."""

Variant: TypeAlias = Literal["killed", "dropped", "torn"]
ALL_VARIANTS: tuple[Variant, ...] = ("killed", "dropped", "torn")


class State(NamedTuple):
    """One state a disk may be in: what was cut where, the tree, and what had been said until then."""

    label: str
    prefix: int
    tree: Tree
    said: bytes


# ---- the model ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _File:
    file_id: int
    mode: int
    live: Content = EMPTY
    durable: Content = EMPTY
    pending: list[tuple[int, ContentEvent]] = field(default_factory=list[tuple[int, ContentEvent]])


@dataclass(slots=True, eq=False)
class _Link:
    target: str


class _Folder:
    __slots__ = ("durable", "live", "mode")

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.live: dict[str, _Inode] = {}
        self.durable: dict[str, _Inode] = {}


_Inode: TypeAlias = _File | _Link | _Folder


@dataclass(frozen=True, slots=True)
class _NameChange:
    """One atomic change of directory entries: (folder, name, what it now names or None)."""

    index: int
    entries: tuple[tuple[_Folder, str, _Inode | None], ...]

    def touches(self, folder: _Folder, name: str | None) -> bool:
        return any(changed is folder and name in (None, called) for changed, called, _ in self.entries)

    def keys(self) -> set[tuple[int, str]]:
        return {(id(folder), name) for folder, name, _ in self.entries}


class Replayer:
    """Walks through a recording, one event at a time, and gives the tree a cut would leave there.

    `position` is the number of events applied. Raises `ImpossibleEvent` where an event does not fit the tree.
    """

    def __init__(self, recording: Recording) -> None:
        self.position = 0
        self.said = b""
        self._events = recording.events
        self._single = recording.roots == (SINGLE_ROOT,)
        self._holder = _Folder(0o755)  # of the roots; always there
        self._inodes: dict[int, _File | _Link] = {}
        self._dirty: dict[int, _File] = {}  # files with pending changes
        self._pending: list[_NameChange] = []
        self._live_version = 0
        self._durable_version = 0
        for node in recording.start:
            self._start(node)

    def advance(self) -> Event:
        """Apply the next event and return it. Raises `IndexError` at the end."""
        event = self._events[self.position]
        index = self.position
        self.position += 1
        match event:
            case Said():
                self.said += event.data
            case Write() | Truncate():
                self._change_content(index, event)
            case Sync() | SyncAll():
                self._sync(event)
            case _:
                self._change_names(index, event)
        return event

    def advance_to(self, position: int) -> None:
        """Apply the events up to this prefix. Raises `ValueError` if it lies behind: a replayer does not go back."""
        if position < self.position:
            raise ValueError(f"cannot go back from {self.position} to {position}")
        while self.position < position:
            self.advance()

    def tree(self, variant: Variant, seed: int = 0) -> Tree:
        """The tree after a cut here. `seed` matters to "torn" only."""
        match variant:
            case "killed":
                return self._walk(lambda folder: folder.live, lambda file: file.live)
            case "dropped":
                return self._walk(lambda folder: folder.durable, lambda file: file.durable)
            case "torn":
                return self._torn(random.Random(f"{seed}/{self.position}"))

    def version(self, variant: Variant) -> tuple[int, int]:
        """Changes when the tree of this variant may have; so equal ones need not be looked at again."""
        return (
            0 if variant == "dropped" else self._live_version,
            0 if variant == "killed" else self._durable_version,
        )

    # ---- paths ----------------------------------------------------------------------------------------------------

    def _parts(self, path: str) -> list[str]:
        if not self._single:
            return path.split("/")
        return [SINGLE_ROOT] if path == SINGLE_ROOT else [SINGLE_ROOT, *path.split("/")]

    def _folder(self, parts: Sequence[str]) -> _Folder:
        folder = self._holder
        for part in parts:
            found = folder.live.get(part)
            if not isinstance(found, _Folder):
                raise ImpossibleEvent(f"event {self.position}: no folder {'/'.join(parts)}")
            folder = found
        return folder

    def _entry(self, path: str) -> tuple[_Folder, str]:
        parts = self._parts(path)
        return self._folder(parts[:-1]), parts[-1]

    def _named(self, path: str) -> tuple[_Folder, str, _Inode]:
        folder, name = self._entry(path)
        if name not in folder.live:
            raise ImpossibleEvent(f"event {self.position}: nothing is called {path}")
        return folder, name, folder.live[name]

    def _inode(self, file_id: int) -> _File | _Link:
        inode = self._inodes.get(file_id)
        if inode is None:
            raise ImpossibleEvent(f"event {self.position}: no file has the id {file_id}")
        return inode

    # ---- applying -------------------------------------------------------------------------------------------------

    def _start(self, node: StartNode) -> None:
        folder, name = self._entry(node.path)
        inode: _Inode
        match node:
            case StartFolder():
                inode = _Folder(node.mode)
            case StartFile():
                content = Content.of(node.data)
                inode = self._inodes.setdefault(node.file_id, _File(node.file_id, node.mode, content, content))
            case StartSymlink():
                inode = self._inodes.setdefault(node.file_id, _Link(node.target))
        folder.live[name] = folder.durable[name] = inode

    def _change_content(self, index: int, event: ContentEvent) -> None:
        file = self._inode(event.file_id)
        if not isinstance(file, _File):
            raise ImpossibleEvent(f"event {index + 1}: {describe(event)} is about a symbolic link")
        file.live = _applied(file.live, event)
        file.pending.append((index, event))
        self._dirty[file.file_id] = file
        self._live_version += 1

    def _change_names(self, index: int, event: NameEvent) -> None:
        entries = self._changed_entries(event)
        for folder, name, inode in entries:
            _set_entry(folder.live, name, inode)
        if entries:
            self._pending.append(_NameChange(index, entries))
            self._live_version += 1

    def _changed_entries(self, event: NameEvent) -> tuple[tuple[_Folder, str, _Inode | None], ...]:
        match event:
            case Create():
                inode = self._inodes[event.file_id] = _File(event.file_id, event.mode)
                return ((*self._entry(event.path), inode),) if event.path else ()
            case Symlink():
                inode = self._inodes[event.file_id] = _Link(event.target)
                return ((*self._entry(event.path), inode),)
            case MakeFolder():
                return ((*self._entry(event.path), _Folder(event.mode)),)
            case Link():
                return ((*self._entry(event.path), self._inode(event.file_id)),)
            case Rename():
                folder, name, inode = self._named(event.old)
                return ((folder, name, None), (*self._entry(event.new), inode))
            case Unlink() | RemoveFolder():
                folder, name, _ = self._named(event.path)
                return ((folder, name, None),)

    # ---- durability -----------------------------------------------------------------------------------------------

    def _sync(self, event: Sync | SyncAll) -> None:
        self._durable_version += 1
        if isinstance(event, SyncAll):
            for file in list(self._dirty.values()):
                self._sync_file(file, event.begin_seq)
            self._sync_names(event.begin_seq, lambda _change: True)
        elif not event.is_folder:
            file = self._inode(event.file_id or 0)
            if isinstance(file, _File):
                self._sync_file(file, event.begin_seq)
        elif event.path.endswith("/.."):
            label = event.path.removesuffix("/..")
            self._sync_names(event.begin_seq, lambda change: change.touches(self._holder, label))
        else:
            folder = self._folder(self._parts(event.path))
            self._sync_names(event.begin_seq, lambda change: change.touches(folder, None))

    def _sync_file(self, file: _File, begin_seq: int) -> None:
        covered = sum(1 for _ in takewhile(lambda pending: pending[0] < begin_seq, file.pending))
        if covered == len(file.pending):
            file.durable = file.live
            self._dirty.pop(file.file_id, None)
        else:
            for _, event in file.pending[:covered]:
                file.durable = _applied(file.durable, event)
        del file.pending[:covered]

    def _sync_names(self, begin_seq: int, wanted: Callable[[_NameChange], bool]) -> None:
        """Make the wanted changes durable, and with each the earlier ones of the names it touches."""
        needed: set[tuple[int, str]] = set()
        chosen: list[_NameChange] = []
        for change in reversed(self._pending):
            if change.index < begin_seq and (wanted(change) or not needed.isdisjoint(change.keys())):
                chosen.append(change)
                needed |= change.keys()
        for change in reversed(chosen):
            for folder, name, inode in change.entries:
                _set_entry(folder.durable, name, inode)
        done = {change.index for change in chosen}
        self._pending = [change for change in self._pending if change.index not in done]

    # ---- trees ----------------------------------------------------------------------------------------------------

    def _walk(
        self, entries_of: Callable[[_Folder], Mapping[str, _Inode]], content_of: Callable[[_File], Content]
    ) -> Tree:
        nodes: dict[str, Node] = {}
        waiting: list[tuple[str, _Folder]] = [("", self._holder)]
        while waiting:
            prefix, folder = waiting.pop()
            for name, inode in entries_of(folder).items():
                path = prefix + name
                if isinstance(inode, _File):
                    nodes[path] = File(content_of(inode), inode.mode, inode.file_id)
                elif isinstance(inode, _Link):
                    nodes[path] = LinkNode(inode.target)
                else:
                    nodes[path] = Folder(inode.mode)
                    waiting.append(("" if path == SINGLE_ROOT else path + "/", inode))
        return Tree(nodes)

    def _torn(self, chance: random.Random) -> Tree:
        survival = chance.choice((0.1, 0.5, 0.9))  # so that some seeds lose nearly all, some nearly nothing
        contents = {file_id: _torn_content(file, chance, survival) for file_id, file in self._dirty.items()}
        names = self._torn_names(chance)
        return self._walk(
            lambda folder: names.get(id(folder), folder.durable),
            lambda file: contents.get(file.file_id, file.durable),
        )

    def _torn_names(self, chance: random.Random) -> dict[int, dict[str, _Inode]]:
        """The entries of each folder with a prefix of its pending changes; a change of two folders is atomic."""
        left: dict[int, int] = {}
        for change in self._pending:
            for folder_id in {id(folder): None for folder, _, _ in change.entries}:
                left[folder_id] = left.get(folder_id, 0) + 1
        left = {folder_id: chance.randint(0, count) for folder_id, count in left.items()}
        names: dict[int, dict[str, _Inode]] = {}
        for change in self._pending:
            folders = {id(folder): folder for folder, _, _ in change.entries}
            if any(left[folder_id] == 0 for folder_id in folders):
                left.update(dict.fromkeys(folders, 0))  # whatever follows it in these folders is lost as well
                continue
            for folder_id, folder in folders.items():
                left[folder_id] -= 1
                names.setdefault(folder_id, dict(folder.durable))
            for folder, name, inode in change.entries:
                _set_entry(names[id(folder)], name, inode)
        return names


def _set_entry(entries: dict[str, _Inode], name: str, inode: _Inode | None) -> None:
    if inode is None:
        entries.pop(name, None)
    else:
        entries[name] = inode


def _applied(content: Content, event: ContentEvent) -> Content:
    if isinstance(event, Write):
        return content.written(event.offset_bytes, event.data)
    return content.resized(event.size_bytes)


def _torn_content(file: _File, chance: random.Random, survival: float) -> Content:
    content = file.durable
    for _, event in file.pending:
        if chance.random() < survival:
            content = _applied(content, event)
        elif isinstance(event, Write) and chance.random() < 0.5:
            content = _applied(content, _torn_write(event, chance))
    if content.size_bytes < file.live.size_bytes and chance.random() < 0.5:
        content = content.resized(file.live.size_bytes)
    return content


def _torn_write(event: Write, chance: random.Random) -> Write:
    """The head or the tail of a write, cut where a sector ends; nothing of it if it lies within one sector."""
    end = event.offset_bytes + len(event.data)
    first = event.offset_bytes // SECTOR_BYTES + 1
    boundaries = range(first * SECTOR_BYTES, end, SECTOR_BYTES)
    if not boundaries:
        return Write(event.file_id, event.path, event.offset_bytes, b"")
    cut = chance.choice(boundaries)
    kept = cut - event.offset_bytes
    if chance.random() < 0.5:
        return Write(event.file_id, event.path, event.offset_bytes, event.data[:kept])
    return Write(event.file_id, event.path, cut, event.data[kept:])


# ---- all states of a recording ------------------------------------------------------------------------------------


def states(
    recording: Recording, variants: Iterable[Variant] = ALL_VARIANTS, seeds: Sequence[int] = (0, 1)
) -> Iterator[State]:
    """The state after a cut at every prefix in every variant ("torn" once for each seed), in order."""
    replayer = Replayer(recording)
    cases = list(_cases(variants, seeds))
    for prefix in range(len(recording.events) + 1):
        replayer.advance_to(prefix)
        for variant, seed in cases:
            yield _state(replayer, recording, variant, seed)


def distinct_states(
    recording: Recording,
    variants: Iterable[Variant] = ALL_VARIANTS,
    seeds: Sequence[int] = (0, 1),
    share: float = 1.0,
    seed: int = 0,
) -> Iterator[State]:
    """As `states`, but each (tree, said) only once, and with `share` below 1 only that part of all cuts.

    Which part is chosen by `seed`, the same in every run; the first and the last prefix are always in it.
    """
    replayer = Replayer(recording)
    cases = list(_cases(variants, seeds))
    seen: set[tuple[bytes, int]] = set()
    latest: dict[tuple[Variant, int], object] = {}
    last = len(recording.events)
    for prefix in range(last + 1):
        replayer.advance_to(prefix)
        for variant, torn_seed in cases:
            if prefix not in (0, last) and not _chosen(share, f"{seed}/{prefix}/{variant}/{torn_seed}"):
                continue
            unchanged = (*replayer.version(variant), len(replayer.said))
            if latest.get((variant, torn_seed)) == unchanged:
                continue
            latest[variant, torn_seed] = unchanged
            state = _state(replayer, recording, variant, torn_seed)
            key = state.tree.digest(), len(state.said)
            if key not in seen:
                seen.add(key)
                yield state


def _cases(variants: Iterable[Variant], seeds: Sequence[int]) -> Iterator[tuple[Variant, int]]:
    for variant in variants:
        for seed in seeds if variant == "torn" else (0,):
            yield variant, seed


def _chosen(share: float, key: str) -> bool:
    if share >= 1.0:
        return True
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


def _state(replayer: Replayer, recording: Recording, variant: Variant, seed: int) -> State:
    prefix = replayer.position
    where = f"after event {prefix} ({describe(recording.events[prefix - 1])})" if prefix else "before the first event"
    match variant:
        case "killed":
            label = f"killed {where}"
        case "dropped":
            label = f"power cut {where}, unsynced dropped"
        case "torn":
            label = f"power cut {where}, unsynced torn (seed {seed})"
    return State(label, prefix, replayer.tree(variant, seed), replayer.said)
