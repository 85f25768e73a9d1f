"""Dumping: one read of each file feeds both drives, and only what is committed is told.

    for each object that fits:  header, data and MANIFEST through the fan; digests on the way; a file mark
    every so often, and at the end:  COMMIT = synchronous file mark on both, journal of both, one catalog transaction
    at the session's end:  the catalog, twice, and a last commit

A member that cannot be read as it was promised is padded to its size and void: it is left out of the MANIFEST, and
its version is told as not written. At early warning both drives go back to the last commit and close there. A side
whose medium fails is left behind: the other goes on alone, and what the side lacks is copied to it later (`prepare`).
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.catalog import MemberFacts, PresentVersion, files, tapes
from holdfast.errors import BackendError, CapacityError, HoldfastError, IntegrityError, MediaError
from holdfast.tape import checksums, layout, plan
from holdfast.tape.contents import ContentSource
from holdfast.tape.drive import EarlyWarning
from holdfast.tape.facts import tape_file_of
from holdfast.tape.fan import RecordFan
from holdfast.tape.journal import Committed
from holdfast.tape.library import MountedPair, TapeLibrary
from holdfast.tape.plan import ObjectPlan, PlannedMember
from holdfast.tape.writing import write_manifest
from holdfast.values import Content, FileVersion, Kind

COMMIT_MEMBERS = 64_000
"""A commit is due when so many members are on tape and not told of, however small they are: they are in memory."""


@dataclass(frozen=True, slots=True)
class VoidMember:
    """A version that could not be written as it was promised, and why."""

    version: FileVersion
    reason: HoldfastError


@dataclass(slots=True)
class DumpResult:
    """What one dump did to one pair.

    `barcodes`: the sides that hold it. `full`: the next object did not fit any more; `warned`: as a drive said so
    sooner than was planned. `lost`: what became of sides that were left behind.
    """

    barcodes: list[str] = field(default_factory=list[str])
    objects: int = 0
    members: int = 0
    content_bytes: int = 0
    tape_bytes: int = 0
    full: bool = False
    warned: bool = False
    void: list[VoidMember] = field(default_factory=list[VoidMember])
    lost: list[MediaError] = field(default_factory=list[MediaError])


@dataclass(slots=True)
class _WrittenObject:
    """An object that lies on both tapes, before its commit."""

    committed: Committed
    members: list[MemberFacts]
    void: list[VoidMember]


Progress = Callable[[int], None]


class Digest(Protocol):
    """What `hashlib` makes."""

    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class Dumper:
    """Appends objects to a mounted, prepared pair. `mounted` are the sides that hold all of the result."""

    def __init__(
        self,
        library: TapeLibrary,
        mounted: MountedPair,
        source: ContentSource,
        progress: Progress,
        result: DumpResult | None = None,
    ) -> None:
        self._library = library
        self.mounted = mounted
        self._pair = mounted.pair
        self._source = source
        self._progress = progress
        self._uncommitted: list[_WrittenObject] = []
        self.result = result or DumpResult()
        ends = [library.state(item.barcode).committed for item in mounted.cartridges]
        self._used_bytes = max(sum(item.size_bytes for item in committed) for committed in ends)
        self._last = ends[0][-1]
        with library.catalog.reading() as connection:
            self._catalog_bytes = tapes.catalog_bound(connection, self._pair.id, plan.CATALOG_LINE_BYTES)
            self._catalog_bytes += tapes.listing_bound(connection, self._pair.id, plan.CATALOG_LINE_BYTES)

    def dump(self, plans: Iterator[ObjectPlan]) -> DumpResult:
        """Write objects until there are no more or the pair is full; everything in the result is committed."""
        whole = self.mounted
        with RecordFan(whole.drives, self._pair.record_bytes) as fan:
            try:
                self._write_all(fan, plans)
            except EarlyWarning:
                self.result.full = self.result.warned = True
                self._uncommitted.clear()
            self.result.lost = [self._library.suspect(whole.cartridges[n].barcode, e) for n, e in fan.lost.items()]
            self.mounted = whole.without(fan.lost)
        self.result.barcodes = [item.barcode for item in self.mounted.cartridges]
        return self.result

    def _write_all(self, fan: RecordFan, plans: Iterator[ObjectPlan]) -> None:
        upcoming = next(plans, None)
        while upcoming is not None:
            if not self._room().holds(upcoming):
                self.result.full = True
                return
            written = self._write_object(fan, upcoming)
            self._uncommitted.append(written)
            self._catalog_bytes += upcoming.catalog_bytes
            upcoming = next(plans, None)
            last = upcoming is None or not self._room().holds(upcoming)
            self._mark(fan, commit=last or self._is_commit_due())

    def _is_commit_due(self) -> bool:
        pending_bytes = sum(item.committed.size_bytes for item in self._uncommitted)
        pending_members = sum(len(item.members) for item in self._uncommitted)
        return pending_bytes >= self._library.settings.tape.commit_bytes or pending_members >= COMMIT_MEMBERS

    def has_room_for_catalog(self) -> bool:
        """Whether a session that only lists versions still fits, with its margin."""
        return self._room().holds(ObjectPlan())

    def _room(self) -> plan.Room:
        used = self._used_bytes + sum(item.committed.size_bytes for item in self._uncommitted)
        capacity = min(item.capacity_bytes for item in self._pair.cartridges)
        return plan.Room(capacity, used, self._catalog_bytes, self._pair.record_bytes)

    # -- one object

    def _write_object(self, fan: RecordFan, planned: ObjectPlan) -> _WrittenObject:
        object_id = uuid.uuid4()
        last = self._uncommitted[-1].committed if self._uncommitted else self._last
        fan.write(layout.encode_global(layout.object_comment("object", object_id, self._pair.id)))
        writer = _ObjectWriter(fan, self._source, self._progress)
        writer.write(self._present(planned))
        written = fan.end_file()
        committed = Committed(
            tape_file=last.tape_file + 1,
            kind="object",
            id=object_id,
            first_block=last.end_block,
            size_bytes=written.size_bytes,
            blake3=written.blake3,
            record_bytes=self._pair.record_bytes,
        )
        return _WrittenObject(committed, writer.facts, writer.void)

    def _present(self, planned: ObjectPlan) -> list[tuple[PlannedMember, PresentVersion]]:
        with self._library.catalog.reading() as connection:
            present = files.versions_by_id(connection, [member.version.id for member in planned.members])
        return [(member, present[member.version.id]) for member in planned.members]

    # -- commits

    def _mark(self, fan: RecordFan, *, commit: bool) -> None:
        fan.each(lambda drive: drive.write_file_mark(synchronous=commit))
        if commit:
            fan.wait()
            self._commit(self.mounted.without(fan.lost))

    def _commit(self, mounted: MountedPair) -> None:
        """The tapes hold it; say so: journals first, then the catalog."""
        done, self._uncommitted = self._uncommitted, []
        told = commit_journals(self._library, mounted, [item.committed for item in done])
        with self._library.catalog.transaction() as connection:
            for item in done:
                void_ids = [facts.version_id for facts in item.members if facts.void]
                read = {f.version_id: f.content for f in item.members if f.content is not None and not f.void}
                files.record_read_contents(connection, read)
                files.record_void(connection, void_ids)
                tapes.record_object(
                    connection, item.committed.id, self._pair.id, item.committed.tape_file, item.members
                )
            for barcode, committed in told.items():
                tapes.record_tape_files(connection, barcode, [tape_file_of(item) for item in committed])
        self._last = done[-1].committed
        self._used_bytes += sum(item.committed.size_bytes for item in done)
        self._count(done)

    def _count(self, done: list[_WrittenObject]) -> None:
        for item in done:
            self.result.objects += 1
            self.result.void += item.void
            self.result.members += sum(not facts.void for facts in item.members)
            self.result.content_bytes += sum(f.content.size_bytes for f in item.members if f.content is not None)
            self.result.tape_bytes += item.committed.size_bytes


def commit_journals(
    library: TapeLibrary, mounted: MountedPair, committed: list[Committed]
) -> dict[str, list[Committed]]:
    """The second half of a commit: the journals of the mounted sides, fsynced, after the synchronous file mark.

    Returns what each of them was told, by barcode: the same tape files, at that side's own blocks.
    """
    now = time.time_ns()
    told: dict[str, list[Committed]] = {}
    for barcode in (cartridge.barcode for cartridge in mounted.cartridges):
        last, items = library.state(barcode).committed[-1], list[Committed]()
        for item in committed:
            items.append(last := item.behind(last))
        library.journal(barcode).committed(items, now)
        told[barcode] = items
    return told


class _ObjectWriter:
    """Writes the members of one object, and its MANIFEST."""

    def __init__(self, fan: RecordFan, source: ContentSource, progress: Progress) -> None:
        self._fan = fan
        self._source = source
        self._progress = progress
        self._manifest = bytearray()
        self._targets: dict[bytes, MemberFacts] = {}
        self.facts: list[MemberFacts] = []
        self.void: list[VoidMember] = []

    def write(self, members: list[tuple[PlannedMember, PresentVersion]]) -> None:
        targets = {m.hard_link_name for m, _ in members if m.hard_link_name is not None}
        for member, present in members:
            facts = self._write_member(member, present)
            self.facts.append(facts)
            if member.version.full_path in targets:
                self._targets[member.version.full_path] = facts
        if not self._manifest:
            self._fan.write(plan.encode_note())
            self._manifest += checksums.encode_line(hashlib.sha256(layout.NO_FILES_TEXT).digest(), layout.NO_FILES_NAME)
        write_manifest(self._fan, bytes(self._manifest))

    def _write_member(self, member: PlannedMember, present: PresentVersion) -> MemberFacts:
        header = member.header
        header_offset = self._fan.offset
        self._fan.write(member.encoded)
        data_offset = self._fan.offset
        if member.hard_link_name is not None:
            # its bytes lie where those of its target do
            target = self._targets[member.hard_link_name]
            content, data_offset = target.content, target.data_offset
        elif member.version.kind is Kind.FILE:
            content = self._write_data(present, header)
        else:
            return MemberFacts(member.version.id, None, header_offset, data_offset)
        if content is not None:
            self._manifest += checksums.encode_line(content.sha256, header.name)
        return MemberFacts(member.version.id, content, header_offset, data_offset, void=content is None)

    def _write_data(self, present: PresentVersion, header: layout.MemberHeader) -> Content | None:
        """Write the member's data; its content, or None when it could not be read as it was promised."""
        end = self._fan.offset + header.size_bytes
        digest = hashlib.sha256()
        problem: HoldfastError | None = None
        try:
            self._copy(present, digest, header.size_bytes)
            _check_digest(present.version, digest.digest())
        except (CapacityError, BackendError):
            raise  # what cannot be had now is no member that cannot be had
        except HoldfastError as error:
            problem = error
        except OSError as error:
            problem = HoldfastError("the file cannot be read", found=error.strerror or str(error))
        self._fan.write_zeros(end - self._fan.offset + header.padded_bytes - header.size_bytes)
        if problem is not None:
            self.void.append(VoidMember(present.version, problem))
            return None
        return Content(digest.digest(), header.size_bytes)

    def _copy(self, present: PresentVersion, digest: Digest, size_bytes: int) -> None:
        with self._source.open(present) as content:
            left = size_bytes
            while left:
                room = self._fan.room()[:left]
                count = content.read_into(room)
                if count == 0:
                    raise IntegrityError("the file is shorter than it was", found=f"{left} bytes fewer")
                digest.update(room[:count])
                self._fan.filled(count)
                self._progress(count)
                left -= count
            content.check()


def _check_digest(version: FileVersion, found: bytes) -> None:
    if version.content is not None and version.content.sha256 != found:
        raise IntegrityError(
            "the stored bytes are not those that were read from the source",
            expected=f"SHA-256 {version.content.sha256.hex()}",
            found=f"SHA-256 {found.hex()}",
        )
