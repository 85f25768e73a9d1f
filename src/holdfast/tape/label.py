"""What stands in tape file 0, the label: who this cartridge is, and how to read it without us. Pure.

Tape file 0 is a tar itself: `VOLUME.json`, `README.txt`, `rescue.py` (a reader that needs nothing but Python), and
`LEDGER.jsonl` (what earlier tapes of the vault hold), then `MANIFEST`.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

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
  python3 rescue.py extract /dev/nst0 DIR

If a file is damaged here, its twin {twin_barcode} holds the same bytes in the same tape file.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Who a cartridge is. Written once, at its begin; never changed."""

    barcode: str
    volume_id: uuid.UUID
    pair_id: uuid.UUID
    vault_id: uuid.UUID
    side: Side
    twin_barcode: str
    record_bytes: int
    created: str
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
    return (json.dumps(document, indent=2) + "\n").encode()


def decode_volume(data: bytes) -> Label:
    """Read `VOLUME.json`. Raises `IntegrityError` when it is none, or of a newer format."""
    try:
        document = json.loads(data)
        label = Label(
            barcode=document["barcode"],
            volume_id=uuid.UUID(document["volume_id"]),
            pair_id=uuid.UUID(document["pair_id"]),
            vault_id=uuid.UUID(document["vault_id"]),
            side=Side(document["side"]),
            twin_barcode=document["twin_barcode"],
            record_bytes=int(document["record_bytes"]),
            created=document["created"],
            format=int(document["holdfast_tape"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("damaged VOLUME.json on a tape", found=str(error)) from None
    if label.format > TAPE_FORMAT:
        raise IntegrityError(
            "a tape of a newer format than this Holdfast knows",
            place=label.barcode,
            expected=f"format {TAPE_FORMAT} or older",
            found=f"format {label.format}",
            hint="pip install --upgrade holdfast",
        )
    return label


def readme(label: Label) -> bytes:
    """`README.txt`: in plain words, how to read this tape with `mt` and `tar`."""
    fields = {name: getattr(label, name) for name in label.__slots__} | {"side": label.side.value}
    return _README.format(**fields, factor=label.record_bytes // 512).encode()
