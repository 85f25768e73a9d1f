"""Reading a tape file as it streams past."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.tape.building import (
    Member,
    file,
    folder,
    hard_link,
    manifest_of,
    symbolic_link,
    tape_file,
)

from holdfast.errors import IntegrityError
from holdfast.tape import layout
from holdfast.tape.layout import MemberHeader
from holdfast.tape.reader import ReadMember, TarReader, compare_with_manifest


@dataclass
class Seen:
    """Everything that a reader told of one tape file."""

    members: list[ReadMember] = field(default_factory=list)
    data: dict[bytes, bytes] = field(default_factory=dict)

    def on_data(self, header: MemberHeader, piece: memoryview) -> None:
        self.data[header.name] = self.data.get(header.name, b"") + bytes(piece)

    def digests(self) -> dict[bytes, bytes]:
        return {item.header.name: item.sha256 for item in self.members if item.sha256 is not None}


def read(data: bytes, cuts: tuple[int, ...] = ()) -> tuple[TarReader, Seen]:
    seen = Seen()
    reader = TarReader(seen.members.append, seen.on_data)
    view = memoryview(data)
    for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        reader.feed(view[start:end])
    reader.finish()
    return reader, seen


@cache
def members() -> tuple[Member, ...]:
    return (
        folder(b"src"),
        file(b"src/empty"),
        file(b"src/one", b"1"),
        file(b"src/block", b"b" * 512),
        file(b"src/\xff\n" + b"long" * 40, b"name" * 200),
        symbolic_link(b"src/link", b"t" * 120),
        hard_link(b"src/hard", b"src/one"),
        file(b"src/void", b"?" * 700, void=True),
        file(b"src/last", bytes(1500)),
    )


@cache
def whole() -> bytes:
    return tape_file(members())


def test_every_member_is_told_with_its_digest_and_place() -> None:
    reader, seen = read(whole())
    assert reader.problem is None
    assert reader.comment.startswith("holdfast object ")
    assert [item.header for item in seen.members] == [member.header for member in members()]
    assert reader.manifest == manifest_of(members())
    for item, member in zip(seen.members, members(), strict=True):
        if member.header.type == layout.TYPE_FILE:
            assert item.sha256 == hashlib.sha256(member.data).digest()
            assert whole()[item.data_offset :].startswith(member.data)
            assert seen.data.get(member.header.name, b"") == member.data
        else:
            assert item.sha256 is None
        before = whole()[item.header_offset : item.data_offset]
        assert before == layout.encode_member(member.header)


def test_the_whole_is_digested_with_its_end() -> None:
    reader, _ = read(whole())
    assert reader.blake3() == blake3(whole()).digest()
    assert reader.size_bytes == len(whole())


@settings(max_examples=50)
@given(st.lists(st.integers(0, len(whole())), max_size=30).map(sorted).map(tuple))
def test_the_records_may_be_cut_anywhere(cuts: tuple[int, ...]) -> None:
    reader, seen = read(whole(), cuts)
    expected, expected_seen = read(whole())
    assert reader.problem is None
    assert seen == expected_seen
    assert (reader.comment, reader.manifest, reader.blake3()) == (
        expected.comment,
        expected.manifest,
        expected.blake3(),
    )


def test_byte_by_byte() -> None:
    _, seen = read(whole(), tuple(range(1, len(whole()))))
    assert seen == read(whole())[1]


def test_what_the_manifest_leaves_out_is_void_and_no_problem() -> None:
    reader, seen = read(whole())
    digests = reader.manifest_digests()
    assert b"src/void" not in digests
    assert compare_with_manifest(with_hard_link(seen), digests) == []


def with_hard_link(seen: Seen) -> dict[bytes, bytes]:
    digests = seen.digests()
    return digests | {b"src/hard": digests[b"src/one"]} if b"src/one" in digests else digests


def problems_of(data: bytes) -> list[IntegrityError]:
    """What a verifying reader says of a tape file, whatever happened to it."""
    reader, seen = read(data)
    if reader.problem is not None:
        return [reader.problem]
    try:
        return compare_with_manifest(with_hard_link(seen), reader.manifest_digests())
    except IntegrityError as error:
        return [error]


@settings(max_examples=400)
@given(st.integers(0, len(whole()) * 8 - 1))
def test_a_flipped_bit_anywhere_is_seen_and_explained(bit: int) -> None:
    damaged = bytearray(whole())
    damaged[bit // 8] ^= 1 << bit % 8
    reader, _ = read(bytes(damaged))
    assert reader.blake3() != blake3(whole()).digest()
    for problem in problems_of(bytes(damaged)):
        assert problem.place or problem.message in (
            "the tape file has no MANIFEST",
            "the MANIFEST does not end with a whole line",
        )


@pytest.mark.parametrize("name", [b"src/one", b"src/block", b"src/last"])
def test_a_flipped_bit_in_data_names_the_member(name: bytes) -> None:
    _, seen = read(whole())
    (item,) = [item for item in seen.members if item.header.name == name]
    damaged = bytearray(whole())
    damaged[item.data_offset] ^= 1
    problems = problems_of(bytes(damaged))
    assert problems[0].place == name.decode()
    assert problems[0].message == "a member on tape is not what its MANIFEST says"
    assert problems[0].expected == f"SHA-256 {item.sha256.hex()}"  # type: ignore[union-attr]


def test_a_flipped_bit_in_a_header_names_its_byte() -> None:
    _, seen = read(whole())
    for item in seen.members:
        header = bytearray(whole())
        offset = item.data_offset - 512  # the ustar block
        header[offset] ^= 1
        (problem,) = problems_of(bytes(header))
        assert problem.place == f"byte {offset}"
        assert problem.message == "damaged tar header"


def test_members_before_the_damage_are_told() -> None:
    _, seen = read(whole())
    damaged = bytearray(whole())
    damaged[seen.members[4].header_offset] ^= 1
    _, told = read(bytes(damaged))
    assert told.members == seen.members[:4]


@settings(max_examples=100)
@given(st.integers(0, len(whole())))
def test_a_tape_file_cut_anywhere_is_reported(length: int) -> None:
    content = len(whole().rstrip(b"\0"))
    problems = problems_of(whole()[:length])
    # nothing but zeros may be missing
    assert problems or length >= content + 512 - content % 512
    if length < content:
        reader, _ = read(whole()[:length])
        assert reader.problem is not None
        assert reader.problem.message == "the tape file ends before its tar archive"
        assert reader.problem.place is not None


@settings(max_examples=100)
@given(st.integers(0, len(whole()) // 512 - 1), st.integers(1, 8), st.binary(min_size=1, max_size=1))
def test_lost_blocks_are_reported(start: int, count: int, fill: bytes) -> None:
    damaged = bytearray(whole())
    damaged[start * 512 : (start + count) * 512] = fill * (min(len(whole()), (start + count) * 512) - start * 512)
    if damaged != whole():
        assert problems_of(bytes(damaged)) or blake3(damaged).digest() != blake3(whole()).digest()


@settings(max_examples=100)
@given(st.binary(max_size=3000))
def test_any_bytes_at_all_are_read_without_an_exception(data: bytes) -> None:
    problems_of(data)


@settings(max_examples=100)
@given(st.binary(max_size=600), st.sampled_from([layout.TYPE_EXTENDED, layout.TYPE_GLOBAL]))
def test_any_bytes_in_a_pax_header_are_read_without_an_exception(data: bytes, kind: bytes) -> None:
    header = MemberHeader(name=b"x", type=kind, size_bytes=len(data))
    block = layout.encode_member(header)[-512:]
    problems_of(block + data.ljust(layout.padded(len(data)), b"\0") + whole())


def test_a_pax_header_that_claims_to_be_huge_is_damage() -> None:
    block = layout.encode_member(MemberHeader(name=b"x", type=layout.TYPE_EXTENDED, size_bytes=2**30))[-512:]
    reader, _ = read(block + bytes(10_000))
    assert reader.problem is not None
    assert reader.problem.message == "damaged pax header"


def test_a_tape_file_without_a_manifest_says_so() -> None:
    encoded = layout.encode_member(MemberHeader(name=b"a", type=layout.TYPE_FOLDER)) + bytes(1024)
    reader, _ = read(encoded)
    assert reader.problem is None
    with pytest.raises(IntegrityError, match="no MANIFEST"):
        reader.manifest_digests()


def test_a_member_that_the_manifest_names_and_the_tape_lacks_is_a_problem() -> None:
    (problem,) = compare_with_manifest({}, {b"src/gone\xff": bytes(32)})
    assert problem.place == "src/gone\\xff"
    assert problem.found == "no such member"


def test_empty_tape_file() -> None:
    reader, seen = read(b"")
    assert seen.members == []
    assert reader.problem is not None
    assert reader.problem.place == "byte 0"
