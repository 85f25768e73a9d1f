"""Changes by name, `pod.set['a']['n'] += 1`: the way to the place is written down, and gone in the stored value.

Nothing is read before, so there is nothing that others could change in between.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from holdfast.state.changes import container_at
from holdfast.state.jsonvalue import plain
from holdfast.state.keys import Key

_in_place: Any = operator

Edit: TypeAlias = "Callable[[Any], tuple[Any, Any]]"
"""Takes a value; gives what it has become, and what the caller is to get."""
Editor: TypeAlias = "Callable[[Key, Edit], Any]"

_DONE: Any = object()
"""What `+=` leaves to be assigned: it is stored already."""


class Setter:
    """The entries of a dictionary, each to be changed where it is stored."""

    __slots__ = ("_editor", "_remover", "_setter")

    def __init__(self, editor: Editor, setter: Callable[[Key, Any], None], remover: Callable[[Key], None]) -> None:
        self._editor = editor
        self._setter = setter
        self._remover = remover

    def __getitem__(self, key: Key) -> Place:
        return Place(self._editor, key, ())

    def __setitem__(self, key: Key, value: Any) -> None:
        if value is not _DONE:
            self._setter(key, value)

    def __delitem__(self, key: Key) -> None:
        self._remover(key)


class Place:
    """A place in the value under a key: methods called here run on what is stored there, in one transaction."""

    __slots__ = ("_editor", "_key", "_steps")

    def __init__(self, editor: Editor, key: Key, steps: tuple[Any, ...]) -> None:
        self._editor = editor
        self._key = key
        self._steps = steps

    def _run(self, act: Callable[[Any], Any]) -> Any:
        """What `act` returns for what stands here; it may change it. What is returned is a copy."""

        def edit(value: Any) -> tuple[Any, Any]:
            return value, act(container_at(value, self._steps))

        return self._editor(self._key, edit)

    def _replace(self, make: Callable[[Any], Any]) -> Any:
        def edit(value: Any) -> tuple[Any, Any]:
            if not self._steps:
                return make(value), _DONE
            around = container_at(value, self._steps[:-1])
            around[self._steps[-1]] = make(around[self._steps[-1]])
            return value, _DONE

        return self._editor(self._key, edit)

    def __getitem__(self, step: Any) -> Place:
        return Place(self._editor, self._key, (*self._steps, step))

    def __setitem__(self, step: Any, value: Any) -> None:
        if value is not _DONE:
            self._run(lambda here: operator.setitem(here, step, plain_items(value)))

    def __delitem__(self, step: Any) -> None:
        self._run(lambda here: operator.delitem(here, step))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **keywords: self._run(lambda here: getattr(here, name)(*args, **keywords))

    def get_value(self) -> Any:
        """A copy of what stands here."""
        return self._run(plain)

    def __len__(self) -> int:
        return self._run(len)

    def __contains__(self, item: Any) -> bool:
        return self._run(lambda here: item in here)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._run(list))

    def __eq__(self, other: object) -> bool:
        return self._run(lambda here: here == other)

    def __hash__(self) -> int:
        raise TypeError("a place is not a value: nothing can be looked up by it")

    def __bool__(self) -> bool:
        return self._run(bool)

    def __repr__(self) -> str:
        return f"<place {self._key!r}{''.join(f'[{step!r}]' for step in self._steps)}>"

    def __iadd__(self, other: Any) -> Any:
        return self._replace(lambda here: _in_place.iadd(here, other))

    def __isub__(self, other: Any) -> Any:
        return self._replace(lambda here: here - other)

    def __imul__(self, other: Any) -> Any:
        return self._replace(lambda here: _in_place.imul(here, other))

    def __itruediv__(self, other: Any) -> Any:
        return self._replace(lambda here: here / other)

    def __ifloordiv__(self, other: Any) -> Any:
        return self._replace(lambda here: here // other)

    def __imod__(self, other: Any) -> Any:
        return self._replace(lambda here: here % other)

    def __ipow__(self, other: Any) -> Any:
        return self._replace(lambda here: here**other)

    def __iand__(self, other: Any) -> Any:
        return self._replace(lambda here: here & other)

    def __ior__(self, other: Any) -> Any:
        return self._replace(lambda here: _in_place.ior(here, other))

    def __ixor__(self, other: Any) -> Any:
        return self._replace(lambda here: here ^ other)


def plain_items(value: Any) -> Any:
    """A copy as JSON has it; of anything iterable for a slice."""
    return plain(value if isinstance(value, (dict, list, tuple, str, int, float, bool, type(None))) else list(value))
