"""The bytes of a tape file: a POSIX pax tar that GNU tar reads without a word. Pure: no drive, no clock.

Source: IEEE Std 1003.1-2017, "pax Interchange Format"; numbers that do not fit the ustar header go into pax records.
What Holdfast adds stands only in `comment` records, which every reader of pax passes over:

    first    global header      comment=holdfast <kind> <id> pair <pair id>
    members  extended header    mtime, and path, linkpath, size, uid, gid, uname, gname where ustar cannot hold them;
                                comment=holdfast version <version id>
             ustar header       and the data, padded with zeros to 512
    last     MANIFEST           what `sha256sum -c` reads (see `checksums`); without a file to list, NO-FILES.txt
    end      two blocks of zeros, then zeros to the end of the last record

Names are raw bytes in a plain `path` record: GNU tar takes them as they are, while the `hdrcharset` that Python's
tarfile writes makes it complain.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from functools import lru_cache

from holdfast.errors import IntegrityError
from holdfast.values import FileVersion, Kind

TAR_BLOCK_BYTES = 512
END_BYTES = 2 * TAR_BLOCK_BYTES
MANIFEST_NAME = b"MANIFEST"

NO_FILES_NAME = b"NO-FILES.txt"
NO_FILES_TEXT = b"This tape file holds folders and links, and no files but this one.\n"
"""`sha256sum -c` takes a MANIFEST without a line for a failure, so an object without files gets this one."""

_OCTAL_LIMIT_ID = 8**7
_OCTAL_LIMIT_SIZE = 8**11
_NAME_LIMIT = 100
_USER_LIMIT = 31

TYPE_FILE = b"0"
TYPE_HARD_LINK = b"1"
TYPE_SYMBOLIC_LINK = b"2"
TYPE_FOLDER = b"5"
TYPE_EXTENDED = b"x"
TYPE_GLOBAL = b"g"

VERSION_COMMENT = b"holdfast version "


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberHeader:
    """What a tar header says of one member. `size_bytes` is that of the data that follows: 0 for links and folders."""

    name: bytes
    type: bytes
    size_bytes: int = 0
    mode: int = 0o644
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    link_name: bytes = b""
    version_id: uuid.UUID | None = None

    @property
    def padded_bytes(self) -> int:
        return padded(self.size_bytes)


def padded(size_bytes: int) -> int:
    """`size_bytes` rounded up to whole tar blocks."""
    return -(-size_bytes // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES


def header_of(version: FileVersion, hard_link_name: bytes | None = None) -> MemberHeader:
    """The header for a version; with `hard_link_name`, as a tar hard link to a member of the same object."""
    attributes = version.attributes
    name, link, size = version.full_path, b"", 0
    if version.kind is Kind.FOLDER:
        kind, name = TYPE_FOLDER, name + b"/"
    elif version.kind is Kind.LINK:
        kind, link = TYPE_SYMBOLIC_LINK, version.link_target or b""
    elif hard_link_name is not None:
        kind, link = TYPE_HARD_LINK, hard_link_name
    else:
        kind, size = TYPE_FILE, version.size_bytes
    return MemberHeader(
        name=name,
        type=kind,
        size_bytes=size,
        mode=attributes.mode,
        mtime_ns=attributes.mtime_ns,
        uid=attributes.uid,
        gid=attributes.gid,
        user=attributes.user,
        group=attributes.group,
        link_name=link,
        version_id=version.id,
    )


def encode_member(header: MemberHeader) -> bytes:
    """The blocks that stand before a member's data."""
    records = _pax_records(header)
    return (_extended(TYPE_EXTENDED, records) if records else b"") + _ustar(header)


def encode_global(comment: str) -> bytes:
    """A global header that says what this tape file is, to those who look for it."""
    return _extended(TYPE_GLOBAL, _record(b"comment", comment.encode()))


def object_comment(kind: str, own_id: uuid.UUID, pair_id: uuid.UUID) -> str:
    """The comment of a tape file's global header."""
    return f"holdfast {kind} {own_id} pair {pair_id}"


@dataclass(frozen=True, slots=True)
class TapeFileName:
    """What the comment of a tape file's global header says: `label`, `object` or `catalog`, whose, and of which pair.

    `id` is that of the volume, the object, or the session.
    """

    kind: str
    id: uuid.UUID
    pair_id: uuid.UUID


_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_COMMENT = re.compile(f"holdfast (label|object|catalog) ({_UUID}) pair ({_UUID})")


def parse_comment(comment: str) -> TapeFileName | None:
    """What the comment of a global header says; None when it is not ours."""
    found = _COMMENT.fullmatch(comment)
    return None if found is None else TapeFileName(found[1], uuid.UUID(found[2]), uuid.UUID(found[3]))


def name_of(begin: bytes) -> TapeFileName | None:
    """What tape file begins with these bytes, its first record; None when that is none of ours, or damaged."""
    try:
        block = decode_ustar(begin[:TAR_BLOCK_BYTES]) if len(begin) >= TAR_BLOCK_BYTES else None
        if block is None or block.type != TYPE_GLOBAL:
            return None
        records = decode_pax(begin[TAR_BLOCK_BYTES : TAR_BLOCK_BYTES + min(block.size_bytes, TAR_BLOCK_BYTES)])
    except IntegrityError:
        return None
    return parse_comment(records.get("comment", b"").decode("utf-8", "replace"))


def tape_file_bytes(content_bytes: int, record_bytes: int) -> int:
    """The size of a tape file whose members take `content_bytes`: with the end, in whole records."""
    return -(-(content_bytes + END_BYTES) // record_bytes) * record_bytes


def _pax_records(header: MemberHeader) -> bytes:
    records = [_record(b"mtime", _decimal_seconds(header.mtime_ns))]
    if _needs_pax(header.name, _NAME_LIMIT):
        records.append(_record(b"path", header.name))
    if _needs_pax(header.link_name, _NAME_LIMIT):
        records.append(_record(b"linkpath", header.link_name))
    if header.size_bytes >= _OCTAL_LIMIT_SIZE:
        records.append(_record(b"size", str(header.size_bytes).encode()))
    for keyword, number in ((b"uid", header.uid), (b"gid", header.gid)):
        if number >= _OCTAL_LIMIT_ID:
            records.append(_record(keyword, str(number).encode()))
    for keyword, text in ((b"uname", header.user), (b"gname", header.group)):
        if _needs_pax(text.encode(), _USER_LIMIT):
            records.append(_record(keyword, text.encode()))
    if header.version_id is not None:
        records.append(_record(b"comment", VERSION_COMMENT + header.version_id.hex.encode()))
    return b"".join(records)


def _needs_pax(text: bytes, limit: int) -> bool:
    return len(text) > limit or not text.isascii()


def _record(keyword: bytes, value: bytes) -> bytes:
    """`<length> <keyword>=<value>\\n`, where the length counts its own digits (pax, "Extended Header")."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def _decimal_seconds(time_ns: int) -> bytes:
    sign, time_ns = (b"-", -time_ns) if time_ns < 0 else (b"", time_ns)
    seconds, fraction = divmod(time_ns, 10**9)
    return sign + (b"%d.%09d" % (seconds, fraction) if fraction else b"%d" % seconds)


def _extended(kind: bytes, records: bytes) -> bytes:
    return _extended_header(kind, len(records)) + records.ljust(padded(len(records)), b"\0")


@lru_cache(maxsize=4096)
def _extended_header(kind: bytes, size_bytes: int) -> bytes:
    """The ustar block before pax records; of the few lengths that occur, each is made once."""
    return _ustar(MemberHeader(name=b"PaxHeaders/holdfast", type=kind, size_bytes=size_bytes))


def _ustar(header: MemberHeader) -> bytes:
    fields = (
        _text(header.name, _NAME_LIMIT, 100),
        _octal(header.mode & 0o7777, 8),
        _octal(header.uid if header.uid < _OCTAL_LIMIT_ID else 0, 8),
        _octal(header.gid if header.gid < _OCTAL_LIMIT_ID else 0, 8),
        _octal(header.size_bytes if header.size_bytes < _OCTAL_LIMIT_SIZE else 0, 12),
        _octal(min(max(0, header.mtime_ns // 10**9), _OCTAL_LIMIT_SIZE - 1), 12),
        b" " * 8,
        header.type,
        _text(header.link_name, _NAME_LIMIT, 100),
        b"ustar\x0000",
        _text(header.user.encode(), _USER_LIMIT, 32),
        _text(header.group.encode(), _USER_LIMIT, 32),
        _octal(0, 8),
        _octal(0, 8),
        bytes(167),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _text(text: bytes, limit: int, width: int) -> bytes:
    """A text field; what does not fit is replaced here, as a pax record holds it in full."""
    if _needs_pax(text, limit):
        text = bytes(byte if 32 <= byte < 127 else 95 for byte in text[:limit])
    return text.ljust(width, b"\0")


def _octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


# -- reading


@dataclass(frozen=True, slots=True)
class UstarBlock:
    """One ustar header block as it was read. `type` is one byte; pax records may still change the rest."""

    name: bytes
    type: bytes
    size_bytes: int
    mode: int
    uid: int
    gid: int
    mtime_s: int
    link_name: bytes
    user: bytes
    group: bytes


def decode_ustar(block: bytes) -> UstarBlock | None:
    """Read a header block; None for a block of zeros. Raises `IntegrityError` when its checksum is wrong."""
    if block == bytes(TAR_BLOCK_BYTES):
        return None
    stored = _number(block[148:156])
    summed = sum(block) - sum(block[148:156]) + 8 * 32
    if stored != summed or block[257:262] != b"ustar":
        raise IntegrityError("damaged tar header", expected=f"checksum {stored}", found=f"checksum {summed}")
    prefix = _string(block[345:500])
    name = _string(block[0:100])
    return UstarBlock(
        name=prefix + b"/" + name if prefix else name,
        type=block[156:157],
        size_bytes=_number(block[124:136]),
        mode=_number(block[100:108]),
        uid=_number(block[108:116]),
        gid=_number(block[116:124]),
        mtime_s=_number(block[136:148]),
        link_name=_string(block[157:257]),
        user=_string(block[265:297]),
        group=_string(block[297:329]),
    )


def _string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise IntegrityError("damaged tar header", expected="an octal number", found=repr(field)) from None


def decode_pax(data: bytes) -> dict[str, bytes]:
    """The records of an extended header, by keyword. Raises `IntegrityError` when they do not add up."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position)
        length = data[position:space]
        if space < 0 or not length.isdigit():
            raise IntegrityError("damaged pax header", found=repr(data[position : position + 40]))
        end = position + int(length)
        keyword, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise IntegrityError("damaged pax header", found=repr(data[position : position + 40]))
        records[keyword.decode("utf-8", "replace")] = value
        position = end
    return records


def apply_pax(block: UstarBlock, records: dict[str, bytes]) -> MemberHeader:
    """The whole header of a member: its ustar block with its pax records over it."""
    try:
        comment = records.get("comment", b"")
        version = comment.removeprefix(VERSION_COMMENT) if comment.startswith(VERSION_COMMENT) else None
        return MemberHeader(
            name=records.get("path", block.name),
            type=block.type,
            size_bytes=_decimal(records["size"]) if "size" in records else block.size_bytes,
            mode=block.mode,
            mtime_ns=_nanoseconds(records["mtime"]) if "mtime" in records else block.mtime_s * 10**9,
            uid=_decimal(records["uid"]) if "uid" in records else block.uid,
            gid=_decimal(records["gid"]) if "gid" in records else block.gid,
            user=records.get("uname", block.user).decode("utf-8", "replace"),
            group=records.get("gname", block.group).decode("utf-8", "replace"),
            link_name=records.get("linkpath", block.link_name),
            version_id=None if version is None else uuid.UUID(version.decode()),
        )
    except ValueError as error:
        raise IntegrityError("damaged pax header", found=str(error)) from None


def _decimal(text: bytes) -> int:
    if not text.isdigit():
        raise ValueError(f"not a number: {text!r}")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    digits = text.removeprefix(b"-")
    seconds, point, fraction = digits.partition(b".")
    time_ns = _decimal(seconds) * 10**9 + (_decimal(fraction[:9].ljust(9, b"0")) if point else 0)
    return -time_ns if digits != text else time_ns
