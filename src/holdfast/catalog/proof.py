"""Evidence, and what it proves.

A row of evidence says: this tape file of this cartridge was read back at this time in this drive, and these digests
matched or did not. A copy is *proven* when a reading from the medium after a reload found the very bytes that were
committed there, no reading since (recorded later, or made later) found others, and its cartridge is not fenced. What was read before
the catalog was filled again from the cartridge itself is history and proves nothing: later readings, which no tape
has carried, may have spoken against it. Law 4
asks for two proven copies on two cartridges; `is_releasable` adds what makes them independent: different failure
domains, and no virtual cartridge unless the vault's owner has said that those count.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from holdfast.catalog.bulk import execute_many
from holdfast.catalog.files import IN_LIMIT, VERSION_COLUMNS, chunks, insert_new, version_from
from holdfast.catalog.schema import (
    cartridge,
    content,
    evidence,
    member,
    meta,
    segment,
    session,
    source,
    tape_file,
    tape_object,
    version,
)
from holdfast.catalog.tapes import is_listed, same_bytes_under_same_name
from holdfast.errors import IntegrityError
from holdfast.values import Content, FileVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One reading of one tape file. Digests are BLAKE3 of the whole tape file, 32 bytes; times in ns since 1970."""

    id: uuid.UUID
    barcode: str
    tape_file: int
    object_id: uuid.UUID | None
    drive: str
    begun_ns: int
    ended_ns: int
    size_bytes: int
    members: int
    expected: bytes
    found: bytes
    matched: bool
    reloaded: bool
    problem: str | None = None

    def __post_init__(self) -> None:
        if self.matched and self.expected != self.found:
            raise ValueError(f"evidence of {self.barcode} that contradicts itself")


def record_evidence(connection: Connection, new: Iterable[Evidence]) -> None:
    """Record readings of cartridges that are recorded; one that is known by its uuid is passed over."""
    items = iter(new)
    while part := list(islice(items, IN_LIMIT)):
        barcodes = {item.barcode for item in part}
        query = select(cartridge.c.barcode, cartridge.c.id).where(cartridge.c.barcode.in_(barcodes))
        cartridges = {row.barcode: row.id for row in connection.execute(query)}
        if unknown := barcodes - cartridges.keys():
            raise IntegrityError("evidence of a cartridge that the catalog does not know", place=min(unknown))
        ids = {item.object_id.bytes for item in part if item.object_id is not None}
        query = select(tape_object.c.uuid, tape_object.c.id).where(tape_object.c.uuid.in_(ids))
        objects = {uuid.UUID(bytes=row.uuid): row.id for row in connection.execute(query)}
        execute_many(connection, insert_new(evidence), [_evidence_row(item, cartridges, objects) for item in part])


def _evidence_row(item: Evidence, cartridges: Mapping[str, int], objects: Mapping[uuid.UUID, int]) -> dict[str, Any]:
    return {
        "uuid": item.id.bytes,
        "cartridge_id": cartridges[item.barcode],
        "tape_file": item.tape_file,
        "object_id": None if item.object_id is None else objects.get(item.object_id),
        "drive": item.drive,
        "begun_ns": item.begun_ns,
        "ended_ns": item.ended_ns,
        "size_bytes": item.size_bytes,
        "members": item.members,
        "expected": item.expected,
        "found": item.found,
        "matched": item.matched,
        "reloaded": item.reloaded,
        "problem": item.problem,
    }


def _select_evidence() -> Select[Any]:
    return (
        select(evidence, cartridge.c.barcode, tape_object.c.uuid.label("object_uuid"))
        .join(cartridge, cartridge.c.id == evidence.c.cartridge_id)
        .outerjoin(tape_object, tape_object.c.id == evidence.c.object_id)
    )


def _evidence_from(row: Any) -> Evidence:
    return Evidence(
        id=uuid.UUID(bytes=row.uuid),
        barcode=row.barcode,
        tape_file=row.tape_file,
        object_id=None if row.object_uuid is None else uuid.UUID(bytes=row.object_uuid),
        drive=row.drive,
        begun_ns=row.begun_ns,
        ended_ns=row.ended_ns,
        size_bytes=row.size_bytes,
        members=row.members,
        expected=row.expected,
        found=row.found,
        matched=row.matched,
        reloaded=row.reloaded,
        problem=row.problem,
    )


def evidence_of_object(connection: Connection, object_id: uuid.UUID) -> list[Evidence]:
    """Every reading of an object's copies, oldest first."""
    query = _select_evidence().where(tape_object.c.uuid == object_id.bytes).order_by(evidence.c.id)
    return [_evidence_from(row) for row in connection.execute(query)]


def drives_that_misread(connection: Connection, barcode: str) -> dict[int, set[str]]:
    """By tape file, the drives that read something else on a cartridge since it was last read as it was written."""
    query = select(evidence.c.tape_file, evidence.c.drive, evidence.c.matched)
    query = query.join(cartridge, cartridge.c.id == evidence.c.cartridge_id).where(cartridge.c.barcode == barcode)
    found: dict[int, set[str]] = {}
    for number, drive, matched in connection.execute(query.order_by(evidence.c.id)):
        if matched:
            found.pop(number, None)
        else:
            found.setdefault(number, set()).add(drive)
    return found


def evidence_to_travel(connection: Connection) -> list[Evidence]:
    """Readings that no session's catalog has carried to tape yet, oldest first."""
    query = _select_evidence().where(evidence.c.session_id.is_(None)).order_by(evidence.c.id)
    return [_evidence_from(row) for row in connection.execute(query)]


def evidence_travelled(connection: Connection, session_id: uuid.UUID, ids: Iterable[uuid.UUID]) -> None:
    """These readings are in the catalog of this session, which is committed."""
    row = connection.execute(select(session.c.id).where(session.c.uuid == session_id.bytes)).scalar_one()
    for item in ids:
        connection.execute(update(evidence).where(evidence.c.uuid == item.bytes).values(session_id=row))


def _newest_readings() -> Subquery:
    """The newest evidence row of each tape file of each cartridge."""
    return (
        select(func.max(evidence.c.id).label("id")).group_by(evidence.c.cartridge_id, evidence.c.tape_file).subquery()
    )


REBUILT = "rebuilt "
"""`meta` has a row of this name and a barcode, when the cartridge was taken into the catalog from itself: since when
readings of it count, in ns since 1970."""

_later = evidence.alias("later")


def _proven_copies() -> Select[Any, Any, Any]:
    """Proven tape files, some perhaps more than once."""
    spoken_against = exists().where(
        _later.c.cartridge_id == evidence.c.cartridge_id,
        _later.c.tape_file == evidence.c.tape_file,
        _later.c.matched.is_(False),
        or_(_later.c.id > evidence.c.id, _later.c.ended_ns > evidence.c.ended_ns),
    )
    is_history = exists().where(
        meta.c.name == literal(REBUILT).concat(cartridge.c.barcode),
        cast(meta.c.value, BigInteger) >= evidence.c.ended_ns,
    )
    as_committed = and_(
        tape_file.c.cartridge_id == evidence.c.cartridge_id,
        tape_file.c.number == evidence.c.tape_file,
        tape_file.c.object_id.is_not_distinct_from(evidence.c.object_id),
        tape_file.c.blake3 == evidence.c.found,
    )
    return (
        select(evidence.c.object_id, evidence.c.cartridge_id, evidence.c.tape_file)
        .join(tape_file, as_committed)
        .join(cartridge, cartridge.c.id == evidence.c.cartridge_id)
        .where(
            evidence.c.matched.is_(True),
            evidence.c.reloaded.is_(True),
            cartridge.c.fenced.is_(None),
            ~spoken_against,
            ~is_history,
        )
    )


def proven_tape_files(connection: Connection, barcode: str) -> set[int]:
    """Numbers of the tape files of a cartridge whose newest reading proves them."""
    query = _proven_copies().where(cartridge.c.barcode == barcode)
    return {row.tape_file for row in connection.execute(query)}


def mismatched_tape_files(connection: Connection, barcode: str) -> set[int]:
    """Numbers of the tape files of a cartridge whose newest reading found other bytes, or could not be made."""
    newest = _newest_readings()
    query = select(evidence.c.tape_file).join(newest, newest.c.id == evidence.c.id)
    query = query.join(cartridge, cartridge.c.id == evidence.c.cartridge_id)
    return set(connection.scalars(query.where(evidence.c.matched.is_(False), cartridge.c.barcode == barcode)))


def was_read_whole(connection: Connection, barcode: str) -> bool:
    """Whether each tape file of a cartridge was ever read back as it was committed: then it was a good one once."""
    held = tape_file.join(cartridge, cartridge.c.id == tape_file.c.cartridge_id)
    matched = exists().where(
        evidence.c.cartridge_id == tape_file.c.cartridge_id,
        evidence.c.tape_file == tape_file.c.number,
        evidence.c.matched.is_(True),
    )
    query = select(func.count(), func.coalesce(func.sum(case((matched, 1), else_=0)), 0)).select_from(held)
    count, good = connection.execute(query.where(cartridge.c.barcode == barcode)).one()
    return count == good > 0


def newest_match_ns(connection: Connection, barcode: str) -> int:
    """When a reading of a cartridge matched last, in ns since 1970; 0 if none ever did."""
    query = select(func.max(evidence.c.ended_ns)).join(cartridge, cartridge.c.id == evidence.c.cartridge_id)
    return connection.scalar(query.where(cartridge.c.barcode == barcode, evidence.c.matched.is_(True))) or 0


def _proven_objects() -> Subquery:
    """Objects with two proven copies on two cartridges."""
    copies = _proven_copies().subquery()
    return (
        select(copies.c.object_id)
        .where(copies.c.object_id.is_not(None))
        .group_by(copies.c.object_id)
        .having(func.count(copies.c.cartridge_id.distinct()) >= 2)
        .subquery()
    )


def version_is_proven() -> Any:
    """On tape by its own name in a proven object; or its bytes are, and a session's catalog names it."""
    proven = select(_proven_objects().c.object_id)
    own = exists().where(member.c.version_id == version.c.id, member.c.void.is_(False), member.c.object_id.in_(proven))
    return or_(own, and_(is_listed(), same_bytes_under_same_name(proven)))


def unproven_versions(connection: Connection, source_names: Iterable[str], limit: int) -> list[FileVersion]:
    """Present versions of the sources that do not have two verified copies; at most `limit` of them."""
    query = (
        select(*VERSION_COLUMNS)
        .join(source, source.c.id == version.c.source_id)
        .outerjoin(content, content.c.id == version.c.content_id)
        .where(
            source.c.name.in_(list(source_names)),
            version.c.ended_ns.is_(None),
            version.c.void.is_(False),
            ~version_is_proven(),
        )
        .order_by(version.c.id)
        .limit(limit)
    )
    return [version_from(row) for row in connection.execute(query)]


def count_proven(connection: Connection) -> dict[str, int]:
    """Present versions (files, folders, links): how many there are, and how many have two verified copies."""
    present = and_(version.c.ended_ns.is_(None), version.c.void.is_(False))
    total = connection.scalar(select(func.count()).select_from(version).where(present)) or 0
    proven = connection.scalar(select(func.count()).select_from(version).where(present, version_is_proven())) or 0
    return {"versions": total, "proven": proven}


def _is_gone_and_unproven() -> Any:
    """Neither anything proven nor the block store holds the bytes, and the source has them no more.

    Bytes that were never read are nobody's loss.
    """
    proven = select(_proven_objects().c.object_id)
    # a set that is made once: a hundred thousand versions may have the same content
    held = select(member.c.content_id).where(
        member.c.content_id.is_not(None), member.c.void.is_(False), member.c.object_id.in_(proven)
    )
    return and_(
        version.c.ended_ns.is_not(None),
        version.c.void.is_(False),
        version.c.content_id.is_not(None),
        version.c.size_bytes > 0,
        version.c.content_id.not_in(held),
        version.c.content_id.not_in(select(segment.c.content_id)),
    )


def gone_and_unproven(connection: Connection, limit: int) -> list[FileVersion]:
    """Versions of files that their sources have no more, and whose bytes have no two verified copies; oldest first.

    Of all sources, as whichever is archived may be the one that finds a proof lost. At most `limit` of them.
    """
    query = (
        select(*VERSION_COLUMNS)
        .join(source, source.c.id == version.c.source_id)
        .outerjoin(content, content.c.id == version.c.content_id)
        .where(_is_gone_and_unproven())
        .order_by(version.c.id)
        .limit(limit)
    )
    return [version_from(row) for row in connection.execute(query)]


def count_gone_and_unproven(connection: Connection) -> int:
    """How many versions `gone_and_unproven` would name."""
    return connection.scalar(select(func.count()).select_from(version).where(_is_gone_and_unproven())) or 0


def count_problems(connection: Connection) -> int:
    """Tape files whose newest reading did not match."""
    newest = _newest_readings()
    query = select(func.count()).select_from(evidence).join(newest, newest.c.id == evidence.c.id)
    return connection.scalar(query.where(evidence.c.matched.is_(False))) or 0


def _independent_copies(*, virtual_counts: bool) -> Select[Any]:
    """Contents with proven copies on cartridges of at least two failure domains; see `is_releasable`."""
    copies = _proven_copies().subquery()
    domain = case((cartridge.c.virtual.is_(True), cartridge.c.barcode), else_=cartridge.c.failure_domain)
    query = (
        select(member.c.content_id)
        .join(copies, copies.c.object_id == member.c.object_id)
        .join(cartridge, cartridge.c.id == copies.c.cartridge_id)
        .where(member.c.void.is_(False), member.c.content_id.is_not(None))
        .group_by(member.c.content_id)
        .having(func.count(domain.distinct()) >= 2)
    )
    return query if virtual_counts else query.where(cartridge.c.virtual.is_(False))


def doubly_proven(connection: Connection, rows: Collection[int], *, virtual_counts: bool) -> set[int]:
    """Those of the contents (by row number) to which law 4 gives leave; see `is_releasable`."""
    query = _independent_copies(virtual_counts=virtual_counts)
    return {
        row for part in chunks(list(rows)) for row in connection.scalars(query.where(member.c.content_id.in_(part)))
    }


def is_releasable(connection: Connection, wanted: Content, *, virtual_counts: bool) -> bool:
    """Law 4: two proven copies of the content on cartridges of different failure domains.

    Virtual cartridges count only if the vault's owner has said so (`virtual_counts`), and then each for itself.
    """
    row = connection.scalar(
        select(content.c.id).where(content.c.sha256 == wanted.sha256, content.c.size_bytes == wanted.size_bytes)
    )
    return row is not None and bool(doubly_proven(connection, [row], virtual_counts=virtual_counts))
