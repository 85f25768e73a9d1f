"""Which pair is written next, and one whole session on it.

A side that failed is caught up by the next session of its pair: from its twin, or, when it was fenced, on a fresh
cartridge that takes its place.
"""

from __future__ import annotations

import uuid
from collections import Counter

from holdfast.catalog import Pair, tapes
from holdfast.config import VaultSettings
from holdfast.errors import CapacityError
from holdfast.tape.contents import ContentSource
from holdfast.tape.dump import Dumper, DumpResult, Progress
from holdfast.tape.library import TapeLibrary
from holdfast.tape.plan import Room, blank_room, plan_objects
from holdfast.tape.prepare import prepare
from holdfast.tape.session import close_session, needs_catalog

LABEL_BOUND_BYTES = 256 * 1024
"""More than a label takes without its ledger."""


def smallest_room(settings: VaultSettings) -> Room:
    """The room of a blank cartridge at its worst: with the longest ledger in its label."""
    tape = settings.tape
    return blank_room(tape.cartridge_bytes, tape.record_bytes, LABEL_BOUND_BYTES + tape.cartridge_bytes // 1000)


VISITS = 3
"""So often in one run a pair is written on, at most: a side fails; it fails again when it is caught up and is fenced;
another cartridge takes its place. More failures than that are the drive's, not the cartridge's."""


class PairsToWrite:
    """Pairs to append a session to, one after the other, until nothing is left that can be written.

    Pairs that are not whole come first, and come again. A new pair is taken only when no other has room: what an open
    one did not take could not be read.
    """

    def __init__(self, library: TapeLibrary) -> None:
        self._library = library
        self._visits: Counter[uuid.UUID] = Counter()
        self._given_up: set[uuid.UUID] = set()

    def next(self) -> Pair | None:
        """The next pair; None when there is nothing more to do. Raises `OperatorNeeded` without blank cartridges."""
        pair = self._choose()
        if pair is not None:
            self._visits[pair.id] += 1
        return pair

    def give_up(self, pair: Pair) -> None:
        """Do not come back to this pair: it needs a person first."""
        self._given_up.add(pair.id)

    def _choose(self) -> Pair | None:
        pairs = [p for p in self._library.pairs() if p.state != "fenced" and p.id not in self._given_up]
        broken = next((pair for pair in pairs if not is_whole(self._library, pair)), None)
        if broken is not None:
            # one that stays broken says that a drive ruins cartridges: it must not get at new ones
            return broken if self._visits[broken.id] < VISITS else None
        if not _is_anything_unwritten(self._library):
            return None
        with_room = [pair for pair in pairs if pair.state == "open"]
        unvisited = (pair for pair in with_room if not self._visits[pair.id])
        return next(unvisited, None) if with_room else self._library.new_pair()


def is_whole(library: TapeLibrary, pair: Pair) -> bool:
    """Whether both sides are good, level, and all that is on them is told.

    They are not after a side failed, and not after a run was killed between two commits, or before its catalogs.
    """
    if any(item.fenced for item in pair.cartridges):
        return False
    journals = [library.state(item.barcode).committed for item in pair.cartridges]
    if len(journals[0]) != len(journals[1]) or (journals[0] and needs_catalog(library, pair)):
        return False
    with library.catalog.reading() as connection:
        known = [len(tapes.tape_files(connection, item.barcode)) for item in pair.cartridges]
    return known == [len(committed) for committed in journals]


def _is_anything_unwritten(library: TapeLibrary) -> bool:
    with library.catalog.reading() as connection:
        return next(tapes.unwritten_versions(connection), None) is not None or _only_to_list(library)


def _only_to_list(library: TapeLibrary) -> bool:
    with library.catalog.reading() as connection:
        return bool(tapes.versions_to_list(connection))


def dump_session(library: TapeLibrary, pair: Pair, contents: ContentSource, progress: Progress) -> DumpResult:
    """Append a session to a pair: objects until it is full or all are written, then the catalogs.

    A side that was fenced gets a fresh cartridge first. Raises `MediaError` when no side can be written; what was
    committed before that stays.
    """
    pair = _with_failed_side_replaced(library, pair)
    with library.mounted(pair) as mounted:
        prepare(library, mounted)
        with library.catalog.reading() as connection:
            versions = (present.version for present in tapes.unwritten_versions(connection))
            plans = plan_objects(versions, _object_bytes(library.settings))
            dumper = Dumper(library, mounted, contents, progress)
            result = dumper.dump(plans)
        if not needs_catalog(library, pair) and not dumper.has_room_for_catalog():
            result.full = True  # what is only to be listed goes on the next pair
        elif needs_catalog(library, pair) or _only_to_list(library):
            result.lost += close_session(library, dumper.mounted)
    if result.full:
        _close_pair(library, pair, result)
    return result


def _with_failed_side_replaced(library: TapeLibrary, pair: Pair) -> Pair:
    for failed, twin in zip(pair.cartridges, reversed(pair.cartridges), strict=True):
        if failed.fenced:
            return library.replacement(failed, twin)
    return pair


def _close_pair(library: TapeLibrary, pair: Pair, result: DumpResult) -> None:
    if result.objects == 0 and all(len(library.state(item.barcode).committed) <= 1 for item in pair.cartridges):
        raise CapacityError("an object does not fit a blank cartridge", place=pair.cartridges[0].barcode)
    with library.catalog.transaction() as connection:
        tapes.set_pair_state(connection, pair.id, "full")


def _object_bytes(settings: VaultSettings) -> int:
    """The configured size, but no more than an eighth of a cartridge, so that little room is left at its end."""
    return min(settings.tape.object_bytes, settings.tape.cartridge_bytes // 8)
