"""Any range of any content, from any place, every byte checked."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.unit.blocks.kit import BLOCK_BYTES, MemoryStore, keep, writer_for

from holdfast.blocks import BlockReader, ContentFile
from holdfast.errors import IntegrityError
from holdfast.testing import flip_bit
from holdfast.values import Segment

DATA = random.Random(5).randbytes(3 * BLOCK_BYTES + 12_345)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemoryStore]:
    folder, store = tmp_path_factory.mktemp("packs"), MemoryStore()
    with writer_for(folder, store) as writer:
        keep(writer, b"small", DATA[:1000])
        keep(writer, b"large", DATA)
        keep(writer, b"empty", b"")
    return folder, store


def segments_of(store: MemoryStore, path: bytes) -> tuple[Segment, ...]:
    return next(item.segments for item in store.versions.values() if item.version.path == path)


@pytest.fixture
def large(store: tuple[Path, MemoryStore]) -> Iterator[ContentFile]:
    with ContentFile(BlockReader(*store), segments_of(store[1], b"large")) as file:
        yield file


def test_the_whole_and_its_parts(large: ContentFile) -> None:
    assert large.read() == DATA
    assert (large.read(), large.tell(), large.size_bytes) == (b"", len(DATA), len(DATA))
    for begin in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, len(DATA) - 1, len(DATA), len(DATA) + 5):
        for length in (0, 1, 2, 70_000, len(DATA)):
            large.seek(begin)
            assert large.read(length) == DATA[begin : begin + length]


def test_text_and_buffers_above_it(large: ContentFile, store: tuple[Path, MemoryStore]) -> None:
    buffered = io.BufferedReader(large)
    buffered.seek(-10, os.SEEK_END)
    assert buffered.peek(3)[:3] == DATA[-10:-7]
    assert buffered.read() == DATA[-10:]
    with ContentFile(BlockReader(*store), ()) as empty:
        assert (empty.read(), empty.seek(3), empty.read(1), empty.size_bytes) == (b"", 3, b"", 0)


def test_wrong_places_and_closed_files_are_told(large: ContentFile) -> None:
    for offset, whence in ((-1, os.SEEK_SET), (-len(DATA) - 1, os.SEEK_END), (0, 7)):
        with pytest.raises(ValueError, match="no place"):
            large.seek(offset, whence)
    assert (large.readable(), large.seekable(), large.writable()) == (True, True, False)
    with pytest.raises(io.UnsupportedOperation):
        large.write(b"x")
    large.close()
    large.close()
    for call in (large.read, large.tell, lambda: large.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_law_7_a_damaged_piece_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    store = MemoryStore()
    with writer_for(tmp_path, store) as writer:
        keep(writer, b"large", DATA)
    segments = segments_of(store, b"large")
    place = store.find_block(segments[1].locator)
    assert place is not None
    (pack,) = tmp_path.glob("*.pack")
    flip_bit(pack, place.offset_bytes + 128 + 100)
    with ContentFile(BlockReader(tmp_path, store), segments) as file:
        assert file.read(BLOCK_BYTES) == DATA[:BLOCK_BYTES]
        with pytest.raises(IntegrityError, match="damaged bytes"):
            file.read(10)
        assert file.tell() == BLOCK_BYTES
        file.seek(2 * BLOCK_BYTES)
        assert file.read(100) == DATA[2 * BLOCK_BYTES :][:100]


class FileMachine(RuleBasedStateMachine):
    """A content file does what a file in memory does."""

    folder: Path
    store: MemoryStore

    def __init__(self) -> None:
        super().__init__()
        self.file = ContentFile(BlockReader(self.folder, self.store), segments_of(self.store, b"large"))
        self.model = io.BytesIO(DATA)

    @rule(length=st.integers(-1, 2 * BLOCK_BYTES))
    def read(self, length: int) -> None:
        assert self.file.read(length) == self.model.read(length)

    @rule(length=st.integers(0, 2 * BLOCK_BYTES))
    def readinto(self, length: int) -> None:
        ours, theirs = bytearray(length), bytearray(length)
        assert self.file.readinto(ours) == self.model.readinto(theirs)
        assert ours == theirs

    @rule(place=st.integers(0, len(DATA) + 10))
    def seek(self, place: int) -> None:
        assert self.file.seek(place) == self.model.seek(place)

    @rule(back=st.integers(0, len(DATA)))
    def seek_from_the_end(self, back: int) -> None:
        assert self.file.seek(-back, os.SEEK_END) == self.model.seek(-back, os.SEEK_END)

    @rule(by=st.integers(0, 70_000))
    def seek_on(self, by: int) -> None:
        assert self.file.seek(by, os.SEEK_CUR) == self.model.seek(by, os.SEEK_CUR)

    @invariant()
    def same_place(self) -> None:
        assert self.file.tell() == self.model.tell()

    def teardown(self) -> None:
        self.file.close()


def test_reading_is_as_of_a_file_in_memory(store: tuple[Path, MemoryStore]) -> None:
    folder, blocks = store
    machine = type("Machine", (FileMachine,), {"folder": folder, "store": blocks})
    case = machine.TestCase
    case.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
    case().runTest()
