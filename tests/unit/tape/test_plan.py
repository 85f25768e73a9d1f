"""Which files go into which object, and when a cartridge is full."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.tape.building import OWN_ID, PAIR_ID

from holdfast.tape import checksums, layout, plan
from holdfast.tape.drive.virtual import early_warning_bytes
from holdfast.tape.plan import ObjectPlan, Room, blank_room, fits_blank, plan_objects
from holdfast.values import Attributes, Content, FileVersion, Kind

ATTRIBUTES = Attributes(0o644, 1_700_000_000_000_000_001, 1000, 1000, "user", "group")

parts = st.one_of(
    st.sampled_from([b"a", b"b", b"c"]),
    st.binary(min_size=1, max_size=255).map(lambda part: part.translate(None, b"/\0") or b"x"),
).filter(lambda part: part not in (b".", b".."))
paths = st.lists(parts, min_size=1, max_size=5).map(b"/".join)
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=60)
attributes = st.builds(
    Attributes,
    mode=st.integers(0, 0o7777),
    mtime_ns=st.integers(-(2**62), 2**62),
    uid=st.integers(0, 2**32),
    gid=st.integers(0, 2**32),
    user=names,
    group=names,
)
small_sizes = st.one_of(st.just(0), st.integers(0, 3000))
sizes = st.one_of(small_sizes, st.integers(0, 2**36))


def file_version(path: bytes, size: int = 100, **changes: object) -> FileVersion:
    made = FileVersion(uuid.uuid4(), "src", path, Kind.FILE, size, ATTRIBUTES, 0)
    return replace(made, **changes)  # type: ignore[arg-type]


@st.composite
def some_versions(draw: st.DrawFn, sizes: st.SearchStrategy[int] = sizes) -> list[FileVersion]:
    """Versions in any order: of few paths, so that they meet, and of hostile ones; some are hard links."""
    found: list[FileVersion] = []
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from([Kind.FILE, Kind.FILE, Kind.FILE, Kind.FOLDER, Kind.LINK]))
        version = FileVersion(
            id=uuid.UUID(int=number + 1),
            source=draw(st.sampled_from(["src", "größe" * 10])),
            path=draw(paths),
            kind=kind,
            size_bytes=draw(sizes) if kind is Kind.FILE else 0,
            attributes=draw(st.one_of(st.just(ATTRIBUTES), attributes)),
            seen_ns=0,
            link_target=draw(paths) if kind is Kind.LINK else None,
        )
        first = [item for item in found if item.kind is Kind.FILE and item.hard_link_of is None]
        if first and kind is Kind.FILE and draw(st.booleans()):
            target = draw(st.sampled_from(first))
            version = replace(
                version, hard_link_of=target.id, size_bytes=target.size_bytes, attributes=target.attributes
            )
        found.append(version)
    return found


def written_bytes(planned: ObjectPlan, record_bytes: int) -> int:
    """How long the tape file is when it is written as planned, counted piece by piece."""
    length = len(layout.encode_global(layout.object_comment("object", OWN_ID, PAIR_ID)))
    manifest = b""
    for member in planned.members:
        header = member.header
        length += len(layout.encode_member(header)) + -(-header.size_bytes // 512) * 512
        if member.has_digest:
            manifest += checksums.encode_line(hashlib.sha256().digest(), header.name)
    if not manifest:
        length += len(plan.encode_note())
        manifest = checksums.encode_line(hashlib.sha256().digest(), layout.NO_FILES_NAME)
    length += len(layout.encode_member(plan.manifest_header(len(manifest)))) + -(-len(manifest) // 512) * 512
    length += 1024
    return -(-length // record_bytes) * record_bytes


@settings(max_examples=40)
@given(some_versions(), st.integers(0, 2**20), st.sampled_from([512, 4096, 262144]))
def test_an_object_takes_exactly_the_room_that_was_predicted(
    versions: list[FileVersion], object_bytes: int, record_bytes: int
) -> None:
    for planned in plan_objects(versions, object_bytes):
        assert planned.total_bytes(record_bytes) == written_bytes(planned, record_bytes)


@settings(max_examples=40)
@given(some_versions(), st.integers(0, 20_000))
def test_no_version_is_lost_doubled_or_moved(versions: list[FileVersion], object_bytes: int) -> None:
    planned = list(plan_objects(versions, object_bytes))
    assert [member.version for item in planned for member in item.members] == versions
    assert all(item.members for item in planned)


@settings(max_examples=40)
@given(some_versions(small_sizes), st.integers(0, 20_000))
def test_hard_links_point_only_backwards_inside_one_object(versions: list[FileVersion], object_bytes: int) -> None:
    for planned in plan_objects(versions, object_bytes):
        files: dict[bytes, FileVersion] = {}
        for member in planned.members:
            version = member.version
            if member.hard_link_name is not None:
                target = files[member.hard_link_name]
                assert version.hard_link_of in (target.id, target.hard_link_of)
                assert target.size_bytes == version.size_bytes
                assert member.header.type == layout.TYPE_HARD_LINK
                assert member.header.size_bytes == 0
            elif version.kind is Kind.FILE:
                files[version.full_path] = version
                assert member.header.size_bytes == version.size_bytes


@settings(max_examples=40)
@given(some_versions(small_sizes))
def test_no_two_members_of_an_object_stand_in_each_others_way(versions: list[FileVersion]) -> None:
    for planned in plan_objects(versions, 2**40):
        members = [(member.version.full_path, member.version.kind) for member in planned.members]
        paths = [path for path, _ in members]
        assert len(paths) == len(set(paths))
        for path, kind in members:
            if kind is not Kind.FOLDER:
                assert not any(other.startswith(path + b"/") for other in paths)


@settings(max_examples=40)
@given(some_versions(small_sizes), st.integers(1024, 20_000))
def test_an_object_is_larger_than_asked_for_only_by_its_last_headers(
    versions: list[FileVersion], object_bytes: int
) -> None:
    for planned in plan_objects(versions, object_bytes):
        *before, last = planned.members
        data_bytes = sum(member.header.padded_bytes for member in before)
        if before:
            assert data_bytes + last.header.padded_bytes <= object_bytes


def test_objects_are_as_few_as_their_size_allows() -> None:
    versions = [file_version(b"f%d" % number, 10_000) for number in range(100)]
    assert [len(item.members) for item in plan_objects(versions, 2**30)] == [100]
    assert [len(item.members) for item in plan_objects(versions, 1)] == [1] * 100


def test_an_object_has_no_more_members_than_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "OBJECT_MEMBERS", 3)
    versions = [file_version(b"f%d" % number, 0) for number in range(8)]
    assert [len(item.members) for item in plan_objects(versions, 2**30)] == [3, 3, 2]


def test_two_versions_of_one_path_go_into_two_objects() -> None:
    """`sha256sum -c MANIFEST` could not be right for both, and `tar -x` would give back only the second."""
    versions = [file_version(b"a"), file_version(b"b"), file_version(b"a"), file_version(b"c")]
    assert members_of(versions) == [[b"src/a", b"src/b"], [b"src/a", b"src/c"]]


def test_a_file_and_a_folder_of_the_same_name_go_into_two_objects() -> None:
    folder = file_version(b"x", 0, kind=Kind.FOLDER)
    assert members_of([file_version(b"x"), file_version(b"x/y")]) == [[b"src/x"], [b"src/x/y"]]
    assert members_of([file_version(b"x/y/z"), file_version(b"x")]) == [[b"src/x/y/z"], [b"src/x"]]
    assert members_of([folder, file_version(b"x")]) == [[b"src/x"], [b"src/x"]]
    assert members_of([folder, file_version(b"x/y"), file_version(b"x/z")]) == [[b"src/x", b"src/x/y", b"src/x/z"]]


def members_of(versions: Sequence[FileVersion]) -> list[list[bytes]]:
    return [[member.version.full_path for member in item.members] for item in plan_objects(versions, 2**40)]


def test_hard_links_whose_first_name_is_elsewhere_are_linked_to_each_other() -> None:
    first = uuid.uuid4()
    versions = [file_version(name, hard_link_of=first) for name in (b"a", b"b", b"c")]
    (planned,) = plan_objects(versions, 2**40)
    assert [member.hard_link_name for member in planned.members] == [None, b"src/a", b"src/a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": 99},
        {"attributes": replace(ATTRIBUTES, mtime_ns=5)},
        {"content": Content(hashlib.sha256(b"other").digest(), 100)},
    ],
)
def test_a_hard_link_that_was_another_file_when_it_was_looked_at_is_written_whole(changes: dict[str, object]) -> None:
    one = file_version(b"a")
    other = replace(file_version(b"b", hard_link_of=one.id), **changes)  # type: ignore[arg-type]
    (planned,) = plan_objects([one, other], 2**40)
    assert [member.hard_link_name for member in planned.members] == [None, None]


# -- room


class Tape:
    """The naive model of a cartridge: what is on it, counted in bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0

    def write(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        assert self.used_bytes <= self.capacity_bytes, "written over the end"


@settings(max_examples=60)
@given(
    some_versions(small_sizes),
    st.sampled_from([512, 4096, 65536]),
    st.integers(0, 2_000_000),
    st.integers(0, 50_000),
)
def test_what_is_said_to_fit_fits_with_both_catalogs(
    versions: list[FileVersion], record_bytes: int, capacity_bytes: int, label_bytes: int
) -> None:
    blank = blank_room(capacity_bytes, record_bytes, label_bytes)
    tape = Tape(max(capacity_bytes, blank.used_bytes))
    tape.write(blank.used_bytes)
    catalog_bytes = blank.catalog_bytes
    for planned in plan_objects(versions, 30_000):
        room = Room(capacity_bytes, tape.used_bytes, catalog_bytes, record_bytes)
        if not room.holds(planned):
            break
        tape.write(planned.total_bytes(record_bytes))
        catalog_bytes += planned.catalog_bytes
        ended = Tape(tape.capacity_bytes)
        ended.used_bytes = tape.used_bytes
        for _ in range(2):
            # the catalog as large as its bound allows, in a tar of its own
            ended.write(layout.tape_file_bytes(catalog_bytes + 4096, record_bytes))
        assert ended.capacity_bytes - ended.used_bytes >= room.margin_bytes


@given(paths, sizes, st.one_of(st.just(ATTRIBUTES), attributes), st.integers(0, 2**37), st.sampled_from([512, 524288]))
def test_a_file_that_is_said_to_fit_a_blank_cartridge_does(
    path: bytes, size: int, attributes: Attributes, capacity_bytes: int, record_bytes: int
) -> None:
    room = blank_room(capacity_bytes, record_bytes, 60_000)
    version = file_version(path, size, attributes=attributes)
    (planned,) = plan_objects([version], 2**30)
    if fits_blank(len(version.full_path), size, room):
        assert room.holds(planned)
    elif room.holds(planned):
        # it may be refused though it fits only where it would fill the cartridge to the brim
        used = planned.total_bytes(record_bytes) + room.margin_bytes
        assert capacity_bytes - used < 64 * 1024 + 8 * record_bytes + 100 * len(version.full_path)


@given(st.integers(0, 2**45), st.sampled_from([2**18, 2**19, 2**20]))
def test_a_virtual_cartridge_warns_no_one_who_keeps_the_margin(capacity_bytes: int, record_bytes: int) -> None:
    """Else a dump to a small one would be warned before its first commit, and start anew for ever."""
    assert early_warning_bytes(capacity_bytes) < Room(capacity_bytes, 0, 0, record_bytes).margin_bytes


def test_a_full_cartridge_holds_nothing() -> None:
    (planned,) = plan_objects([file_version(b"a", 0)], 2**30)
    assert not Room(10**9, 10**9, 0, 512).holds(planned)
    assert Room(10**9, 0, 0, 512).holds(planned)
