"""What a person put into a drive, judged: is it the cartridge that was asked for? Pure.

A drive without a robot sees no barcodes, so who a cartridge is, is known from its label, or from the person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto


class Expected(Enum):
    """What must be on a cartridge: `NEW`, nothing at all; `BEGUN`, nothing, or a part of our label, as a killed run may
    have left it; `WRITTEN`, our label; `UNKNOWN`, nobody knows.
    """

    NEW = auto()
    BEGUN = auto()
    WRITTEN = auto()
    UNKNOWN = auto()


class Kind(Enum):
    """What begins a tape: nothing, our label, a part of our label, something else, or nothing that can be read."""

    BLANK = auto()
    OURS = auto()
    TORN = auto()
    FOREIGN = auto()
    UNREADABLE = auto()


@dataclass(frozen=True, slots=True)
class Content:
    """What begins a tape, and the barcode in our label, or words for what else it is."""

    kind: Kind
    words: str = ""


def complaint(content: Content, barcode: str, expected: Expected) -> str | None:
    """Why what is in the drive cannot be this cartridge; None when it can.

    What cannot be read may be the right cartridge, damaged. To judge that is for those who know what it held.
    """
    if content.kind is Kind.OURS and content.words != barcode:
        return f"it is {content.words}, not {barcode}"
    if expected is Expected.NEW:
        return None if content.kind is Kind.BLANK else f"it is not blank, and a new cartridge must be ({content.words})"
    if content.kind is Kind.FOREIGN and expected is not Expected.UNKNOWN:
        return f"it is {content.words}, not {barcode}"
    if content.kind is Kind.BLANK and expected is Expected.WRITTEN:
        return f"it is blank, and {barcode} is not"
    return None


def may_be_taken_unasked(content: Content, barcode: str, expected: Expected) -> bool:
    """Whether a cartridge that lies in the drive already is surely this one: only if its label says so."""
    return content == Content(Kind.OURS, barcode) and expected is not Expected.NEW


def next_barcode(prefix: str, media: str, known: Iterable[str]) -> str:
    """The barcode behind the highest known one of the prefix and the media: six characters and the media, as on LTO."""
    digits = max(6 - len(prefix), 3)
    pattern = re.compile(re.escape(prefix) + rf"([0-9]{{{digits}}})" + re.escape(media))
    taken = [int(found[1]) for name in known if (found := pattern.fullmatch(name))]
    return f"{prefix}{max(taken, default=0) + 1:0{digits}d}{media}"


def wrong_name(name: str, prefix: str, known: Iterable[str]) -> str | None:
    """Why a cartridge of this barcode cannot be a new one for this side; None when it can."""
    if re.fullmatch(r"[A-Z0-9]{4,16}", name) is None:
        return f"{name!r} is no barcode: 4 to 16 capital letters and digits"
    if not name.startswith(prefix):
        return f"{name} does not begin with {prefix}"
    return f"{name} is known already, or is not blank" if name in known else None
