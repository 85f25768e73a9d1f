"""The doors of Linux that the tracer uses: ptrace, the seccomp filter, and the program that puts it in place.

x86-64 only: the register places and system call numbers below are this machine's. Elsewhere `check_platform` raises.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.testing.errors import UnsupportedPlatform

# ---- ptrace -------------------------------------------------------------------------------------------------------

PTRACE_POKEUSER = 6
PTRACE_CONT = 7
PTRACE_SYSCALL = 24
PTRACE_GETEVENTMSG = 0x4201
PTRACE_SEIZE = 0x4206
PTRACE_LISTEN = 0x4208
PTRACE_GET_SYSCALL_INFO = 0x420E

OPTION_SYSGOOD = 0x1
OPTION_FORK = 0x2
OPTION_VFORK = 0x4
OPTION_CLONE = 0x8
OPTION_EXEC = 0x10
OPTION_SECCOMP = 0x80
OPTION_EXITKILL = 0x100000
OPTIONS = OPTION_SYSGOOD | OPTION_FORK | OPTION_VFORK | OPTION_CLONE | OPTION_EXEC | OPTION_SECCOMP | OPTION_EXITKILL

EVENT_FORK = 1
EVENT_VFORK = 2
EVENT_CLONE = 3
EVENT_EXEC = 4
EVENT_SECCOMP = 7
EVENT_STOP = 128

WAIT_ALL = 0x40000000
"""Threads and processes alike (__WALL)."""
WAIT_NO_THREAD = 0x20000000
"""Only what this very thread started or traces (__WNOTHREAD), so that nobody else's child is reaped."""

INFO_AT_EXIT = 2
INFO_AT_SECCOMP = 3
INFO_BYTES = 88

# Byte places of x86-64 registers for PTRACE_POKEUSER (struct user_regs_struct).
REGISTER_RESULT = 80
REGISTER_THIRD_ARGUMENT = 96
REGISTER_NUMBER = 120

FOREIGN_ABI = 1
"""What the filter says of a call made through another ABI (32-bit, x32), whose numbers mean something else."""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call at its entry, made by thread `tid`. `args` are the six registers, unsigned."""

    tid: int
    number: int
    args: tuple[int, ...]
    foreign: bool = False


class Ptrace:
    """The ptrace requests the tracer needs. All of them must come from the thread that called `seize`.

    Raises `ProcessLookupError` where the tracee was killed meanwhile, `OSError` for anything else.
    """

    def __init__(self) -> None:
        self._ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self._ptrace.restype = ctypes.c_long
        self._ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._info = ctypes.create_string_buffer(INFO_BYTES)
        self._info_address = ctypes.addressof(self._info)

    def _request(self, request: int, tid: int, address: int = 0, data: int = 0) -> int:
        result: int = self._ptrace(request, tid, address, data)
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result

    def seize(self, tid: int) -> None:
        """Begin to trace `tid` and all that it will start."""
        self._request(PTRACE_SEIZE, tid, 0, OPTIONS)

    def resume(self, tid: int, signal_number: int = 0) -> None:
        """Let it run to its next stop."""
        self._request(PTRACE_CONT, tid, 0, signal_number)

    def resume_to_exit(self, tid: int) -> None:
        """Let it run to the end of the system call it is in."""
        self._request(PTRACE_SYSCALL, tid)

    def leave_stopped(self, tid: int) -> None:
        """Let it stay stopped as job control asked."""
        self._request(PTRACE_LISTEN, tid)

    def event_message(self, tid: int) -> int:
        """The number that came with the last event: a new thread's or process's id."""
        message = ctypes.c_ulong()
        self._request(PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(message))
        return message.value

    def entered_call(self, tid: int) -> Call:
        """The call at whose entry the filter stopped `tid`."""
        self._request(PTRACE_GET_SYSCALL_INFO, tid, INFO_BYTES, self._info_address)
        number, *args = struct.unpack_from("<7Q", self._info, 24)
        said = struct.unpack_from("<I", self._info, 80)[0]
        return Call(tid, number, tuple(args), foreign=said == FOREIGN_ABI)

    def result(self, tid: int) -> int | None:
        """What the call that just ended returned (negative: minus errno); None if this is no call's end."""
        self._request(PTRACE_GET_SYSCALL_INFO, tid, INFO_BYTES, self._info_address)
        if self._info[0] != bytes([INFO_AT_EXIT]):
            return None
        return int(struct.unpack_from("<q", self._info, 24)[0])

    def refuse_call(self, tid: int, errno_number: int) -> None:
        """At its entry: make the call do nothing and return this error. Resume afterwards."""
        self._request(PTRACE_POKEUSER, tid, REGISTER_NUMBER, -1 & 0xFFFFFFFFFFFFFFFF)
        self._request(PTRACE_POKEUSER, tid, REGISTER_RESULT, -errno_number & 0xFFFFFFFFFFFFFFFF)

    def set_third_argument(self, tid: int, value: int) -> None:
        """At entry: change the count of a write. At exit it must be put back: programs rely on that register."""
        self._request(PTRACE_POKEUSER, tid, REGISTER_THIRD_ARGUMENT, value)


def check_platform() -> None:
    """Raise `UnsupportedPlatform` with the reason where tracing cannot work. What only a try shows is left open."""
    if sys.platform != "linux":
        raise UnsupportedPlatform(f"system calls are traced on Linux only, this is {sys.platform}")
    if platform.machine() != "x86_64" or struct.calcsize("P") != 8:
        raise UnsupportedPlatform(f"system calls are traced on 64-bit x86 only, this is {platform.machine()}")
    release = platform.release()
    if tuple(int(part) for part in release.split("-")[0].split(".")[:2]) < (5, 3):
        raise UnsupportedPlatform(f"tracing needs Linux 5.3 or newer, this is {release}")


# ---- the seccomp filter -------------------------------------------------------------------------------------------

AUDIT_ARCH_X86_64 = 0xC000003E
X32_BIT = 0x40000000

LOAD_WORD = 0x20
JUMP_EQUAL = 0x15
JUMP_AT_LEAST = 0x35
JUMP_ANY_BIT = 0x45
RETURN = 0x06

RETURN_ALLOW = 0x7FFF0000
RETURN_TRACE = 0x7FF00000
RETURN_ERRNO = 0x00050000

NUMBER_PLACE = 0
ARCH_PLACE = 4
ARGS_PLACE = 16


@dataclass(frozen=True, slots=True)
class Rule:
    """Which calls of one number to stop at.

    All of them; with `any_bit` (argument index, mask) only those where the argument has one of the bits; with
    `equal_to` (argument index, values) only those where it is one of the values. `errno_number` refuses the call
    instead. Arguments are compared by their low 32 bits.
    """

    number: int
    any_bit: tuple[int, int] | None = None
    equal_to: tuple[int, tuple[int, ...]] | None = None
    errno_number: int = 0


def filter_program(rules: Iterable[Rule]) -> bytes:
    """The filter as the kernel takes it: stop at what the rules name, at foreign ABIs too; let all else run free."""
    code = [
        _op(LOAD_WORD, ARCH_PLACE),
        _op(JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        _op(RETURN, RETURN_TRACE | FOREIGN_ABI),
        _op(LOAD_WORD, NUMBER_PLACE),
        _op(JUMP_AT_LEAST, X32_BIT, 0, 1),
        _op(RETURN, RETURN_TRACE | FOREIGN_ABI),
    ]
    for rule in rules:
        body = _rule_body(rule)
        code += [_op(JUMP_EQUAL, rule.number, 0, len(body)), *body]
    code.append(_op(RETURN, RETURN_ALLOW))
    return b"".join(code)


def _op(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, value)


def _rule_body(rule: Rule) -> list[bytes]:
    if rule.errno_number:
        return [_op(RETURN, RETURN_ERRNO | rule.errno_number)]
    trace, allow = _op(RETURN, RETURN_TRACE), _op(RETURN, RETURN_ALLOW)
    if rule.any_bit is not None:
        index, mask = rule.any_bit
        return [_op(LOAD_WORD, ARGS_PLACE + 8 * index), _op(JUMP_ANY_BIT, mask, 0, 1), trace, allow]
    if rule.equal_to is not None:
        index, values = rule.equal_to
        tests = [step for value in values for step in (_op(JUMP_EQUAL, value, 0, 1), trace)]
        return [_op(LOAD_WORD, ARGS_PLACE + 8 * index), *tests, allow]
    return [trace]


# ---- the program that becomes the command -------------------------------------------------------------------------

STUB_FAILED = "holdfast.testing: "
"""How the stub's last words begin where the kernel refused the filter."""

# Runs between fork and the command's exec. It is a program of its own, not a function called after a fork: the tracer
# lives in a thread, and Python code between fork and exec may deadlock where there are threads.
STUB = """
import ctypes, json, os, signal, sys
with open(int(sys.argv[1]), "rb") as pipe:
    job = json.load(pipe)
code = bytes.fromhex(job["filter"])
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
program = Program(len(code) // 8, code)
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
for name in ("SIGPIPE", "SIGXFSZ"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
if prctl(38, 1, None, 0, 0) or prctl(22, 2, ctypes.addressof(program), 0, 0):
    sys.exit("holdfast.testing: seccomp: " + os.strerror(ctypes.get_errno()))
os.execve(job["program"], job["argv"], job["env"])
"""


def stub_argv(pipe_descriptor: int) -> list[str]:
    """The command line of the stub, which reads its job from this descriptor."""
    return [sys.executable, "-I", "-S", "-c", STUB, str(pipe_descriptor)]


def stub_job(program: str, argv: Sequence[str], env: Mapping[str, str], filter_code: bytes) -> bytes:
    """What the stub reads: the program it becomes, and the filter it puts in place before."""
    job = {"program": program, "argv": list(argv), "env": dict(env), "filter": filter_code.hex()}
    return json.dumps(job).encode()
