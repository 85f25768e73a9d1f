"""Putting versions together: any order, any repetition, any mixture of versions ends right."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.stream.kit import SOURCE, begin_of, records_of, version_of

from holdfast.stream import assembly as assemblies
from holdfast.stream.assembly import Assembly, State
from holdfast.stream.records import Abort, Data, End, Poison, Record
from holdfast.values import Attributes, FileVersion, Kind


class Store:
    """What a receiver does with steps: keeps new bytes, once each."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.bytes: dict[tuple[uuid.UUID, int], int] = {}
        self.settled: set[uuid.UUID] = set()

    def take(self, record: Record) -> None:
        if record.version_id in self.settled:
            return
        step = self.assembly.feed(record)
        assert step is not None
        for begin, end in step.new:
            assert isinstance(record, Data)
            for at in range(begin, end):
                assert (record.version_id, at) not in self.bytes, "law 6: kept once"
                self.bytes[record.version_id, at] = record.data[at - record.offset_bytes]
        if step.state is State.WHOLE:
            self.settled.add(record.version_id)
            self.assembly.forget(record.version_id)

    def content(self, version: FileVersion) -> bytes:
        return bytes(self.bytes[version.id, at] for at in range(version.size_bytes))


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 15)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
    st.integers(1, 7),
)
def test_any_order_repetition_and_mixture_ends_right(
    contents: list[tuple[bytes, int]], chance: random.Random, other_chunk: int
) -> None:
    """Once sent again, by a run that cut the file into other chunks."""
    versions = [version_of(number, data) for number, (data, _) in enumerate(contents)]
    records = [
        record
        for version, (data, chunk) in zip(versions, contents, strict=True)
        for size in (chunk, other_chunk)
        for record in records_of(version, data, size)
    ]
    chance.shuffle(records)
    store = Store(Assembly())
    for record in records:
        store.take(record)
    assert store.settled == {version.id for version in versions}
    assert [store.content(version) for version in versions] == [data for data, _ in contents]
    assert len(store.assembly) == 0


@given(st.binary(min_size=1, max_size=60), st.integers(1, 9), st.randoms(use_true_random=False))
def test_what_is_missing_is_exactly_what_did_not_come(data: bytes, chunk: int, chance: random.Random) -> None:
    version = version_of(1, data)
    begin, *chunks, end = records_of(version, data, chunk)
    kept = [record for record in chunks if chance.random() < 0.6]
    store = Store(Assembly())
    for record in (begin, *kept, end):
        store.take(record)
    lost = [record for record in chunks if record not in kept]
    if not lost:
        assert store.settled == {version.id}
        return
    partial = store.assembly[version.id]
    assert partial.state is State.LACKING
    gaps = {at for first, last in partial.missing for at in range(first, last)}
    assert gaps == {at for item in lost if isinstance(item, Data) for at in range(item.offset_bytes, item.end_bytes)}
    for first, last in partial.missing:  # the sender sends the pieces that it is asked for
        store.take(Data(version.id, first, data[first:last]))
    assert store.content(version) == data


@given(st.binary(min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 20))
def test_law_6_a_later_run_goes_on_where_an_earlier_one_ended(data: bytes, chunk: int, cut: int) -> None:
    version = version_of(1, data)
    records = records_of(version, data, chunk)
    first = Store(Assembly())
    for record in records[:cut]:
        first.take(record)
    later = Assembly()
    for version_id in first.assembly.ids():
        partial = first.assembly[version_id]
        later.resume(version_id, partial.begin, partial.end, list(partial.ranges))
    second = Store(later)
    second.bytes, second.settled = first.bytes, first.settled
    for record in records[max(0, cut - 2) :]:  # the last ones come again
        second.take(record)
    assert (second.settled, second.content(version)) == ({version.id}, data)


def test_how_a_version_stands() -> None:
    version, assembly = version_of(1, b"0123456789"), Assembly()
    begin, first, second, end = records_of(version, b"0123456789", 5)
    states = [assembly.feed(record) for record in (first, end, second, begin)]
    assert [step.state for step in states if step] == [State.OPEN, State.LACKING, State.UNNAMED, State.WHOLE]
    assert assembly[version.id].source == SOURCE
    assert version.id in assembly
    assembly.forget(version.id)
    assembly.forget(version.id)
    assert version.id not in assembly


@pytest.mark.parametrize("kind", [Kind.FOLDER, Kind.LINK, Kind.FILE])
def test_what_has_no_bytes_is_whole_with_its_end(kind: Kind) -> None:
    target = b"there" if kind is Kind.LINK else None
    version = replace(version_of(1, b""), kind=kind, link_target=target)
    version = version if kind is Kind.FILE else replace(version, content=None)
    assembly = Assembly()
    assembly.feed(begin_of(version))
    step = assembly.feed(End(version))
    assert step is not None
    assert step.state is State.WHOLE


def test_a_hard_link_has_the_bytes_of_its_first_name() -> None:
    version = replace(version_of(1, b"bytes"), hard_link_of=uuid.uuid4())
    assembly = Assembly()
    assembly.feed(begin_of(version))
    step = assembly.feed(End(version))
    assert step is not None
    assert step.state is State.WHOLE


def test_a_version_that_is_given_up_is_told() -> None:
    version, assembly = version_of(1, b"data"), Assembly()
    assembly.feed(begin_of(version))
    assert assembly.feed(Abort(version.id, "it is gone")) is None


GOOD = version_of(1, b"0123456789")
CONTRADICTIONS: dict[str, tuple[list[Record], Record]] = {
    "another path": ([begin_of(GOOD)], begin_of(replace(GOOD, path=b"other"))),
    "another file at the end": ([begin_of(GOOD)], End(replace(GOOD, path=b"other"))),
    "another file at the begin": ([End(GOOD)], begin_of(replace(GOOD, path=b"other"))),
    "another content": ([End(GOOD)], End(version_of(1, b"9876543210"))),
    "bytes behind the end": ([End(GOOD)], Data(GOOD.id, 8, b"xyz")),
    "an end before the bytes": ([Data(GOOD.id, 8, b"xyz")], End(GOOD)),
    "other attributes": ([begin_of(GOOD)], begin_of(replace(GOOD, attributes=Attributes(0, 1, 2, 3, "", "")))),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_is_poison_and_changes_nothing(name: str) -> None:
    before, wrong = CONTRADICTIONS[name]
    assembly = Assembly()
    for record in before:
        assembly.feed(record)
    partial = assembly[GOOD.id]
    facts = (partial.begin, partial.end, list(partial.ranges))
    with pytest.raises(Poison) as caught:
        assembly.feed(wrong)
    assert caught.value.version_id == GOOD.id
    assert (partial.begin, partial.end, list(partial.ranges)) == facts


def test_law_9_dust_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemblies, "RANGES_LIMIT", 3)
    assembly, version_id = Assembly(), uuid.uuid4()
    for number in range(3):
        assembly.feed(Data(version_id, 10 * number, b"x"))
    with pytest.raises(Poison, match="pieces"):
        assembly.feed(Data(version_id, 1000, b"x"))
    assembly.feed(Data(version_id, 1, b"123456789"))  # what closes a gap is welcome


def test_poison_of_an_unknown_version_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemblies, "RANGES_LIMIT", 0)
    assembly = Assembly()
    with pytest.raises(Poison):
        assembly.feed(Data(uuid.uuid4(), 10, b"x"))
    assert len(assembly) == 0
