"""Which pair is written next, and one whole session on it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

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


def pairs_to_write(library: TapeLibrary) -> Iterator[Pair]:
    """Pairs to append a session to, one after the other, until nothing is left that can be written.

    A new pair is taken only when no other has room: what an open one did not take could not be read.
    """
    written_on: set[uuid.UUID] = set()
    while True:
        with_room = [p for p in library.pairs() if p.state == "open"]
        pair = next((p for p in with_room if p.id not in written_on), None)
        if pair is None and not with_room and _is_anything_unwritten(library):
            pair = library.new_pair()
        if pair is None:
            return
        written_on.add(pair.id)
        if _is_unfinished(library, pair) or _is_anything_unwritten(library):
            yield pair


def _is_unfinished(library: TapeLibrary, pair: Pair) -> bool:
    """A killed run left the sides at different ends, objects without a catalog, or facts that only a journal has."""
    journals = [library.state(item.barcode).committed for item in pair.cartridges]
    if len(journals[0]) != len(journals[1]) or (journals[0] and needs_catalog(library, pair)):
        return True
    with library.catalog.reading() as connection:
        known = [len(tapes.tape_files(connection, item.barcode)) for item in pair.cartridges]
    return known != [len(committed) for committed in journals]


def _is_anything_unwritten(library: TapeLibrary) -> bool:
    with library.catalog.reading() as connection:
        return next(tapes.unwritten_versions(connection), None) is not None or _only_to_list(library)


def _only_to_list(library: TapeLibrary) -> bool:
    with library.catalog.reading() as connection:
        return bool(tapes.versions_to_list(connection))


def dump_session(library: TapeLibrary, pair: Pair, contents: ContentSource, progress: Progress) -> DumpResult:
    """Append a session to a pair: objects until it is full or all are written, then the catalogs."""
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
            close_session(library, mounted)
    if result.full:
        _close_pair(library, pair, result)
    return result


def _close_pair(library: TapeLibrary, pair: Pair, result: DumpResult) -> None:
    if result.objects == 0 and len(library.state(pair.cartridges[0].barcode).committed) <= 1:
        raise CapacityError("an object does not fit a blank cartridge", place=pair.cartridges[0].barcode)
    with library.catalog.transaction() as connection:
        tapes.set_pair_state(connection, pair.id, "full")


def _object_bytes(settings: VaultSettings) -> int:
    """The configured size, but no more than an eighth of a cartridge, so that little room is left at its end."""
    return min(settings.tape.object_bytes, settings.tape.cartridge_bytes // 8)
