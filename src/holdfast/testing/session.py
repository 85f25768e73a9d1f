"""One watched run: observer and policy joined into what the tracer asks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from holdfast.testing.linux import Call, Rule
from holdfast.testing.observer import Effect, Observer
from holdfast.testing.recording import Recording
from holdfast.testing.roots import Roots, known_files, snapshot
from holdfast.testing.tracer import DEFAULT_TIMEOUT_S, FOLLOW, PASS, Ending, Job, Order, trace

AnyPath: TypeAlias = str | os.PathLike[str]


class Policy(Protocol):
    """What a run does besides watching."""

    def extra_calls(self) -> frozenset[str]:
        """Calls to stop at that change no file."""
        ...

    def before(self, effect: Effect, done: int, /) -> Order:
        """A call that touches something watched is about to happen; `done` events were recorded so far."""
        ...

    def after(self, done: int, /) -> Order:
        """A followed call is over."""
        ...


class WatchOnly:
    """The policy that does nothing; others build on it."""

    def extra_calls(self) -> frozenset[str]:
        """None."""
        return frozenset()

    def before(self, _effect: Effect, _done: int, /) -> Order:
        """See it through."""
        return FOLLOW

    def after(self, _done: int, /) -> Order:
        """Go on."""
        return PASS


class Session:
    """Runs one command under watch, once."""

    def __init__(self, job: Job, roots: Sequence[AnyPath] | AnyPath, policy: Policy) -> None:
        folders = [roots] if isinstance(roots, str | os.PathLike) else roots
        self._job = job
        self._roots = Roots(folders)
        self._ids = known_files(self._roots)
        self._policy = policy
        self._observer = Observer(self._roots, self._ids, policy.extra_calls())
        self._effect: Effect | None = None

    def run(self) -> Ending:
        """Run to the end. Raises as `trace` does."""
        return trace(self._job, self)

    @property
    def event_count(self) -> int:
        """How many events were recorded so far."""
        return len(self._observer.events)

    def record(self) -> Recording:
        """Run to the end, and give all that was seen with the tree there was before."""
        start = snapshot(self._roots, self._ids)
        ending = self.run()
        events = tuple(self._observer.events)
        return Recording(self._roots.labels, start, events, ending.returncode, ending.stderr)

    # ---- what the tracer asks -------------------------------------------------------------------------------------

    def attach(self, stdout_descriptor: int) -> None:
        """See `Watcher`."""
        self._observer.attach(stdout_descriptor)

    def rules(self) -> Sequence[Rule]:
        """See `Watcher`."""
        return self._observer.rules()

    def entered(self, call: Call) -> Order:
        """See `Watcher`."""
        effect = self._observer.begin(call)
        if effect is None:
            return PASS
        self._effect = effect
        return self._policy.before(effect, self.event_count)

    def returned(self, result: int) -> Order:
        """See `Watcher`."""
        if self._effect is not None:
            self._observer.finish(self._effect, result)
            self._effect = None
        return self._policy.after(self.event_count)


def new_session(
    argv: Sequence[str],
    roots: Sequence[AnyPath] | AnyPath,
    env: Mapping[str, str] | None = None,
    cwd: AnyPath | None = None,
    policy: Policy | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Session:
    """A session about to run `argv`."""
    return Session(Job(argv, env, cwd, timeout_s), roots, policy or WatchOnly())
