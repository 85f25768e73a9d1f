"""Who has claimed a task: this process, told from all others, and whether one of them is gone.

A process is its number, when it began (proc(5), `stat`, field 22), in which of the kernel's spaces of such numbers, and
since which boot: only of a process of this boot and this space can be said here that it is gone. All others keep what
they have until their lease ends.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

_PROC = Path("/proc")


def me() -> str:
    """The process that asks, in words that no other one has had."""
    return _words(os.getpid())


@cache
def _words(pid: int) -> str:
    return f"{socket.gethostname()} {_boot()} {_space()} {pid} {_begun(pid)}"


@cache
def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _space() -> str:
    return os.readlink(_PROC / "self/ns/pid").strip("pid:[]")


def _begun(pid: int) -> str:
    """When the process began, in ticks since the boot; "" when there is none, "?" when that is hidden from us."""
    try:
        line = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return "?" if _is_there(pid) else ""
    # the name, in parentheses, may hold anything; a zombie ('Z') or dead ('X') one does nothing any more
    state, *fields = line.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def host_and_pid(owner: str) -> tuple[str, int]:
    """Of an owner's words, what people ask for."""
    words = owner.split(" ")
    return words[0], int(words[3]) if len(words) == 5 and words[3].isdecimal() else 0


def is_of_another_boot(owner: str) -> bool:
    """Whether it was here before the last boot, or on another machine."""
    return owner.split(" ")[1:2] != [_boot()]


def is_gone(owner: str) -> bool:
    """Whether it is sure that this owner does nothing any more."""
    words = owner.split(" ")
    # copies of one machine may have the same boot, and another name
    here = [socket.gethostname(), _boot(), _space()]
    if len(words) != 5 or words[:3] != here or not words[3].isdecimal():
        return False
    return _begun(int(words[3])) not in (words[4], "?")


os.register_at_fork(after_in_child=_words.cache_clear)  # the child's number may be one that was its forefather's
