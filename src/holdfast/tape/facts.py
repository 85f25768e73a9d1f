"""One fact in its several forms: as the journal, the catalog, a tape and JSON hold it."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from holdfast.catalog import Evidence, MemberFacts, TapeFile
from holdfast.tape import layout
from holdfast.tape.journal import Committed
from holdfast.tape.reader import ReadMember
from holdfast.values import Content

CATALOG_NAME = b"CATALOG.jsonl.gz"
CATALOG_FORMAT = 1


def tape_file_of(item: Committed) -> TapeFile:
    """The catalog's form of a journal's commit."""
    object_id = item.id if item.kind == "object" else None
    return TapeFile(item.tape_file, item.kind, object_id, item.first_block, item.size_bytes, item.blake3)


def evidence_fields(item: Evidence) -> dict[str, Any]:
    """A reading as JSON: in the evidence journal, on tape, and in reports."""
    fields = msgspec.to_builtins(item)
    fields |= {"id": str(item.id), "object_id": None if item.object_id is None else str(item.object_id)}
    return fields | {"expected": item.expected.hex(), "found": item.found.hex()}


def evidence_of(fields: dict[str, Any]) -> Evidence:
    """The reading of such JSON. Raises KeyError, TypeError or ValueError when it is none."""
    known = {name: fields[name] for name in Evidence.__slots__}
    known |= {"id": uuid.UUID(fields["id"]), "expected": bytes.fromhex(fields["expected"])}
    known |= {"found": bytes.fromhex(fields["found"])}
    known["object_id"] = None if fields["object_id"] is None else uuid.UUID(fields["object_id"])
    return Evidence(**known)


def member_facts(found: list[ReadMember], listed: dict[bytes, bytes]) -> list[MemberFacts]:
    """What the catalog is told of members that were read: as the dump would have told it."""
    by_name: dict[bytes, MemberFacts] = {}
    for member in found:
        header = member.header
        if header.version_id is None:
            continue
        content, data_offset = None, member.data_offset
        if header.type == layout.TYPE_HARD_LINK and header.link_name in by_name:
            content, data_offset = by_name[header.link_name].content, by_name[header.link_name].data_offset
        elif member.sha256 is not None and header.name in listed:
            content = Content(member.sha256, header.size_bytes)
        void = content is None and header.type in (layout.TYPE_FILE, layout.TYPE_HARD_LINK)
        by_name[header.name] = MemberFacts(header.version_id, content, member.header_offset, data_offset, void)
    return list(by_name.values())
