"""What a scrub finds, in words, and within bounds: a store may be damaged in a million places."""

from __future__ import annotations

import uuid
from collections import Counter

from holdfast.blocks.packs import Packs, pack_path
from holdfast.blocks.scrub import LOST, DamagedBlock
from holdfast.catalog import Catalog, holders
from holdfast.errors import HoldfastError, IntegrityError
from holdfast.reports import ScrubReport, counted
from holdfast.values import Content, FileVersion, show_path

KEPT = 200
"""So many errors of one exit code, and so many warnings, are kept; all are counted."""
NAMED = 3
"""So many files, or damaged stretches, are named."""


class Findings:
    """Puts what is found into the report. Each error that must be told decides the exit code, though it may not be kept."""

    def __init__(self, report: ScrubReport) -> None:
        self._report = report
        self._kept = Counter[int]()

    def error(self, error: HoldfastError) -> None:
        self._count("errors")
        self._kept[error.exit_code] += 1
        if self._kept[error.exit_code] <= KEPT:
            self._report.errors.append(error)

    def has_room(self) -> bool:
        """Whether one more error about bytes would be kept; else it need not be made in full."""
        return self._kept[IntegrityError.exit_code] < KEPT

    def warn(self, error: HoldfastError) -> None:
        self._count("warnings")
        if len(self._report.warnings) < KEPT:
            self._report.warnings.append(error)

    def _count(self, what: str) -> None:
        self._report.totals[what] = self._report.totals.get(what, 0) + 1


def of_block(packs: Packs, damaged: DamagedBlock, hint: str, files: str = "") -> IntegrityError:
    """A block that is damaged; `files`: those that need it, in words."""
    bad = [f"{begin} to {end}" for begin, end in damaged.bad]
    return IntegrityError(
        "a block of the store is not as it was written",
        place=f"{packs.place_of(damaged.place.pack_id)} byte {damaged.place.offset_bytes}",
        expected=f"block {damaged.place.locator}",
        found=f"{damaged.problem}; damaged: {_few(bad, len(bad), 'stretch', 'stretches') or 'none of its bytes'}{files}",
        hint=hint,
    )


def files_that_need(catalog: Catalog, damaged: DamagedBlock) -> str:
    """The files whose contents lie in a block, a few by name, as words that follow others."""
    with catalog.reading() as connection:
        versions, count = holders.files_in_block(connection, damaged.place.locator, NAMED)
    return f"; in use by {_few([_name(version) for version in versions], count, 'file', 'files')}"


def name_of(catalog: Catalog, content: Content) -> str:
    """One file that has this content."""
    with catalog.reading() as connection:
        versions = holders.files_of_content(connection, content, 1)
    return _name(versions[0]) if versions else f"a content with SHA-256 {content.sha256.hex()}"


def _name(version: FileVersion) -> str:
    return show_path(version.full_path)


def _few(names: list[str], count: int, one: str, many: str) -> str:
    more = count - len(names[:NAMED])
    return ", ".join(names[:NAMED]) + (
        f" and {more} {'other ' + one if more == 1 else 'other ' + many}" if more else ""
    )


def missing_pack(place: str, blocks: int) -> IntegrityError:
    """A pack whose file is not there, nor anywhere else. Perhaps it will be again."""
    return IntegrityError(
        "a pack of the store is missing: is its disk mounted?",
        place=place,
        expected=f"a pack with {counted(blocks, 'block')}",
        found=f"no such file in {place.rpartition('/')[0]}",
        hint="mount it; or, if it is lost for good, put its blocks together from the tapes: holdfast scrub --replace-lost",
    )


def of_pack(packs: Packs, pack_id: uuid.UUID, blocks: int, error: OSError, *, doing: str) -> HoldfastError:
    """What the system says when a pack is read or repaired. That what we wanted to write elsewhere failed is no damage."""
    place = packs.place_of(pack_id)
    is_own = error.filename is None or str(error.filename) == str(pack_path(packs.folder, pack_id))
    if is_own and isinstance(error, FileNotFoundError):
        return missing_pack(place, blocks)
    kind = IntegrityError if is_own else HoldfastError
    lost = (
        "; or, if this pack is lost for good: holdfast scrub --replace-lost" if is_own and error.errno in LOST else ""
    )
    return kind(
        f"a pack of the store cannot be {doing}",
        place=place,
        found=error.strerror or str(error) if is_own else f"{error.strerror or error}: {error.filename}",
        hint=f"look at the disk and its messages (dmesg), then run holdfast scrub again{lost}",
    )
