"""Which pack was looked at when, and which is damaged: noted in the state of the vault, beside the journey's work."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from holdfast.errors import HoldfastError
from holdfast.scrubbing.order import Look
from holdfast.state import Tracker

T = TypeVar("T")
STORE = "scrub"
"""The tracker of packs, beside the one of the journey's work."""


class Known:
    """What is noted of the packs. A state that cannot be used is told to `warn`, and nothing is known then. `close` it."""

    def __init__(self, folder: Path, warn: Callable[[HoldfastError], object]) -> None:
        self._warn = warn
        self._tracker: Tracker | None = None
        self._tracker = self._safely(lambda: Tracker(folder, store=STORE))
        self.looks = self._safely(self._all) or {}

    def _all(self) -> dict[uuid.UUID, Look]:
        if self._tracker is None:
            return {}
        return {uuid.UUID(str(key)): _look_of(value) for key, value in self._tracker.items()}

    def _safely(self, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 (a damaged state may be anything, and must stop nothing)
            self._tracker = None
            self._warn(
                HoldfastError(
                    "which packs were read cannot be noted: the next scrub begins anew",
                    found=str(error),
                    hint="look at the disk, and move the vault's folder 'state' away if it is damaged",
                )
            )
            return None

    def was_looked_at(self, pack_id: uuid.UUID, damaged: int) -> None:
        """A pack was read just now, or could not be; so many of its blocks are damaged."""
        tracker = self._tracker
        if tracker is not None:
            value = {"read_ns": time.time_ns(), "damaged_blocks": damaged, "_done": not damaged}
            self._safely(lambda: tracker.update({str(pack_id): value}))

    def close(self) -> None:
        if self._tracker is not None:
            self._safely(self._tracker.close)


def _look_of(value: dict[str, Any]) -> Look:
    return Look(int(value.get("read_ns", 0)), bool(value.get("damaged_blocks", 0)))
