"""Runs one command and stops it at chosen system calls: the engine below recorder, killer and faults.

Calls that the watcher follows are serialised: while one is between its entry and its exit, no other thread or process
of the command can begin one. So what the watcher sees in order is the order in which it happened, and a kill at an
entry or an exit is exact. ptrace belongs to one thread; the engine makes a thread for each run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from holdfast.testing import linux
from holdfast.testing.errors import CommandTimedOut, UnsupportedPlatform, UntraceableCall
from holdfast.testing.linux import Call, Ptrace

DEFAULT_TIMEOUT_S = 60.0
JOB_CONTROL_SIGNALS = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
NEWCOMER_EVENTS = frozenset({linux.EVENT_FORK, linux.EVENT_VFORK, linux.EVENT_CLONE})


@dataclass(frozen=True, slots=True)
class Job:
    """The command to run. `env` None hands on this process's own; `cwd` None its working folder."""

    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: str | os.PathLike[str] | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S

    def environment(self) -> Mapping[str, str]:
        """The environment the command gets."""
        return os.environ if self.env is None else self.env

    def program(self) -> str:
        """The program's full path. Raises `FileNotFoundError` if there is no such program."""
        found = shutil.which(self.argv[0], path=self.environment().get("PATH"))
        if found is None:
            raise FileNotFoundError(f"no program {self.argv[0]}")
        return os.path.abspath(found)


@dataclass(frozen=True, slots=True)
class Order:
    """What to do with a thread that is stopped at a call's entry or exit.

    `follow`: stop again at the call's exit. `refuse_errno`: the call does nothing and fails. `third_argument`: the
    call gets another one (and is followed). `signal_number`: send it to the main process. `kill`: kill everything now.
    """

    follow: bool = False
    refuse_errno: int = 0
    third_argument: int | None = None
    signal_number: int = 0
    kill: bool = False


PASS = Order()
FOLLOW = Order(follow=True)
KILL = Order(kill=True)


class Watcher(Protocol):
    """Decides at each stop. Called from the engine's thread only; an error it raises ends the command."""

    def attach(self, stdout_descriptor: int) -> None:
        """Called once before the command starts, with the file that is its standard output."""
        ...

    def rules(self) -> Sequence[linux.Rule]:
        """At which calls to stop."""
        ...

    def entered(self, call: Call) -> Order:
        """The call is about to happen, and no followed call is under way."""
        ...

    def returned(self, result: int) -> Order:
        """The followed call came back with `result` (negative: minus errno)."""
        ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `returncode` is negative for a signal; `killed` tells that an order to kill was carried out."""

    returncode: int
    stdout: bytes
    stderr: bytes
    killed: bool


def trace(job: Job, watcher: Watcher) -> Ending:
    """Run the command to its end, and the end of all that it started, under the watcher's orders.

    Nothing of it is left when this returns or raises. Raises `UnsupportedPlatform`, `UntraceableCall`,
    `CommandTimedOut`, or what the watcher raised.
    """
    linux.check_platform()
    run = _Run(job, watcher)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracer") as pool:
        future = pool.submit(run.to_the_end)
        try:
            return future.result(timeout=job.timeout_s)
        except TimeoutError:
            if future.done():
                raise
            raise CommandTimedOut(f"still running after {job.timeout_s} s: {list(job.argv)}") from None
        finally:
            run.abort()


class _Processes:
    """The command's processes by pidfd, so that a signal never reaches a stranger who got the same number."""

    def __init__(self) -> None:
        self._handles: dict[int, int] = {}
        self._lock = threading.Lock()

    def add(self, pid: int) -> None:
        with self._lock:
            if pid in self._handles:
                return
            with contextlib.suppress(OSError):  # a thread that is no process; its process is known
                self._handles[pid] = os.pidfd_open(pid)

    def discard(self, pid: int) -> None:
        with self._lock:
            handle = self._handles.pop(pid, None)
        if handle is not None:
            os.close(handle)

    def send(self, pid: int, number: int) -> None:
        with self._lock:
            handle = self._handles.get(pid)
            if handle is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)

    def kill_all(self) -> None:
        for pid in list(self._handles):
            self.send(pid, signal.SIGKILL)


class _Run:
    """One traced run. All but `abort` happens in one thread."""

    def __init__(self, job: Job, watcher: Watcher) -> None:
        self._job = job
        self._watcher = watcher
        self._ptrace = Ptrace()
        self._processes = _Processes()
        self._main = 0
        self._returncode: int | None = None
        self._filtered = False  # the stub has put the filter in place
        self._started = False  # the stub has become the command
        self._dying = False
        self._killed = False
        self._holder: Call | None = None  # the followed call under way
        self._restore_third = False
        self._waiting: deque[Call] = deque()  # stopped at their entry until the holder is done
        self._undelivered: list[tuple[int, int]] = []  # (thread, signal): likewise, since a signal may end the holder

    def abort(self) -> None:
        """Kill whatever still runs; callable from any thread, more than once."""
        self._dying = True
        self._processes.kill_all()

    def to_the_end(self) -> Ending:
        """Start, trace and reap."""
        with _capture("stdout") as stdout, _capture("stderr") as stderr:
            self._watcher.attach(stdout)
            process = self._start(stdout, stderr)
            try:
                self._loop()
            finally:
                self.abort()
                self._reap()
                # Popen must not wait for a process that has been reaped here.
                process.returncode = self._returncode
            said, complained = _content(stdout), _content(stderr)
        if not self._started and not self._killed:
            self._explain_no_start(complained)
        assert self._returncode is not None
        return Ending(self._returncode, said, complained, self._killed)

    def _start(self, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        filter_code = linux.filter_program(self._watcher.rules())
        job = linux.stub_job(self._job.program(), self._job.argv, self._job.environment(), filter_code)
        read_end, write_end = os.pipe()
        with open(write_end, "wb") as pipe:
            try:
                process = subprocess.Popen(
                    linux.stub_argv(read_end),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=[read_end],
                    cwd=self._job.cwd,
                    start_new_session=True,
                )
            finally:
                os.close(read_end)
            self._main = process.pid
            self._processes.add(process.pid)
            self._seize(process)
            # The stub waits for its job, so it is traced before it does anything that matters.
            with contextlib.suppress(BrokenPipeError):  # if the stub is gone, its last words say why
                pipe.write(job)
                pipe.flush()
        return process

    def _seize(self, process: subprocess.Popen[bytes]) -> None:
        try:
            self._ptrace.seize(process.pid)
        except OSError as error:
            process.kill()
            process.wait()
            raise UnsupportedPlatform(f"this system does not let processes be traced: {error}") from error

    def _explain_no_start(self, complaint: bytes) -> None:
        text = complaint.decode(errors="replace").strip()
        if text.startswith(linux.STUB_FAILED):
            raise UnsupportedPlatform(f"this system refuses system call filters: {text}")
        raise OSError(f"could not start {list(self._job.argv)}: {text}")

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while (stop := _wait()) is not None:
            tid, status = stop
            with contextlib.suppress(ProcessLookupError):  # killed while stopped: its end is still to come
                self._handle(tid, status)

    def _reap(self) -> None:
        while (stop := _wait()) is not None:
            tid, status = stop
            if os.WIFSTOPPED(status):
                self._processes.add(tid)
                self._processes.send(tid, signal.SIGKILL)
            else:
                self._ended(tid, status)

    def _handle(self, tid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._ended(tid, status)
            self._serve()
        elif self._dying:
            self._processes.add(tid)
            self._processes.send(tid, signal.SIGKILL)
        else:
            self._stopped(tid, os.WSTOPSIG(status), status >> 16)

    def _ended(self, tid: int, status: int) -> None:
        self._processes.discard(tid)
        self._waiting = deque(call for call in self._waiting if call.tid != tid)
        if tid == self._main:
            self._returncode = os.waitstatus_to_exitcode(status)
        if self._holder is not None and self._holder.tid == tid:
            self._holder = None
            if not self._dying:
                raise UntraceableCall("a thread was killed inside a system call; whether that took effect is unknown")

    def _stopped(self, tid: int, number: int, event: int) -> None:
        if event == linux.EVENT_SECCOMP:
            self._filtered = True
            self._waiting.append(self._ptrace.entered_call(tid))
            self._serve()
        elif number == signal.SIGTRAP | 0x80:
            self._returned(tid)
        elif event in NEWCOMER_EVENTS:
            self._processes.add(self._ptrace.event_message(tid))
            self._ptrace.resume(tid)
        elif event == linux.EVENT_EXEC:
            self._became_another_program(tid)
        elif event == linux.EVENT_STOP and number in JOB_CONTROL_SIGNALS:
            self._ptrace.leave_stopped(tid)
        elif event:
            self._processes.add(tid)  # a newcomer's first stop, or the end of a job control stop
            self._ptrace.resume(tid)
        else:
            self._undelivered.append((tid, number))
            self._serve()

    def _became_another_program(self, tid: int) -> None:
        # The stub's own start, which may be seen too, comes before the filter.
        self._started = self._filtered
        # An exec ends all other threads of the process, and the one that called it takes on the process's number.
        gone = {tid, self._ptrace.event_message(tid)}
        self._waiting = deque(call for call in self._waiting if call.tid not in gone)
        self._ptrace.resume(tid)

    def _serve(self) -> None:
        """Let those who wait go on, one by one, until one of them is in a followed call."""
        while self._undelivered and self._holder is None and not self._dying:
            tid, number = self._undelivered.pop()
            with contextlib.suppress(ProcessLookupError):
                self._ptrace.resume(tid, number)
        while self._waiting and self._holder is None and not self._dying:
            call = self._waiting.popleft()
            with contextlib.suppress(ProcessLookupError):
                self._begin(call)

    def _begin(self, call: Call) -> None:
        if call.foreign:
            raise UntraceableCall("a system call of another ABI (32-bit); only native programs can be traced")
        order = self._watcher.entered(call)
        if self._carry_out(order):
            return
        if order.refuse_errno:
            self._ptrace.refuse_call(call.tid, order.refuse_errno)
        if order.third_argument is not None:
            self._ptrace.set_third_argument(call.tid, order.third_argument)
            self._restore_third = True
        if order.follow:
            self._ptrace.resume_to_exit(call.tid)
            self._holder = call
        else:
            self._ptrace.resume(call.tid)

    def _returned(self, tid: int) -> None:
        result = self._ptrace.result(tid)
        holder = self._holder
        if holder is None or holder.tid != tid or result is None:
            self._ptrace.resume(tid)
            return
        if self._restore_third:
            self._ptrace.set_third_argument(tid, holder.args[2])
            self._restore_third = False
        order = self._watcher.returned(result)
        self._holder = None
        if not self._carry_out(order):
            self._ptrace.resume(tid)
            self._serve()

    def _carry_out(self, order: Order) -> bool:
        """Signal or kill as ordered; True if everything was killed."""
        if order.signal_number:
            self._processes.send(self._main, order.signal_number)
        if order.kill:
            self._killed = True
            self.abort()
        return order.kill


def _wait() -> tuple[int, int] | None:
    """The next stop or end of anything this thread traces; None when nothing is left."""
    try:
        return os.waitpid(-1, linux.WAIT_ALL | linux.WAIT_NO_THREAD)
    except ChildProcessError:
        return None


@contextlib.contextmanager
def _capture(name: str) -> Generator[int, None, None]:
    """A file in memory that takes in what is written to it, however many processes hold it."""
    descriptor = os.memfd_create(name)
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
