"""What stands in tape file 0."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import IntegrityError
from holdfast.tape.label import TAPE_FORMAT, Label, decode_volume, encode_volume, readme
from holdfast.values import Side

LABEL = Label(
    barcode="HF0001L8",
    volume_id=uuid.UUID(int=1),
    pair_id=uuid.UUID(int=2),
    vault_id=uuid.UUID(int=3),
    side=Side.A,
    twin_barcode="HF0002L8",
    record_bytes=524288,
    created="2026-11-21T08:00:00+00:00",
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
labels = st.builds(
    Label,
    barcode=texts,
    volume_id=st.uuids(),
    pair_id=st.uuids(),
    vault_id=st.uuids(),
    side=st.sampled_from(Side),
    twin_barcode=texts,
    record_bytes=st.integers(512, 2**24),
    created=texts,
    replaces=texts,
)


@given(labels)
def test_a_label_comes_back_as_it_was(label: Label) -> None:
    assert decode_volume(encode_volume(label)) == label


def test_the_golden_label() -> None:
    """If this fails, tapes in the vault may not be recognised any more."""
    assert json.loads(encode_volume(LABEL)) == {
        "holdfast_tape": 1,
        "barcode": "HF0001L8",
        "volume_id": "00000000-0000-0000-0000-000000000001",
        "pair_id": "00000000-0000-0000-0000-000000000002",
        "vault_id": "00000000-0000-0000-0000-000000000003",
        "side": "A",
        "twin_barcode": "HF0002L8",
        "record_bytes": 524288,
        "created": "2026-11-21T08:00:00+00:00",
    }


def test_a_replacement_says_which_cartridge_it_replaces_and_labels_without_that_are_read() -> None:
    one = replace(LABEL, replaces="HF0009L8")
    document = json.loads(encode_volume(one))
    assert document.pop("replaces") == "HF0009L8"
    assert document == json.loads(encode_volume(LABEL))
    assert decode_volume(json.dumps(document).encode()) == LABEL


def test_a_newer_format_is_refused_with_a_way_out() -> None:
    newer = replace(LABEL, format=TAPE_FORMAT + 1)
    with pytest.raises(IntegrityError) as caught:
        decode_volume(encode_volume(newer))
    assert caught.value.facts() == {
        "error": "a tape of a newer format than this Holdfast knows",
        "place": "HF0001L8",
        "expected": f"format {TAPE_FORMAT} or older",
        "found": f"format {TAPE_FORMAT + 1}",
        "next": "pip install --upgrade holdfast",
    }


def test_a_newer_format_is_told_even_if_its_fields_are_others() -> None:
    with pytest.raises(IntegrityError, match="newer format"):
        decode_volume(json.dumps({"holdfast_tape": TAPE_FORMAT + 1, "cartridge": "HF0001L9"}).encode())


def test_what_a_later_release_adds_to_this_format_is_passed_over() -> None:
    document = json.loads(encode_volume(LABEL)) | {"worm": True}
    assert decode_volume(json.dumps(document).encode()) == LABEL


@pytest.mark.parametrize("field", list(json.loads(encode_volume(LABEL))))
@pytest.mark.parametrize("value", [None, [], "?", -1])
def test_a_damaged_field_is_an_integrity_error_or_another_label(field: str, value: object) -> None:
    document = json.loads(encode_volume(LABEL)) | {field: value}
    if field in ("barcode", "twin_barcode", "created") and value == "?":
        assert decode_volume(json.dumps(document).encode()) != LABEL
        return
    with pytest.raises(IntegrityError):
        decode_volume(json.dumps(document).encode())


@pytest.mark.parametrize("field", list(json.loads(encode_volume(LABEL))))
def test_a_missing_field_is_an_integrity_error(field: str) -> None:
    document = json.loads(encode_volume(LABEL))
    del document[field]
    with pytest.raises(IntegrityError, match="damaged VOLUME"):
        decode_volume(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'"text"', b"\xff", b"7", b"[" * 100_000])
def test_what_is_no_label_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="damaged VOLUME"):
        decode_volume(data)


@given(st.data())
def test_a_flipped_bit_is_an_error_or_another_label(data: st.DataObject) -> None:
    encoded = bytearray(encode_volume(LABEL))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        found = decode_volume(bytes(encoded))
    except IntegrityError:
        return
    # whitespace and the like may change without changing what it says
    assert found != LABEL or json.loads(encoded) == json.loads(encode_volume(LABEL))


def test_the_readme_tells_how_to_read_this_very_tape() -> None:
    text = readme(LABEL).decode()
    for said in (
        "HF0001L8",
        "HF0002L8",
        "Side A",
        str(LABEL.pair_id),
        "524288 bytes",
        "tar -b 1024 -xf /dev/nst0",
        "setblk 0",
    ):
        assert said in text
    assert "python3 rescue.py extract /dev/nst0 DIR" in text
    assert "{" not in text
    assert max(map(len, text.splitlines())) <= 120
