"""The system calls that matter to files, by name: their numbers on 64-bit x86 and when to stop at them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from holdfast.testing.linux import Rule

O_TMPFILE_BIT = 0o20000000
PROT_WRITE = 0x2
MAP_SHARED = 0x1
FICLONE, FICLONERANGE = 0x40049409, 0x4020940D

CALL_NUMBERS: Mapping[str, int] = {
    "read": 0,
    "write": 1,
    "open": 2,
    "mmap": 9,
    "mprotect": 10,
    "ioctl": 16,
    "pread64": 17,
    "pwrite64": 18,
    "readv": 19,
    "writev": 20,
    "sendfile": 40,
    "execve": 59,
    "kill": 62,
    "fsync": 74,
    "fdatasync": 75,
    "truncate": 76,
    "ftruncate": 77,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "creat": 85,
    "link": 86,
    "unlink": 87,
    "symlink": 88,
    "mknod": 133,
    "sync": 162,
    "tkill": 200,
    "exit_group": 231,
    "tgkill": 234,
    "openat": 257,
    "mkdirat": 258,
    "mknodat": 259,
    "unlinkat": 263,
    "renameat": 264,
    "linkat": 265,
    "symlinkat": 266,
    "splice": 275,
    "fallocate": 285,
    "preadv": 295,
    "pwritev": 296,
    "syncfs": 306,
    "renameat2": 316,
    "execveat": 322,
    "copy_file_range": 326,
    "preadv2": 327,
    "pwritev2": 328,
    "pidfd_send_signal": 424,
    "openat2": 437,
}

REFUSED_CALLS: Mapping[str, int] = {"io_setup": 206, "io_submit": 209, "io_uring_setup": 425}
"""Writing behind the filter's back. They fail as on a kernel that does not know them, so programs fall back."""

BARRIERS = ("execve", "execveat", "exit_group", "kill", "tkill", "tgkill", "pidfd_send_signal")
"""Calls that may end other threads: they wait until no followed call is under way, so that none is cut in two."""

READING_CALLS = frozenset({"read", "pread64", "readv", "preadv", "preadv2"})

RULES: Mapping[str, Rule] = {
    "open": Rule(CALL_NUMBERS["open"], any_bit=(1, os.O_CREAT | os.O_TRUNC | O_TMPFILE_BIT)),
    "openat": Rule(CALL_NUMBERS["openat"], any_bit=(2, os.O_CREAT | os.O_TRUNC | O_TMPFILE_BIT)),
    "mmap": Rule(CALL_NUMBERS["mmap"], any_bit=(3, MAP_SHARED)),
    "mprotect": Rule(CALL_NUMBERS["mprotect"], any_bit=(2, PROT_WRITE)),
    "ioctl": Rule(CALL_NUMBERS["ioctl"], equal_to=(1, (FICLONE, FICLONERANGE))),
}
"""Calls worth stopping at only with certain arguments: a Python start opens and maps hundreds of files to read."""
