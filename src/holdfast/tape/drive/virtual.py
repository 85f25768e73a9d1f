"""A tape drive in files, that behaves as `st` does.

A virtual cartridge is a folder:

    cartridge.json      barcode and capacity
    00000, 00001, ...   one plain file per tape file: its records one after the other, so `tar -xf` reads it
    marks.jsonl         one line per file mark: {"file": 3, "bytes": 1048576, "records": [[524288, 2]]}, runs of
                        records of one size

Records are written at once but are durable only after a synchronous mark; a tape file without its line in
marks.jsonl has no file mark, and after a power cut may be anything. What a killed run left is put on the medium when
the cartridge is loaded, as a drive does with what is in its buffer before it reads. Writing anywhere makes all that lay behind it
vanish, as on tape. Near the end of the capacity writes fail and succeed in turn, as `st` does at early warning. What
the host cannot put on its disk is a failure of the drive: it does nothing more until the cartridge is loaded again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast import durable
from holdfast.errors import BusyError, CapacityError, MediaError
from holdfast.tape.drive.passing import PassingPages
from holdfast.tape.drive.protocol import EarlyWarning, EndOfData, EndOfMedium, Position
from holdfast.tape.drive.timing import DriveTimer

MARKS_NAME = "marks.jsonl"
CARTRIDGE_NAME = "cartridge.json"
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(slots=True)
class _TapeFile:
    """The records of one tape file as runs of equal sizes; `marked`: a file mark follows."""

    runs: list[list[int]] = field(default_factory=list[list[int]])
    size_bytes: int = 0
    records: int = 0
    marked: bool = False

    def append(self, record_bytes: int) -> None:
        if self.runs and self.runs[-1][0] == record_bytes:
            self.runs[-1][1] += 1
        else:
            self.runs.append([record_bytes, 1])
        self.size_bytes += record_bytes
        self.records += 1

    def truncate(self, records: int) -> None:
        self.size_bytes = self.offset_of(records)
        kept, self.runs, self.records, self.marked = self.runs, [], records, False
        for size, count in kept:
            if records > 0:
                self.runs.append([size, min(count, records)])
            records -= count

    def offset_of(self, record: int) -> int:
        """The byte at which a record begins (the end for one past the last)."""
        offset = 0
        for size, count in self.runs:
            taken = min(count, record)
            offset += size * taken
            record -= taken
        return offset

    def size_of(self, record: int) -> int:
        for size, count in self.runs:
            if record < count:
                return size
            record -= count
        raise IndexError(record)


def data_path(folder: Path, number: int) -> Path:
    """The plain file that holds a tape file's records."""
    return folder / f"{number:05d}"


def make_cartridge(folder: Path, barcode: str, capacity_bytes: int) -> None:
    """Make a blank virtual cartridge, durably."""
    durable.make_folder(folder)
    document = {"holdfast_cartridge": 1, "barcode": barcode, "capacity_bytes": capacity_bytes}
    durable.replace_file(folder / CARTRIDGE_NAME, (json.dumps(document) + "\n").encode())


def read_cartridge(folder: Path) -> dict[str, Any]:
    """`cartridge.json`: `barcode` and `capacity_bytes`. Raises `MediaError` when it is missing or damaged."""
    try:
        document = json.loads((folder / CARTRIDGE_NAME).read_bytes())
        return {"barcode": str(document["barcode"]), "capacity_bytes": int(document["capacity_bytes"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MediaError("not a virtual cartridge", place=str(folder), found=str(error)) from error


class VirtualDrive:
    """A drive with a virtual cartridge in it; made at load, closed at unload.

    Holds an exclusive lock on the cartridge (law 10). Loading drops the cartridge's pages from the cache, so that
    what is read afterwards comes from the medium. `timer`, when given, is told of each operation and keeps the time
    that a real drive would need.
    """

    def __init__(self, serial: str, folder: Path, timer: DriveTimer | None = None) -> None:
        self._serial = serial
        self._timer = timer
        self._folder = folder
        document = read_cartridge(folder)
        self.barcode: str = document["barcode"]
        self.capacity_bytes: int = document["capacity_bytes"]
        self._journal = durable.Journal(folder / MARKS_NAME)
        self._file = 0
        self._record = 0
        self._files: list[_TapeFile] = []
        # the block and the byte at which each tape file begins; one more than there are marks
        self._first_blocks = [0]
        self._first_bytes = [0]
        self._descriptor = -1
        self._open_number = -1
        self._pages = PassingPages(-1, written=False)
        self._writing = False
        self._warned = False
        self._failure: MediaError | CapacityError | None = None
        self._unsynced: set[int] = set()
        self._new_marks: list[dict[str, Any]] = []
        self._lock = self._lock_cartridge()
        try:
            self._settle()
            self._read_medium()
            self._marks_on_medium = len(self._files)
            self._data_end = max((int(path.name) + 1 for path in self._data_files()), default=0)
            self._drop_caches()
        except BaseException:
            self.abandon()
            raise
        if timer is not None:
            timer.loaded(is_new=self._data_end == 0)

    # -- identity and life

    @property
    def serial(self) -> str:
        return self._serial

    def _lock_cartridge(self) -> int:
        descriptor = os.open(self._folder / CARTRIDGE_NAME, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError(
                "the cartridge is in use", place=self.barcode, hint="wait for the other command to end, then try again"
            ) from None
        return descriptor

    def close(self) -> None:
        """End a tape file that is being written, put everything on the medium, and let the cartridge go.

        After a failure it only lets the cartridge go.
        """
        try:
            if self._failure is None and self._writing:
                self.write_file_mark(synchronous=True)
            elif self._failure is None and (self._unsynced or self._new_marks):
                self._sync()
            if self._timer is not None and self._lock >= 0:
                self._timer.unloaded()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let the cartridge go without writing anything: for a drive that failed."""
        if self._timer is not None:
            self._timer.lost_power()
        self._failure = self._failure or self._fault("the drive is empty", "a loaded cartridge", "it was unloaded")
        self._close_data()
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)

    def _settle(self) -> None:
        """Put on the medium what a killed run wrote and did not come to sync: what is read here will be believed."""
        if not self._journal.path.exists():
            return
        try:
            with self._failing("what a killed run left cannot be put on the medium"):
                durable.settle_file(self._journal.path)
                durable.sync_folder(self._folder)
        except MediaError as error:
            # where nothing can be written, no killed run has written anything
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in NOT_WRITABLE:
                raise
            self._failure = None

    def _read_medium(self) -> None:
        for entry in self._journal.entries():
            try:
                runs = [[int(size), int(count)] for size, count in entry["records"]]
                item = _TapeFile(runs, int(entry["bytes"]), sum(count for _, count in runs), marked=True)
                sound = entry["file"] == len(self._files) and item.size_bytes == sum(
                    size * count for size, count in runs
                )
            except (KeyError, TypeError, ValueError):
                sound, item = False, _TapeFile()
            if not sound or any(size < 1 or count < 1 for size, count in item.runs):
                raise self._fault("the marks of the cartridge are damaged", f"tape file {len(self._files)}", str(entry))
            self._files.append(item)
            self._note_mark(item)

    def _note_mark(self, item: _TapeFile) -> None:
        self._first_blocks.append(self._first_blocks[-1] + item.records + 1)
        self._first_bytes.append(self._first_bytes[-1] + item.size_bytes)

    def _data_files(self) -> Iterator[Path]:
        return (path for path in self._folder.iterdir() if path.name.isascii() and path.name.isdigit())

    def _drop_caches(self) -> None:
        for path in self._data_files():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # whoever reads it will be told
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    # -- writing

    def write_record(self, data: memoryview) -> None:
        if not data:
            raise ValueError("a record has at least one byte")
        self._check_alive()
        if not self._writing:
            self._begin_writing()
        self._check_room(len(data))
        item = self._files[self._file]
        with self._failing("a record cannot be written"):
            self._write_at(data, item.size_bytes)
        if self._timer is not None:
            self._timer.wrote(self._first_bytes[self._file] + item.size_bytes, len(data))
        item.append(len(data))
        self._pages.passed(item.size_bytes)
        self._record += 1
        self._unsynced.add(self._file)

    def _write_at(self, data: memoryview, offset: int) -> None:
        while data:
            count = os.pwrite(self._descriptor, data, offset)
            data, offset = data[count:], offset + count

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _failing(self, message: str) -> Generator[None, None, None]:
        """What the disk below cannot do is a failure of the drive, for good: after a failed sync nothing is sure."""
        try:
            with durable.disk_full_explained(self._folder):
                yield
        except CapacityError as error:
            self._failure = error
            raise
        except OSError as error:
            self._failure = self._fault(message, "a disk that works", error.strerror or str(error))
            raise self._failure from error

    def _begin_writing(self) -> None:
        """Make everything behind this point vanish, and open the tape file that is written now."""
        number = self._file
        with self._failing("the tape cannot be written from here"):
            self._forget_behind(number)
            if len(self._files) > number:
                self._files[number].truncate(self._record)
            else:
                self._files.append(_TapeFile())
            self._close_data()
            path = data_path(self._folder, number)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._open_number = number
            self._pages = PassingPages(self._descriptor, written=True)
            os.ftruncate(self._descriptor, self._files[number].size_bytes)
        self._data_end = number + 1
        self._writing = True

    def _forget_behind(self, number: int) -> None:
        """Nothing behind the begin of a tape file has a mark any more. Marks go first: they vouch for the data."""
        while self._new_marks and self._new_marks[-1]["file"] >= number:
            self._new_marks.pop()
        if self._marks_on_medium > number:
            lines = [self._mark_line(known) for known in range(number)]
            durable.replace_file(self._journal.path, "".join(lines).encode())
            self._marks_on_medium = number
        self._unsynced.difference_update(range(number, len(self._files)))
        del self._files[number + 1 :]
        del self._first_blocks[number + 1 :]
        del self._first_bytes[number + 1 :]
        if self._data_end > number + 1:
            for path in list(self._data_files()):
                if int(path.name) > number:
                    path.unlink(missing_ok=True)

    def _mark_line(self, number: int) -> str:
        return json.dumps(self._mark_entry(number), separators=(",", ":")) + "\n"

    def _mark_entry(self, number: int) -> dict[str, Any]:
        item = self._files[number]
        return {"file": number, "bytes": item.size_bytes, "records": item.runs}

    def _check_room(self, record_bytes: int) -> None:
        used = self._first_bytes[self._file] + self._files[self._file].size_bytes + record_bytes
        if used > self.capacity_bytes:
            raise EndOfMedium("the cartridge is full", place=f"{self.barcode} tape file {self._file}")
        if used <= self.capacity_bytes - early_warning_bytes(self.capacity_bytes):
            self._warned = False
        else:
            self._warned = not self._warned
            if self._warned:
                raise EarlyWarning(self.barcode)

    def write_file_mark(self, *, synchronous: bool) -> None:
        self._check_alive()
        if not self._writing:
            self._begin_writing()
        item = self._files[self._file]
        item.marked = True
        self._unsynced.add(self._file)
        self._new_marks.append(self._mark_entry(self._file))
        self._note_mark(item)
        self._writing = False
        self._file, self._record = self._file + 1, 0
        if synchronous:
            self._sync()
        if self._timer is not None:
            self._timer.marked(synchronous=synchronous)

    def erase(self) -> None:
        self.rewind()
        self._close_data()
        with self._failing("the tape cannot be erased"):
            # marks go first, and are gone before any data is: they vouch for it
            self._journal.path.unlink(missing_ok=True)
            durable.sync_folder(self._folder)
            for path in list(self._data_files()):
                path.unlink()
            durable.sync_folder(self._folder)
        self._file = self._record = self._marks_on_medium = self._data_end = 0
        self._files, self._first_blocks, self._first_bytes = [], [0], [0]
        self._unsynced.clear()
        self._new_marks.clear()
        if self._timer is not None:
            self._timer.marked(synchronous=True)

    def _sync(self) -> None:
        with self._failing("what was written cannot be put on the medium"):
            for number in sorted(self._unsynced):
                self._sync_data(number)
            if self._unsynced:
                durable.sync_folder(self._folder)
            # the marks are written last: a line in marks.jsonl says that the tape file before it is on the medium
            self._journal.append(*self._new_marks)
        self._unsynced.clear()
        self._marks_on_medium += len(self._new_marks)
        self._new_marks.clear()

    def _sync_data(self, number: int) -> None:
        if number == self._open_number:
            durable.sync_file(self._descriptor)
            return
        descriptor = os.open(data_path(self._folder, number), os.O_RDWR | os.O_CLOEXEC)
        try:
            durable.sync_file(descriptor)
        finally:
            os.close(descriptor)

    # -- reading

    def read_record(self, buffer: memoryview) -> int:
        self._end_writing()
        if self._file >= len(self._files):
            raise EndOfData(self.barcode)
        item = self._files[self._file]
        if self._record >= item.records:
            return self._pass_mark(item)
        size = item.size_of(self._record)
        if size > len(buffer):
            raise self._fault("a record is longer than the buffer", f"at most {len(buffer)} bytes", f"{size} bytes")
        self._open_data(self._file)
        try:
            offset = item.offset_of(self._record)
            got = os.preadv(self._descriptor, [buffer[:size]], offset)
        except OSError as error:
            raise self._fault("a record cannot be read", f"{size} bytes", error.strerror or str(error)) from error
        if got != size:
            raise self._fault("a record cannot be read whole", f"{size} bytes", f"{got} bytes")
        self._record += 1
        self._pages.passed(offset + size)
        if self._timer is not None:
            self._timer.read(self._first_bytes[self._file] + offset, size)
        return size

    def _pass_mark(self, item: _TapeFile) -> int:
        if not item.marked:
            raise EndOfData(self.barcode)
        self._file, self._record = self._file + 1, 0
        return 0

    def _fault(self, message: str, expected: str, found: str) -> MediaError:
        return MediaError(
            message,
            place=f"{self.barcode} in drive {self.serial}, tape file {self._file}, record {self._record}",
            expected=expected,
            found=found,
            hint="holdfast verify, then restore from the twin",
        )

    def _open_data(self, number: int) -> None:
        if number == self._open_number:
            return
        self._close_data()
        try:
            self._descriptor = os.open(data_path(self._folder, number), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._fault("a tape file cannot be read", "its records", error.strerror or str(error)) from error
        self._open_number = number
        self._pages = PassingPages(self._descriptor, written=False)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def _close_data(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor, self._open_number = self._descriptor, -1, -1
            os.close(descriptor)

    # -- moving

    def _end_writing(self) -> None:
        """As `st` does: going elsewhere after a write ends the tape file first."""
        self._check_alive()
        if self._writing:
            self.write_file_mark(synchronous=False)
        self._warned = False

    def _move(self, tape_file: int, record: int) -> None:
        self._file, self._record = tape_file, record
        if self._timer is not None:
            offset = self._files[tape_file].offset_of(record) if record else 0
            self._timer.moved(self._first_bytes[tape_file] + offset)

    def rewind(self) -> None:
        self._end_writing()
        self._move(0, 0)

    def locate(self, position: Position) -> None:
        if min(position.tape_file, position.record, position.block) < 0:
            raise ValueError(f"no place is at {position}")
        self._end_writing()
        number = bisect_right(self._first_blocks, position.block) - 1
        record = position.block - self._first_blocks[number]
        if record > (self._files[number].records if number < len(self._files) else 0):
            self._move(*self._end_of_data())
            found = f"end of data at block {self.tell().block}"
            raise self._fault("the tape ends before the block", f"block {position.block}", found)
        if (number, record) != (position.tape_file, position.record):
            found = f"tape file {number} record {record}"
            raise self._fault("the tape is not laid out as it was told", str(position), found)
        self._move(number, record)

    def _end_of_data(self) -> tuple[int, int]:
        if self._files and not self._files[-1].marked:
            return len(self._files) - 1, self._files[-1].records
        return len(self._files), 0

    def space_file_marks(self, count: int) -> None:
        self._end_writing()
        for _ in range(count):
            if self._file >= len(self._files) or not self._files[self._file].marked:
                self._move(*self._end_of_data())
                raise EndOfData(self.barcode)
            self._file, self._record = self._file + 1, 0
        self._move(self._file, self._record)

    def tell(self) -> Position:
        return Position(self._file, self._record, self._first_blocks[self._file] + self._record)


def early_warning_bytes(capacity_bytes: int) -> int:
    """How long before its end a virtual cartridge warns: a 500th, at least 4 MiB, at most a 64th.

    That is less than the margin which a dump leaves free (`plan.Room`), as on tape: who plans well is not warned.
    """
    return min(max(capacity_bytes // 500, 4 * 2**20), capacity_bytes // 64)
