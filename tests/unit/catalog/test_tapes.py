"""Pairs, objects, tape files: what is where, what is still to be written, and what must never be."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from tests.unit.catalog.kit import (
    content,
    digest,
    end,
    evidence,
    group,
    new_pair,
    object_file,
    record,
    tell,
    version,
    write_object,
)

from holdfast.catalog import Catalog, MemberFacts, Pair, TapeFile, files, proof, tapes
from holdfast.catalog.files import PAGE_ROWS
from holdfast.errors import IntegrityError
from holdfast.values import EMPTY_CONTENT, FileVersion, Kind, Side, VersionEnd


def unwritten(catalog: Catalog) -> list[FileVersion]:
    with catalog.reading() as connection:
        found = [item.version for item in tapes.unwritten_versions(connection)]
        assert tapes.count_unwritten_bytes(connection) == sum(item.size_bytes for item in found)
        return found


def to_list(catalog: Catalog) -> list[uuid.UUID]:
    with catalog.reading() as connection:
        rows = set(tapes.versions_to_list(connection))
        return [item.version.id for item in files.versions_at(connection, None) if item.row in rows]


def list_all(catalog: Catalog, pair: Pair) -> uuid.UUID:
    session = uuid.uuid4()
    with catalog.transaction() as connection:
        tapes.record_session(connection, session, pair.id, tapes.versions_to_list(connection))
    return session


def fence(catalog: Catalog, pair: Pair, *sides: Side) -> None:
    """Fence these sides; both, when none is named."""
    with catalog.transaction() as connection:
        for side in sides or Side:
            tapes.fence(connection, pair.on(side).barcode, "test")


# -- recording


def test_law_6_pairs_objects_and_tape_files_told_twice_are_told_once(catalog: Catalog) -> None:
    item = version(b"f", content(1))
    record(catalog, item)
    pair = new_pair(catalog)
    object_id = write_object(catalog, pair, 1, [item])
    barcode = pair.on(Side.A).barcode
    with catalog.transaction() as connection:
        tapes.record_pair(connection, pair)
        tapes.record_object(connection, object_id, pair.id, 1, [])
        tapes.record_tape_files(connection, barcode, [object_file(1, object_id)] * 2)
    with catalog.reading() as connection:
        assert tapes.all_pairs(connection) == [pair]
        assert tapes.tape_files(connection, barcode) == [object_file(1, object_id)]
        ((facts, held),) = tapes.members_of(connection, object_id)
        assert (facts, held) == (MemberFacts(item.id, item.content, 0, 512), item)
        assert tapes.count_tapes(connection) == {"cartridges": 2, "objects": 1, "tape_bytes": 2 * 2**20}


@pytest.mark.parametrize(
    "change",
    [{"blake3": digest("other")}, {"size_bytes": 1}, {"first_block": 9}, {"kind": "catalog"}, {"object_id": None}],
)
def test_law_5_a_tape_file_that_was_written_over_is_an_error(catalog: Catalog, change: dict[str, object]) -> None:
    pair = new_pair(catalog)
    object_id = write_object(catalog, pair, 1, [])
    barcode = pair.on(Side.B).barcode
    changed = replace(object_file(1, object_id), **change)  # type: ignore[arg-type]
    with (
        pytest.raises(IntegrityError, match="written over") as caught,
        catalog.transaction() as connection,
    ):
        tapes.record_tape_files(connection, barcode, [changed])
    assert caught.value.place == f"{barcode} tape file 1"
    with catalog.reading() as connection:
        assert tapes.tape_files(connection, barcode) == [object_file(1, object_id)]


def test_a_pair_whose_cartridges_are_fenced_is_closed_and_says_why(catalog: Catalog) -> None:
    pair, other = new_pair(catalog), new_pair(catalog)
    fence(catalog, pair, Side.B)
    with catalog.transaction() as connection:
        tapes.set_pair_state(connection, other.id, "full")
    with catalog.reading() as connection:
        found = tapes.all_pairs(connection)
    assert [item.state for item in found] == ["open", "full"]
    assert [item.fenced for item in found[0].cartridges] == [None, "test"]
    assert found[1].cartridges == other.cartridges
    fence(catalog, pair, Side.A)
    with catalog.reading() as connection:
        assert [item.state for item in tapes.all_pairs(connection)] == ["fenced", "full"]


def test_a_replaced_cartridge_is_no_side_any_more_and_keeps_what_it_holds(catalog: Catalog) -> None:
    pair = new_pair(catalog)
    record(catalog, kept := version(b"f", content(1)))
    object_id = write_object(catalog, pair, 1, [kept])
    fence(catalog, pair, Side.B)
    fresh = replace(pair.on(Side.B), barcode="HF9999L8", volume_id=uuid.uuid4())
    for _ in range(2):
        with catalog.transaction() as connection:
            tapes.record_replacement(connection, fresh)
    with catalog.reading() as connection:
        (found,) = tapes.all_pairs(connection)
        assert (found.state, found.cartridges) == ("open", (pair.on(Side.A), fresh))
        (gone,) = tapes.replaced_cartridges(connection)
        assert gone == replace(pair.on(Side.B), fenced="test")
        assert tapes.barcodes_of_pair(connection, pair.id) == [pair.on(Side.A).barcode, gone.barcode, "HF9999L8"]
        assert [item.object_id for item in tapes.objects_of_pair(connection, pair.id)] == [object_id]
        assert [place.barcode for place in tapes.tape_places(connection, content(1))][-1] == gone.barcode


def test_members_are_found_by_offset(catalog: Catalog) -> None:
    items = [version(b"f%d" % number, content(number)) for number in range(3)]
    record(catalog, *items)
    object_id = write_object(catalog, new_pair(catalog), 1, items)
    with catalog.reading() as connection:
        names = [tapes.member_at(connection, object_id, offset) for offset in (0, 1023, 1024, 10**9)]
        assert tapes.member_at(connection, uuid.uuid4(), 0) is None
    assert names == [b"lab/f0", b"lab/f0", b"lab/f1", b"lab/f2"]


def test_a_hard_link_has_a_member_without_content(catalog: Catalog) -> None:
    first = version(b"a", content(1))
    link = replace(version(b"b", content(1)), hard_link_of=first.id)
    record(catalog, first, link)
    pair, object_id = new_pair(catalog), uuid.uuid4()
    with catalog.transaction() as connection:
        members = [MemberFacts(first.id, first.content, 0, 512), MemberFacts(link.id, None, 1024, 1536)]
        tapes.record_object(connection, object_id, pair.id, 1, members)
    with catalog.reading() as connection:
        assert [(facts.content, item) for facts, item in tapes.members_of(connection, object_id)] == [
            (first.content, first),
            (None, link),
        ]
    assert unwritten(catalog) == []


# -- what is to be written


def test_everything_is_unwritten_until_it_has_a_member(catalog: Catalog) -> None:
    items = [
        version(b"d", kind=Kind.FOLDER),
        version(b"d/f", content(1)),
        version(b"d/same", content(1)),
        version(b"e", EMPTY_CONTENT),
        version(b"l", kind=Kind.LINK),
        replace(version(b"in place"), size_bytes=100),
    ]
    record(catalog, *items)
    assert unwritten(catalog) == items
    write_object(catalog, new_pair(catalog), 1, items[:4])
    assert unwritten(catalog) == items[4:]


def test_what_ended_is_written_as_long_as_its_bytes_can_be_had(catalog: Catalog) -> None:
    kept, gone = version(b"kept", content(1)), replace(version(b"gone"), size_bytes=100)
    in_place, empty = version(b"in place", content(2)), version(b"empty", EMPTY_CONTENT)
    folder = version(b"folder", kind=Kind.FOLDER)
    catalog.group_durable(group(kept, empty))
    record(catalog, gone, in_place, folder)
    end(catalog, (kept, 5), (gone, 5), (in_place, 5), (empty, 5), (folder, 5))
    assert unwritten(catalog) == [kept, empty]


def test_what_is_only_listed_is_written_once_no_good_pair_has_its_bytes(catalog: Catalog) -> None:
    """Listed on a good pair, its bytes on another one that was fenced later; in place, the store has none."""
    old, new = version(b"f", content(1)), version(b"f", content(1), seen_ns=5)
    record(catalog, old)
    bad, good = new_pair(catalog), new_pair(catalog)
    write_object(catalog, bad, 1, [old])
    record(catalog, new)
    end(catalog, (old, 5))
    list_all(catalog, good)
    assert (unwritten(catalog), to_list(catalog)) == ([], [])
    fence(catalog, bad)
    assert (unwritten(catalog), to_list(catalog)) == ([new], [])


def test_void_is_never_written_and_a_void_member_is_no_member(catalog: Catalog) -> None:
    void, other = (replace(version(path), size_bytes=100) for path in (b"void", b"other"))
    record(catalog, void, other)
    with catalog.transaction() as connection:
        files.record_void(connection, [void.id])
    write_object(catalog, new_pair(catalog), 1, [void, other], void=[void, other])
    assert unwritten(catalog) == [other]


def test_the_same_bytes_under_the_same_name_are_only_listed(catalog: Catalog) -> None:
    old, new = version(b"f", content(1)), version(b"f", content(1), seen_ns=5)
    moved, grown = version(b"g", content(1)), version(b"f", content(2), seen_ns=6)
    record(catalog, old)
    assert to_list(catalog) == []
    pair = new_pair(catalog)
    write_object(catalog, pair, 1, [old])
    record(catalog, new, moved, grown)
    end(catalog, (old, 5), (new, 6))
    assert unwritten(catalog) == [moved, grown]  # by another name plain tar would not find it
    record(catalog, *(chmodded := [version(b"g", content(1), seen_ns=7), version(b"f", content(1), seen_ns=8)]))
    assert to_list(catalog) == [chmodded[1].id]
    list_all(catalog, pair)
    assert to_list(catalog) == []
    assert unwritten(catalog) == [moved, grown, chmodded[0]]


def test_empty_files_are_written_again_not_listed(catalog: Catalog) -> None:
    old, new = version(b"f", EMPTY_CONTENT), version(b"f", EMPTY_CONTENT, seen_ns=5)
    record(catalog, old)
    write_object(catalog, new_pair(catalog), 1, [old])
    record(catalog, new)
    end(catalog, (old, 5))
    assert unwritten(catalog) == [new]


def test_what_a_fenced_pair_holds_or_lists_is_written_and_listed_again(catalog: Catalog) -> None:
    """Or a file whose mode alone changed would be named by no good tape, and said to be proven."""
    old, new = version(b"f", content(1)), version(b"f", content(1), seen_ns=5)
    catalog.group_durable(group(old))
    bad, good = new_pair(catalog), new_pair(catalog)
    write_object(catalog, bad, 1, [old])
    record(catalog, new)
    end(catalog, (old, 5))
    list_all(catalog, bad)
    assert (unwritten(catalog), to_list(catalog)) == ([], [])
    fence(catalog, bad)
    assert (unwritten(catalog), to_list(catalog)) == ([old, new], [])
    object_id = write_object(catalog, good, 1, [old])
    tell(catalog, evidence(good, "A", 1, object_id), evidence(good, "B", 1, object_id))
    assert (unwritten(catalog), to_list(catalog)) == ([], [new.id])
    with catalog.reading() as connection:
        assert proof.count_proven(connection) == {"versions": 1, "proven": 0}
    list_all(catalog, good)
    assert (unwritten(catalog), to_list(catalog)) == ([], [])
    with catalog.reading() as connection:
        assert proof.count_proven(connection) == {"versions": 1, "proven": 1}
        assert [item.version for item in tapes.listed_versions(connection, good.id)] == [new]
        assert [item.version for item in tapes.listed_versions(connection, bad.id)] == [new]


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_pages_of_unwritten_versions_join(catalog: Catalog, extra: int) -> None:
    many = [version(b"f%d" % number, content(number)) for number in range(PAGE_ROWS + extra + 3)]
    record(catalog, *many)
    write_object(catalog, new_pair(catalog), 1, [many[0], many[500], many[-1]])
    left = [item for item in many if item not in (many[0], many[500], many[-1])]
    assert unwritten(catalog) == left


def test_versions_may_be_written_while_they_are_asked_for(catalog: Catalog) -> None:
    """A dump records its objects amid the walk over what is unwritten."""
    many = [version(b"f%d" % number, content(number)) for number in range(PAGE_ROWS + 100)]
    record(catalog, *many)
    pair = new_pair(catalog)
    with catalog.reading() as connection:
        rows = tapes.unwritten_versions(connection)
        first = [next(rows).version for _ in range(PAGE_ROWS)]
        write_object(catalog, pair, 1, first)
        assert [item.version for item in rows] == many[PAGE_ROWS:]


# -- where contents lie


def test_places_of_a_content_name_every_committed_copy_fenced_ones_last(catalog: Catalog) -> None:
    held = content("held")
    first, again = version(b"f", held), version(b"g", held)
    record(catalog, first, again)
    pair, other = new_pair(catalog), new_pair(catalog)
    write_object(catalog, pair, 1, [version_in(catalog, b"x"), first])
    object_id = write_object(catalog, other, 4, [again], sides="B")
    fence(catalog, pair, Side.A)
    with catalog.reading() as connection:
        places = tapes.tape_places(connection, held)
        assert tapes.tape_places(connection, content("held", 99)) == []
    barcodes = [pair.on(Side.B).barcode, other.on(Side.B).barcode, pair.on(Side.A).barcode]
    assert [(item.barcode, item.tape_file, item.data_offset) for item in places] == [
        (barcodes[0], 1, 1536),
        (barcodes[1], 4, 512),
        (barcodes[2], 1, 1536),
    ]
    assert places[1].object_id == object_id


def version_in(catalog: Catalog, path: bytes) -> FileVersion:
    item = version(path, content(path))
    record(catalog, item)
    return item


def test_places_of_a_content_of_many_files_may_be_asked_for_in_part(catalog: Catalog) -> None:
    many = [version(b"f%d" % number, content("same")) for number in range(10)]
    record(catalog, *many)
    write_object(catalog, new_pair(catalog), 1, many)
    with catalog.reading() as connection:
        every = tapes.tape_places(connection, content("same"))
        some = tapes.tape_places(connection, content("same"), limit=3)
    assert len(every) == 20
    assert len(some) == 6
    assert set(some) < set(every)


def test_a_void_member_is_no_place(catalog: Catalog) -> None:
    item = version(b"f", content(1))
    record(catalog, item)
    write_object(catalog, new_pair(catalog), 1, [item], void=[item])
    with catalog.reading() as connection:
        assert tapes.tape_places(connection, content(1)) == []


def test_segments_are_known_only_for_what_the_store_keeps(catalog: Catalog) -> None:
    stored = version(b"f", content("stored"))
    catalog.group_durable(group(stored))
    record(catalog, version(b"g", content("not stored")))
    with catalog.reading() as connection:
        assert tapes.has_segments(connection, content("stored"))
        assert not tapes.has_segments(connection, content("not stored"))


# -- what a session's catalog lists


def test_objects_of_a_pair_come_from_side_a_or_else_from_b(catalog: Catalog) -> None:
    pair = new_pair(catalog)
    with catalog.transaction() as connection:
        for side in Side:
            label = TapeFile(0, "label", None, 0, 5, digest(side))
            tapes.record_tape_files(connection, pair.on(side).barcode, [label])
    ids = [write_object(catalog, pair, number, [], sides=sides) for number, sides in [(1, "AB"), (2, "B"), (3, "A")]]
    with catalog.reading() as connection:
        assert [item.object_id for item in tapes.objects_of_pair(connection, pair.id)] == ids


def test_ends_since_a_moment(catalog: Catalog) -> None:
    items = [version(b"f%d" % number, content(number)) for number in range(3)]
    record(catalog, *items)
    with catalog.transaction() as connection:
        files.record_ends(connection, [VersionEnd(items[0].id, 9), VersionEnd(items[1].id, 10)])
    with catalog.reading() as connection:
        assert list(tapes.ends_since(connection, 10)) == [(items[1].id, 10)]


def test_the_catalog_bound_grows_with_members_and_names(catalog: Catalog) -> None:
    pair = new_pair(catalog)
    with catalog.reading() as connection:
        assert tapes.catalog_bound(connection, pair.id, 100) == 0
    items = [version(b"x" * 50), version(b"y")]
    record(catalog, *items)
    write_object(catalog, pair, 1, items)
    with catalog.reading() as connection:
        assert tapes.catalog_bound(connection, pair.id, 100) >= 2 * 100 + 3 * 51
