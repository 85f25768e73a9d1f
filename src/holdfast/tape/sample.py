"""A sample of a cartridge: which of its tape files are read when not all are. Pure.

    always     the label, the newest session's catalogs, the first and the last object
    by lot     a share of the other objects, rounded up

The ends of what is written are where a tape suffers first: its begin from threading, its end from a session that was
closed in haste. The lot is drawn from the seed, the barcode and the tape file's number alone, so the same seed reads
the same tape files again, in any release, as long as the cartridge holds the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from holdfast.errors import UsageError

NEWEST_CATALOGS = 2
"""A session's catalog stands twice, in two tape files (docs/design.md, Tape)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A share of the objects of each cartridge, more than 0 and at most 1, and the seed of the lot."""

    share: Fraction
    seed: int

    def __str__(self) -> str:
        return f"{float(self.share * 100):g}%"

    def chosen(self, barcode: str, kinds: Sequence[tuple[int, str]]) -> frozenset[int]:
        """The numbers of the tape files to read, of a cartridge whose tape files have these numbers and kinds."""
        labels, catalogs, objects = (
            [number for number, of_kind in kinds if of_kind == kind] for kind in ("label", "catalog", "object")
        )
        always = {*labels, *catalogs[-NEWEST_CATALOGS:], *objects[:1], *objects[-1:]}
        others = sorted(objects[1:-1], key=lambda number: self._lot(barcode, number))
        return frozenset(always | set(others[: ceil(self.share * len(others))]))

    def _lot(self, barcode: str, number: int) -> bytes:
        return hashlib.sha256(f"{self.seed} {barcode} {number}".encode()).digest()


def parse_share(text: str) -> Fraction:
    """A share as people write it, such as `25%` or `12.5%`.

    Raises `UsageError` for what is none, and for shares of nothing or of more than all.
    """
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%", text)
    share = Fraction(match[1]) / 100 if match else Fraction(0)
    if not 0 < share <= 1:
        raise UsageError(
            "not a share of the tape files",
            expected="more than 0% and at most 100%, such as --sample 25%",
            found=text,
            hint="holdfast verify --sample 25%",
        )
    return share
