"""Which pack comes first. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest


@dataclass(frozen=True, slots=True)
class Look:
    """When a pack was last looked at, in ns since 1970, and whether something in it was damaged and stayed so."""

    at_ns: int
    is_damaged: bool


NEVER = Look(0, is_damaged=False)


def in_turn(packs: Iterable[uuid.UUID], looks: Mapping[uuid.UUID, Look]) -> list[uuid.UUID]:
    """The packs in the order in which they are looked at: longest ago first, good and damaged ones in turn.

    So what is known to be damaged is tried again soon, and yet never takes all of the time, however little there is:
    the first is of the other kind than the pack that was looked at last, by whatever run.
    """
    oldest = sorted(packs, key=lambda pack: (looks.get(pack, NEVER).at_ns, pack))
    damaged = [pack for pack in oldest if looks.get(pack, NEVER).is_damaged]
    others = [pack for pack in oldest if not looks.get(pack, NEVER).is_damaged]
    last = max(looks.values(), key=lambda look: look.at_ns, default=NEVER)
    first, second = (others, damaged) if last.is_damaged else (damaged, others)
    return [pack for both in zip_longest(first, second) for pack in both if pack is not None]
