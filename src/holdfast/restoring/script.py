"""Writing a script that does a restore without Holdfast, from tape alone (law 8).

    folders    made from the catalog, as their modes and times must come last
    files      and links: extracted by tar, tape file by tape file, in tape order, and checked by sha256sum
    copies     bytes that stand on tape as a hard link to a name that is not wanted
    links      further names of files
    dress      modes and times of what tar does not give them: touched files, copies, and folders, deepest first

Of each pair the script asks for the side that the evidence speaks best for. Only numbers are held in memory; names
are read from the catalog when they are written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple, TextIO

from holdfast import __version__
from holdfast.catalog import Cartridge, Pair, PresentVersion, files, proof, tapes
from holdfast.catalog.tapes import NamedCopy
from holdfast.errors import SourceError
from holdfast.reports import ScriptReport
from holdfast.restoring import shell
from holdfast.restoring.request import RestoreRequest
from holdfast.restoring.ways import Selection, of_file
from holdfast.tape.layout import TAR_BLOCK_BYTES
from holdfast.values import FileVersion, Kind, show_bytes
from holdfast.vault import Vault, opened

CHUNK = 2000
"""So many versions are looked up at a time."""


MUCH_NEWER_NS = 24 * 3600 * 10**9
"""Both sides are verified at once, and one of them is always done first: that does not make the other one newer."""


class _Piece(NamedTuple):
    """A member to extract; sorted, pieces are in reading order. `pair` counts pairs from the oldest, from 0."""

    pair: int
    tape_file: int
    header_offset: int
    data_offset: int
    row: int
    own: bool

    @property
    def is_copy(self) -> bool:
        """Its bytes stand with another member."""
        return self.header_offset >= self.data_offset


def write_script(folder: Path, request: RestoreRequest, out: TextIO) -> ScriptReport:
    """Write the script for what the patterns mean, as it was at the time; only ASCII is written.

    What no tape holds is in the report's errors, and not in the script. Raises `SourceError` when nothing is meant.
    """
    report = ScriptReport(vault=str(folder))
    with opened(folder) as vault:
        meant = Selection(vault, request)
        total_bytes = meant.total_bytes()
        writer = _Writer(vault, out, report)
        writer.gather(meant)
        what = f"{report.files} files, {report.folders} folders, {report.links} links ({show_bytes(total_bytes)})"
        out.write(shell.head(what, os.path.abspath(os.fsencode(request.to)), f"Holdfast {__version__}"))
        writer.write()
        out.write(shell.TAIL)
    return report


class _Writer:
    def __init__(self, vault: Vault, out: TextIO, report: ScriptReport) -> None:
        self._vault = vault
        self._out = out
        self._report = report
        self._pieces: list[_Piece] = []
        self._folders: list[tuple[int, int]] = []  # depth, row
        self._hard_links: list[FileVersion] = []
        self._missing: set[bytes] = set()
        with vault.catalog.reading() as connection:
            self._pairs = tapes.all_pairs(connection)
        self._number = {pair.id: number for number, pair in enumerate(self._pairs)}

    # -- what is wanted

    def gather(self, meant: Selection) -> None:
        """Find the member for everything that tar is to extract."""
        waiting = iter(meant)
        while part := list(islice(waiting, CHUNK)):
            self._gather([present for present in part if not self._is_for_later(present)])
        self._leaders, further = meant.leaders(self._hard_links)
        self._gather(list(further.values()))
        self._report.files += len(self._hard_links) - len(further)

    def _is_for_later(self, present: PresentVersion) -> bool:
        version = present.version
        if version.kind is Kind.FOLDER:
            self._folders.append((version.full_path.count(b"/"), present.row))
            self._report.folders += 1
        elif version.hard_link_of is not None:
            self._hard_links.append(version)
        else:
            return False
        return True

    def _gather(self, part: list[PresentVersion]) -> None:
        with self._vault.catalog.reading() as connection:
            copies = tapes.named_copies(connection, [present.row for present in part])
        for present in part:
            found = next((copy for copy in copies.get(present.row, []) if copy.pair_id in self._number), None)
            if found is None:
                self._report.errors.append(of_file(_on_no_tape(), present.version))
                self._missing.add(present.version.full_path)
                continue
            self._pieces.append(self._piece(present, found))
            if present.version.kind is Kind.LINK:
                self._report.links += 1
            else:
                self._report.files += 1

    def _piece(self, present: PresentVersion, copy: NamedCopy) -> _Piece:
        is_file = present.version.kind is Kind.FILE
        data_offset = copy.data_offset if is_file else copy.header_offset + 1
        return _Piece(
            self._number[copy.pair_id], copy.tape_file, copy.header_offset, data_offset, present.row, copy.own
        )

    # -- the script

    def write(self) -> None:
        """Everything between head and tail, in the order of the module's page."""
        self._folders.sort()
        for version in self._versions(row for _, row in self._folders):
            self._line(f"folder {shell.quoted(version.full_path)}")
        self._pieces.sort()
        for number, pieces in groupby(self._pieces, key=lambda piece: piece.pair):
            self._write_pair(self._pairs[number], list(pieces))
        self._write_links()
        self._write_dress(piece.row for piece in self._pieces if piece.is_copy or not piece.own)
        self._write_dress(row for _, row in reversed(self._folders))

    def _write_pair(self, pair: Pair, pieces: list[_Piece]) -> None:
        side, twin = self._best_first(pair, {piece.tape_file for piece in pieces})
        self._report.cartridges.append(side.barcode)
        self._line(f"\ncartridge {side.barcode} {twin.barcode} {pair.record_bytes // TAR_BLOCK_BYTES}")
        for number, group in groupby(pieces, key=lambda piece: piece.tape_file):
            members = list(group)
            self._write_tape_file(number, [piece.row for piece in members if not piece.is_copy])
            self._write_copies(pair, [piece for piece in members if piece.is_copy])
            self._write_list("check", self._sums([piece.row for piece in members]))

    def _best_first(self, pair: Pair, needed: set[int]) -> list[Cartridge]:
        """The side that lacks the least of what is needed, and that evidence speaks best for; A where they are alike."""
        (doubts, newest_ns), (twin_doubts, twin_newest_ns) = (self._judged(item, needed) for item in pair.cartridges)
        is_newer = twin_doubts == doubts and twin_newest_ns - newest_ns > MUCH_NEWER_NS
        return list(reversed(pair.cartridges) if twin_doubts < doubts or is_newer else pair.cartridges)

    def _judged(self, item: Cartridge, needed: set[int]) -> tuple[tuple[bool, int, int, int], int]:
        """What speaks against a side, worst first, and when a reading of it matched last."""
        with self._vault.catalog.reading() as connection:
            there = {found.number for found in tapes.tape_files(connection, item.barcode)}
            bad = proof.mismatched_tape_files(connection, item.barcode)
            proven = proof.proven_tape_files(connection, item.barcode)
            newest_ns = proof.newest_match_ns(connection, item.barcode)
        return (item.fenced is not None, len(needed - there), len(needed & bad), len(needed - proven)), newest_ns

    def _write_tape_file(self, number: int, rows: list[int]) -> None:
        if rows:
            names = (shell.printf_form(version.full_path) for version in self._versions(rows))
            self._write_list(f"tape_file {number}", names)

    def _write_copies(self, pair: Pair, pieces: list[_Piece]) -> None:
        for piece, version in zip(pieces, self._versions(piece.row for piece in pieces), strict=True):
            with self._vault.catalog.reading() as connection:
                member = tapes.name_of_bytes(connection, pair.id, piece.tape_file, piece.data_offset)
            self._line(f"copy {piece.tape_file} {shell.quoted(member)} {shell.quoted(version.full_path)}")

    def _sums(self, rows: list[int]) -> Iterator[str]:
        for version in self._versions(rows):
            if version.content is not None:
                yield shell.sum_form(version.content.sha256, version.full_path)

    def _write_links(self) -> None:
        for version in self._hard_links:
            assert version.hard_link_of is not None
            leader = self._leaders[version.hard_link_of]
            if leader is not version and leader.full_path not in self._missing:
                self._line(f"link {shell.quoted(leader.full_path)} {shell.quoted(version.full_path)}")

    def _write_dress(self, rows: Iterable[int]) -> None:
        for version in self._versions(rows):
            facts = version.attributes
            time = shell.seconds_form(facts.mtime_ns)
            self._line(f"dress {facts.mode:04o} {time} {facts.uid} {facts.gid} {shell.quoted(version.full_path)}")

    def _write_list(self, command: str, lines: Iterator[str]) -> None:
        first = next(lines, None)
        if first is None:
            return
        self._line(f"{command} <<'{shell.END_OF_LIST}'")
        self._line(first)
        for line in lines:
            self._line(line)
        self._line(shell.END_OF_LIST)

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")

    def _versions(self, rows: Iterable[int]) -> Iterator[FileVersion]:
        """The versions with these rows, in this order."""
        waiting = iter(rows)
        while part := list(islice(waiting, CHUNK)):
            with self._vault.catalog.reading() as connection:
                found = {present.row: present.version for present in files.versions_by_row(connection, part)}
            yield from (found[row] for row in part)


def _on_no_tape() -> SourceError:
    return SourceError(
        "on no tape yet, so no script can restore it",
        hint="holdfast archive its source, then make the script again; holdfast restore takes the block store too",
    )
