"""The nouns check themselves, and names stay bytes."""

from __future__ import annotations

import base64
import hashlib
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.values import (
    BLOCK_LIMIT_BYTES,
    EMPTY_CONTENT,
    TIME_LIMIT_NS,
    Attributes,
    Content,
    FileVersion,
    Kind,
    Locator,
    Segment,
    Source,
    check_relative_path,
    check_source_name,
    parent_path,
    parse_bytes,
    path_digest,
    path_fields,
    show_bytes,
    show_path,
)

DIGEST = bytes(range(32))
ATTRIBUTES = Attributes(0o644, 1, 0, 0, "", "")

# -- contents, locators, segments


def test_the_empty_content_is_that_of_no_bytes() -> None:
    assert Content(hashlib.sha256().digest(), 0) == EMPTY_CONTENT


@pytest.mark.parametrize(("digest", "size"), [(b"", 0), (bytes(31), 1), (bytes(33), 1), (DIGEST, -1)])
def test_an_impossible_content_cannot_be_made(digest: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="not a content"):
        Content(digest, size)


@pytest.mark.parametrize("size", [0, -1, BLOCK_LIMIT_BYTES + 1])
def test_an_impossible_locator_cannot_be_made(size: int) -> None:
    with pytest.raises(ValueError, match="not a locator"):
        Locator(DIGEST, size)
    with pytest.raises(ValueError, match="not a locator"):
        Locator(DIGEST[1:], 5)


@given(st.binary(min_size=32, max_size=32), st.integers(1, BLOCK_LIMIT_BYTES))
def test_a_locator_reads_back_from_its_text(digest: bytes, size: int) -> None:
    locator = Locator(digest, size)
    assert Locator.parse(str(locator)) == locator
    assert str(locator) == f"b3:{digest.hex()}+{size}"


HEX = DIGEST.hex()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"b3:{HEX}",
        f"b3:{HEX}+",
        f"b3:{HEX}+0",
        f"b3:{HEX}+007",
        f"b3:{HEX}+٣",
        f"b3:{HEX}+{BLOCK_LIMIT_BYTES + 1}",
        f"b3:{HEX}+100000000000",
        f"b3:{HEX.upper()}+5",
        f"b3:{HEX[:-1]}+5",
        f"{HEX}+5",
        f" b3:{HEX}+5",
        f"b3:{HEX}+5\n",
    ],
)
def test_every_locator_has_one_text_and_all_others_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="malformed block locator") as caught:
        Locator.parse(text)
    assert caught.value.found == repr(text)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (0, 11), (10, 1), (5, -1)])
def test_law_7_a_segment_lies_in_its_block(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="segment"):
        Segment(Locator(DIGEST, 10), offset, length)
    Segment(Locator(DIGEST, 10), 9, 1)


# -- versions


def version(path: bytes = b"a", kind: Kind = Kind.FILE, **more: object) -> FileVersion:
    return FileVersion(uuid.uuid4(), "lab", path, kind, 0, ATTRIBUTES, 1, **more)  # type: ignore[arg-type]


def test_a_version_says_its_full_name() -> None:
    assert version(b"a/\xff").full_path == b"lab/a/\xff"
    assert version(b"", Kind.FOLDER).full_path == b"lab"


def test_law_7_a_version_and_its_content_have_one_size() -> None:
    with pytest.raises(ValueError, match="content of 5"):
        version(content=Content(DIGEST, 5))
    replace(version(), size_bytes=5, content=Content(DIGEST, 5))


@pytest.mark.parametrize("moment", [2**63 * 10**9, -(2**63) * 10**9, 2**200])
def test_a_time_that_no_file_has_is_refused(moment: int) -> None:
    with pytest.raises(ValueError, match="no file has"):
        replace(ATTRIBUTES, mtime_ns=moment)
    for limit in (TIME_LIMIT_NS, -TIME_LIMIT_NS):
        replace(ATTRIBUTES, mtime_ns=limit)


def test_owners_with_names_in_another_encoding_can_be_kept() -> None:
    odd = replace(ATTRIBUTES, user=b"m\xfcller".decode("utf-8", "surrogateescape"), group="größe")
    assert (odd.user, odd.group) == ("m\\xfcller", "größe")
    assert replace(odd) == odd


# -- paths

parts = st.binary(min_size=1, max_size=8).filter(lambda part: b"/" not in part and b"\0" not in part)
safe_parts = parts.filter(lambda part: part not in (b".", b".."))


@given(st.lists(safe_parts, min_size=1, max_size=4))
def test_safe_paths_are_safe_and_lie_in_their_parent(names: list[bytes]) -> None:
    path = b"/".join(names)
    check_relative_path(path)
    assert parent_path(path) == b"/".join(names[:-1])


@pytest.mark.parametrize(
    "path", [b"", b"/", b"/a", b"a/", b"a//b", b".", b"..", b"a/../b", b"./a", b"a/.", b"a\0b", b"../../etc/passwd"]
)
def test_law_5_paths_that_leave_their_root_are_refused(path: bytes) -> None:
    with pytest.raises(ValueError, match="not a safe relative path"):
        check_relative_path(path)
    with pytest.raises(ValueError, match="not a safe relative path"):
        version(path)


def test_only_a_folder_may_be_the_root() -> None:
    check_relative_path(b"", empty_allowed=True)
    version(b"", Kind.FOLDER)
    with pytest.raises(ValueError, match="not a safe relative path"):
        version(b"", Kind.LINK)


def test_paths_that_look_alike_are_different() -> None:
    looks = ["\u00e9".encode(), "e\u0301".encode(), b"E", b"e", b"e "]
    assert len({path_digest(path) for path in looks}) == len(looks)


@given(st.binary(max_size=60))
def test_a_shown_path_is_harmless_and_the_exact_one_stands_beside_it(path: bytes) -> None:
    shown = show_path(path)
    assert shown.isprintable()
    fields = path_fields(path)
    exact = base64.b64decode(fields["path_b64"]) if "path_b64" in fields else fields["path"].encode()
    assert exact == path


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"plain/name", "plain/name"),
        ("größe".encode(), "größe"),
        (b"bad\xff", "bad\\xff"),
        (b"\x1b[31mred\n", "\\x1b[31mred\\n"),
        ("a\u202eb".encode(), "a\\u202eb"),  # would turn the text around
        ("\U000e0001".encode(), "\\U000e0001"),
    ],
)
def test_control_characters_never_reach_a_terminal(path: bytes, shown: str) -> None:
    assert show_path(path) == shown


# -- names of sources


@pytest.mark.parametrize("name", ["lab", "röntgen 2", "a" * 100, "LAB.1_x-y", "...", "~", "manifest"])
def test_names_that_sources_may_have(name: str) -> None:
    check_source_name(name)
    Source(uuid.uuid4(), name, "host", b"/")


@pytest.mark.parametrize(
    "name",
    ["", " ", "a ", " a", "a/b", ".", "..", "MANIFEST", "-rf", "a\nb", "a\0", "a" * 101, "é" * 51, "\udc80", "\x1b"],
)
def test_names_that_no_source_may_have(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        Source(uuid.uuid4(), name, "host", b"/")
    assert "--source" in (caught.value.hint or "")


# -- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("65536", 65536),
        ("12TB", 12 * 10**12),
        (" 4 GiB ", 4 * 2**30),
        ("1.5 kB", 1500),
        ("0.1 MB", 100_000),
        ("2.5KB", 2500),
        ("1 TiB", 2**40),
        ("12345678901234567", 12345678901234567),
        ("9007199254740993 B", 2**53 + 1),
    ],
)
def test_sizes_are_read_to_the_byte(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.4",
        "0.0001 kB",
        "-1",
        "+1",
        "1e3",
        "4 gib",
        "1 XB",
        "GB",
        "1,5 GB",
        "٣",
        "1.",
        ".5",
        "9" * 400,
        "inf",
    ],
)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (12 * 10**12, "12.0 TB"),
        (5 * 10**15, "5000.0 TB"),
        (-2000, "-2.0 kB"),
    ],
)
def test_sizes_are_shown_in_decimal_units(size: int, shown: str) -> None:
    assert show_bytes(size) == shown


@given(st.integers(1, 10**16))
def test_a_shown_size_reads_back_to_within_what_is_shown(size: int) -> None:
    assert abs(parse_bytes(show_bytes(size)) - size) <= size * 0.06
