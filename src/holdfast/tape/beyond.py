"""What stands behind the last committed tape file: a session that the tape knows and the journal does not?

    a run was killed after the tapes' sync of its catalogs, and before the journals' line
    catalog and journals were put back from an older copy: the tape knows whole sessions more

In both cases a catalog of this pair stands there, and it is committed data that must not be written over (law 5). It
is taken over into catalog and journals, as by a rebuild, before anything is written. Objects without a catalog behind
them are what a killed run leaves: nobody's.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

from holdfast.errors import HoldfastError, IntegrityError
from holdfast.tape.drive import TapeDrive
from holdfast.tape.feeding import Carried
from holdfast.tape.library import MountedPair, TapeLibrary
from holdfast.tape.rebuild import FoundCartridge, find_cartridge, take_pair
from holdfast.tape.scan import RecordBuffer
from holdfast.tape.survey import survey


def adopt_beyond(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> bool:
    """Take over the sessions behind the last commit of either side; whether there were any.

    Costs a record of each tape file that lies there, and a rebuild of the pair only if a catalog does. Raises
    `IntegrityError` when what stands there cannot be taken over; nothing was written then, on tape or elsewhere.
    """
    if not _sessions_behind(library, mounted, buffer):
        return False
    carried = Carried(library)
    try:
        taken = take_pair(library, list(_found(mounted)), carried, lambda _: None)
        carried.tell()
    except HoldfastError as error:
        raise _cannot_be_taken(mounted, error) from error
    if _sessions_behind(library, mounted, buffer) - taken.unfinished:
        raise _cannot_be_taken(mounted, None)
    return True


def _sessions_behind(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> set[uuid.UUID]:
    """Sessions whose catalog begins behind what the journal of its side knows, and that no journal knows."""
    found: set[uuid.UUID] = set()
    known: set[uuid.UUID] = set()  # what the twin has committed is levelled, not taken over
    for cartridge, drive in mounted.sides:
        committed = library.state(cartridge.barcode).committed
        known |= {item.id for item in committed}
        drive.locate(committed[-1].end)
        seen = survey(drive, buffer, mounted.pair.id, {item.id for item in committed})
        found |= {item.name.id for item in seen if item.name is not None and item.name.kind == "catalog"}
    return found - known


def _found(mounted: MountedPair) -> Iterator[tuple[FoundCartridge, TapeDrive]]:
    for cartridge, drive in mounted.sides:
        found = find_cartridge(drive, cartridge.barcode)
        if found is None:
            raise IntegrityError("a tape that had a label is blank", place=cartridge.barcode)
        yield found, drive


def _cannot_be_taken(mounted: MountedPair, error: HoldfastError | None) -> IntegrityError:
    barcodes: Sequence[str] = [item.barcode for item in mounted.pair.cartridges]
    return IntegrityError(
        "the tapes hold a session that their journals do not know, and it cannot be taken over; nothing was written",
        place=(error.place if error is not None else None) or " and ".join(barcodes),
        expected=error.expected if error is not None else None,
        found=str(error) if error is not None else "a catalog behind what could be read",
        hint=f"holdfast rebuild {' '.join(barcodes)} tells more; put back the newest copy of journals and catalog",
    )
