"""How fast and how long."""

from __future__ import annotations

import time
from collections.abc import Callable

from holdfast.scrubbing.request import ScrubRequest

NAP_S = 0.2
"""So long nobody looks whether to stop."""


class Pace:
    """Not faster than was asked for, and not longer."""

    def __init__(self, request: ScrubRequest) -> None:
        self._rate_bytes_s = request.rate_bytes_s
        self._begun_s = time.monotonic()
        self._end_s = None if request.for_s is None else self._begun_s + request.for_s
        self._done_bytes = 0

    def is_over(self) -> bool:
        return self._end_s is not None and time.monotonic() >= self._end_s

    def wait_for(self, count_bytes: int, heed: Callable[[], object]) -> None:
        """So many bytes more were read: wait as long as that must take. `heed` is called all the while, and may stop it."""
        self._done_bytes += count_bytes
        if self._rate_bytes_s is None:
            return
        due_s = self._begun_s + self._done_bytes / self._rate_bytes_s
        while (left_s := due_s - time.monotonic()) > 0:
            heed()
            time.sleep(min(left_s, NAP_S))
