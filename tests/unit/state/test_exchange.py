"""Stores as files that people can read, and back."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CapacityError, IntegrityError, InvalidValue, SourceError, StateError
from holdfast.state import POD, Tracker, exchange, tastypy_format
from holdfast.testing.conformance.dictionarymachine import KEYS, VALUES

OLD = Path(__file__).parents[2] / "data" / "tastypy-0.0.3"
ENTRIES: dict[Any, Any] = {"a": [1, {"é": None}], 1: "x", "1": 1.5, ("t", (2,)): True, "\t\n\\": "\u2028"}


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[POD]:
    with POD(tmp_path / "a.pod", init=ENTRIES) as pod:
        yield pod


def contents(folder: Path) -> dict[str, bytes]:
    """What each file holds, decompressed."""
    read = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if ".json" in path.name}
    return {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in read.items()}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_are_the_same_for_the_same_entries_and_come_back(pod: POD, tmp_path: Path, name: str) -> None:
    assert pod.export(tmp_path / name) == len(ENTRIES)
    written = (tmp_path / name).read_bytes()
    with POD(tmp_path / "b.pod") as other:
        assert other.import_(tmp_path / name) == len(ENTRIES)
        assert list(other.items()) == list(ENTRIES.items())
        other.export(tmp_path / name)
    assert (tmp_path / name).read_bytes() == written
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_lines_can_be_read_by_people(tmp_path: Path) -> None:
    with POD(tmp_path / "a", init={("n", 1): {"ü": [1]}}) as pod:
        pod.export(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == (
        '{"holdfast":"entries","format":1,"kind":"pod","entries":1}\n{"key":["n",1],"value":{"ü":[1]}}\n'
    )


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:-20], lambda d: b"", lambda d: b"{}\n" + d])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_law_7_every_mismatch_speaks_of_lines(pod: POD, tmp_path: Path, name: str, damage: Any) -> None:
    pod.export(tmp_path / name)
    data = damage((tmp_path / name).read_bytes())
    if name.endswith("gz") and data.startswith(b"{}"):
        return
    if name == "a.jsonl" and len(data) == (tmp_path / name).stat().st_size - 1:
        data = data[:-1]  # without its last line feed alone it is whole
    (tmp_path / name).write_bytes(data)
    with POD(tmp_path / "b.pod", init={"before": 1}) as other:
        with pytest.raises(IntegrityError) as raised:
            other.import_(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value.place)
        assert other == {"before": 1}


def test_what_is_no_export_is_refused(pod: POD, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(SourceError, match="no entries to import"):
            pod.import_(path)
    with pytest.raises(StateError, match="no such format"):
        pod.export(tmp_path / "x", format="xml")


def test_an_export_that_fails_leaves_what_was_there(pod: POD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.export(tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    pod["more"] = 1

    def full(_: int) -> None:
        raise CapacityError("the disk is full")

    monkeypatch.setattr(exchange.durable, "sync_file", full)
    with pytest.raises(CapacityError):
        pod.export(tmp_path / "a.jsonl")
    with pytest.raises(CapacityError):
        pod.export(tmp_path / "old", format="tastypy")
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.pod"]


# -- tastypy


@pytest.mark.parametrize(
    ("name", "kind", "file_size", "gzipped"),
    [("jobs.pod", POD, 4, False), ("levels.pod", POD, 3, True), ("files.tracker", Tracker, 5, False)],
)
def test_what_tastypy_wrote_comes_back_in_the_same_bytes(
    tmp_path: Path, name: str, kind: type[POD], file_size: int, gzipped: bool
) -> None:
    before = contents(OLD / name)
    with kind(tmp_path / "new", gzipped=gzipped, file_size=file_size) as store:
        store.import_(OLD / name)
        store.export(tmp_path / "out", format="tastypy")
    assert contents(tmp_path / "out") == before


def test_what_was_in_the_files_is_in_the_store(tmp_path: Path) -> None:
    with POD(tmp_path / "a") as pod:
        assert pod.import_(OLD / "jobs.pod") == 16
        assert pod["run003"] == {"state": "new", "bytes": 3000, "log": ["a", {"t": 1.5}]}
        assert (pod[7], pod["7"], pod["naïve"], pod["a\tb"], pod["c:\\x"]) == (
            {"7": "seven"},
            "text seven",
            "µs",
            "c\td",
            "line\nbreak",
        )


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_lines_of_tastypy_both_ways(entries: dict[Any, Any]) -> None:
    lines = [tastypy_format.line_of(key, value) for key, value in entries.items()]
    assert all(line.isascii() and line.count(b"\n") == 1 for line in lines)
    assert dict(tastypy_format.entry_of(line, "here") for line in lines) == entries


def test_a_folder_of_tastypy_is_not_opened_unasked(tmp_path: Path) -> None:
    shutil.copytree(OLD / "files.tracker", tmp_path / "t")
    before = contents(tmp_path / "t")
    with pytest.raises(StateError, match="written by tastypy") as raised:
        Tracker(tmp_path / "t")
    assert "migrate=True" in str(raised.value.hint)
    for _ in range(2):
        with Tracker(tmp_path / "t", migrate=True) as tracker:
            assert (len(tracker), tracker.num_done() >= 2, tracker.num_aborted()) == (8, True, 1)
            tracker.mark_done("f3")
    with Tracker(tmp_path / "t") as tracker:
        assert tracker.done("f3")
    assert contents(tmp_path / "t") == before


def test_a_migration_that_was_cut_short_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(OLD / "jobs.pod", tmp_path / "p")

    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(POD, "import_", killed)
        with pytest.raises(KeyboardInterrupt):
            POD(tmp_path / "p", migrate=True)
    with POD(tmp_path / "p", migrate=True) as pod:
        assert len(pod) == 16


@pytest.mark.parametrize(
    ("name", "damage", "place"),
    [
        ("1.json", None, "1.json"),
        ("0.json", lambda d: d[:-1], "0.json line 4"),
        ("1.json", lambda d: d.split(b"\n", 1)[1], "1.json"),
        ("2.json", lambda d: d.replace(b"{", b"[", 1), "2.json line 1"),
        ("0.json", lambda d: d.replace(b"\t", b" ", 1), "0.json line 1"),
        ("2.json", lambda d: b"\n" + d, "2.json line 1"),
        ("3.json", lambda d: d.replace(b'"7"', b"7"), "p"),
    ],
)
def test_law_7_every_mismatch_speaks_of_tastypys_files(tmp_path: Path, name: str, damage: Any, place: str) -> None:
    folder = tmp_path / "p"
    shutil.copytree(OLD / "jobs.pod", folder)
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with POD(tmp_path / "a") as pod:
        with pytest.raises(IntegrityError) as raised:
            pod.import_(folder)
        assert str(raised.value.place) == str(folder if place == "p" else folder / place)
        assert pod == {}


def test_what_json_does_not_have_is_refused_at_import(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.json").write_text('"a"\tNaN\n')
    with POD(tmp_path / "a") as pod, pytest.raises(InvalidValue):
        pod.import_(tmp_path / "p")
