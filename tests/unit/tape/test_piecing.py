"""Which tape files a side has, decided from all that is known of them."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from holdfast.errors import IntegrityError
from holdfast.tape.journal import Committed
from holdfast.tape.layout import TapeFileName
from holdfast.tape.piecing import LOST, UNKNOWN, SeenSide, agreed_end, believed, piece_together
from holdfast.tape.sessioncatalog import ObjectTold
from holdfast.tape.survey import SeenFile

RECORD = 1000
PAIR = uuid.uuid4()
VOLUME, ONE, TWO, SESSION = (uuid.uuid4() for _ in range(4))
DIGEST = {number: bytes([number]) * 32 for number in range(1, 9)}


def seen(*names: tuple[str, uuid.UUID] | None, records: int = 4) -> list[SeenFile]:
    found: list[SeenFile] = []
    for number, name in enumerate(names):
        block = number * (records + 1)
        found.append(SeenFile(number, block, records, None if name is None else TapeFileName(*name, PAIR)))
    return found


def told(item: SeenFile, object_id: uuid.UUID, digest: bytes) -> ObjectTold:
    return ObjectTold(object_id, item.number, item.first_block, item.records * RECORD, digest)


def side(files: list[SeenFile], whole: dict[int, bytes], **more: object) -> SeenSide:
    return SeenSide("HF0001L8", RECORD, files, {0: DIGEST[1]} | whole, **more)  # type: ignore[arg-type]


def known(files: list[SeenFile], digests: list[bytes]) -> list[Committed]:
    return [
        Committed(
            tape_file=item.number,
            kind=item.name.kind if item.name else "object",
            id=item.name.id if item.name else uuid.UUID(int=0),
            first_block=item.first_block,
            size_bytes=item.records * RECORD,
            blake3=digest,
            record_bytes=RECORD,
        )
        for item, digest in zip(files, digests, strict=False)
    ]


SESSION_OF_ONE = seen(("label", VOLUME), ("object", ONE), ("catalog", SESSION), ("catalog", SESSION))


def test_an_object_is_what_the_catalog_tells_and_catalogs_are_what_was_read() -> None:
    catalog = {1: told(SESSION_OF_ONE[1], ONE, DIGEST[2])}
    pieces = piece_together(side(SESSION_OF_ONE, {2: DIGEST[3], 3: DIGEST[3]}), None, catalog)
    assert pieces == known(SESSION_OF_ONE, [DIGEST[1], DIGEST[2], DIGEST[3], DIGEST[3]])


def test_a_damaged_copy_of_a_catalog_has_the_digest_of_the_good_one() -> None:
    catalog = {1: told(SESSION_OF_ONE[1], ONE, DIGEST[2])}
    pieces = piece_together(side(SESSION_OF_ONE, {3: DIGEST[3]}), None, catalog)
    assert [item.blake3 for item in pieces] == [DIGEST[1], DIGEST[2], DIGEST[3], DIGEST[3]]


def test_of_differing_readings_most_decide() -> None:
    one, two = side(SESSION_OF_ONE, {2: DIGEST[5], 3: DIGEST[3]}), side(SESSION_OF_ONE, {2: DIGEST[3], 3: DIGEST[3]})
    catalog = {1: told(SESSION_OF_ONE[1], ONE, DIGEST[2])}
    assert piece_together(one, two, catalog)[2].blake3 == DIGEST[3]


def test_what_one_side_lost_comes_from_the_twin() -> None:
    files = seen(("label", VOLUME), None, ("object", TWO))
    twin = side(seen(("label", uuid.uuid4()), ("object", ONE), ("object", TWO)), {1: DIGEST[2], 2: DIGEST[3]})
    pieces = piece_together(side(files, {}), twin, {})
    assert [(item.kind, item.id, item.blake3) for item in pieces[1:]] == [
        ("object", ONE, DIGEST[2]),
        ("object", TWO, DIGEST[3]),
    ]


def test_what_nobody_has_is_lost_in_the_middle_and_nobodys_at_the_end() -> None:
    files = seen(("label", VOLUME), None, ("object", TWO), ("object", ONE))
    pieces = piece_together(side(files, {2: DIGEST[3]}), None, {})
    assert [(item.kind, item.blake3) for item in pieces[1:]] == [(LOST, UNKNOWN), ("object", DIGEST[3])]


def test_a_catalog_at_the_end_is_nobodys_only_if_it_was_not_written_to_its_end() -> None:
    catalog = {1: told(SESSION_OF_ONE[1], ONE, DIGEST[2])}
    damaged = side(SESSION_OF_ONE, {})
    assert [item.blake3 for item in piece_together(damaged, None, catalog)[2:]] == [UNKNOWN, UNKNOWN]
    files = SESSION_OF_ONE[:3]
    assert len(piece_together(side(files, {}, unfinished={2}), None, catalog)) == 2


def test_what_the_journal_says_stays_and_must_be_what_is_there() -> None:
    journal = known(SESSION_OF_ONE, [DIGEST[1], DIGEST[2], DIGEST[3], DIGEST[3]])
    assert piece_together(side(SESSION_OF_ONE, {}, known=journal), None, {}) == journal
    with pytest.raises(IntegrityError, match="contradict each other") as raised:
        piece_together(side(SESSION_OF_ONE[:3], {}, known=journal), None, {})
    assert raised.value.place == "HF0001L8 tape file 3"


@pytest.mark.parametrize(
    "wrong",
    [{"id": TWO}, {"blake3": DIGEST[7]}, {"size_bytes": 7 * RECORD}],
    ids=["id", "digest", "size"],
)
def test_a_catalog_that_contradicts_journal_or_tape_is_an_error_that_names_both(wrong: dict[str, object]) -> None:
    journal = known(SESSION_OF_ONE, [DIGEST[1], DIGEST[2]])
    other = replace(told(SESSION_OF_ONE[1], ONE, DIGEST[2]), **wrong)  # type: ignore[arg-type]
    for view in (side(SESSION_OF_ONE, {}, known=journal), side(SESSION_OF_ONE, {2: DIGEST[3]})):
        if "blake3" in wrong and not view.known:
            continue  # without a journal nothing is known of its digest
        with pytest.raises(IntegrityError, match="contradict each other") as raised:
            piece_together(view, None, {1: other})
        assert raised.value.place == "HF0001L8 tape file 1"
        assert raised.value.expected
        assert raised.value.found


def test_blocks_that_are_told_for_a_side_with_a_longer_label_are_shifted_all_alike() -> None:
    files = seen(("label", VOLUME), ("object", ONE), ("object", TWO))
    one, two = (told(files[number], name, DIGEST[number]) for number, name in ((1, ONE), (2, TWO)))
    longer = {1: replace(one, first_block=one.first_block + 3), 2: replace(two, first_block=two.first_block + 3)}
    assert piece_together(side(files, {}), None, longer) == piece_together(side(files, {}), None, {1: one, 2: two})
    with pytest.raises(IntegrityError, match="contradict each other") as raised:
        piece_together(side(files, {}), None, longer | {2: two})
    assert raised.value.place == "HF0001L8 tape file 2"


def test_sides_that_a_killed_run_left_differing_end_before_they_differ() -> None:
    one = side(seen(("label", VOLUME), ("object", ONE), ("object", TWO)), {1: DIGEST[2], 2: DIGEST[3]})
    two = side(seen(("label", VOLUME), ("object", ONE), ("object", SESSION)), {1: DIGEST[2], 2: DIGEST[4]})
    assert agreed_end([one, two], {}) == 2
    assert [item.id for item in piece_together(one, two, {})] == [VOLUME, ONE]
    assert [item.id for item in piece_together(two, one, {})] == [VOLUME, ONE]


THREE, OTHER = uuid.uuid4(), uuid.uuid4()


def test_what_an_earlier_run_left_on_one_side_ends_it_where_only_the_twin_is_vouched_for() -> None:
    """By the twin's journal, by a catalog that tells of it, or as it is a whole catalog itself."""
    ahead = seen(("label", VOLUME), ("object", ONE), ("object", TWO), ("catalog", SESSION), ("catalog", SESSION))
    catalog = {1: told(ahead[1], ONE, DIGEST[2]), 2: told(ahead[2], TWO, DIGEST[3])}
    journal = known(ahead, [DIGEST[1], DIGEST[2], DIGEST[3]])
    for number in (2, 3, 4):
        left = [*ahead[:number], *seen(*[("object", OTHER)] * (number + 1))[number:]]
        one = side(ahead, {3: DIGEST[4], 4: DIGEST[4]}, known=journal)
        two = side(left, {}, known=known(ahead, [DIGEST[1], DIGEST[2]]))
        for vouching in (one, replace(one, known=journal[:2])):
            assert [item.id for item in piece_together(two, vouching, catalog)] == [
                item.name.id for item in ahead[:number] if item.name
            ]
            whole = piece_together(vouching, two, catalog)
            assert [item.id for item in whole] == [item.name.id for item in ahead if item.name]


@pytest.mark.parametrize("name", [("object", TWO), None], ids=["named", "its begin is damaged"])
def test_an_object_that_was_cut_short_ends_its_side_where_only_the_twin_is_vouched_for(
    name: tuple[str, uuid.UUID] | None,
) -> None:
    """The side failed within it, and closing the device put a mark behind what there was."""
    ahead = seen(("label", VOLUME), ("object", ONE), ("object", TWO), ("catalog", SESSION), ("catalog", SESSION))
    short = [*ahead[:2], replace(ahead[2], records=3, name=None if name is None else TapeFileName(*name, PAIR))]
    catalog = {1: told(ahead[1], ONE, DIGEST[2]), 2: told(ahead[2], TWO, DIGEST[3])}
    journal = known(ahead, [DIGEST[1], DIGEST[2], DIGEST[3]])
    cut = side(short, {})
    by_catalog = side(ahead, {3: DIGEST[4], 4: DIGEST[4]})
    by_journal, by_reading = side(ahead[:3], {}, known=journal), side(ahead[:3], {1: DIGEST[2], 2: DIGEST[3]})
    for vouching, what_is_told in ((by_catalog, catalog), (by_journal, {}), (by_reading, catalog)):
        assert [item.id for item in piece_together(cut, vouching, what_is_told)] == [VOLUME, ONE]
        assert piece_together(vouching, cut, what_is_told)[2].id == TWO


def test_an_object_that_is_shorter_than_its_own_journal_says_is_a_contradiction() -> None:
    files = seen(("label", VOLUME), ("object", ONE))
    short = side([files[0], replace(files[1], records=3)], {}, known=known(files, [DIGEST[1], DIGEST[2]]))
    for twin in (None, side(files, {}, known=known(files, [DIGEST[1], DIGEST[2]]))):
        with pytest.raises(IntegrityError, match="contradict each other"):
            piece_together(short, twin, {})


def test_two_sides_that_both_vouch_for_other_things_in_one_place_contradict_each_other() -> None:
    files = seen(("label", VOLUME), ("object", ONE))
    others = seen(("label", VOLUME), ("object", OTHER))
    one, two = (side(item, {}, known=known(item, [DIGEST[1], DIGEST[2]])) for item in (files, others))
    for view, twin in ((one, two), (two, one)):
        with pytest.raises(IntegrityError, match="contradict each other") as raised:
            piece_together(view, twin, {})
        assert raised.value.place == "HF0001L8 tape file 1"


def test_objects_that_no_catalog_tells_of_and_that_differ_are_not_read_as_committed() -> None:
    """Each was read whole, on one side: neither is committed before the other is known not to be."""
    one = side(seen(("label", VOLUME), ("object", ONE), ("object", TWO)), {})
    two = side(seen(("label", VOLUME), ("object", ONE), ("object", THREE)), {})
    assert [len(view.files) for view in believed([one, two], {})] == [2, 2]
