"""Blocks that are put together: what is on trial replaces nothing before it is accepted."""

from __future__ import annotations

from pathlib import Path

from holdfast.restoring.pieces import Piece
from holdfast.scrubbing.spool import opened_spool


def test_only_what_is_accepted_replaces_what_was_there(tmp_path: Path) -> None:
    with opened_spool(tmp_path, [4, 6]) as spool:
        spool.put(0, bytearray(b"abcd"))
        spool.put(1, bytearray(b"efghij"))
        spool.try_out(memoryview(b"XXXXXXXXXX"), 0)
        assert (spool.get(0, 4), spool.get(1, 6)) == (b"abcd", b"efghij")
        spool.try_out(memoryview(b"12"), 5)
        spool.accept([Piece(100, 102, 5)])
        assert (spool.get(0, 4), spool.get(1, 6)) == (b"abcd", b"e12hij")
    assert list(tmp_path.iterdir()) == []


def test_a_piece_of_any_size_is_accepted_in_full(tmp_path: Path) -> None:
    data = bytes(range(250)) * 10_000
    with opened_spool(tmp_path, [len(data)]) as spool:
        spool.put(0, bytearray(len(data)))
        spool.try_out(memoryview(data), 0)
        spool.accept([Piece(0, len(data), 0)])
        assert spool.get(0, len(data)) == data


def test_a_place_tells_its_block(tmp_path: Path) -> None:
    with opened_spool(tmp_path, [4, 6, 1]) as spool:
        assert [spool.block_at(at) for at in (0, 3, 4, 9, 10)] == [0, 0, 1, 1, 2]
