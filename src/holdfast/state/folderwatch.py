"""Waiting until a file of a folder is written, by Linux's inotify(7)."""

from __future__ import annotations

import ctypes
import os
import select
from pathlib import Path
from typing import Self

from holdfast.errors import StateError

_IN_MODIFY, _IN_CREATE = 0x2, 0x100
_EVENTS_BYTES = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """A context manager; from its begin on nothing that is written goes unnoticed."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        added = -1
        if self._descriptor >= 0:
            added = _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_MODIFY | _IN_CREATE)
        if added < 0:
            found = os.strerror(ctypes.get_errno())
            self.__exit__()
            hint = "raise fs.inotify.max_user_instances and fs.inotify.max_user_watches (sysctl)"
            raise StateError("this folder cannot be watched", place=str(folder), found=found, hint=hint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def wait(self, timeout_s: float) -> bool:
        """Until something was written since the last time, or so long; whether anything was."""
        ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
        if ready:
            try:
                while os.read(self._descriptor, _EVENTS_BYTES):
                    pass
            except BlockingIOError:
                pass  # all events are read
        return bool(ready)
