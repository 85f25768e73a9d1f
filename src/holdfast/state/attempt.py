"""Attempts at tasks, as they are told to people."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.state.keys import Key, parse_key
from holdfast.state.owners import host_and_pid, is_gone, is_of_another_boot
from holdfast.state.tasks import Noted


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a task. `ended_ns` is None and `outcome` is `claimed` while it goes on, as far as is known.

    `is_of_another_boot`: this machine has begun anew since, or it was another one. Other outcomes: `done`, `tried` (and not marked as done), `failed`, `released`, `lost`. `is_gone`: it goes on no
    more, as its process has ended; nobody has noted that yet. Times are nanoseconds since 1970.
    """

    key: Key
    host: str
    pid: int
    begun_ns: int
    ended_ns: int | None
    outcome: str
    size_bytes: int | None
    error: str | None
    is_gone: bool
    is_of_another_boot: bool


def attempt_of(noted: Noted) -> Attempt:
    """With words for its owner; whether that is gone is asked only of one that goes on."""
    host, pid = host_and_pid(noted.owner)
    return Attempt(
        parse_key(noted.key),
        host,
        pid,
        noted.begun_ns,
        noted.ended_ns,
        noted.outcome,
        noted.size_bytes,
        noted.error,
        noted.ended_ns is None and is_gone(noted.owner),
        is_of_another_boot(noted.owner),
    )
