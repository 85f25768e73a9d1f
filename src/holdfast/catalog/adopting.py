"""Taking facts over from tapes: what is known stays as it is, what is new is recorded, what contradicts is refused.

Functions on a connection, for a catalog that is filled again from the tapes alone. Telling a fact twice is telling it
once; they do not commit.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from holdfast.catalog import files, proof, tapes
from holdfast.catalog.files import insert_new
from holdfast.catalog.proof import Evidence
from holdfast.catalog.schema import cartridge, evidence, listing, meta, pair, session, source, tape_object, version
from holdfast.catalog.tapes import Cartridge, MemberFacts, Pair
from holdfast.errors import IntegrityError
from holdfast.values import FileVersion, Sighting, Source, show_path


@dataclass(frozen=True, slots=True)
class ToldVersion:
    """A version as a tape tells of it. `void`: it has a place on tape, but nobody has its bytes."""

    version: FileVersion
    sighting: Sighting | None = None
    void: bool = False


# -- sources


def adopt_sources(connection: Connection, told: Iterable[Source]) -> None:
    """Record sources. One of a known name must be the same folder; one whose folder was not known gets it now.

    Raises `IntegrityError` naming both when two different folders have one name: their versions would mix.
    """
    known = {item.name: item for item in files.all_sources(connection)}
    for item in told:
        other = known.get(item.name)
        if other is None:
            files.record_sources(connection, [item])
            known[item.name] = item
        elif not other.host:
            files.place_source(connection, Source(other.id, item.name, item.host, item.root))
        elif item.host and (other.host, other.root) != (item.host, item.root):
            raise IntegrityError(
                "a tape and the catalog know two sources by one name",
                place=item.name,
                expected=f"{other.host}:{show_path(other.root)}",
                found=f"{item.host}:{show_path(item.root)}",
                hint="rebuild into a vault of its own: holdfast init --vault DIR, then holdfast rebuild --vault DIR",
            )


# -- versions


def adopt_versions(connection: Connection, told: Sequence[ToldVersion]) -> None:
    """Record versions whose sources are recorded. Raises `IntegrityError` when one is known otherwise.

    A void one that is known stays as it is: it is there to be written again.
    """
    known = files.versions_by_id(connection, [item.version.id for item in told])
    for item in told:
        present = known.get(item.version.id)
        if present is not None:
            _check_same(present.version, item.version)
    files.record_versions(connection, [(t.version, t.sighting) for t in told if t.version.id not in known])
    read = {t.version.id: t.version.content for t in told if t.version.content is not None and t.version.id in known}
    files.record_read_contents(connection, read)
    void = [t.version.id for t in told if t.void and t.version.content is None and t.version.id not in known]
    files.record_void(connection, void)


def _check_same(known: FileVersion, told: FileVersion) -> None:
    def of(item: FileVersion) -> tuple[object, ...]:
        return item.source, item.path, item.kind, item.size_bytes

    one_is_not_read = known.content is None or told.content is None
    if of(known) != of(told) or not (one_is_not_read or known.content == told.content):
        raise IntegrityError(
            "a tape and the catalog tell different things of one file version",
            place=f"version {known.id}",
            expected=_show(known),
            found=_show(told),
            hint="holdfast verify; keep both, and tell what happened to the catalog",
        )


def _show(item: FileVersion) -> str:
    digest = f", SHA-256 {item.content.sha256.hex()}" if item.content is not None else ""
    return f"{item.kind} {show_path(item.full_path)}, {item.size_bytes} bytes{digest}"


def unknown_ids(connection: Connection, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the versions that are not recorded."""
    return set(ids) - files.version_row_numbers(connection, ids).keys()


def end_replaced(connection: Connection) -> None:
    """Of several versions of one path that nothing ended, all but the newest ended when the next was seen.

    No run leaves such behind; a tape whose last catalogs are damaged does, as ends stand nowhere else.
    """
    later = version.alias("later")
    same_path = (
        later.c.source_id == version.c.source_id,
        later.c.folder_digest == version.c.folder_digest,
        later.c.path_digest == version.c.path_digest,
        later.c.seen_ns > version.c.seen_ns,
        later.c.void.is_(False),
    )
    next_seen = select(func.min(later.c.seen_ns)).where(*same_path).scalar_subquery()
    connection.execute(
        update(version)
        .where(version.c.ended_ns.is_(None), version.c.void.is_(False), select(later.c.id).where(*same_path).exists())
        .values(ended_ns=next_seen)
    )


# -- pairs and what lies on them


def unknown_volume(pair_id: uuid.UUID, barcode: str) -> uuid.UUID:
    """Stands for the volume id of a cartridge that only its twin tells of."""
    return uuid.uuid5(pair_id, f"unknown {barcode}")


def adopt_pair(connection: Connection, told: Pair) -> None:
    """Record a pair. A side that only its twin had told of until now gets its identity, and is no longer fenced.

    Raises `IntegrityError` when one of the barcodes is known as another cartridge.
    """
    tapes.record_pair(connection, told)
    for item in told.cartridges:
        row = connection.execute(
            select(cartridge.c.volume_uuid, pair.c.uuid.label("pair_uuid"))
            .join(pair, pair.c.id == cartridge.c.pair_id)
            .where(cartridge.c.barcode == item.barcode)
        ).one()
        known = uuid.UUID(bytes=row.volume_uuid)
        if known == item.volume_id or item.volume_id == unknown_volume(told.id, item.barcode):
            continue
        if known != unknown_volume(told.id, item.barcode) or row.pair_uuid != told.id.bytes:
            raise IntegrityError(
                "a cartridge is not the one that the catalog knows by its barcode",
                place=item.barcode,
                expected=f"volume {known} of pair {uuid.UUID(bytes=row.pair_uuid)}",
                found=f"volume {item.volume_id} of pair {told.id}",
                hint="look which cartridge was put in; two cartridges of one barcode cannot be in one vault",
            )
        _found_again(connection, told, item)


def _found_again(connection: Connection, told: Pair, item: Cartridge) -> None:
    values = {"volume_uuid": item.volume_id.bytes, "capacity_bytes": item.capacity_bytes, "fenced": None}
    connection.execute(update(cartridge).where(cartridge.c.barcode == item.barcode).values(**values))
    still_fenced = (
        select(cartridge.c.id)
        .join(pair, pair.c.id == cartridge.c.pair_id)
        .where(pair.c.uuid == told.id.bytes, cartridge.c.fenced.is_not(None))
    )
    if connection.scalar(still_fenced) is None:
        tapes.set_pair_state(connection, told.id, "open")


def fence_unknown(connection: Connection, pair_id: uuid.UUID, barcode: str, reason: str) -> None:
    """Fence a cartridge of which nothing is known but what its twin tells; one that is known stays as it is."""
    volume = connection.scalar(select(cartridge.c.volume_uuid).where(cartridge.c.barcode == barcode))
    if volume == unknown_volume(pair_id, barcode).bytes:
        tapes.fence(connection, barcode, reason)


def adopt_object(
    connection: Connection, object_id: uuid.UUID, pair_id: uuid.UUID, number: int, members: Sequence[MemberFacts]
) -> None:
    """Record an object and its members. Raises `IntegrityError` when another one is known to be in its place."""
    query = (
        select(tape_object.c.uuid, tape_object.c.tape_file)
        .join(pair, pair.c.id == tape_object.c.pair_id)
        .where(pair.c.uuid == pair_id.bytes)
    )
    here = connection.scalar(query.where(tape_object.c.tape_file == number))
    there = connection.scalar(select(tape_object.c.tape_file).where(tape_object.c.uuid == object_id.bytes))
    if here not in (None, object_id.bytes) or there not in (None, number):
        known = f"object {uuid.UUID(bytes=here)}" if here is not None else f"object {object_id} in tape file {there}"
        raise IntegrityError(
            "a tape and the catalog know different objects in one place",
            place=f"tape file {number} of pair {pair_id}",
            expected=known,
            found=f"object {object_id}",
            hint="write nothing to this pair, and read both copies: holdfast verify",
        )
    tapes.record_object(connection, object_id, pair_id, number, members)


def adopt_listing(
    connection: Connection, session_id: uuid.UUID, pair_id: uuid.UUID, versions: Sequence[uuid.UUID]
) -> None:
    """Record a session, and versions that only catalogs of its pair name; one that is listed already stays so."""
    rows = set(files.version_row_numbers(connection, versions).values())
    for part in files.chunks(sorted(rows)):
        query = (
            select(listing.c.version_id)
            .join(session, session.c.id == listing.c.session_id)
            .join(pair, pair.c.id == session.c.pair_id)
            .where(pair.c.uuid == pair_id.bytes, listing.c.version_id.in_(part))
        )
        rows -= set(connection.scalars(query))
    tapes.record_session(connection, session_id, pair_id, sorted(rows))


# -- evidence


def adopt_evidence(connection: Connection, told: Sequence[tuple[uuid.UUID, Evidence]]) -> int:
    """Record readings that catalogs of sessions carried, each with its session; how many of them were new.

    Those of cartridges that are not known are passed over: a later rebuild, with those cartridges, finds them again.
    """
    known = {item.barcode for one in tapes.all_pairs(connection) for item in one.cartridges}
    told = [(session_id, item) for session_id, item in told if item.barcode in known]
    before = connection.scalar(select(func.count()).select_from(evidence)) or 0
    proof.record_evidence(connection, [item for _, item in told])
    for session_id, item in told:
        row = select(session.c.id).where(session.c.uuid == session_id.bytes).scalar_subquery()
        which = (evidence.c.uuid == item.id.bytes, evidence.c.session_id.is_(None))
        connection.execute(update(evidence).where(*which).values(session_id=row))
    return (connection.scalar(select(func.count()).select_from(evidence)) or 0) - before


def note_rebuilt(connection: Connection, barcode: str, at_ns: int) -> None:
    """What is known of the cartridge comes from itself: readings until now are history, and prove nothing any more."""
    name = proof.REBUILT + barcode
    connection.execute(insert_new(meta).values(name=name, value=str(at_ns)))
    connection.execute(update(meta).where(meta.c.name == name).values(value=str(at_ns)))


def is_fresh(connection: Connection) -> bool:
    """Whether the catalog knows nothing at all yet."""
    counted = (select(func.count()).select_from(table) for table in (source, version, pair))
    return not any(connection.scalar(query) for query in counted)
