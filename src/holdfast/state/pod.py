"""The dictionary that persists, `POD`: as `dict` in order and behaviour, and what a write says is kept.

    pod[key] = value        one transaction; survives the end of this process when it returns
    pod[key].append(1)      however deep: the change is made in the stored value, whoever else changes it meanwhile
    pod[key] += 1           exact, or a `ConflictError` when somebody else was quicker
    pod.hold(), pod.sync()  many writes at once; when `sync` returns, everything survives a power cut

Any number of processes and threads may open the same path, in any order. Nothing here knows which database is below.
"""

from __future__ import annotations

import atexit
import sys
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
from typing import Any, Self, cast
from weakref import WeakValueDictionary

from holdfast.errors import ConflictError, HoldfastError, InvalidValue, StateError
from holdfast.state import sqlite
from holdfast.state.backend import Backend, Durability, Reader, Row, Stamp
from holdfast.state.changes import Change, apply_to_newer, conflict
from holdfast.state.copies import MISSING, Copies
from holdfast.state.jsonvalue import dump, load
from holdfast.state.keys import Key, key_text, parse_key
from holdfast.state.proxy import Setter
from holdfast.state.tracked import NO_STATE, Root

SCALARS = (str, int, float, bool, type(None))
PAGE = 1000
"""Iterating reads so many entries at once, and keeps no transaction open between."""
GROUP = 5000
"""`update` writes so many at once, all in one transaction."""
DEFAULT_SYNC_AT = 1000
DEFAULT_FILE_SIZE = 1000

_handles: WeakValueDictionary[int, POD] = WeakValueDictionary()


class POD(MutableMapping[Key, Any]):
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
        self.path = Path(path).expanduser()
        self.gzipped, self.file_size, self.sync_at = gzipped, file_size, sync_at
        self.durability = Durability(durability)
        self.read_only = mode == "r"
        self._store = store
        self._held: dict[str, str] = {}  # the texts of values that wait in memory, by key
        self._holding = 0
        self._dirty: dict[str, None] = {}
        self._copies = Copies(self)
        self._backend: Backend | None = self._opened()
        _handles[id(self)] = self
        self._fill(init, default or {})

    def _opened(self) -> Backend:
        if self.read_only and not (self.path / "state.db").exists():
            raise StateError("no store to read", place=str(self.path), hint="name the folder of one")
        backend = sqlite.shared(self.path)
        try:
            backend.make_store(self._store, self.KIND)
        except BaseException:
            backend.close()
            raise
        return backend

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
        """Every entry in order; what is added meanwhile at the end comes, too."""
        self._flush()
        after = None
        while page := self._use().page(self._store, after, PAGE, backwards=backwards):
            yield from page
            after = page[-1].seq

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
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def copy(self) -> dict[Key, Any]:
        """A plain dictionary of plain values."""
        return {parse_key(row.key): load(row.value) for row in self._rows()}

    @contextmanager
    def snapshot(self) -> Generator[Mapping[Key, Any], None, None]:
        """A mapping that stays as the store is now, however others go on writing."""
        self._flush()
        with self._use().snapshot() as reader:
            yield _Snapshot(reader, self._store)

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

    def _put_group(self, backend: Backend, group: dict[str, str]) -> None:
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

    def make(self, root: Root, change: Change, locally: Callable[[], Any]) -> Any:
        """Make a change in the stored value, and in the one at hand. Raises `ConflictError` and what the method does."""
        self._flush()
        with self._writing() as backend:
            row = backend.get(self._store, root.key)
            if row is None:
                raise conflict("it was removed", change.path)
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

    def _changed(self, root: Root, row: Row, change: Change, locally: Callable[[], Any]) -> tuple[Any, Any]:
        if row.rev == root.rev:
            result = locally()
            return root.value, result
        newer = load(row.value)
        result = apply_to_newer(newer, root.value, change)
        return newer, result

    # -- transactions

    @contextmanager
    def transaction(self, durability: Durability | str | None = None) -> Generator[Self, None, None]:
        """Everything in the block happens at once or not at all, and nobody else writes meanwhile.

        When it is left, it survives what `durability` says. Raises `CapacityError` when the disk is full, and what the
        block raises: then nothing was changed.
        """
        self._check_writable()
        asked = Durability(durability or self.durability)
        self._flush()
        backend = self._use()
        with backend.transaction(asked), self._paused():
            backend.join(self, asked)
            yield self
        if not backend.inside():
            self._dirty = {} if asked is Durability.POWER else self._dirty
            self._sync_if_many()

    @contextmanager
    def _paused(self) -> Generator[None, None, None]:
        """In a transaction nothing is held back: it is in memory until the end anyway."""
        holding, self._holding = self._holding, -1
        try:
            yield
        finally:
            self._holding = holding

    @contextmanager
    def _writing(self) -> Generator[Backend, None, None]:
        self._check_writable()
        backend = self._use()
        if backend.inside():
            with backend.mutex:
                self._join(backend)
                yield backend
        else:
            with backend.transaction(self.durability), backend.mutex:
                self._join(backend)
                yield backend

    def _join(self, backend: Backend) -> None:
        backend.join(self, self.durability)

    def committed(self, before: Stamp, after: Stamp) -> None:
        """Told by the backend."""
        self._copies.committed(before, after)

    def rolled_back(self) -> None:
        """Told by the backend: whoever holds a list or dictionary sees again what is stored."""
        backend = self._use()
        with backend.mutex:
            self._copies.forget()
            for root in self._copies.roots():
                root.rev = NO_STATE
                if (row := backend.get(self._store, root.key)) is not None:
                    self._copies.take(row)
            self._copies.forget()

    def _check_unchanged(self, backend: Backend, text: str) -> None:
        """Raise `ConflictError` when this thread has read the entry and somebody else has changed it since."""
        noted = self._copies.noted(text)
        if noted is None:
            return
        row = backend.get(self._store, text)
        if noted != (NO_STATE if row is None else row.rev):
            self._copies.forget_note(text)
            raise ConflictError(
                "somebody else changed this entry after it was read",
                place=f"{self.path}, key {text}",
                expected="what was read",
                found="another value" if row else "none: it was removed",
                hint="read it and decide again, or set it again to overwrite; `incr` and `transaction` are exact",
            )

    # -- when what is durable

    def _is_buffering(self) -> bool:
        self._check_writable()
        return self._holding > 0 or (self._holding == 0 and self.durability is Durability.BUFFERED)

    def _flush(self) -> None:
        """Write what waits in memory."""
        if self._held:
            with self._writing() as backend:
                held, self._held = self._held, {}
                try:
                    self._put_group(backend, held)
                except BaseException:
                    self._held = held | self._held
                    raise

    def _wrote(self, text: str) -> None:
        self._mark([text])
        self._sync_if_many()

    def _mark(self, texts: Iterable[str]) -> None:
        if self.durability is not Durability.POWER:
            self._dirty.update(dict.fromkeys(texts))

    def _sync_if_many(self) -> None:
        waiting = len(self._dirty) + len(self._held)
        if waiting >= self.sync_at and self._holding <= 0 and not self._use().inside():
            self.sync()

    def sync(self) -> None:
        """When this returns, everything that was written survives a power cut."""
        if self._use().inside():
            raise StateError("nothing is durable inside a transaction", hint="call sync() after the block")
        self._flush()
        if self._dirty:
            self._use().sync()
            self._dirty.clear()

    def sync_key(self, key: Key) -> None:
        """As `sync`. Raises `KeyError` where there is no such entry."""
        self.mark_dirty(key)
        self.sync()

    def mark_dirty(self, key: Key) -> None:
        """Have the next `sync` make this entry durable, too. Raises `KeyError`."""
        if key not in self:
            raise KeyError(key)
        self._dirty[key_text(key)] = None

    def dirty(self) -> set[Key]:
        """The keys written by this handle that might not survive a power cut yet."""
        return {parse_key(text) for text in (*self._dirty, *self._held)}

    def hold(self) -> _Held:
        """Keep what is set from now on in memory, until `unhold` or `sync`; also as `with pod.hold():`."""
        self._check_writable()
        self._holding = 1
        return _Held(self)

    def unhold(self) -> None:
        """Write what was held, and sync when it was more than `sync_at`."""
        self._holding = 0
        many = len(self._held) >= self.sync_at
        self._flush()
        if many:
            self.sync()

    def revert(self) -> None:
        """Forget what is held in memory and was not written."""
        self._held.clear()
        with self._use().mutex:
            self._copies.forget()

    def verify(self) -> list[str]:
        """Read everything back; what is not as it was written, in words. Empty when all is well."""
        self._flush()
        return self._use().problems(self._store)

    # -- others

    def lock(self) -> None:
        """Keep everybody else from writing until `unlock`. Whoever is killed holds nothing."""
        self._use().lock()

    def unlock(self) -> None:
        self._use().unlock()

    @contextmanager
    def locked(self) -> Generator[Self, None, None]:
        """`lock` for the block."""
        self.lock()
        try:
            yield self
        finally:
            self.unlock()

    # -- opening and closing

    def _use(self) -> Backend:
        if self._backend is None:
            raise StateError("this store is closed", place=str(self.path), hint="open it again")
        return self._backend

    def _check_writable(self) -> None:
        if self.read_only:
            raise StateError("this store was opened only to be read", place=str(self.path), hint='open it with mode="w"')

    def close(self) -> None:
        """Make everything durable and let go. More than once is as once."""
        if self._backend is not None:
            self._holding = 0
            self.sync()
            backend, self._backend = self._backend, None
            _handles.pop(id(self), None)
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {'closed' if self._backend is None else f'{len(self)} entries'})"


class _Items(ItemsView[Key, Any]):
    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        return cast("POD", self._mapping)._pairs()  # pyright: ignore


class _Values(ValuesView[Any]):
    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in cast("POD", self._mapping)._pairs())  # pyright: ignore


class _Held:
    """`with pod.hold():`"""

    def __init__(self, pod: POD) -> None:
        self._pod = pod

    def __enter__(self) -> POD:
        return self._pod

    def __exit__(self, *_: object) -> None:
        self._pod.unhold()


class _Snapshot(Mapping[Key, Any]):
    """One state of a store."""

    def __init__(self, reader: Reader, store: str) -> None:
        self._reader = reader
        self._store = store

    def __getitem__(self, key: Key) -> Any:
        row = self._reader.get(self._store, key_text(key))
        if row is None:
            raise KeyError(key)
        return load(row.value)

    def __len__(self) -> int:
        return self._reader.count(self._store)

    def __iter__(self) -> Iterator[Key]:
        after = None
        while page := self._reader.page(self._store, after, PAGE):
            yield from (parse_key(row.key) for row in page)
            after = page[-1].seq


def _pairs_of(other: Any) -> Iterable[tuple[Any, Any]]:
    return ((key, other[key]) for key in other.keys()) if hasattr(other, "keys") else other


def _write_all_held() -> None:
    """At the end of the process, what is still held in memory is written."""
    for pod in list(_handles.values()):
        try:
            pod.unhold()
        except HoldfastError as error:
            print(f"holdfast: {len(pod.dirty())} entries that were held in memory are lost: {error}", file=sys.stderr)


atexit.register(_write_all_held)
