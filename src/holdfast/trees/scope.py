"""Which source does a path on the command line belong to?"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from holdfast.catalog import Catalog, files
from holdfast.errors import SourceError
from holdfast.values import NAMES_ON_TAPE, Source, check_source_name, show_path


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of a source: everything at and below a path of it (empty: all of it)."""

    source: Source
    below: bytes


def check_paths(paths: tuple[Path, ...], source_name: str | None, *, vault: Path | None = None) -> None:
    """Raise `SourceError` or `UsageError` for what cannot be archived, before a vault is made for nothing."""
    for path in paths:
        if vault is not None and _is_inside(_real_path(path), os.fsencode(os.path.realpath(vault))):
            raise SourceError(
                "a vault is not archived into itself", place=str(path), hint="name what is to be archived instead"
            )
    if source_name is not None:
        check_source_name(source_name)
    for path in paths:
        try:
            path.lstat()
            empty = path.is_dir() and not os.listdir(path)
        except OSError as error:
            raise SourceError(
                "the source cannot be looked at",
                place=str(path),
                found=error.strerror or str(error),
                hint="name a folder or a file that exists and that you may read",
            ) from error
        if empty:
            raise SourceError("the source is empty", place=str(path), hint="name a folder that holds something")


def find_scopes(catalog: Catalog, paths: tuple[Path, ...], source_name: str | None) -> list[Scope]:
    """The scope of each path; sources that are new are recorded."""
    with catalog.reading() as connection:
        known = files.all_sources(connection)
    named = [_named_source(source_name, paths, known)] if source_name is not None else None
    scopes: list[Scope] = []
    for path in (_real_path(path) for path in paths):
        scope = _scope(path, named or known, is_named=named is not None)
        if scope.source not in known:
            known.append(scope.source)
        scopes.append(scope)
    scopes = _without_overlap(scopes)
    with catalog.transaction() as connection:
        files.record_sources(connection, [scope.source for scope in scopes])
        for scope in scopes:
            files.place_source(connection, scope.source)
    return scopes


def _without_overlap(scopes: list[Scope]) -> list[Scope]:
    """Each part of a source once: looked at twice in one run, its files would be recorded twice."""
    kept: list[Scope] = []
    for scope in sorted(scopes, key=lambda item: len(item.below)):
        if not any(other.source == scope.source and _covers(other.below, scope.below) for other in kept):
            kept.append(scope)
    return [scope for number, scope in enumerate(scopes) if scope in kept and scope not in scopes[:number]]


def _covers(outer: bytes, inner: bytes) -> bool:
    return not outer or outer == inner or inner.startswith(outer + b"/")


def _real_path(path: Path) -> bytes:
    """The path without links in its folders; a link named itself stays one."""
    full = os.fsencode(os.path.abspath(path))
    if os.path.islink(full) and not os.path.isdir(full):
        return os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))
    return os.path.realpath(full)


def _named_source(name: str, paths: tuple[Path, ...], known: list[Source]) -> Source:
    found = next((source for source in known if source.name == name), None)
    if found is not None and found.host:
        return found
    root = os.path.commonpath([_real_path(path) for path in paths])
    root = root if os.path.isdir(root) else os.path.dirname(root)
    return Source(_known_id(name, known) or uuid.uuid4(), name, socket.gethostname(), root)


def _known_id(name: str, known: list[Source]) -> uuid.UUID | None:
    """The id of a source of which only the name is known: tapes without a whole catalog do not say where it lies."""
    return next((source.id for source in known if source.name == name and not source.host), None)


def _scope(path: bytes, known: list[Source], *, is_named: bool) -> Scope:
    """The innermost known source around the path; else a new one, unless a source was named."""
    host = socket.gethostname()
    around = [source for source in known if source.host == host and _is_inside(path, source.root)]
    source = max(around, key=lambda item: len(item.root), default=None)
    if source is None:
        if is_named:
            raise _not_inside(path, known[0])
        root = path if os.path.isdir(path) else os.path.dirname(path)
        base = _base_name(root)
        own_id = _known_id(base, known)
        name = base if own_id is not None else _free_name(base, known)
        source = Source(own_id or uuid.uuid4(), name, host, root)
    return Scope(source, b"" if path == source.root else os.path.relpath(path, source.root))


def _not_inside(path: bytes, source: Source) -> SourceError:
    return SourceError(
        f"the path is not in the source '{source.name}'",
        place=show_path(path),
        expected=f"a path below {show_path(source.root)} on {source.host}",
        hint="choose another --source NAME, or leave it out",
    )


def _is_inside(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")


def _base_name(root: bytes) -> str:
    """What a new source is called after its folder."""
    base = show_path(os.path.basename(root)).lstrip("-").strip()[:80].strip() or "root"
    return f"source-{base}" if base in NAMES_ON_TAPE else base


def _free_name(base: str, known: list[Source]) -> str:
    """A name for a new source, numbered if it is taken."""
    taken = {source.name for source in known}
    names = (base if number == 1 else f"{base}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
