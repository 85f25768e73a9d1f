"""Pairs, cartridges, objects, members and tape files: what lies where on tape.

Functions on a connection; idempotent where they record. A row of `tape_file` is recorded only after the commit on
that cartridge (synchronous file mark, then the journal's fsync), so every row stands for bytes on a medium.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, Select, and_, bindparam, exists, func, insert, select, update

from holdfast.catalog import files
from holdfast.catalog.bulk import execute_many
from holdfast.catalog.files import PAGE_ROWS, PresentVersion, insert_new, present_from, select_versions
from holdfast.catalog.schema import (
    cartridge,
    content,
    evidence,
    listing,
    member,
    pair,
    segment,
    session,
    tape_file,
    tape_object,
    version,
)
from holdfast.errors import IntegrityError, VaultError
from holdfast.values import Content, FileVersion, Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Cartridge:
    """One cartridge as the catalog knows it."""

    barcode: str
    volume_id: uuid.UUID
    pair_id: uuid.UUID
    side: Side
    capacity_bytes: int
    virtual: bool
    failure_domain: str
    fenced: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two cartridges with identical objects, A first."""

    id: uuid.UUID
    state: str
    record_bytes: int
    cartridges: tuple[Cartridge, Cartridge]

    def on(self, side: Side) -> Cartridge:
        return self.cartridges[0 if side is Side.A else 1]


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """One member of an object, as it was written; offsets from the start of the tape file."""

    version_id: uuid.UUID
    content: Content | None
    header_offset: int
    data_offset: int
    void: bool = False


@dataclass(frozen=True, slots=True)
class TapeFile:
    """One tape file that is committed on a cartridge."""

    number: int
    kind: str
    object_id: uuid.UUID | None
    first_block: int
    size_bytes: int
    blake3: bytes


def record_pair(connection: Connection, new: Pair) -> None:
    connection.execute(insert_new(pair).values(uuid=new.id.bytes, state=new.state, record_bytes=new.record_bytes))
    row = _pair_row(connection, new.id)
    known = all_barcodes(connection)
    for item in new.cartridges:
        if item.barcode not in known:
            _take_side(connection, row, item)


def _record_cartridge(connection: Connection, pair_row: int, item: Cartridge) -> None:
    connection.execute(
        insert_new(cartridge).values(
            barcode=item.barcode,
            volume_uuid=item.volume_id.bytes,
            pair_id=pair_row,
            side=item.side.value,
            capacity_bytes=item.capacity_bytes,
            virtual=item.virtual,
            failure_domain=item.failure_domain,
            replaced=False,
        )
    )


def record_replacement(connection: Connection, new: Cartridge) -> None:
    """From now on `new` is its side of the pair; whichever was it before keeps what it holds, and no longer counts."""
    _take_side(connection, _pair_row(connection, new.pair_id), new)


def _take_side(connection: Connection, pair_row: int, new: Cartridge) -> None:
    place = and_(cartridge.c.pair_id == pair_row, cartridge.c.side == new.side.value)
    before = and_(place, cartridge.c.barcode != new.barcode)
    connection.execute(update(cartridge).where(before).values(replaced=True))
    _record_cartridge(connection, pair_row, new)


def _pair_row(connection: Connection, pair_id: uuid.UUID) -> int:
    return connection.execute(select(pair.c.id).where(pair.c.uuid == pair_id.bytes)).scalar_one()


def set_pair_state(connection: Connection, pair_id: uuid.UUID, state: str) -> None:
    connection.execute(update(pair).where(pair.c.uuid == pair_id.bytes).values(state=state))


def fence(connection: Connection, barcode: str, reason: str) -> None:
    """Let a cartridge not be written again and prove nothing. Without a good side left, so does its pair."""
    row = connection.execute(select(cartridge.c.id, cartridge.c.pair_id).where(cartridge.c.barcode == barcode)).one()
    connection.execute(update(cartridge).where(cartridge.c.id == row.id).values(fenced=reason))
    good = exists().where(cartridge.c.pair_id == row.pair_id, cartridge.c.fenced.is_(None))
    connection.execute(update(pair).where(pair.c.id == row.pair_id, ~good).values(state="fenced"))


def all_pairs(connection: Connection) -> list[Pair]:
    """Every pair, oldest first, with the cartridges that are its sides now."""
    rows = connection.execute(_select_cartridges().where(cartridge.c.replaced.is_(False))).all()
    pairs: list[Pair] = []
    for a, b in zip(rows[::2], rows[1::2], strict=True):
        sides = (_cartridge_from(a), _cartridge_from(b))
        pairs.append(Pair(uuid.UUID(bytes=a.pair_uuid), a.state, a.record_bytes, sides))
    return pairs


def all_barcodes(connection: Connection) -> set[str]:
    """The barcode of every cartridge that was ever used."""
    return set(connection.scalars(select(cartridge.c.barcode)))


def barcodes_of_pair(connection: Connection, pair_id: uuid.UUID) -> list[str]:
    """The cartridges that are or were a side of a pair, A first, oldest first."""
    query = select(cartridge.c.barcode).join(pair, pair.c.id == cartridge.c.pair_id)
    query = query.where(pair.c.uuid == pair_id.bytes).order_by(cartridge.c.side, cartridge.c.id)
    return list(connection.scalars(query))


def replaced_cartridges(connection: Connection) -> list[Cartridge]:
    """Cartridges in whose place another one is, oldest pair first. They may still hold readable copies."""
    rows = connection.execute(_select_cartridges().where(cartridge.c.replaced.is_(True)))
    return [_cartridge_from(row) for row in rows]


def _select_cartridges() -> Select[Any]:
    return (
        select(cartridge, pair.c.uuid.label("pair_uuid"), pair.c.state, pair.c.record_bytes)
        .join(pair, pair.c.id == cartridge.c.pair_id)
        .order_by(cartridge.c.pair_id, cartridge.c.side, cartridge.c.id)
    )


def _cartridge_from(row: Any) -> Cartridge:
    return Cartridge(
        barcode=row.barcode,
        volume_id=uuid.UUID(bytes=row.volume_uuid),
        pair_id=uuid.UUID(bytes=row.pair_uuid),
        side=Side(row.side),
        capacity_bytes=row.capacity_bytes,
        virtual=row.virtual,
        failure_domain=row.failure_domain,
        fenced=row.fenced,
    )


def record_session(connection: Connection, session_id: uuid.UUID, pair_id: uuid.UUID, listed: Iterable[int]) -> None:
    """A session's catalogs are committed on both sides; `listed` are rows of versions that only they name."""
    connection.execute(insert_new(session).values(uuid=session_id.bytes, pair_id=_pair_row(connection, pair_id)))
    row = connection.execute(select(session.c.id).where(session.c.uuid == session_id.bytes)).scalar_one()
    rows = [{"version_id": version_row, "session_id": row} for version_row in listed]
    execute_many(connection, insert_new(listing), rows)


def record_object(
    connection: Connection, object_id: uuid.UUID, pair_id: uuid.UUID, number: int, members: Sequence[MemberFacts]
) -> None:
    """Record an object and its members; passed over when it is known.

    Raises `VaultError` for a version that is not recorded: then the catalog was lost, and every pair would say so.
    """
    if is_object_known(connection, object_id):
        return
    values = {"uuid": object_id.bytes, "pair_id": _pair_row(connection, pair_id), "tape_file": number}
    connection.execute(insert(tape_object).values(**values))
    row = connection.execute(select(tape_object.c.id).where(tape_object.c.uuid == object_id.bytes)).scalar_one()
    versions = files.version_row_numbers(connection, [item.version_id for item in members])
    unknown = next((item.version_id for item in members if item.version_id not in versions), None)
    if unknown is not None:
        raise VaultError(
            "a tape holds a version that the catalog does not know: the catalog was lost, or is an old copy",
            place=f"tape file {number} of pair {pair_id}",
            expected=f"version {unknown}",
            found="no such version",
            hint="put back the newest copy of the vault's catalog folder, or fill it from the tapes: holdfast rebuild",
        )
    contents = files.record_contents(connection, (item.content for item in members if item.content is not None))
    rows = [
        {
            "object_id": row,
            "number": position,
            "version_id": versions[item.version_id],
            "content_id": contents[item.content] if item.content is not None else None,
            "header_offset": item.header_offset,
            "data_offset": item.data_offset,
            "void": item.void,
        }
        for position, item in enumerate(members)
    ]
    execute_many(connection, insert(member), rows)


def is_object_known(connection: Connection, object_id: uuid.UUID) -> bool:
    return connection.scalar(select(tape_object.c.id).where(tape_object.c.uuid == object_id.bytes)) is not None


def record_tape_files(connection: Connection, barcode: str, new: Iterable[TapeFile]) -> None:
    """Tape files were committed on a cartridge. Their objects must be recorded.

    Raises `IntegrityError` when another tape file is known to be there: law 5 forbids that it was written over.
    """
    row = _cartridge_row(connection, barcode)
    for item in new:
        object_row = None
        if item.object_id is not None:
            query = select(tape_object.c.id).where(tape_object.c.uuid == item.object_id.bytes)
            object_row = connection.execute(query).scalar_one()
        values = {
            "cartridge_id": row,
            "number": item.number,
            "kind": item.kind,
            "object_id": object_row,
            "first_block": item.first_block,
            "size_bytes": item.size_bytes,
            "blake3": item.blake3,
        }
        connection.execute(insert_new(tape_file).values(**values))
        place = and_(tape_file.c.cartridge_id == row, tape_file.c.number == item.number)
        known = connection.execute(select(tape_file).where(place)).one()
        if dict(known._mapping) != values:  # pyright: ignore[reportPrivateUsage]
            raise IntegrityError(
                "committed data on a cartridge was written over, or the catalog is wrong",
                place=f"{barcode} tape file {item.number}",
                expected=f"{known.kind}, BLAKE3 {known.blake3.hex()}",
                found=f"{item.kind}, BLAKE3 {item.blake3.hex()}",
                hint=f"write nothing to {barcode}, and read both copies: holdfast verify",
            )


def _cartridge_row(connection: Connection, barcode: str) -> int:
    return connection.execute(select(cartridge.c.id).where(cartridge.c.barcode == barcode)).scalar_one()


def tape_files(connection: Connection, barcode: str) -> list[TapeFile]:
    """The committed tape files of a cartridge, in order."""
    rows = connection.execute(
        select(tape_file, tape_object.c.uuid.label("object_uuid"))
        .join(cartridge, cartridge.c.id == tape_file.c.cartridge_id)
        .outerjoin(tape_object, tape_object.c.id == tape_file.c.object_id)
        .where(cartridge.c.barcode == barcode)
        .order_by(tape_file.c.number)
    )
    return [
        TapeFile(
            row.number,
            row.kind,
            None if row.object_uuid is None else uuid.UUID(bytes=row.object_uuid),
            row.first_block,
            row.size_bytes,
            row.blake3,
        )
        for row in rows
    ]


def members_of(connection: Connection, object_id: uuid.UUID) -> list[tuple[MemberFacts, FileVersion]]:
    """The members of an object in tape order, each with its version."""
    return [(facts, present.version) for facts, present in seen_members_of(connection, object_id)]


def seen_members_of(connection: Connection, object_id: uuid.UUID) -> list[tuple[MemberFacts, PresentVersion]]:
    """The members of an object in tape order, each with its version as it was last seen."""
    query = (
        select_versions()
        .add_columns(
            member.c.header_offset, member.c.data_offset, member.c.void.label("member_void"), member.c.content_id
        )
        .join(member, member.c.version_id == version.c.id)
        .join(tape_object, tape_object.c.id == member.c.object_id)
        .where(tape_object.c.uuid == object_id.bytes)
        .order_by(member.c.number)
    )
    found: list[tuple[MemberFacts, PresentVersion]] = []
    for row in connection.execute(query):
        present = present_from(row)
        held = present.version.content if row[-1] is not None else None
        facts = MemberFacts(present.version.id, held, row.header_offset, row.data_offset, row.member_void)
        found.append((facts, present))
    return found


def member_at(connection: Connection, object_id: uuid.UUID, offset: int) -> bytes | None:
    """The name of the member that covers `offset` of an object's tape file."""
    query = (
        select_versions()
        .join(member, member.c.version_id == version.c.id)
        .join(tape_object, tape_object.c.id == member.c.object_id)
        .where(tape_object.c.uuid == object_id.bytes, member.c.header_offset <= offset)
        .order_by(member.c.header_offset.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else files.version_from(row).full_path


# -- what is still to be written

_older = version.alias("older")
_older_member = member.alias("older_member")


def _on_good_pairs() -> Any:
    """Objects on pairs that are not fenced: what lies on others is written again, on another pair."""
    return select(tape_object.c.id).join(pair, pair.c.id == tape_object.c.pair_id).where(pair.c.state != "fenced")


def _has_member() -> Any:
    return exists().where(
        member.c.version_id == version.c.id, member.c.void.is_(False), member.c.object_id.in_(_on_good_pairs())
    )


def is_listed() -> Any:
    """A session's catalog on a pair that is not fenced names the version."""
    good = select(session.c.id).join(pair, pair.c.id == session.c.pair_id).where(pair.c.state != "fenced")
    return exists().where(listing.c.version_id == version.c.id, listing.c.session_id.in_(good))


def same_bytes_under_same_name(objects: Any) -> Any:
    """One of the `objects` holds these very bytes for this path, so plain tar gives them by this name."""
    return exists().where(
        _older.c.source_id == version.c.source_id,
        _older.c.folder_digest == version.c.folder_digest,
        _older.c.path_digest == version.c.path_digest,
        _older_member.c.version_id == _older.c.id,
        # the sum keeps SQLite from going through all who have this content: there may be a hundred thousand
        _older_member.c.content_id + 0 == version.c.content_id,
        _older_member.c.void.is_(False),
        _older_member.c.object_id.in_(objects),
    )


def _unwritten() -> Any:
    """Versions that no tape names yet and whose bytes can still be had."""
    # what ended can be read from nowhere but the store; an empty content needs no reading
    stored = exists().where(segment.c.content_id == version.c.content_id)
    kept = version.c.content_id.is_not(None) & (stored | (version.c.size_bytes == 0))
    readable = version.c.ended_ns.is_(None) | kept
    listed = and_(is_listed(), same_bytes_under_same_name(_on_good_pairs()))
    return and_(version.c.void.is_(False), ~_has_member(), ~listed, readable)


def _only_named() -> Any:
    return and_(
        version.c.content_id.is_not(None), version.c.size_bytes > 0, same_bytes_under_same_name(_on_good_pairs())
    )


def unwritten_versions(connection: Connection) -> Iterator[PresentVersion]:
    """Versions that need a member on tape, in the order in which they were recorded, page by page."""
    return _page_by_page(connection, and_(_unwritten(), ~_only_named()))


def unwritten_that_only_sources_have(connection: Connection) -> Iterator[PresentVersion]:
    """Of these, files whose bytes were read before and are not in the store: what pairs held that were fenced since."""
    stored = exists().where(segment.c.content_id == version.c.content_id)
    known = and_(version.c.content_id.is_not(None), version.c.size_bytes > 0, ~stored)
    return _page_by_page(connection, and_(known, _unwritten(), ~_only_named()))


def _page_by_page(connection: Connection, wanted: Any) -> Iterator[PresentVersion]:
    last = 0
    while True:
        query = select_versions().where(wanted, version.c.id > last)
        page = connection.execute(query.order_by(version.c.id).limit(PAGE_ROWS)).all()
        yield from map(present_from, page)
        if len(page) < PAGE_ROWS:
            return
        last = page[-1].id


def count_unwritten_bytes(connection: Connection) -> int:
    """How many bytes of files need to be written on tape."""
    query = select(func.coalesce(func.sum(version.c.size_bytes), 0)).where(_unwritten(), ~_only_named())
    return int(connection.scalar(query) or 0)


def is_any_to_write_again(connection: Connection) -> bool:
    """Whether a version that is to be written was written before, on a pair that was fenced since."""
    held = exists().where(member.c.version_id == version.c.id, member.c.void.is_(False))
    return bool(connection.scalar(select(exists().where(_unwritten(), held))))


def can_be_had_without(connection: Connection, pair_id: uuid.UUID) -> bool:
    """Whether the store has every content that lies on this pair and on no other good one.

    The source does not count: it may not be mounted now.
    """
    here = (
        select(member.c.version_id)
        .join(tape_object, tape_object.c.id == member.c.object_id)
        .join(pair, pair.c.id == tape_object.c.pair_id)
        .where(pair.c.uuid == pair_id.bytes, member.c.void.is_(False))
    )
    elsewhere = exists().where(
        member.c.version_id == version.c.id,
        member.c.void.is_(False),
        member.c.object_id.in_(_on_good_pairs()),
        member.c.object_id.not_in(
            select(tape_object.c.id).join(pair, pair.c.id == tape_object.c.pair_id).where(pair.c.uuid == pair_id.bytes)
        ),
    )
    stored = exists().where(segment.c.content_id == version.c.content_id)
    needed = and_(version.c.id.in_(here), version.c.content_id.is_not(None), version.c.size_bytes > 0)
    nowhere = and_(needed, ~stored, ~elsewhere)
    return not connection.scalar(select(exists().where(nowhere)))


def versions_to_list(connection: Connection) -> list[int]:
    """Rows of versions that need no bytes on tape, only a line in the next session's catalog."""
    return list(connection.scalars(select(version.c.id).where(_unwritten(), _only_named()).order_by(version.c.id)))


def has_segments(connection: Connection, wanted: Content) -> bool:
    return (
        connection.scalar(
            select(segment.c.content_id)
            .join(content, content.c.id == segment.c.content_id)
            .where(content.c.sha256 == wanted.sha256, content.c.size_bytes == wanted.size_bytes)
            .limit(1)
        )
        is not None
    )


# -- where contents lie on tape


@dataclass(frozen=True, slots=True)
class TapePlace:
    """Where a content lies on one cartridge; offsets in bytes from the start of the tape file."""

    barcode: str
    tape_file: int
    first_block: int
    data_offset: int
    object_id: uuid.UUID


@functools.cache
def _select_places(*, limited: bool) -> Select[Any, Any, Any, Any, Any]:
    """Asked for every file of a restore, so the statement is made once."""
    held = (
        select(member.c.object_id, member.c.data_offset, member.c.number)
        .join(content, content.c.id == member.c.content_id)
        .where(
            content.c.sha256 == bindparam("digest"),
            content.c.size_bytes == bindparam("size"),
            member.c.void.is_(False),
        )
        .limit(bindparam("most", type_=Integer) if limited else None)
        .subquery("held")
    )
    return (
        select(
            cartridge.c.barcode,
            tape_file.c.number,
            tape_file.c.first_block,
            held.c.data_offset,
            tape_object.c.uuid,
        )
        .select_from(held)
        .join(tape_object, tape_object.c.id == held.c.object_id)
        .join(tape_file, tape_file.c.object_id == tape_object.c.id)
        .join(cartridge, cartridge.c.id == tape_file.c.cartridge_id)
        .order_by(cartridge.c.fenced.is_not(None), cartridge.c.id, tape_file.c.number, held.c.number)
    )


def tape_places(connection: Connection, wanted: Content, *, limit: int | None = None) -> list[TapePlace]:
    """Every committed copy of a content, those on cartridges that are not fenced first, newest last.

    With a `limit`, only the copies of so many of its files: a content may be that of a hundred thousand.
    """
    rows = connection.execute(
        _select_places(limited=limit is not None),
        {"digest": wanted.sha256, "size": wanted.size_bytes} | ({} if limit is None else {"most": limit}),
    )
    return [TapePlace(r.barcode, r.number, r.first_block, r.data_offset, uuid.UUID(bytes=r.uuid)) for r in rows]


@dataclass(frozen=True, slots=True)
class NamedCopy:
    """A member by a version's own name with its bytes; offsets from the start of the tape file.

    `own`: it was written for this very version, so its mode and times are the version's, too. `is_hard_link`: it is a
    tar hard link, and the bytes stand with another member of the object.
    """

    pair_id: uuid.UUID
    tape_file: int
    header_offset: int
    data_offset: int
    own: bool

    @property
    def is_hard_link(self) -> bool:
        return self.header_offset >= self.data_offset


def named_copies(connection: Connection, rows: Sequence[int]) -> dict[int, list[NamedCopy]]:
    """Members by the versions' own names, by the versions' rows: on good pairs first, then own ones, oldest first."""
    found: dict[int, list[NamedCopy]] = {}
    for part in files.chunks(rows):
        for row in connection.execute(_select_named().where(version.c.id.in_(part))):
            copy = NamedCopy(
                uuid.UUID(bytes=row.uuid), row.tape_file, row.header_offset, row.data_offset, row.id == row.older_id
            )
            found.setdefault(row.id, []).append(copy)
    return found


def _select_named() -> Select[Any, Any, Any, Any, Any, Any]:
    same_name = and_(
        _older.c.source_id == version.c.source_id,
        _older.c.folder_digest == version.c.folder_digest,
        _older.c.path_digest == version.c.path_digest,
    )
    is_own = _older.c.id == version.c.id
    holds_it = and_(
        _older_member.c.version_id == _older.c.id,
        _older_member.c.void.is_(False),
        is_own | (_older_member.c.content_id + 0 == version.c.content_id),
    )
    return (
        select(
            version.c.id,
            _older.c.id.label("older_id"),
            pair.c.uuid,
            tape_object.c.tape_file,
            _older_member.c.header_offset,
            _older_member.c.data_offset,
        )
        .join(_older, same_name)
        .join(_older_member, holds_it)
        .join(tape_object, tape_object.c.id == _older_member.c.object_id)
        .join(pair, pair.c.id == tape_object.c.pair_id)
        .order_by(version.c.id, pair.c.state == "fenced", ~is_own, tape_object.c.id)
    )


def name_of_bytes(connection: Connection, pair_id: uuid.UUID, number: int, data_offset: int) -> bytes:
    """The name of the member whose bytes stand at `data_offset` of an object: what its tar hard links point at."""
    query = (
        select_versions()
        .join(member, member.c.version_id == version.c.id)
        .join(tape_object, tape_object.c.id == member.c.object_id)
        .join(pair, pair.c.id == tape_object.c.pair_id)
        .where(
            pair.c.uuid == pair_id.bytes,
            tape_object.c.tape_file == number,
            member.c.data_offset == data_offset,
            member.c.header_offset < data_offset,
            member.c.void.is_(False),
        )
    )
    return files.version_from(connection.execute(query).one()).full_path


def count_tapes(connection: Connection) -> dict[str, int]:
    """Totals: cartridges, objects, bytes on tape (both sides together)."""
    return {
        "cartridges": connection.scalar(select(func.count()).select_from(cartridge)) or 0,
        "objects": connection.scalar(select(func.count()).select_from(tape_object)) or 0,
        "tape_bytes": int(connection.scalar(select(func.coalesce(func.sum(tape_file.c.size_bytes), 0))) or 0),
    }


# -- what a session's catalog lists


def objects_of_pair(connection: Connection, pair_id: uuid.UUID) -> list[TapeFile]:
    """The objects that are committed on the cartridges of a pair, in tape order.

    Their blocks are those of one cartridge, the longest that is a side now, as far as it goes: labels differ in length.
    """
    gone = {item.barcode for item in replaced_cartridges(connection)}
    barcodes = barcodes_of_pair(connection, pair_id)
    held = [(barcode in gone, tape_files(connection, barcode)) for barcode in barcodes]
    found: dict[int, TapeFile] = {}
    for _, items in sorted(held, key=lambda one: (one[0], -len(one[1]))):
        for item in items:
            if item.object_id is not None:
                found.setdefault(item.number, item)
    return [found[number] for number in sorted(found)]


def listed_versions(connection: Connection, pair_id: uuid.UUID) -> Iterator[PresentVersion]:
    """Versions that only the catalogs of this pair's sessions name."""
    query = (
        select_versions()
        .join(listing, listing.c.version_id == version.c.id)
        .join(session, session.c.id == listing.c.session_id)
        .join(pair, pair.c.id == session.c.pair_id)
        .where(pair.c.uuid == pair_id.bytes)
        .order_by(version.c.id)
    )
    return map(present_from, connection.execute(query))


def earlier_pair_with_session(connection: Connection, pair_id: uuid.UUID) -> uuid.UUID | None:
    """The newest pair that was begun before this one, is not fenced and has a whole session; None if there is none."""
    own = select(pair.c.id).where(pair.c.uuid == pair_id.bytes).scalar_subquery()
    query = (
        select(pair.c.uuid)
        .where(pair.c.id < own, pair.c.state != "fenced", exists().where(session.c.pair_id == pair.c.id))
        .order_by(pair.c.id.desc())
        .limit(1)
    )
    found = connection.scalar(query)
    return None if found is None else uuid.UUID(bytes=found)


def ends_since(connection: Connection, moment_ns: int) -> Iterator[tuple[uuid.UUID, int]]:
    """Versions that ended at or after a moment, with when."""
    query = select(version.c.uuid, version.c.ended_ns).where(version.c.ended_ns >= moment_ns, version.c.void.is_(False))
    return ((uuid.UUID(bytes=row.uuid), row.ended_ns) for row in connection.execute(query))


def catalog_bound(connection: Connection, pair_id: uuid.UUID, line_bytes: int) -> int:
    """An upper bound, in bytes, of the catalog of what is on a pair: a line each, and three times the names."""
    query = (
        select(func.count(), func.coalesce(func.sum(func.length(version.c.path)), 0))
        .select_from(member)
        .join(version, version.c.id == member.c.version_id)
        .join(tape_object, tape_object.c.id == member.c.object_id)
        .join(pair, pair.c.id == tape_object.c.pair_id)
        .where(pair.c.uuid == pair_id.bytes)
    )
    count, names = connection.execute(query).one()
    return count * (line_bytes + 300) + 3 * int(names)


def listing_bound(connection: Connection, pair_id: uuid.UUID, line_bytes: int) -> int:
    """An upper bound, in bytes, of what a session's catalog lists beside the members: names, ends, readings."""
    listed = (
        select(func.count())
        .select_from(listing)
        .join(session, session.c.id == listing.c.session_id)
        .join(pair, pair.c.id == session.c.pair_id)
        .where(pair.c.uuid == pair_id.bytes)
    )
    ended = select(func.count()).select_from(version).where(version.c.ended_ns.is_not(None))
    readings = select(func.count()).select_from(evidence).where(evidence.c.session_id.is_(None))
    names = (connection.scalar(listed) or 0) + len(versions_to_list(connection))
    others = (connection.scalar(ended) or 0) + (connection.scalar(readings) or 0)
    return names * (line_bytes + 3 * NAME_BOUND_BYTES) + others * line_bytes


NAME_BOUND_BYTES = 400
"""Longer names are rarer than shorter ones: on average no name of a listed version is longer."""
