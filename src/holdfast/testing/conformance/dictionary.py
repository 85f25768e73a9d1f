"""What every database must do with a dictionary in it."""

# pyright: basic
# The values are JSON of any kind, which strict types only get in the way of.

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ConflictError, InvalidKey, InvalidValue, StateError
from holdfast.state import POD


class DictionaryConformance:
    """The suite. It needs a fixture `place`: where nothing is yet, and what another process can open, too."""

    @pytest.fixture
    def pod(self, place: Path | str) -> Iterator[POD]:
        with POD(place) as pod:
            yield pod

    @pytest.fixture
    def other(self, pod: POD, place: Path | str) -> Iterator[POD]:
        """Another handle on the same store."""
        assert pod is not None
        with POD(place) as other:
            yield other

    def test_it_is_a_dictionary_in_the_order_of_insertion(self, pod: POD) -> None:
        pod["b"] = 1
        pod[1] = "number"
        pod["1"] = "text"
        pod["dir", (1, 2)] = None
        pod["b"] = 2
        assert list(pod.items()) == [("b", 2), (1, "number"), ("1", "text"), (("dir", (1, 2)), None)]
        assert list(reversed(pod)) == [("dir", (1, 2)), "1", 1, "b"]
        assert (list(pod.keys()), list(pod.values())) == (list(pod), [2, "number", "text", None])
        assert len(pod) == 4
        assert pod == {"b": 2, 1: "number", "1": "text", ("dir", (1, 2)): None}
        assert "b" in pod
        assert "c" not in pod
        assert pod.get("c", 5) == 5

    def test_a_missing_key_is_a_key_error(self, pod: POD) -> None:
        for act in (lambda: pod["a"], lambda: pod.pop("a"), pod.popitem, lambda: pod.move_to_end("a")):
            with pytest.raises(KeyError):
                act()
        with pytest.raises(KeyError):
            del pod["a"]
        with pytest.raises(KeyError):
            pod.mark_dirty("a")

    def test_deleted_and_set_again_it_goes_to_the_end(self, pod: POD) -> None:
        pod.update(a=1, b=2)
        del pod["a"]
        pod["a"] = 3
        assert list(pod) == ["b", "a"]

    def test_moving_popping_and_merging(self, pod: POD) -> None:
        pod.update([("a", 1)], {"b": 2}, c=3)
        pod.move_to_end("a")
        pod.move_to_end("c", last=False)
        assert list(pod) == ["c", "b", "a"]
        assert pod.popitem() == ("a", 1)
        assert pod.popitem(last=False) == ("c", 3)
        assert pod.setdefault("b", 9) == 2
        assert pod.setdefault("d", 9) == 9
        assert pod.pop("d") == 9
        assert pod.pop("d", None) is None
        pod |= {"e": 5}
        assert pod | {"f": 6} == {"b": 2, "e": 5, "f": 6}
        assert {"b": 0, "g": 7} | pod == {"b": 2, "g": 7, "e": 5}
        assert pod.copy() == {"b": 2, "e": 5}
        pod.clear()
        assert (len(pod), list(pod)) == (0, [])

    def test_the_later_one_wins_in_an_update(self, pod: POD) -> None:
        pod.update([("a", 1), ("a", 2)], {"a": 3}, a=4)
        assert pod == {"a": 4}

    def test_an_update_is_whole_or_not_at_all(self, pod: POD) -> None:
        pod["a"] = 0
        with pytest.raises(InvalidValue):
            pod.update([("a", 1), ("b", 2), ("c", float("nan"))])
        assert pod == {"a": 0}

    @pytest.mark.parametrize("value", [float("nan"), object(), "\ud800", [[{"a": b""}]]])
    def test_a_value_that_cannot_be_kept_changes_nothing(self, pod: POD, value: Any) -> None:
        pod["a"] = [1]
        with pytest.raises(InvalidValue):
            pod["a"] = value
        with pytest.raises(InvalidValue):
            pod["a"].append(value)
        with pytest.raises(InvalidKey):
            pod[None] = 1  # type: ignore[index]
        assert pod == {"a": [1]}

    def test_it_is_there_after_opening_again(self, place: Path | str) -> None:
        with POD(place, init={"a": 1}, default={"a": 5, "b": [2]}) as pod:
            assert pod == {"a": 1, "b": [2]}
            pod["b"].append(3)
        with POD(place, default={"a": 5, "c": 6}) as pod:
            assert list(pod.items()) == [("a", 1), ("b", [2, 3]), ("c", 6)]
        with pytest.raises(StateError, match="closed"):
            pod["a"]
        pod.close()

    def test_several_stores_in_one_folder_and_one_transaction(self, place: Path | str) -> None:
        with POD(place, store="sent") as sent, POD(place, store="done") as done:
            sent["a"] = 1
            with pytest.raises(RuntimeError), sent.transaction():  # noqa: PT012 (what it undoes)
                done["a"] = 2
                del sent["a"]
                raise RuntimeError
            assert (sent, done) == ({"a": 1}, {})
            with done.transaction():
                done["a"] = 2
                del sent["a"]
            assert (sent, done) == ({}, {"a": 2})

    def test_a_change_inside_a_value_is_kept_however_it_is_reached(self, pod: POD, other: POD) -> None:
        pod["k"] = {"list": [1, [2]], "n": 0}
        pod["k"]["list"].append(3)
        inner = pod["k"]["list"][1]
        inner.append(4)
        pod["k"]["n"] += 5
        pod.set["k"]["list"][0] += 10
        pod.set["k"]["list"].extend([5, 6])
        pod["k"]["list"][2:4] = ["s"]
        pod["k"].setdefault("new", []).append("x")
        pod["k"]["new"] += ["y"]
        pod["k"] |= {"m": {}}
        pod["k"]["m"]["deep"] = {"er": 1}
        del pod["k"]["m"]["deep"]["er"]
        assert other["k"] == {"list": [11, [2, 4], "s", 6], "n": 5, "new": ["x", "y"], "m": {"deep": {}}}
        assert pod["k"] == other["k"]
        assert inner == [2, 4]

    @pytest.mark.parametrize(
        ("change", "after"),
        [
            (lambda x: x.append([0]), [3, 1, [2], [0]]),
            (lambda x: x.extend(iter("ab")), [3, 1, [2], "a", "b"]),
            (lambda x: x.insert(1, (5,)), [3, [5], 1, [2]]),
            (lambda x: x.pop(), [3, 1]),
            (lambda x: x.pop(0), [1, [2]]),
            (lambda x: x.remove(1), [3, [2]]),
            (lambda x: x.reverse(), [[2], 1, 3]),
            (lambda x: x.sort(key=str), [1, 3, [2]]),
            (lambda x: x.clear(), []),
            (lambda x: x.__setitem__(0, {"a": 1}), [{"a": 1}, 1, [2]]),
            (lambda x: x.__setitem__(slice(None, None, 2), "xy"), ["x", 1, "y"]),
            (lambda x: x.__delitem__(slice(0, 2)), [[2]]),
            (lambda x: x.__imul__(2), [3, 1, [2], 3, 1, [2]]),
            (lambda x: x[2].append(4), [3, 1, [2, 4]]),
        ],
    )
    def test_every_way_to_change_a_list(self, pod: POD, other: POD, change: Any, after: list[Any]) -> None:
        pod["l"] = [3, 1, [2]]
        alias = pod["l"]
        change(alias)
        assert (alias, pod["l"], other["l"]) == (after, after, after)
        alias.append({})
        alias[-1]["in"] = 1  # what was put in is part of the value, too
        assert other["l"] == [*after, {"in": 1}]

    @pytest.mark.parametrize(
        ("change", "after"),
        [
            (lambda d: d.update({"b": [1]}, c=2), {"a": {"x": 1}, "b": [1], "c": 2}),
            (lambda d: d.pop("a"), {"b": 0}),
            (lambda d: d.pop("z", None), {"a": {"x": 1}, "b": 0}),
            (lambda d: d.popitem(), {"a": {"x": 1}}),
            (lambda d: d.clear(), {}),
            (lambda d: d.setdefault("c", []).append(1), {"a": {"x": 1}, "b": 0, "c": [1]}),
            (lambda d: d.setdefault("b", 7), {"a": {"x": 1}, "b": 0}),
            (lambda d: d.__setitem__(5, (1,)), {"a": {"x": 1}, "b": 0, "5": [1]}),
            (lambda d: d.__delitem__("b"), {"a": {"x": 1}}),
            (lambda d: d.__ior__({"b": 1}), {"a": {"x": 1}, "b": 1}),
            (lambda d: d["a"].__setitem__("x", 2), {"a": {"x": 2}, "b": 0}),
        ],
    )
    def test_every_way_to_change_a_dictionary(self, pod: POD, other: POD, change: Any, after: dict[str, Any]) -> None:
        pod["d"] = {"a": {"x": 1}, "b": 0}
        alias = pod["d"]
        change(alias)
        assert (alias, pod["d"], other["d"]) == (after, after, after)
        assert list(alias) == list(other["d"])

    def test_what_fails_changes_nothing(self, pod: POD, other: POD) -> None:
        pod["l"] = [2, "a", 1]
        alias = pod["l"]
        for change in (alias.sort, lambda: alias.remove(9), lambda: alias.pop(9), lambda: alias.append(object())):
            with pytest.raises((TypeError, ValueError, IndexError)):
                change()
        assert (alias, other["l"]) == ([2, "a", 1], [2, "a", 1])

    def test_values_with_parts_are_lists_and_dictionaries(self, pod: POD) -> None:
        pod["k"] = {"l": [1, {"a": 2}]}
        value = pod["k"]
        assert isinstance(value, dict)
        assert isinstance(value["l"], list)
        for plain in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            plain["l"].append(5)
            assert type(plain["l"]) is list
        copy.copy(value)["new"] = 1
        value["l"].copy().append(1)
        assert pod["k"] == {"l": [1, {"a": 2}]}

    def test_what_is_put_in_is_a_copy(self, pod: POD) -> None:
        mine = [1]
        pod["k"] = mine
        pod["d"] = {}
        pod["d"]["l"] = mine
        mine.append(2)
        assert pod == {"k": [1], "d": {"l": [1]}}

    def test_what_was_taken_out_belongs_to_nobody(self, pod: POD) -> None:
        pod["k"] = [[1], {"a": [2]}]
        part, more = pod["k"].pop(), pod["k"].pop()
        part["a"].append(3)
        more.append(4)
        assert (pod, part, more) == ({"k": []}, {"a": [2, 3]}, [1, 4])

    def test_what_was_replaced_or_removed_cannot_be_changed_into_nowhere(self, pod: POD) -> None:
        pod.update(k=[[1], [2]], d={"x": [1], "y": {}})
        whole, part, x, y = pod["k"], pod["k"][0], pod["d"]["x"], pod["d"]["y"]
        del pod["k"][0]
        pod["d"]["x"] = [5]
        pod["d"].clear()
        pod["k"] = "other"
        for alias in (whole, part, x):
            with pytest.raises(ConflictError, match="no part of it any more"):
                alias.append(4)
        with pytest.raises(ConflictError):
            y["z"] = 1
        assert pod == {"k": "other", "d": {}}
        assert (whole, part, x) == ([[2]], [1], [1])

    def test_there_is_one_of_each_value_that_somebody_holds(self, pod: POD, other: POD) -> None:
        pod["k"] = {"l": [1]}
        value, part = pod["k"], pod["k"]["l"]
        other["k"]["l"].append(2)
        assert pod["k"] is value
        assert value["l"] is part
        assert part == [1, 2]

    def test_changes_by_several_are_all_kept(self, pod: POD, other: POD) -> None:
        pod["k"] = {"l": [], "n": 0}
        mine, theirs = pod["k"]["l"], other["k"]["l"]
        for number in range(5):
            mine.append(number)
            theirs.append(-number)
            pod.incr("count")
            other.set["count"] += 1
        assert sorted(pod["k"]["l"]) == sorted([*range(5), *(-n for n in range(5))])
        assert pod["count"] == 10

    def test_a_lost_race_is_said_and_nothing_is_overwritten(self, pod: POD, other: POD) -> None:
        pod["n"] = 1
        read = pod["n"]
        other["n"] = 5
        with pytest.raises(ConflictError, match="changed this entry"):
            pod["n"] = read + 1
        assert pod["n"] == 5
        pod["n"] += 1
        assert other["n"] == 6

    def test_who_has_not_read_overwrites(self, pod: POD, other: POD) -> None:
        pod["n"] = 1
        other["n"] = 5
        pod["n"] = 7
        assert other["n"] == 7

    def test_who_has_seen_that_nothing_is_there_does_not_overwrite(self, pod: POD, other: POD) -> None:
        for look in (lambda: "n" in pod, lambda: pod.get("n")):
            assert not look()
            other["n"] = 5
            with pytest.raises(ConflictError):
                pod["n"] = 1
            assert pod.pop("n") == 5

    def test_a_removed_entry_is_a_conflict_for_who_has_read_it(self, pod: POD, other: POD) -> None:
        pod.update(n=1, l=[])
        read, alias = pod["n"], pod["l"]
        del other["n"]
        del other["l"]
        with pytest.raises(ConflictError):
            pod["n"] = read + 1
        with pytest.raises(ConflictError):
            alias.append(1)
        assert pod == {}

    @pytest.mark.parametrize(
        ("theirs", "mine"),
        [
            (lambda v: v["d"].__setitem__("n", 9), lambda v: v["d"].__setitem__("n", 2)),
            (lambda v: v["d"].pop("n"), lambda v: v["d"].update(n=2)),
            (lambda v: v.pop("d"), lambda v: v["d"].__setitem__("m", 2)),
            (lambda v: v.__setitem__("l", {}), lambda v: v["l"].append(2)),
            (lambda v: v["l"].pop(0), lambda v: v["l"].__setitem__(1, 2)),
            (lambda v: v["l"].insert(0, 9), lambda v: v["l"].__delitem__(0)),
            (lambda v: v["r"].insert(0, [9]), lambda v: v["r"][0].append(2)),
        ],
    )
    def test_a_change_that_rests_on_what_is_gone_is_a_conflict(
        self, pod: POD, other: POD, theirs: Any, mine: Any
    ) -> None:
        pod["v"] = {"d": {"n": 1}, "l": [1, 2, 3], "r": [[1], [2]]}
        alias = pod["v"]
        theirs(other["v"])
        after = other.copy()
        with pytest.raises(ConflictError):
            mine(alias)
        assert other.copy() == after
        mine_now = pod["v"]
        assert mine_now == after["v"]

    def test_a_transaction_is_whole_or_not_at_all(self, pod: POD, other: POD) -> None:
        pod.update(a=1, l=[1])
        alias = pod["l"]
        with pytest.raises(RuntimeError), pod.transaction():  # noqa: PT012 (what it undoes)
            pod["a"] += 1
            alias.append(2)
            pod["b"] = 3
            del pod["a"]
            raise RuntimeError
        assert (alias, pod, other) == ([1], {"a": 1, "l": [1]}, {"a": 1, "l": [1]})
        with pod.transaction():
            pod["a"] += 1
            with pytest.raises(RuntimeError), pod.transaction():  # noqa: PT012 (what it undoes)
                alias.append(3)
                pod["a"] += 100
                raise RuntimeError
            assert (alias, pod["a"]) == ([1], 2)
            alias.append(4)
        assert (other["a"], other["l"]) == (2, [1, 4])

    def test_a_conflict_about_one_entry_forgets_nothing_of_the_others(self, pod: POD, other: POD) -> None:
        pod.update(a=1, b=1, c=1)
        a, b = pod["a"], pod["b"]
        other.update(a=2, b=2)
        with pytest.raises(ConflictError):
            pod["a"] = a + 1
        with pytest.raises(ConflictError):
            pod["b"] = b + 1

    def test_what_a_transaction_undid_was_never_written(self, pod: POD, other: POD) -> None:
        pod.update(a=1, b=1)
        a = pod["a"]
        with pytest.raises(RuntimeError), pod.transaction():  # noqa: PT012 (what it undoes)
            pod["a"] = a + 1
            pod["b"] = 5
            assert pod["b"] == 5
            raise RuntimeError
        other["a"] = 7
        with pytest.raises(ConflictError):
            pod["a"] = a + 1
        other["b"] = 6
        pod["b"] = 7  # the reading of what was never written counts for nothing
        with pod.transaction():
            pod["a"] = 8
            with pytest.raises(RuntimeError), pod.transaction():  # noqa: PT012 (what it undoes)
                pod["a"] = 9
                raise RuntimeError
            pod["a"] += 1
        assert other == {"a": 9, "b": 7}

    def test_counting_up(self, pod: POD) -> None:
        assert (pod.incr("n"), pod.incr("n", 5), pod.incr("f", 0.5, default=1)) == (1, 6, 1.5)
        pod["t"] = "text"
        with pytest.raises(InvalidValue):
            pod.incr("t")

    def test_places_read_and_change_what_is_stored(self, pod: POD) -> None:
        pod.update(name="bar", v={"l": [1, 2], "n": 8}, n=2)
        assert pod.set["name"].upper() == "BAR"
        assert (len(pod.set["v"]["l"]), 2 in pod.set["v"]["l"], list(pod.set["v"]["l"])) == (2, True, [1, 2])
        assert pod.set["v"]["l"].pop() == 2
        pod.set["v"]["new"] = (1,)
        pod.set["v"]["l"][0:1] = iter([7, 8])
        del pod.set["v"]["l"][0]
        pod.set["v"]["n"] -= 1
        pod.set["v"]["n"] *= 2
        pod.set["n"] **= 3
        pod.set["name"] = "foo"
        assert pod == {"name": "foo", "v": {"l": [8], "n": 14, "new": [1]}, "n": 8}
        del pod.set["name"]
        with pytest.raises(KeyError):
            pod.set["name"].upper()
        with pytest.raises(TypeError):
            pod.set["n"] += "x"
        assert pod["n"] == 8

    def test_reading_commits_nothing_and_makes_nothing_dirty(self, pod: POD) -> None:
        pod.update(a=[1], b=2)
        pod.sync()
        before = pod._use().stamp()
        assert (pod["a"][0], len(pod), list(pod.items()), pod.copy(), "a" in pod, pod.verify()) is not None
        assert pod.dirty() == set()
        assert pod._use().stamp() == before

    def test_what_is_held_is_in_memory_until_it_is_let_go(self, pod: POD, other: POD) -> None:
        pod["a"] = 1
        pod.sync()
        with pod.hold():
            pod["a"] = 2
            pod["b"] = 3
            assert (pod["a"], pod["b"], pod.dirty()) == (2, 3, {"a", "b"})
            assert other == {"a": 1}
        assert other == {"a": 2, "b": 3}
        pod.hold()
        pod["c"] = 4
        pod.revert()
        assert "c" not in pod
        pod["d"] = [5]
        pod["d"].append(6)
        pod.unhold()
        assert other["d"] == [5, 6]

    def test_dirty_is_what_might_not_survive_a_power_cut(self, pod: POD) -> None:
        pod["a"] = 1
        pod[1, 2] = 2
        assert pod.dirty() == {"a", (1, 2)}
        pod.sync_key("a")
        assert pod.dirty() == set()
        with pod.transaction("power"):
            pod["b"] = 1
        assert pod.dirty() == set()
        with pod.transaction(), pytest.raises(StateError, match="inside a transaction"):
            pod.sync()

    def test_many_dirty_entries_are_synced_by_themselves(self, place: Path | str) -> None:
        with POD(place, sync_at=3) as pod:
            pod.update(a=1, b=2)
            assert pod.dirty() == {"a", "b"}
            pod["c"] = 3
            assert pod.dirty() == set()

    def test_buffered_means_in_memory_until_enough_wait(self, place: Path | str) -> None:
        with POD(place, sync_at=3, durability="buffered") as pod, POD(place) as other:
            pod["a"] = 1
            pod["b"] = 2
            assert len(other) == 0
            pod["c"] = 3
            assert other == {"a": 1, "b": 2, "c": 3}

    def test_a_held_write_that_lost_a_race_is_said(self, pod: POD, other: POD) -> None:
        pod["n"] = 1
        pod.hold()
        pod["n"] = pod["n"] + 1
        other["n"] = 50
        with pytest.raises(ConflictError):
            pod.unhold()
        assert other["n"] == 50
        pod.revert()
        assert pod["n"] == 50

    def test_a_snapshot_stays_as_it_was(self, pod: POD) -> None:
        pod.update(a=1, b=[2])
        with pod.snapshot() as frozen:
            pod["a"] = 5
            pod["c"] = 6
            pod["b"].append(3)
            assert frozen == {"a": 1, "b": [2]}
            assert len(frozen) == 2
            with pytest.raises(KeyError):
                frozen["c"]

    def test_iterating_sees_what_is_added_and_not_what_is_gone(self, pod: POD) -> None:
        pod.update((number, number) for number in range(2500))
        seen: list[Any] = []
        for key in pod:
            seen.append(key)
            if key == 0:
                del pod[2400]
                pod[3000] = 0
        assert seen == [*range(2400), *range(2401, 2500), 3000]

    def test_only_reading(self, place: Path | str) -> None:
        with pytest.raises(StateError, match="no store to read"):
            POD(place, mode="r")
        POD(place, init={"a": [1]}).close()
        with POD(place, mode="r") as pod:
            assert pod["a"] == [1]
            for act in (lambda: pod.__setitem__("a", 1), lambda: pod["a"].append(1), pod.clear, pod.hold):
                with pytest.raises(StateError, match="only to be read"):
                    act()
            assert pod == {"a": [1]}

    def test_a_name_that_no_table_may_have(self, place: Path | str) -> None:
        with pytest.raises(StateError, match="name"):
            POD(place, store='x"; DROP TABLE meta; --')
