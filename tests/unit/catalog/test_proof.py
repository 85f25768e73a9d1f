"""Law 4: what is proven, and every way of not being proven."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from tests.unit.catalog.kit import (
    OTHER,
    SOURCE,
    content,
    digest,
    end,
    evidence,
    new_pair,
    object_file,
    record,
    tell,
    version,
    write_object,
)

from holdfast.catalog import Catalog, Evidence, Pair, TapeFile, proof, tapes
from holdfast.errors import IntegrityError
from holdfast.values import Content, FileVersion, Kind, Side

HELD = content("held")


class World:
    """One file on a pair of cartridges, as tape file 3."""

    def __init__(self, catalog: Catalog, **pair: object) -> None:
        self.catalog = catalog
        self.version = version(b"f", HELD)
        record(catalog, self.version)
        self.pair = new_pair(catalog, **pair)  # type: ignore[arg-type]
        self.object_id = write_object(catalog, self.pair, 3, [self.version])

    def read(self, side: str, **how: object) -> Evidence:
        item = evidence(self.pair, side, 3, self.object_id, **how)  # type: ignore[arg-type]
        tell(self.catalog, item)
        return item

    def is_releasable(self, held: Content = HELD, *, virtual_counts: bool = False) -> bool:
        with self.catalog.reading() as connection:
            return proof.is_releasable(connection, held, virtual_counts=virtual_counts)

    def proven(self) -> dict[str, set[int]]:
        with self.catalog.reading() as connection:
            return {side.value: proof.proven_tape_files(connection, self.pair.on(side).barcode) for side in Side}

    def unproven(self) -> list[FileVersion]:
        with self.catalog.reading() as connection:
            found = proof.unproven_versions(connection, [SOURCE.name], 10)
            counts = proof.count_proven(connection)
        assert counts["versions"] - counts["proven"] == len(found)
        return found


@pytest.fixture
def world(catalog: Catalog) -> World:
    return World(catalog)


def test_law_4_two_readings_of_two_cartridges_prove(world: World) -> None:
    assert (world.is_releasable(), world.unproven()) == (False, [world.version])
    world.read("A")
    assert (world.is_releasable(), world.unproven()) == (False, [world.version])
    world.read("B")
    assert (world.is_releasable(), world.unproven()) == (True, [])
    assert world.proven() == {"A": {3}, "B": {3}}


def fence(world: World) -> None:
    with world.catalog.transaction() as connection:
        tapes.fence(connection, world.pair.on(Side.A).barcode, "it was dropped")


def read_another_object(world: World) -> None:
    other = evidence(world.pair, "A", 3, world.object_id)
    other_object = write_object(world.catalog, new_pair(world.catalog), 9, [version_beside(world)])
    tell(world.catalog, replace(other, object_id=other_object))


def version_beside(world: World) -> FileVersion:
    beside = version(b"beside", content("beside"), source=OTHER)
    record(world.catalog, beside)
    end(world.catalog, (beside, 1))
    return beside


NOT_PROVEN_ON_A: dict[str, Callable[[World], object]] = {
    "never read": lambda world: None,
    "not reloaded": lambda world: world.read("A", reloaded=False),
    "bad bytes": lambda world: world.read("A", matched=False),
    "bad bytes later": lambda world: (world.read("A"), world.read("A", matched=False, ended_ns=200)),
    "bad bytes at the same time, told later": lambda world: (world.read("A"), world.read("A", matched=False)),
    "bad bytes told later": lambda world: (world.read("A", ended_ns=300), world.read("A", matched=False, ended_ns=200)),
    "bad bytes made later": lambda world: (world.read("A", matched=False, ended_ns=300), world.read("A", ended_ns=200)),
    "good bytes not reloaded after bad ones": lambda world: (
        world.read("A", matched=False),
        world.read("A", reloaded=False, ended_ns=300),
    ),
    "fenced": lambda world: (world.read("A"), fence(world)),
    "fenced before": lambda world: (fence(world), world.read("A")),
    "other bytes than were committed": lambda world: world.read("A", found=digest("others")),
    "another tape file": lambda world: tell(world.catalog, evidence(world.pair, "A", 4, world.object_id)),
    "another object": read_another_object,
    "no object": lambda world: tell(
        world.catalog, replace(evidence(world.pair, "A", 3, world.object_id), object_id=None)
    ),
}


@pytest.mark.parametrize("way", NOT_PROVEN_ON_A)
def test_law_4_one_copy_is_no_proof(world: World, way: str) -> None:
    world.read("B")
    world.read("B", ended_ns=500)  # twice the same cartridge is one cartridge
    NOT_PROVEN_ON_A[way](world)
    assert world.proven()["A"] == set()
    assert not world.is_releasable(virtual_counts=True)
    assert world.unproven() == [world.version]


def test_law_4_an_uncommitted_copy_is_none(catalog: Catalog) -> None:
    world = World(catalog)
    lonely = version(b"lonely", content("lonely"))
    record(catalog, lonely)
    object_id = write_object(catalog, world.pair, 4, [lonely], sides="A")
    tell(catalog, evidence(world.pair, "A", 4, object_id), evidence(world.pair, "B", 4, object_id))
    assert not world.is_releasable(content("lonely"))
    assert lonely in world.unproven()


def test_law_4_good_bytes_after_bad_ones_prove_again(world: World) -> None:
    world.read("B")
    world.read("A")
    world.read("A", matched=False, ended_ns=200)
    world.read("A", ended_ns=300)
    assert world.is_releasable()


def test_law_4_a_reading_that_proves_nothing_speaks_against_nothing(world: World) -> None:
    for side in "AB":
        world.read(side)
        world.read(side, reloaded=False, ended_ns=200)
    assert world.is_releasable()


def test_law_4_copies_that_may_burn_together_are_no_two_proofs(catalog: Catalog) -> None:
    world = World(catalog, domains=("one room", "one room"))
    world.read("A")
    world.read("B")
    assert world.unproven() == []  # two verified copies there are
    assert not world.is_releasable(virtual_counts=True)


def test_law_4_virtual_cartridges_never_qualify_unless_the_owner_says_so(catalog: Catalog) -> None:
    world = World(catalog, virtual=True)
    world.read("A")
    world.read("B")
    assert not world.is_releasable()
    assert world.is_releasable(virtual_counts=True)


def test_law_4_one_virtual_copy_is_not_half_a_proof(catalog: Catalog) -> None:
    world = World(catalog)
    world.read("A")
    virtual = new_pair(catalog, virtual=True, domains=("far", "farther"))
    again = version(b"again", HELD)
    record(catalog, again)
    object_id = write_object(catalog, virtual, 1, [again])
    tell(catalog, evidence(virtual, "A", 1, object_id), evidence(virtual, "B", 1, object_id))
    assert not world.is_releasable()
    assert world.is_releasable(virtual_counts=True)


def test_law_4_copies_in_two_pairs_prove_a_content(catalog: Catalog) -> None:
    world = World(catalog)
    world.read("A")
    other = new_pair(catalog, domains=("third place", "fourth place"))
    again = version(b"again", HELD)
    record(catalog, again)
    object_id = write_object(catalog, other, 1, [again])
    assert not world.is_releasable()
    tell(catalog, evidence(other, "B", 1, object_id))
    assert world.is_releasable()


@pytest.mark.parametrize("held", [content("held", 99), content("other")])
def test_law_4_another_content_is_not_proven_with_it(world: World, held: Content) -> None:
    world.read("A")
    world.read("B")
    assert not world.is_releasable(held)


def test_law_4_a_void_member_holds_no_content(catalog: Catalog) -> None:
    void = version(b"void", content("void"))
    record(catalog, void)
    pair = new_pair(catalog)
    object_id = write_object(catalog, pair, 1, [void], void=[void])
    tell(catalog, evidence(pair, "A", 1, object_id), evidence(pair, "B", 1, object_id))
    with catalog.reading() as connection:
        assert not proof.is_releasable(connection, content("void"), virtual_counts=True)
        assert proof.count_proven(connection) == {"versions": 1, "proven": 0}


def test_evidence_that_contradicts_itself_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="contradicts itself"):
        Evidence(
            id=uuid.uuid4(), barcode="T", tape_file=1, object_id=None, drive="D", begun_ns=1, ended_ns=2, size_bytes=3,
            members=0, expected=bytes(32), found=digest("x"), matched=True, reloaded=True,
        )  # fmt: skip


# -- against a plain model

readings = st.lists(
    st.tuples(st.sampled_from("AB"), st.booleans(), st.booleans(), st.integers(1, 4)), max_size=7
)  # side, matched, reloaded, when


def model_proves(done: list[tuple[str, bool, bool, int]], side: str) -> bool:
    mine = [(number, *rest) for number, (where, *rest) in enumerate(done) if where == side]
    return any(
        matched
        and reloaded
        and not any(not other_matched and (n > number or t > when) for n, other_matched, _, t in mine)
        for number, matched, reloaded, when in mine
    )


@given(readings)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_law_4_any_sequence_of_readings_proves_what_it_should(
    catalog: Catalog, done: list[tuple[str, bool, bool, int]]
) -> None:
    held = Content(uuid.uuid4().bytes * 2, 10)
    item = version(uuid.uuid4().hex.encode(), held)
    record(catalog, item)
    pair = new_pair(catalog)
    object_id = write_object(catalog, pair, 1, [item])
    for side, matched, reloaded, when in done:
        tell(catalog, evidence(pair, side, 1, object_id, matched=matched, reloaded=reloaded, ended_ns=when))
    with catalog.reading() as connection:
        for side in "AB":
            wanted = {1} if model_proves(done, side) else set[int]()
            assert proof.proven_tape_files(connection, pair.on(Side(side)).barcode) == wanted
        wanted_release = model_proves(done, "A") and model_proves(done, "B")
        assert proof.is_releasable(connection, held, virtual_counts=False) == wanted_release


# -- versions that are named only


def test_a_version_that_only_a_catalog_names_is_proven_with_its_bytes(world: World) -> None:
    chmodded = version(b"f", HELD, seen_ns=5)
    record(world.catalog, chmodded)
    end(world.catalog, (world.version, 5))
    world.read("A")
    world.read("B")
    assert world.unproven() == [chmodded]
    with world.catalog.transaction() as connection:
        rows = tapes.versions_to_list(connection)
        tapes.record_session(connection, uuid.uuid4(), world.pair.id, rows)
    assert world.unproven() == []
    world.read("B", matched=False, ended_ns=200)
    assert world.unproven() == [chmodded]


def test_folders_links_and_empty_files_are_proven_by_their_members(catalog: Catalog) -> None:
    items = [version(b"d", kind=Kind.FOLDER), version(b"l", kind=Kind.LINK), version(b"e", content("", 0))]
    record(catalog, *items)
    pair = new_pair(catalog)
    object_id = write_object(catalog, pair, 1, items)
    tell(catalog, evidence(pair, "A", 1, object_id))
    with catalog.reading() as connection:
        assert proof.unproven_versions(connection, [SOURCE.name], 2) == items[:2]
    tell(catalog, evidence(pair, "B", 1, object_id))
    with catalog.reading() as connection:
        assert proof.count_proven(connection) == {"versions": 3, "proven": 3}
        assert proof.unproven_versions(connection, [OTHER.name], 2) == []


def gone(catalog: Catalog) -> list[FileVersion]:
    with catalog.reading() as connection:
        found = proof.gone_and_unproven(connection, 10)
        assert proof.count_gone_and_unproven(connection) == len(found)
        return found


def test_law_4_what_is_gone_from_its_source_is_told_until_its_bytes_are_proven(world: World) -> None:
    world.read("A")
    world.read("B")
    assert gone(world.catalog) == []
    world.read("B", matched=False, ended_ns=200)
    assert gone(world.catalog) == []  # it is in its source
    end(world.catalog, (world.version, 300))
    assert gone(world.catalog) == [world.version]
    rescued = version(b"rescued/f", HELD, seen_ns=400)
    record(world.catalog, rescued)
    pair = new_pair(world.catalog)
    object_id = write_object(world.catalog, pair, 1, [rescued])
    tell(world.catalog, evidence(pair, "A", 1, object_id))
    assert gone(world.catalog) == [world.version]
    tell(world.catalog, evidence(pair, "B", 1, object_id))
    assert gone(world.catalog) == []


def test_what_was_never_read_or_has_no_bytes_is_nobodys_loss(catalog: Catalog) -> None:
    items = [version(b"d", kind=Kind.FOLDER), version(b"e", content("", 0)), version(b"noted in place")]
    record(catalog, *items)
    end(catalog, *((item, 5) for item in items))
    assert gone(catalog) == []


def test_a_cartridge_was_good_once_when_each_of_its_tape_files_was_read_well(world: World) -> None:
    barcode = world.pair.on(Side.A).barcode

    def was_good() -> bool:
        with world.catalog.reading() as connection:
            return proof.was_read_whole(connection, barcode)

    assert not was_good()
    world.read("B")
    world.read("A", matched=False)
    assert not was_good()
    world.read("A", ended_ns=200)
    world.read("A", matched=False, ended_ns=300)
    assert was_good()
    write_object(world.catalog, world.pair, 4, [world.version])
    assert not was_good()


def test_label_and_catalogs_are_proven_without_objects(catalog: Catalog) -> None:
    pair = new_pair(catalog)
    barcode = pair.on(Side.A).barcode
    with catalog.transaction() as connection:
        tapes.record_tape_files(connection, barcode, [TapeFile(0, "label", None, 0, 100, digest(None))])
    tell(catalog, evidence(pair, "A", 0, None))
    with catalog.reading() as connection:
        assert proof.proven_tape_files(connection, barcode) == {0}
        assert proof.proven_tape_files(connection, pair.on(Side.B).barcode) == set()


# -- keeping evidence


def test_law_6_evidence_told_twice_is_told_once_and_comes_back(world: World) -> None:
    told = [world.read("A"), world.read("B", matched=False), world.read("A", ended_ns=7)]
    tell(world.catalog, *told, *told)
    with world.catalog.reading() as connection:
        assert proof.evidence_of_object(connection, world.object_id) == told
        assert proof.evidence_of_object(connection, uuid.uuid4()) == []
        assert proof.evidence_to_travel(connection) == told
        assert proof.count_problems(connection) == 1


def test_evidence_of_an_unknown_cartridge_is_an_error_by_name(world: World) -> None:
    stray = replace(evidence(world.pair, "A", 3, world.object_id), barcode="NOBODY")
    with pytest.raises(IntegrityError, match="NOBODY"):
        tell(world.catalog, stray)


def test_evidence_travels_once(world: World) -> None:
    first, second = world.read("A"), world.read("B")
    session = uuid.uuid4()
    with world.catalog.transaction() as connection:
        tapes.record_session(connection, session, world.pair.id, [])
        proof.evidence_travelled(connection, session, [first.id])
    with world.catalog.reading() as connection:
        assert proof.evidence_to_travel(connection) == [second]


def test_a_long_journal_of_evidence_is_adopted_in_a_few_questions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [evidence(world.pair, "A", 3, world.object_id, ended_ns=number) for number in range(1000)]
    tell(world.catalog, *many)
    statements: list[str] = []
    with world.catalog.transaction() as connection:
        event.listen(connection, "before_cursor_execute", lambda *a: statements.append(a[2]))
        proof.record_evidence(connection, many)
    assert len(statements) < 10


def test_count_problems_counts_tape_files_whose_newest_reading_is_bad(catalog: Catalog) -> None:
    world = World(catalog)
    assert pair_problems(world.pair, catalog) == 0
    world.read("A", matched=False)
    world.read("B", matched=False)
    assert pair_problems(world.pair, catalog) == 2
    world.read("A", ended_ns=500)
    assert pair_problems(world.pair, catalog) == 1


def pair_problems(_: Pair, catalog: Catalog) -> int:
    with catalog.reading() as connection:
        return proof.count_problems(connection)


def test_object_file_of_the_kit_is_what_evidence_expects() -> None:
    object_id = uuid.uuid4()
    assert object_file(1, object_id).blake3 == digest(object_id)
