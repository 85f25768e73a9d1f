"""Sources, versions, contents, blocks: told twice is told once, and what was there then is given back."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError as ConstraintError
from tests.unit.catalog.kit import ATTRIBUTES, OTHER, PACK, SOURCE, content, digest, end, group, record, version

from holdfast.catalog import Catalog, files, schema
from holdfast.catalog.files import PAGE_ROWS
from holdfast.errors import IntegrityError, VaultError
from holdfast.values import (
    EMPTY_CONTENT,
    TIME_LIMIT_NS,
    Attributes,
    BlockPlace,
    Content,
    FileVersion,
    Kind,
    Locator,
    Segment,
    Sighting,
    Source,
    VersionEnd,
)


def count(catalog: Catalog) -> dict[str, int]:
    with catalog.reading() as connection:
        return {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in schema.metadata.sorted_tables
        }


def present(catalog: Catalog, moment_ns: int | None = None) -> list[FileVersion]:
    with catalog.reading() as connection:
        return [item.version for item in files.versions_at(connection, moment_ns)]


# -- recording twice


def test_law_6_a_group_told_twice_is_told_once(catalog: Catalog) -> None:
    old = version(b"a/old", content("old"))
    told = group(old, version(b"a/new", content("new")), version(b"a", kind=Kind.FOLDER), version(b"e", EMPTY_CONTENT))
    told = replace(told, manifest=replace(told.manifest, ends=(VersionEnd(old.id, 50),)))
    catalog.group_durable(told)
    catalog.pack_sealed(PACK, 20_000, 15_000)
    before, versions = count(catalog), present(catalog)
    catalog.group_durable(told)
    catalog.pack_sealed(PACK, 20_000, 15_000)
    assert count(catalog) == before
    assert present(catalog) == versions
    assert before["version"] == 4
    assert before["segment"] == 2
    assert catalog.pack_is_sealed(PACK)  # telling of a group again does not open it again
    assert not catalog.pack_is_sealed(uuid.uuid4())


def test_law_3_a_group_whose_blocks_are_unknown_is_not_recorded_at_all(catalog: Catalog) -> None:
    told = group(version(b"a", content("a")))
    with pytest.raises(IntegrityError, match="not in the store"):
        catalog.group_durable(replace(told, blocks=()))
    assert count(catalog)["version"] == 0
    catalog.group_durable(told)
    assert count(catalog)["version"] == 1


def test_a_content_keeps_the_place_that_was_recorded_first(catalog: Catalog) -> None:
    same = content("same")
    first, second = group(version(b"a", same)), group(version(b"x", content("x")), version(b"b", same))
    catalog.group_durable(first)
    catalog.group_durable(second)
    assert catalog.find_segments(same) == first.manifest.versions[0].segments
    assert catalog.find_segments(content("x")) == second.manifest.versions[0].segments
    assert catalog.find_segments(content("same", 99)) is None
    assert catalog.find_segments(EMPTY_CONTENT) is None


def test_law_6_a_place_that_is_lost_goes_only_together_with_the_new_one(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any place, a collection could take the new one's blocks for unneeded."""
    same = content("same")
    old, new = group(version(b"a", same)), group(version(b"x", content("x")), version(b"b", same))
    catalog.group_durable(old)
    found = replace(new, is_adopted=True, misplaced=frozenset({same}))
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.catalog.packs.record_segments", interrupted)
        with pytest.raises(KeyboardInterrupt):
            catalog.group_durable(found)
    assert catalog.find_segments(same) == old.manifest.versions[0].segments
    catalog.group_durable(found)
    assert catalog.find_segments(same) == new.manifest.versions[1].segments


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_blocks_are_found_by_digest_and_size(catalog: Catalog) -> None:
    told = group(version(b"a", content("a")))
    (place,) = told.blocks
    assert catalog.find_block(place.locator) is None
    catalog.group_durable(told)
    assert catalog.find_block(place.locator) == place
    assert catalog.find_block(Locator(place.locator.blake3, 5)) is None
    moved = BlockPlace(place.locator, place.pack_id, 999_424)
    catalog.group_durable(replace(told, blocks=(moved,)))
    assert catalog.find_block(place.locator) == place


def test_a_content_of_many_segments_comes_back_in_order(catalog: Catalog) -> None:
    held = Content(digest("large"), 26 * 1000)
    locators = [Locator(digest("b", number), 1000) for number in range(26)]
    places = tuple(BlockPlace(locator, PACK, 4096 + 2048 * n) for n, locator in enumerate(locators))
    segments = tuple(Segment(locators[number * 7 % 26], 0, 1000) for number in range(26))
    told = group(version(b"large", held))
    stored = replace(told.manifest.versions[0], segments=segments)
    catalog.group_durable(replace(told, blocks=places, manifest=replace(told.manifest, versions=(stored,))))
    assert catalog.find_segments(held) == segments


def test_what_is_not_a_repetition_is_not_passed_over_in_silence(catalog: Catalog) -> None:
    """`OR IGNORE` would swallow a missing value too, and with it a fact."""
    broken = replace(version(b"a", content("a")), attributes=Attributes(0o644, 1, None, 1, "u", "g"))  # type: ignore[arg-type]
    with pytest.raises(ConstraintError):
        record(catalog, broken)


# -- every value comes back

ODD_VERSIONS = [
    version(b"plain", content("plain")),
    version(b"not read yet"),
    replace(version(b"in place"), size_bytes=77),
    version(b"", kind=Kind.FOLDER),
    version(b"dir", kind=Kind.FOLDER),
    version(b"dir/\xff\xfe\n\\x", EMPTY_CONTENT),
    version("dir/naïve".encode(), content(1, 2**62)),
    version("dir/NAÏVE".encode(), content(1, 2**62)),
    replace(version(b"link", kind=Kind.LINK), link_target=b"../\xff"),
    replace(version(b"empty link", kind=Kind.LINK), link_target=b""),
    replace(version(b"hard", content("plain")), hard_link_of=uuid.uuid4()),
    replace(version(b"old"), attributes=Attributes(0o7777, -1, 2**32 - 1, 0, "", "gr\tüp", sparse=True)),
    *(
        replace(version(b"far%d" % ns), attributes=replace(ATTRIBUTES, mtime_ns=ns))
        for ns in (TIME_LIMIT_NS, -TIME_LIMIT_NS, 2**63, -1, -(10**9), 13_569_465_600_123_456_789)
    ),
    version(b"plain", content("plain"), source=OTHER),
]


def test_every_kind_of_version_comes_back_as_it_was(catalog: Catalog) -> None:
    record(catalog, *ODD_VERSIONS, sighting=Sighting(2**64 - 1, 2**63, -5, 2**62))
    assert present(catalog) == ODD_VERSIONS
    with catalog.reading() as connection:
        found = files.versions_by_id(connection, [item.id for item in ODD_VERSIONS])
        assert {key: item.version for key, item in found.items()} == {item.id: item for item in ODD_VERSIONS}
        assert {item.sighting for item in found.values()} == {Sighting(2**64 - 1, 2**63, -5, 2**62)}
        rows = files.version_row_numbers(connection, [item.id for item in ODD_VERSIONS])
        assert rows == {key: item.row for key, item in found.items()}
        for item in ODD_VERSIONS:
            at = files.present_at(connection, item.source, item.path)
            assert at is not None
            assert at.version == item


def test_sources_come_back_and_their_names_are_their_own(catalog: Catalog) -> None:
    root = Source(uuid.uuid4(), "röt", "hôst", b"/\xff")
    with catalog.transaction() as connection:
        files.record_sources(connection, [SOURCE, root])
        files.record_sources(connection, [SOURCE, replace(root, host="moved")])
    for other in (replace(root, id=uuid.uuid4()), replace(root, name=SOURCE.name), replace(root, name="new")):
        with pytest.raises(VaultError, match="two sources of one name"), catalog.transaction() as connection:
            files.record_sources(connection, [other])
    with catalog.reading() as connection:
        assert files.all_sources(connection) == [SOURCE, root]


def test_versions_are_found_by_row_and_by_id_at_a_moment(catalog: Catalog) -> None:
    first, second = version(b"f", content(1), seen_ns=10), version(b"f", content(2), seen_ns=20)
    record(catalog, first, second)
    end(catalog, (first, 20))
    ids = [first.id, second.id, uuid.uuid4()]
    with catalog.reading() as connection:
        rows = files.version_row_numbers(connection, ids)
        assert {p.version for p in files.versions_by_row(connection, list(rows.values()))} == {first, second}
        assert set(files.present_among(connection, ids, 15)) == {first.id}
        assert set(files.present_among(connection, ids, None)) == {second.id}


def test_more_versions_than_one_question_can_name(catalog: Catalog) -> None:
    many = [version(b"f%d" % number, content(number % 900)) for number in range(3 * files.IN_LIMIT + 1)]
    record(catalog, *many)
    with catalog.reading() as connection:
        assert len(files.versions_by_id(connection, [item.id for item in many])) == len(many)
        assert files.versions_by_id(connection, []) == {}
    assert count(catalog)["content"] == 900


# -- as of


def test_versions_are_there_from_when_they_were_seen_until_they_ended(catalog: Catalog) -> None:
    first, second = version(b"f", content(1), seen_ns=10), version(b"f", content(2), seen_ns=20)
    record(catalog, first, second)
    end(catalog, (first, 20))
    assert [present(catalog, moment) for moment in (9, 10, 19, 20, None)] == [[], [first], [first], [second], [second]]
    end(catalog, (second, 30))
    assert [present(catalog, moment) for moment in (29, 30, None)] == [[second], [], []]


def test_the_first_end_stays(catalog: Catalog) -> None:
    item = version(b"f", content(1), seen_ns=10)
    record(catalog, item)
    end(catalog, (item, 20))
    end(catalog, (item, 99), (version(b"unknown"), 1))
    assert present(catalog, 20) == []
    assert present(catalog, 19) == [item]


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_pages_join_without_gap_or_repetition(catalog: Catalog, extra: int) -> None:
    many = [version(b"f%d" % number) for number in range(2 * PAGE_ROWS + extra)]
    record(catalog, *many)
    end(catalog, *((item, 2) for item in many[:50]))
    assert present(catalog) == many[50:]


def test_a_page_may_be_asked_for_while_others_write(catalog: Catalog) -> None:
    many = [version(b"f%d" % number) for number in range(PAGE_ROWS + 10)]
    record(catalog, *many)
    with catalog.reading() as connection:
        rows = files.versions_at(connection, None)
        next(rows)
        record(catalog, version(b"later"))
        assert sum(1 for _ in rows) == len(many) - 1


def test_the_history_of_a_path_is_given_newest_first(catalog: Catalog) -> None:
    first, second = version(b"d/f", content(1), seen_ns=10), version(b"d/f", content(2), seen_ns=20)
    record(catalog, first, second, version(b"d/g"), version(b"d/f", source=OTHER))
    end(catalog, (first, 20))
    with catalog.reading() as connection:
        found = files.versions_of_path(connection, SOURCE.name, b"d/f")
    assert [(item.version, ended) for item, ended in found] == [(second, None), (first, 20)]


# -- folders


def test_a_folder_holds_its_own_entries_and_no_others(catalog: Catalog) -> None:
    inside = [version(b"a/x"), version(b"a/y", kind=Kind.FOLDER), version(b"a/gone")]
    record(catalog, *inside, version(b"a", kind=Kind.FOLDER), version(b"a/y/deep"), version(b"ab/x"))
    record(catalog, version(b"", kind=Kind.FOLDER), version(b"a/x", source=OTHER))
    end(catalog, (inside[2], 5))
    with catalog.reading() as connection:
        assert set(files.present_in_folder(connection, SOURCE.name, b"a")) == {b"a/x", b"a/y"}
        assert set(files.present_in_folder(connection, SOURCE.name, b"")) == {b"a"}
        assert files.present_in_folder(connection, "nobody", b"a") == {}
        found = files.present_in_folder(connection, SOURCE.name, b"a")[b"a/x"]
    assert found.version == inside[0]


def test_of_two_at_one_path_the_newer_counts(catalog: Catalog) -> None:
    first, second = version(b"a/f", content(1)), version(b"a/f", content(2))
    record(catalog, first)
    record(catalog, second)
    with catalog.reading() as connection:
        at = files.present_at(connection, SOURCE.name, b"a/f")
        assert at is not None
        assert at.version == second
        assert files.present_in_folder(connection, SOURCE.name, b"a")[b"a/f"].version == second


def test_a_look_is_remembered(catalog: Catalog) -> None:
    item = version(b"f", content(1))
    record(catalog, item)
    seen = Sighting(1, 2**64 - 1, 3, 4)
    with catalog.transaction() as connection:
        (row,) = files.version_row_numbers(connection, [item.id]).values()
        files.record_looks(connection, [(row, seen)])
        files.record_looks(connection, [])
    with catalog.reading() as connection:
        at = files.present_at(connection, SOURCE.name, b"f")
    assert at is not None
    assert at.sighting == seen
    assert at.version == item


# -- in place


def test_a_content_read_in_place_is_learnt_once(catalog: Catalog) -> None:
    item, other = (replace(version(path), size_bytes=100) for path in (b"f", b"g"))
    record(catalog, item, other)
    with catalog.transaction() as connection:
        files.record_read_contents(connection, {item.id: content("read")})
        files.record_read_contents(connection, {item.id: content("again")})
        files.record_read_contents(connection, {other.id: content("of another size", 99)})
    assert [found.content for found in present(catalog)] == [content("read"), None]


def test_a_void_version_was_never_there(catalog: Catalog) -> None:
    void, read = (replace(version(path, seen_ns=10), size_bytes=100) for path in (b"f", b"g"))
    record(catalog, void, read)
    with catalog.transaction() as connection:
        files.record_read_contents(connection, {read.id: content("read")})
        files.record_void(connection, [void.id, read.id])  # what was read is known, and not made void any more
    assert [[item.id for item in present(catalog, moment)] for moment in (10, None)] == [[read.id], [read.id]]
    with catalog.reading() as connection:
        assert files.present_at(connection, SOURCE.name, b"f") is None
        assert set(files.present_in_folder(connection, SOURCE.name, b"")) == {b"g"}


def test_ids_begin_with_the_time_and_do_not_repeat() -> None:
    moment = 1_700_000_000_123_456_789
    ids = [files.new_version_id(moment + number * 10**6) for number in range(1000)]
    assert ids == sorted(ids)
    assert {item.version for item in ids} == {7}
    assert {item.variant for item in ids} == {uuid.RFC_4122}
    assert ids[0].int >> 80 == moment // 10**6
    assert len({files.new_version_id(moment) for _ in range(1000)}) == 1000
