"""A tape drive behind Linux's driver `st`, in variable-block mode on a device that does not rewind (`/dev/nst*`).

Where the tape stands is counted here, from the rewind at load on: what `st` tells is lost by a locate, and some drives
tell nothing. After a failure the place is unknown, and nothing is written until a rewind or a locate has succeeded.

- **Locate** goes by block number (MTSEEK) where the drive tells logical block numbers (MTIOCPOS), and the place is read
  back. As root the option `scsi2logical` is switched on, which makes the numbers logical; `st` forgets it at reboot.
  Without root they are believed only after one of them agreed with what was counted here. Otherwise the way is
  rewind, space over file marks, read records. The block in the position is then taken on trust.
- **End of data** is what `st` says it is: after every read its status is asked for (MTIOCGET, which sends nothing to
  the drive). Two file marks in a row and the end of data both read as two zeros; only the status tells them apart. Not
  behind a file mark, a read there fails like that of a bad record, and only the attempt to space over one tells. An
  emulated drive (tgt 1.0) gives stale bytes as a record at the end of data, and the status is right there, too. A drive
  that was set to report early warning on reads (REW in mode page 10h, off by default) would be taken to end there.
- **Marks**: synchronous MTWEOF, else MTWEOFI, which some drives refuse; then MTWEOF.
- **Early warning**: `st` lets every second write through (ENOSPC in between). When the one fails, too, that should be
  let through, the medium has ended. A mark can be written at any time until then.
- **Erase** is MTERASE in its short form, which some drives refuse; then a synchronous mark at the begin.
- **Write-behind**: `st` may take a record and fail to write it only when the next one, or a mark, is asked for. What
  was written is sure after a synchronous mark, never before.

Closing a device after a write without a mark makes `st` write a mark, also when the process is killed. `abandon`
prevents that by spacing over no records (MTFSR 0), after which `st` owes no mark. Nothing may rely on either: what
lies behind the last commit may have a mark or none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from holdfast.config import READY_TIMEOUT_S
from holdfast.errors import BusyError, MediaError
from holdfast.tape.drive import mtio
from holdfast.tape.drive.mtio import Operation, Status
from holdfast.tape.drive.protocol import BEGIN_OF_TAPE, EarlyWarning, EndOfData, EndOfMedium, Position

READY_SECONDS = float(READY_TIMEOUT_S)
"""How long a loaded drive may take to get ready, where nobody says otherwise."""

POLL_SECONDS = 0.25
LARGEST_RECORD_BYTES = 2**20
"""Our records are no longer (the label's `record_bytes`); longer ones are passed all the same."""

SMALLEST_BUFFER_BYTES = 256 * 2**10
"""A drive that takes no records of this size takes none of ours."""

_RESET = ": the drive was reset or switched off, and where the tape stands is unknown"
_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY})
_READ_ONLY = frozenset({errno.EACCES, errno.EROFS, errno.EBADF, errno.EPERM})


class StNode(Protocol):
    """What is asked of an open tape device. Everything raises `OSError` as the system call does."""

    def operate(self, operation: Operation, count: int = 1) -> None:
        """MTIOCTOP."""
        ...

    def status(self) -> Status:
        """MTIOCGET. After a write it waits for the drive, and swallows an early warning: ask after reads only."""
        ...

    def told_block(self) -> int:
        """MTIOCPOS."""
        ...

    def read_into(self, buffer: memoryview) -> int: ...

    def write(self, data: memoryview) -> int: ...

    def close(self) -> None: ...


class DeviceNode:
    """An open `/dev/nst*`; the thinnest shell around its system calls."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def operate(self, operation: Operation, count: int = 1) -> None:
        fcntl.ioctl(self._descriptor, mtio.MTIOCTOP, mtio.encode_operation(operation, count))

    def status(self) -> Status:
        return mtio.decode_status(fcntl.ioctl(self._descriptor, mtio.MTIOCGET, bytes(mtio.STATUS_BYTES)))

    def told_block(self) -> int:
        return mtio.decode_place(fcntl.ioctl(self._descriptor, mtio.MTIOCPOS, bytes(mtio.PLACE_BYTES)))

    def read_into(self, buffer: memoryview) -> int:
        return os.readv(self._descriptor, [buffer])

    def write(self, data: memoryview) -> int:
        return os.write(self._descriptor, data)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def open_node(device: Path) -> DeviceNode:
    """Open and lock a tape device, ready or not; read-only if it cannot be written. Raises `OSError`.

    An open that waits would do so for two minutes on an empty drive, so this one does not (O_NONBLOCK); later calls do.
    `st` itself lets a drive be open only once (EBUSY); the lock says so to those who look for one (EWOULDBLOCK).
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    except BaseException:
        os.close(descriptor)
        raise
    return DeviceNode(descriptor)


def serial_number(device: Path, classes: Path = Path("/sys/class/scsi_tape")) -> str | None:
    """The serial number of the drive behind a tape device, as the kernel read it (VPD page 80h); None if it has none."""
    try:
        return mtio.decode_serial((classes / device.resolve().name / "device" / "vpd_pg80").read_bytes())
    except OSError:
        return None


class StDrive:
    """A drive with a loaded cartridge in it: the protocol `TapeDrive` on a device of `st`. Made at load, closed at unload.

    The constructor waits for at most `ready_seconds` until the cartridge is ready, and rewinds it. It raises
    `BusyError` when somebody else has the drive, and `MediaError` when the drive is missing, empty or does not get
    ready. Errors name the cartridge, the drive, the place, and what was being done.
    """

    def __init__(
        self,
        device: Path,
        serial: str,
        barcode: str,
        *,
        ready_seconds: float = READY_SECONDS,
        opener: Callable[[Path], StNode] = open_node,
    ) -> None:
        self.device, self.barcode = device, barcode
        self._serial = serial
        self._position: Position | None = None
        self._failure: MediaError | None = None  # raised again until the place is known again
        self._writing = False  # records without a mark behind them
        self._unsynced = False  # records or marks that no synchronous mark covers
        self._warned = False  # the last write was refused by an early warning
        self._met_end = False  # the last read met the end of data
        self._marks_at_once = True  # until the drive refuses
        self._logical = False  # block numbers are logical, so one can go by them
        self._tells = False  # the drive tells block numbers
        self._skipped: memoryview | None = None
        self._node: StNode | None = self._open_ready(opener, ready_seconds)
        try:
            self._set_up(self._node)
        except BaseException:
            self.abandon()
            raise

    # -- identity and life

    @property
    def serial(self) -> str:
        return self._serial

    def _open_ready(self, opener: Callable[[Path], StNode], seconds: float) -> StNode:
        """Readiness is found out when a device is opened, and nothing announces it: so open again and again."""
        end = time.monotonic() + seconds
        while True:
            node = self._open(opener)
            try:
                status = node.status()
            except OSError as error:
                node.close()
                raise self._fault("be opened", _text(error)) from error
            if status.is_ready:
                return node
            node.close()
            if time.monotonic() >= end:
                found = "no cartridge in the drive" if status.is_empty else "a drive that is not ready"
                hint = (
                    "look at the drive's display; load the cartridge, or clean the drive, then run the command again; "
                    "if the drive is still busy with it (LTO-9, new cartridges): raise [library] ready_timeout_s"
                )
                raise self._fault(
                    "take the cartridge", found, expected=f"a ready cartridge within {seconds:.0f} s", hint=hint
                )
            time.sleep(POLL_SECONDS)

    def _open(self, opener: Callable[[Path], StNode]) -> StNode:
        try:
            return opener(self.device)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EWOULDBLOCK):
                raise BusyError(
                    "the drive is in use",
                    place=self._place(),
                    found=_text(error),
                    hint=f"wait for the other command to end (fuser -v {self.device} names it), then try again",
                ) from error
            hint = "see that the drive is on and connected (ls -l /dev/tape/by-id), then try again"
            if error.errno in (errno.EACCES, errno.EPERM):
                hint = "run as a user of the group that owns the device (often `tape`)"
            raise self._fault("be opened", _text(error), hint=hint) from error

    def _set_up(self, node: StNode) -> None:
        """Variable blocks; at the begin; and can one go by block numbers?"""
        self.is_write_protected = node.status().is_write_protected
        self._do("rewind", Operation.REWIND)
        self._do("set variable-block mode", Operation.SET_BLOCK_BYTES, 0)
        self._position = BEGIN_OF_TAPE
        try:
            node.operate(Operation.SET_OPTIONS, mtio.LOGICAL_BLOCK_NUMBERS)
        except OSError:
            self._tells = self._told_block() == 0
        else:
            self._tells = self._logical = self._told_block() == 0

    def _told_block(self) -> int | None:
        try:
            return self._opened().told_block()
        except OSError:
            return None

    def close(self) -> None:
        """End a tape file that is being written, put everything on the medium, and let the drive go.

        After a failure it only lets the drive go. The tape stays where it is, and the cartridge in the drive.
        """
        try:
            if self._node is not None and self._failure is None:
                if self._writing:
                    self.write_file_mark(synchronous=True)
                elif self._unsynced:
                    self._do("put on the medium what was written", Operation.WRITE_MARKS, 0)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let the drive go without writing anything: for a drive that failed. Raises nothing, and twice does no harm."""
        node, self._node = self._node, None
        if node is None:
            return
        for step in (lambda: node.operate(Operation.SPACE_RECORDS, 0), node.close):
            with suppress(OSError):  # what counts is only what a mark was reported for
                step()
        self._failure = self._fault("do anything", "it was let go", "a loaded cartridge", "load the cartridge again")
        self._position = None

    # -- writing

    def write_record(self, data: memoryview) -> None:
        if not data:
            raise ValueError("a record has at least one byte")
        here = self._known()
        self._check_writable("write a record")
        try:
            written = self._write(data)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._no_space() from error
            raise self._fail("write a record", error) from error
        if written != len(data):
            found = f"{written} bytes written"
            raise self._lose(self._fault("write a record", found, f"{len(data)} bytes written"))
        self._position = here.forward(1)
        self._writing, self._unsynced, self._warned = True, True, False

    def _write(self, data: memoryview) -> int:
        node = self._opened()
        if self._met_end:
            # An end of data that the drive called the end of the tape (GMT_EOT) makes `st` refuse every second write
            # from there on. Spacing over no records makes it forget that, and moves nothing.
            self._met_end = False
            with suppress(OSError):
                node.operate(Operation.SPACE_RECORDS, 0)
        return node.write(data)

    def _no_space(self) -> EarlyWarning | EndOfMedium:
        """ENOSPC: nothing was written. The next write is let through, so a second one in a row is the end."""
        if self._warned:
            return self._full("write a record")
        self._warned = True
        return EarlyWarning(self.barcode)

    def _full(self, what: str) -> EndOfMedium:
        hint = "close the session behind its last commit, and go on with another cartridge"
        return EndOfMedium("the cartridge is full", place=self._place(), found=f"no room to {what}", hint=hint)

    def write_file_mark(self, *, synchronous: bool) -> None:
        here = self._known()
        self._check_writable("write a file mark")
        self._write_mark(synchronous=synchronous)
        self._position = Position(here.tape_file + 1, 0, here.block + 1)
        self._writing, self._unsynced, self._warned, self._met_end = False, not synchronous, False, False

    def _write_mark(self, *, synchronous: bool) -> None:
        """ENOSPC is the early warning of a record before: the mark was not written, and is asked for once more."""
        try:
            self._ask_for_mark(synchronous=synchronous)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise self._fail("write a file mark", error) from error
            self._ask_again(synchronous=synchronous)

    def _ask_again(self, *, synchronous: bool) -> None:
        try:
            self._ask_for_mark(synchronous=synchronous)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise self._fail("write a file mark", error) from error
            raise self._full("write a file mark") from error

    def _ask_for_mark(self, *, synchronous: bool) -> None:
        node = self._opened()
        if synchronous or not self._marks_at_once:
            node.operate(Operation.WRITE_MARKS)
            return
        try:
            node.operate(Operation.WRITE_MARKS_AT_ONCE)
        except OSError as error:
            if not self._refused(error):
                raise
            self._marks_at_once = False
            node.operate(Operation.WRITE_MARKS)

    def _refused(self, error: OSError) -> bool:
        """Whether the drive did nothing because it does not know the operation. EIO may be that, or a mark half done."""
        if error.errno != errno.EIO:
            return error.errno in _REFUSED
        return self._logical and self._position is not None and self._told_block() == self._position.block

    def erase(self) -> None:
        self.rewind()
        self._check_writable("erase the tape")
        try:
            self._opened().operate(Operation.ERASE, 0)
        except OSError as error:
            if error.errno in _READ_ONLY or self._explained(error):
                raise self._fail("erase the tape", error) from error
            self.rewind()  # it does not know the operation: what reads as nothing is a mark, too
            self.write_file_mark(synchronous=True)
        self.rewind()
        self._unsynced = False

    def _check_writable(self, what: str) -> None:
        if self.is_write_protected:
            hint = "slide the cartridge's write-protect tab open if it may be written, then load it again"
            raise self._fault(what, "a write-protected cartridge", "a cartridge that can be written", hint)

    # -- reading

    def read_record(self, buffer: memoryview) -> int:
        self._end_writing()
        here = self._known()
        count = self._next(buffer)
        if count is None:
            expected = f"a record of at most {len(buffer)} bytes"
            raise self._fault("read a record", "a longer one, which was passed", expected, position=here)
        return count

    def _next(self, buffer: memoryview) -> int | None:
        """Pass the next record or mark: the record's size, None if it is longer than the buffer, 0 for a mark."""
        here = self._known()
        try:
            count = self._read_into(buffer)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise self._no_read(error) from error
            count = None
        else:
            self._check_end()
        self._position = Position(here.tape_file + 1, 0, here.block + 1) if count == 0 else here.forward(1)
        self._met_end = False
        return count

    def _read_into(self, buffer: memoryview) -> int:
        """`st` refuses to read more at once than the drive's longest record (EINVAL), and has not moved the tape then."""
        node = self._opened()
        while True:
            try:
                return node.read_into(buffer)
            except OSError as error:
                if error.errno != errno.EINVAL or len(buffer) <= SMALLEST_BUFFER_BYTES:
                    raise
            buffer = buffer[: len(buffer) // 2]

    def _check_end(self) -> None:
        """Raises `EndOfData` when the status says so: what was read then is no record, and no mark."""
        try:
            at_end = self._opened().status().at_end
        except OSError as error:
            raise self._fail("tell its status", error) from error
        if at_end:
            self._met_end = True
            raise EndOfData(self.barcode)

    def _no_read(self, error: OSError) -> EndOfData | MediaError:
        """What a failed read means: the end of data, or a failure."""
        if error.errno != errno.EIO or not (self._at_end_quietly() or self._nothing_follows()):
            return self._fail("read a record", error)
        self._met_end = True
        return EndOfData(self.barcode)

    def _nothing_follows(self) -> bool:
        """Whether there is no record to space over, either. `st` tells the end of data after a read only if a file mark
        is before it; on a blank tape, or behind a record, it tells it only of a spacing that failed.
        """
        try:
            self._opened().operate(Operation.SPACE_RECORDS, 1)
        except OSError:
            return self._at_end_quietly()
        return False

    def _at_end_quietly(self) -> bool:
        try:
            return self._opened().status().at_end
        except OSError:
            return False

    # -- moving

    def _end_writing(self) -> None:
        """Going elsewhere after a write ends the tape file first. `st` does so for some operations, not for all."""
        if self._writing and self._failure is None:
            self.write_file_mark(synchronous=False)
        self._warned = False

    def rewind(self) -> None:
        self._end_writing()
        self._do("rewind", Operation.REWIND)
        if self._failure is not None:  # a reset makes the drive forget it
            self._do("set variable-block mode", Operation.SET_BLOCK_BYTES, 0)
        self._arrive(BEGIN_OF_TAPE)

    def _arrive(self, position: Position) -> None:
        self._position, self._failure = position, None
        self._writing = self._met_end = False

    def locate(self, position: Position) -> None:
        if min(position.tape_file, position.record) < 0 or not _agrees(position):
            raise ValueError(f"there is no such place: {position}")
        self._end_writing()
        if self._failure is not None:
            self.rewind()
        if position == self._position:
            return
        if self._logical:
            self._seek(position)
        else:
            self._space_to(position)
        self._arrive(position)

    def _seek(self, position: Position) -> None:
        what = f"locate block {position.block}"
        self._do(what, Operation.LOCATE, position.block)
        told = self._told_block()
        if told != position.block:
            found = "the drive does not tell where it is" if told is None else f"the tape at block {told}"
            raise self._lose(self._fault(what, found, f"the tape at block {position.block}"))

    def _space_to(self, position: Position) -> None:
        here = self._known()
        if (position.tape_file, position.record) < (here.tape_file, here.record):
            self.rewind()
            here = BEGIN_OF_TAPE
        if position.tape_file > here.tape_file:
            what = f"space to tape file {position.tape_file}"
            self._do(what, Operation.SPACE_FILE_MARKS, position.tape_file - here.tape_file)
            here = Position(position.tape_file, 0, position.block - position.record)
        self._position = here
        self._skip_records(position)
        self._learn_numbers(position)

    def _skip_records(self, position: Position) -> None:
        """By reading: spacing over records runs past file marks in some drives, and nothing tells it."""
        here = self._known()
        if here.forward(position.record - here.record) != position:
            raise self._lose(self._fault("locate", f"{here}, which does not agree", f"{position}"))
        what = f"space to record {position.record} of tape file {position.tape_file}"
        buffer = self._skip_buffer()
        while self._known().record < position.record:
            try:
                is_mark = self._next(buffer) == 0
            except EndOfData:
                raise self._lose(self._fault(what, "the end of data")) from None
            if is_mark:
                raise self._lose(self._fault(what, "a file mark"))

    def _skip_buffer(self) -> memoryview:
        if self._skipped is None:
            self._skipped = memoryview(bytearray(LARGEST_RECORD_BYTES))
        return self._skipped

    def _learn_numbers(self, position: Position) -> None:
        """The drive's block numbers are logical if one of them, not that of the begin, is what was counted here."""
        if self._tells and position.block > 0:
            self._logical = self._told_block() == position.block
            self._tells = self._logical

    def space_file_marks(self, count: int) -> None:
        if count < 0:
            raise ValueError("file marks are spaced over forwards")
        self._end_writing()
        here = self._known()
        if self._logical and count:
            self._space_and_ask(here, count)
            return
        buffer = self._skip_buffer()
        while self._known().tape_file < here.tape_file + count:
            self._next(buffer)

    def _space_and_ask(self, here: Position, count: int) -> None:
        what = f"space over {count} file marks"
        try:
            self._opened().operate(Operation.SPACE_FILE_MARKS, count)
        except OSError as error:
            failure = self._fail(what, error)
            if error.errno == errno.EIO and self._at_end_quietly():
                raise EndOfData(self.barcode) from error
            raise failure from error
        told = self._told_block()
        if told is None:
            raise self._lose(self._fault(what, "the drive does not tell where it is"))
        self._arrive(Position(here.tape_file + count, 0, told))

    def tell(self) -> Position:
        return self._known()

    # -- failures

    def _opened(self) -> StNode:
        if self._node is None:
            raise self._failure or self._fault("do anything", "it was let go")
        return self._node

    def _known(self) -> Position:
        """Where the tape stands; raises what made that unknown."""
        if self._failure is not None:
            raise self._failure
        assert self._position is not None
        return self._position

    def _do(self, what: str, operation: Operation, count: int = 1) -> None:
        try:
            self._opened().operate(operation, count)
        except OSError as error:
            raise self._fail(what, error) from error

    def _fail(self, what: str, error: OSError) -> MediaError:
        """The drive could not do it; where the tape stands is unknown now."""
        if error.errno in _READ_ONLY:
            hint = "slide the cartridge's write-protect tab open if it may be written, then load it again"
            return self._lose(
                self._fault(what, f"{_text(error)}: write-protected, or opened for reading only", hint=hint)
            )
        if error.errno == errno.EINVAL and what == "write a record":
            return self._lose(self._fault(what, f"{_text(error)}: a record of a size that the drive does not take"))
        return self._lose(self._fault(what, f"{_text(error)}{self._explained(error)}"))

    def _explained(self, error: OSError) -> str:
        """What more is known of a failure. After a reset `st` answers with EIO to everything until a rewind."""
        if error.errno != errno.EIO:
            return ""
        try:
            status = self._opened().status()
        except OSError:  # kernels before 6.14 do not even tell the status then
            return _RESET
        if status.is_empty:
            return ": no cartridge in the drive"
        if not status.is_ready:
            return ": the drive is not ready"
        # a locate makes `st` forget the tape file, too
        knows = status.tape_file >= 0 or (self._logical and self._told_block() is not None)
        return "" if knows else _RESET

    def _lose(self, failure: MediaError) -> MediaError:
        self._failure, self._position = failure, None
        self._writing = False
        return failure

    def _fault(
        self,
        what: str,
        found: str,
        expected: str | None = None,
        hint: str | None = None,
        position: Position | None = None,
    ) -> MediaError:
        return MediaError(
            f"the drive cannot {what}",
            place=self._place(position),
            expected=expected,
            found=found,
            hint=hint
            or "see what the kernel says (dmesg), then run holdfast verify; the twin cartridge holds the same",
        )

    def _place(self, position: Position | None = None) -> str:
        position = position or self._position
        where = "place unknown"
        if position is not None:
            where = f"tape file {position.tape_file}, record {position.record}, block {position.block}"
        return f"{self.barcode} in drive {self.serial} ({self.device}), {where}"


def _agrees(position: Position) -> bool:
    """Whether the parts can belong together: every tape file before has at least its mark."""
    before = position.block - position.record
    return before >= position.tape_file and (position.tape_file > 0 or before == 0)


def _text(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "?")
    return f"{os.strerror(error.errno or 0)} ({name})"
