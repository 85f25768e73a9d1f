"""The databases that this process has open: one for each place, whoever asks, over forks and to the end.

A place is a folder, or the URL of a database of PostgreSQL.
"""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import NoSuchStore, StateError
from holdfast.state.database import Database
from holdfast.state.sqlite import SqliteBackend

if TYPE_CHECKING:
    from holdfast.state.address import Address

FORK_TIMEOUT_S = 30.0
"""How long a fork waits for the transactions of other threads."""
EXIT_TIMEOUT_S = 5.0
"""How long the end of a process waits for the transactions of threads that are still there."""
_ONLY_READ = " (only read)"
SCHEMES = ("postgresql://", "postgres://")

_registry: dict[str, Database] = {}
_registry_lock = threading.RLock()


def place_of(path: str | Path) -> str | Path:
    """What a user names: the URL as it stands, or a folder, with `~` being home."""
    if isinstance(path, str) and path.startswith(SCHEMES):
        return path
    return Path(path).expanduser()


def shown(place: str | Path) -> str | Path:
    """The place for messages: without a password. Raises `StateError` for a URL that cannot be read."""
    return _address(place).shown if isinstance(place, str) else place


def shared(place: str | Path, *, make: bool = True) -> Database:
    """The database of this place, opened by the first who asks; each who got it lets it go once (`let_go`).

    With `make` it is made where it is missing; without, nothing is written, unless it is open for writing here already.
    Raises `StateError` where it cannot be opened, `NoSuchStore` where there is none.
    """
    with _registry_lock:
        name = _name(place)
        if not make and name not in _registry:
            name += _ONLY_READ
        if name in _registry and not _registry[name].is_at_its_place():
            del _registry[name]  # whoever still has it is told that it is gone
        if name not in _registry:
            _registry[name] = _as_known(_open(place, make=make))
        _registry[name].users += 1
        return _registry[name]


def _as_known(database: Database) -> Database:
    """The same database, where it is open already by another name: in two, a thread would wait for itself."""
    for known in _registry.values():
        if known.identity and known.identity == database.identity and known.is_at_its_place():
            database.shut()
            return known
    return database


def _name(place: str | Path) -> str:
    if isinstance(place, Path):
        return os.path.realpath(place)
    address = _address(place)
    return repr((sorted(address.settings.items()), address.schema))


def _address(url: str) -> Address:
    try:
        from holdfast.state.address import parse  # only who uses PostgreSQL needs its library
    except ModuleNotFoundError as error:
        raise StateError(
            "a store in PostgreSQL needs a library that is not installed",
            found=str(error),
            hint="pip install 'holdfast[postgresql]'",
        ) from error
    return parse(url)


def _open(place: str | Path, *, make: bool) -> Database:
    if isinstance(place, str):
        from holdfast.state.postgres import PostgresBackend

        return PostgresBackend(_address(place), make=make)
    if not make and not (place / "state.db").exists():
        raise NoSuchStore("no store to read", place=str(place), hint="name the folder of one")
    return SqliteBackend(Path(os.path.realpath(place)), only_read=not make)


def let_go(database: Database) -> None:
    """Nothing that was committed is lost. The last one to let go closes the database."""
    with _registry_lock:
        database.users -= 1
        if database.users > 0:
            return
        for name, item in list(_registry.items()):
            if item is database:
                del _registry[name]
    database.shut()


def _shut_all() -> None:
    """At the end of the process: SQLite would close without the lock. Threads that go on writing are not waited for."""
    with _registry_lock:
        while _registry:
            _registry.popitem()[1].shut(EXIT_TIMEOUT_S)


class _Forking:
    """One fork at a time; what was taken before it is given back after it."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.waiting: list[Database] = []
        self.has_registry = False

    def before(self) -> None:
        self.turn.acquire()
        # each store's lock before the registry's: who is in a transaction may be opening another store
        for backend in list(_registry.values()):
            if backend.before_fork(FORK_TIMEOUT_S):
                self.waiting.append(backend)
        self.has_registry = _registry_lock.acquire(timeout=FORK_TIMEOUT_S)

    def after(self) -> None:
        if self.has_registry:
            _registry_lock.release()
        while self.waiting:
            self.waiting.pop().after_fork()
        self.turn.release()

    def after_in_child(self) -> None:
        global _registry_lock
        _registry_lock = threading.RLock()
        self.__init__()
        for backend in _registry.values():
            backend.after_fork_in_child()


_forking = _Forking()
atexit.register(_shut_all)
os.register_at_fork(before=_forking.before, after_in_parent=_forking.after, after_in_child=_forking.after_in_child)
