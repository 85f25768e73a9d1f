"""The text that `sha256sum -c` reads, against the real `sha256sum`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.errors import IntegrityError
from holdfast.tape import checksums

SHA256SUM = str(shutil.which("sha256sum"))
DIGEST = hashlib.sha256(b"x").digest()

names = st.one_of(
    st.binary(min_size=1, max_size=255),
    st.lists(st.sampled_from([b"\\", b"\n", b"\r", b"n", b"r", b" ", b"*", b"#", b"-", b"a"]), min_size=1).map(
        b"".join
    ),
).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b"..", b"-") and len(name) <= 255)


@settings(max_examples=40)
@given(st.dictionaries(names, st.binary(max_size=20), min_size=1, max_size=20))
@example({b"\\": b"1", b"\\\\": b"2", b"\n": b"3", b"\\n": b"4", b"\r": b"5", b"#": b"6", b" *": b"7", b"-x": b"8"})
def test_sha256sum_checks_what_was_encoded(files: dict[bytes, bytes]) -> None:
    text = b"".join(checksums.encode_line(hashlib.sha256(data).digest(), b"./" + name) for name, data in files.items())
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            with open(os.path.join(os.fsencode(folder), name), "wb") as file:
                file.write(data)
        done = subprocess.run(
            [SHA256SUM, "--check", "--strict", "--quiet"], input=text, cwd=folder, capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        written = subprocess.run([SHA256SUM, "--", *files], cwd=folder, capture_output=True, check=True).stdout
    expected = {name: hashlib.sha256(data).digest() for name, data in files.items()}
    assert checksums.decode(written) == expected  # what sha256sum writes is read
    assert written == b"".join(checksums.encode_line(digest, name) for name, digest in expected.items())


@given(st.dictionaries(names, st.binary(min_size=32, max_size=32)))
def test_what_is_encoded_is_decoded(digests: dict[bytes, bytes]) -> None:
    text = b"".join(checksums.encode_line(digest, name) for name, digest in digests.items())
    assert checksums.decode(text) == digests
    assert len(text) == sum(map(checksums.line_bytes, digests))


@given(st.dictionaries(names, st.binary(min_size=32, max_size=32), min_size=1, max_size=3), st.data())
def test_a_flipped_bit_is_an_error_or_changes_what_is_read(digests: dict[bytes, bytes], data: st.DataObject) -> None:
    text = bytearray(b"".join(checksums.encode_line(digest, name) for name, digest in digests.items()))
    bit = data.draw(st.integers(0, len(text) * 8 - 1))
    text[bit // 8] ^= 1 << bit % 8
    with suppress(IntegrityError):
        assert checksums.decode(bytes(text)) != digests


def test_an_empty_text_lists_nothing() -> None:
    assert checksums.decode(b"") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\n", "damaged line in a MANIFEST; place: line 1"),
        (checksums.encode_line(DIGEST, b"a") + b"nonsense\n", "damaged line in a MANIFEST; place: line 2"),
        (checksums.encode_line(DIGEST, b"a").upper(), "damaged line in a MANIFEST; place: line 1"),
        (checksums.encode_line(DIGEST, b"a").replace(b"  ", b" *"), "damaged line in a MANIFEST; place: line 1"),
        (checksums.encode_line(DIGEST, b"a")[:-1], "the MANIFEST does not end with a whole line"),
        (b"\\" + DIGEST.hex().encode() + b"  a\\tb\n", "unknown escape in a MANIFEST; place: line 1"),
        (b"\\" + DIGEST.hex().encode() + b"  a\\\n", "unknown escape in a MANIFEST; place: line 1"),
    ],
)
def test_damage_is_an_error_that_names_the_line(text: bytes, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        checksums.decode(text)
    assert str(caught.value).startswith(message)
