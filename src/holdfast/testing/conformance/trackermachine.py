"""The tracker against a plain list of tasks: whatever is done to it, by whichever of several handles."""

from __future__ import annotations

# pyright: basic
# The values are JSON of any kind, which strict types only get in the way of.
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.errors import LeaseLost
from holdfast.state import Tracker
from holdfast.state.task import Task

KEYS = st.sampled_from(["a", "b", "1", 1, ("a", 1), ("a", (2,))])
HANDLES = st.integers(0, 1)
MAX_TRIES = 3


@dataclass
class Known:
    """What the model knows of a task; `task`: who has claimed it."""

    tries: int = 0
    done: bool = False
    aborted: bool = False
    dead: bool = False
    task: Task | None = None

    def is_free(self) -> bool:
        return not (self.done or self.aborted or self.dead or self.task) and self.tries < MAX_TRIES


class TrackerMachine(RuleBasedStateMachine):
    """`model` is what the tracker must hold, in order; two handles act in turn. Subclasses say where."""

    def make_place(self) -> Path | str:
        """A place where nothing is yet."""
        raise NotImplementedError("a subclass gives its place")

    def remove_place(self) -> None:
        """Nobody has it open any more."""

    def opened(self, handle: int) -> Tracker:  # noqa: ARG002 (a subclass may open it as another process would)
        return Tracker(self.place, MAX_TRIES)

    @initialize()
    def start(self) -> None:
        self.place = self.make_place()
        self.trackers = [self.opened(0), self.opened(1)]
        self.model: dict[Any, Known] = {}
        self.tasks: list[Task] = []
        self.token = 0

    def teardown(self) -> None:
        for tracker in self.trackers:
            assert tracker.verify() == []
            tracker.close()
        self.remove_place()

    @rule(handle=HANDLES, keys=st.lists(KEYS, min_size=1, max_size=4, unique=True))
    def add(self, handle: int, keys: list[Any]) -> None:
        new = [key for key in keys if key not in self.model]
        assert self.trackers[handle].add_many_if_absent(keys) == len(new)
        self.model.update((key, Known()) for key in new)

    @rule(handle=HANDLES, key=KEYS)
    def delete(self, handle: int, key: Any) -> None:
        if key in self.model:
            self.trackers[handle].get(key)  # who has read the newest may write
            del self.trackers[handle][key]
            del self.model[key]

    @rule(handle=HANDLES, count=st.integers(1, 4))
    def claim(self, handle: int, count: int) -> None:
        free = [key for key, known in self.model.items() if known.is_free()][:count]
        tasks = self.trackers[handle].claim(count, lease_s=3600)
        assert [task.key for task in tasks] == free
        for task in tasks:
            known = self.model[task.key]
            known.tries += 1
            known.task = task
            assert (task.attempt, task.token > self.token) == (known.tries, True)
        self.token = max([self.token, *(task.token for task in tasks)])
        self.tasks += tasks

    def _known(self, task: Task) -> Known | None:
        known = self.model.get(task.key)
        return known if known is not None and known.task is task else None

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), how=st.sampled_from(["done", "fail", "release", "heartbeat"]))
    def end(self, data: st.DataObject, how: str) -> None:
        task = data.draw(st.sampled_from(self.tasks))
        known = self._known(task)
        act = {
            "done": task.done,
            "fail": lambda: task.fail("bad", 0),
            "release": task.release,
            "heartbeat": task.heartbeat,
        }
        if known is None:
            with pytest.raises(LeaseLost):
                act[how]()
            return
        act[how]()
        if how != "heartbeat":
            known.task = None
            known.done |= how == "done"
            known.tries -= how == "release"
            known.dead |= how == "fail" and known.tries >= MAX_TRIES

    @rule(handle=HANDLES)
    def finish_all(self, handle: int) -> None:
        mine = [task for task in self.tasks if task._tracker is self.trackers[handle]]
        known = [self._known(task) for task in mine]
        if all(known):
            self.trackers[handle].finish(mine)
        else:
            with pytest.raises(LeaseLost):
                self.trackers[handle].finish(mine)
        for one in known if all(known) else []:
            one.task, one.done = None, True  # type: ignore[union-attr]
        self.tasks = [task for task in self.tasks if task not in mine]

    @rule(handle=HANDLES, key=KEYS, how=st.sampled_from(["done", "not_done", "abort", "unabort"]))
    def mark(self, handle: int, key: Any, how: str) -> None:
        tracker = self.trackers[handle]
        act = {"done": tracker.mark_done, "not_done": tracker.mark_not_done}
        act |= {"abort": tracker.abort, "unabort": tracker.unabort}
        if (known := self.model.get(key)) is None:
            with pytest.raises(KeyError):
                act[how](key)
            return
        act[how](key)
        if (how == "done" and not known.done) or (how == "abort" and not known.aborted):
            known.task = None
        known.done = {"done": True, "not_done": False}.get(how, known.done)
        known.aborted = {"abort": True, "unabort": False}.get(how, known.aborted)

    @rule(handle=HANDLES)
    def retry_dead(self, handle: int) -> None:
        dead = [known for known in self.model.values() if known.dead]
        assert self.trackers[handle].retry_dead() == len(dead)
        for known in dead:
            known.dead, known.tries = False, 0

    @rule(handle=HANDLES)
    def open_again(self, handle: int) -> None:
        """Claims stay whose they are: they are this process's."""
        self.tasks = [task for task in self.tasks if task._tracker is not self.trackers[handle]]
        self.trackers[handle].close()
        self.trackers[handle] = self.opened(handle)

    @invariant()
    def same(self) -> None:
        told = [
            (key, {"_tries": known.tries, "_done": known.done, "_aborted": known.aborted})
            for key, known in self.model.items()
        ]
        marks = ("done", "aborted", "dead")
        counts = [sum(getattr(known, mark) for known in self.model.values()) for mark in marks]
        leased = sum(known.task is not None for known in self.model.values())
        tried = sum(known.tries > 0 for known in self.model.values())
        for tracker in self.trackers:
            assert list(tracker.items()) == told
            stats = tracker.stats()
            assert [stats.done, stats.aborted, stats.dead] == counts
            assert (stats.entries, stats.leased, stats.tried) == (len(told), leased, tried)
            assert list(tracker.dead_keys()) == [key for key, known in self.model.items() if known.dead]
            open_ = [k for k in self.model.values() if not (k.done or k.aborted or k.dead) and k.tries < MAX_TRIES]
            assert stats.todo == len(open_)
