"""The tables of the catalog: every fact, in one database.

Order everywhere: bytes are fsynced first, then one catalog transaction tells of them. Paths are bytes and are found
by digest, never compared by a collation. Everything here can be made again from packs, journals and tapes.

Numbers: sizes and offsets in bytes, times in nanoseconds since 1970 (UTC).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

CATALOG_FORMAT = 3

metadata = MetaData()

Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only for INTEGER
Digest = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
Identity = LargeBinary(16).with_variant(mysql.BINARY(16), "mysql", "mariadb")
PathBytes = LargeBinary().with_variant(mysql.LONGBLOB, "mysql", "mariadb")


def refers(name: str, target: str, *, primary_key: bool = False, nullable: bool = False) -> Column[int]:
    """A column that holds row numbers of another table."""
    column: Column[int] = Column(name, ForeignKey(target), primary_key=primary_key, nullable=nullable)
    return column


meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

source = Table(
    "source",
    metadata,
    Column("id", Number, primary_key=True),
    Column("uuid", Identity, nullable=False, unique=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("host", String(255), nullable=False),
    Column("root", PathBytes, nullable=False),
)

content = Table(
    "content",
    metadata,
    Column("id", Number, primary_key=True),
    Column("sha256", Digest, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    UniqueConstraint("sha256", "size_bytes", name="content_identity"),
)

version = Table(
    "version",
    metadata,
    Column("id", Number, primary_key=True),
    Column("uuid", Identity, nullable=False, unique=True),
    refers("source_id", "source.id"),
    Column("path", PathBytes, nullable=False),
    Column("path_digest", Digest, nullable=False),
    Column("folder_digest", Digest, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("mtime_s", BigInteger, nullable=False),  # in two parts, as a file's time may lie behind the year 2262
    Column("mtime_part_ns", Integer, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("gid", BigInteger, nullable=False),
    Column("user", String(255), nullable=False),
    Column("group", String(255), nullable=False),
    Column("sparse", Boolean, nullable=False),
    Column("link_target", PathBytes),
    Column("hard_link_of", Identity),
    refers("content_id", "content.id", nullable=True),  # empty: not a file, or in place and not read yet
    Column("seen_ns", BigInteger, nullable=False),
    # what may still be learnt of a version; the version itself never changes
    Column("void", Boolean, nullable=False, default=False),  # in place, it changed while it was being read
    Column("ended_ns", BigInteger),
    Column("device", BigInteger, nullable=False, default=0),
    Column("inode", BigInteger, nullable=False, default=0),
    Column("ctime_ns", BigInteger, nullable=False, default=0),
    Column("looked_ns", BigInteger, nullable=False, default=0),
    # one index for folders and paths: what lies in one folder lies together, so a million files cost no more each
    Index("version_path", "source_id", "folder_digest", "path_digest", "ended_ns"),
    Index("version_content", "content_id"),
    Index("version_hard_links", "hard_link_of"),
)

pack = Table(
    "pack",
    metadata,
    Column("id", Number, primary_key=True),
    Column("uuid", Identity, nullable=False, unique=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sealed", Boolean, nullable=False, default=False),
    Column("block_bytes", BigInteger, nullable=False, default=0),  # of its blocks, since it was sealed
    Column("emptied", Boolean, nullable=False, default=False),  # nothing is read from it any more, its file may be gone
)

block = Table(
    "block",
    metadata,
    Column("id", Number, primary_key=True),
    Column("blake3", Digest, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    refers("pack_id", "pack.id", nullable=True),  # empty: nothing needed its bytes any more, and they were given up
    Column("offset_bytes", BigInteger, nullable=False),
    Column("released", Boolean, nullable=False, default=False),  # a content that was released lay in it
    Column("condemned", Integer, nullable=False, default=0),  # by which generation nothing names it, or new may; 0: not
    UniqueConstraint("blake3", "size_bytes", name="block_identity"),
    Index("block_pack", "pack_id"),
)

segment = Table(
    "segment",
    metadata,
    refers("content_id", "content.id", primary_key=True),
    Column("number", Integer, primary_key=True),
    refers("block_id", "block.id"),
    Column("offset_bytes", BigInteger, nullable=False),
    Column("length_bytes", BigInteger, nullable=False),
    Index("segment_block", "block_id"),
)

release = Table(
    "release",
    metadata,
    # contents that were given up in the store, as two proven copies were on tape; they may have come back since
    refers("content_id", "content.id", primary_key=True),
    Column("released_ns", BigInteger, nullable=False),
    Column("carried", Integer, nullable=False, default=0),  # to a pack: 0 not yet, 1 on its way, 2 a pack says so
)

pair = Table(
    "pair",
    metadata,
    Column("id", Number, primary_key=True),
    Column("uuid", Identity, nullable=False, unique=True),
    Column("state", String(8), nullable=False),  # open, full, fenced
    Column("record_bytes", Integer, nullable=False),
)

cartridge = Table(
    "cartridge",
    metadata,
    Column("id", Number, primary_key=True),
    Column("barcode", String(32), nullable=False, unique=True),
    Column("volume_uuid", Identity, nullable=False, unique=True),
    refers("pair_id", "pair.id"),
    Column("side", String(1), nullable=False),
    Column("capacity_bytes", BigInteger, nullable=False),
    Column("virtual", Boolean, nullable=False),
    Column("failure_domain", String(255), nullable=False),
    Column("fenced", Text),  # why it must not be used, when it must not
    Column("replaced", Boolean, nullable=False),  # another one is this side of the pair now
)

session = Table(
    "session",
    metadata,
    Column("id", Number, primary_key=True),
    Column("uuid", Identity, nullable=False, unique=True),
    refers("pair_id", "pair.id"),
)

tape_object = Table(
    "tape_object",
    metadata,
    Column("id", Number, primary_key=True),
    Column("uuid", Identity, nullable=False, unique=True),
    refers("pair_id", "pair.id"),
    Column("tape_file", Integer, nullable=False),
    UniqueConstraint("pair_id", "tape_file", name="object_position"),
)

member = Table(
    "member",
    metadata,
    refers("object_id", "tape_object.id", primary_key=True),
    Column("number", Integer, primary_key=True),
    refers("version_id", "version.id"),
    refers("content_id", "content.id", nullable=True),  # empty for folders, links, tar hard links and void members
    Column("header_offset", BigInteger, nullable=False),
    Column("data_offset", BigInteger, nullable=False),
    Column("void", Boolean, nullable=False, default=False),
    Index("member_version", "version_id"),
    Index("member_content", "content_id"),
)

listing = Table(
    "listing",
    metadata,
    # versions that a session's catalog names without data of their own: only mode or times of a file changed
    refers("version_id", "version.id", primary_key=True),
    refers("session_id", "session.id", primary_key=True),
)

tape_file = Table(
    "tape_file",
    metadata,
    refers("cartridge_id", "cartridge.id", primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", String(8), nullable=False),  # label, object, catalog
    refers("object_id", "tape_object.id", nullable=True),
    Column("first_block", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("blake3", Digest, nullable=False),
    Index("tape_file_object", "object_id"),
)

evidence = Table(
    "evidence",
    metadata,
    Column("id", Number, primary_key=True),
    Column("uuid", Identity, nullable=False, unique=True),
    refers("cartridge_id", "cartridge.id"),
    Column("tape_file", Integer, nullable=False),
    refers("object_id", "tape_object.id", nullable=True),
    Column("drive", String(64), nullable=False),
    Column("begun_ns", BigInteger, nullable=False),
    Column("ended_ns", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("members", Integer, nullable=False),
    Column("expected", Digest, nullable=False),
    Column("found", Digest, nullable=False),
    Column("matched", Boolean, nullable=False),
    Column("reloaded", Boolean, nullable=False),  # read after unload and reload, so from the medium
    Column("problem", Text),
    refers("session_id", "session.id", nullable=True),  # the session whose catalog carried it to tape
    Index("evidence_object", "object_id", "cartridge_id"),
    Index("evidence_place", "cartridge_id", "tape_file"),
)
