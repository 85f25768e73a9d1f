"""The work on a vault, as opposed to its facts: who has it, what is done and to be done, how often tried, and how far.

    vault.lock   lets only one command at a time change the vault; the kernel frees it when its holder dies
    state/       a tracker of runs and of the steps they consist of, each with its attempts and its progress

What is to be done follows from the catalog, and is planned anew by each run; whoever deletes the folder `state` loses
no fact. So nothing here stops a run: what cannot be noted is told when the run is over (`Work.troubles`).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeGuard, TypeVar, cast

from holdfast import durable
from holdfast.errors import BusyError, HoldfastError, NoSuchStore, VaultError
from holdfast.state import Attempt, Task, Tracker

T = TypeVar("T")
STORE = "work"
RUN = "run"
"""The step that a whole run is; what it is about is its command."""
NOTE_EVERY_S = 2.0
"""How far a step is, is noted so often."""
LEASE_S = 30 * 86_400.0
"""Nobody else takes a step while its process lives; whoever has the vault's lock takes those of the others."""


# -- one at a time


@contextmanager
def vault_lock(path: Path, command: str) -> Generator[None, None, None]:
    """Hold the vault alone. Raises `BusyError` naming who holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise VaultError(
            "the vault cannot be written",
            place=str(path.parent),
            found=error.strerror or str(error),
            hint="choose a vault that you may write to with --vault DIR",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(path, os.pread(descriptor, 4096, 0)) from None
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "command": command, "since_ns": time.time_ns()}
        with durable.disk_full_explained(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _busy(path: Path, text: bytes) -> BusyError:
    try:
        owner = json.loads(text)
        who = f"'holdfast {owner['command']}', process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return BusyError(
        "the vault is in use",
        place=str(path.parent),
        found=who,
        hint="wait for it to end, then run the same command again",
    )


# -- doing


class Work:
    """The runs and steps of a vault, for the one that has its lock. Safe for threads."""

    def __init__(self, folder: Path | None) -> None:
        """Of the tracker in `folder`; None: nothing is noted."""
        self._folder = folder
        self._troubles: list[HoldfastError] = []
        self._is_noting = True
        self._tracker = None if folder is None else self._safely(lambda: Tracker(folder, store=STORE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            self._safely(self._tracker.close)

    def troubles(self) -> list[HoldfastError]:
        """Why work could not be noted, once: nothing more is noted after that."""
        troubles, self._troubles = self._troubles, []
        return troubles

    def _safely(self, act: Callable[[], T]) -> T | None:
        """Whatever goes wrong, also with a state that is damaged in ways that nobody has thought of."""
        try:
            return act()
        except Exception as error:  # noqa: BLE001 (see above)
            if self._is_noting:
                self._troubles.append(_trouble(self._folder, error))
            self._is_noting = False
            return None

    def plan(self, step: str, sizes: Mapping[str, int]) -> None:
        """These are to be done, and so large in bytes; whatever else this step was to do is not to be done any more."""
        self._with_tracker(lambda tracker: _plan(tracker, step, sizes))

    def _with_tracker(self, act: Callable[[Tracker], T]) -> T | None:
        tracker = self._tracker
        return None if tracker is None or not self._is_noting else self._safely(lambda: act(tracker))

    @contextmanager
    def doing(
        self, step: str, what: str, total_bytes: int = 0, *, also: Callable[[int], object] = lambda _: None
    ) -> Generator[Step, None, None]:
        """The block does this step; what it raises has ended the attempt. What is advanced is passed on to `also`."""
        task = self._with_tracker(lambda tracker: _begin(tracker, (step, what), total_bytes))
        going = Step(self._note_of(task), also)
        try:
            yield going
        except BaseException as error:
            self._end(task, f"{type(error).__name__}: {error}", going)
            raise
        self._end(task, going.problem, going)

    def _note_of(self, task: Task | None) -> Callable[[int], object]:
        def note(done_bytes: int) -> None:
            self._with_task(task, lambda task: task.heartbeat(LEASE_S, {"done_bytes": done_bytes}))

        return note

    def _end(self, task: Task | None, problem: str | None, going: Step) -> None:
        moved_bytes = going.done_bytes
        if problem is None:
            self._with_task(task, lambda task: task.done({"done_bytes": moved_bytes}, size_bytes=moved_bytes))
        else:
            self._with_task(task, lambda task: task.fail(problem, retry_in_s=0))

    def _with_task(self, task: Task | None, act: Callable[[Task], None]) -> None:
        if task is not None:
            self._with_tracker(lambda _: act(task))


def _trouble(folder: Path | None, error: Exception) -> HoldfastError:
    return VaultError(
        "what is done, and how far, cannot be noted or told",
        place=str(folder),
        found=str(error) if isinstance(error, HoldfastError) else repr(error),
        hint="the state holds no facts: look at the disk, and move this folder away if it is damaged",
    )


def _plan(tracker: Tracker, step: str, sizes: Mapping[str, int]) -> None:
    with tracker.transaction():
        for key in [key for key in tracker.todo_keys() if is_step(key) and key[0] == step]:
            if key[1] not in sizes:
                del tracker[key]
        for what, size_bytes in sizes.items():
            anew = {"_done": False, "_tries": 0} if tracker.done((step, what)) else {}
            tracker.update({(step, what): {"size_bytes": size_bytes, "done_bytes": 0} | anew})


def is_step(key: object) -> TypeGuard[tuple[str, str]]:
    """Whether the key of a task is a step and what it is about."""
    return isinstance(key, tuple) and list(map(type, cast("tuple[object, ...]", key))) == [str, str]


def _begin(tracker: Tracker, key: tuple[str, str], total_bytes: int) -> Task | None:
    with tracker.transaction():
        task = tracker.take(key, LEASE_S, from_anybody=True)  # who has the vault's lock works alone
        if task is not None:
            now = {"size_bytes": total_bytes, "done_bytes": 0} if total_bytes else {"done_bytes": 0}
            tracker.update({key: now})
    return task


class Step:
    """A step while it is done. `advance` may be called from any thread.

    `problem`: why it has failed, though nothing was raised.
    """

    def __init__(self, note: Callable[[int], object], also: Callable[[int], object]) -> None:
        self.done_bytes = 0
        self.problem: str | None = None
        self._note = note
        self._also = also
        self._due_s = time.monotonic() + NOTE_EVERY_S
        self._noting = threading.Lock()

    def advance(self, count_bytes: int) -> None:
        self.done_bytes += count_bytes
        self._also(count_bytes)
        if time.monotonic() >= self._due_s and self._noting.acquire(blocking=False):
            try:
                self._note(self.done_bytes)
                self._due_s = time.monotonic() + NOTE_EVERY_S
            finally:
                self._noting.release()


# -- looking


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command that changes the vault. `outcome`: running, killed, done, or the name of an error."""

    command: str
    host: str
    pid: int
    begun_ns: int
    ended_ns: int | None
    outcome: str


@dataclass(frozen=True, slots=True)
class StepFacts:
    """A step that is not done: `running` now, `killed`, `failed`, or still `to do`.

    `attempts`: since it was done last. `eta_s`: how long it will take from now, by this attempt, or by earlier ones.
    """

    step: str
    what: str
    state: str
    attempts: int
    done_bytes: int
    size_bytes: int | None
    host: str | None
    pid: int | None
    begun_ns: int | None
    eta_s: float | None
    error: str | None


@dataclass(frozen=True, slots=True)
class WorkFacts:
    """The newest runs, newest first, and the steps that are not done, in the order in which they were planned.

    `trouble`: why none of that is known.
    """

    runs: list[Run]
    steps: list[StepFacts]
    trouble: HoldfastError | None = None


ATTEMPTS = 1000
"""So many attempts are looked through for runs, and for how fast a step went."""
STEPS = 1000
"""So many steps are told."""


def look_at_work(folder: Path, count: int = 5) -> WorkFacts:
    """What is known of the work, beside whoever does it; nothing where nothing is. Writes nothing, waits for nobody."""
    if not (folder / "state.db").exists():
        return WorkFacts([], [])
    try:
        with Tracker(folder, store=STORE, mode="r") as tracker:
            return _facts_of(tracker, count)
    except NoSuchStore:
        return WorkFacts([], [])  # nobody has worked yet, or one who did not get so far
    except Exception as error:  # noqa: BLE001 (a damaged state may be anything)
        return WorkFacts([], [], _trouble(folder, error))


def _facts_of(tracker: Tracker, count: int) -> WorkFacts:
    claims = [_Told(*item.key, item) for item in tracker.claims() if is_step(item.key)]
    attempts = [_Told(*item.key, item) for item in tracker.attempts(ATTEMPTS) if is_step(item.key)]
    runs = [_run(told) for told in (*claims, *attempts) if told.step == RUN]
    runs.sort(key=lambda run: run.begun_ns, reverse=True)
    items = ((*key, value) for key, value in tracker.todo_items() if is_step(key) and key[0] != RUN)
    return WorkFacts(runs[:count], [_facts(*item, claims, attempts) for item in islice(items, STEPS)])


@dataclass(frozen=True, slots=True)
class _Told:
    """An attempt, and at what."""

    step: str
    what: str
    attempt: Attempt

    def is_over(self) -> bool:
        """The state lies on a disk of this machine: who was here before its last boot does nothing any more."""
        return self.attempt.is_gone or self.attempt.is_of_another_boot


def _run(told: _Told) -> Run:
    attempt = told.attempt
    outcome = attempt.outcome
    if outcome in ("claimed", "lost"):
        outcome = "running" if outcome == "claimed" and not told.is_over() else "killed"
    elif attempt.error:
        outcome = attempt.error.partition(":")[0]
    return Run(told.what, attempt.host, attempt.pid, attempt.begun_ns, attempt.ended_ns, outcome)


def _facts(step: str, what: str, value: Mapping[str, Any], claims: list[_Told], attempts: list[_Told]) -> StepFacts:
    claim = next((told for told in claims if (told.step, told.what) == (step, what)), None)
    last = next((told.attempt for told in attempts if (told.step, told.what) == (step, what)), None)
    error = last.error if claim is None and last is not None and value["_tries"] else None
    if claim is not None:
        state = "killed" if claim.is_over() else "running"
    else:
        state = "failed" if error else "to do"
    done_bytes, size_bytes = value.get("done_bytes", 0), value.get("size_bytes")
    return StepFacts(
        step,
        what,
        state,
        value["_tries"],
        done_bytes,
        size_bytes,
        None if claim is None else claim.attempt.host,
        None if claim is None else claim.attempt.pid,
        None if claim is None else claim.attempt.begun_ns,
        _eta_s(step, done_bytes, size_bytes, claim, attempts),
        error,
    )


def _eta_s(
    step: str, done_bytes: int, size_bytes: int | None, claim: _Told | None, attempts: list[_Told]
) -> float | None:
    """By how fast this kind of step went, now and before."""
    same = [told.attempt for told in attempts if told.step == step]
    done = [item for item in same if item.outcome == "done" and item.size_bytes]
    took_ns = sum((item.ended_ns or 0) - item.begun_ns for item in done)
    moved_bytes = sum(item.size_bytes or 0 for item in done)
    if claim is not None and not claim.is_over():
        took_ns += max(0, time.time_ns() - claim.attempt.begun_ns)
        moved_bytes += done_bytes
    if not size_bytes or not moved_bytes:
        return None
    return max(0, size_bytes - done_bytes) * took_ns / moved_bytes / 1e9
