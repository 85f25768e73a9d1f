"""Records what a command does to its files, at the level of system calls.

What the command's own code says it did does not matter here: an SQLite or a `shutil` below it is seen just as well.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence

from holdfast.testing.errors import UnsupportedPlatform
from holdfast.testing.faults import Fault, FaultPolicy
from holdfast.testing.recording import Recording
from holdfast.testing.session import AnyPath, new_session
from holdfast.testing.tracer import DEFAULT_TIMEOUT_S


def record(
    argv: Sequence[str],
    roots: Sequence[AnyPath] | AnyPath,
    *,
    env: Mapping[str, str] | None = None,
    cwd: AnyPath | None = None,
    fault: Fault | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Recording:
    """Run `argv` to its end and record all it does below `roots`, and what it says on standard output.

    All threads and child processes are followed; standard input is empty. The roots need not exist, the folders that
    hold them must. Everything there before counts as durable. With a `fault`, the recording is of the run with it.

    Raises `UnsupportedPlatform` where tracing cannot work, `UntraceableCall` if a watched file is changed in a way
    that cannot be recorded, `CommandTimedOut`, `FileNotFoundError` if there is no such program. The command's own
    failure is no error: see `Recording.returncode`.
    """
    policy = None if fault is None else FaultPolicy(fault)
    return new_session(argv, roots, env, cwd, policy, timeout_s).record()


@functools.cache
def why_no_tracing() -> str | None:
    """The reason why the tools of this room cannot work here, for a test to skip with; None if they can. Tries it."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            record([sys.executable, "-I", "-S", "-c", ""], folder)
    except UnsupportedPlatform as error:
        return str(error)
    return None
