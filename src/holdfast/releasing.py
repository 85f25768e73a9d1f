"""Releasing contents from the block store: those that two proven copies on tape make it safe to give up (law 4).

Nothing is removed here: the catalog forgets where they lie in the store, and remembers when. From then on they are read from
tape, and `holdfast.collecting` gives their room back. A content belongs to all files that have these bytes, wherever they
are named; so it is released only when each of those versions is proven on tape by its own name, whichever of them was meant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection

from holdfast.catalog import PresentVersion, files, releasing
from holdfast.naming import matcher
from holdfast.reports import ReleaseReport, Silent, Watch
from holdfast.values import Content, FileVersion, show_path
from holdfast.vault import Vault, opened

PAGE_VERSIONS = 2000
TOLD_NAMES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest:
    """Which files' contents: by names, folders and patterns, all of them when there are none; `dry_run`: only say which."""

    patterns: tuple[str, ...] = ()
    dry_run: bool = False


def release(folder: Path, request: ReleaseRequest, watch: Watch | None = None) -> ReleaseReport:
    """Release what may be; the report names what may not. Beside whoever works on the vault; each page is one transaction."""
    watch = watch or Silent()
    report = ReleaseReport(vault=str(folder), named=bool(request.patterns), dry_run=request.dry_run)
    with opened(folder) as vault, watch.stage("release") as stage:
        for page in _pages(vault, request):
            _release_page(vault, page, request, report)
            for _ in page:
                stage.count()
        report.stages.append(stage.done())
    return report


def _pages(vault: Vault, request: ReleaseRequest) -> Iterator[list[FileVersion]]:
    """The versions that are meant and have bytes; those that have ended, too."""
    is_meant = matcher(vault.catalog, request.patterns)
    with vault.catalog.reading() as connection:
        meant = (
            present.version
            for present in files.all_versions(connection)
            if _has_bytes(present) and is_meant(present.version)
        )
        while page := list(islice(meant, PAGE_VERSIONS)):
            yield page


def _has_bytes(present: PresentVersion) -> bool:
    return present.version.content is not None and present.version.size_bytes > 0


def _release_page(vault: Vault, page: list[FileVersion], request: ReleaseRequest, report: ReleaseReport) -> None:
    names = {version.content: version for version in page if version.content is not None}
    # what is asked and what is done must be one transaction: a reading may speak against a proof at any time
    with vault.catalog.reading() if request.dry_run else vault.catalog.transaction() as connection:
        stored = releasing.stored_contents(connection, names)
        allowed = _allowed(vault, connection, stored)
        if allowed and not request.dry_run:
            releasing.release_contents(connection, allowed, time.time_ns())
    for row, content in stored.items():
        if row in allowed:
            report.contents += 1
            report.released_bytes += content.size_bytes
        else:
            report.refused += 1
            if len(report.refused_names) < TOLD_NAMES:
                report.refused_names.append(show_path(names[content].full_path))


def _allowed(vault: Vault, connection: Connection, stored: dict[int, Content]) -> set[int]:
    virtual_counts = vault.settings.tape.virtual_counts_as_proof
    return releasing.releasable(connection, list(stored), virtual_counts=virtual_counts)
