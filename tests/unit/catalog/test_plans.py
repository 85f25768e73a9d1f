"""No question may become slow with the number of versions: each is answered through an index.

`EXPLAIN QUERY PLAN` is the same on every machine, as a stopwatch is not. A SCAN is allowed where every row is asked
for, or where the table has one row for each cartridge, session or object.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event
from tests.unit.catalog.kit import SOURCE, content, evidence, group, new_pair, tell, version, write_object

from holdfast.catalog import Catalog, files, holders, packs, proof, tapes
from holdfast.values import Content, Locator, Sighting, VersionEnd

FEW_ROWS = {"source", "pair", "cartridge", "session", "tape_object", "pack", "meta"}

OF_ONE_CONTENT = {"is_releasable", "tape_places", "files_in_block", "files_of_content"}
"""What is asked of one content may go through its files; the last two are asked of what is damaged."""

Question = Callable[[Connection], object]
ID = uuid.uuid4()

QUESTIONS: dict[str, tuple[Question, set[str]]] = {
    "versions_at": (lambda c: list(files.versions_at(c, 5)), set()),
    "present_in_folder": (lambda c: files.present_in_folder(c, SOURCE.name, b"a"), set()),
    "present_at": (lambda c: files.present_at(c, SOURCE.name, b"a/f"), set()),
    "versions_of_path": (lambda c: files.versions_of_path(c, SOURCE.name, b"a/f"), set()),
    "leads_hard_links": (lambda c: files.leads_hard_links(c, uuid.UUID(int=1)), set()),
    "versions_by_id": (lambda c: files.versions_by_id(c, [ID]), set()),
    "version_row_numbers": (lambda c: files.version_row_numbers(c, [ID]), set()),
    "pack_is_sealed": (lambda c: packs.pack_is_sealed(c, ID), set()),
    "block_rows": (lambda c: packs.block_rows(c, [Locator(bytes(32), 1)]), set()),
    "contents_with_segments": (lambda c: packs.contents_with_segments(c, [1, 2]), set()),
    "parts_in_block": (
        lambda c: holders.parts_in_block(c, Locator(bytes(32), 1), (0, 9), after=0, limit=5),
        set(),
    ),
    "needed": (lambda c: holders.needed(c, [Locator(bytes(32), 1)]), set()),
    "files_in_block": (lambda c: holders.files_in_block(c, Locator(bytes(32), 1), 5), set()),
    "files_of_content": (lambda c: holders.files_of_content(c, content(1), 5, hosts=["host"]), set()),
    "unwritten_versions": (lambda c: list(tapes.unwritten_versions(c)), set()),
    "unwritten_that_only_sources_have": (lambda c: list(tapes.unwritten_that_only_sources_have(c)), set()),
    "count_unwritten_bytes": (tapes.count_unwritten_bytes, {"version"}),
    "versions_to_list": (tapes.versions_to_list, {"version"}),
    "members_of": (lambda c: tapes.members_of(c, ID), set()),
    "member_at": (lambda c: tapes.member_at(c, ID, 5), set()),
    "tape_files": (lambda c: tapes.tape_files(c, "T"), set()),
    "tape_places": (lambda c: tapes.tape_places(c, content(1)), set()),
    "has_segments": (lambda c: tapes.has_segments(c, content(1)), set()),
    "objects_of_pair": (lambda c: tapes.objects_of_pair(c, first_pair(c)), set()),
    "listed_versions": (lambda c: list(tapes.listed_versions(c, ID)), {"listing"}),
    "ends_since": (lambda c: list(tapes.ends_since(c, 5)), {"version"}),
    "catalog_bound": (lambda c: tapes.catalog_bound(c, ID, 1), set()),
    "proven_tape_files": (lambda c: proof.proven_tape_files(c, "T"), set()),
    "unproven_versions": (lambda c: proof.unproven_versions(c, [SOURCE.name], 5), {"version", "evidence"}),
    "count_proven": (proof.count_proven, {"version", "evidence"}),
    "gone_and_unproven": (lambda c: proof.gone_and_unproven(c, 5), {"version", "evidence"}),
    "count_gone_and_unproven": (proof.count_gone_and_unproven, {"version", "evidence"}),
    "was_read_whole": (lambda c: proof.was_read_whole(c, "T"), set()),
    "is_releasable": (lambda c: proof.is_releasable(c, content(1), virtual_counts=False), set()),
    "evidence_of_object": (lambda c: proof.evidence_of_object(c, ID), set()),
    "evidence_to_travel": (proof.evidence_to_travel, {"evidence"}),
    "count_problems": (proof.count_problems, {"evidence"}),
    "record_looks": (lambda c: files.record_looks(c, [(1, Sighting(1, 2, 3, 4))]), set()),
    "record_ends": (lambda c: files.record_ends(c, [VersionEnd(ID, 5)]), set()),
    "record_read_contents": (lambda c: files.record_read_contents(c, {ID: Content(bytes(32), 5)}), set()),
    "record_void": (lambda c: files.record_void(c, [ID]), set()),
}


def first_pair(connection: Connection) -> uuid.UUID:
    return tapes.all_pairs(connection)[0].id


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    catalog = Catalog(tmp_path_factory.mktemp("plans") / "catalog.db")
    items = [version(b"a/f%d" % number, content(number)) for number in range(20)]
    catalog.group_durable(group(*items))
    pair = new_pair(catalog)
    object_id = write_object(catalog, pair, 1, items)
    tell(catalog, evidence(pair, "A", 1, object_id), evidence(pair, "B", 1, object_id))
    yield catalog
    catalog.close()


def plans_of(connection: Connection, question: Question) -> list[str]:
    """What SQLite would do, line by line, for every statement of a question."""
    asked: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _x: object, many: bool) -> None:
        asked.append((statement, parameters[0] if many else parameters))

    event.listen(connection, "before_cursor_execute", note)
    try:
        question(connection)
    finally:
        event.remove(connection, "before_cursor_execute", note)
    lines: list[str] = []
    for statement, parameters in asked:
        if statement.startswith(("SELECT", "UPDATE", "WITH")):
            lines += [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)]
    return lines


@pytest.mark.parametrize("name", QUESTIONS)
def test_law_9_a_question_is_answered_through_an_index(filled: Catalog, name: str) -> None:
    question, whole_tables = QUESTIONS[name]
    with filled.transaction() as connection:
        lines = plans_of(connection, question)
    assert lines
    for line in lines:
        scanned = re.match(r"SCAN (\w+)", line)
        if scanned is not None and not scanned[1].startswith("anon"):
            assert scanned[1] in whole_tables | FEW_ROWS, lines
        assert "AUTOMATIC" not in line, lines  # an index that SQLite makes for each question anew


@pytest.mark.parametrize("name", sorted(set(QUESTIONS) - OF_ONE_CONTENT))
def test_law_9_many_files_of_one_content_are_not_gone_through_for_each_of_them(filled: Catalog, name: str) -> None:
    with filled.transaction() as connection:
        lines = plans_of(connection, QUESTIONS[name][0])
    assert not [line for line in lines if "member_content" in line or "version_content" in line]
