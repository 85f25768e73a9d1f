"""The dictionary that persists, `POD`: as `dict` in order and behaviour, and what a write says is kept.

    pod[key] = value        one transaction; survives the end of this process when it returns
    pod[key].append(1)      however deep: the change is made in the stored value, whoever else changes it meanwhile
    pod[key] += 1           exact, or a `ConflictError` when somebody else was quicker
    pod.hold(), pod.sync()  many writes at once; when `sync` returns, everything survives a power cut

Any number of processes and threads may open the same path, in any order. Nothing here knows which database is below.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Generator,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

from holdfast.errors import InvalidValue
from holdfast.state.backend import Backend, Durability, Row
from holdfast.state.changes import Change, apply_to_newer, conflict
from holdfast.state.copies import MISSING
from holdfast.state.handle import Handle
from holdfast.state.jsonvalue import dump, load
from holdfast.state.keys import Key, key_text, parse_key
from holdfast.state.proxy import Setter
from holdfast.state.tracked import NO_STATE, Root
from holdfast.state.views import Snapshot, rows

SCALARS = (str, int, float, bool, type(None))
GROUP = 5000
"""`update` writes so many at once, all in one transaction."""
DEFAULT_SYNC_AT = 1000
DEFAULT_FILE_SIZE = 1000


class POD(Handle, MutableMapping[Key, Any]):
    """A persistent ordered dictionary: keys are text, whole numbers or tuples of such, values what JSON has.

    Parameters
    ----------
    path
        The folder of the store, made where it is missing; `~` is the home folder.
    init
        Set on every opening, as by `update`.
    default
        Set where the key is missing.
    sync_at
        When so many entries are `dirty`, `sync` comes by itself.
    durability
        What a write survives when it returns, see `Durability`; `transaction` may ask for more.
    mode
        "w", or "r" to only read; then the store must be there.
    store
        The name of the store, where one folder holds several; a transaction spans them all.
    gzipped, file_size
        How `export` writes tastypy's own format; the store itself has no use for them.
    """

    KIND = "pod"

    def __init__(
        self,
        path: str | Path,
        init: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
        gzipped: bool = False,
        file_size: int = DEFAULT_FILE_SIZE,
        sync_at: int = DEFAULT_SYNC_AT,
        *,
        default: Mapping[Any, Any] | None = None,
        durability: Durability | str = Durability.KILL,
        mode: str = "w",
        store: str = "main",
    ) -> None:
        self.gzipped, self.file_size = gzipped, file_size
        super().__init__(path, store, durability=Durability(durability), sync_at=sync_at, read_only=mode == "r")
        self._fill(init, default or {})

    def _fill(self, init: Mapping[Any, Any] | Iterable[tuple[Any, Any]], default: Mapping[Any, Any]) -> None:
        if default:
            with self.transaction():
                self.update({key: value for key, value in default.items() if key not in self})
        if init:
            self.update(init)

    # -- reading

    def __getitem__(self, key: Key) -> Any:
        value = self._find(key_text(key))
        if value is MISSING:
            raise KeyError(key)
        return value

    def get(self, key: Key, default: Any = None) -> Any:
        """The value, or `default`."""
        value = self._find(key_text(key))
        return default if value is MISSING else value

    def _find(self, text: str) -> Any:
        if text in self._held:
            value = load(self._held[text])
            if not isinstance(value, (dict, list)):
                return value
            self._flush()  # a value with parts is changed where it is stored
        backend = self._use()
        with backend.mutex:
            if backend.inside():
                self._join(backend)
            elif (value := self._copies.current(text, backend.stamp())) is not MISSING:
                return value
            row = backend.get(self._store, text)
            if row is not None:
                return self._copies.take(row)
            self._copies.note(text, NO_STATE)
            return MISSING

    def __contains__(self, key: object) -> bool:
        text = key_text(key)
        if text in self._held or self._use().get(self._store, text) is not None:
            return True
        self._copies.note(text, NO_STATE)
        return False

    def __len__(self) -> int:
        self._flush()
        return self._use().count(self._store)

    def _rows(self, *, backwards: bool = False) -> Iterator[Row]:
        self._flush()
        return rows(self._use(), self._store, backwards=backwards)

    def __iter__(self) -> Iterator[Key]:
        return (parse_key(row.key) for row in self._rows())

    def __reversed__(self) -> Iterator[Key]:
        return (parse_key(row.key) for row in self._rows(backwards=True))

    def _pairs(self, *, backwards: bool = False) -> Iterator[tuple[Key, Any]]:
        for row in self._rows(backwards=backwards):
            with self._use().mutex:
                value = self._copies.take(row, keep=False)
            yield parse_key(row.key), value

    def keys(self) -> KeysView[Key]:
        return KeysView(self)

    def items(self) -> ItemsView[Key, Any]:
        return _Items(self, self._pairs)

    def values(self) -> ValuesView[Any]:
        return _Values(self, self._pairs)

    def copy(self) -> dict[Key, Any]:
        """A plain dictionary of plain values."""
        return {parse_key(row.key): load(row.value) for row in self._rows()}

    @contextmanager
    def snapshot(self) -> Generator[Mapping[Key, Any], None, None]:
        """A mapping that stays as the store is now, however others go on writing."""
        self._flush()
        with self._use().snapshot() as reader:
            yield Snapshot(reader, self._store)

    def __or__(self, other: Mapping[Any, Any]) -> dict[Key, Any]:
        return self.copy() | dict(other)

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Key, Any]:
        return dict(other) | self.copy()

    # -- writing

    def __setitem__(self, key: Key, value: Any) -> None:
        text = key_text(key)
        if self._copies.is_root(text, value):
            return  # `pod[key] += …` sets what it has changed already
        dumped = dump(value)
        if self._is_buffering():
            self._held[text] = dumped
            self._sync_if_many()
            return
        with self._writing() as backend:
            self._check_unchanged(backend, text)
            row = backend.put(self._store, text, dumped)
            self._copies.replaced(text)
            self._copies.written(row, value if type(value) in SCALARS else MISSING)
        self._wrote(text)

    def __delitem__(self, key: Key) -> None:
        self._flush()
        text = key_text(key)
        with self._writing() as backend:
            self._check_unchanged(backend, text)
            if not backend.delete(self._store, text):
                raise KeyError(key)
            self._copies.replaced(text)
            self._copies.forget_note(text)

    def update(self, *others: Any, **more: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Set the entries of each mapping (or iterable of pairs), the later ones winning; all or none of them."""
        self._flush()
        with self._writing() as backend:
            for other in (*others, more):
                pairs = iter(other.items() if isinstance(other, Mapping) else _pairs_of(other))  # pyright: ignore[reportUnknownArgumentType]
                while group := {key_text(key): dump(value) for key, value in islice(pairs, GROUP)}:
                    self._put_group(backend, group)
        self._sync_if_many()

    def _put_group(self, backend: Backend, group: Mapping[str, str]) -> None:
        for text in self._copies.noted_among(group):
            self._check_unchanged(backend, text)
            self._copies.forget_note(text)
        backend.put_many(self._store, group.items())
        for text in group:
            self._copies.replaced(text)
        self._mark(group)

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def setdefault(self, key: Key, default: Any = None) -> Any:
        """The value under `key`, set to `default` where there is none."""
        with self.transaction():
            if key not in self:
                self[key] = default
        return self[key]

    def pop(self, key: Key, default: Any = MISSING) -> Any:
        """Remove the entry and return its value; nobody else gets the same."""
        with self.transaction():
            value = self._find(key_text(key))
            if value is not MISSING:
                del self[key]
                return value
        if default is MISSING:
            raise KeyError(key)
        return default

    def popitem(self, last: bool = True) -> tuple[Key, Any]:
        """Remove the last entry, or the first, and return it. Raises `KeyError` when there is none."""
        with self.transaction():
            for key in reversed(self) if last else self:
                return key, self.pop(key)
        raise KeyError("there is no entry")

    def clear(self) -> None:
        """Remove all entries."""
        self._held.clear()
        with self._writing() as backend:
            for root in self._copies.roots():
                self._copies.replaced(root.key)
            backend.clear(self._store)
            self._copies.forget()

    def move_to_end(self, key: Key, last: bool = True) -> None:
        """Put the entry at the end, or at the begin. Raises `KeyError`."""
        self._flush()
        with self._writing() as backend:
            if not backend.move(self._store, key_text(key), last=last):
                raise KeyError(key)

    def incr(self, key: Key, by: float = 1, default: float = 0) -> Any:
        """Add to a number, starting from `default`; what it is now. Exact, whoever else does the same."""
        with self.transaction():
            value = self.get(key, default)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InvalidValue("only a number can be counted up", place=f"key {key!r}", found=repr(value)[:80])
            self[key] = value + by
            return value + by

    @property
    def set(self) -> Setter:
        """Changes by name, made in the stored value at once: `pod.set['a']['n'] += 1` is exact."""
        return Setter(self._edit, self._overwrite, self._remove)

    def _overwrite(self, key: Key, value: Any) -> None:
        self._copies.forget_note(key_text(key))
        self[key] = value

    def _remove(self, key: Key) -> None:
        self._copies.forget_note(key_text(key))
        del self[key]

    def _edit(self, key: Key, edit: Callable[[Any], tuple[Any, Any]]) -> Any:
        """Replace the value under `key` by the first of what `edit` makes of it; the second is returned."""
        self._flush()
        text = key_text(key)
        with self._writing() as backend:
            row = backend.get(self._store, text)
            if row is None:
                raise KeyError(key)
            value, result = edit(load(row.value))
            dumped = dump(value)
            if dumped != row.value:
                self._copies.written(backend.put(self._store, text, dumped))
                self._mark([text])
        return result

    # -- changes inside values, asked for by `tracked`

    def make(self, root: Root, change: Callable[[], Change], locally: Callable[[], Any]) -> Any:
        """Make a change in the stored value, and in the one at hand. Raises `ConflictError` and what the method does."""
        self._flush()
        with self._writing() as backend:
            row = backend.get(self._store, root.key)
            if row is None:
                raise conflict("it was removed", change().path)
            try:
                value, result = self._changed(root, row, change, locally)
                dumped = dump(value)
            except BaseException:
                root.renew(row.rev, load(row.value))
                raise
            if dumped != row.value:
                row = backend.put(self._store, root.key, dumped)
            if value is not root.value:
                root.renew(row.rev, value)
            root.rev = row.rev
            self._copies.written(row)
        self._wrote(root.key)
        return result

    def _changed(
        self, root: Root, row: Row, change: Callable[[], Change], locally: Callable[[], Any]
    ) -> tuple[Any, Any]:
        if row.rev == root.rev:
            result = locally()
            return root.value, result
        newer = load(row.value)
        result = apply_to_newer(newer, root.value, change())
        return newer, result

    def sync_key(self, key: Key) -> None:
        """As `sync`. Raises `KeyError` where there is no such entry."""
        self.mark_dirty(key)
        self.sync()

    def mark_dirty(self, key: Key) -> None:
        """Have the next `sync` make this entry durable, too. Raises `KeyError`."""
        if key not in self:
            raise KeyError(key)
        self._dirty[key_text(key)] = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {'closed' if self._backend is None else f'{len(self)} entries'})"


class _Items(ItemsView[Key, Any]):
    def __init__(self, pod: POD, pairs: Callable[[], Iterator[tuple[Key, Any]]]) -> None:
        super().__init__(pod)
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        return self._pairs()


class _Values(ValuesView[Any]):
    def __init__(self, pod: POD, pairs: Callable[[], Iterator[tuple[Key, Any]]]) -> None:
        super().__init__(pod)
        self._pairs = pairs

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._pairs())


def _pairs_of(other: Any) -> Iterable[tuple[Any, Any]]:
    return ((key, other[key]) for key in other.keys()) if hasattr(other, "keys") else other  # noqa: SIM118 (as dict does)
