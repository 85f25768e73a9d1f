"""Whether a change inside a value may still be made when others have changed that value since it was read. Pure.

A change names the list or dictionary it is made in by the path from the value's root, and the method of `list` or
`dict` that makes it. It is made on what is stored now, unless what it rests on is not there any more: then it is a
`ConflictError`, never an update that is lost or lands elsewhere.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from holdfast.errors import ConflictError

Step: TypeAlias = "str | int"
Path: TypeAlias = "tuple[Step, ...]"

_MISSING = object()
_ANYWHERE = frozenset({"append", "extend", "remove", "clear", "reverse", "sort", "popitem", "setdefault"})
"""Methods that mean the same whatever others have put in or taken out."""


def container_at(value: Any, path: Path) -> Any:
    """The list or dictionary at the end of the path. Raises `LookupError` or `TypeError` where there is none."""
    for step in path:
        value = value[step]
    return value


def demand_same_place(newer: Any, seen: Any, path: Path, method: str, args: tuple[Any, ...]) -> None:
    """Raise `ConflictError` unless a change that was thought of before `seen` means the same in `newer`."""
    for step in path:
        if not same_kind(newer, seen) or not _has(newer, step):
            raise conflict("the list or dictionary that was to be changed is gone", path)
        if type(step) is int and not is_same_up_to(newer, seen, step):
            raise conflict("the list around it has been changed, so that its place is not sure", path)
        newer, seen = newer[step], seen[step]
    if not same_kind(newer, seen):
        raise conflict("the list or dictionary that was to be changed is gone", path)
    if method not in _ANYWHERE:
        _demand_same_items(newer, seen, path, method, args)


def is_same_up_to(newer: list[Any], seen: list[Any], place: int) -> bool:
    """Whether nothing was taken out of a list, and what stands at `place` and before it is as it was."""
    return len(newer) >= len(seen) and newer[: place + 1] == seen[: place + 1]


def _demand_same_items(newer: Any, seen: Any, path: Path, method: str, args: tuple[Any, ...]) -> None:
    """What is set or removed by its name or place must be what was seen there."""
    if _is_list(newer):
        if (method != "pop" or args) and newer[: len(seen)] != seen:
            raise conflict("the list is not what was read, so that the place in it is not sure", path)
        if len(newer) != len(seen) and args and (type(args[0]) is slice or args[0] < 0):
            raise conflict("the list is longer than what was read, so that the place in it is not sure", path)
        return
    for name in args[0] if method == "update" else args[:1]:
        if _item(newer, name) != _item(seen, name):
            raise conflict(f"what stands at {name!r} is not what was read", path)


def _item(value: Any, name: Any) -> Any:
    try:
        return value[name]
    except (LookupError, TypeError):
        return _MISSING


def same_kind(one: Any, other: Any) -> bool:
    """Whether both are lists, or both are dictionaries."""
    return any(isinstance(one, kind) and isinstance(other, kind) for kind in (list, dict))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _has(value: Any, step: Step) -> bool:
    return _item(value, step) is not _MISSING


def conflict(what: str, path: Path) -> ConflictError:
    """The error for a change that was not made."""
    return ConflictError(
        f"this value was changed meanwhile: {what}",
        place="".join(f"[{step!r}]" for step in path) or "the value itself",
        expected="what was read",
        found="another value",
        hint="read it again and decide again, or work inside `with pod.transaction()`",
    )
