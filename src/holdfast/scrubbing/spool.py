"""Where blocks are put together, on the scratch disk."""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from holdfast import durable
from holdfast.restoring.pieces import Piece

COPY_BYTES = 2**20


@contextmanager
def opened_spool(folder: Path, sizes: Sequence[int]) -> Generator[Spool, None, None]:
    """A spool in files of this folder that have no name; they are gone with it."""
    with tempfile.TemporaryFile(dir=folder) as blocks, tempfile.TemporaryFile(dir=folder) as trial:
        yield Spool(blocks.fileno(), trial.fileno(), sizes)


class Spool:
    """Some blocks, one behind the other; beside them, at the same places, bytes on trial, which replace nothing yet.

    What a bad copy gave is so forgotten, and what the disk gave of a block stays.
    """

    def __init__(self, blocks: int, trial: int, sizes: Sequence[int]) -> None:
        self.begins = [0, *accumulate(sizes)][: len(sizes)]
        self._blocks = blocks
        self._trial = trial

    def block_at(self, at: int) -> int:
        """The number of the block that lies there."""
        return bisect_right(self.begins, at) - 1

    def put(self, number: int, payload: bytearray) -> None:
        durable.write_all_at(self._blocks, memoryview(payload), self.begins[number])

    def get(self, number: int, size_bytes: int) -> bytearray:
        payload = bytearray(size_bytes)
        os.preadv(self._blocks, [payload], self.begins[number])
        return payload

    def try_out(self, data: memoryview, at: int) -> None:
        durable.write_all_at(self._trial, data, at)

    def accept(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            end = piece.at + piece.end - piece.begin
            for at in range(piece.at, end, COPY_BYTES):
                data = os.pread(self._trial, min(COPY_BYTES, end - at), at)
                durable.write_all_at(self._blocks, memoryview(data), at)
