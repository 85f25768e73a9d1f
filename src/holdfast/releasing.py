"""Releasing contents from the block store: those that two proven copies on tape make it safe to give up (law 4).

Nothing is removed here: the catalog forgets where they lie in the store, and remembers when. From then on they are read from
tape, and `holdfast.collecting` gives their room back. A content belongs to all files that have these bytes, wherever they
are named; so it is released only when each of those versions is proven on tape by its own name, whichever of them was meant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.catalog import files, releasing
from holdfast.errors import SourceError
from holdfast.naming import Matcher, matcher
from holdfast.reports import ReleaseReport, Silent, Watch
from holdfast.values import FileVersion, show_path
from holdfast.vault import Vault, opened

TOLD_NAMES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest:
    """Which files' contents: by names, folders and patterns, all of them when there are none; `dry_run`: only say which."""

    patterns: tuple[str, ...] = ()
    dry_run: bool = False


def release(folder: Path, request: ReleaseRequest, watch: Watch | None = None) -> ReleaseReport:
    """Release what may be; the report names what may not. Beside whoever works on the vault; each page is one transaction.

    Raises `SourceError` when names were given, and none of them means any file.
    """
    watch = watch or Silent()
    report = ReleaseReport(vault=str(folder), named=bool(request.patterns), dry_run=request.dry_run)
    with opened(folder) as vault, watch.stage("release") as stage:
        is_meant = matcher(vault.catalog, request.patterns)
        for page in _pages(vault):
            names = _meant(vault, page, is_meant)
            _release_page(vault, names, request, report)
            for _ in page:
                stage.count()
        report.stages.append(stage.done())
        if request.patterns and not report.contents and not report.refused:
            _check_names(vault, is_meant)
    return report


def _pages(vault: Vault) -> Iterator[list[int]]:
    """The contents that lie in the store, by row number."""
    last = 0
    while True:
        with vault.catalog.reading() as connection:
            page = releasing.stored_after(connection, last)
        if not page:
            return
        yield page
        last = page[-1]


def _meant(vault: Vault, page: list[int], is_meant: Matcher) -> dict[int, FileVersion]:
    """Those of the contents of which any version is meant, that version with each."""
    found: dict[int, FileVersion] = {}
    with vault.catalog.reading() as connection:
        for row, version in releasing.versions_of_contents(connection, page):
            if row not in found and is_meant(version):
                found[row] = version
    return found


def _check_names(vault: Vault, is_meant: Matcher) -> None:
    with vault.catalog.reading() as connection:
        if not any(is_meant(present.version) for present in files.all_versions(connection)):
            raise SourceError("nothing in the vault has such a name", hint="holdfast ls shows what is there")


def _release_page(vault: Vault, names: dict[int, FileVersion], request: ReleaseRequest, report: ReleaseReport) -> None:
    virtual_counts = vault.settings.tape.virtual_counts_as_proof
    # what is asked and what is done must be one transaction: a reading may speak against a proof at any time
    with vault.catalog.reading() if request.dry_run else vault.catalog.transaction() as connection:
        allowed = releasing.releasable(connection, list(names), virtual_counts=virtual_counts)
        if allowed and not request.dry_run:
            releasing.release_contents(connection, allowed, time.time_ns())
    for row, version in names.items():
        if row in allowed:
            report.contents += 1
            report.released_bytes += version.size_bytes
        else:
            report.refused += 1
            if len(report.refused_names) < TOLD_NAMES:
                report.refused_names.append(show_path(version.full_path))
