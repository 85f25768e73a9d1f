"""A dictionary in its folder: what it does there, beside what is the same in every database (`test_conformance`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import StateError
from holdfast.state import POD, Durability, PersistentOrderedDict, SharedPOD


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[POD]:
    with POD(tmp_path / "a.pod") as pod:
        yield pod


def test_reading_writes_nothing_and_makes_nothing_dirty(pod: POD) -> None:
    pod.update(a=[1], b=2)
    pod.sync()
    before = [path.read_bytes() for path in sorted(pod.path.iterdir()) if path.suffix != ".db-shm"]
    assert (pod["a"][0], len(pod), list(pod.items()), pod.copy(), "a" in pod, pod.verify()) is not None
    assert pod.dirty() == set()
    names = [path for path in sorted(pod.path.iterdir()) if path.suffix != ".db-shm"]
    assert [path.read_bytes() for path in names] == before


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StateError, match="cannot be made here"):
        POD(tmp_path / "file")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state.db").write_bytes(b"no database" * 100)
    with pytest.raises(Exception, match="damaged"):
        POD(tmp_path / "a")


def test_law_7_bad_bytes_never_pass(pod: POD) -> None:
    pod.update(a="good", b="fine")
    pod.sync()
    pod.close()
    path = pod.path / "state.db"
    path.write_bytes(path.read_bytes().replace(b'"good"', b'"goof"'))
    with POD(pod.path) as again:
        assert again["b"] == "fine"
        with pytest.raises(Exception, match="not as it was written"):
            again["a"]
        assert any("key " in line for line in again.verify())


def test_the_predecessors_names(tmp_path: Path) -> None:
    assert PersistentOrderedDict is POD
    assert SharedPOD is POD
    assert repr(POD(tmp_path / "a", durability=Durability.POWER, init={"a": 1})).endswith("1 entries)")
