"""Which versions are meant, and where the bytes of each come from.

What restore does and what its plan tells is decided here, once, so that the two cannot differ. Nothing is mounted,
nothing but the catalog is read.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

from holdfast.catalog import Cartridge, Catalog, Pair, PresentVersion, TapePlace, files, tapes
from holdfast.errors import HoldfastError, IntegrityError, SourceError
from holdfast.naming import matcher
from holdfast.restoring.order import Recall
from holdfast.restoring.request import RestoreRequest
from holdfast.values import Content, FileVersion, Segment, show_path
from holdfast.vault import Vault

FEW_COPIES = 8
"""A content may be that of a hundred thousand files: so many of its copies are looked at before all are."""


@dataclass(frozen=True, slots=True)
class FromStore:
    """The block store has the bytes: in these segments, none for no bytes."""

    segments: tuple[Segment, ...]


class Selection:
    """Every version that was there at the time and is meant by the patterns."""

    def __init__(self, vault: Vault, request: RestoreRequest) -> None:
        self._vault = vault
        self._request = request
        self._meant = matcher(vault.catalog, request.patterns)

    def __iter__(self) -> Iterator[PresentVersion]:
        with self._vault.catalog.reading() as connection:
            for present in files.versions_at(connection, self._request.as_of_ns):
                if self._meant(present.version):
                    yield present

    def total_bytes(self) -> int:
        """The size of all of them together. Raises `SourceError` when nothing is meant."""
        count = total = 0
        for present in self:
            count += 1
            total += present.version.size_bytes
        if count == 0:
            raise SourceError(
                "nothing in the vault is meant",
                place=", ".join(self._request.patterns) or str(self._vault.settings.folder),
                hint="holdfast ls shows what is there; --as-of TIME looks at another time",
            )
        return total

    def leaders(
        self, hard_links: list[FileVersion]
    ) -> tuple[dict[uuid.UUID, FileVersion], dict[uuid.UUID, PresentVersion]]:
        """For each group of hard links, by the id of its first version, the name that becomes the file.

        That is the first version where it is meant, and else the first of the links: these are returned, too, by
        their own ids, as they must be planted like files.
        """
        wanted = {version.hard_link_of for version in hard_links if version.hard_link_of is not None}
        with self._vault.catalog.reading() as connection:
            firsts = files.present_among(connection, list(wanted), self._request.as_of_ns)
            leaders = {key: item.version for key, item in firsts.items() if self._meant(item.version)}
            chosen: list[uuid.UUID] = []
            for version in hard_links:
                key = version.hard_link_of
                if key is not None and leaders.setdefault(key, version) is version:
                    chosen.append(version.id)
            return leaders, files.versions_by_id(connection, chosen)


@dataclass(frozen=True, slots=True)
class Turn:
    """Cartridges that are mounted together to be read: a pair, or one in whose place another one is (`replaced`).

    `swapped`: the pair's sides change drives. That is a turn of its own, for when one of the drives does not work.
    """

    pair: Pair
    cartridges: tuple[Cartridge, ...]
    replaced: bool = False
    swapped: bool = False


def _turns(pairs: list[Pair], replaced: list[Cartridge]) -> list[Turn]:
    """Every turn in the order in which they are taken: replaced cartridges when nothing else is left."""
    by_id = {pair.id: pair for pair in pairs}
    now = [Turn(pair, pair.cartridges) for pair in pairs]
    before = [Turn(by_id[item.pair_id], (item,), replaced=True) for item in replaced]
    return [replace(turn, swapped=swapped) for turns in (now, before) for swapped in (False, True) for turn in turns]


class Ways:
    """Where the bytes of each file come from, by its first choice, and by all others.

    `turns` are numbered in the order in which they are taken.
    """

    def __init__(self, catalog: Catalog, origin: str) -> None:
        self._catalog = catalog
        self._origin = origin
        with catalog.reading() as connection:
            self.turns = _turns(tapes.all_pairs(connection), tapes.replaced_cartridges(connection))
        self._at = {
            cartridge.barcode: (number, side)
            for number, turn in enumerate(self.turns)
            for side, cartridge in enumerate(turn.cartridges)
            if not turn.swapped
        }
        self._swapped = {
            self._at[turn.cartridges[0].barcode][0]: number for number, turn in enumerate(self.turns) if turn.swapped
        }

    def of(self, present: PresentVersion) -> FromStore | Recall:
        """The first choice for a file. Raises `SourceError` or `IntegrityError` when nobody has its bytes."""
        content = present.version.content
        if content is None:
            raise SourceError(
                "the file was noted and never dumped; no copy of it exists", hint="holdfast archive its source again"
            )
        if content.size_bytes == 0:
            return FromStore(())
        segments = None if self._origin == "tape" else self._catalog.find_segments(content)
        return self.recall(present) if segments is None else FromStore(segments)

    def recall(self, present: PresentVersion) -> Recall:
        """The first choice of the copies on tape. Raises `IntegrityError` when there is none, or tape is not meant."""
        version, content = present.version, present.version.content
        assert content is not None
        places = [] if self._origin == "store" else self._best_places(content)
        if not places:
            raise IntegrityError(
                "no copy of the file can be read" + (" from the block store" if self._origin == "store" else ""),
                expected=f"SHA-256 {content.sha256.hex()}",
                found="no copy",
                hint=f"holdfast custody '{show_path(version.full_path)}' shows where it was",
            )
        first = places[0]
        turn, side = self._at[first.barcode]
        return Recall(turn, first.tape_file, first.data_offset, present.row, side, content.size_bytes)

    def _best_places(self, content: Content) -> list[TapePlace]:
        few = self.places(content, FEW_COPIES)
        return few if few and not self._is_replaced(few[0]) else self.places(content)

    def places(self, content: Content, limit: int | None = None) -> list[TapePlace]:
        """The copies of a content, best first; those on cartridges that are no side of a pair any more are the last."""
        with self._catalog.reading() as connection:
            found = tapes.tape_places(connection, content, limit=limit)
        known = [place for place in found if place.barcode in self._at]  # an archive may be writing meanwhile
        return sorted(known, key=self._is_replaced)

    def _is_replaced(self, place: TapePlace) -> bool:
        return self.turns[self._at[place.barcode][0]].replaced

    def turns_with(self, content: Content) -> set[int]:
        """The numbers of the turns that have a copy of a content, none of them swapped."""
        return {self._at[place.barcode][0] for place in self.places(content)}

    def swapped(self, number: int) -> int:
        """The turn with the same cartridges in other drives."""
        return self._swapped.get(number, number)


def of_file(error: HoldfastError, version: FileVersion) -> HoldfastError:
    """The error, with the file's name in its place."""
    name = show_path(version.full_path)
    if error.place is None or not error.place.startswith(name):
        error.place = f"{name}: {error.place}" if error.place else name
    return error
