"""What changers say: outputs of `mtx status`, seen and made from its source, and a reply with the drives' names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import MediaError
from holdfast.tape.changer.elements import DriveElement, SlotElement, drive_serials, parse_status

ANSWERS = Path(__file__).parent / "answers"
MIXED = (ANSWERS / "mixed.txt").read_text()
TWELVE = (ANSWERS / "twelve-drives.txt").read_text()
TWELVE_IDS = (ANSWERS / "twelve-drives.ids").read_bytes()


def test_a_library_with_everything_that_is_rare() -> None:
    elements = parse_status(MIXED)
    assert elements.drives == (
        DriveElement(0, True, "000003L6", None),  # nobody knows its slot
        DriveElement(1, True, None, 4),  # no barcode
        DriveElement(2, False, None, None),
    )
    assert elements.slots == (
        SlotElement(1, True, "000001L6", False),  # and another barcode on its other side
        SlotElement(2, True, None, False),
        SlotElement(3, False, None, False),
        SlotElement(4, False, None, False),
        SlotElement(5, True, "CLNU01L1", False),
        SlotElement(6, True, "PAPR1001", False),
        SlotElement(7, True, "000009L6", True),
        SlotElement(8, False, None, True),
    )


def test_more_than_nine_drives() -> None:
    """Seen, with tgt."""
    elements = parse_status(TWELVE)
    assert [drive.number for drive in elements.drives] == list(range(12))
    assert elements.drives[10] == DriveElement(10, True, "HFA003L6", 3)
    assert elements.slots[2] == SlotElement(3, False, None, False)


def test_a_cartridge_goes_back_where_it_came_from_or_to_a_free_slot_that_is_no_port() -> None:
    elements = parse_status(MIXED)
    homes = [elements.home_of(drive) for drive in elements.drives[:2]]
    assert [home.number if home else None for home in homes] == [3, 4]
    taken = parse_status(
        MIXED.replace("Element 3:Empty", "Element 3:Full ").replace("Element 4:Empty", "Element 4:Full ")
    )
    assert taken.home_of(taken.drives[0]) is None


def test_where_a_cartridge_is() -> None:
    elements = parse_status(MIXED)
    slot = elements.slot_of("000009L6")
    assert slot is not None
    assert slot.number == 7
    assert elements.slot_of("000003L6") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mtx: something went wrong\n",
        "\n".join(MIXED.splitlines()[:-1]),  # cut off
        "\n".join(MIXED.splitlines()[1:]),  # nobody says how many
        MIXED.replace("Data Transfer Element 1:Full", "Data Transfer Element 1:Ajar"),
        MIXED.replace("Storage Element 3:Empty", "Storage Element three:Empty"),
    ],
)
def test_what_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(MediaError, match="not understood") as caught:
        parse_status(text)
    assert caught.value.found
    assert caught.value.hint


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse_status(text)
    except MediaError:
        pass


def test_the_drives_tell_their_serial_numbers() -> None:
    """Seen, with tgt, which leaves out the last 8 bytes of its answer."""
    told = drive_serials(TWELVE_IDS)
    assert told[:11] == [*(f"HFDRV{9 - drive:05d}" for drive in range(10)), "HFDRV00010"]
    assert told[11] in (None, "HF")


def page(kind: int, *identifiers: bytes, flags: int = 0x80) -> bytes:
    """A page of descriptors with 12 bytes, a barcode of 36 where there is one, and an identifier."""
    barcode = b" " * 36 if flags & 0x80 else b""
    size = max((len(identifier) for identifier in identifiers), default=0)
    items = [
        bytes([1, number]) + bytes(10) + barcode + item.ljust(size, b"\0") for number, item in enumerate(identifiers)
    ]
    body = b"".join(items)
    head = bytes([kind, flags]) + (12 + len(barcode) + size).to_bytes(2) + b"\0" + len(body).to_bytes(3)
    return head + body


def reply(*pages: bytes) -> bytes:
    body = b"".join(pages)
    return bytes(5) + len(body).to_bytes(3) + body


def identifier(kind: int, text: bytes, code_set: int = 2) -> bytes:
    return bytes([code_set, kind, 0, len(text)]) + text


@pytest.mark.parametrize("flags", [0x00, 0x80])
def test_identifiers_of_several_kinds(flags: int) -> None:
    drives = page(
        4,
        identifier(0, b"HU1234ABCD"),
        identifier(1, b"IBM     ULT3580-TD8     1013001234"),
        identifier(1, b"HP      Ultrium 8-SCSI  CZ1234"),
        identifier(3, b"\x50\x01\x10\xa0\x00\x12\x34\x56", code_set=1),  # a name for the port, in binary
        b"",
        flags=flags,
    )
    assert drive_serials(reply(page(2, b""), drives)) == ["HU1234ABCD", "1013001234", "CZ1234", None, None]


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_reply_is_read_without_harm(noise: bytes, cut: int) -> None:
    drive_serials(noise)
    drive_serials(TWELVE_IDS[:cut] + noise)
