"""What lies in a block: asked page by page, and by the names of files."""

from __future__ import annotations

import pytest
from tests.unit.catalog.kit import OTHER, content, end, group, record, version

from holdfast.catalog import Catalog, holders
from holdfast.catalog.holders import BlockPart
from holdfast.values import Locator

NOTHING = Locator(bytes(32), 1)
CONTENTS = [content(number) for number in range(7)]  # of 100 bytes each, one behind the other


@pytest.fixture
def locator(catalog: Catalog) -> Locator:
    told = group(*(version(b"f%d" % number, item) for number, item in enumerate(CONTENTS)))
    catalog.group_durable(group(version(b"another", content("another"))))
    catalog.group_durable(told)
    return told.blocks[0].locator


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_of_contents_join_without_gap_or_repetition(catalog: Catalog, locator: Locator, limit: int) -> None:
    found: list[BlockPart] = []
    after: int | None = 0
    with catalog.reading() as connection:
        while after is not None:
            parts, after = holders.parts_in_block(connection, locator, (0, 700), after=after, limit=limit)
            assert len(parts) <= limit
            found += parts
    assert found == [BlockPart(item, 0, 100 * number, 100) for number, item in enumerate(CONTENTS)]


def test_only_contents_with_bytes_in_the_stretch_are_told(catalog: Catalog, locator: Locator) -> None:
    with catalog.reading() as connection:
        parts, after = holders.parts_in_block(connection, locator, (199, 401), after=0, limit=10)
        assert holders.parts_in_block(connection, NOTHING, (0, 1), after=0, limit=10) == ([], None)
    assert [part.content for part in parts] == CONTENTS[1:5]
    assert after is None


def test_blocks_that_no_content_names_are_not_needed(catalog: Catalog, locator: Locator) -> None:
    with catalog.reading() as connection:
        assert holders.needed(connection, [NOTHING, locator]) == {locator}


def test_files_are_named_those_that_are_there_first(catalog: Catalog, locator: Locator) -> None:
    gone = version(b"gone", CONTENTS[0])
    record(catalog, gone, version(b"more", CONTENTS[0], source=OTHER))
    end(catalog, (gone, 9))
    with catalog.reading() as connection:
        named, count = holders.files_in_block(connection, locator, 8)
        assert count == 9
        assert [item.path for item in named] == [*(b"f%d" % number for number in range(7)), b"more"]
        assert holders.files_in_block(connection, NOTHING, 5) == ([], 0)
        paths = [item.path for item in holders.files_of_content(connection, CONTENTS[0], 5)]
        assert paths == [b"more", b"f0", b"gone"]
        assert holders.files_of_content(connection, CONTENTS[0], 5, hosts=["elsewhere"]) == []
