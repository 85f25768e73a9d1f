"""Reading files that may change while they are read.

A reading counts only if size, mtime, ctime and inode are the same before and after it. What happens to the bytes is
the reader's business; this module says whether they can be believed.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import time
from functools import lru_cache

from holdfast.errors import SourceError
from holdfast.values import Attributes, FileVersion, Sighting, show_path

RACY_NS = 2 * 10**9
"""A file that was modified so shortly before it was looked at may change again without its times showing it."""


class Changed(SourceError):
    """The file is not what it was when the reading began."""


def open_steady(root: bytes, path: bytes) -> int:
    """Open a regular file for reading, following no link on the way below `root`, and waiting for nothing.

    Raises OSError (`ELOOP`, `ENOTDIR`, ...) when the path no longer leads to a regular file.
    """
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *folders, name = path.split(b"/")
        for part in folders:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.EINVAL, "not a regular file any more")
    return found


def same_file(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether nothing tells the two stats apart that tells of a change."""
    return _marks(before) == _marks(after)


def _marks(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def check_unchanged(before: os.stat_result, descriptor: int, path: bytes) -> None:
    """Raise `Changed` if the open file is not the one of `before` any more."""
    after = os.fstat(descriptor)
    if not same_file(before, after):
        raise Changed(
            "the file changed while it was read",
            place=show_path(path),
            expected=f"{before.st_size} bytes, mtime {before.st_mtime_ns}",
            found=f"{after.st_size} bytes, mtime {after.st_mtime_ns}",
        )


def attributes_of(status: os.stat_result) -> Attributes:
    """What is kept of a stat."""
    return Attributes(
        mode=stat.S_IMODE(status.st_mode),
        mtime_ns=status.st_mtime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
        user=_user_name(status.st_uid),
        group=_group_name(status.st_gid),
        sparse=stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size,
    )


@lru_cache(maxsize=1024)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@lru_cache(maxsize=1024)
def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def sighting_of(status: os.stat_result, looked_ns: int) -> Sighting:
    return Sighting(status.st_dev, status.st_ino, status.st_ctime_ns, looked_ns)


def is_unchanged(status: os.stat_result, known: FileVersion, sighting: Sighting) -> bool:
    """Whether a file need not be read again.

    Same size, mtime, ctime and inode as when it was last looked at; and not modified within two seconds of that look,
    as such a change might not show in its times.
    """
    return (
        status.st_size == known.size_bytes
        and status.st_mtime_ns == known.attributes.mtime_ns
        and status.st_ctime_ns == sighting.ctime_ns
        and status.st_ino == sighting.inode
        and max(status.st_mtime_ns, status.st_ctime_ns) < sighting.looked_ns - RACY_NS
    )


def now_ns() -> int:
    return time.time_ns()
