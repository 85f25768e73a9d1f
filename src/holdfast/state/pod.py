"""The dictionary that persists, `POD`: as `dict` in order and behaviour, and what a write says is kept.

    pod[key] = value        one transaction; survives the end of this process when it returns
    pod[key].append(1)      however deep: the change is made in the stored value, whoever else changes it meanwhile
    pod[key] += 1           exact, or a `ConflictError` when somebody else was quicker
    pod.hold(), pod.sync()  many writes at once; when `sync` returns, everything survives a power cut

Any number of processes and threads may open the same path, in any order. Nothing here knows which database is below.
"""

from __future__ import annotations

import functools
import threading
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
from pathlib import Path
from typing import Any, Self, cast

from holdfast.errors import IntegrityError, InvalidValue, StateError
from holdfast.state import exchange
from holdfast.state.backend import Backend, Durability
from holdfast.state.changes import conflict, demand_same_place
from holdfast.state.entry import Row
from holdfast.state.handle import Handle, Waiting
from holdfast.state.jsonvalue import dump, load, plain
from holdfast.state.keys import Key, key_text, parse_key
from holdfast.state.memory import MISSING
from holdfast.state.proxy import Setter
from holdfast.state.tables import PAGE_CHARACTERS
from holdfast.state.tracked import Change, Root, place_of
from holdfast.state.views import Snapshot, keys, rows

GROUP = 5000
"""`update` writes so many at once, all in one transaction."""
_TAKEN_OVER = "taken_over_from_tastypy"
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
    migrate
        Take over what tastypy has written into the folder; its files stay as they are.
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
        migrate: bool = False,
    ) -> None:
        self.gzipped, self.file_size = gzipped, file_size
        super().__init__(path, store, durability=Durability(durability), sync_at=sync_at, read_only=mode == "r")
        try:
            self._take_over(may_migrate=migrate)
            self._fill(init, default or {})
        except BaseException:
            self.close()
            raise

    def _fill(self, init: Mapping[Any, Any] | Iterable[tuple[Any, Any]], default: Mapping[Any, Any]) -> None:
        if default:
            with self.transaction():
                self.update({key: value for key, value in default.items() if key not in self})
        if init:
            self.update(init)

    def _take_over(self, *, may_migrate: bool) -> None:
        """Import what tastypy has left in the folder, once: that it was is told in the same transaction."""
        if self._store == _TAKEN_OVER or isinstance(self.path, str) or not exchange.is_of_tastypy(self.path):
            return
        with POD(self.path, store=_TAKEN_OVER) as taken:
            if self._store in taken:
                return
            if not may_migrate:
                raise StateError(
                    "this folder was written by tastypy",
                    place=str(self.path),
                    expected="a store",
                    found="0.json, or 0.json.gz",
                    hint="open it with migrate=True: what it holds is taken over, and its files stay as they are",
                )
            with self.transaction(Durability.POWER):
                if self._store not in taken:
                    taken[self._store] = self.import_(self.path)

    # -- readable files

    def export(self, path: str | Path, format: str = "jsonl") -> int:  # noqa: A002 (as in other programs)
        """Write every entry, as of now, to files that people can read; how many. Durable on return.

        "jsonl" is one file of lines of JSON, compressed if its name ends in `.gz`; "tastypy" a new folder in the
        format of tastypy 0.0.3, of `file_size` entries to a file, compressed if `gzipped`. Raises `StateError` where a
        folder is there already, and `CapacityError` when the disk is full; what was there stays as it was.
        """
        if format not in ("jsonl", "tastypy"):
            raise StateError("no such format to export", expected="jsonl or tastypy", found=repr(format))
        target = Path(path).expanduser()
        with self.snapshot() as frozen:
            if format == "jsonl":
                exchange.write_lines(target, self.KIND, len(frozen), frozen.entries())
            else:
                entries = frozen.entries()
                exchange.write_tastypy(target, entries, file_size=self.file_size, compressed=self.gzipped)
            return len(frozen)

    def import_(self, path: str | Path) -> int:
        """Set every entry of what `export`, or tastypy, has written, all or none of them; how many.

        Raises `IntegrityError` for files that are damaged or not whole, `InvalidValue` for what cannot be kept, and
        `SourceError` where there is nothing to import.
        """
        with self.transaction():
            before, count = len(self), _Counted(exchange.read(Path(path).expanduser()))
            self.update(count)
            if not before and len(self) != count.entries:
                raise IntegrityError(
                    "a key comes twice; nothing was taken over",
                    place=str(path),
                    expected=f"{count.entries} keys, as there are lines",
                    found=str(len(self)),
                    hint="take one of the lines out, in a copy of the folder",
                )
            return count.entries

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
        if self._is_waiting(text):
            value = self._find_waiting(text)
            if value is not MISSING:
                return value
        backend = self._use()
        if backend.inside():
            return self._find_inside(backend, text)
        value = self._memory.fresh(text, backend.stamp())
        if value is not MISSING:
            return value
        row = backend.get(self._store, text)
        if row is None:
            self._memory.see_nothing(text)
            return MISSING
        with self._shaping:
            return self._memory.read(row)

    def _find_waiting(self, text: str) -> Any:
        """A value with parts is written, as it is changed where it is stored."""
        with self._guard:
            waiting = self._waiting.get(text)
        value = MISSING if waiting is None else load(waiting.text)
        if isinstance(value, (dict, list)):
            self._flush()
            return MISSING
        return value

    def _find_inside(self, backend: Backend, text: str) -> Any:
        row = backend.get(self._store, text)
        undo_in = None if backend.is_committed(self._store, row) else backend
        if row is None:
            self._memory.see_nothing(text, undo_in)
            return MISSING
        with self._shaping:
            return self._memory.read_once(row, undo_in)

    def __contains__(self, key: object) -> bool:
        text = key_text(key)
        if self._is_waiting(text):
            return True
        backend = self._use()
        if backend.get(self._store, text) is not None:
            return True
        is_committed = not backend.inside() or backend.is_committed(self._store, None)
        self._memory.see_nothing(text, None if is_committed else backend)
        return False

    def __len__(self) -> int:
        self._flush()
        return self._use().count(self._store)

    def _rows(self, *, backwards: bool = False) -> Iterator[Row]:
        self._flush()
        backend = self._use()
        return rows(backend, self._store, backwards=backwards, transaction=backend.transaction_number)

    def __iter__(self) -> Iterator[Key]:
        self._flush()
        return keys(self._use(), self._store)

    def __reversed__(self) -> Iterator[Key]:
        self._flush()
        return keys(self._use(), self._store, backwards=True)

    def _pairs(self, *, backwards: bool = False) -> Iterator[tuple[Key, Any]]:
        for row in self._rows(backwards=backwards):
            backend = self._use()
            is_committed = not backend.inside() or backend.is_committed(self._store, row)
            with self._shaping:
                value = self._memory.read_once(row, None if is_committed else backend)
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
    def snapshot(self) -> Generator[Snapshot, None, None]:
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
        text, dumped = key_text(key), self._text_of(value)
        if self._memory.is_root(text, value):
            self._set_itself(text, dumped)
        elif self._is_buffering():
            self._wait(text, dumped)
            self._sync_if_many()
        else:
            with self._writing() as backend:
                self._check_unchanged(backend, text)
                backend.put(self._store, text, dumped)
                self._memory.replaced(text, backend)
                self._wrote(backend, [text])

    def _text_of(self, value: Any) -> str:
        """What is stored of a value. Raises `InvalidValue`."""
        return dump(value)

    def _text_of_changed(self, value: Any) -> str:
        """What is stored of a value that was changed inside. Raises `InvalidValue`."""
        return self._text_of(value)

    def _set_itself(self, text: str, dumped: str) -> None:
        """Set the very list or dictionary that is, or was, stored under the key: `pod[key] += …` has changed it there."""
        with self._writing() as backend:
            row = backend.get(self._store, text)
            if row is not None and self._memory.is_at(text, row.rev) and row.value == dumped:
                return
            self._check_unchanged(backend, text)
            self._memory.rewrote(text, backend.put(self._store, text, dumped).rev, backend)
            self._wrote(backend, [text])

    def __delitem__(self, key: Key) -> None:
        text = key_text(key)
        with self._writing() as backend:
            self._check_unchanged(backend, text)
            if not backend.delete(self._store, text):
                raise KeyError(key)
            self._memory.replaced(text, backend)
            self._wrote(backend, [text])

    def update(self, *others: Any, **more: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Set the entries of each mapping (or iterable of pairs), the later ones winning; all or none of them."""
        with self._writing() as backend, backend.transaction(self.durability):
            for other in (*others, more):
                texts = ((key_text(key), self._text_of(value)) for key, value in pairs_of(other))
                for group in groups(texts):
                    self._put_group(backend, group)

    def _put_group(self, backend: Backend, group: Mapping[str, str]) -> None:
        for text in self._memory.seen_among(group):
            self._check_unchanged(backend, text)
        backend.put_many(self._store, group.items())
        for text in self._memory.known_among(group):
            self._memory.replaced(text, backend)
        self._wrote(backend, group)

    def _put_waiting(self, backend: Backend, waiting: Mapping[str, Waiting]) -> None:
        backend.put_many(self._store, ((text, item.text) for text, item in waiting.items()))
        for text in self._memory.known_among(waiting):
            if waiting[text].thread == threading.get_ident():
                self._memory.replaced(text, backend)
        self._wrote(backend, waiting)

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
                value = plain(value)
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
        with self._writing() as backend:
            backend.clear(self._store)
            self._memory.replaced_all(backend)
            self._wrote(backend, [])

    def move_to_end(self, key: Key, last: bool = True) -> None:
        """Put the entry at the end, or at the begin. Raises `KeyError`."""
        text = key_text(key)
        with self._writing() as backend:
            if not backend.move(self._store, text, last=last):
                raise KeyError(key)
            self._wrote(backend, [text])

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
        text, dumped = key_text(key), self._text_of(value)
        with self._writing() as backend:
            backend.put(self._store, text, dumped)
            self._memory.replaced(text, backend)
            self._wrote(backend, [text])

    def _remove(self, key: Key) -> None:
        text = key_text(key)
        with self._writing() as backend:
            if not backend.delete(self._store, text):
                raise KeyError(key)
            self._memory.replaced(text, backend)
            self._wrote(backend, [text])

    def _edit(self, key: Key, edit: Callable[[Any], tuple[Any, Any]]) -> Any:
        """Replace the value under `key` by the first of what `edit` makes of it; the second is returned."""
        text = key_text(key)
        with self._writing() as backend:
            row = backend.get(self._store, text)
            if row is None:
                raise KeyError(key)
            value, result = edit(load(row.value))
            dumped = self._text_of(value)
            if dumped != row.value:
                if self._rev_of(backend, text) != row.rev:
                    raise conflict("by what was to change it", ())
                backend.put(self._store, text, dumped)
                self._memory.wrote(text, row.rev, backend)
                self._wrote(backend, [text])
        return result

    # -- changes inside values, asked for by `tracked`

    def make(self, change: Change) -> Any:
        """Make a change in the stored value, and in the one at hand. Raises `ConflictError` and what the method does."""
        with self._writing() as backend, self._shaping:
            root, row = self._at_newest(backend, change)
            change.remember()
            back_to_rev = functools.partial(setattr, root, "rev", root.rev)
            if backend.is_first(("node", id(change.node))):
                backend.on_rollback(change.undo)
            if backend.is_first(("root", id(root))):
                backend.on_rollback(back_to_rev)
            try:
                result = change.make()
                dumped = self._text_of_changed(root.value)
                if dumped != row.value:
                    root.rev = backend.put(self._store, root.key, dumped).rev
            except BaseException:
                change.undo()
                back_to_rev()
                raise
            self._memory.wrote(root.key, row.rev, backend)
            if dumped != row.value:
                self._wrote(backend, [root.key])
        return result

    def _at_newest(self, backend: Backend, change: Change) -> tuple[Root, Row]:
        """The root of the value that is to be changed, being what is stored now."""
        place = place_of(change.node)
        if place is None:
            raise conflict("what was to be changed is no part of it any more", ())
        root, path = place
        row = backend.get(self._store, root.key)
        if row is None:
            raise conflict("it was removed", path)
        if row.rev != root.rev:
            newer = load(row.value)
            demand_same_place(newer, root.value, path, change.method, change.args)
            if not backend.is_committed(self._store, row):
                backend.on_rollback(root.saved())
            root.renew(row.rev, newer)
            if place_of(change.node) != place:
                raise conflict("it is not sure any more which part it was", path)
        return root, row

    def sync_key(self, key: Key) -> None:
        """As `sync`. Raises `KeyError` where there is no such entry."""
        self.mark_dirty(key)
        self.sync()

    def mark_dirty(self, key: Key) -> None:
        """Have the next `sync` make this entry durable, too. Raises `KeyError`."""
        self._check_writable()
        if key not in self:
            raise KeyError(key)
        self._dirty[key_text(key)] = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {'closed' if self._backend is None else f'{len(self)} entries'})"


def groups(pairs: Iterator[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Many at once, but not more than memory should hold."""
    group: dict[str, str] = {}
    characters = 0
    for text, value in pairs:
        group[text] = value
        characters += len(value)
        if len(group) >= GROUP or characters > PAGE_CHARACTERS:
            yield group
            group, characters = {}, 0
    if group:
        yield group


class _Counted:
    """Pairs, and how many were taken."""

    def __init__(self, pairs: Iterable[tuple[Key, Any]]) -> None:
        self._pairs = pairs
        self.entries = 0

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        for pair in self._pairs:
            self.entries += 1
            yield pair


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


def pairs_of(other: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(other, Mapping):
        return cast("Mapping[Any, Any]", other).items()
    return ((key, other[key]) for key in other.keys()) if hasattr(other, "keys") else other  # noqa: SIM118 (as dict does)
