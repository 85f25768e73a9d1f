"""Repairing what is damaged in one pack, from wherever its bytes are good.

Blocks are repaired in batches, and contents are read page by page, so that neither memory nor the scratch disk fills,
however much is lost. Each block's own digest decides; durable before said: bytes, then the catalog, then the word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from holdfast import durable
from holdfast.blocks.backends.backend import pack_name
from holdfast.blocks.mend import RepairPack, whole_copies
from holdfast.blocks.scrub import LOST, DamagedBlock, Range, look_at_block, lost_block, opened_pack
from holdfast.catalog import holders, packs
from holdfast.catalog.holders import BlockPart
from holdfast.errors import BackendError, HoldfastError, IntegrityError, UsageError
from holdfast.restoring.pieces import Piece, read_pieces
from holdfast.scrubbing.findings import name_of
from holdfast.scrubbing.sources import read_from_sources
from holdfast.scrubbing.spool import Spool, opened_spool
from holdfast.values import BlockPlace, Content
from holdfast.vault import Vault

BATCH_BYTES = 2**30
"""So much of damaged blocks is put together at once, on the scratch disk; there may be twice as much there."""
PAGE_CONTENTS = 10_000
"""So many contents are asked for at once. They are what takes memory."""
Wanted = dict[Content, list[Piece]]


@dataclass(frozen=True, slots=True)
class _Torn:
    """A block that needs bytes from elsewhere: `bad` ones, for the block with this number in the spool."""

    found: DamagedBlock
    number: int
    bad: tuple[Range, ...]

    def in_full(self) -> _Torn:
        return replace(self, bad=((0, self.found.place.locator.size_bytes),))


class Repair:
    """The repair of the damaged blocks of one pack. Those that stay damaged are `left`, each with the reason, if there is one.

    `settled` is told of each of the others, in words how, and whether it was repaired. `heed` is called again and again, and may stop it. `replace_lost`: the
    pack need not be there any more.
    """

    def __init__(
        self,
        vault: Vault,
        damaged: Sequence[DamagedBlock],
        *,
        replace_lost: bool,
        settled: Callable[[DamagedBlock, str, bool], object],
        heed: Callable[[], object],
    ) -> None:
        self.left: dict[DamagedBlock, str] = dict.fromkeys(damaged, "")
        self._vault = vault
        self._replace_lost = replace_lost
        self._settled = settled
        self._heed = heed
        self._pack = RepairPack(vault.settings.packs_folder, vault.settings.id, self._tell)

    def run(self) -> None:
        """Repair what can be. Raises HoldfastError or OSError when it cannot go on; what is repaired by then is."""
        try:
            for batch in _batches(list(self.left)):
                with durable.disk_full_explained(self._vault.settings.scratch_folder):
                    self._repair(batch)
            sealed = self._pack.seal()
        finally:
            self._pack.close()
        if sealed is not None:
            self._vault.catalog.pack_sealed(*sealed)

    def _repair(self, batch: Sequence[DamagedBlock]) -> None:
        sizes = [item.place.locator.size_bytes for item in batch]
        with opened_spool(self._vault.settings.scratch_folder, sizes) as spool:
            torn = [one for number, item in enumerate(batch) if (one := self._look(item, number, spool)) is not None]
            self._point_to_copies(torn)
            torn = [one for one in torn if one.found in self.left]
            while torn:
                self._fill(torn, spool)
                missed = [one for one in torn if not self._lay_down_from(one, spool)]
                # the sums of its pieces may have misled: once more, and all of it
                torn = [one.in_full() for one in missed if one != one.in_full() and not self.left[one.found]]

    # -- what needs no tape

    def _look(self, item: DamagedBlock, number: int, spool: Spool) -> _Torn | None:
        """Look again, now that nobody else works on the vault; None when nothing is needed from elsewhere."""
        self._heed()
        if self._vault.catalog.find_block(item.place.locator) != item.place:
            self._settle(item, "somebody else repaired it meanwhile", is_repaired=False)
            return None
        payload, damage = self._read(item)
        if damage is None:
            self._settle(item, "it is whole when read again: look at the disk's messages (dmesg)", is_repaired=False)
            return None
        if not damage.bad:
            self._lay_down(item, payload)
            return None
        if (twin := self._read_twin(item.place)) is not None:
            self._lay_down(item, twin)
            return None
        spool.put(number, payload)
        return _Torn(item, number, damage.bad)

    def _read(self, item: DamagedBlock) -> tuple[bytearray, DamagedBlock | None]:
        try:
            with opened_pack(self._vault.packs, item.place.pack_id) as pack:
                return look_at_block(pack, item.place)
        except OSError as error:
            if not self._replace_lost or error.errno not in LOST:
                raise
            return bytearray(item.place.locator.size_bytes), lost_block(item.place, str(error.strerror))

    def _point_to_copies(self, torn: Sequence[_Torn]) -> None:
        """Other whole records in the store are as good as this one was: nothing need be copied."""
        found = {one.found.place.locator: one.found for one in torn}
        for place, pack_bytes in whole_copies(self._vault.packs, self._vault.settings.id, found, self._heed):
            item = found[place.locator]
            if self._point_to(place, pack_bytes):
                self._settle(item, f"repaired: it is whole in {pack_name(place.pack_id)}")
            elif (payload := self._read_copy(place)) is not None:
                self._lay_down(item, payload)

    def _point_to(self, place: BlockPlace, pack_bytes: int) -> bool:
        """Not to a pack that a collection is to remove, and not to one that the catalog has not taken over."""
        with self._vault.catalog.transaction() as connection:
            if packs.pack_is_emptied(connection, place.pack_id) is not False:
                return False
            packs.move_block(connection, place, pack_bytes)
        return True

    def _read_copy(self, place: BlockPlace) -> bytearray | None:
        with suppress(BackendError, UsageError, OSError), opened_pack(self._vault.packs, place.pack_id) as pack:
            payload, damage = look_at_block(pack, place)
            return payload if damage is None else None
        return None

    def _read_twin(self, place: BlockPlace) -> bytearray | None:
        """The block as it is in the other place, where a move that was cut short has left its pack in both."""
        with suppress(BackendError, UsageError, OSError):
            backend = self._vault.packs.backend() if self._vault.packs.is_local(place.pack_id) else None
            twin = None if backend is None else backend.open(place.pack_id)
            if twin is not None:
                with closing(twin):
                    payload, damage = look_at_block(twin, place)
                return payload if damage is None else None
        return None

    # -- what tapes and sources have

    def _fill(self, torn: Sequence[_Torn], spool: Spool) -> None:
        """Each block's bad bytes, as far as tapes and sources have them."""
        by_number = {one.number: one.found for one in torn}
        for wanted in self._pages(torn, spool):
            for content, error in self._read_contents(wanted, spool).items():
                for item in {by_number[spool.block_at(piece.at)] for piece in wanted[content]}:
                    if not self.left[item]:
                        self.left[item] = f"{name_of(self._vault.catalog, content)}: {error}"

    def _read_contents(self, wanted: Wanted, spool: Spool) -> dict[Content, HoldfastError]:
        try:
            failures = read_pieces(self._vault, wanted, spool, self._heed)
        except HoldfastError as error:  # the library cannot be used; sources may do
            failures = dict.fromkeys(wanted, error)
        return read_from_sources(self._vault.catalog, wanted, failures, spool, self._heed)

    def _pages(self, torn: Sequence[_Torn], spool: Spool) -> Iterator[Wanted]:
        """What is wanted of which contents; a content once, unless there are very many."""
        wanted: Wanted = {}
        for one in torn:
            for parts in self._parts(one):
                for part in parts:
                    if pieces := _pieces(one.bad, part, spool.begins[one.number]):
                        wanted.setdefault(part.content, []).extend(pieces)
                if len(wanted) >= PAGE_CONTENTS:
                    yield wanted
                    wanted = {}
        if wanted:
            yield wanted

    def _parts(self, one: _Torn) -> Iterator[list[BlockPart]]:
        within, after = (one.bad[0][0], one.bad[-1][1]), 0
        while after is not None:
            with self._vault.catalog.reading() as connection:
                parts, after = holders.parts_in_block(
                    connection, one.found.place.locator, within, after=after, limit=PAGE_CONTENTS
                )
            yield parts

    # -- laying down

    def _lay_down_from(self, one: _Torn, spool: Spool) -> bool:
        """Whether the block is whole now."""
        self._heed()
        try:
            self._lay_down(one.found, spool.get(one.number, one.found.place.locator.size_bytes))
        except IntegrityError as problem:
            if not self.left[one.found] and one == one.in_full():
                self.left[one.found] = str(problem)
            return False
        return True

    def _lay_down(self, item: DamagedBlock, payload: bytearray) -> None:
        if not self._replace_lost:
            # the disk may have been taken away meanwhile: what is laid down in its place would hide a good store
            with opened_pack(self._vault.packs, item.place.pack_id):
                pass
        self._pack.add(item.place.locator, payload)
        self._settle(item, "repaired")

    def _tell(self, place: BlockPlace, pack_bytes: int) -> None:
        with self._vault.catalog.transaction() as connection:
            packs.move_block(connection, place, pack_bytes)

    def _settle(self, item: DamagedBlock, how: str, *, is_repaired: bool = True) -> None:
        del self.left[item]
        self._settled(item, how, is_repaired)


def _batches(damaged: Sequence[DamagedBlock]) -> Iterator[list[DamagedBlock]]:
    """As many blocks as the scratch disk may be asked to hold."""
    batch, batch_bytes = list[DamagedBlock](), 0
    for item in damaged:
        if batch and batch_bytes + item.place.locator.size_bytes > BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
        batch.append(item)
        batch_bytes += item.place.locator.size_bytes
    if batch:
        yield batch


def _pieces(bad: Sequence[Range], part: BlockPart, block_at: int) -> list[Piece]:
    """What of a part is bad, as pieces of its content, for a block that begins there in the spool."""
    shift, end = part.content_offset - part.block_offset, part.block_offset + part.length_bytes
    cuts = ((max(begin, part.block_offset), min(last, end)) for begin, last in bad)
    return [Piece(first + shift, last + shift, block_at + first) for first, last in cuts if first < last]
