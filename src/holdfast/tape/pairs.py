"""Which pair is written next, and one whole session on it.

A side that failed is caught up by the next session of its pair: from its twin, or, when it was fenced, on a fresh
cartridge that takes its place.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from sqlalchemy import Connection

from holdfast.catalog import Cartridge, Pair, tapes
from holdfast.config import VaultSettings
from holdfast.errors import CapacityError, HoldfastError, MediaError, OperatorNeeded
from holdfast.tape.beyond import LostBehind
from holdfast.tape.contents import ContentSource
from holdfast.tape.dump import Dumper, DumpResult, Progress
from holdfast.tape.library import STOPS_A_PAIR, MountedPair, StopsPair, TapeLibrary
from holdfast.tape.plan import Room, blank_room, plan_objects
from holdfast.tape.prepare import prepare
from holdfast.tape.session import close_session, needs_catalog
from holdfast.tape.writing import NoRoomLeft
from holdfast.values import FileVersion

LABEL_BOUND_BYTES = 256 * 1024
"""More than a label takes without its ledger."""


def smallest_room(settings: VaultSettings) -> Room:
    """The room of a blank cartridge at its worst: with the longest ledger in its label."""
    tape = settings.tape
    return blank_room(tape.cartridge_bytes, tape.record_bytes, LABEL_BOUND_BYTES + tape.cartridge_bytes // 1000)


VISITS = 3
"""So often in one run a pair is written on, at most: a side fails; it fails again in the other drive and is fenced;
another cartridge takes its place. More failures than that are a drive's, not the cartridge's."""

REPLACEMENTS = 3
"""So many replacements of one side may fail in a row. One may be a bad cartridge, two a bad box of them; after three
it is a drive that ruins cartridges, and a person must look before it gets more."""

FUTILE_PAIRS = 2
"""So many new pairs in a row may turn out to have no room for a single object, though they should have."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A pair that is to be written on, and whether each side goes into the drive that the other one had before.

    `left_out`: versions that are not written, as nobody can read them now.
    """

    pair: Pair
    swapped: bool
    left_out: Set[uuid.UUID] = frozenset()


class PairsToWrite:
    """Pairs to append a session to, one after the other, until nothing is left that can be written.

    Pairs that are not whole come first, and come again. A new pair is taken only when no other has room: what an open
    one did not take could not be read. A side whose replacements failed, `REPLACEMENTS` in a row, gets no other, and
    no new pair is taken meanwhile, unless a person says so (`replace_again`).
    """

    def __init__(
        self, library: TapeLibrary, *, replace_again: bool = False, left_out: Set[uuid.UUID] = frozenset()
    ) -> None:
        self._library = library
        self._replace_again = replace_again
        self._left_out = left_out
        self._spares_cartridges = False
        self._visits: Counter[uuid.UUID] = Counter()
        self._failed: set[uuid.UUID] = set()
        self._given_up: set[uuid.UUID] = set()
        self._troubles: dict[uuid.UUID, list[HoldfastError]] = {}
        self._not_mended: list[HoldfastError] = []
        self._got_round: list[HoldfastError] = []

    def next(self) -> Visit | None:
        """The next pair; None when there is nothing more to do, or nothing more can be done without a person.

        Raises `CapacityError` when blank cartridges take nothing.
        """
        try:
            pair = self._choose()
        except STOPS_A_PAIR as error:
            self._not_mended.append(error)  # there is no blank cartridge, or none could be looked at
            return None
        if pair is None:
            return None
        self._visits[pair.id] += 1
        self._failed.discard(pair.id)
        return Visit(pair, self._visits[pair.id] % 2 == 0, self._left_out)

    def failed(self, pair: Pair, error: StopsPair) -> None:
        """Nothing more could be written on this pair.

        A drive or cartridge that failed is tried again with the drives swapped. What needs a person, or what journal,
        catalog and tape do not agree on, would be the same then: the pair is left alone in this run. One that holds
        what is lost is closed when both drives have found that: it stays as it is, and all else goes on another one.
        """
        if isinstance(error, LostBehind) and self._visits[pair.id] > 1:
            self._close(pair, error)
            return
        (self._failed if isinstance(error, MediaError) else self._given_up).add(pair.id)
        self._troubles.setdefault(pair.id, []).append(error)

    def _close(self, pair: Pair, error: LostBehind) -> None:
        with self._library.catalog.transaction() as connection:
            tapes.set_pair_state(connection, pair.id, "full")
        others = [met for met in self._troubles.get(pair.id, []) if not isinstance(met, LostBehind)]
        self._troubles[pair.id] = others
        self._not_mended.append(error)

    def written(self, pair: Pair, lost: Sequence[HoldfastError]) -> None:
        """A session was written; what failed before is made good, and sides that were `lost` are not yet."""
        self._got_round += self._troubles.pop(pair.id, [])
        self._troubles[pair.id] = [*lost]

    def troubles(self) -> tuple[list[HoldfastError], list[HoldfastError]]:
        """What went wrong and was made good, and what was not; what a fenced pair held is written on another one."""
        fenced = {pair.id for pair in self._library.pairs() if pair.state == "fenced"}
        good = [error for pair_id, met in self._troubles.items() if pair_id in fenced for error in met]
        bad = [error for pair_id, met in self._troubles.items() if pair_id not in fenced for error in met]
        return self._got_round + good, bad + self._not_mended

    def _choose(self) -> Pair | None:
        for pair in self._pairs():
            if self._is_broken(pair):
                if self._visits[pair.id] < VISITS:
                    return pair
                # one that stays broken may say that a drive ruins cartridges: it must not get at new ones
                self._given_up.add(pair.id)
                self._spares_cartridges = True
        if not is_anything_unwritten(self._library, self._left_out):
            return None
        pairs = self._pairs()
        with_room = [pair for pair in pairs if pair.state == "open"]
        unvisited = (pair for pair in with_room if not self._visits[pair.id])
        return next(unvisited, None) if with_room else self._new_pair(pairs)

    def _pairs(self) -> list[Pair]:
        """The pairs that may still be written on in this run."""
        return [p for p in self._library.pairs() if p.state != "fenced" and p.id not in self._given_up]

    def _is_broken(self, pair: Pair) -> bool:
        try:
            self._check_replacements(pair)
            return pair.id in self._failed or not is_whole(self._library, pair)
        except STOPS_A_PAIR as error:
            self.failed(pair, error)
            return False

    def _check_replacements(self, pair: Pair) -> None:
        """Raise `OperatorNeeded` when a side is to be replaced that was too often."""
        for item in pair.cartridges:
            failed = self._library.failed_replacements(item) if item.fenced else []
            if len(failed) >= REPLACEMENTS and not (self._replace_again and not self._visits[pair.id]):
                self._spares_cartridges = True
                raise _too_often(item, failed)

    def _new_pair(self, pairs: list[Pair]) -> Pair | None:
        if self._spares_cartridges:
            return None
        futile = [pair for pair in pairs if self._visits[pair.id] and holds_nothing(self._library, pair)]
        if len(futile) >= FUTILE_PAIRS:
            raise CapacityError(
                "new cartridges end before the first object",
                place=", ".join(item.barcode for pair in futile for item in pair.cartridges),
                expected=f"room for {self._library.settings.tape.cartridge_bytes} bytes",
                hint="see that cartridge_capacity in holdfast.toml is that of your cartridges, and clean the drives",
            )
        return self._library.new_pair()


def _too_often(side: Cartridge, failed: list[str]) -> OperatorNeeded:
    return OperatorNeeded(
        f"{len(failed)} cartridges in a row failed as side {side.side.value} of a pair; no other one is taken",
        place=side.barcode,
        expected="drives that do not ruin cartridges",
        found=f"{', '.join(reversed(failed))} failed, the last one so: {side.fenced}",
        hint="clean or exchange the drives, then run the same command with --replace-again",
    )


def holds_nothing(library: TapeLibrary, pair: Pair) -> bool:
    """Whether there is nothing on the pair but its labels."""
    return all(len(library.state(item.barcode).committed) <= 1 for item in pair.cartridges)


def is_whole(library: TapeLibrary, pair: Pair) -> bool:
    """Whether both sides are good, level, and all that is on them is told.

    They are not after a side failed, and not after a run was killed between two commits, or before its catalogs.
    """
    if any(item.fenced for item in pair.cartridges):
        return False
    journals = [library.state(item.barcode).committed for item in pair.cartridges]
    if len(journals[0]) != len(journals[1]):
        return False
    if pair.state == "open" and journals[0] and needs_catalog(library, pair):
        return False  # a full one had no room for it: its objects tell of themselves
    with library.catalog.reading() as connection:
        known = [len(tapes.tape_files(connection, item.barcode)) for item in pair.cartridges]
    return known == [len(committed) for committed in journals]


def is_anything_unwritten(library: TapeLibrary, left_out: Set[uuid.UUID] = frozenset()) -> bool:
    """Whether a session would write anything: members that are not `left_out`, or lines in its catalog."""
    with library.catalog.reading() as connection:
        return any(True for _ in _to_write(connection, left_out)) or _only_to_list(library)


def _to_write(connection: Connection, left_out: Set[uuid.UUID]) -> Iterator[FileVersion]:
    versions = (present.version for present in tapes.unwritten_versions(connection))
    return (version for version in versions if version.id not in left_out)


def _only_to_list(library: TapeLibrary) -> bool:
    with library.catalog.reading() as connection:
        return bool(tapes.versions_to_list(connection))


def dump_session(
    library: TapeLibrary, visit: Visit, contents: ContentSource, progress: Progress, result: DumpResult
) -> None:
    """Append a session to a pair: objects until it is full or all are written, then the catalogs.

    A side that was fenced gets a fresh cartridge first; of a pair that is full already, that is all. Raises one of
    `STOPS_A_PAIR` when no side can be written; what was committed before that stays, and is in the `result`, which is
    filled as the work goes on.
    """
    pair = _with_failed_side_replaced(library, visit.pair)
    with library.mounted(pair, swapped=visit.swapped) as mounted:
        prepare(library, mounted)
        if pair.state == "full":
            return
        with library.catalog.reading() as connection:
            plans = plan_objects(_to_write(connection, visit.left_out), _object_bytes(library.settings))
            dumper = Dumper(library, mounted, contents, progress, result)
            dumper.dump(plans)
        if not needs_catalog(library, pair) and not dumper.has_room_for_catalog():
            result.full = True  # what is only to be listed goes on the next pair
        elif needs_catalog(library, pair) or _only_to_list(library):
            _close_session(library, dumper.mounted, result)
    if result.full:
        _close_pair(library, pair, result)


def _close_session(library: TapeLibrary, mounted: MountedPair, result: DumpResult) -> None:
    try:
        result.lost += close_session(library, mounted)
    except NoRoomLeft as error:
        result.full = True
        result.lost.append(error)


def _with_failed_side_replaced(library: TapeLibrary, pair: Pair) -> Pair:
    for failed, twin in zip(pair.cartridges, reversed(pair.cartridges), strict=True):
        if failed.fenced and library.is_shorter(twin, failed):
            # a kill came between the fences of both (see `TapeLibrary.fence`)
            raise library.fence(twin.barcode, _lacks_some_of(failed, twin))
        if failed.fenced:
            return library.replacement(failed, twin)
    return pair


def _lacks_some_of(failed: Cartridge, twin: Cartridge) -> MediaError:
    return MediaError(
        "a cartridge lacks some of what its fenced twin holds; both are fenced",
        place=twin.barcode,
        expected=f"all that {failed.barcode} holds",
        hint="what they hold is written again on another pair, from the store or the source",
    )


def _close_pair(library: TapeLibrary, pair: Pair, result: DumpResult) -> None:
    if not result.warned and holds_nothing(library, pair):
        raise CapacityError(
            "an object does not fit a blank cartridge",
            place=pair.cartridges[0].barcode,
            hint="use larger cartridges ([tape] cartridge_capacity in holdfast.toml), or archive without its largest file",
        )
    with library.catalog.transaction() as connection:
        tapes.set_pair_state(connection, pair.id, "full")


def _object_bytes(settings: VaultSettings) -> int:
    """The configured size, but no more than an eighth of a cartridge, so that little room is left at its end."""
    return min(settings.tape.object_bytes, settings.tape.cartridge_bytes // 8)
