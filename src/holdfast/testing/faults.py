"""Failing system calls: a full disk, a bad sector, a short write, an fsync that fails, chosen call by call."""

from __future__ import annotations

import errno as errno_names
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.testing.calls import READING_CALLS
from holdfast.testing.observer import READERS, Effect
from holdfast.testing.session import AnyPath, WatchOnly, new_session
from holdfast.testing.tracer import DEFAULT_TIMEOUT_S, FOLLOW, Order

WRITES = frozenset({"write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range", "splice"})
READS = READING_CALLS
SYNCS = frozenset({"fsync", "fdatasync", "sync", "syncfs"})
RENAMES = frozenset({"rename", "renameat", "renameat2"})
CREATES = frozenset({"open", "openat", "openat2", "creat", "mkdir", "mkdirat"})
UNLINKS = frozenset({"unlink", "unlinkat", "rmdir"})
LINKS = frozenset({"link", "linkat", "symlink", "symlinkat"})
RESIZES = frozenset({"truncate", "ftruncate", "fallocate"})

SHORTENABLE = frozenset({"write", "pwrite64"})


@dataclass(frozen=True, slots=True)
class Fault:
    """Which calls go wrong, and how.

    A call counts if its name is in `calls` (join the sets of this module) and one of the paths it touches matches
    `path_glob`. Paths are as in a recording; `*` matches `/` too; standard output is "" and matches only "".
    Opening counts only where it may create or cut a file.

    The `nth` such call (from 1) and `count` - 1 more (`count` None: all that follow) fail with `errno` and do nothing.
    With `short_write` they are cut to half of their bytes and succeed instead; only write and pwrite64 of at least
    two bytes can be. With `after_bytes` the disk is full after so many bytes: the first call that would write beyond,
    and every counted call after it, fails; with `short_write` that first one still writes what fits. `nth` and
    `count` are then without meaning.
    """

    errno: int = errno_names.EIO
    calls: frozenset[str] = WRITES
    path_glob: str = "*"
    nth: int = 1
    count: int | None = 1
    short_write: bool = False
    after_bytes: int | None = None

    def __post_init__(self) -> None:
        unknown = self.calls - READERS.keys()
        if unknown or not self.calls:
            raise ValueError(f"no such calls to fail: {sorted(unknown)}")
        if self.nth < 1 or (self.count is not None and self.count < 1):
            raise ValueError(f"calls are counted from 1: nth {self.nth}, count {self.count}")

    def matches(self, effect: Effect) -> bool:
        """Whether a call counts."""
        if effect.name not in self.calls:
            return False
        return any(
            path == self.path_glob or (path and fnmatch.fnmatchcase(path, self.path_glob)) for path in effect.paths
        )


def disk_full(path_glob: str = "*", *, after_bytes: int = 0, short_write: bool = False) -> Fault:
    """ENOSPC for everything that needs room at matching paths, once `after_bytes` have been written there."""
    calls = WRITES | CREATES | LINKS | RESIZES
    return Fault(errno_names.ENOSPC, calls, path_glob, count=None, short_write=short_write, after_bytes=after_bytes)


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """How a run with a fault ended; `injected` counts the calls that were made to fail or were cut short."""

    returncode: int
    stdout: bytes
    stderr: bytes
    injected: int


class FaultPolicy(WatchOnly):
    """Makes the calls of one run fail as a `Fault` says; `injected` counts them."""

    def __init__(self, fault: Fault) -> None:
        self.injected = 0
        self._fault = fault
        self._matched = 0
        self._written_bytes = 0
        self._full = False

    def extra_calls(self) -> frozenset[str]:
        """The reading calls the fault is about."""
        return self._fault.calls & READS

    def before(self, effect: Effect, _done: int, /) -> Order:
        """Let it pass, fail it, or cut it."""
        if not self._fault.matches(effect):
            return FOLLOW
        self._matched += 1
        order = self._counted(effect) if self._fault.after_bytes is None else self._filled(effect)
        self.injected += order is not FOLLOW
        return order

    def _counted(self, effect: Effect) -> Order:
        fault = self._fault
        first, last = fault.nth, None if fault.count is None else fault.nth + fault.count - 1
        if self._matched < first or (last is not None and self._matched > last):
            return FOLLOW
        if fault.short_write:
            return self._shortened(effect, effect.asked_bytes // 2)
        return Order(refuse_errno=fault.errno)

    def _filled(self, effect: Effect) -> Order:
        room = max(0, (self._fault.after_bytes or 0) - self._written_bytes)
        self._written_bytes += effect.asked_bytes
        if not effect.asked_bytes and not (effect.makes_name and self._full):
            return FOLLOW  # needs no room: opens what is there, cuts it, or makes a name while there is room
        if not self._full and effect.asked_bytes <= room:
            return FOLLOW
        was_full, self._full = self._full, True
        if self._fault.short_write and not was_full and room and effect.name in SHORTENABLE:
            return self._shortened(effect, room)
        return Order(refuse_errno=self._fault.errno)

    def _shortened(self, effect: Effect, size_bytes: int) -> Order:
        if effect.name not in SHORTENABLE or not 0 < size_bytes < effect.asked_bytes:
            return FOLLOW
        return Order(follow=True, third_argument=size_bytes)


def run_with_fault(
    argv: Sequence[str],
    fault: Fault,
    roots: Sequence[AnyPath] | AnyPath,
    *,
    env: Mapping[str, str] | None = None,
    cwd: AnyPath | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> FaultOutcome:
    """Run `argv` to its end while the calls that `fault` names go wrong. `injected` 0 means that none did."""
    policy = FaultPolicy(fault)
    ending = new_session(argv, roots, env, cwd, policy, timeout_s).run()
    return FaultOutcome(ending.returncode, ending.stdout, ending.stderr, policy.injected)
