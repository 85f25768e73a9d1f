"""Lists and dictionaries that tell their owner before they change: what `pod[key]` gives for a value with parts.

They are `list` and `dict` in every other respect. Each knows the container it lies in, up to the root, which knows its
owner. A mutating method becomes a `Change` and goes to the owner, who makes it durable and then has it made here too;
if the owner raises, nothing has changed here. What is put in is copied, as JSON has it: later changes of the
original are nobody's.

What was taken out of its value (popped, replaced) belongs to nobody any more, and changes like any list or dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

from holdfast.state.changes import Change, Path
from holdfast.state.jsonvalue import plain

_list: Any = list
_dict: Any = dict
NO_STATE = -1
"""The revision of no entry: what is at hand is not what is stored."""


class Owner(Protocol):
    """Who keeps a value with parts."""

    def make(self, root: Root, change: Callable[[], Change], locally: Callable[[], Any]) -> Any:
        """Make the change durable in the stored value; `locally` makes it in the value at hand. What it returns.

        `change` tells it as of now: it is asked when nobody else can change the value at hand.
        """
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
        """Become the state `value`, in place as far as kinds agree, so that whoever holds a part sees it.

        False when not even the root is of the same kind: then nothing is changed here.
        """
        if type(wrap(value, None)) is not type(self.value):
            return False
        self.rev = rev
        _renew(self.value, value)
        return True


def wrap(value: Any, parent: Any) -> Any:
    """`value` with its lists and dictionaries replaced by tracked ones, below `parent`."""
    if type(value) is dict:
        return TrackedDict(parent, cast("dict[str, Any]", value))
    if type(value) is list:
        return TrackedList(parent, cast("list[Any]", value))
    return value


def _renew(node: Any, value: Any) -> None:
    """Make `node` equal to the plain `value` of the same kind, keeping the parts that are of the same kind."""
    if isinstance(node, TrackedDict):
        old = dict(node)
        _dict.clear(node)  # so that the order is the new one
        for name, item in value.items():
            _dict.__setitem__(node, name, _renewed(old.get(name), item, node))
    else:
        parts = list(node)
        _list.__setitem__(
            node,
            slice(None),
            [_renewed(parts[i] if i < len(parts) else None, item, node) for i, item in enumerate(value)],
        )


def _renewed(part: Any, item: Any, parent: Any) -> Any:
    same = (isinstance(part, TrackedDict) and type(item) is dict) or (
        isinstance(part, TrackedList) and type(item) is list
    )
    if not same:
        return wrap(item, parent)
    _renew(part, item)
    return part


def place_of(node: Any) -> tuple[Root, Path] | None:
    """The root that `node` lies under, and the path to it; None when it was taken out."""
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


def _changed(node: Any, method: str, *args: Any, wrapped: tuple[Any, ...] | None = None, **keywords: Any) -> Any:
    """Let the owner make the change; `wrapped` are the arguments as they go into `node` itself."""
    base = list if isinstance(node, list) else dict
    inside = args if wrapped is None else wrapped

    def locally() -> Any:
        return getattr(base, method)(node, *inside, **keywords)

    def change() -> Change:
        place = place_of(node)
        return Change(place[1] if place else (), method, args, keywords)

    place = place_of(node)
    return locally() if place is None else place[0].owner.make(place[0], change, locally)


class TrackedList(list[Any]):
    """A list inside a stored value."""

    __slots__ = ("__weakref__", "parent")

    def __init__(self, parent: Any, items: Iterable[Any]) -> None:
        super().__init__([wrap(item, self) for item in items])
        self.parent = parent

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
        return _changed(self, "pop", *index)

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
        super().__init__({name: wrap(item, self) for name, item in items.items()})
        self.parent = parent

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
        return _changed(self, "pop", name, *default)

    def popitem(self) -> tuple[str, Any]:
        return _changed(self, "popitem")

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
        return node[name] is item
    except (LookupError, TypeError):
        return False


def _loose(value: Any) -> Any:
    return value
