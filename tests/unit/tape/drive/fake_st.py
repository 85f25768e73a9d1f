"""What `st` and the drive behind it answer, in memory: as the kernel's source says, and as an emulated drive was seen
to do. The tape is a list of records and marks.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.tape.drive.mtio import LOGICAL_BLOCK_NUMBERS, Operation, Status

MARK = None


@dataclass
class Tape:
    """A cartridge: what is on it, how many bytes of records until the early warning, and until the end."""

    items: list[bytes | None] = field(default_factory=list)
    warning_bytes: int = 2**40
    capacity_bytes: int = 2**41
    is_write_protected: bool = False

    def used_bytes(self) -> int:
        return sum(len(item or b"") for item in self.items)


@dataclass
class Drive:
    """A kind of drive, and its state while a device is open. `failing`: what fails once, by name of the call."""

    tape: Tape | None = None
    tells: bool = True  # MTIOCPOS and MTSEEK work
    may_set_options: bool = True  # as root
    numbers_are_logical: bool = True  # without the option
    stale_at_end: bool = False  # as tgt does at the end of data
    marks_at_once: bool = True
    erases: bool = True  # MTERASE works
    largest_bytes: int = 2**23  # the longest record that it says it takes
    slow_opens: int = 0  # so many opens find it not ready
    was_reset: bool = False
    old_kernel: bool = False  # tells nothing after a reset
    failing: dict[str, int] = field(default_factory=dict)
    is_open: bool = False
    calls: list[tuple[str, int]] = field(default_factory=list)

    def open(self, device: Path) -> FakeNode:
        if self.is_open:
            raise OSError(errno.EBUSY, "busy")
        self.is_open = True
        self.slow_opens -= 1
        return FakeNode(self, is_ready=self.tape is not None and self.slow_opens < 0)


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FakeNode:
    """One open of the device. `at`: the next item; `end`: 0 no, 1 end of tape, 2.. end of data (st's eof)."""

    def __init__(self, drive: Drive, *, is_ready: bool) -> None:
        self.drive, self.is_ready = drive, is_ready
        self.at = 0
        self.end = 0
        self.after_mark = False
        self.owes_mark = False
        self.early = ""  # "", "warned" (the next write is refused), "refused" (the next one is let through)
        self.option_set = False
        self.located = False
        self.stuck = False  # an end that was none makes it refuse every second write

    @property
    def tape(self) -> Tape:
        if self.drive.tape is None:
            raise fail(errno.ENOMEDIUM)
        return self.drive.tape

    def _call(self, name: str, count: int = 1) -> None:
        self.drive.calls.append((name, count))
        if not self.is_ready:
            raise fail(errno.EIO if self.drive.tape else errno.ENOMEDIUM)
        if number := self.drive.failing.pop(name, 0):
            raise fail(number)

    # -- the four ways to ask

    def status(self) -> Status:
        if self.drive.was_reset and self.drive.old_kernel:
            raise fail(errno.EIO)
        tape_file = -1 if self.drive.was_reset or self.located else 0  # no more of it is used
        loaded = self.drive.tape is not None
        protected = self.drive.tape is not None and self.drive.tape.is_write_protected
        return Status(self.is_ready, not loaded, protected, bool(self.end or self.early), 0, tape_file)

    def told_block(self) -> int:
        self._call("TELL")
        self._check_reset()
        if not self.drive.tells:
            raise fail(errno.EIO)
        return self.at if self.option_set or self.drive.numbers_are_logical else self.at * 3

    def read_into(self, buffer: memoryview) -> int:
        self._call("READ")
        self._check_reset()
        if len(buffer) > self.drive.largest_bytes:
            raise fail(errno.EINVAL)
        if self.end >= 2:
            self.end += 1
            if self.end < 5:
                return 0
            raise fail(errno.EIO)
        if self.at >= len(self.tape.items):
            return self._read_at_end(buffer)
        item = self.tape.items[self.at]
        self.at += 1
        self.after_mark = item is MARK
        if item is MARK:
            return 0
        if len(item) > len(buffer):
            raise fail(errno.ENOMEM)
        buffer[: len(item)] = item
        return len(item)

    def _read_at_end(self, buffer: memoryview) -> int:
        if self.drive.stale_at_end:
            self.end = 2 if self.after_mark else 1
            self.stuck = not self.after_mark
            self.early = "warned" if self.stuck else ""
            buffer[:] = b"\xee" * len(buffer)
            return len(buffer)
        if self.after_mark:
            self.end = 3
            return 0
        raise fail(errno.EIO)  # and the status does not tell why

    def write(self, data: memoryview) -> int:
        self._call("WRITE", len(data))
        self._check_reset()
        if self.tape.is_write_protected:
            raise fail(errno.EACCES)
        if self.early == "warned":
            self.early = "refused"
            raise fail(errno.ENOSPC)
        self._put(bytes(data))
        self.owes_mark = True
        return len(data)

    def _put(self, item: bytes | None) -> None:
        if self.tape.used_bytes() + len(item or b"") > self.tape.capacity_bytes:
            self.early = "warned"
            raise fail(errno.ENOSPC)
        del self.tape.items[self.at :]
        self.tape.items.append(item)
        self.at += 1
        self.end, self.after_mark = 0, item is MARK
        is_near_end = self.stuck or self.tape.used_bytes() > self.tape.warning_bytes
        self.early = "warned" if item is not MARK and is_near_end else ""

    def close(self) -> None:
        self.drive.is_open = False
        if self.owes_mark and not self.drive.was_reset:
            self._put(MARK)
            self.owes_mark = False

    # -- operations

    def operate(self, operation: Operation, count: int = 1) -> None:
        self._call(operation.name, count)
        if operation in (Operation.REWIND, Operation.LOCATE):
            self.drive.was_reset = False
        self._check_reset()
        getattr(self, f"_{operation.name.lower()}")(count)

    def _check_reset(self) -> None:
        if self.drive.was_reset:
            raise fail(errno.EIO)

    def _moved(self, at: int) -> None:
        self.at, self.end, self.early, self.owes_mark, self.stuck = at, 0, "", False, False
        self.after_mark = at > 0 and self.tape.items[at - 1] is MARK

    def _rewind(self, _: int) -> None:
        self._moved(0)
        self.located = False

    def _unload(self, _: int) -> None:
        self._moved(0)
        self.is_ready = False

    def _set_block_bytes(self, count: int) -> None:
        assert count == 0

    def _set_options(self, count: int) -> None:
        if not self.drive.may_set_options:
            raise fail(errno.EPERM)
        assert count == LOGICAL_BLOCK_NUMBERS
        self.option_set = True

    def _locate(self, block: int) -> None:
        if not self.drive.tells:
            raise fail(errno.EIO)
        block = block if self.option_set or self.drive.numbers_are_logical else block // 3
        self._moved(min(block, len(self.tape.items)))
        self.located = True
        if block > len(self.tape.items):
            raise fail(errno.EIO)

    def _space_file_marks(self, count: int) -> None:
        at = self.at
        for _ in range(count):
            while at < len(self.tape.items) and self.tape.items[at] is not MARK:
                at += 1
            if at == len(self.tape.items):
                self._moved(at)
                self.end = 0 if self.drive.stale_at_end else 5
                raise fail(errno.EIO)
            at += 1
        self._moved(at)

    def _space_records(self, count: int) -> None:
        assert count in (0, 1)
        self.end, self.early, self.owes_mark, self.stuck = 0, "", False, False
        if count and self.at >= len(self.tape.items):
            self.end = 5
            raise fail(errno.EIO)
        self.at += count

    def _write_marks(self, count: int) -> None:
        if self.tape.is_write_protected:
            raise fail(errno.EACCES)
        for _ in range(count):
            self._put(MARK)
        self.owes_mark = self.stuck = False

    def _erase(self, count: int) -> None:
        assert count == 0, "the long way takes hours"
        if self.tape.is_write_protected:
            raise fail(errno.EACCES)
        if not self.drive.erases:
            raise fail(errno.EIO)
        del self.tape.items[self.at :]
        self.end, self.owes_mark, self.early, self.stuck = 0, False, "", False

    def _write_marks_at_once(self, count: int) -> None:
        if not self.drive.marks_at_once:
            raise fail(errno.EIO)
        self._write_marks(count)
