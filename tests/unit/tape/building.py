"""Builds tape files and cartridges out of the pure modules, for the tests of this room."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast.tape import checksums, layout
from holdfast.tape.drive.virtual import VirtualDrive, make_cartridge
from holdfast.tape.fan import RecordFan, WrittenFile
from holdfast.tape.layout import MemberHeader

RECORD_BYTES = 4096
OWN_ID = uuid.UUID("11111111-2222-4333-8444-555555555555")
PAIR_ID = uuid.UUID("66666666-7777-4888-9999-aaaaaaaaaaaa")
MTIME_NS = 1_700_000_000_123_456_789


@dataclass(frozen=True)
class Member:
    """A member and its data; `void`: left out of the MANIFEST."""

    header: MemberHeader
    data: bytes = b""
    void: bool = False


def file(name: bytes, data: bytes = b"", *, void: bool = False, mode: int = 0o640, mtime_ns: int = MTIME_NS) -> Member:
    header = MemberHeader(name=name, type=layout.TYPE_FILE, size_bytes=len(data), mode=mode, mtime_ns=mtime_ns)
    return Member(header, data, void)


def folder(name: bytes, *, mode: int = 0o750, mtime_ns: int = MTIME_NS) -> Member:
    return Member(MemberHeader(name=name + b"/", type=layout.TYPE_FOLDER, mode=mode, mtime_ns=mtime_ns))


def symbolic_link(name: bytes, target: bytes, *, mtime_ns: int = MTIME_NS) -> Member:
    header = MemberHeader(name=name, type=layout.TYPE_SYMBOLIC_LINK, mode=0o777, mtime_ns=mtime_ns, link_name=target)
    return Member(header)


def hard_link(name: bytes, target: bytes, *, mode: int = 0o640, mtime_ns: int = MTIME_NS) -> Member:
    header = MemberHeader(name=name, type=layout.TYPE_HARD_LINK, mode=mode, mtime_ns=mtime_ns, link_name=target)
    return Member(header)


def owned(member: Member, *, uid: int = 0, gid: int = 0, user: str = "", group: str = "") -> Member:
    return replace(member, header=replace(member.header, uid=uid, gid=gid, user=user, group=group))


def manifest_of(members: Iterable[Member]) -> bytes:
    """The digests of the file members, and of hard links by their targets."""
    digests: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    for member in members:
        header = member.header
        if header.type == layout.TYPE_FILE:
            digests[header.name] = hashlib.sha256(member.data).digest()
        digest = digests.get(header.link_name if header.type == layout.TYPE_HARD_LINK else header.name)
        if digest is not None and not member.void:
            lines.append(checksums.encode_line(digest, header.name))
    return b"".join(lines)


def tar_bytes(members: Sequence[Member], *, kind: str = "object", manifest: bytes | None = None) -> bytes:
    """A tape file without the zeros that end it."""
    text = manifest_of(members) if manifest is None else manifest
    closing = Member(MemberHeader(name=layout.MANIFEST_NAME, type=layout.TYPE_FILE, size_bytes=len(text)), text)
    parts = [layout.encode_global(layout.object_comment(kind, OWN_ID, PAIR_ID))]
    for member in (*members, closing):
        parts.append(layout.encode_member(member.header))
        parts.append(member.data.ljust(layout.padded(len(member.data)), b"\0"))
    return b"".join(parts)


def tape_file(
    members: Sequence[Member], *, kind: str = "object", record_bytes: int = RECORD_BYTES, manifest: bytes | None = None
) -> bytes:
    """A whole tape file, as it lies on tape."""
    content = tar_bytes(members, kind=kind, manifest=manifest)
    return content.ljust(layout.tape_file_bytes(len(content), record_bytes), b"\0")


def write_cartridge(folder: Path, tape_files: Iterable[bytes], record_bytes: int = RECORD_BYTES) -> list[WrittenFile]:
    """Make a virtual cartridge and write tape files on it, through a fan as a dump does."""
    make_cartridge(folder, folder.name, 1 << 30)
    drive = VirtualDrive("TEST-0", folder)
    written: list[WrittenFile] = []
    try:
        with RecordFan([drive], record_bytes) as fan:
            for data in tape_files:
                fan.write(data)
                written.append(fan.end_file())
                fan.each(lambda one: one.write_file_mark(synchronous=False))
            fan.each(lambda one: one.write_file_mark(synchronous=True) if not written else None)
            fan.wait()
    finally:
        drive.close()
    return written
