"""Changes inside a value, as operations that can be made again on what others have made of it since. Pure.

A change names the list or dictionary it is made in by the path from the value's root, and the method of `list` or
`dict` that makes it. Where nobody else has changed the value, making it is all. Where somebody has, `apply_to_newer`
makes it on the newer value, unless what it rests on is not there any more: then it is a `ConflictError`, never an update
that is lost or lands elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from holdfast.errors import ConflictError

Step: TypeAlias = "str | int"
Path: TypeAlias = "tuple[Step, ...]"

_MISSING = object()
ONE_ITEM = frozenset({"__setitem__", "__delitem__"})
"""Methods that rest on what stood under their first argument."""


@dataclass(frozen=True, slots=True)
class Change:
    """`method` of the container at `path`, with plain arguments."""

    path: Path
    method: str
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict[str, Any])


def apply(value: Any, change: Change) -> Any:
    """Make the change in `value`; what the method returns. Raises what the method raises."""
    return getattr(container_at(value, change.path), change.method)(*change.args, **change.keywords)


def apply_to_newer(newer: Any, seen: Any, change: Change) -> Any:
    """Make a change that was thought of before `seen` in `newer`, which others have made of it.

    Raises `ConflictError` when `newer` lacks what the change rests on.
    """
    _check_path(newer, seen, change.path)
    _check_items(container_at(newer, change.path), container_at(seen, change.path), change)
    return apply(newer, change)


def container_at(value: Any, path: Path) -> Any:
    """The list or dictionary at the end of the path. Raises `LookupError` or `TypeError` where there is none."""
    for step in path:
        value = value[step]
    return value


def _check_path(newer: Any, seen: Any, path: Path) -> None:
    """Every step must lead to what it led to: a place in a list may be another's by now."""
    for step in path:
        if not _same_kind(newer, seen) or not _has(newer, step):
            raise conflict("the list or dictionary that was to be changed is gone", path)
        if _is_list(newer) and len(newer) != len(seen) and newer[step] != seen[step]:
            raise conflict("the list around it has been changed, so that its place is not sure", path)
        newer, seen = newer[step], seen[step]
    if not _same_kind(newer, seen):
        raise conflict("the list or dictionary that was to be changed is gone", path)


def _check_items(newer: Any, seen: Any, change: Change) -> None:
    """What is set or removed by its name or place must be what was seen there."""
    names: list[Any] = []
    if change.method in ONE_ITEM or (change.method == "pop" and isinstance(newer, list) and change.args):
        names = [change.args[0]]
    elif change.method in ("update", "__ior__"):
        names = list(change.args[0])
    for name in names:
        if _item(newer, name) != _item(seen, name):
            raise conflict(f"what stands at {name!r} is not what was read", change.path)


def _item(value: Any, name: Any) -> Any:
    try:
        return value[name]
    except (LookupError, TypeError):
        return _MISSING


def _same_kind(one: Any, other: Any) -> bool:
    return any(isinstance(one, kind) and isinstance(other, kind) for kind in (list, dict))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _has(value: Any, step: Step) -> bool:
    return _item(value, step) is not _MISSING


def conflict(what: str, path: Path) -> ConflictError:
    """The error for a change that was not made."""
    return ConflictError(
        f"somebody else changed this value meanwhile: {what}",
        place="".join(f"[{step!r}]" for step in path) or "the value itself",
        expected="what was read",
        found="another value",
        hint="read it again and decide again, or work inside `with pod.transaction()`",
    )
