"""Manifest records: what they say comes back, and what they cannot say is refused."""

from __future__ import annotations

import uuid

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.blocks.kit import SOURCE, version_of

from holdfast.blocks import manifest as manifests
from holdfast.blocks.manifest import Manifest, StoredVersion
from holdfast.errors import IntegrityError
from holdfast.values import Locator, Segment, Sighting, VersionEnd

sightings = st.builds(
    Sighting,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**63),
)
names = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name.strip(b".")
)


def test_a_manifest_round_trips() -> None:
    data = b"some bytes"
    locator = Locator(blake3(data).digest(), len(data))
    stored = StoredVersion(
        version_of(b"a/b", data), Sighting(1, 2, 3, 4), (Segment(locator, 2, 3), Segment(locator, 0, 7))
    )
    manifest = Manifest((SOURCE,), (stored,), (VersionEnd(uuid.uuid4(), 77),))
    assert manifests.decode(manifests.encode(manifest)) == manifest


@given(st.lists(st.tuples(names, st.binary(max_size=5), st.none() | sightings), max_size=5))
@settings(max_examples=50)
def test_any_name_and_sighting_round_trips(files: list[tuple[bytes, bytes, Sighting | None]]) -> None:
    versions = tuple(StoredVersion(version_of(name, data), sighting) for name, data, sighting in files)
    manifest = Manifest((SOURCE,), versions)
    payload = manifests.encode(manifest)
    assert manifests.decode(payload) == manifest
    assert payload.count(b"\n") == 1 + len(files)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"null",
        b'{"is":"nothing known"}',
        b'{"is":"end","version":"x","ended_ns":1}',
        b'{"is":"end","version":"' + b"0" * 32 + b'"}',
    ],
)
def test_law_7_a_line_that_cannot_be_is_named(line: bytes) -> None:
    payload = manifests.encode(Manifest((SOURCE,), ())) + line + b"\n"
    with pytest.raises(IntegrityError) as caught:
        manifests.decode(payload)
    assert caught.value.place == "line 2"


def test_law_7_impossible_segments_and_paths_are_damage() -> None:
    stored = StoredVersion(version_of(b"a", b"abc"), None, (Segment(Locator(bytes(32), 5), 0, 3),))
    payload = manifests.encode(Manifest((SOURCE,), (stored,)))
    for old, new in [(b"+5", b"+05"), (b",0,3]", b",4,3]"), (b'"path":"a"', b'"path":"../a"'), (b"b3:", b"b4:")]:
        assert payload.count(old) == 1
        with pytest.raises(IntegrityError):
            manifests.decode(payload.replace(old, new))


def test_keys_of_a_later_release_are_passed_over() -> None:
    manifest = Manifest((SOURCE,), (StoredVersion(version_of(b"a", b""), None),))
    payload = manifests.encode(manifest).replace(b'"path":', b'"tomorrow":{"x":[1]},"path":')
    assert manifests.decode(payload) == manifest
