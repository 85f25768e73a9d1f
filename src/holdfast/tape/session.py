"""Ending a session: the catalog of the whole cartridge, twice, behind the last object.

`CATALOG.jsonl.gz` holds a line for each fact (see `holdfast.jsonform` for versions, ends and sources):

    {"is":"catalog", format, vault, pair, session, made_ns}            first line
    {"is":"source", ...}                                               every source of the vault
    {"is":"object", id, tape_file, first_block, size, blake3}          every object on this cartridge; the block is
                                                                       that of one side: labels may differ in length
    {"is":"version", ..., "tape":[object, tape file, header, data]}    every member; without "tape": only named here
    {"is":"end", version, ended_ns}                                    versions found gone since the pair before was begun
    {"is":"evidence", ...}                                             readings that no catalog has carried before
    {"is":"last", lines}                                               so many lines stood before this one

It is cumulative: the last whole one tells all of the cartridge. Both sides get the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection

from holdfast import durable, jsonform
from holdfast.catalog import Evidence, Pair, files, proof, tapes
from holdfast.catalog.tapes import TapeFile
from holdfast.errors import IntegrityError, MediaError
from holdfast.tape import layout
from holdfast.tape.dump import commit_journals
from holdfast.tape.facts import CATALOG_FORMAT, CATALOG_NAME, evidence_fields, tape_file_of
from holdfast.tape.fan import RecordFan, WrittenFile
from holdfast.tape.journal import Committed
from holdfast.tape.library import MountedPair, TapeLibrary
from holdfast.tape.writing import TrailerDrive, write_file_tar
from holdfast.values import VersionEnd

COPIES = 2


def needs_catalog(library: TapeLibrary, pair: Pair) -> bool:
    """Whether the pair's last committed tape file is an object: then no catalog tells of it yet."""
    longest = max((library.state(item.barcode).committed for item in pair.cartridges), key=len)
    return longest[-1].kind == "object"


def close_session(library: TapeLibrary, mounted: MountedPair) -> list[MediaError]:
    """Write the catalogs behind the last commit, commit them on the mounted sides, and tell the catalog.

    Returns what became of sides that were left behind. Raises `NoRoomLeft` when no side has room for the catalogs.
    """
    session_id = uuid.uuid4()
    path = library.scratch_file(f"{session_id}.catalog")
    try:
        made = _make_catalog(library, mounted.pair, session_id, path)
        committed, lost = _write_catalogs(library, mounted, session_id, path, made.sha256)
    finally:
        path.unlink(missing_ok=True)
    told = commit_journals(library, mounted.without(lost), committed)
    with library.catalog.transaction() as connection:
        tapes.record_session(connection, session_id, mounted.pair.id, made.listed)
        proof.evidence_travelled(connection, session_id, made.evidence)
        for barcode, items in told.items():
            tapes.record_tape_files(connection, barcode, [tape_file_of(item) for item in items])
    return [library.suspect(mounted.cartridges[number].barcode, error) for number, error in lost.items()]


@dataclass(frozen=True, slots=True)
class _Made:
    sha256: bytes
    listed: list[int]
    evidence: list[uuid.UUID]


class _HashingFile(io.RawIOBase):
    """Passes bytes on to a file and takes their SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def _make_catalog(library: TapeLibrary, pair: Pair, session_id: uuid.UUID, path: Path) -> _Made:
    with durable.disk_full_explained(path), library.catalog.reading() as connection, path.open("wb") as file:
        listed = tapes.versions_to_list(connection)
        evidence = proof.evidence_to_travel(connection)
        hashing = _HashingFile(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=hashing, mtime=0) as packed:
            count = 0
            for line in _lines(library, connection, pair, session_id, listed, evidence):
                packed.write(line + b"\n")
                count += 1
            packed.write(jsonform.encode_line({"is": "last", "lines": count}) + b"\n")
    return _Made(hashing.sha256.digest(), listed, [item.id for item in evidence])


def _lines(
    library: TapeLibrary,
    connection: Connection,
    pair: Pair,
    session_id: uuid.UUID,
    listed: list[int],
    evidence: list[Evidence],
) -> Iterator[bytes]:
    encode = jsonform.encode_line
    yield encode(
        {
            "is": "catalog",
            "format": CATALOG_FORMAT,
            "vault": str(library.settings.id),
            "pair": str(pair.id),
            "session": str(session_id),
            "made_ns": time.time_ns(),
        }
    )
    for source in files.all_sources(connection):
        yield encode(jsonform.source_line(source))
    for item in tapes.objects_of_pair(connection, pair.id):
        yield from _object_lines(connection, item)
    for present in tapes.listed_versions(connection, pair.id):
        yield encode(jsonform.version_line(present.version, present.sighting))
    for present in files.versions_by_row(connection, listed):
        yield encode(jsonform.version_line(present.version, present.sighting))
    for version_id, ended_ns in tapes.ends_since(connection, _ends_told_elsewhere_ns(library, connection, pair)):
        yield encode(jsonform.end_line(VersionEnd(version_id, ended_ns)))
    for item in evidence:
        yield encode({"is": "evidence"} | evidence_fields(item))


def _ends_told_elsewhere_ns(library: TapeLibrary, connection: Connection, pair: Pair) -> int:
    """Ends before this moment are in the catalogs of earlier pairs.

    That is when the pair before this one was begun, not this one: what a run finds gone is known before it takes a
    new pair, and the pair before it may be full by then. All ends are told when a journal of it cannot be believed.
    """
    earlier = tapes.earlier_pair_with_session(connection, pair.id)
    barcodes = [] if earlier is None else tapes.barcodes_of_pair(connection, earlier)
    try:
        states = [library.journal(barcode).state() for barcode in barcodes]  # one that no rebuild has found has none
    except IntegrityError:
        return 0
    return min((_nanoseconds(state.identity.created) for state in states if state is not None), default=0)


def _nanoseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp()) * 10**9


def _object_lines(connection: Connection, item: TapeFile) -> Iterator[bytes]:
    assert item.object_id is not None
    name = str(item.object_id)
    yield jsonform.encode_line(
        {
            "is": "object",
            "id": name,
            "tape_file": item.number,
            "first_block": item.first_block,
            "size": item.size_bytes,
            "blake3": item.blake3.hex(),
        }
    )
    for facts, present in tapes.seen_members_of(connection, item.object_id):
        line = jsonform.version_line(present.version, present.sighting)
        line.tape = (name, item.number, facts.header_offset, facts.data_offset)
        line.void = facts.void
        yield jsonform.encode_line(line)


def _write_catalogs(
    library: TapeLibrary, mounted: MountedPair, session_id: uuid.UUID, path: Path, sha256: bytes
) -> tuple[list[Committed], dict[int, MediaError]]:
    lasts = [library.state(item.barcode).committed[-1] for item in mounted.cartridges]
    last = lasts[0]
    committed: list[Committed] = []
    comment = layout.object_comment("catalog", session_id, mounted.pair.id)
    drives = [TrailerDrive(drive) for drive in mounted.drives]
    ends = {drive.serial: last.end for drive, last in zip(drives, lasts, strict=True)}
    with RecordFan(drives, mounted.pair.record_bytes) as fan:
        fan.each(lambda drive: drive.locate(ends[drive.serial]))
        for copy in range(1, COPIES + 1):
            write_file_tar(fan, comment, CATALOG_NAME, path, sha256)
            last = _catalog_commit(last, fan.end_file(), session_id)
            committed.append(last)
            _mark(fan, synchronous=copy == COPIES)
        fan.wait()
        return committed, fan.lost


def _mark(fan: RecordFan, *, synchronous: bool) -> None:
    fan.each(lambda drive: drive.write_file_mark(synchronous=synchronous))


def _catalog_commit(last: Committed, written: WrittenFile, session_id: uuid.UUID) -> Committed:
    return Committed(
        tape_file=last.tape_file + 1,
        kind="catalog",
        id=session_id,
        first_block=last.end_block,
        size_bytes=written.size_bytes,
        blake3=written.blake3,
        record_bytes=last.record_bytes,
    )
