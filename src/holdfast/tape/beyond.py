"""What stands behind the last committed tape file, that the tape knows and the journal does not?

    a run was killed after the tapes' sync, and before the journals' line
    catalog and journals were put back from an older copy: the tape knows whole sessions more, or objects of a session
    whose catalogs had no room

None of it may be written over (law 5). A session whose catalog is there, and objects with versions that the catalog
does not know, are taken over into catalog and journals as by a rebuild, before anything is written. Other objects
that are whole on both sides are committed as they stand (see `leftovers`). What is left then is nobody's: objects cut
short, or on one side only, as a killed run leaves them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence

from holdfast.errors import IntegrityError, MediaError
from holdfast.tape.drive import TapeDrive
from holdfast.tape.feeding import Carried
from holdfast.tape.journal import Committed
from holdfast.tape.leftovers import Leftover, count_alike, read_leftovers
from holdfast.tape.library import MountedPair, TapeLibrary
from holdfast.tape.rebuild import FoundCartridge, find_cartridge, take_pair
from holdfast.tape.scan import RecordBuffer
from holdfast.tape.survey import SeenFile, survey


class LostBehind(MediaError):
    """Behind the last commit stand objects of a lost catalog which cannot be taken over: nothing may be written there.

    The pair is as it was; all that was committed before stays good.
    """


def adopt_beyond(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> bool:
    """Take over what stands behind the last commit of either side and must not be written over; whether there was any.

    Costs a record of each tape file that lies there, a reading of the objects, and a rebuild of the pair if it is
    needed. Nothing is ever written on tape. Raises `IntegrityError` when a session that stands there cannot be taken
    over, `LostBehind` when an object cannot; nothing was written elsewhere either then, unless part of it could be.
    Raises other `MediaError`s as the drives do: another drive may read it.
    """
    if _sessions(_behind(library, mounted, buffer)):
        _take_sessions(library, mounted, buffer)
        _demand_nothing_lost(library, mounted, buffer)
        return True
    sides = _objects_behind(library, mounted, buffer)
    if any(item.is_lost for side in sides for item in side) or _are_alike_behind_other_ends(library, mounted, sides):
        _take_objects(library, mounted)
        _demand_nothing_lost(library, mounted, buffer)
        return True
    is_any = _commit_alike(library, mounted, sides)
    _demand_all_readable(mounted, _behind(library, mounted, buffer))
    return is_any


def may_be_levelled(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> bool:
    """Whether nothing stands where the shorter side gets what it lacks: a replacement is filled all the same."""
    lengths = [len(library.state(item.barcode).committed) for item in mounted.cartridges]
    behind = _behind(library, mounted, buffer)
    return not any(side for side, length in zip(behind, lengths, strict=True) if length < max(lengths))


# -- what is there


def _are_alike_behind_other_ends(
    library: TapeLibrary, mounted: MountedPair, sides: Sequence[Sequence[Leftover]]
) -> bool:
    """Whether both sides have the next object whole and alike, and one side's journal does not come to its begin.

    To bring that side to the same end first would write over it.
    """
    ends = {library.state(cartridge.barcode).committed[-1].tape_file for cartridge in mounted.cartridges}
    return len(ends) > 1 and count_alike(sides[0], sides[1], max(ends) + 1) > 0


def _behind(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> list[list[SeenFile]]:
    """The tape files behind the last commit of each side that no journal of the pair knows."""
    states = [library.state(cartridge.barcode).committed for cartridge in mounted.cartridges]
    longest = max(states, key=len)
    found: list[list[SeenFile]] = []
    for committed, (_, drive) in zip(states, mounted.sides, strict=True):
        drive.locate(committed[-1].end)
        seen = survey(drive, buffer, mounted.pair.id, _met(committed))
        found.append(list(_not_levelled(seen, longest)))
    return found


def _met(committed: Sequence[Committed]) -> set[uuid.UUID]:
    """The ids that are not met again behind these: a catalog is, if only its first copy is committed."""
    ids = [item.id for item in committed]
    is_half = committed[-1].kind == "catalog" and ids.count(ids[-1]) == 1
    return set(ids[:-1]) if is_half else set(ids)


def _not_levelled(seen: Sequence[SeenFile], longest: Sequence[Committed]) -> Iterator[SeenFile]:
    """Those behind what the twin has committed, which is levelled.

    Where something else stands in such a place, all behind it is of a run that was killed before the twin's commit.
    """
    for item in seen:
        if item.number >= len(longest):
            yield item
        elif item.name is not None and item.name.id != longest[item.number].id:
            return


def _sessions(behind: Sequence[Sequence[SeenFile]]) -> set[uuid.UUID]:
    names = (item.name for side in behind for item in side)
    return {name.id for name in names if name is not None and name.kind == "catalog"}


def _objects_behind(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> list[list[Leftover]]:
    behind = _behind(library, mounted, buffer)
    return [
        list(read_leftovers(library.catalog, drive, buffer, seen))
        for (_, drive), seen in zip(mounted.sides, behind, strict=True)
    ]


# -- taking it over


def _take_sessions(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> None:
    carried = Carried(library)
    try:
        taken = take_pair(library, list(_found(mounted)), carried, lambda _: None, alone=True)
    except IntegrityError as error:
        raise _cannot_be_taken(mounted, error) from error
    if _sessions(_behind(library, mounted, buffer)) - taken.unfinished:
        raise _cannot_be_taken(mounted, None)


def _take_objects(library: TapeLibrary, mounted: MountedPair) -> None:
    carried = Carried(library)
    try:
        take_pair(library, list(_found(mounted)), carried, lambda _: None, alone=True)
    except IntegrityError as error:
        raise _lost_behind(mounted, error.place, str(error)) from error


def _demand_nothing_lost(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> None:
    behind = _behind(library, mounted, buffer)
    _demand_all_readable(mounted, behind)
    for (cartridge, drive), side in zip(mounted.sides, behind, strict=True):
        for item in read_leftovers(library.catalog, drive, buffer, side):
            if item.is_lost:
                place = f"{cartridge.barcode} tape file {item.seen.number}"
                raise _lost_behind(mounted, place, f"object {item.object_id}: {item.problem or 'not the same on both'}")


def _demand_all_readable(mounted: MountedPair, behind: Sequence[Sequence[SeenFile]]) -> None:
    """The last tape file may be one whose begin this drive cannot read: what it is must be known before it is nobody's."""
    for cartridge, side in zip(mounted.cartridges, behind, strict=True):
        if side and side[-1].unreadable:
            raise _lost_behind(
                mounted, f"{cartridge.barcode} tape file {side[-1].number}", "a begin that cannot be read"
            )


def _commit_alike(library: TapeLibrary, mounted: MountedPair, sides: Sequence[Sequence[Leftover]]) -> bool:
    """Commit the objects that both sides have whole and alike, on both; whether there are any.

    The catalog knows their versions: it is told of them as of all that only journals know (see `prepare`).
    """
    ends = [library.state(cartridge.barcode).committed[-1] for cartridge in mounted.cartridges]
    level = len({end.tape_file for end in ends}) == 1
    count = count_alike(sides[0], sides[1], ends[0].tape_file + 1) if level else 0
    for cartridge, last, side in zip(mounted.cartridges, ends, sides, strict=True):
        items = list[Committed]()
        for item in side[:count]:
            items.append(last := item.behind(last))
        if items:
            library.journal(cartridge.barcode).committed(items, time.time_ns())
    return count > 0


def _found(mounted: MountedPair) -> Iterator[tuple[FoundCartridge, TapeDrive]]:
    for cartridge, drive in mounted.sides:
        found = find_cartridge(drive, cartridge.barcode)
        if found is None:
            raise IntegrityError("a tape that had a label is blank", place=cartridge.barcode)
        yield found, drive


def _cannot_be_taken(mounted: MountedPair, error: IntegrityError | None) -> IntegrityError:
    barcodes: Sequence[str] = [item.barcode for item in mounted.pair.cartridges]
    return IntegrityError(
        "the tapes hold a session that their journals do not know, and it cannot be taken over; nothing was written",
        place=(error.place if error is not None else None) or " and ".join(barcodes),
        expected=error.expected if error is not None else None,
        found=str(error) if error is not None else "a catalog behind what could be read",
        hint=f"holdfast rebuild {' '.join(barcodes)} tells more; put back the newest copy of journals and catalog",
    )


def _lost_behind(mounted: MountedPair, place: str | None, found: str) -> LostBehind:
    barcodes = " ".join(item.barcode for item in mounted.pair.cartridges)
    return LostBehind(
        "a pair holds objects of a lost catalog which cannot be taken over; nothing more is written on it",
        place=place or barcodes,
        expected="objects that are whole, and agree with what is known",
        found=found,
        hint=f"put back the newest copy of journals and catalog, or: holdfast rebuild {barcodes}",
    )
