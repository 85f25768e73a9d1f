"""What is to be restored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """What is to be restored, where to, and from where: `store`, `tape`, or `any`."""

    to: Path
    patterns: tuple[str, ...] = ()
    as_of_ns: int | None = None
    origin: str = "any"
    overwrite: bool = False
