"""The layouts of mtio.h, and the meaning of what comes back."""

from __future__ import annotations

import struct

import pytest

from holdfast.tape.drive.mtio import (
    MTIOCGET,
    MTIOCPOS,
    MTIOCTOP,
    PLACE_BYTES,
    STATUS_BYTES,
    Operation,
    Status,
    decode_place,
    decode_serial,
    decode_status,
    encode_operation,
)


def iow(direction: int, number: int, size_bytes: int) -> int:
    """_IOC of asm-generic/ioctl.h."""
    return direction << 30 | size_bytes << 16 | ord("m") << 8 | number


def test_the_requests_are_those_of_the_header() -> None:
    assert iow(1, 1, struct.calcsize("@hi")) == MTIOCTOP
    assert iow(2, 2, STATUS_BYTES) == MTIOCGET
    assert iow(2, 3, PLACE_BYTES) == MTIOCPOS


def test_an_operation_is_a_short_and_an_int_with_room_between() -> None:
    assert encode_operation(Operation.SPACE_FILE_MARKS, 3) == b"\x01\0\0\0\x03\0\0\0"
    assert encode_operation(Operation.LOCATE, 2**31 - 1) == b"\x16\0\0\0\xff\xff\xff\x7f"
    with pytest.raises(ValueError, match="LOCATE"):
        encode_operation(Operation.LOCATE, 2**31)


def answer(general: int, block_bytes: int = 0, tape_file: int = 0) -> bytes:
    return struct.pack("@lllllii", 0x72, 0, 0x58 << 24 | block_bytes, general, 0, tape_file, 0)


@pytest.mark.parametrize(
    ("general", "expected"),
    [
        (0x41000000, Status(True, False, False, False, 0, 0)),  # at the begin, ready
        (0x00040000, Status(False, True, False, False, 0, 0)),  # no cartridge
        (0x45000000, Status(True, False, True, False, 0, 0)),  # write-protected
        (0x81000000, Status(True, False, False, False, 0, 0)),  # behind a file mark
        (0x09000000, Status(True, False, False, True, 0, 0)),  # end of data
        (0x21000000, Status(True, False, False, True, 0, 0)),  # end of tape
    ],
)
def test_the_bits_of_the_status(general: int, expected: Status) -> None:
    assert decode_status(answer(general)) == expected


def test_block_size_and_tape_file_of_the_status() -> None:
    status = decode_status(answer(0x01000000, 512, -1))
    assert (status.block_bytes, status.tape_file) == (512, -1)


def test_a_place_is_a_long() -> None:
    assert decode_place(struct.pack("@l", 5_000_000_000)) == 5_000_000_000


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b"\x01\x80\x00\x0aHU1234ABCD", "HU1234ABCD"),
        (b"\x01\x80\x00\x24" + b" " * 26 + b"HFDRV00009", "HFDRV00009"),  # as tgt pads
        (b"\x01\x80\x00\x04ABCDEFGH", "ABCD"),
        (b"\x01\x80\x00\x04ABC\0", "ABC"),
        (b"\x01\x80\x00\x04    ", None),
        (b"\x01\x80\x00\x02\xff\x01", None),
        (b"\x01\x83\x00\x04ABCD", None),  # another page
        (b"\x01\x80", None),
    ],
)
def test_the_serial_number_of_a_drive(page: bytes, expected: str | None) -> None:
    assert decode_serial(page) == expected
