"""Which bytes of a block are not as they were written."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from blake3 import blake3
from tests.unit.blocks.kit import VAULT_ID

from holdfast.blocks.packfile import PackWriter
from holdfast.blocks.packformat import PIECE_BYTES, RecordType
from holdfast.blocks.packs import Packs
from holdfast.blocks.scrub import DamagedBlock, look_at_block, opened_pack, scrub_pack
from holdfast.testing import flip_bit
from holdfast.values import BlockPlace, Locator

SIZE = 5 * PIECE_BYTES + 100
TABLE = 128 + SIZE


@pytest.fixture
def place(tmp_path: Path) -> BlockPlace:
    writer = PackWriter(tmp_path, vault_id=VAULT_ID, pack_id=uuid.uuid4(), created_ns=1)
    data = os.urandom(SIZE)
    locator = Locator(blake3(data).digest(), SIZE)
    place = BlockPlace(locator, writer.pack_id, writer.append(RecordType.BLOCK, locator.blake3, memoryview(data)))
    writer.seal()
    return place


def look(folder: Path, place: BlockPlace, *flips: int) -> DamagedBlock | None:
    for at in flips:
        flip_bit(folder / f"{place.pack_id}.pack", place.offset_bytes + at)
    with opened_pack(Packs(folder), place.pack_id) as pack:
        return look_at_block(pack, place)[1]


def bad(found: DamagedBlock | None) -> tuple[tuple[int, int], ...]:
    assert found is not None
    return found.bad


def test_a_whole_block_is_not_damaged(tmp_path: Path, place: BlockPlace) -> None:
    assert look(tmp_path, place) is None
    assert list(scrub_pack(Packs(tmp_path), place.pack_id, [place])) == [(SIZE, None)]


def test_pieces_that_do_not_match_are_told_those_side_by_side_as_one(tmp_path: Path, place: BlockPlace) -> None:
    found = look(tmp_path, place, 128, 128 + PIECE_BYTES, 128 + SIZE - 1)
    assert bad(found) == ((0, 2 * PIECE_BYTES), (5 * PIECE_BYTES, SIZE))


def test_a_table_that_is_damaged_itself_still_tells_what_is_good(tmp_path: Path, place: BlockPlace) -> None:
    assert bad(look(tmp_path, place, TABLE + 8)) == ()  # of the record only the table is damaged
    assert bad(look(tmp_path, place, 128 + 3 * PIECE_BYTES)) == (
        (PIECE_BYTES, 2 * PIECE_BYTES),
        (3 * PIECE_BYTES, 4 * PIECE_BYTES),
    )


def test_a_head_that_is_damaged_hides_no_table(tmp_path: Path, place: BlockPlace) -> None:
    assert bad(look(tmp_path, place, 60)) == ()
    assert bad(look(tmp_path, place, 128)) == ((0, PIECE_BYTES),)


def test_what_a_pack_lacks_at_its_end_is_damaged(tmp_path: Path, place: BlockPlace) -> None:
    os.truncate(tmp_path / f"{place.pack_id}.pack", place.offset_bytes + 128 + 2 * PIECE_BYTES)
    assert bad(look(tmp_path, place)) == ((0, SIZE),)  # the table is gone as well


def test_a_pack_that_cannot_be_looked_at_is_not_said_to_be_damaged(tmp_path: Path, place: BlockPlace) -> None:
    (tmp_path / f"{place.pack_id}.pack").unlink()
    with pytest.raises(FileNotFoundError):
        list(scrub_pack(Packs(tmp_path), place.pack_id, [place]))
