"""The words in which one speaks with Linux's tape driver `st`: operations, options, and what its status means. Pure.

Numbers and layouts are those of the kernel's `include/uapi/linux/mtio.h` and `Documentation/scsi/st.rst`, for machines
whose `long` has 64 bits. Nothing here opens a device.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

# The requests: _IOW('m', 1, struct mtop), _IOR('m', 2, struct mtget), _IOR('m', 3, struct mtpos).
MTIOCTOP = 0x40086D01
MTIOCGET = 0x80306D02
MTIOCPOS = 0x80086D03

_MTOP = struct.Struct("@hi")  # short mt_op; int mt_count
_MTGET = struct.Struct("@lllllii")  # long type, resid, dsreg, gstat, erreg; __kernel_daddr_t fileno, blkno
_MTPOS = struct.Struct("@l")  # long mt_blkno

STATUS_BYTES = _MTGET.size
PLACE_BYTES = _MTPOS.size


class Operation(IntEnum):
    """`mt_op`: what the drive is asked to do `mt_count` times."""

    SPACE_FILE_MARKS = 1  # MTFSF: forward, to behind the mark
    SPACE_RECORDS = 3  # MTFSR
    WRITE_MARKS = 5  # MTWEOF: returns when all is on the medium
    REWIND = 6  # MTREW
    UNLOAD = 7  # MTOFFL: rewind and let the cartridge go
    ERASE = 13  # MTERASE: 0 is the short way, an end of data here; 1 goes over the whole tape, for hours
    SET_BLOCK_BYTES = 20  # MTSETBLK: 0 is variable-block mode, one write() one record
    LOCATE = 22  # MTSEEK
    SET_OPTIONS = 24  # MTSETDRVBUFFER: only root may
    WRITE_MARKS_AT_ONCE = 35  # MTWEOFI: returns at once


# MT_ST_SETBOOLEANS | MT_ST_SCSI2LOGICAL: MTSEEK and MTIOCPOS then mean logical block numbers, not the drive's own.
LOGICAL_BLOCK_NUMBERS = 0x30000000 | 0x800

# Bits of mt_gstat.
_END_OF_TAPE = 0x20000000  # GMT_EOT
_WRITE_PROTECTED = 0x04000000  # GMT_WR_PROT
_END_OF_DATA = 0x08000000  # GMT_EOD
_ONLINE = 0x01000000  # GMT_ONLINE
_NO_CARTRIDGE = 0x00040000  # GMT_DR_OPEN
_BLOCK_BYTES_MASK = 0x00FFFFFF  # MT_ST_BLKSIZE_MASK, of mt_dsreg


@dataclass(frozen=True, slots=True)
class Status:
    """What MTIOCGET tells.

    `at_end`: the last read reached the end of data (GMT_EOD) or of the tape (GMT_EOT), and gave no record; after a
    write it is the early warning. `tape_file`: -1 when `st` does not know it.
    """

    is_ready: bool
    is_empty: bool
    is_write_protected: bool
    at_end: bool
    block_bytes: int
    tape_file: int


def encode_operation(operation: Operation, count: int) -> bytes:
    """The argument of MTIOCTOP. Raises `ValueError` when the count does not fit an int (32 bits)."""
    try:
        return _MTOP.pack(operation, count)
    except struct.error as error:
        raise ValueError(f"{operation.name} cannot be asked for {count} times") from error


def decode_status(answer: bytes) -> Status:
    """The answer to MTIOCGET, `STATUS_BYTES` long."""
    _, _, density_and_size, general, _, tape_file, _ = _MTGET.unpack(answer)
    return Status(
        is_ready=bool(general & _ONLINE),
        is_empty=bool(general & _NO_CARTRIDGE),
        is_write_protected=bool(general & _WRITE_PROTECTED),
        at_end=bool(general & (_END_OF_DATA | _END_OF_TAPE)),
        block_bytes=density_and_size & _BLOCK_BYTES_MASK,
        tape_file=tape_file,
    )


def decode_place(answer: bytes) -> int:
    """The block number in the answer to MTIOCPOS, `PLACE_BYTES` long."""
    return int(_MTPOS.unpack(answer)[0])


def decode_serial(page: bytes) -> str | None:
    """The serial number in a unit serial number page (VPD page 80h, SPC-4 7.8.15); None when there is none.

    Byte 1 is the page's code, bytes 2 and 3 its length; the rest is ASCII, padded with spaces.
    """
    if len(page) < 4 or page[1] != 0x80:
        return None
    text = page[4 : 4 + int.from_bytes(page[2:4])].decode("ascii", "replace").strip(" \0")
    return text if text and text.isprintable() else None
