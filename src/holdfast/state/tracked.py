"""Lists and dictionaries that tell their owner before they change: what `pod[key]` gives for a value with parts.

They are `list` and `dict` in every other respect. Each knows the container it lies in, up to the root, which knows its
owner. A mutating method becomes a `Change` and goes to the owner, who has it made here and makes it durable; if the
owner raises, nothing has changed here. What is put in is copied, as JSON has it: later changes of the original are
nobody's.

What `pop` gives is a plain copy. What was replaced or removed, by whomever, cannot be changed any more: that would be
written to nowhere. Methods of `list` and `dict` that are called around these classes, as `heapq` does, are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

from holdfast.state.changes import Path, same_kind
from holdfast.state.jsonvalue import plain

_list: Any = list
_dict: Any = dict
NO_STATE = -1
"""The revision of no entry: what is at hand is not what is stored."""


class Owner(Protocol):
    """Who keeps a value with parts."""

    def make(self, change: Change) -> Any:
        """Make the change in the stored value and in the value at hand, or in neither; what its method returns."""
        ...


class Root:
    """The top of one value with parts: whose it is, under which key, and which of its states this is."""

    __slots__ = ("__weakref__", "key", "owner", "rev", "value")

    def __init__(self, owner: Owner, key: str, rev: int, value: Any) -> None:
        self.owner = owner
        self.key = key
        self.rev = rev
        self.value = wrap(value, self)

    def renew(self, rev: int, value: Any) -> bool:
        """Become the state `value`, in place where a part is the same for sure, so that whoever holds it sees it.

        False when not even the root is of the same kind: then nothing is changed here.
        """
        if not same_kind(self.value, value):
            return False
        self.rev = rev
        _renew(self.value, value)
        return True

    def leave(self) -> None:
        """Another value stands under the key, or none: whoever holds parts of this one can change nothing any more."""
        self.value = None

    def saved(self) -> Callable[[], None]:
        """What brings this very state back, whatever becomes of it."""
        value, rev = self.value, self.rev
        parts = [(node, _contents(node)) for node in _containers(value)]

        def bring_back() -> None:
            self.value, self.rev = value, rev
            for node, contents in parts:
                _fill(node, contents)

        return bring_back


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (TrackedList, TrackedDict)):
        yield value
        for part in value.values() if isinstance(value, TrackedDict) else value:
            yield from _containers(part)


def _contents(node: Any) -> Any:
    return list(node) if isinstance(node, TrackedList) else dict(node)


def _fill(node: Any, contents: Any) -> None:
    if isinstance(node, TrackedDict):
        _dict.clear(node)
        _dict.update(node, contents)
    else:
        _list.__setitem__(node, slice(None), contents)


class Change:
    """A change of the list or dictionary `node`: a method of `list` or `dict`, with plain arguments.

    `wrapped` are the arguments as they go into `node` itself.
    """

    __slots__ = ("_before", "args", "keywords", "method", "node", "wrapped")

    def __init__(
        self, node: Any, method: str, args: tuple[Any, ...], wrapped: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        self.node = node
        self.method = method
        self.args = args
        self.wrapped = wrapped
        self.keywords = keywords
        self._before: Any = None

    def remember(self) -> None:
        """From now on, `undo` brings back what is there now."""
        self._before = _contents(self.node)

    def make(self) -> Any:
        """Make it in `node`; what the method returns. Raises what that raises."""
        base: Any = list if isinstance(self.node, TrackedList) else dict
        return getattr(base, self.method)(self.node, *self.wrapped, **self.keywords)

    def undo(self) -> None:
        _fill(self.node, self._before)


_WITH_PARTS = frozenset((dict, list))


def wrap(value: Any, parent: Any) -> Any:
    """`value` with its lists and dictionaries replaced by tracked ones, below `parent`."""
    if type(value) is dict:
        return TrackedDict(parent, cast("dict[str, Any]", value))
    if type(value) is list:
        return TrackedList(parent, cast("list[Any]", value))
    return value


def _renew(node: Any, value: Any) -> None:
    """Make `node` equal to the plain `value` of the same kind, keeping the parts that are the same ones for sure."""
    if isinstance(node, TrackedDict):
        old = dict(node)
        _dict.clear(node)  # so that the order is the new one
        for name, item in value.items():
            _dict.__setitem__(node, name, _renewed(old.get(name), item, node))
    else:
        kept = _same_parts(node, value)
        kept += [None] * (len(value) - len(kept))
        renewed = [_renewed(part, item, node) for part, item in zip(kept, value, strict=True)]
        _list.__setitem__(node, slice(None), renewed)


def _same_parts(node: list[Any], value: list[Any]) -> list[Any]:
    """The parts at the begin of a list that are the same ones in `value`, as far as that is sure."""
    if len(value) < len(node):
        return []
    count = next((i for i, (part, item) in enumerate(zip(node, value, strict=False)) if part != item), len(node))
    return node[:count]


def _renewed(part: Any, item: Any, parent: Any) -> Any:
    same = (isinstance(part, TrackedDict) and type(item) is dict) or (
        isinstance(part, TrackedList) and type(item) is list
    )
    if not same:
        return wrap(item, parent)
    _renew(part, item)
    return part


def place_of(node: Any) -> tuple[Root, Path] | None:
    """The root that `node` lies under, and the path to it; None when it lies under none any more."""
    steps: list[Any] = []
    while not isinstance(parent := node.parent, Root):
        step = _step_to(parent, node)
        if step is None:
            return None
        steps.append(step)
        node = parent
    return (parent, tuple(reversed(steps))) if parent.value is node else None


def _step_to(parent: TrackedDict | TrackedList | None, node: Any) -> Any:
    if parent is None:
        return None
    items: Iterable[tuple[Any, Any]] = parent.items() if isinstance(parent, TrackedDict) else enumerate(parent)
    return next((step for step, item in items if item is node), None)


def _owner_of(node: Any) -> Owner:
    """Whose value `node` is, or was, a part of."""
    while not isinstance(node, Root):
        node = node.parent
    return node.owner


def _changed(node: Any, method: str, *args: Any, wrapped: tuple[Any, ...] | None = None, **keywords: Any) -> Any:
    return _owner_of(node).make(Change(node, method, args, args if wrapped is None else wrapped, keywords))


def _taken_out(part: Any) -> Any:
    """What `pop` returns is the caller's, as any list or dictionary."""
    return plain(part) if isinstance(part, (TrackedList, TrackedDict)) else part


class TrackedList(list[Any]):
    """A list inside a stored value."""

    __slots__ = ("__weakref__", "parent")

    def __init__(self, parent: Any, items: Iterable[Any]) -> None:
        super().__init__(items)
        self.parent = parent
        for index, item in enumerate(self):
            if type(item) in _WITH_PARTS:
                _list.__setitem__(self, index, wrap(item, self))

    def append(self, item: Any) -> None:
        item = plain(item)
        _changed(self, "append", item, wrapped=(wrap(item, self),))

    def extend(self, items: Iterable[Any]) -> None:
        items = plain(list(items))
        _changed(self, "extend", items, wrapped=([wrap(item, self) for item in items],))

    def insert(self, index: Any, item: Any) -> None:
        item = plain(item)
        _changed(self, "insert", index, item, wrapped=(index, wrap(item, self)))

    def __setitem__(self, index: Any, item: Any) -> None:
        if type(index) is slice:
            items = plain(list(item))
            _changed(self, "__setitem__", index, items, wrapped=(index, [wrap(part, self) for part in items]))
        elif not _is_same_part(self, index, item):
            item = plain(item)
            _changed(self, "__setitem__", index, item, wrapped=(index, wrap(item, self)))

    def __delitem__(self, index: Any) -> None:
        _changed(self, "__delitem__", index)

    def __iadd__(self, items: Iterable[Any]) -> TrackedList:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.extend(items)
        return self

    def __imul__(self, times: Any) -> TrackedList:
        items = plain(list(self) * times)
        _changed(self, "__setitem__", slice(None), items, wrapped=(slice(None), [wrap(part, self) for part in items]))
        return self

    def pop(self, *index: Any) -> Any:
        return _taken_out(_changed(self, "pop", *index))

    def remove(self, item: Any) -> None:
        _changed(self, "remove", item)

    def clear(self) -> None:
        _changed(self, "clear")

    def reverse(self) -> None:
        _changed(self, "reverse")

    def sort(self, *, key: Any = None, reverse: Any = False) -> None:
        _changed(self, "sort", key=key, reverse=reverse)

    def copy(self) -> list[Any]:
        return list(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _loose, (plain(self),)

    def __deepcopy__(self, memo: Any) -> Any:
        return plain(self)

    def __copy__(self) -> list[Any]:
        return list(self)


class TrackedDict(dict[str, Any]):
    """A dictionary inside a stored value."""

    __slots__ = ("__weakref__", "parent")

    def __init__(self, parent: Any, items: dict[str, Any]) -> None:
        super().__init__(items)
        self.parent = parent
        for name, item in items.items():
            if type(item) in _WITH_PARTS:
                _dict.__setitem__(self, name, wrap(item, self))

    def __setitem__(self, name: Any, item: Any) -> None:
        if not _is_same_part(self, name, item):
            ((name, item),) = plain({name: item}).items()
            _changed(self, "__setitem__", name, item, wrapped=(name, wrap(item, self)))

    def __delitem__(self, name: Any) -> None:
        _changed(self, "__delitem__", name)

    def update(self, *others: Any, **more: Any) -> None:
        items = plain(dict(*others, **more))
        _changed(self, "update", items, wrapped=({name: wrap(item, self) for name, item in items.items()},))

    def __ior__(self, other: Any) -> TrackedDict:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.update(other)
        return self

    def setdefault(self, name: Any, default: Any = None) -> Any:
        ((name, default),) = plain({name: default}).items()
        _changed(self, "setdefault", name, default, wrapped=(name, wrap(default, self)))
        return self[name]

    def pop(self, name: Any, *default: Any) -> Any:
        part = _changed(self, "pop", name, *default)
        return part if default and part is default[0] else _taken_out(part)

    def popitem(self) -> tuple[str, Any]:
        name, part = _changed(self, "popitem")
        return name, _taken_out(part)

    def clear(self) -> None:
        _changed(self, "clear")

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _loose, (plain(self),)

    def __deepcopy__(self, memo: Any) -> Any:
        return plain(self)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)


def _is_same_part(node: Any, name: Any, item: Any) -> bool:
    """Whether `item` is the very part that stands there: `value[name] += …` sets what it has changed already."""
    if not isinstance(item, (TrackedList, TrackedDict)):
        return False
    try:
        if node[name] is not item:
            return False
    except (LookupError, TypeError):
        return False
    if isinstance(item, TrackedList):
        item.extend(())  # which raises when it stands there no more
    else:
        item.update()
    return True


def _loose(value: Any) -> Any:
    return value
