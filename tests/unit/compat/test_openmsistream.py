"""OpenMSIStream's messages: its own bytes are read and written, and what loses files there does not here."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.compat import openmsistream
from holdfast.compat.openmsistream import Chunk, Gathered
from holdfast.stream.records import Poison

GOLDEN = bytes.fromhex(
    "9aa5612e747874c440e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41edda2c2b207a36e10f8bc"
    "b8d45223e54878f5b316e7ce3b6bc019629c440e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41"
    "edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629000101a3737562a0c40668656c6c6f0acb41d954fc40200000"
)
"""sub/a.txt = "hello\\n" in one chunk, as release 1.8.8 writes it."""
HELLO = Chunk("sub", "a.txt", hashlib.sha512(b"hello\n").digest(), 1, 1, 0, b"hello\n", 1_700_000_000.5)
FIELDS: list[Any] = msgspec.msgpack.decode(GOLDEN)


def packed(fields: list[Any]) -> bytes:
    return msgspec.msgpack.encode(fields)


def chunks_of(data: bytes, size: int, name: str = "a.bin", folder: str = "") -> list[Chunk]:
    digest, count = hashlib.sha512(data).digest(), -(-len(data) // size)
    pieces = ((at, data[at : at + size]) for at in range(0, len(data), size))
    return [Chunk(folder, name, digest, n, count, at, piece) for n, (at, piece) in enumerate(pieces, start=1)]


def test_its_own_bytes_are_read_and_written() -> None:
    assert openmsistream.decode(GOLDEN) == HELLO
    assert openmsistream.encode(HELLO) == GOLDEN
    assert (openmsistream.key_of(HELLO), HELLO.path) == (b"sub_a.txt_chunk_1_of_1", b"sub/a.txt")
    assert openmsistream.key_of(replace(HELLO, folder="", name="b.txt", number=3, count=7)) == b"_b.txt_chunk_3_of_7"
    assert openmsistream.decode(packed(FIELDS[:9])) == replace(HELLO, mtime_s=None)
    ancestor = ["/home/ann/a.txt", *FIELDS[:6], FIELDS[8]]
    assert openmsistream.decode(packed(ancestor)) == replace(HELLO, folder="", mtime_s=None)


def test_what_is_appended_goes_before_the_last_suffix() -> None:
    assert replace(HELLO, appendix="_2").path == b"sub/a_2.txt"
    assert replace(HELLO, name="a.tar.gz", appendix="_2").path == b"sub/a.tar_2.gz"
    assert replace(HELLO, folder="", name="plain", appendix="_2").path == b"plain_2"


def test_a_file_is_the_same_whoever_sends_it_and_another_with_other_bytes() -> None:
    assert replace(HELLO, number=2, count=3, mtime_s=None).version_id == HELLO.version_id
    ids = {HELLO.version_id, replace(HELLO, name="b.txt").version_id, replace(HELLO, file_sha512=bytes(64)).version_id}
    colliding = {replace(HELLO, folder="a_b", name="c").version_id, replace(HELLO, folder="a", name="b_c").version_id}
    assert len(ids | colliding) == 5


def field_changed(number: int, value: object) -> bytes:
    return packed([*FIELDS[:number], value, *FIELDS[number + 1 :]])


HARMS = {
    "nothing": None,
    "garbage": b"\xc1garbage",
    "no array": msgspec.msgpack.encode({"a": 1}),
    "seven fields": packed(FIELDS[:7]),
    "a folder that leads out": field_changed(6, "../../x"),
    "an absolute folder": field_changed(6, "/etc"),
    "a name that leads out": field_changed(0, ".."),
    "a name with a slash": field_changed(0, "x/y"),
    "a name with NUL": field_changed(0, "a\0"),
    "no name": field_changed(0, ""),
    "an appendix that leads out": field_changed(7, "/../../x"),
    "a number of nothing": field_changed(4, 0),
    "a number beyond the count": field_changed(4, 2),
    "a count beyond all measure": packed([*FIELDS[:4], 1, 2**40, *FIELDS[6:]]),
    "a negative offset": field_changed(3, -1),
    "an offset beyond all files": field_changed(3, 2**63),
    "no bytes": field_changed(8, b""),
    "other bytes": field_changed(8, b"hellp\n"),
    "half a digest": field_changed(1, b"x"),
    "a number as text": field_changed(4, "1"),
    "a number as truth": field_changed(4, True),
}


@pytest.mark.parametrize("name", HARMS)
def test_what_cannot_be_is_poison_with_a_reason(name: str) -> None:
    with pytest.raises(Poison) as caught:
        openmsistream.decode(HARMS[name])
    assert caught.value.reason


@given(st.binary(max_size=200))
def test_garbage_never_ends_a_reader(garbage: bytes) -> None:
    with pytest.raises(Poison):
        openmsistream.decode(garbage)


@given(st.binary(min_size=1, max_size=90), st.integers(1, 20), st.randoms(use_true_random=False))
def test_any_order_and_repetition_ends_right(data: bytes, size: int, chance: random.Random) -> None:
    chunks = chunks_of(data, size)
    mixed = [*chunks, *chunks]
    chance.shuffle(mixed)
    gathered, found, come = Gathered(len(chunks)), bytearray(len(data)), set[int]()
    for chunk in mixed:
        assert gathered.is_whole == (len(come) == len(chunks))
        for begin, end in gathered.feed(chunk):
            assert chunk.number not in come
            found[begin:end] = chunk.data
        come.add(chunk.number)
    assert (gathered.is_whole, gathered.size_bytes, bytes(found)) == (True, len(data), data)


def test_a_file_that_grew_is_another_file() -> None:
    """There the chunk that tells of the new one is thrown away, and it never gets whole."""
    old, new = chunks_of(b"a" * 50, 10), chunks_of(b"b" * 80, 10)
    assert {chunk.version_id for chunk in old} & {chunk.version_id for chunk in new} == set()


def test_chunks_that_contradict_each_other_are_poison_and_change_nothing() -> None:
    first, second, *_ = chunks_of(b"0123456789" * 4, 10)
    gathered = Gathered(4)
    gathered.feed(first)
    for wrong in (replace(second, count=5), replace(second, offset_bytes=5), replace(second, offset_bytes=0)):
        with pytest.raises(Poison) as caught:
            gathered.feed(wrong)
        assert caught.value.version_id == first.version_id
    assert (list(gathered.numbers), list(gathered.bytes)) == ([(1, 2)], [(0, 10)])


def test_all_chunks_with_a_gap_between_them_are_no_whole_file() -> None:
    first, second = chunks_of(b"0123456789" * 2, 10)
    gathered = Gathered(2)
    gathered.feed(first)
    gathered.feed(replace(second, offset_bytes=15))
    assert not gathered.is_whole
