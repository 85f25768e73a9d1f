"""A real tape library: a changer moved by `mtx`, and its drives behind `st`.

**Which drive is which.** The changer numbers its drives, the kernel numbers its devices, and neither knows the other's
numbers. What both know is the serial number: the kernel reads it from each drive, and most libraries tell it for each
element (READ ELEMENT STATUS with DVCID, asked through `sg_raw` of sg3-utils). Where a library does not tell, the
settings say it (`elements`). A drive of which nobody says where it is, is not used. After each move the drive must get
ready with the cartridge in it, so a wrong mapping ends in an error, not in a wrong tape.

**One owner** (law 10): a lock on the changer's device; each drive has its own besides.

**Moves** are believed when the changer tells them afterwards. A cartridge goes back to the slot from which it came, or
to a free one if that is not known or is a port, where somebody would take it for one that is to leave the library.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdfast.errors import BusyError, MediaError, OperatorNeeded, UsageError
from holdfast.tape.changer.elements import DriveElement, Elements, drive_serials, parse_status
from holdfast.tape.changer.protocol import Inventory
from holdfast.tape.drive.mtio import Operation
from holdfast.tape.drive.st import READY_SECONDS, StDrive, StNode, open_node, serial_number
from holdfast.tape.foreign import identify
from holdfast.tape.scan import RecordBuffer, is_blank
from holdfast.values import Side

MOVE_SECONDS = 600.0
"""A robot takes 10 to 30 s for a move, a large library with several robots minutes."""

STATUS_SECONDS = 300.0
"""A library that was just switched on, or had its door open, looks at all its slots before it answers."""

NATIVE_BYTES = {
    "L3": 400 * 10**9,
    "L4": 800 * 10**9,
    "L5": 1_500 * 10**9,
    "L6": 2_500 * 10**9,
    "L7": 6_000 * 10**9,
    "M8": 9_000 * 10**9,
    "L8": 12_000 * 10**9,
    "L9": 18_000 * 10**9,
}
"""Native capacity by the last two characters of a barcode, as the LTO programme states it for its generations. The
drive's early warning has the last word."""

_IN_PORT = "the cartridge is in a port, to leave the library"
_NO_BARCODE = "(no barcode)"
_LARGEST_FOREIGN_RECORD_BYTES = 2 * 2**20
_TOLD = 5  # so many cartridges that are not blank are named in one error


class Robot(Protocol):
    """What is asked of a changer. Raises `MediaError` when it fails."""

    def status(self) -> str:
        """What `mtx status` prints."""
        ...

    def load(self, slot: int, drive: int) -> None: ...

    def unload(self, slot: int, drive: int) -> None: ...

    def transfer(self, source: int, target: int) -> None:
        """From one slot or port into another."""
        ...

    def drive_identifiers(self) -> bytes:
        """The reply to READ ELEMENT STATUS with DVCID; empty when the library or the tool cannot do it."""
        ...

    def close(self) -> None: ...


class MtxRobot:
    """A changer behind a generic SCSI device (`/dev/sg*`, `/dev/tape/by-id/*-changer`), locked while this lives."""

    def __init__(self, device: Path) -> None:
        self._device = device
        self._lock = self._lock_device()

    def _lock_device(self) -> int:
        descriptor = -1
        try:
            descriptor = os.open(self._device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError(
                "the tape library is in use by another command",
                place=str(self._device),
                hint="wait for it to end (holdfast status shows it), then run this command again",
            ) from None
        except OSError as error:
            raise MediaError(
                "the changer cannot be opened",
                place=str(self._device),
                found=error.strerror,
                hint="see that the library is on and connected (ls -l /dev/tape/by-id), and that you may use it",
            ) from error
        return descriptor

    def status(self) -> str:
        return self._mtx("status", seconds=STATUS_SECONDS)

    def load(self, slot: int, drive: int) -> None:
        self._mtx("load", str(slot), str(drive), seconds=MOVE_SECONDS)

    def unload(self, slot: int, drive: int) -> None:
        self._mtx("unload", str(slot), str(drive), seconds=MOVE_SECONDS)

    def transfer(self, source: int, target: int) -> None:
        self._mtx("transfer", str(source), str(target), seconds=MOVE_SECONDS)

    def drive_identifiers(self) -> bytes:
        """B8h: barcodes and drives (14h), from element 0, 255 of them at most, with DVCID, in up to 64 KiB."""
        command = ["b8", "14", "00", "00", "00", "ff", "01", "00", "ff", "ff", "00", "00"]
        words = ["sg_raw", "-b", "-r", "65535", str(self._device), *command]
        try:
            return subprocess.run(words, capture_output=True, timeout=STATUS_SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return b""

    def _mtx(self, *words: str, seconds: float) -> str:
        command = ["mtx", "-f", str(self._device), *words]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=seconds, check=False, text=True, errors="replace"
            )
        except FileNotFoundError:
            raise OperatorNeeded(
                "the command mtx is missing", hint="apt-get install mtx (or your system's way)"
            ) from None
        except subprocess.TimeoutExpired:
            raise self._failed(words, f"no answer in {seconds:.0f} s") from None
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip() and "Request Sense" not in line]
            raise self._failed(words, said[-1] if said else f"exit status {done.returncode}")
        return done.stdout

    def _failed(self, words: Sequence[str], found: str) -> MediaError:
        return MediaError(
            f"the changer cannot do this: mtx {' '.join(words)}",
            place=str(self._device),
            found=found,
            hint=f"look at the library's display, and at: mtx -f {self._device} status",
        )

    def close(self) -> None:
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)


def find_drives(devices: Path = Path("/dev"), classes: Path = Path("/sys/class/scsi_tape")) -> dict[str, Path]:
    """The tape drives of this host by serial number; those that tell none are left out."""
    nodes = (devices / path.name for path in sorted(classes.glob("nst*")) if re.fullmatch(r"nst\d+", path.name))
    return {serial: node for node in nodes if (serial := serial_number(node, classes)) is not None}


@dataclass(frozen=True, slots=True)
class LibraryOptions:
    """What a library's owner says of it.

    `drives`: the devices of the drives by serial number, as `find_drives` gives them. `elements`: the changer's number
    of a drive by serial number, for libraries that do not tell it; if they do, it must agree. `scratch_prefixes`:
    barcodes that begin so may be taken for new pairs, the first for side A, the second for side B. `cartridge_bytes`:
    the capacity, None to go by the barcode. `ready_seconds`: how long a loaded drive may take.
    """

    drives: Mapping[str, Path]
    scratch_prefixes: tuple[str, str]
    elements: Mapping[str, int] | None = None
    cartridge_bytes: int | None = None
    ready_seconds: float = READY_SECONDS


class MtxChanger:
    """The protocol `Changer` on a real library. Owns the robot, and closes it."""

    def __init__(self, robot: Robot, options: LibraryOptions, opener: Callable[[Path], StNode] = open_node) -> None:
        self._robot, self._options, self._opener = robot, options, opener
        self._open: dict[str, StDrive] = {}
        self._looked_into: dict[str, str] = {}  # what was read while this is the owner, and what it holds; "": nothing
        try:
            numbers = [element.number for element in self._elements().drives]
            self._numbers = match_drives(numbers, drive_serials(robot.drive_identifiers()), options)
        except BaseException:
            robot.close()
            raise

    @property
    def is_virtual(self) -> bool:
        return False

    def close(self) -> None:
        """Let the drives and the robot go. Cartridges stay where they are."""
        for drive in self._open.values():
            drive.abandon()
        self._open.clear()
        self._robot.close()

    # -- what is where

    def _elements(self) -> Elements:
        return parse_status(self._robot.status())

    def inventory(self) -> Inventory:
        elements = self._elements()
        drives = {serial: _content(self._element(elements, serial)) for serial in self._numbers}
        barcodes = [(slot.barcode, slot.is_port) for slot in elements.slots if slot.barcode is not None]
        slots = tuple(barcode for barcode, is_port in barcodes if not is_port)
        return Inventory(drives, slots, tuple(barcode for barcode, is_port in barcodes if is_port))

    def devices(self) -> dict[str, Path]:
        return {serial: self._options.drives[serial] for serial in self._numbers}

    def _element(self, elements: Elements, serial: str) -> DriveElement:
        if serial not in self._numbers:
            raise UsageError("no such drive", expected=", ".join(self._numbers), found=serial)
        return next(drive for drive in elements.drives if drive.number == self._numbers[serial])

    # -- moves

    def load(self, barcode: str, drive: str) -> StDrive:
        elements = self._elements()
        element = self._element(elements, drive)
        slot = self._check_move(elements, barcode, element, drive)
        self._looked_into.pop(barcode, None)
        self._robot.load(slot, element.number)
        found = _content(self._element(self._elements(), drive))
        if found != barcode:
            raise MediaError(
                "the changer did not put the cartridge into the drive",
                place=f"drive {drive}, element {element.number}",
                expected=barcode,
                found=found or "an empty drive",
                hint="look at the library; then run the command again",
            )
        opened = self._open_drive(drive, barcode)
        self._open[drive] = opened
        return opened

    def _open_drive(self, serial: str, barcode: str) -> StDrive:
        device = self._options.drives[serial]
        return StDrive(device, serial, barcode, ready_seconds=self._options.ready_seconds, opener=self._opener)

    def _check_move(self, elements: Elements, barcode: str, element: DriveElement, drive: str) -> int:
        """The slot of the cartridge, if it can be loaded."""
        if element.is_full:
            raise MediaError(
                "the drive holds a cartridge already", place=drive, found=_content(element), hint="unload it"
            )
        for other in elements.drives:
            if other.barcode == barcode:
                place = self._name_of(other)
                raise MediaError("the cartridge is in another drive", place=place, found=barcode, hint="unload it")
        slot = elements.slot_of(barcode)
        if slot is None:
            raise _missing(barcode, "the slots", f"put {barcode} into a slot")
        if slot.is_port:
            raise _missing(barcode, f"port {slot.number}", f"bring it in (holdfast tape import {barcode})", _IN_PORT)
        return slot.number

    # -- out of the library, and into it

    def export(self, barcode: str) -> None:
        self._transfer(barcode, to_port=True)

    def bring_in(self, barcode: str) -> None:
        self._transfer(barcode, to_port=False)

    def _transfer(self, barcode: str, *, to_port: bool) -> None:
        """Between a slot and a port; believed when the changer tells it afterwards."""
        elements = self._elements()
        if not any(slot.is_port for slot in elements.slots):
            raise UsageError("the library has no import/export slots", hint="open it, and take the cartridge by hand")
        for drive in elements.drives:
            if drive.barcode == barcode:
                place = self._name_of(drive)
                raise MediaError("the cartridge is in a drive", place=place, found=barcode, hint="holdfast tape unload")
        slot = elements.slot_of(barcode)
        if slot is None:
            raise _missing(barcode, "the slots and ports", f"put {barcode} into a port")
        if slot.is_port == to_port:
            return
        free = next((one for one in elements.slots if one.is_port == to_port and not one.is_full), None)
        if free is None:
            kind = "import/export slot" if to_port else "slot"
            raise OperatorNeeded(
                f"there is no free {kind} for a cartridge",
                place=f"slot {slot.number}",
                found=barcode,
                hint="take a cartridge out of the library, then run the same command again",
            )
        self._robot.transfer(slot.number, free.number)
        moved = self._elements().slot_of(barcode)
        if moved is None or moved.number != free.number:
            raise MediaError(
                "the changer did not move the cartridge",
                place=f"slot {slot.number}",
                expected=f"{barcode} in slot {free.number}",
                found="nowhere" if moved is None else f"slot {moved.number}",
                hint="look at the library; then run the command again",
            )

    def _name_of(self, element: DriveElement) -> str:
        named = (serial for serial, number in self._numbers.items() if number == element.number)
        return next(named, f"element {element.number}")

    def unload(self, drive: str) -> None:
        """As the protocol says. What was being written is ended by a mark, and is on the medium before the move."""
        opened = self._open.pop(drive, None)
        if opened is not None:
            opened.close()
        elements = self._elements()
        element = self._element(elements, drive)
        if not element.is_full:
            return
        slot = elements.home_of(element)
        if slot is None:
            raise OperatorNeeded(
                "there is no free slot for a cartridge",
                place=f"drive {drive}, element {element.number}",
                found=_content(element),
                hint="take a cartridge out of the library, then run the same command again",
            )
        self._let_go(drive)
        self._robot.unload(slot.number, element.number)
        self._check_unloaded(drive)

    def _let_go(self, serial: str) -> None:
        """Rewind and eject: many changers cannot take a cartridge that the drive holds. The move tells if it failed."""
        try:
            node = self._opener(self._options.drives[serial])
        except OSError as error:
            raise BusyError(
                "the drive cannot be told to let its cartridge go",
                place=f"drive {serial} ({self._options.drives[serial]})",
                found=error.strerror,
                hint=f"see who uses it: fuser -v {self._options.drives[serial]}",
            ) from error
        try:
            with suppress(OSError):
                node.operate(Operation.UNLOAD)
        finally:
            with suppress(OSError):
                node.close()

    def _check_unloaded(self, drive: str) -> None:
        element = self._element(self._elements(), drive)
        if element.is_full:
            raise MediaError(
                "the changer did not take the cartridge out of the drive",
                place=f"drive {drive}, element {element.number}",
                found=_content(element),
                hint="look at the library; then run the command again",
            )

    # -- new cartridges

    def scratch(self, sides: Sequence[Side], known: set[str]) -> tuple[str, ...]:
        """As the protocol says: from each side's prefix, in order of the barcodes, from slots that are no port.

        Law 5: whether a cartridge is blank is not guessed from its name. It is loaded into a free drive and read,
        once for as long as this is the owner. Write-protected ones are left out.
        """
        found: list[str] = []
        for side in sides:
            prefix = self._options.scratch_prefixes[0 if side is Side.A else 1]
            barcode = next((name for name in self._candidates(prefix, {*known, *found}) if self._is_blank(name)), None)
            if barcode is None:
                raise OperatorNeeded(
                    "there are too few blank cartridges in the library",
                    place="the slots",
                    expected=f"{len(sides)}, of which one more with a barcode that begins with {prefix}",
                    found=self._refused(prefix),
                    hint="put new cartridges into slots, then run the same command again",
                )
            found.append(barcode)
        return tuple(found)

    def _refused(self, prefix: str) -> str | None:
        """The cartridges that were no blank ones, and what they are: a few of them."""
        held = [f"{name} is {words}" for name, words in sorted(self._looked_into.items()) if words]
        found = [text for text in held if text.startswith(prefix)]
        more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        return "; ".join(found[:_TOLD]) + more or None

    def _candidates(self, prefix: str, known: Iterable[str]) -> list[str]:
        slots = (slot.barcode for slot in self._elements().slots if not slot.is_port and slot.barcode is not None)
        return sorted(name for name in slots if name.startswith(prefix) and name not in known)

    def _is_blank(self, barcode: str) -> bool:
        if barcode not in self._looked_into:
            drive = self._free_drive()
            try:
                held = _what_it_holds(self.load(barcode, drive))
            except MediaError as error:
                held = f"not to be read ({error.found or error.message})"  # the next one may be good
            finally:
                self.unload(drive)
            self._looked_into[barcode] = held
        return not self._looked_into[barcode]

    def _free_drive(self) -> str:
        drives = self.inventory().drives
        free = next((serial for serial, barcode in sorted(drives.items()) if barcode is None), None)
        if free is None:
            raise MediaError(
                "there is no free drive to look into new cartridges",
                place=", ".join(drives),
                found=", ".join(filter(None, drives.values())),
                hint="unload one",
            )
        return free

    def capacity_bytes(self, barcode: str) -> int:
        """What the settings say, else the native capacity of the kind in the barcode. Raises `UsageError`."""
        if self._options.cartridge_bytes is not None:
            return self._options.cartridge_bytes
        if barcode[-2:] not in NATIVE_BYTES:
            raise UsageError(
                "the capacity of a cartridge is not known",
                place=barcode,
                expected=f"a barcode that ends in one of {', '.join(NATIVE_BYTES)}",
                hint="give the capacity in the vault's settings",
            )
        return NATIVE_BYTES[barcode[-2:]]


def _missing(
    barcode: str, place: str, how: str, message: str = "the cartridge is not in the library"
) -> OperatorNeeded:
    return OperatorNeeded(
        message,
        place=place,
        expected=barcode,
        hint=f"{how}, then run the same command again",
    )


def _content(element: DriveElement) -> str | None:
    """What the inventory says of a drive."""
    return (element.barcode or _NO_BARCODE) if element.is_full else None


def _what_it_holds(drive: StDrive) -> str:
    """What a cartridge is that cannot be taken for a blank one, in a few words; empty when it can."""
    if drive.is_write_protected:
        return "write-protected"
    buffer = RecordBuffer(_LARGEST_FOREIGN_RECORD_BYTES)
    if is_blank(drive, buffer):
        return ""
    drive.rewind()
    record = bytes(buffer.view[: drive.read_record(buffer.view)])
    return identify(record) if record else "a tape that begins with a file mark"


def match_drives(numbers: Sequence[int], told: Sequence[str | None], options: LibraryOptions) -> dict[str, int]:
    """The changer's number of each drive by serial number: what the library tells, and what its owner says.

    Raises `MediaError` when the two contradict each other, when one element is said to be two drives, or when nobody
    says where any of the drives is.
    """
    found = {serial: number for number, serial in zip(numbers, told, strict=False) if serial in options.drives}
    matched: dict[str, int] = {serial: number for serial, number in found.items() if serial is not None}
    for serial, number in (options.elements or {}).items():
        if matched.get(serial, number) != number or number not in numbers or serial not in options.drives:
            raise _contradiction(f"drive {serial} is element {number}", f"elements {matched} of {list(numbers)}")
        matched[serial] = number
    if len(set(matched.values())) != len(matched):
        raise _contradiction("another element for each drive", str(matched))
    if not matched:
        raise _contradiction(f"the elements of {', '.join(options.drives) or 'some drives'}", f"{list(told)}")
    return matched


def _contradiction(expected: str, found: str) -> MediaError:
    return MediaError(
        "it is not known which drive of the library is which",
        place="the changer's elements and the drives' serial numbers",
        expected=expected,
        found=found,
        hint="give the element of each drive in the vault's settings: load a cartridge with mtx, and see which drive "
        "gets ready (mt -f /dev/nst0 status)",
    )
