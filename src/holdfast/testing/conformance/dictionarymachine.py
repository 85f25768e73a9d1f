"""The dictionary against a plain one: whatever is done to it, by whichever of several handles."""

# pyright: basic
# The values are JSON of any kind, which strict types only get in the way of.

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from holdfast.errors import ConflictError, StateError
from holdfast.state import POD

KEYS = st.sampled_from(["a", "b", "1", 1, ("a", 1), ("a", (2,))])
SCALARS = st.none() | st.integers(-3, 3) | st.sampled_from(["x", "é", 1.5, True])
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("pqr"), v, max_size=3), max_leaves=6
)
HANDLES = st.integers(0, 1)
MISSING = object()


class Stop(Exception):
    """Ends a transaction."""


class DictionaryMachine(RuleBasedStateMachine):
    """`model` is what the store must hold; two handles write in turn, and read each other's writes at once.

    Subclasses say where. Run it with `hypothesis.stateful.run_state_machine_as_test`.
    """

    parts = Bundle("parts")

    def make_place(self) -> Path | str:
        """A place where nothing is yet."""
        raise NotImplementedError("a subclass gives its place")

    def remove_place(self) -> None:
        """Nobody has it open any more."""

    def opened(self, handle: int) -> POD:  # noqa: ARG002 (a subclass may open it as another process would)
        return POD(self.place)

    @initialize()
    def start(self) -> None:
        self.place = self.make_place()
        self.pods = [self.opened(0), self.opened(1)]
        self.model: dict[Any, Any] = {}

    def teardown(self) -> None:
        for pod in self.pods:
            assert pod.verify() == []
            pod.close()
        self.remove_place()

    @rule(handle=HANDLES, key=KEYS, value=VALUES)
    def set(self, handle: int, key: Any, value: Any) -> None:
        self.pods[handle].get(key)  # who has read the newest may write
        self.pods[handle][key] = value
        self.model[key] = copy.deepcopy(value)

    @rule(handle=HANDLES, key=KEYS)
    def delete(self, handle: int, key: Any) -> None:
        if self.pods[handle].get(key, MISSING) is not MISSING:
            del self.pods[handle][key]
            del self.model[key]

    @rule(handle=HANDLES, key=KEYS, last=st.booleans())
    def move(self, handle: int, key: Any, last: bool) -> None:
        if key in self.model:
            self.pods[handle].move_to_end(key, last=last)
            value = self.model.pop(key)
            self.model = self.model | {key: value} if last else {key: value} | self.model

    @rule(handle=HANDLES, last=st.booleans())
    def popitem(self, handle: int, last: bool) -> None:
        if self.model:
            key = list(self.model)[-1 if last else 0]
            assert self.pods[handle].popitem(last=last) == (key, self.model.pop(key))

    @rule(handle=HANDLES, items=st.lists(st.tuples(KEYS, VALUES), max_size=4))
    def update(self, handle: int, items: list[tuple[Any, Any]]) -> None:
        for key, _ in items:
            self.pods[handle].get(key)
        self.pods[handle].update(items)
        self.model.update(copy.deepcopy(items))

    @rule(handle=HANDLES, key=KEYS, value=VALUES)
    def hold_and_set(self, handle: int, key: Any, value: Any) -> None:
        pod = self.pods[handle]
        pod.get(key)
        with pod.hold():
            pod[key] = value
            assert pod[key] == value
        self.model[key] = copy.deepcopy(value)

    @rule(handle=HANDLES, key=KEYS, value=VALUES, by_name=st.booleans())
    def change_inside(self, handle: int, key: Any, value: Any, by_name: bool) -> None:
        target = self.model.get(key)
        source = (self.pods[handle].set if by_name else self.pods[handle])[key] if key in self.model else None
        for here in (target, source):
            self._change(here, target, value)

    def _change(self, here: Any, like: Any, value: Any) -> None:
        if isinstance(like, list):
            here.append(copy.deepcopy(value))
        elif isinstance(like, dict):
            here["p"] = copy.deepcopy(value)

    @rule(target=parts, handle=HANDLES, key=KEYS)
    def take(self, handle: int, key: Any) -> Any:
        """Hold on to a value with parts; `seen` is the model's object it stands for."""
        return self.pods[handle], self.pods[handle].get(key), self.model.get(key), key

    @rule(part=parts, value=SCALARS)
    def append_to_what_is_held(self, part: Any, value: Any) -> None:
        pod, alias, seen, key = part
        if not isinstance(seen, list):
            return
        if not any(pod is one for one in self.pods):
            with pytest.raises(StateError, match="closed"):
                alias.append(value)
        elif self.model.get(key) is seen:
            alias.append(value)
            seen.append(value)
        elif isinstance(self.model.get(key), list):
            # nothing but a list is needed to append to: what the other handle has made of it is followed, what this
            # one has is another value
            with suppress(ConflictError):
                alias.append(value)
                self.model[key].append(value)
        else:
            with pytest.raises(ConflictError):
                alias.append(value)

    @rule(handle=HANDLES, key=KEYS, value=VALUES)
    def come_to_nothing(self, handle: int, key: Any, value: Any) -> None:
        pod = self.pods[handle]
        with pytest.raises(Stop), pod.transaction():  # noqa: PT012 (what it undoes)
            self._change(pod.get(key), self.model.get(key), value)
            pod.get("b")
            pod["b"] = value
            raise Stop

    @rule(handle=HANDLES, sync=st.booleans())
    def open_again(self, handle: int, sync: bool) -> None:
        if sync:
            self.pods[handle].sync()
        self.pods[handle].close()
        self.pods[handle] = self.opened(handle)

    @invariant()
    def same(self) -> None:
        for pod in self.pods:
            assert list(pod.items()) == list(self.model.items())
            assert len(pod) == len(self.model)
            assert list(reversed(pod)) == list(reversed(self.model))
