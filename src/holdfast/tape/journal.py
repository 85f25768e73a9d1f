"""The journal of a cartridge: what was committed on it, in fsynced JSON lines.

    {"event":"cartridge", barcode, volume_id, pair_id, side, twin, record_bytes, capacity_bytes,
     created, replaces}                                                                            before the label
    {"event":"committed", tape_file, kind, id, first_block, size_bytes, blake3, at_ns}             after the sync mark
    {"event":"fenced", reason, at_ns}

A commit is a synchronous file mark followed by the fsync of these lines: only what they name exists. The medium beats
the journal, the journal beats the catalog.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast import durable
from holdfast.errors import IntegrityError
from holdfast.tape.drive.protocol import Position
from holdfast.values import Side


@dataclass(frozen=True, slots=True, kw_only=True)
class CartridgeIdentity:
    """What a cartridge was made to be, before anything was written on it.

    `replaces`: the barcode of the failed cartridge whose side of the pair it takes; empty for a new pair.
    """

    barcode: str
    volume_id: uuid.UUID
    pair_id: uuid.UUID
    side: Side
    twin: str
    record_bytes: int
    capacity_bytes: int
    created: str
    replaces: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """One committed tape file. `id` is the object's, or the session's for its catalogs, or the volume's for a label."""

    tape_file: int
    kind: str
    id: uuid.UUID
    first_block: int
    size_bytes: int
    blake3: bytes
    record_bytes: int

    def behind(self, last: Committed | None) -> Committed:
        """The same tape file on another side, which ends with `last`: labels may differ in length."""
        return replace(self, first_block=last.end_block if last is not None else 0)

    @property
    def begin(self) -> Position:
        """Its first record."""
        return Position(self.tape_file, 0, self.first_block)

    @property
    def end(self) -> Position:
        """Just behind its file mark."""
        return Position(self.tape_file + 1, 0, self.end_block)

    @property
    def end_block(self) -> int:
        """The block number just behind its file mark."""
        return self.first_block + self.size_bytes // self.record_bytes + 1


@dataclass(frozen=True, slots=True)
class JournalState:
    """What a journal says, read to its end."""

    identity: CartridgeIdentity
    committed: tuple[Committed, ...]
    fenced: str | None


class CartridgeJournal:
    """The journal of one cartridge. Every method that writes returns after the lines are durable."""

    def __init__(self, folder: Path, barcode: str) -> None:
        self.path = folder / f"{barcode}.jsonl"
        self._journal = durable.Journal(self.path)

    def begin(self, identity: CartridgeIdentity) -> None:
        """Say what the cartridge is going to be."""
        self._journal.append(_identity_entry(identity))

    def write_anew(self, identity: CartridgeIdentity, tape_files: Iterable[Committed], at_ns: int) -> None:
        """Say at once what was found on a cartridge whose journal is lost.

        All of it or nothing is there after a power cut: half of it would let committed tape files be written over.
        """
        entries = [_identity_entry(identity), *(_committed_entry(item, at_ns) for item in tape_files)]
        text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
        durable.replace_file(self.path, text.encode())

    def committed(self, tape_files: Iterable[Committed], at_ns: int) -> None:
        """Say that these tape files lie before a synchronous file mark."""
        self._journal.append(*(_committed_entry(item, at_ns) for item in tape_files))

    def fenced(self, reason: str, at_ns: int) -> None:
        self._journal.append({"event": "fenced", "reason": reason, "at_ns": at_ns})

    def state(self) -> JournalState | None:
        """What was said so far; None when nothing was. Raises `IntegrityError` when the lines contradict each other."""
        identity: CartridgeIdentity | None = None
        committed: list[Committed] = []
        reason: str | None = None
        for number, entry in enumerate(self._journal.entries(), start=1):
            try:
                if entry["event"] == "cartridge":
                    identity = _same(identity, _identity_of(entry))
                elif entry["event"] == "committed":
                    committed.append(_next_committed(identity, committed, entry))
                elif entry["event"] == "fenced":
                    reason = str(entry["reason"])
            except (KeyError, TypeError, ValueError) as error:
                raise IntegrityError(
                    "a line in the journal of a cartridge cannot be believed",
                    place=f"{self.path} line {number}",
                    found=f"{error}: {json.dumps(entry)[:200]}",
                    hint="keep a copy of the journal, then restore it from a backup",
                ) from None
        return None if identity is None else JournalState(identity, tuple(committed), reason)


def _same(known: CartridgeIdentity | None, found: CartridgeIdentity) -> CartridgeIdentity:
    if known is not None and found != known:
        raise ValueError("a cartridge cannot become another one")
    return found


def _next_committed(identity: CartridgeIdentity | None, before: list[Committed], entry: dict[str, Any]) -> Committed:
    """The commit that an entry tells; it must follow the one before, or something would be written over."""
    if identity is None:
        raise ValueError("nothing says which cartridge this is")
    item = _committed_of(entry, identity.record_bytes)
    expected = (len(before), before[-1].end_block if before else 0)
    if (item.tape_file, item.first_block) != expected:
        raise ValueError(f"tape file {expected[0]} at block {expected[1]} must come next")
    return item


def _identity_entry(identity: CartridgeIdentity) -> dict[str, Any]:
    return {
        "event": "cartridge",
        "barcode": identity.barcode,
        "volume_id": str(identity.volume_id),
        "pair_id": str(identity.pair_id),
        "side": identity.side.value,
        "twin": identity.twin,
        "record_bytes": identity.record_bytes,
        "capacity_bytes": identity.capacity_bytes,
        "created": identity.created,
        "replaces": identity.replaces,
    }


def _committed_entry(item: Committed, at_ns: int) -> dict[str, Any]:
    return {
        "event": "committed",
        "tape_file": item.tape_file,
        "kind": item.kind,
        "id": str(item.id),
        "first_block": item.first_block,
        "size_bytes": item.size_bytes,
        "blake3": item.blake3.hex(),
        "at_ns": at_ns,
    }


def _committed_of(entry: dict[str, Any], record_bytes: int) -> Committed:
    return Committed(
        tape_file=int(entry["tape_file"]),
        kind=str(entry["kind"]),
        id=uuid.UUID(entry["id"]),
        first_block=int(entry["first_block"]),
        size_bytes=int(entry["size_bytes"]),
        blake3=bytes.fromhex(entry["blake3"]),
        record_bytes=record_bytes,
    )


def _identity_of(entry: dict[str, Any]) -> CartridgeIdentity:
    return CartridgeIdentity(
        barcode=str(entry["barcode"]),
        volume_id=uuid.UUID(entry["volume_id"]),
        pair_id=uuid.UUID(entry["pair_id"]),
        side=Side(entry["side"]),
        twin=str(entry["twin"]),
        record_bytes=int(entry["record_bytes"]),
        capacity_bytes=int(entry["capacity_bytes"]),
        created=str(entry["created"]),
        replaces=str(entry.get("replaces", "")),
    )
