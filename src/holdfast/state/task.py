"""A claimed task, as who works on it has it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from holdfast.errors import LeaseLost
from holdfast.state.backend import Backend
from holdfast.state.jsonvalue import load
from holdfast.state.keys import Key, parse_key
from holdfast.state.owners import me
from holdfast.state.tasks import Ending, Lease

if TYPE_CHECKING:
    from holdfast.state.tracker import Tracker

LEASE_S = 300.0
"""How long a claim lasts, unless it is extended or its owner is seen to be gone."""
RETRY_S, RETRY_MAX_S = 1.0, 3600.0
"""After its first failure a task waits so long, and twice as long after each further one, up to the second."""


class Task:
    """A claimed task. As a context manager it is done when the block ends, and has failed when that raises.

    `token` grows with each claim: pass it on to whatever must not take orders from who comes late. Every method raises
    `LeaseLost` when the task is somebody else's by now.
    """

    def __init__(self, tracker: Tracker, lease: Lease) -> None:
        self.lease = lease
        self.token = lease.token
        self.attempt = lease.attempt
        self.is_ended = False
        self._tracker = tracker

    @property
    def key(self) -> Key:
        return parse_key(self.lease.row.key)

    @property
    def value(self) -> dict[str, Any]:
        """A copy of what it was when it was claimed."""
        return load(self.lease.row.value)

    def heartbeat(self, lease_s: float = LEASE_S, note: Mapping[str, Any] | None = None) -> None:
        """Let the lease last so long from now; `note` is merged into the task's value: how far it is, say."""
        with self._tracker.transaction():
            if self.lease.owner != me() or not self._tracker._tasks().extend(self.lease, lease_s):  # pyright: ignore[reportPrivateUsage]
                raise lease_lost(self._tracker, self.lease)
            if note:
                self._tracker.update({self.key: note})

    def done(self, result: Mapping[str, Any] | None = None, *, size_bytes: int | None = None) -> None:
        """It is done; `result` is merged into its value.

        `size_bytes`: what was moved, for the rate; what the value says under this name, unless told.
        """
        ending = Ending("done", done=True, size_bytes=size_bytes)
        if not result:
            self._end(ending)
            return
        with self._tracker.transaction():
            self._end(ending)
            self._tracker.update({self.key: result})

    def fail(self, error: object, retry_in_s: float | None = None) -> None:
        """It failed; it may be tried again in so long, or by default in a time that doubles with each attempt.

        After `max_tries` attempts it is dead, and only `retry_dead` brings it back.
        """
        if retry_in_s is None:
            wait_s = min(RETRY_S * 2.0 ** min(self.attempt - 1, 60), RETRY_MAX_S)
            retry_in_s = wait_s * random.uniform(0.5, 1.0)  # so that not all come back at once
        due_ns = self._tracker._use().now_ns() + round(retry_in_s * 1e9)  # pyright: ignore[reportPrivateUsage]
        self._end(Ending("failed", most=self._tracker.max_tries, due_ns=due_ns, error=_as_text(error)))

    def release(self) -> None:
        """Give it back, as if it had not been tried."""
        self._end(Ending("released", uncounted=True))

    def _end(self, ending: Ending) -> None:
        with self._tracker._writing() as backend:  # pyright: ignore[reportPrivateUsage]
            if self._tracker.end(backend, [self.lease], ending):  # pyright: ignore[reportPrivateUsage]
                raise lease_lost(self._tracker, self.lease)
            note_ends([self], backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_ended or self.lease.owner != me():
            return
        if kind is None:
            self.done()
            return
        try:
            if issubclass(kind, Exception):
                self.fail(f"{kind.__name__}: {error}")
            else:
                self.release()
        except LeaseLost:
            pass  # what was raised in the block says more


def note_ends(tasks: Sequence[Task], backend: Backend) -> None:
    """In a transaction: these attempts are ended, unless that comes to nothing."""

    def undo() -> None:
        for task in tasks:
            task.is_ended = False

    backend.on_rollback(undo)
    for task in tasks:
        task.is_ended = True


def _as_text(error: object) -> str:
    """What any database can hold: no zero byte, no lone surrogate."""
    return str(error).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:1000]


def lease_lost(tracker: Tracker, lease: Lease) -> LeaseLost:
    return LeaseLost(
        "this task is somebody else's by now, or was ended",
        place=f"{tracker.path}, key {lease.row.key}",
        expected=f"token {lease.token}",
        hint="do nothing more for it; a longer lease, or a heartbeat within it, keeps the next one",
    )
