"""Catalog lines go into the catalog in groups; what an object's headers say is a version again."""

from __future__ import annotations

import gzip
import tracemalloc
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.catalog.kit import SOURCE, content, new_pair, quick_folder, version

from holdfast import jsonform
from holdfast.catalog import Catalog, files
from holdfast.errors import IntegrityError
from holdfast.tape import layout
from holdfast.tape.feeding import Carried, CatalogFeeder, lines_of_object, version_of_header
from holdfast.tape.reader import ReadMember
from holdfast.tape.sessioncatalog import CatalogLine, ObjectTold, SessionCatalog
from holdfast.values import Content, FileVersion, Kind


@pytest.fixture
def library() -> Iterator[Any]:
    with quick_folder() as folder, Catalog(folder / "catalog.db") as catalog:
        yield SimpleNamespace(catalog=catalog, scratch_file=lambda name: folder / name)


def many_lines(count: int) -> Iterator[CatalogLine]:
    yield jsonform.source_line(SOURCE)
    for number in range(count):
        yield jsonform.version_line(version(b"folder/%d" % number, content(number), seen_ns=number))


def peak_of_feeding(library: Any, count: int) -> int:
    pair = new_pair(library.catalog)
    feeder = CatalogFeeder(library, pair.id, Carried(library))
    tracemalloc.start()
    feeder.feed(many_lines(count), uuid.uuid4())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_law_9_bounded_memory_however_long_a_catalog_is(library: Any) -> None:
    peak_of_feeding(library, 100)  # what is loaded and cached once
    assert peak_of_feeding(library, 12_000) < 1.3 * peak_of_feeding(library, 4_000)
    with library.catalog.reading() as connection:
        assert sum(1 for _ in files.versions_at(connection, None)) == 16_100


def test_a_line_that_no_version_can_be_is_refused(library: Any) -> None:
    line = jsonform.version_line(version(b"a", content("a")))
    line.path = "../a"
    with pytest.raises(IntegrityError, match="cannot be believed"):
        CatalogFeeder(library, uuid.uuid4(), Carried(library)).feed([jsonform.source_line(SOURCE), line])


def member(item: FileVersion, offset: int, *, link_to: bytes | None = None) -> ReadMember:
    header = layout.header_of(item, link_to)
    is_file = header.type == layout.TYPE_FILE
    return ReadMember(header, offset, offset + 512, item.content.sha256 if is_file and item.content else None)


def test_an_object_that_was_read_tells_what_its_headers_say(library: Any, tmp_path: Path) -> None:
    """All but what headers do not hold: where the source lies, what was seen of the inode, whether it was sparse."""
    seen_ns = 1_795_215_600_123_000_000
    held = content("x", 10)

    def named(path: bytes, kind: Kind, held: Content | None = None) -> FileVersion:
        base = version(path, held, seen_ns=seen_ns, kind=kind)
        return replace(base, id=files.new_version_id(seen_ns))

    first = named(b"d/first-\xff", Kind.FILE, held)
    second = replace(named(b"d/second", Kind.FILE, held), hard_link_of=first.id)
    link = replace(named(b"d/link", Kind.LINK), link_target=b"first-\xff")
    versions = [named(b"", Kind.FOLDER), named(b"d", Kind.FOLDER), first, second, link]
    read = [
        member(item, 1024 * number, link_to=first.full_path if item is second else None)
        for number, item in enumerate(versions)
    ]
    told = ObjectTold(uuid.uuid4(), 1, 3, 4096, bytes(32))
    listed = {first.full_path: held.sha256, second.full_path: held.sha256}
    path = tmp_path / "object.gz"
    with gzip.open(path, "wb") as file:
        file.writelines(line + b"\n" for line in lines_of_object(told, read, listed, uuid.uuid4()))
    pair = new_pair(library.catalog)
    lines = list(SessionCatalog(path, told.id).lines("source", "version"))
    CatalogFeeder(library, pair.id, Carried(library)).feed([lines[0], told, *lines[1:]])
    with library.catalog.reading() as connection:
        found = {item.version.id: item.version for item in files.versions_at(connection, None)}
        assert [(s.name, s.host) for s in files.all_sources(connection)] == [(SOURCE.name, "")]
    assert found == {item.id: item for item in versions}


def test_a_member_that_is_no_version_is_refused() -> None:
    header = layout.MemberHeader(name=b"lab/a", type=b"7", version_id=uuid.uuid4())
    for wrong in (header, replace(header, type=layout.TYPE_FILE, name=b"lab/../a"), replace(header, version_id=None)):
        with pytest.raises(IntegrityError, match="no version can be"):
            version_of_header(wrong, None, None)
