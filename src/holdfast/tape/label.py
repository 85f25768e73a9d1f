"""What stands in tape file 0, the label: who this cartridge is, and how to read it without us. Pure.

Tape file 0 is a tar itself: `VOLUME.json`, `README.txt`, `rescue.py` (a reader that needs nothing but Python), and
`LEDGER.jsonl` (what earlier tapes of the vault hold), then `MANIFEST`.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Annotated

import msgspec

from holdfast.errors import IntegrityError
from holdfast.values import Side

TAPE_FORMAT = 1
VOLUME_NAME = b"VOLUME.json"
README_NAME = b"README.txt"
RESCUE_NAME = b"rescue.py"
LEDGER_NAME = b"LEDGER.jsonl"

_README = """\
HOLDFAST TAPE {barcode}                     volume {volume_id}
Side {side} of pair {pair_id}; its twin is {twin_barcode}.
Written by Holdfast (tape format {format}), first on {created}.

You need no Holdfast, no database and no key to read this tape.

What is on it
  Every tape file is a plain POSIX (pax) tar archive in records of {record_bytes} bytes.
  Tape file 0 is this label. The others hold files, or a catalog of all files on the tape (CATALOG.jsonl.gz: one line
  of JSON each; catalogs stand twice at the end of each session, and the last whole one counts).
  The last member of every tape file, MANIFEST, lists the SHA-256 of the files in it.

How to read it (Linux; /dev/nst0 is the drive, without rewinding)
  mt -f /dev/nst0 setblk 0                   once: records of any size
  mt -f /dev/nst0 rewind
  mt -f /dev/nst0 fsf N                      go to tape file N
  tar -b {factor} -tvf /dev/nst0                   list it
  mt -f /dev/nst0 rewind; mt -f /dev/nst0 fsf N
  tar -b {factor} -xf /dev/nst0                    extract it into this folder
  sha256sum -c MANIFEST                      check every file of it
  Names that GNU tar shows with backslashes hold bytes that are not printable; they are extracted as they were.

Or, with Python 3 and nothing else:
  mt -f /dev/nst0 rewind; tar -b {factor} -xf /dev/nst0 rescue.py
  python3 rescue.py list /dev/nst0
  python3 rescue.py verify /dev/nst0
  python3 rescue.py extract /dev/nst0 DIR

If a file is damaged here, its twin {twin_barcode} holds the same bytes in the same tape file.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Who a cartridge is. Written once, at its begin; never changed.

    `replaces`: the barcode of the failed cartridge whose side of the pair it takes; empty for a new pair, and in labels
    of before this was written there.
    """

    barcode: str
    volume_id: uuid.UUID
    pair_id: uuid.UUID
    vault_id: uuid.UUID
    side: Side
    twin_barcode: str
    record_bytes: int
    created: str
    replaces: str = ""
    format: int = TAPE_FORMAT


def encode_volume(label: Label) -> bytes:
    """`VOLUME.json`."""
    document = {
        "holdfast_tape": label.format,
        "barcode": label.barcode,
        "volume_id": str(label.volume_id),
        "pair_id": str(label.pair_id),
        "vault_id": str(label.vault_id),
        "side": label.side.value,
        "twin_barcode": label.twin_barcode,
        "record_bytes": label.record_bytes,
        "created": label.created,
    }
    if label.replaces:
        document["replaces"] = label.replaces
    return (json.dumps(document, indent=2) + "\n").encode()


class _AnyVolume(msgspec.Struct):
    """What every format of `VOLUME.json` has."""

    holdfast_tape: Annotated[int, msgspec.Meta(ge=1)]
    barcode: str = ""


class _Volume(msgspec.Struct):
    holdfast_tape: int
    barcode: str
    volume_id: uuid.UUID
    pair_id: uuid.UUID
    vault_id: uuid.UUID
    side: Side
    twin_barcode: str
    record_bytes: Annotated[int, msgspec.Meta(ge=512)]
    created: str
    replaces: str = ""


def decode_volume(data: bytes) -> Label:
    """Read `VOLUME.json`. Raises `IntegrityError` when it is none, or of a newer format."""
    try:
        of_any_format = msgspec.json.decode(data, type=_AnyVolume)
        if of_any_format.holdfast_tape > TAPE_FORMAT:
            raise _newer(of_any_format)
        volume = msgspec.json.decode(data, type=_Volume)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError("damaged VOLUME.json on a tape", found=str(error)) from None
    return Label(
        barcode=volume.barcode,
        volume_id=volume.volume_id,
        pair_id=volume.pair_id,
        vault_id=volume.vault_id,
        side=volume.side,
        twin_barcode=volume.twin_barcode,
        record_bytes=volume.record_bytes,
        created=volume.created,
        replaces=volume.replaces,
        format=volume.holdfast_tape,
    )


def _newer(volume: _AnyVolume) -> IntegrityError:
    return IntegrityError(
        "a tape of a newer format than this Holdfast knows",
        place=volume.barcode,
        expected=f"format {TAPE_FORMAT} or older",
        found=f"format {volume.holdfast_tape}",
        hint="pip install --upgrade holdfast",
    )


def readme(label: Label) -> bytes:
    """`README.txt`: in plain words, how to read this tape with `mt` and `tar`."""
    fields = {name: getattr(label, name) for name in label.__slots__} | {"side": label.side.value}
    return _README.format(**fields, factor=label.record_bytes // 512).encode()
