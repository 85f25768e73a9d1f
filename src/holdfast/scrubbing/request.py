"""What is asked of a scrub."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubRequest:
    """How much, and how fast. `rate_bytes_s` and `for_s`: None for no limit; a pack that was begun is ended.

    `repair`: not only tell what is damaged. `replace_lost`: packs that are missing, or that the disk does not find, are lost
    for good; else they may come back with their disk, and nothing is laid down in their place.
    """

    rate_bytes_s: int | None = None
    for_s: float | None = None
    repair: bool = True
    replace_lost: bool = False
