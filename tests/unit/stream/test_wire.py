"""Records on the wire: there and back, and nothing that is not one passes."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.stream.kit import RUN, SOURCE, begin_of, version_of

from holdfast.stream import wire
from holdfast.stream.records import Abort, Begin, Data, End, Poison, Record
from holdfast.values import Attributes, FileVersion, Kind

ODD = version_of(1, b"odd", b"n\xe9ws/a\nb")
LINK = FileVersion(
    uuid.uuid4(), "lab", b"link", Kind.LINK, 0, Attributes(0o777, -5, 1, 2, "", ""), 3, link_target=b"../x\xff"
)
FOLDER = FileVersion(uuid.uuid4(), "lab", b"", Kind.FOLDER, 0, Attributes(0o755, 5, 1, 2, "u", "g"), 3)
HARD = replace(version_of(2, b"x"), hard_link_of=ODD.id)
RECORDS: list[Record] = [
    begin_of(ODD, ordinal=7),
    Data(ODD.id, 2**40, b"bytes"),
    End(ODD),
    End(version_of(3, b"")),
    Abort(ODD.id, "it changed while it was read"),
    begin_of(LINK),
    End(LINK),
    End(FOLDER),
    End(HARD),
]


def read(record: Record) -> Record:
    return wire.decode(wire.key_of(record.version_id), wire.encode(record))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert read(record) == record


@given(st.binary(min_size=1, max_size=500), st.integers(0, 2**62))
def test_bytes_come_back_as_a_view_of_the_record(data: bytes, offset: int) -> None:
    value = wire.encode(Data(ODD.id, offset, memoryview(data)))
    found = wire.decode(ODD.id.bytes, value)
    assert isinstance(found, Data)
    assert (found.offset_bytes, found.end_bytes, bytes(found.data)) == (offset, offset + len(data), data)
    assert isinstance(found.data, memoryview)
    assert found.data.obj is value
    assert len(value) == wire.HEAD_BYTES + len(data)


def test_the_format_is_what_the_text_says() -> None:
    """Read by the offsets that the module's text gives."""
    value = wire.encode(Data(ODD.id, 3, b"bytes"))
    assert (value[:8], value[8:24]) == (b"HFS1\x02\0\0\0", ODD.id.bytes)
    assert (value[56:64], value[64:]) == ((3).to_bytes(8, "big"), b"bytes")
    assert value[24:56] == blake3(value[:24] + value[56:]).digest()
    told = msgspec.msgpack.decode(wire.encode(begin_of(ODD, 7))[64:])
    assert (told["run"], told["ordinal"], told["source"]["name"]) == (RUN.bytes, 7, "lab")
    assert msgspec.msgpack.decode(wire.encode(Abort(ODD.id, "gone"))[64:]) == {"reason": "gone"}


GOOD = wire.encode(begin_of(ODD))


def test_law_7_no_flipped_bit_and_no_cut_passes() -> None:
    for number in range(8 * len(GOOD)):
        bad = bytearray(GOOD)
        bad[number // 8] ^= 1 << number % 8
        with pytest.raises(Poison):
            wire.decode(ODD.id.bytes, bytes(bad))
    for length in range(len(GOOD)):
        with pytest.raises(Poison):
            wire.decode(ODD.id.bytes, GOOD[:length])


@given(st.binary(max_size=300))
def test_garbage_is_poison_with_a_reason(garbage: bytes) -> None:
    for value in (garbage, wire.MAGIC + garbage):
        with pytest.raises(Poison) as caught:
            wire.decode(garbage[:16], value)
        assert caught.value.reason


def framed(kind: int, body: bytes, version_id: uuid.UUID = ODD.id, offset: int = 0) -> bytes:
    """As a sender would that means harm: the digest is right."""
    return wire.frame(kind, version_id, offset, body)


def changed(record: Record, **fields: Any) -> bytes:
    """The MessagePack of a record with other values in its version."""
    told = msgspec.msgpack.decode(wire.encode(record)[wire.HEAD_BYTES :])
    told["version"].update(fields)
    return msgspec.msgpack.encode(told)


HARMS = {
    "no value": (ODD.id.bytes, None),
    "no key": (None, GOOD),
    "another key": (b"lab/night", GOOD),
    "an unknown kind": (ODD.id.bytes, framed(9, b"x")),
    "no bytes": (ODD.id.bytes, framed(wire.DATA, b"")),
    "an impossible offset": (ODD.id.bytes, framed(wire.DATA, b"x", offset=2**63)),
    "no MessagePack": (ODD.id.bytes, framed(wire.BEGIN, b"\xc1\xc1")),
    "another's version": (ODD.id.bytes, framed(wire.END, changed(End(version_of(5, b"")), size=0))),
    "a path that leads out": (ODD.id.bytes, framed(wire.END, changed(End(ODD), path="../../x", path_b64=None))),
    "an absolute path": (ODD.id.bytes, framed(wire.END, changed(End(ODD), path="/etc/passwd", path_b64=None))),
    "a path with NUL": (ODD.id.bytes, framed(wire.END, changed(End(ODD), path="a\0b", path_b64=None))),
    "a negative size": (ODD.id.bytes, framed(wire.END, changed(End(ODD), size=-1))),
    "no digest": (ODD.id.bytes, framed(wire.END, changed(End(ODD), sha256=None))),
    "half a digest": (ODD.id.bytes, framed(wire.END, changed(End(ODD), sha256="00"))),
    "a source that leads out": (ODD.id.bytes, framed(wire.END, changed(End(ODD), source=".."))),
    "a BEGIN of another source": (ODD.id.bytes, framed(wire.BEGIN, changed(begin_of(ODD), source="other"))),
    "far too much text": (ODD.id.bytes, framed(wire.ABORT, msgspec.msgpack.encode({"reason": "x" * 2**19}))),
}


@pytest.mark.parametrize("name", HARMS)
def test_what_cannot_be_is_poison_and_no_error_of_ours(name: str) -> None:
    with pytest.raises(Poison) as caught:
        wire.decode(*HARMS[name])
    assert caught.value.reason


def test_keys_of_a_later_release_are_passed_over() -> None:
    body = msgspec.msgpack.decode(wire.encode(End(ODD))[wire.HEAD_BYTES :]) | {"more": [1, 2]}
    assert wire.decode(ODD.id.bytes, framed(wire.END, msgspec.msgpack.encode(body))) == End(ODD)


def test_what_a_sender_cannot_mean_is_a_mistake_of_its_own() -> None:
    with pytest.raises(ValueError, match="source"):
        Begin(RUN, 0, replace(SOURCE, name="other"), ODD)
    with pytest.raises(ValueError, match="ordinal"):
        Begin(RUN, -1, SOURCE, ODD)
    with pytest.raises(ValueError, match="what its bytes are"):
        End(replace(ODD, content=None))
