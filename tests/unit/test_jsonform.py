"""The JSON lines that packs and tapes carry: golden, exact, and open to later releases."""

from __future__ import annotations

import json
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import jsonform
from holdfast.values import (
    EMPTY_CONTENT,
    TIME_LIMIT_NS,
    Attributes,
    Content,
    FileVersion,
    Kind,
    Locator,
    Segment,
    Sighting,
    Source,
    VersionEnd,
)

ID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
OTHER_ID = uuid.UUID("ffeeddcc-bbaa-9988-7766-554433221100")

# What stands here is written on tapes that outlive us (law 8): keys may be added, none may change.
GOLDEN_FILE = (
    '{"is":"version","id":"00112233445566778899aabbccddeeff","source":"lab","path":"a/b\\\\xff","kind":"file","size":5,'
    '"mode":420,"mtime_ns":1700000000123456789,"uid":1000,"gid":100,"user":"ann","group":"staff","seen_ns":7,'
    '"path_b64":"YS9i/w==","sha256":"' + "ab" * 32 + '","hard_link_of":"ffeeddccbbaa99887766554433221100",'
    '"sparse":true,"sighting":[1,18446744073709551615,3,4],'
    '"segments":[["b3:' + "cd" * 32 + '+9",2,5]]}'
)
GOLDEN_LINK = (
    '{"is":"version","id":"00112233445566778899aabbccddeeff","source":"lab","path":"l","kind":"link","size":0,'
    '"mode":511,"mtime_ns":-1,"uid":0,"gid":0,"user":"","group":"","seen_ns":7,"target_b64":"Li4v/w=="}'
)
GOLDEN_SOURCE = '{"is":"source","id":"00112233445566778899aabbccddeeff","name":"lab","host":"h","root":"/d\\\\xff","root_b64":"L2T/"}'
GOLDEN_END = '{"is":"end","version":"00112233445566778899aabbccddeeff","ended_ns":9}'

FILE = FileVersion(
    ID,
    "lab",
    b"a/b\xff",
    Kind.FILE,
    5,
    Attributes(0o644, 1_700_000_000_123_456_789, 1000, 100, "ann", "staff", sparse=True),
    7,
    Content(b"\xab" * 32, 5),
    hard_link_of=OTHER_ID,
)
LINK = FileVersion(ID, "lab", b"l", Kind.LINK, 0, Attributes(0o777, -1, 0, 0, "", ""), 7, link_target=b"../\xff")


def test_law_8_the_lines_do_not_drift() -> None:
    line = jsonform.version_line(FILE, Sighting(1, 2**64 - 1, 3, 4))
    line.segments = [("b3:" + "cd" * 32 + "+9", 2, 5)]
    assert jsonform.encode_line(line).decode() == GOLDEN_FILE
    assert jsonform.encode_line(jsonform.version_line(LINK)).decode() == GOLDEN_LINK
    source = Source(ID, "lab", "h", b"/d\xff")
    assert jsonform.encode_line(jsonform.source_line(source)).decode() == GOLDEN_SOURCE
    assert jsonform.encode_line(jsonform.end_line(VersionEnd(ID, 9))).decode() == GOLDEN_END


def decode(text: str) -> jsonform.Line:
    return msgspec.json.decode(text, type=jsonform.Line)


def test_law_8_the_lines_of_today_will_be_read() -> None:
    file, link, source, end = map(decode, (GOLDEN_FILE, GOLDEN_LINK, GOLDEN_SOURCE, GOLDEN_END))
    assert isinstance(file, jsonform.VersionLine)
    assert jsonform.version_of(file) == FILE
    assert jsonform.sighting_of(file) == Sighting(1, 2**64 - 1, 3, 4)
    assert jsonform.segments_of(file) == (Segment(Locator(b"\xcd" * 32, 9), 2, 5),)
    assert isinstance(link, jsonform.VersionLine)
    assert jsonform.version_of(link) == LINK
    assert jsonform.sighting_of(link) is None
    assert isinstance(source, jsonform.SourceLine)
    assert jsonform.source_of(source) == Source(ID, "lab", "h", b"/d\xff")
    assert isinstance(end, jsonform.EndLine)
    assert jsonform.end_of(end) == VersionEnd(ID, 9)


@pytest.mark.parametrize("text", [GOLDEN_FILE, GOLDEN_LINK, GOLDEN_SOURCE, GOLDEN_END])
def test_keys_of_later_releases_are_passed_over(text: str) -> None:
    assert decode(text.replace("}", ',"later":[{"x":null}]}')) == decode(text)


names = st.binary(min_size=1, max_size=30).filter(
    lambda name: b"/" not in name and b"\0" not in name and name.strip(b".")
)
signed = st.integers(-(2**63) + 1, 2**63 - 1)
unsigned = st.integers(0, 2**64 - 1)
attributes = st.builds(
    Attributes,
    st.integers(0, 0o7777),
    st.integers(-TIME_LIMIT_NS, TIME_LIMIT_NS),
    st.integers(0, 2**32),
    st.integers(0, 2**32),
    st.text(),
    st.text(),
    st.booleans(),
)


@st.composite
def versions(draw: st.DrawFn) -> FileVersion:
    kind = draw(st.sampled_from(Kind))
    content = None
    if kind is Kind.FILE:
        content = draw(st.none() | st.builds(Content, st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1)))
    return FileVersion(
        draw(st.uuids()),
        draw(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20)),
        b"/".join(draw(st.lists(names, min_size=1, max_size=3))),
        kind,
        content.size_bytes if content else draw(st.integers(0, 2**63 - 1)),
        draw(attributes),
        draw(signed),
        content,
        draw(st.binary(max_size=20)) if kind is Kind.LINK else None,
        draw(st.none() | st.uuids()),
    )


@given(versions(), st.none() | st.builds(Sighting, unsigned, unsigned, signed, signed))
def test_every_version_round_trips_in_one_line(version: FileVersion, sighting: Sighting | None) -> None:
    data = jsonform.encode_line(jsonform.version_line(version, sighting))
    assert b"\n" not in data
    line = msgspec.json.decode(data, type=jsonform.Line)
    assert isinstance(line, jsonform.VersionLine)
    assert jsonform.version_of(line) == version
    assert jsonform.sighting_of(line) == sighting
    assert json.loads(data)["path"].isprintable()


def test_an_empty_file_keeps_its_content_and_an_unread_one_has_none() -> None:
    for content in (EMPTY_CONTENT, None):
        version = FileVersion(ID, "lab", b"e", Kind.FILE, 0, Attributes(0, 0, 0, 0, "", ""), 1, content)
        line = decode(jsonform.encode_line(jsonform.version_line(version)).decode())
        assert isinstance(line, jsonform.VersionLine)
        assert jsonform.version_of(line).content == content


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"kind":"file"', '"kind":"device"'),
        ('"sha256":"ab', '"sha256":"'),
        ('"sha256":"ab', '"sha256":"zz'),
        ("YS9i/w==", "YS8uLi9i"),
        ("YS9i/w==", "L2V0Yw=="),
        ("YS9i/w==", "!"),
        ('"size":5', '"size":-5'),
        ('"id":"0', '"id":"'),
        ('"mtime_ns":1700000000123456789', '"mtime_ns":9223372036854775808000000000'),
    ],
)
def test_law_7_a_line_that_cannot_be_is_refused(old: str, new: str) -> None:
    assert GOLDEN_FILE.count(old) == 1
    line = decode(GOLDEN_FILE.replace(old, new))
    assert isinstance(line, jsonform.VersionLine)
    with pytest.raises(ValueError):  # noqa: PT011 - of many kinds; `manifest.decode` names the line
        jsonform.version_of(line)
