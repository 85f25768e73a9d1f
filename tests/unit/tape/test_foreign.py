"""Tapes of other systems are called by their names."""

from __future__ import annotations

import io
import tarfile
import uuid

import pytest

from holdfast.tape import layout
from holdfast.tape.foreign import identify


def a_tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return data.getvalue()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"VOL1ABC123L" + b" " * 13 + b"LTFS" + b" " * 52, "an LTFS tape, volume 'ABC123'"),
        (b"VOL1BACK01 " + b" " * 69, "a tape with ANSI labels, volume 'BACK01'"),
        (b"\xe5\xd6\xd3\xf1" + bytes(76), "a tape with IBM standard labels"),
        (b"## Paper dump catalog:123 (version:1 on 20131022-0303)\n", "a tape of papertape"),
        (b"AMANDA: TAPESTART DATE 20240101", "a tape of Amanda"),
        (bytes(12) + b"BB02" + bytes(100), "a tape of Bareos or Bacula"),
        (a_tar(), "a tar archive that is no label of Holdfast"),
        (
            layout.encode_global(layout.object_comment("label", uuid.UUID(int=1), uuid.UUID(int=2))),
            "a tape with a label of Holdfast",
        ),
        (b"\x1f\x8b\x08", "data compressed with gzip"),
        (b"", "a tape that begins with a file mark"),
        (bytes(512), "unknown data in records of 512 bytes"),
    ],
)
def test_the_first_record_tells_whose_tape_it_is(record: bytes, words: str) -> None:
    assert identify(record) == words
