"""Drives without a robot: a person puts cartridges in, and takes them out.

**Who a cartridge is** the drive cannot see, so its label is read before anybody gets it (`shelf` judges, purely). A
wrong one is told and ejected, and asked for again, a few times; then `OperatorNeeded`. Nothing here writes on a tape.

**What is where.** `operator.json` notes, durably and before the drive is handed out, which cartridge is in which drive,
and until it was ejected. A cartridge in a drive that the note does not tell of was put there by a person since: if its
label is that of the one that is wanted, it is taken without asking, so a run without a terminal goes on when a person
has done what the last one asked for. One that the note tells of was in the drive when its owner was killed; it is
ejected like any other, so that a reading counts as one after a reload.

**New cartridges** are asked for by name, read, and stay in the drive until they are loaded: nobody should have to put
one in twice. They count as being in a slot until then.

**One owner** (law 10): a lock on the vault's library folder, and the drive's own lock while a cartridge is used.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from holdfast import durable
from holdfast.errors import BusyError, IntegrityError, MediaError, OperatorNeeded, UsageError
from holdfast.tape import label as labels
from holdfast.tape.changer.protocol import Inventory
from holdfast.tape.changer.shelf import (
    Content,
    Expected,
    Kind,
    complaint,
    may_be_taken_unasked,
    next_barcode,
    wrong_name,
)
from holdfast.tape.drive.mtio import Operation
from holdfast.tape.drive.st import READY_SECONDS, StDrive, StNode, open_node
from holdfast.tape.foreign import identify
from holdfast.tape.scan import RecordBuffer, is_blank, read_label_volume
from holdfast.values import Side

ATTEMPTS = 3
"""So often a person is asked for one cartridge."""

_LARGEST_FOREIGN_RECORD_BYTES = 2 * 2**20
_LABEL_BEGINS = b"comment=holdfast label "


class Asker(Protocol):
    """The way to the person at the drives. Who has none raises `OperatorNeeded` with what would have been asked for."""

    def put_in(self, barcode: str, drive: str, because: str) -> None:
        """Ask for a cartridge in a drive, and wait until the person says that it is there."""
        ...

    def name_new(self, side: Side, proposed: str, because: str) -> str:
        """Ask for the barcode of a new cartridge."""
        ...

    def tell(self, text: str) -> None:
        """Say something that needs no answer."""
        ...


class NobodyThere:
    """No terminal: whatever a person would have to do ends the command, which says what it is."""

    def put_in(self, barcode: str, drive: str, because: str) -> None:
        raise OperatorNeeded(
            "a cartridge has to be put into a drive",
            place=f"drive {drive}",
            expected=barcode,
            found=because or None,
            hint=f"put {barcode} into drive {drive}, then run the same command again",
        )

    def name_new(self, side: Side, proposed: str, because: str) -> str:
        raise OperatorNeeded(
            f"a new cartridge is needed for side {side.value}, and nobody is there to name it",
            expected=f"a blank cartridge, such as {proposed}",
            found=because or None,
            hint="run the same command again on a terminal",
        )

    def tell(self, text: str) -> None:
        """Nobody listens."""


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """What is known of the drives and of cartridges.

    `drives`: devices by serial number, in the order in which they are used. `expected`: what must be on a cartridge.
    `scratch_prefixes`: how barcodes of new ones begin, for side A and for side B; `media`: how they end.
    """

    drives: dict[str, Path]
    scratch_prefixes: tuple[str, str]
    media: str
    cartridge_bytes: int
    expected: Callable[[str], Expected]
    ready_seconds: float = READY_SECONDS


class OperatorChanger:
    """The protocol `Changer` with a person for a robot. The only owner of `folder` while it lives."""

    def __init__(
        self, folder: Path, options: OperatorOptions, asker: Asker, opener: Callable[[Path], StNode] = open_node
    ) -> None:
        self._folder, self._options, self._asker, self._opener = folder, options, asker, opener
        self._open: dict[str, StDrive] = {}
        self._waiting: dict[str, str] = {}  # new cartridges, read and found blank, by the drive in which they wait
        self._blank: set[str] = set()  # new ones that nobody has had in hand since they were found blank
        self._seen: set[str] = set()  # all that were handled while this is the owner
        self._lock = self._lock_folder()
        try:
            self._loaded = self._read_note()
        except BaseException:
            self.close()
            raise

    @property
    def is_virtual(self) -> bool:
        return False

    def _lock_folder(self) -> int:
        durable.make_folder(self._folder)
        descriptor = os.open(self._folder / "library.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError(
                "the tape drives are in use by another command",
                place=str(self._folder),
                hint="wait for it to end (holdfast status shows it), then run this command again",
            ) from None
        return descriptor

    # -- what is where

    def _read_note(self) -> dict[str, str | None]:
        path = self._folder / "operator.json"
        loaded: dict[str, str | None] = dict.fromkeys(self._options.drives)
        if not path.exists():
            return loaded
        try:
            noted = cast("dict[str, str | None]", json.loads(path.read_bytes())["drives"])
            return {drive: noted.get(drive) for drive in loaded}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MediaError(
                "it is not known what is in the drives",
                place=str(path),
                found=str(error),
                hint=f"take all cartridges out of the drives, and remove {path}",
            ) from error

    def _note(self, drive: str, barcode: str | None) -> None:
        document = {"holdfast_operator": 1, "drives": self._loaded | {drive: barcode}}
        durable.replace_file(self._folder / "operator.json", (json.dumps(document) + "\n").encode())
        self._loaded[drive] = barcode

    def inventory(self) -> Inventory:
        """Drives as they are noted; as slots, what was handled under this owner: nobody sees what lies on the shelf."""
        return Inventory(dict(self._loaded), tuple(sorted(self._seen - {*self._loaded.values()})))

    def _device(self, drive: str) -> Path:
        if drive not in self._options.drives:
            raise UsageError("no such drive", expected=", ".join(self._options.drives), found=drive)
        return self._options.drives[drive]

    def _place(self, drive: str) -> str:
        return f"{drive} ({self._options.drives[drive]})"

    def devices(self) -> dict[str, Path]:
        return dict(self._options.drives)

    def export(self, barcode: str) -> None:
        raise self._no_ports(barcode)

    def bring_in(self, barcode: str) -> None:
        raise self._no_ports(barcode)

    def _no_ports(self, barcode: str) -> UsageError:
        hint = "nothing needs to be done: take it off its shelf, or put it there"
        return UsageError("drives without a robot have no import/export slots", found=barcode, hint=hint)

    # -- moves

    def load(self, barcode: str, drive: str) -> StDrive:
        self._check_move(barcode, drive)
        for other, waiting in [*self._waiting.items()]:
            if other == drive or waiting == barcode:
                self._leave(other, keep=(drive, barcode))
        opened = self._take_in(barcode, drive, self._options.expected(barcode))
        try:
            self._note(drive, barcode)
        except BaseException:
            opened.abandon()
            raise
        self._waiting.pop(drive, None)
        self._blank.discard(barcode)
        self._seen.add(barcode)
        self._open[drive] = opened
        return opened

    def _check_move(self, barcode: str, drive: str) -> None:
        self._device(drive)
        if self._loaded[drive] is not None:
            raise MediaError(
                "the drive holds a cartridge already", place=drive, found=self._loaded[drive], hint="unload it"
            )
        for other, loaded in self._loaded.items():
            if loaded == barcode:
                raise MediaError("the cartridge is in another drive", place=other, found=barcode, hint="unload it")

    def _leave(self, drive: str, keep: tuple[str, str] | None = None) -> None:
        """A new cartridge that waits in a drive goes out, unless it is the one that is kept, in that very drive."""
        if keep != (drive, self._waiting[drive]):
            barcode = self._waiting.pop(drive)
            self._eject(drive, f"take {barcode} out of drive {self._place(drive)}: it is asked for later")

    def _take_in(self, barcode: str, drive: str, expected: Expected) -> StDrive:
        """The drive with this cartridge in it: the one that is there, or one that a person puts there."""
        because = ""
        opened = self._what_is_there(drive)
        if opened is not None:
            content = self._look(opened)
            waited = self._waiting.get(drive) == barcode and content.kind is Kind.BLANK
            if waited or may_be_taken_unasked(content, barcode, expected):
                return self._renamed(opened, barcode, drive)
            self._waiting.pop(drive, None)
            opened.abandon()
            self._eject(drive, f"take out what is in drive {self._place(drive)}: {barcode} is wanted there")
        for _ in range(ATTEMPTS):
            self._asker.put_in(barcode, self._place(drive), because)
            because = self._accept(barcode, drive, expected) or ""
            if not because:
                return self._open_drive(barcode, drive)
        raise OperatorNeeded(
            "the cartridge that was asked for was not put into the drive",
            place=f"drive {self._place(drive)}",
            expected=barcode,
            found=because,
            hint=f"find {barcode}, then run the same command again; if it is lost: holdfast tape fence {barcode}",
        )

    def _accept(self, barcode: str, drive: str, expected: Expected) -> str | None:
        """Read what was put in; what is not the one is ejected, and what is wrong with it is returned."""
        try:
            opened = self._open_drive(barcode, drive)
        except MediaError:
            if self._is_empty(drive):
                return "there was no cartridge in the drive"
            raise
        try:
            wrong = complaint(self._look(opened), barcode, expected)
            if wrong is None and expected is Expected.NEW and opened.is_write_protected:
                wrong = "it is write-protected"
        finally:
            opened.abandon()
        if wrong is not None:
            self._eject(drive, f"take the cartridge out of drive {self._place(drive)}: {wrong}")
        return wrong

    def _renamed(self, opened: StDrive, barcode: str, drive: str) -> StDrive:
        """The same drive under the name that is known now."""
        opened.abandon()
        return self._open_drive(barcode, drive)

    def _open_drive(self, barcode: str, drive: str) -> StDrive:
        seconds = self._options.ready_seconds
        return StDrive(self._device(drive), drive, barcode, ready_seconds=seconds, opener=self._opener)

    def _what_is_there(self, drive: str) -> StDrive | None:
        """The drive, if there is a cartridge in it; without waiting for one."""
        if self._is_empty(drive):
            return None
        return self._open_drive("what is in it", drive)

    def _is_empty(self, drive: str) -> bool:
        node = self._open_node(drive)
        try:
            return node.status().is_empty
        except OSError as error:
            raise self._fault(drive, "tell its status", error) from error
        finally:
            with suppress(OSError):
                node.close()

    def _open_node(self, drive: str) -> StNode:
        try:
            return self._opener(self._device(drive))
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EWOULDBLOCK):
                raise self._fault(drive, "be opened", error) from error
            raise BusyError(
                "the drive is in use",
                place=f"drive {self._place(drive)}",
                found=error.strerror,
                hint=f"see who uses it (fuser -v {self._device(drive)}), then run this command again",
            ) from error

    def _fault(self, drive: str, what: str, error: OSError) -> MediaError:
        return MediaError(
            f"the drive cannot {what}",
            place=f"drive {self._place(drive)}",
            found=error.strerror,
            hint="see that the drive is on and connected (ls -l /dev/tape/by-id), and that you may use it",
        )

    def _look(self, drive: StDrive) -> Content:
        """What begins the tape. The tape is at its begin again afterwards."""
        try:
            return self._read(drive)
        except MediaError as error:
            return Content(Kind.UNREADABLE, error.message)
        finally:
            drive.rewind()

    def _read(self, drive: StDrive) -> Content:
        buffer = RecordBuffer(_LARGEST_FOREIGN_RECORD_BYTES)
        if is_blank(drive, buffer):
            return Content(Kind.BLANK)
        drive.rewind()
        record = bytes(buffer.view[: drive.read_record(buffer.view)])
        if _LABEL_BEGINS not in record:
            return Content(Kind.FOREIGN, identify(record))
        try:
            volume = read_label_volume(drive, buffer)
            if volume is not None:
                return Content(Kind.OURS, labels.decode_volume(volume).barcode)
        except IntegrityError as error:
            return Content(Kind.UNREADABLE, error.message)
        return Content(Kind.TORN, "the begin of a label of Holdfast")

    def unload(self, drive: str) -> None:
        """Eject what the drive holds, and say where it goes. Durable before: all that was written."""
        self._device(drive)
        opened = self._open.pop(drive, None)
        if opened is not None:
            opened.close()
        barcode = self._loaded[drive]
        if barcode is None:
            return
        self._eject(drive, f"take {barcode} out of drive {self._place(drive)}, and put it back on its shelf")
        self._note(drive, None)
        self._seen.add(barcode)

    def _eject(self, drive: str, text: str) -> None:
        if self._is_empty(drive):
            return
        node = self._open_node(drive)
        try:
            node.operate(Operation.UNLOAD)
        except OSError as error:
            raise self._fault(drive, "let its cartridge go", error) from error
        finally:
            with suppress(OSError):
                node.close()
        self._asker.tell(text)

    # -- new cartridges

    def scratch(self, sides: Sequence[Side], known: set[str]) -> tuple[str, ...]:
        """As the protocol says: the person names each, from the side's prefix, and puts it in; it is read (law 5)."""
        found: list[str] = []
        for side in sides:
            prefix = self._options.scratch_prefixes[0 if side is Side.A else 1]
            ready = (name for name in sorted(self._blank - known) if name.startswith(prefix) and name not in found)
            found.append(next(ready, None) or self._new(side, prefix, known))
        return tuple(found)

    def _new(self, side: Side, prefix: str, known: set[str]) -> str:
        drive = self._drive_for(side)
        taken = {*known, *self._seen}
        because = ""
        for _ in range(ATTEMPTS):
            proposed = next_barcode(prefix, self._options.media, taken)
            barcode = self._asker.name_new(side, proposed, because) or proposed
            because = wrong_name(barcode, prefix, taken) or ""
            if because:
                continue
            self._asker.put_in(barcode, self._place(drive), "")
            because = self._accept(barcode, drive, Expected.NEW) or ""
            if not because:
                self._waiting[drive] = barcode
                self._blank.add(barcode)
                self._seen.add(barcode)
                return barcode
        raise OperatorNeeded(
            f"there is no blank cartridge for side {side.value}",
            place=f"drive {self._place(drive)}",
            expected=f"a blank cartridge with a barcode that begins with {prefix}",
            found=because,
            hint="find one, then run the same command again",
        )

    def _drive_for(self, side: Side) -> str:
        """An empty drive, where it will be wanted: side A in the first, B in the second."""
        drives = sorted(self._options.drives)
        preferred = [drives[0 if side is Side.A else 1], *drives]
        free = [drive for drive in preferred if self._loaded[drive] is None]
        if not free:
            held = ", ".join(filter(None, self._loaded.values()))
            raise MediaError("there is no free drive for a new cartridge", found=held, hint="unload one")
        drive = next((name for name in free if name not in self._waiting), free[0])
        if drive in self._waiting:
            self._leave(drive)
        self._eject(drive, f"take out what is in drive {self._place(drive)}: a new cartridge is wanted there")
        return drive

    def capacity_bytes(self, barcode: str) -> int:  # noqa: ARG002 - all are of one kind
        return self._options.cartridge_bytes

    def close(self) -> None:
        """Let the drives go. Cartridges stay where they are."""
        for opened in self._open.values():
            opened.abandon()
        self._open.clear()
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)
