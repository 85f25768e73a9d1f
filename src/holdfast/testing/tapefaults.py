"""Drives and changers that fail on demand: at a chosen operation, or at random from a seed.

A `Troubles` holds what is to go wrong, what has gone wrong (`happened`), and what stays wrong with a medium or a
drive, for a whole library and over several runs. `FaultyChanger` puts it between a library and the code above, and
`faulty_library` does so for every library that a command opens::

    troubles = Troubles([TapeFault(Trouble.WRITE_ERROR, drive="VDRIVE-1", operation="write_record", nth=7)])
    with faulty_library(troubles), pytest.raises(MediaError):
        archive(vault, request)
    troubles.demand_all_happened()

A test must ask whether its faults happened: one that did not proves nothing.
"""

from __future__ import annotations

import fnmatch
import random
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from holdfast import durable
from holdfast.errors import MediaError
from holdfast.tape.changer import Changer, Inventory
from holdfast.tape.drive import EarlyWarning, EndOfMedium, Position, TapeDrive, VirtualDrive
from holdfast.tape.drive.virtual import MARKS_NAME
from holdfast.testing.tapetime import wrapped_library
from holdfast.values import Side


class Trouble(StrEnum):
    """What can go wrong. A read error, a lasting write error and an end belong to the cartridge, whoever loads it."""

    READ_ERROR = "read error"
    """The record cannot be read, now or later, until it is written over."""
    WRITE_ERROR = "write error"
    """The record or mark is not written; written once more, it is."""
    LASTING_WRITE_ERROR = "lasting write error"
    """No record or mark can be written at this block, ever."""
    EARLY_WARNING = "early warning"
    """From this block on the drive warns, every other time."""
    END_OF_MEDIUM = "end of medium"
    """From this block on no record can be written; marks can."""
    FAILED_BUT_DONE = "done, and told as failed"
    """The command was carried out; its status says otherwise."""
    NOT_DONE = "not done, and told as failed"
    DRIVE_DIES = "drive dies"
    """This operation and all later ones of the drive fail, until `Troubles.repair_drives`."""
    LOAD_FAILS = "load fails"
    """The cartridge stays in its slot."""
    STOPPED = "stopped"
    """The process ends here, as by SIGKILL or a power cut: `ProcessStopped` now, and from every later operation."""


CALLS: Mapping[Trouble, frozenset[str]] = {
    Trouble.READ_ERROR: frozenset({"read_record"}),
    Trouble.WRITE_ERROR: frozenset({"write_record", "write_file_mark"}),
    Trouble.LASTING_WRITE_ERROR: frozenset({"write_record", "write_file_mark"}),
    Trouble.EARLY_WARNING: frozenset({"write_record"}),
    Trouble.END_OF_MEDIUM: frozenset({"write_record"}),
    Trouble.FAILED_BUT_DONE: frozenset({"write_record", "write_file_mark", "erase", "rewind", "locate"}),
    Trouble.NOT_DONE: frozenset({"write_record", "write_file_mark", "erase", "rewind", "locate", "space_file_marks"}),
    Trouble.LOAD_FAILS: frozenset({"load"}),
}
"""The operations that a trouble can befall; any, if it is not named here."""

ENDS = (Trouble.STOPPED, Trouble.DRIVE_DIES)
"""After these nothing more is done by the process, or the drive."""


class ProcessStopped(BaseException):
    """Stands for the end of the process: no handler of errors may catch it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that was asked of a drive. `number`: from 1, of all that were asked of this drive."""

    name: str
    drive: str
    barcode: str
    number: int
    block: int
    synchronous: bool = False

    def __str__(self) -> str:
        mark = "synchronous " if self.synchronous else ""
        return f"{self.drive} operation {self.number}: {mark}{self.name} at {self.barcode} block {self.block}"


@dataclass(frozen=True, slots=True)
class TapeFault:
    """One trouble, at the `nth` operation (from 1) that it can befall and that all of these match; None: any does.

    `times`: so many such operations meet it, one after the other.

    `after`: the operation is done first (for `ENDS` only).
    """

    trouble: Trouble
    drive: str = "*"
    barcode: str = "*"
    operation: str = "*"
    nth: int = 1
    times: int = 1
    block: int | None = None
    number: int | None = None
    after: bool = False

    def matches(self, operation: Operation) -> bool:
        return (
            operation.name in CALLS.get(self.trouble, frozenset({operation.name}))
            and fnmatch.fnmatchcase(operation.drive, self.drive)
            and fnmatch.fnmatchcase(operation.barcode, self.barcode)
            and fnmatch.fnmatchcase(operation.name, self.operation)
            and self.block in (None, operation.block)
            and self.number in (None, operation.number)
        )


@dataclass(frozen=True, slots=True)
class Happened:
    """A trouble that came."""

    trouble: Trouble
    operation: Operation

    def __str__(self) -> str:
        return f"{self.trouble} at {self.operation}"


class _Lasting:
    """What stays wrong: with cartridges by block, with drives, and with the process."""

    def __init__(self) -> None:
        self.unreadable: set[tuple[str, int]] = set()
        self.unwritable: set[tuple[str, int]] = set()
        self.warns_from: dict[str, int] = {}
        self.ends_at: dict[str, int] = {}
        self.dead: set[str] = set()
        self.is_stopped = False

    def note(self, trouble: Trouble, operation: Operation) -> None:
        place = operation.barcode, operation.block
        if trouble is Trouble.READ_ERROR:
            self.unreadable.add(place)
        elif trouble is Trouble.LASTING_WRITE_ERROR:
            self.unwritable.add(place)
        elif trouble is Trouble.EARLY_WARNING:
            self.warns_from.setdefault(*place)
        elif trouble is Trouble.END_OF_MEDIUM:
            self.ends_at.setdefault(*place)

    def end(self, trouble: Trouble, operation: Operation) -> None:
        """Raises what the end of the process or of the drive raises."""
        if trouble is Trouble.STOPPED:
            self.is_stopped = True
            raise ProcessStopped
        self.dead.add(operation.drive)
        raise _failed("the drive died (made by a test)", operation)


@dataclass(frozen=True, slots=True)
class _Befallen:
    """What one operation meets; asked by its drive as it goes on."""

    lasting: _Lasting
    operation: Operation
    trouble: Trouble | None = None

    def before_reading(self) -> None:
        if (self.operation.barcode, self.operation.block) in self.lasting.unreadable:
            raise _failed("a record cannot be read (made by a test)", self.operation)

    def before_writing(self, *, record: bool) -> None:
        """Raises what the medium has to say; what is written can be read."""
        barcode, block = self.operation.barcode, self.operation.block
        if (barcode, block) in self.lasting.unwritable:
            raise _failed("nothing can be written here (made by a test)", self.operation)
        if record and block >= self.lasting.ends_at.get(barcode, block + 1):
            raise EndOfMedium("the cartridge is full (made by a test)", place=barcode, hint="run the command again")
        self.lasting.unreadable.discard((barcode, block))

    @property
    def warns(self) -> bool:
        barcode, block = self.operation.barcode, self.operation.block
        return block >= self.lasting.warns_from.get(barcode, block + 1)

    def after(self) -> None:
        """Raises what is raised though the operation was carried out."""
        if self.trouble is not None and self.trouble in ENDS:
            self.lasting.end(self.trouble, self.operation)
        if self.trouble is Trouble.FAILED_BUT_DONE:
            raise _failed(f"{self.trouble} (made by a test)", self.operation)


class Troubles:
    """What goes wrong in one library. May be asked by several drives' threads at once.

    `faults` come once each, at their operation. `rates` come at random besides: of the operations that a trouble can
    befall, the part that it does. Each drive has its own dice, thrown from `seed`, so that a drive that is asked the
    same meets the same, whatever the other does.
    """

    def __init__(
        self, faults: Iterable[TapeFault] = (), *, seed: object = 0, rates: Mapping[Trouble, float] | None = None
    ) -> None:
        self.happened: list[Happened] = []
        self.operations: list[Operation] = []
        self.rates = dict(rates or {})
        self._waiting = [_Waiting(fault, fault.nth) for fault in faults]
        self._seed = seed
        self._repairs = 0
        self._dice: dict[str, random.Random] = {}
        self._numbers: dict[str, int] = {}
        self._lasting = _Lasting()
        self._lock = threading.Lock()

    def demand_all_happened(self) -> None:
        """Raise AssertionError if a fault never came to its operation."""
        missing = [item.fault for item in self._waiting if item.left > 0]
        assert not missing, f"these faults did not happen: {missing}"

    def repair_drives(self) -> None:
        """Drives that died work again, and a process that was stopped runs again; what ails cartridges stays.

        The dice are others from here on: how far a drive came before, which may hang on the other one's thread, does
        not change what comes.
        """
        self._lasting.dead.clear()
        self._lasting.is_stopped = False
        self._repairs += 1
        self._dice.clear()

    def quiet(self) -> None:
        """Nothing new goes wrong from now on."""
        self._waiting.clear()
        self.rates.clear()

    def is_dead(self, drive: str) -> bool:
        return self._lasting.is_stopped or drive in self._lasting.dead

    def befalls(self, name: str, drive: str, barcode: str, block: int, *, synchronous: bool = False) -> _Befallen:
        """What this operation meets. Raises what is raised before an operation is carried out."""
        with self._lock:
            if self._lasting.is_stopped:
                raise ProcessStopped
            number = self._numbers[drive] = self._numbers.get(drive, 0) + 1
            operation = Operation(name, drive, barcode, number, block, synchronous)
            self.operations.append(operation)
            if drive in self._lasting.dead:
                raise _failed("the drive does not answer (made by a test)", operation)
            return self._befallen(operation)

    def _befallen(self, operation: Operation) -> _Befallen:
        trouble, after = self._choose(operation)
        if trouble is None:
            return _Befallen(self._lasting, operation)
        self.happened.append(Happened(trouble, operation))
        self._lasting.note(trouble, operation)
        if trouble in ENDS and not after:
            self._lasting.end(trouble, operation)
        if trouble in (Trouble.WRITE_ERROR, Trouble.NOT_DONE, Trouble.LOAD_FAILS):
            raise _failed(f"{trouble} (made by a test)", operation)
        return _Befallen(self._lasting, operation, trouble)

    def _choose(self, operation: Operation) -> tuple[Trouble | None, bool]:
        for item in [item for item in self._waiting if item.fault.matches(operation)]:
            item.left -= 1
            if item.left <= 0:
                if item.left <= 1 - item.fault.times:
                    self._waiting.remove(item)
                return item.fault.trouble, item.fault.after
        return self._throw(operation), False

    def _throw(self, operation: Operation) -> Trouble | None:
        dice = self._dice.setdefault(operation.drive, random.Random(f"{self._seed} {self._repairs} {operation.drive}"))
        for trouble, rate in self.rates.items():
            if operation.name in CALLS.get(trouble, frozenset({operation.name})) and dice.random() < rate:
                return trouble
        return None


@dataclass(slots=True, eq=False)
class _Waiting:
    """A fault that has not come yet, and how many operations it lets pass, its own counted."""

    fault: TapeFault
    left: int


def _failed(message: str, operation: Operation) -> MediaError:
    return MediaError(
        message,
        place=f"{operation.barcode} in drive {operation.drive}, block {operation.block}",
        expected=f"{operation.name} to succeed",
        found="an error of the drive",
        hint="run the same command again",
    )


class FaultyDrive:
    """A drive that fails when its `Troubles` say so, and else does what the drive behind it does."""

    def __init__(self, drive: TapeDrive, barcode: str, troubles: Troubles) -> None:
        self.drive = drive
        self.barcode = barcode
        self._troubles = troubles
        self._warned = False

    @property
    def serial(self) -> str:
        return self.drive.serial

    def write_record(self, data: memoryview) -> None:
        meets = self._meets("write_record")
        meets.before_writing(record=True)
        self._warned = meets.warns and not self._warned
        if self._warned:
            raise EarlyWarning(self.barcode)
        self.drive.write_record(data)
        meets.after()

    def write_file_mark(self, *, synchronous: bool) -> None:
        meets = self._meets("write_file_mark", synchronous=synchronous)
        meets.before_writing(record=False)
        self.drive.write_file_mark(synchronous=synchronous)
        meets.after()

    def erase(self) -> None:
        self._move("erase", self.drive.erase)

    def read_record(self, buffer: memoryview) -> int:
        meets = self._meets("read_record")
        meets.before_reading()
        count = self.drive.read_record(buffer)
        meets.after()
        return count

    def rewind(self) -> None:
        self._move("rewind", self.drive.rewind)

    def locate(self, position: Position) -> None:
        self._move("locate", lambda: self.drive.locate(position))

    def space_file_marks(self, count: int) -> None:
        self._move("space_file_marks", lambda: self.drive.space_file_marks(count))

    def tell(self) -> Position:
        return self.drive.tell()

    def _move(self, name: str, step: Callable[[], None]) -> None:
        meets = self._meets(name)
        step()
        self._warned = False
        meets.after()

    def _meets(self, name: str, *, synchronous: bool = False) -> _Befallen:
        block = self.drive.tell().block
        return self._troubles.befalls(name, self.serial, self.barcode, block, synchronous=synchronous)


class FaultyChanger:
    """A changer whose loads can fail, and whose drives are `FaultyDrive`s."""

    def __init__(self, changer: Changer, troubles: Troubles) -> None:
        self._changer = changer
        self._troubles = troubles
        self._open: dict[str, TapeDrive] = {}

    @property
    def is_virtual(self) -> bool:
        return self._changer.is_virtual

    def inventory(self) -> Inventory:
        return self._changer.inventory()

    def load(self, barcode: str, drive: str) -> FaultyDrive:
        meets = self._troubles.befalls("load", drive, barcode, 0)
        opened = self._open[drive] = self._changer.load(barcode, drive)
        meets.after()
        return FaultyDrive(opened, barcode, self._troubles)

    def unload(self, drive: str) -> None:
        """A drive that died gives its cartridge back, but not what was in its buffer."""
        barcode = self._changer.inventory().drives.get(drive)
        opened = self._open.pop(drive, None)
        if opened is not None and self._troubles.is_dead(drive):
            assert isinstance(opened, VirtualDrive)
            opened.abandon()
        elif barcode is not None:
            self._troubles.befalls("unload", drive, barcode, 0)
        self._changer.unload(drive)

    def export(self, barcode: str) -> None:
        self._changer.export(barcode)

    def bring_in(self, barcode: str) -> None:
        self._changer.bring_in(barcode)

    def devices(self) -> dict[str, Path]:
        return self._changer.devices()

    def scratch(self, sides: Sequence[Side], known: set[str]) -> tuple[str, ...]:
        return self._changer.scratch(sides, known)

    def capacity_bytes(self, barcode: str) -> int:
        return self._changer.capacity_bytes(barcode)

    def close(self) -> None:
        self._changer.close()


@contextmanager
def faulty_library(troubles: Troubles) -> Generator[None, None, None]:
    """Every library that is opened in the block has these troubles."""
    with wrapped_library(lambda changer: FaultyChanger(changer, troubles)):
        yield


# -- power cuts


def lose_buffers(folder: Path, dice: random.Random) -> int:
    """Do to a virtual cartridge that nobody has loaded what a power cut does to tape: unsynced records are gone.

    What lies before the last synchronous mark stays. Behind it everything written is cut off at a random byte, and
    what is left of the last record may be noise. Returns how many bytes were lost or spoilt.
    """
    marked = sum(1 for _ in durable.Journal(folder / MARKS_NAME).entries())
    files = sorted(path for path in folder.iterdir() if path.name.isdigit() and int(path.name) >= marked)
    total_bytes = sum(path.stat().st_size for path in files)
    kept_bytes = dice.choice((0, total_bytes, dice.randint(0, total_bytes)))
    lost_bytes = total_bytes - kept_bytes
    for path in files:
        size_bytes = path.stat().st_size
        _tear(path, min(kept_bytes, size_bytes), dice)
        kept_bytes -= min(kept_bytes, size_bytes)
    return lost_bytes


def _tear(path: Path, kept_bytes: int, dice: random.Random) -> None:
    size_bytes = path.stat().st_size
    if kept_bytes == 0 and dice.random() < 0.5:
        path.unlink()
    elif kept_bytes < size_bytes:
        with path.open("r+b") as file:
            file.truncate(kept_bytes)
            noise_bytes = min(kept_bytes, dice.choice((0, 0, 512, 5000)))
            file.seek(kept_bytes - noise_bytes)
            file.write(dice.randbytes(noise_bytes))
