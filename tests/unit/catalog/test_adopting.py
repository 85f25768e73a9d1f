"""Taking over what tapes tell: idempotent, and never against what is known."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from tests.unit.catalog.kit import (
    SOURCE,
    content,
    end,
    evidence,
    new_pair,
    record,
    tell,
    version,
    write_object,
)

from holdfast.catalog import Catalog, MemberFacts, adopting, files, proof, tapes
from holdfast.catalog.adopting import ToldVersion
from holdfast.errors import IntegrityError
from holdfast.values import Sighting, Source


def adopt(catalog: Catalog, *told: ToldVersion) -> None:
    with catalog.transaction() as connection:
        adopting.adopt_sources(connection, [SOURCE])
        adopting.adopt_versions(connection, told)


def ended(catalog: Catalog, path: bytes) -> list[int | None]:
    with catalog.reading() as connection:
        return [moment for _, moment in files.versions_of_path(connection, SOURCE.name, path)]


# -- sources


def test_a_source_of_which_only_the_name_was_known_gets_its_place(catalog: Catalog) -> None:
    bare = Source(uuid.uuid4(), "bare", "", b"")
    placed = Source(uuid.uuid4(), "bare", "host", b"/data/bare")
    for told in (bare, bare, placed, placed, bare):
        with catalog.transaction() as connection:
            adopting.adopt_sources(connection, [told])
    with catalog.reading() as connection:
        assert files.all_sources(connection) == [replace(placed, id=bare.id)]


def test_two_folders_of_one_name_are_refused_and_both_are_named(catalog: Catalog) -> None:
    with catalog.transaction() as connection:
        adopting.adopt_sources(connection, [SOURCE])
    with pytest.raises(IntegrityError) as raised, catalog.transaction() as connection:
        adopting.adopt_sources(connection, [Source(uuid.uuid4(), SOURCE.name, "elsewhere", b"/other")])
    assert (raised.value.expected, raised.value.found) == ("host:/data", "elsewhere:/other")


# -- versions


def test_versions_are_recorded_once_with_what_was_seen_of_them(catalog: Catalog) -> None:
    item = version(b"a", content("a"))
    for _ in range(2):
        adopt(catalog, ToldVersion(item, Sighting(1, 2, 3, 4)))
    with catalog.reading() as connection:
        (present,) = files.versions_at(connection, None)
    assert (present.version, present.sighting) == (item, Sighting(1, 2, 3, 4))


def test_a_version_that_is_known_learns_its_content_and_nothing_else(catalog: Catalog) -> None:
    noted = replace(version(b"a", content("a")), content=None)
    record(catalog, noted, sighting=Sighting(1, 2, 3, 4))
    adopt(catalog, ToldVersion(replace(noted, content=content("a"))))
    with catalog.reading() as connection:
        (present,) = files.versions_at(connection, None)
    assert (present.version.content, present.sighting) == (content("a"), Sighting(1, 2, 3, 4))


def test_a_known_version_that_is_void_on_tape_is_still_to_be_written(catalog: Catalog) -> None:
    """An older catalog knows it as a file of the source; nobody has noted it anew."""
    item = replace(version(b"a"), content=None)
    adopt(catalog, ToldVersion(item))
    adopt(catalog, ToldVersion(item, void=True))
    assert ended(catalog, b"a") == [None]
    with catalog.reading() as connection:
        assert [present.version.id for present in tapes.unwritten_versions(connection)] == [item.id]


def test_a_void_version_has_no_bytes_and_is_not_present(catalog: Catalog) -> None:
    item = replace(version(b"a", content("a")), content=None)
    adopt(catalog, ToldVersion(item, void=True))
    with catalog.reading() as connection:
        assert list(files.versions_at(connection, None)) == []


@pytest.mark.parametrize("field", ["content", "path"])
def test_what_contradicts_a_known_version_is_refused(catalog: Catalog, field: str) -> None:
    item = version(b"a", content("a"))
    record(catalog, item)
    other = replace(item, content=content("b")) if field == "content" else replace(item, path=b"b")
    with pytest.raises(IntegrityError, match="different things") as raised:
        adopt(catalog, ToldVersion(other))
    assert raised.value.expected != raised.value.found


def test_of_versions_of_one_path_all_but_the_newest_ended_when_the_next_was_seen(catalog: Catalog) -> None:
    versions = [version(b"a", content(n), seen_ns=n) for n in (10, 30, 20)]
    gone = version(b"b", content("b"), seen_ns=5)
    record(catalog, *versions, gone, version(b"c"))
    end(catalog, (gone, 7))
    with catalog.transaction() as connection:
        adopting.end_replaced(connection)
    assert ended(catalog, b"a") == [None, 30, 20]
    assert (ended(catalog, b"b"), ended(catalog, b"c")) == ([7], [None])


# -- pairs


def test_a_side_that_only_its_twin_told_of_is_fenced_until_it_is_found(catalog: Catalog) -> None:
    found = new_pair(catalog)
    told = replace(found, id=uuid.uuid4())
    a, b = (
        replace(item, barcode=f"N{item.barcode}", volume_id=uuid.uuid4(), pair_id=told.id) for item in found.cartridges
    )
    unknown = replace(b, volume_id=adopting.unknown_volume(told.id, b.barcode))
    with catalog.transaction() as connection:
        adopting.adopt_pair(connection, replace(told, cartridges=(a, unknown)))
        adopting.fence_unknown(connection, told.id, b.barcode, "not found")
        adopting.fence_unknown(connection, told.id, a.barcode, "never")
        assert [(p.state, p.cartridges[1].fenced) for p in tapes.all_pairs(connection)][1] == ("open", "not found")
    for _ in range(2):
        with catalog.transaction() as connection:
            adopting.adopt_pair(connection, replace(told, cartridges=(a, b)))
            adopting.adopt_pair(connection, replace(told, cartridges=(a, unknown)))
            assert tapes.all_pairs(connection)[1] == replace(told, cartridges=(a, b))


def test_another_cartridge_of_a_known_barcode_is_refused(catalog: Catalog) -> None:
    pair = new_pair(catalog)
    a, b = pair.cartridges
    with pytest.raises(IntegrityError, match="not the one") as raised, catalog.transaction() as connection:
        adopting.adopt_pair(connection, replace(pair, cartridges=(replace(a, volume_id=uuid.uuid4()), b)))
    assert str(a.volume_id) in (raised.value.expected or "")


def test_another_object_in_a_known_place_is_refused(catalog: Catalog) -> None:
    pair, item = new_pair(catalog), version(b"a", content("a"))
    record(catalog, item)
    object_id = write_object(catalog, pair, 1, [item])
    facts = [MemberFacts(item.id, item.content, 0, 512)]
    for told, number in ((uuid.uuid4(), 1), (object_id, 2)):
        with pytest.raises(IntegrityError, match="different objects"), catalog.transaction() as connection:
            adopting.adopt_object(connection, told, pair.id, number, facts)
    with catalog.transaction() as connection:
        adopting.adopt_object(connection, object_id, pair.id, 1, facts)


def test_a_version_is_listed_once_for_each_pair(catalog: Catalog) -> None:
    pair, item = new_pair(catalog), version(b"a", content("a"))
    record(catalog, item)
    for _ in range(2):
        with catalog.transaction() as connection:
            adopting.adopt_listing(connection, uuid.uuid4(), pair.id, [item.id])
            assert [p.version for p in tapes.listed_versions(connection, pair.id)] == [item]


# -- evidence


def test_law_4_two_proofs_before_release_readings_before_a_rebuild_are_history(catalog: Catalog) -> None:
    pair, item = new_pair(catalog), version(b"a", content("a"))
    record(catalog, item)
    object_id = write_object(catalog, pair, 1, [item])
    tell(catalog, *(evidence(pair, side, 1, object_id, ended_ns=100) for side in "AB"))
    assert is_releasable(catalog)
    with catalog.transaction() as connection:
        adopting.note_rebuilt(connection, pair.cartridges[0].barcode, 50)
        adopting.note_rebuilt(connection, pair.cartridges[0].barcode, 200)
    assert not is_releasable(catalog)
    tell(catalog, evidence(pair, "A", 1, object_id, ended_ns=300))
    assert is_releasable(catalog)


def is_releasable(catalog: Catalog) -> bool:
    with catalog.reading() as connection:
        return proof.is_releasable(connection, content("a"), virtual_counts=False)


def test_readings_that_travelled_do_not_travel_again_and_unknown_cartridges_wait(catalog: Catalog) -> None:
    pair, item, session = new_pair(catalog), version(b"a", content("a")), uuid.uuid4()
    record(catalog, item)
    object_id = write_object(catalog, pair, 1, [item])
    reading = evidence(pair, "A", 1, object_id)
    stranger = replace(reading, id=uuid.uuid4(), barcode="XX0001L8")
    with catalog.transaction() as connection:
        tapes.record_session(connection, session, pair.id, ())
        assert adopting.adopt_evidence(connection, [(session, reading), (session, stranger)]) == 1
        assert adopting.adopt_evidence(connection, [(session, reading)]) == 0
        assert proof.evidence_of_object(connection, object_id) == [reading]
        assert proof.evidence_to_travel(connection) == []
