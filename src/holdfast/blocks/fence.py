"""The fence between those who name blocks of the store and the one who gives blocks up.

Whoever looks for blocks in order to name them holds a `Pass` from before the first look until what it names is durable.
The collector marks blocks so that nobody finds them any more, and then begins a new generation (`raise_to`) for the passes
that are taken from then on. When all older ones have ended (`is_clear`), whoever found such a block before has named it, or
never will. Nobody waits for the collector, and a pass ends with its process, as the kernel holds it: a shared `flock` on the
generation's file. Only one collector may be at work; local disks only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from holdfast import durable
from holdfast.errors import BusyError


class Pass:
    """The right to name blocks that one has found. `end` it; ending it again does nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def end(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Fence:
    """The passes of one block store; `folder` holds a file for each generation, and is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take_pass(self) -> Pass:
        """A pass of the newest generation, at once."""
        while True:
            descriptor = self._open(self.newest())
            if descriptor is None:
                continue  # that generation has just ended
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.fstat(descriptor).st_nlink:
                return Pass(descriptor)
            os.close(descriptor)  # it ended before the lock was had: nobody would see it

    @contextmanager
    def passing(self) -> Generator[None, None, None]:
        """Hold a pass for the length of a block."""
        held = self.take_pass()
        try:
            yield
        finally:
            held.end()

    def newest(self) -> int:
        """The generation of which passes are taken now."""
        return max(self._generations(), default=0)

    def raise_to(self, generation: int) -> None:
        """Begin a generation, unless a newer one has begun. Only for the one collector."""
        if self.newest() < generation:
            durable.make_folder(self._folder)
            os.close(os.open(self._folder / str(generation), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))

    def is_clear(self, generation: int, *, wait: bool = False) -> bool:
        """Whether every pass of an older generation has ended; with `wait`, wait until it has. Only for the collector."""
        return all(self._ended(number, wait=wait) for number in self._generations() if number < generation)

    def _ended(self, number: int, *, wait: bool) -> bool:
        path = self._folder / str(number)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            path.unlink()  # under the lock: who opened it meanwhile sees that it is gone
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _generations(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(self._folder) if name.isdecimal()]
        except FileNotFoundError:
            return []

    def _open(self, number: int) -> int | None:
        """The file of a generation; the first one is made where there is none. None if it is gone by now."""
        path, flags = self._folder / str(number), os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            if number:
                return None
        durable.make_folder(self._folder)
        return os.open(path, flags | os.O_CREAT, 0o644)


@contextmanager
def alone(folder: Path) -> Generator[None, None, None]:
    """One collector at a time, or whoever must have none beside. Raises `BusyError` at once when there is one."""
    durable.make_folder(folder)
    path = folder / "collect.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError("another collection is under way", place=str(path), hint="let it end") from None
    finally:
        os.close(descriptor)
