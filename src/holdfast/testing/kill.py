"""Really killing a command at a chosen event, or sending it a signal there.

Events are counted as `record` counts them, from 1. `run_killed_at` in a loop over 1 .. `count_events(...)` kills at
every one; the command must start from the same tree each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.testing.observer import Effect
from holdfast.testing.session import AnyPath, WatchOnly, new_session
from holdfast.testing.tracer import DEFAULT_TIMEOUT_S, FOLLOW, PASS, Order


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    `reached`: the chosen event came, so the kill or signal was carried out; otherwise the command finished untouched.
    `returncode` is negative for a signal, as in `subprocess`. `stdout` is what was said until the end.
    """

    reached: bool
    returncode: int
    stdout: bytes
    stderr: bytes
    event_count: int


class _At(WatchOnly):
    """Carries out an order once, at the n-th event."""

    def __init__(self, n: int, order: Order, *, after: bool) -> None:
        if n < 1:
            raise ValueError(f"events are counted from 1, not {n}")
        self.reached = False
        self._n = n
        self._order = order
        self._after = after

    def before(self, _effect: Effect, done: int, /) -> Order:
        if self._after or self.reached or done < self._n - 1:
            return FOLLOW
        self.reached = True
        return Order(follow=True, signal_number=self._order.signal_number, kill=self._order.kill)

    def after(self, done: int, /) -> Order:
        if not self._after or self.reached or done < self._n:
            return PASS
        self.reached = True
        return self._order


def run_killed_at(
    argv: Sequence[str],
    n: int,
    roots: Sequence[AnyPath] | AnyPath,
    *,
    env: Mapping[str, str] | None = None,
    cwd: AnyPath | None = None,
    after: bool = True,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Outcome:
    """Run `argv` and SIGKILL it, with all its threads and children, exactly when the `n`-th event has happened.

    With `after=False`, exactly when the next call after event n-1 that touches a watched file is about to happen.
    No other change is under way at that moment: what is on disk is what the first n (or n-1) events made.
    """
    return _run_at(argv, roots, _At(n, Order(kill=True), after=after), env, cwd, timeout_s)


def run_signalled_at(
    argv: Sequence[str],
    n: int,
    signal_number: int,
    roots: Sequence[AnyPath] | AnyPath,
    *,
    env: Mapping[str, str] | None = None,
    cwd: AnyPath | None = None,
    after: bool = True,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Outcome:
    """Run `argv` and send its main process one signal (SIGINT for Ctrl-C) at the `n`-th event; let it run to its end.

    `after=False` sends it as the call is about to happen; the call itself still takes place.
    """
    return _run_at(argv, roots, _At(n, Order(signal_number=signal_number), after=after), env, cwd, timeout_s)


def count_events(
    argv: Sequence[str],
    roots: Sequence[AnyPath] | AnyPath,
    *,
    env: Mapping[str, str] | None = None,
    cwd: AnyPath | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> int:
    """How many events there are when `argv` runs to its end; it does run, and changes the roots."""
    session = new_session(argv, roots, env, cwd, None, timeout_s)
    session.run()
    return session.event_count


def _run_at(
    argv: Sequence[str],
    roots: Sequence[AnyPath] | AnyPath,
    policy: _At,
    env: Mapping[str, str] | None,
    cwd: AnyPath | None,
    timeout_s: float,
) -> Outcome:
    session = new_session(argv, roots, env, cwd, policy, timeout_s)
    ending = session.run()
    return Outcome(policy.reached, ending.returncode, ending.stdout, ending.stderr, session.event_count)
