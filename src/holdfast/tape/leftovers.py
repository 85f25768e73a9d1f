"""Objects behind the last commit of a side, with no session's catalog behind them: whose are they?

    what a killed run left        it was written from this very catalog, which knows all its versions
    what a later vault committed  and then catalog and journals were put back from an older copy: there are versions
                                  that this catalog does not know, or all are known, and only the commit is not

The last two cases cannot be told apart by what is known, so each object is read in full: one that is whole on both
sides with the same bytes is as good as committed, whoever wrote it. One that was cut short never was.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from holdfast.catalog import Catalog, adopting, tapes
from holdfast.errors import HoldfastError, MediaError
from holdfast.tape.drive import TapeDrive
from holdfast.tape.journal import Committed
from holdfast.tape.layout import MemberHeader
from holdfast.tape.reader import ReadMember, TarReader, first_problem, member_digests
from holdfast.tape.scan import RecordBuffer, read_again_if_needed, read_tape_file
from holdfast.tape.survey import SeenFile


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object behind the last commit, read in full. `problem`: why it is not whole.

    `is_lost`: it names versions that the catalog does not know, and was written to its end; or the catalog knows it as
    committed, as a run was killed while it took it over, before it told the journals.
    """

    seen: SeenFile
    object_id: uuid.UUID
    blake3: bytes
    is_lost: bool
    problem: HoldfastError | None

    def is_twin_of(self, other: Leftover) -> bool:
        """Whether both are the same object in the same place, and whole."""
        mine = self.seen.number, self.object_id, self.blake3, self.problem
        return mine == (other.seen.number, other.object_id, other.blake3, None)

    def behind(self, last: Committed) -> Committed:
        """What its commit says, on a side that ends with `last`."""
        item = replace(last, tape_file=self.seen.number, kind="object", id=self.object_id, blake3=self.blake3)
        return replace(item, size_bytes=self.seen.records * last.record_bytes).behind(last)


def read_leftovers(
    catalog: Catalog, drive: TapeDrive, buffer: RecordBuffer, seen: Sequence[SeenFile]
) -> Iterator[Leftover]:
    """Read each object in full, and ask the catalog of its versions."""
    for item in seen:
        if item.name is not None and item.name.kind == "object":
            yield _read(catalog, drive, buffer, item, item.name.id)


def count_alike(one: Sequence[Leftover], other: Sequence[Leftover], first: int) -> int:
    """How many objects both sides have whole and alike, one behind the other from tape file `first` on."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a.seen.number != first + count or not a.is_twin_of(b):
            break
        count += 1
    return count


def _read(catalog: Catalog, drive: TapeDrive, buffer: RecordBuffer, item: SeenFile, object_id: uuid.UUID) -> Leftover:
    versions: set[uuid.UUID] = set()
    members: list[ReadMember] = []
    readers: list[TarReader] = []

    def read() -> HoldfastError | None:
        members.clear()
        drive.locate(item.begin)
        readers.append(read_tape_file(drive, buffer, on_member=members.append, on_data=_collector(versions)))
        return first_problem(readers[0], member_digests(members))

    problem = read_again_if_needed(drive, read)
    reader = readers[0] if readers else None
    is_cut_short = reader.is_cut_short if reader is not None else not isinstance(problem, MediaError)
    versions |= {member.header.version_id for member in members if member.header.version_id is not None}
    with catalog.reading() as connection:
        is_lost = tapes.is_object_known(connection, object_id) or (
            not is_cut_short and bool(adopting.unknown_ids(connection, sorted(versions)))
        )
    return Leftover(item, object_id, reader.blake3() if reader is not None else b"", is_lost, problem)


def _collector(versions: set[uuid.UUID]) -> Callable[[MemberHeader, memoryview], None]:
    """Notes the version of a member whose data is damaged or ends, too."""

    def note(header: MemberHeader, _: memoryview) -> None:
        if header.version_id is not None:
            versions.add(header.version_id)

    return note
