"""The block manager's keeper on local disks: blocks in packs, told to the catalog's sink when they are durable.

The order is that of a group commit without names: blocks appended, pack synced, sink told. A pack that is full is
sealed by the sync that makes its last blocks durable. After a failed sync nobody knows what the disk holds of a pack: its
blocks go into a new one. The old one is left to `recover_packs`, which adopts it at the next start, or removed at once if
nobody was ever told of anything in it. A pack that is synced, and only could not be told of, is told of again. What is left
counts as being written until the keeper is closed: nobody can adopt it as long as this process owns the vault.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from holdfast.blocks.buffered.blockstate import Naming
from holdfast.blocks.buffered.keeper import check_epoch
from holdfast.blocks.buffered.waiting import Home
from holdfast.blocks.fence import Fence, Pass
from holdfast.blocks.manifest import Manifest
from holdfast.blocks.packfile import PackReader, PackWriter, own_pack
from holdfast.blocks.packformat import RecordType
from holdfast.blocks.packs import Packs
from holdfast.blocks.reader import READ_BYTES, BlockIndex
from holdfast.blocks.store import DurableGroup, GroupSink
from holdfast.errors import BlockError, IntegrityError
from holdfast.values import BlockPlace, Locator

KEPT_PLACES = 4096
"""So many places are remembered for reading; the index is asked for others."""

UNTOLD_GROUPS = 64
"""When so many groups are durable and the sink has not taken them, no block is taken before it does."""


@dataclass(slots=True, eq=False)
class _OpenPack:
    """A pack that is being written, and the blocks of it that are not known to be durable."""

    writer: PackWriter
    new: dict[Locator, BlockPlace] = field(default_factory=dict[Locator, BlockPlace])
    is_full: bool = False
    is_torn: bool = False
    is_told: bool = False  # somebody was told of a block in it, or is about to be


LEFT_PACKS = 64
"""So many packs that were given up are owned at most until the end: each takes a descriptor."""


@dataclass(slots=True, eq=False)
class _HeldPass:
    """A pass, and how many hold it: those who began to name under it, and the keeper as long as it is the newest."""

    fence_pass: Pass
    holders: int = 1


class PackKeeper:
    """A `BlockKeeper` over packs; use as a context manager, and end the managers above it first. Outside of its `with`,
    and in a fork's child, it raises `BlockError`.

    `packs`: where they are read from; a folder stands for those in it. New ones are made in the folder.

    `index` and `sink` are asked and told from any thread, never two tellings at once. Passes of the `fence` are held so that
    no block that was found here is given up before the caller has named it: whoever begins to name holds the newest, until he
    has ended, and the keeper holds that one, too. Who keeps a keeper for long calls `renew` now and then, else a collector
    waits for its end. Leaving the block without an exception seals the pack; leaving it with
    one only closes it. What was put and never synced is named by nobody.
    """

    cheap_ranges = True

    def __init__(
        self,
        packs: Packs | Path,
        *,
        vault_id: uuid.UUID,
        pack_bytes: int,
        index: BlockIndex,
        sink: GroupSink,
        fence: Fence,
    ) -> None:
        self._packs = Packs(packs) if isinstance(packs, Path) else packs
        self._folder = self._packs.folder
        self._vault_id = vault_id
        self._pack_limit_bytes = pack_bytes
        self._index = index
        self._sink = sink
        self._fence = fence
        self._naming = threading.Lock()  # the passes
        self._held: _HeldPass | None = None  # the newest
        self._passes: dict[_HeldPass, None] = {}
        self._look = 0
        self._is_closed = False
        self._epoch = 0
        self._lock = threading.Lock()  # the packs below; held while a block is appended, not while one is synced
        self._sync_lock = threading.Lock()
        self._home = Home()
        self._pack: _OpenPack | None = None
        self._left: list[int] = []  # descriptors that own packs which were given up
        self._sealed: list[PackWriter] = []  # and the sink was not told yet
        self._full: list[_OpenPack] = []
        self._to_tell: list[DurableGroup] = []
        self._reading = threading.Lock()
        self._readers: list[PackReader] = []
        self._places: OrderedDict[Locator, BlockPlace] = OrderedDict()

    def __enter__(self) -> PackKeeper:
        self.renew()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None and not self._is_closed:
                self.seal()
        finally:
            self.close()

    # -- writing

    def _check_open(self) -> None:
        self._home.check()
        if self._is_closed or self._held is None:
            raise BlockError(
                "the keeper is closed" if self._is_closed else "the keeper is not entered", place=str(self._folder)
            )

    def has(self, locator: Locator) -> bool:
        self._check_open()
        with self._lock:
            if any(locator in pack.new for pack in self._open_packs()) or self._is_to_be_told(locator):
                return True
        return self._index.find_block_to_name(locator) is not None

    def begin_naming(self) -> Naming:
        with self._naming:
            self._check_open()
            held = self._held
            assert held is not None, "an open keeper holds a pass"
            held.holders += 1
        return Naming(lambda: self._end(held))

    def _end(self, held: _HeldPass) -> None:
        with self._naming:
            held.holders -= 1
            if held.holders == 0:
                held.fence_pass.end()
                self._passes.pop(held, None)

    def renew(self) -> None:
        """Whoever begins to name from now on holds a fresh pass; the one before ends with the last who holds it.

        So a collector need not wait for the end of the keeper, but only for those who had begun before it did. Nobody has
        to know what others are writing.
        """
        self._home.check()
        with self._naming:
            if self._is_closed:
                raise BlockError("the keeper is closed", place=str(self._folder))
            fresh = _HeldPass(self._fence.take_pass())
            self._passes[fresh] = None
            # the number first: who holds the fresh pass takes over no look that is older than it
            self._look += 1
            before, self._held = self._held, fresh
        if before is not None:
            self._end(before)

    @property
    def look(self) -> int:
        return self._look

    @property
    def epoch(self) -> int:
        return self._epoch

    def _open_packs(self) -> list[_OpenPack]:
        return [*self._full, self._pack] if self._pack is not None else self._full

    def _is_to_be_told(self, locator: Locator) -> bool:
        return any(place.locator == locator for group in self._to_tell for place in group.blocks)

    def put(self, locator: Locator, parts: Sequence[memoryview]) -> None:
        """As the protocol says; each part but the last must be of whole pieces of 64 KiB.

        Raises what the sink raises when it has not taken very much that is durable.
        """
        self._check_open()
        if len(self._to_tell) >= UNTOLD_GROUPS:
            with self._sync_lock:
                self._tell()
        with self._lock:
            self._check_open()
            pack = self._current()
            try:
                offset = pack.writer.append_parts(RecordType.BLOCK, locator.blake3, parts)
            except BaseException:
                self._mend(pack)
                raise
            pack.new[locator] = BlockPlace(locator, pack.writer.pack_id, offset)
            if pack.writer.size_bytes >= self._pack_limit_bytes:
                self._end_pack(pack)

    def _current(self) -> _OpenPack:
        if self._pack is None:
            writer = PackWriter(self._folder, vault_id=self._vault_id, pack_id=uuid.uuid4(), created_ns=time.time_ns())
            self._pack = _OpenPack(writer)
        return self._pack

    def _mend(self, pack: _OpenPack) -> None:
        try:
            pack.writer.cut_back()
        except OSError:
            pack.is_torn = True  # nothing may follow it, not even a footer; a scan passes over it
            self._end_pack(pack)

    def _end_pack(self, pack: _OpenPack) -> None:
        pack.is_full = True
        self._full.append(pack)
        self._pack = None

    def sync(self, epoch: int | None = None) -> None:
        """As the protocol says: packs synced, then the sink told of their blocks, then full packs sealed.

        Without an epoch it is for whoever has put nothing himself.
        """
        self._check_open()
        with self._sync_lock:
            self._check_open()  # what was found is safe to be named only as long as it is open
            check_epoch(epoch, self._epoch)
            with self._lock:
                packs = list(self._open_packs())
            for pack in packs:
                try:
                    self._sync_pack(pack)
                except BaseException:
                    self._abandon([pack])
                    raise
            self._tell()
            self._seal_full(packs)

    def _sync_pack(self, pack: _OpenPack) -> None:
        with self._lock:
            places, pack_bytes = tuple(pack.new.values()), pack.writer.size_bytes
        if not places:
            return
        pack.writer.sync()
        with self._lock:
            pack.is_told = True  # first: from here on it stays
            self._to_tell.append(DurableGroup(pack.writer.pack_id, places, Manifest((), ()), pack_bytes))
            for place in places:
                del pack.new[place.locator]

    def _tell(self) -> None:
        """Tell of what is durable. What the sink does not take now, it is told by the next sync: it stays durable."""
        while self._to_tell:
            self._sink.group_durable(self._to_tell[0])
            with self._lock:
                del self._to_tell[0]

    def _seal_full(self, packs: Sequence[_OpenPack]) -> None:
        for pack in packs:
            with self._lock:
                if not pack.is_full or pack.new or pack not in self._full:
                    continue
                self._full.remove(pack)
            if pack.is_torn:
                self._give_up(pack)
                continue
            try:
                pack.writer.seal()
                self._sealed.append(pack.writer)
            except BaseException:
                self._give_up(pack)
                raise
        while self._sealed:
            writer = self._sealed[0]
            self._sink.pack_sealed(writer.pack_id, writer.size_bytes, writer.block_bytes)
            del self._sealed[0]

    def _abandon(self, packs: Sequence[_OpenPack]) -> None:
        """Give packs up, and what of them is not durable: whoever has put it hears of it when he syncs."""
        with self._lock:
            self._epoch += 1
            self._full = [pack for pack in self._full if pack not in packs]
            if self._pack in packs:
                self._pack = None
        for pack in packs:
            self._give_up(pack)

    def _give_up(self, pack: _OpenPack) -> None:
        if not pack.is_told:
            pack.writer.discard()
            return
        pack.writer.close()
        if not self._is_closed:
            self._own(pack.writer.path)

    def _own(self, path: Path) -> None:
        """Own the file until the keeper is closed, unless somebody has it already."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # nothing is lost: a collection hears that the pack is to be adopted
            return
        if not own_pack(descriptor):
            os.close(descriptor)
            return
        self._left.append(descriptor)
        if len(self._left) > LEFT_PACKS:
            os.close(self._left.pop(0))

    def seal(self) -> None:
        """Make durable what was put, and seal the pack; the next block begins another."""
        self._check_open()
        with self._lock:
            if self._pack is not None:
                self._end_pack(self._pack)
        self.sync()

    def close(self) -> None:
        """Close every file, after the sync that runs. What is not synced is not kept; a second time does nothing, nor
        does it in a fork's child.
        """
        if not self._home.is_here:
            return
        with self._sync_lock:  # whoever syncs has the descriptors of packs in hand
            with self._lock:
                self._is_closed = True
                packs = list(self._open_packs())
            for pack in packs:
                pack.is_told = True  # nothing has failed: what the disk has of it may be adopted
            self._abandon(packs)
            while self._left:
                os.close(self._left.pop())
        with self._naming:
            self._held = None
            for held in self._passes:
                held.fence_pass.end()
            self._passes.clear()
        with self._reading:
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.close()

    # -- reading

    def fetch(self, locator: Locator, offset: int, length: int) -> bytes:
        """As the protocol says: each piece of 64 KiB that is touched is checked. Raises `BlockError` when it is closed."""
        self._home.check()
        place = self._place(locator)
        try:
            return self._read(place, offset, length)
        except IntegrityError:
            with self._reading:
                self._places.pop(locator, None)
            if (moved := self._place(locator)) == place:
                raise
            return self._read(moved, offset, length)  # its pack was swept meanwhile, and the block copied out before

    def _read(self, place: BlockPlace, offset: int, length: int) -> bytes:
        with self._reading:
            if self._is_closed:
                raise BlockError("the keeper is closed", place=str(self._folder))
            reader = self._readers.pop() if self._readers else PackReader(self._packs)
        try:
            if length <= READ_BYTES:
                return bytes(reader.read(place, offset, length))
            steps = range(offset, offset + length, READ_BYTES)
            return b"".join(bytes(reader.read(place, at, min(READ_BYTES, offset + length - at))) for at in steps)
        finally:
            with self._reading:
                is_closed = self._is_closed
                if not is_closed:
                    self._readers.append(reader)
            if is_closed:  # amid the read: nobody else closes this one
                reader.close()

    def _place(self, locator: Locator) -> BlockPlace:
        place = self._places.get(locator)
        if place is None:
            place = self._index.find_block(locator)
            if place is None:
                raise IntegrityError(
                    "a block is missing from the store", place=str(locator), expected="a place in a pack"
                )
            with self._reading:
                self._places[locator] = place
                if len(self._places) > KEPT_PLACES:
                    self._places.popitem(last=False)
        return place
