"""Keeping contents durably.

`StoreWriter` has two halves. The front, owned by the caller's thread, hands out room in pooled buffers, so that a
file is read straight into the block that will hold it. The back is one thread that owns the pack: it hashes full
blocks, leaves out those that the store has, appends the others, and commits groups. The order of a group commit is
the whole of law 3:

    1. blocks appended, pack synced      2. manifest appended, pack synced      3. the sink's one catalog transaction

Small contents share a block and lie in it whole; a large content gets blocks of its own, so that the same bytes make
the same blocks wherever they come from.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from blake3 import blake3

from holdfast.blocks import manifest as manifests
from holdfast.blocks.buffers import Buffer, BufferPool
from holdfast.blocks.fence import Fence, Pass
from holdfast.blocks.manifest import Manifest, StoredVersion
from holdfast.blocks.packfile import PackWriter
from holdfast.blocks.packformat import RecordType
from holdfast.blocks.reader import BlockIndex
from holdfast.values import BlockPlace, Content, FileVersion, Locator, Segment, Sighting, Source, VersionEnd

BUFFER_COUNT = 4
"""Blocks in memory: one shared by small files, one of the large file being read, two on their way to disk."""

GROUP_VERSIONS = 4096
GROUP_BYTES = 256 * 1024 * 1024
"""A group is committed when it names so many versions or holds so many new bytes, whichever comes first."""


@dataclass(frozen=True, slots=True)
class DurableGroup:
    """What one group commit made durable in a pack: new blocks, and the manifest that names versions.

    `is_adopted`: it was found in a pack, and may be older than what the sink knows. `misplaced`: contents that do not lie
    where the sink thinks, and of which the manifest says where they do.
    """

    pack_id: uuid.UUID
    blocks: tuple[BlockPlace, ...]
    manifest: Manifest
    pack_bytes: int
    is_adopted: bool = False
    misplaced: frozenset[Content] = frozenset()


class GroupSink(Protocol):
    """Takes what has become durable; it must have recorded it, durably, when it returns."""

    def group_durable(self, group: DurableGroup) -> None: ...

    def blocks_moved(self, places: Sequence[BlockPlace], pack_bytes: int) -> None:
        """These blocks are to be read from here from now on; all from one pack, which is so long."""
        ...

    def pack_sealed(self, pack_id: uuid.UUID, pack_bytes: int, block_bytes: int) -> None: ...


@dataclass(slots=True, eq=False)
class Ticket:
    """Stands for a block whose name is not known yet; the back fills it in."""

    locator: Locator | None = None


Pieces = tuple[tuple[Ticket, int, int], ...]
"""(block, offset, length) of each piece of a content that is on its way to the store."""


@dataclass(slots=True)
class _PendingVersion:
    version: FileVersion
    sighting: Sighting | None
    pieces: Pieces
    segments: tuple[Segment, ...]


@dataclass(slots=True)
class _Group:
    sources: dict[str, Source] = field(default_factory=dict[str, Source])
    versions: list[_PendingVersion] = field(default_factory=list[_PendingVersion])
    ends: list[VersionEnd] = field(default_factory=list[VersionEnd])
    contents: list[Content] = field(default_factory=list[Content])
    new_bytes: int = 0

    def is_full(self) -> bool:
        return len(self.versions) + len(self.ends) >= GROUP_VERSIONS or self.new_bytes >= GROUP_BYTES

    def __bool__(self) -> bool:
        return bool(self.versions or self.ends)


class StoreWriter:
    """Keeps contents; use as a context manager. Not for two threads at once.

    Leaving the block without an exception commits everything and seals the pack; leaving it with one stops after
    what was handed over already, and loses nothing that the sink was told. What fails behind the caller's back is
    raised by the next call that hands something over.

    A pass of the fence is held from begin to end, as what was found for one group may be named by a later one. Who keeps
    a writer for long says now and then, after a barrier, that all was `named`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        vault_id: uuid.UUID,
        block_bytes: int,
        pack_bytes: int,
        index: BlockIndex,
        sink: GroupSink,
        fence: Fence,
    ) -> None:
        self.small_limit_bytes = block_bytes // 4
        self._pool = BufferPool(BUFFER_COUNT, block_bytes)
        self._index = index
        self._shared: Buffer | None = None
        self._large: LargeContent | None = None
        self._shared_ticket = Ticket()
        self._fence = fence
        self._held: Pass | None = None
        self._group = _Group()
        self._recent: dict[Content, Pieces] = {}
        self._back = _Back(folder, vault_id, pack_bytes, self._pool, index, sink)

    def __enter__(self) -> StoreWriter:
        self.named()
        try:
            self._back.start()
        except BaseException:
            self._end_pass()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self._back.stop(seal=kind is None)
            self._end_pass()
        if kind is None:
            self._back.raise_failure()

    def named(self) -> None:
        """Nothing that was found until now will be named any more but what is durable: no collector need wait for it."""
        held, self._held = self._held, self._fence.take_pass()
        if held is not None:
            held.end()

    def _end_pass(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.end()

    # -- small contents: whole, in a shared block

    def small_room(self, size_bytes: int) -> memoryview:
        """Room for a content of at most `size_bytes` (no more than `small_limit_bytes`); see `keep_small`."""
        if not 0 <= size_bytes <= self.small_limit_bytes:
            raise ValueError(f"{size_bytes} bytes are not a small content")
        if self._shared is not None and self._shared.room_bytes < size_bytes:
            self._seal_shared()
        if self._shared is None:
            self._shared = self._take_buffer()
            self._shared_ticket = Ticket()
        used = self._shared.used_bytes
        return self._shared.view[used : used + size_bytes]

    def keep_small(self, length_bytes: int) -> Pieces:
        """The first `length_bytes` of the room last given are a content. Not called: the room is free again."""
        if self._shared is None or not 0 <= length_bytes <= self._shared.room_bytes:
            raise ValueError(f"no room was given for {length_bytes} bytes")
        if length_bytes == 0:
            return ()  # no block holds an empty content
        offset = self._shared.used_bytes
        self._shared.used_bytes += length_bytes
        self._group.new_bytes += length_bytes
        return ((self._shared_ticket, offset, length_bytes),)

    def _seal_shared(self) -> None:
        shared, self._shared = self._shared, None
        if shared is None:
            return
        if shared.used_bytes:
            self._hand_over(self._shared_ticket, shared)
        else:
            self._pool.give_back(shared)

    # -- large contents: blocks of their own

    def large(self) -> LargeContent:
        """A new large content; read into its room until the file ends. One at a time: an unfinished one is lost."""
        if self._large is not None:
            self._large.abandon()
        self._large = LargeContent(self)
        return self._large

    def _take_buffer(self) -> Buffer:
        self._back.raise_failure()
        return self._pool.take()

    def _hand_over(self, ticket: Ticket, buffer: Buffer) -> None:
        self._back.put(ticket, buffer)

    # -- naming what was kept

    def find(self, content: Content) -> tuple[Pieces, tuple[Segment, ...]] | None:
        """Where `content` lies or will lie, if it was kept before; only one of the two parts is not empty."""
        self._forget_durable()
        pieces = self._recent.get(content)
        if pieces is not None:
            return pieces, ()
        segments = self._index.find_segments(content)
        return None if segments is None else ((), segments)

    def _forget_durable(self) -> None:
        for content in self._back.contents_durable():
            self._recent.pop(content, None)

    def add(
        self,
        source: Source,
        version: FileVersion,
        sighting: Sighting | None,
        *,
        pieces: Pieces = (),
        segments: tuple[Segment, ...] = (),
    ) -> None:
        """Name a version; it will be durable with its group. Its content lies in `pieces` or `segments`."""
        kept_bytes = sum(piece[2] for piece in pieces) + sum(segment.length_bytes for segment in segments)
        if (pieces or segments) and (version.content is None or kept_bytes != version.content.size_bytes):
            raise ValueError(f"{kept_bytes} bytes were kept for {version}")
        self._group.sources[source.name] = source
        self._group.versions.append(_PendingVersion(version, sighting, pieces, segments))
        if version.content is not None and pieces:
            self._recent[version.content] = pieces
            self._group.contents.append(version.content)
        self._commit_if_full()

    def end(self, end: VersionEnd) -> None:
        """Name the end of a version; durable with its group, which is that of a version added next."""
        self._commit_if_full()
        self._group.ends.append(end)

    def _commit_if_full(self) -> None:
        if self._group.is_full():
            self.commit()

    def commit(self) -> None:
        """Hand the group over: it becomes durable behind the caller's back. Raises what went wrong before."""
        self._back.raise_failure()
        self._seal_shared()
        self._forget_durable()
        group, self._group = self._group, _Group()
        if group:
            self._back.put_group(group)

    def barrier(self) -> None:
        """Commit, and wait until everything added so far is durable; raises what prevented it."""
        self.commit()
        self._back.wait()
        self._forget_durable()


class LargeContent:
    """A content that is read into blocks of its own; `pieces` is complete after `finish`."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._buffer: Buffer | None = None
        self._pieces: list[tuple[Ticket, int, int]] = []
        self._is_open = True

    def room(self) -> memoryview:
        """Memory to read the next bytes into; never empty."""
        self._check_open()
        if self._buffer is None:
            self._buffer = self._writer._take_buffer()  # pyright: ignore[reportPrivateUsage]
        return self._buffer.view[self._buffer.used_bytes :]

    def filled(self, count_bytes: int) -> None:
        """`count_bytes` of the room hold data now."""
        self._check_open()
        if self._buffer is None or not 0 <= count_bytes <= self._buffer.room_bytes:
            raise ValueError(f"no room was given for {count_bytes} bytes")
        self._buffer.used_bytes += count_bytes
        self._writer._group.new_bytes += count_bytes  # pyright: ignore[reportPrivateUsage]
        if self._buffer.room_bytes == 0:
            self._seal()

    def finish(self) -> Pieces:
        self._check_open()
        self._is_open = False
        self._seal()
        return tuple(self._pieces)

    def abandon(self) -> None:
        """Give the memory back. Blocks that are full already stay in the store, named by nothing."""
        self._is_open = False
        if self._buffer is not None:
            self._buffer.used_bytes = 0
        self._seal()

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("this content was finished or abandoned")

    def _seal(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            return
        if buffer.used_bytes == 0:
            self._writer._pool.give_back(buffer)  # pyright: ignore[reportPrivateUsage]
            return
        ticket = Ticket()
        self._pieces.append((ticket, 0, buffer.used_bytes))
        self._writer._hand_over(ticket, buffer)  # pyright: ignore[reportPrivateUsage]


class _Back:
    """The thread that owns the pack. After a failure it only gives buffers back, so that the front never hangs."""

    def __init__(
        self, folder: Path, vault_id: uuid.UUID, pack_bytes: int, pool: BufferPool, index: BlockIndex, sink: GroupSink
    ) -> None:
        self._folder = folder
        self._vault_id = vault_id
        self._pack_limit_bytes = pack_bytes
        self._pool = pool
        self._index = index
        self._sink = sink
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=BUFFER_COUNT)
        # a daemon: whoever interrupts even `stop` shall not wait for it; what it was told of is durable or unsaid
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._failure: BaseException | None = None
        self._pack: PackWriter | None = None
        self._new: dict[Locator, BlockPlace] = {}
        self._durable: queue.SimpleQueue[Content] = queue.SimpleQueue()

    # -- called by the front

    def start(self) -> None:
        self._thread.start()

    def put(self, ticket: Ticket, buffer: Buffer) -> None:
        self._work.put(lambda: self._keep_block(ticket, buffer))

    def put_group(self, group: _Group) -> None:
        self._work.put(lambda: self._commit(group))

    def wait(self) -> None:
        self._work.join()
        self.raise_failure()

    def stop(self, *, seal: bool) -> None:
        try:
            if seal:
                self._work.put(self._seal_pack)
        finally:
            self._work.put(None)
            self._thread.join()
            if self._pack is not None:
                self._pack.close()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def contents_durable(self) -> Iterator[Content]:
        while not self._durable.empty():
            yield self._durable.get()

    # -- the thread

    def _run(self) -> None:
        while (step := self._work.get()) is not None:
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - handed to the front, which raises it
                self._failure = self._failure or error
            finally:
                self._work.task_done()
        self._work.task_done()

    def _keep_block(self, ticket: Ticket, buffer: Buffer) -> None:
        try:
            if self._failure is None:
                ticket.locator = self._keep(buffer.filled())
        finally:
            self._pool.give_back(buffer)

    def _keep(self, data: memoryview) -> Locator:
        locator = Locator(blake3(data).digest(), len(data))
        if locator not in self._new and self._index.find_block_to_name(locator) is None:
            pack = self._open_pack()
            offset = pack.append(RecordType.BLOCK, locator.blake3, data)
            self._new[locator] = BlockPlace(locator, pack.pack_id, offset)
            if pack.size_bytes >= self._pack_limit_bytes:
                self._roll_over(pack)
        return locator

    def _roll_over(self, pack: PackWriter) -> None:
        """Seal a full pack amid a group: its blocks are durable and told of before a manifest elsewhere names them."""
        pack.sync()
        self._tell(pack, Manifest((), ()))
        self._seal_pack()

    def _tell(self, pack: PackWriter, manifest: Manifest) -> None:
        self._sink.group_durable(DurableGroup(pack.pack_id, tuple(self._new.values()), manifest, pack.size_bytes))
        self._new.clear()

    def _open_pack(self) -> PackWriter:
        if self._pack is None:
            self._pack = PackWriter(
                self._folder, vault_id=self._vault_id, pack_id=uuid.uuid4(), created_ns=time.time_ns()
            )
        return self._pack

    def _commit(self, group: _Group) -> None:
        if self._failure is not None:
            return
        pack = self._open_pack()
        if self._new:
            pack.sync()
        manifest = _manifest_of(group)
        payload = manifests.encode(manifest)
        pack.append(RecordType.MANIFEST, blake3(payload).digest(), memoryview(payload))
        pack.sync()
        self._tell(pack, manifest)
        for content in group.contents:
            self._durable.put(content)
        if pack.size_bytes >= self._pack_limit_bytes:
            self._seal_pack()

    def _seal_pack(self) -> None:
        if self._pack is None or self._failure is not None:
            return
        pack, self._pack = self._pack, None
        pack.seal()
        self._sink.pack_sealed(pack.pack_id, pack.size_bytes, pack.block_bytes)


def _manifest_of(group: _Group) -> Manifest:
    versions = tuple(
        StoredVersion(pending.version, pending.sighting, pending.segments or _segments_of(pending.pieces))
        for pending in group.versions
    )
    return Manifest(tuple(group.sources.values()), versions, tuple(group.ends))


def _segments_of(pieces: Pieces) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for ticket, offset, length in pieces:
        assert ticket.locator is not None, "a group is committed after its blocks"
        segments.append(Segment(ticket.locator, offset, length))
    return tuple(segments)
