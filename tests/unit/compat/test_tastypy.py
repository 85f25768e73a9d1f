"""A program of tastypy with its import changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.unit.state.test_exchange import OLD

from holdfast.compat import tastypy


def test_a_folder_of_its_is_simply_opened(tmp_path: Path) -> None:
    shutil.copytree(OLD / "levels.pod", tmp_path / "p")
    pod = tastypy.POD(tmp_path / "p", {}, True, 2)
    keys = pod.keys()
    assert isinstance(keys, list)
    assert (len(keys), pod.items(), pod.values()) == (len(pod), list(pod.iteritems()), list(pod.itervalues()))
    assert list(pod.iterkeys()) == keys
    pod["new"] = {"a": [1]}
    pod.set["new"]["a"].append(2)
    pod.sync()
    assert tastypy.SharedPOD(tmp_path / "p", clone=False)["new"] == {"a": [1, 2]}
    pod.close()


def test_its_trackers_crawl(tmp_path: Path) -> None:
    """As its documentation shows it."""
    tracker = tastypy.Tracker(tmp_path / "urls.tracker", 3)
    tracker.add_many(["a", "b"])
    with pytest.raises(tastypy.DuplicateKeyError):
        tracker.add("a")
    for key in tracker.try_keys():
        if key == "a":
            tracker.add_if_absent("c")
        else:
            tracker.mark_done(key)
    tracker.update({"a": {"error": "timeout"}})
    assert (tracker.num_done(), tracker.num_tried(), tracker.percent_done(), tracker.percent(0.5, 1)) == (
        2,
        3,
        "66.67 %",
        "50.0 %",
    )
    assert list(tracker.todo_items()) == [("a", {"_tries": 1, "_done": False, "_aborted": False, "error": "timeout"})]
    assert dict(tracker["a"]).keys() >= dict(tastypy.DEFAULT_PROGRESS_TRACKER_MAPPING).keys()
    tracker.close()
    with pytest.raises(tastypy.CalledClosedTrackerError):
        tracker.add("d")


def test_its_serializer_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list(tastypy.JSONSerializer.dump_items([("é", 1), ((1, "a"), [2])]))
    assert lines == ['"\\\\u00e9"\t1\n', '[1, "a"]\t[2]\n']
    assert list(tastypy.JSONSerializer.read_items(lines)) == [("é", 1), ((1, "a"), [2])]
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path)
    assert tastypy.normalize_path("~/link/x") == str(tmp_path.resolve() / "x")


def test_every_name_that_it_exported_is_there() -> None:
    for name in tastypy.__all__:
        assert getattr(tastypy, name) is not None
