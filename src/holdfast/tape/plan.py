"""Plans which files go into which object, and when a cartridge is full.

Pure: no drive, no clock, no database. Sizes in bytes; a tape file counts in whole records. No object spans cartridges.
The planner is asked object by object, since how full a cartridge is shows only after an object was written.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from holdfast.tape import checksums, layout
from holdfast.values import FileVersion, Kind, parent_path

OBJECT_MEMBERS = 8_000
"""An object has no more members than this, so that what is known of one fits in memory (law 9)."""

CATALOG_LINE_BYTES = 800
"""An upper bound of a catalog line without the name: 30 fields, four digests, JSON around them. Compression halves it
at least, but room is planned without it."""


@dataclass(frozen=True, slots=True)
class PlannedMember:
    """One member: its version, and the name of the member that it is a hard link to, if it is one."""

    version: FileVersion
    hard_link_name: bytes | None = None
    header: layout.MemberHeader = field(init=False)
    encoded: bytes = field(
        init=False, repr=False
    )  # the header's blocks: their length is planned, then they are written

    def __post_init__(self) -> None:
        object.__setattr__(self, "header", layout.header_of(self.version, self.hard_link_name))
        object.__setattr__(self, "encoded", layout.encode_member(self.header))

    @property
    def has_digest(self) -> bool:
        """Whether the MANIFEST has a line for it."""
        return self.version.kind is Kind.FILE


@dataclass(slots=True)
class ObjectPlan:
    """The members of one object, in tape order, and how long its tar will be."""

    members: list[PlannedMember] = field(default_factory=list[PlannedMember])
    tar_bytes: int = len(layout.encode_global(layout.object_comment("object", uuid.UUID(int=0), uuid.UUID(int=0))))
    manifest_bytes: int = 0
    catalog_bytes: int = 0

    def add(self, member: PlannedMember) -> None:
        header = member.header
        self.members.append(member)
        self.tar_bytes += len(member.encoded) + header.padded_bytes
        self.catalog_bytes += CATALOG_LINE_BYTES + 3 * (len(header.name) + len(header.link_name))
        if member.has_digest:
            self.manifest_bytes += checksums.line_bytes(header.name)

    def total_bytes(self, record_bytes: int) -> int:
        """The room that the object takes on tape."""
        note = 0 if self.manifest_bytes else len(encode_note())
        manifest = manifest_header(self.manifest_bytes or checksums.line_bytes(layout.NO_FILES_NAME))
        content = self.tar_bytes + note + len(layout.encode_member(manifest)) + manifest.padded_bytes
        return layout.tape_file_bytes(content, record_bytes)


def encode_note() -> bytes:
    """The member that says that an object holds no files, whole."""
    text = layout.NO_FILES_TEXT
    header = layout.MemberHeader(name=layout.NO_FILES_NAME, type=layout.TYPE_FILE, size_bytes=len(text))
    return layout.encode_member(header) + text.ljust(header.padded_bytes, b"\0")


def manifest_header(size_bytes: int) -> layout.MemberHeader:
    return layout.MemberHeader(name=layout.MANIFEST_NAME, type=layout.TYPE_FILE, size_bytes=size_bytes)


def plan_objects(versions: Iterable[FileVersion], object_bytes: int) -> Iterator[ObjectPlan]:
    """Put versions, in their order, into objects of about `object_bytes`; a larger file gets an object of its own.

    A version that is a hard link of one in the same object becomes a tar hard link; elsewhere it is a whole file. No
    two members of an object stand in each other's way when it is extracted: two versions of one path, or a file and
    what lay in a folder of that name at another time, go into different objects.
    """
    plan, names = ObjectPlan(), _Names()
    for version in versions:
        member = PlannedMember(version, names.hard_link_name(version))
        full = plan.tar_bytes + member.header.padded_bytes > object_bytes or len(plan.members) >= OBJECT_MEMBERS
        if plan.members and (full or names.are_in_the_way_of(version)):
            yield plan
            plan, names = ObjectPlan(), _Names()
            member = PlannedMember(version)
        plan.add(member)
        names.add(member)
    if plan.members:
        yield plan


class _Names:
    """The names in one object: its folders, said or implied, and all else; and which file an inode was met as first."""

    def __init__(self) -> None:
        self._said: set[bytes] = set()
        self._others: set[bytes] = set()
        self._folders: set[bytes] = set()
        self._first: dict[uuid.UUID, FileVersion] = {}

    def are_in_the_way_of(self, version: FileVersion) -> bool:
        path = version.full_path
        if path in self._said or (version.kind is not Kind.FOLDER and path in self._folders):
            return True
        return any(folder in self._others for folder in self._new_folders(path))

    def add(self, member: PlannedMember) -> None:
        version, path = member.version, member.version.full_path
        self._said.add(path)
        self._folders.update(self._new_folders(path))
        (self._folders if version.kind is Kind.FOLDER else self._others).add(path)
        if version.kind is Kind.FILE and member.hard_link_name is None:
            self._first[version.hard_link_of or version.id] = version

    def _new_folders(self, path: bytes) -> Iterator[bytes]:
        """The folders that `path` lies in, from the inside out, up to one that is known."""
        while (path := parent_path(path)) and path not in self._folders:
            yield path

    def hard_link_name(self, version: FileVersion) -> bytes | None:
        """The member that `version` is a hard link to, if that was the same file when it was looked at."""
        first = self._first.get(version.hard_link_of) if version.hard_link_of is not None else None
        if first is None or _what_is_linked(first) != _what_is_linked(version):
            return None
        return first.full_path


def _what_is_linked(version: FileVersion) -> tuple[int, int, object]:
    return version.size_bytes, version.attributes.mtime_ns, version.content


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a cartridge may still be written. `catalog_bytes` bounds the catalog of what is on it already."""

    capacity_bytes: int
    used_bytes: int
    catalog_bytes: int
    record_bytes: int

    @property
    def margin_bytes(self) -> int:
        """Kept free for early warning to come late and marks to take room: a fiftieth, at least four records."""
        return max(self.capacity_bytes // 50, 4 * self.record_bytes)

    def holds(self, plan: ObjectPlan) -> bool:
        """Whether the object fits, and after it the session's catalog, twice, and the margin."""
        catalog = layout.tape_file_bytes(self.catalog_bytes + plan.catalog_bytes + 4096, self.record_bytes)
        needed = plan.total_bytes(self.record_bytes) + 2 * catalog + self.margin_bytes
        return self.used_bytes + needed <= self.capacity_bytes


def blank_room(capacity_bytes: int, record_bytes: int, label_bytes: int) -> Room:
    """The room of a cartridge that holds nothing but its label."""
    return Room(capacity_bytes, layout.tape_file_bytes(label_bytes, record_bytes), 4096, record_bytes)


def fits_blank(name_bytes: int, size_bytes: int, room: Room) -> bool:
    """Whether a file with such a name and size fits a blank cartridge at all."""
    bound = ObjectPlan(
        tar_bytes=8 * layout.TAR_BLOCK_BYTES + 2 * layout.padded(name_bytes) + layout.padded(size_bytes),
        manifest_bytes=100 + 2 * name_bytes,
        catalog_bytes=CATALOG_LINE_BYTES + 3 * name_bytes,
    )
    return room.holds(bound)
