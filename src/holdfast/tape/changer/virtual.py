"""A changer in files: two drives, and as many cartridges as are needed.

    library.json            {"drives": {"VDRIVE-0": null, "VDRIVE-1": "HF0002L8"}}: what was moved where
    cartridges/<barcode>/   a virtual cartridge (see `tape.drive.virtual`)
    ports/<barcode>/        one that was exported: for the library it is gone, until it is brought in again
    library.lock            held by the one owner of the robot and its drives

A move is one atomic, durable replacement of library.json, or one rename. A cartridge that is in no drive is in its slot.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast import durable
from holdfast.errors import BusyError, MediaError, OperatorNeeded, UsageError
from holdfast.tape.changer.protocol import Inventory
from holdfast.tape.drive.timing import DriveTimer
from holdfast.tape.drive.virtual import CARTRIDGE_NAME, VirtualDrive, make_cartridge, read_cartridge
from holdfast.values import Side

DRIVES = ("VDRIVE-0", "VDRIVE-1")


class VirtualChanger:
    """The robot and the drives of a virtual library; the only owner while it lives.

    `timers`, by serial number of a drive: what keeps the virtual time of the drives that have one.
    """

    @property
    def is_virtual(self) -> bool:
        return True

    def __init__(self, folder: Path, *, barcode_prefix: str, media: str, cartridge_bytes: int) -> None:
        self._folder = folder
        self._prefix, self._media = barcode_prefix, media
        self._cartridge_bytes = cartridge_bytes
        self.timers: Mapping[str, DriveTimer] = {}
        self._open: dict[str, VirtualDrive] = {}
        durable.make_folder(folder / "cartridges")
        self._lock = self._lock_library()
        try:
            self._loaded = self._read_moves()
        except BaseException:
            self.close()
            raise

    def _lock_library(self) -> int:
        descriptor = os.open(self._folder / "library.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError(
                "the tape library is in use by another command",
                place=str(self._folder),
                hint="wait for it to end (holdfast status shows it), then run this command again",
            ) from None
        return descriptor

    def _read_moves(self) -> dict[str, str | None]:
        path = self._folder / "library.json"
        loaded: dict[str, str | None] = dict.fromkeys(DRIVES)
        if not path.exists():
            return loaded
        try:
            drives = json.loads(path.read_bytes())["drives"]
            return loaded | {str(drive): None if name is None else str(name) for drive, name in drives.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MediaError(
                "the virtual library does not know where its cartridges are",
                place=str(path),
                found=str(error),
                hint=f"remove {path}: all cartridges are then in their slots",
            ) from error

    def _write_moves(self) -> None:
        document = {"holdfast_library": 1, "drives": self._loaded}
        durable.replace_file(self._folder / "library.json", (json.dumps(document) + "\n").encode())

    def cartridge_folder(self, barcode: str) -> Path:
        return self._folder / "cartridges" / barcode

    def inventory(self) -> Inventory:
        loaded = set(self._loaded.values())
        slots = tuple(name for name in self._barcodes() if name not in loaded)
        return Inventory(dict(self._loaded), slots, tuple(self._exported()))

    def _barcodes(self) -> list[str]:
        return sorted(path.name for path in (self._folder / "cartridges").iterdir() if path.is_dir())

    def _exported(self) -> list[str]:
        ports = self._folder / "ports"
        return sorted(path.name for path in ports.iterdir() if path.is_dir()) if ports.exists() else []

    def devices(self) -> dict[str, Path]:
        return {}

    def load(self, barcode: str, drive: str) -> VirtualDrive:
        self._check_move(barcode, drive)
        opened = VirtualDrive(drive, self.cartridge_folder(barcode), self.timers.get(drive))
        try:
            if opened.barcode != barcode:
                raise MediaError(
                    "the cartridge is not the one that its slot promises",
                    place=str(self.cartridge_folder(barcode)),
                    expected=barcode,
                    found=opened.barcode,
                    hint="give the folder the name of its cartridge again",
                )
            self._loaded[drive] = barcode
            self._write_moves()
        except BaseException:
            self._loaded[drive] = None
            opened.abandon()
            raise
        self._open[drive] = opened
        return opened

    def _check_move(self, barcode: str, drive: str) -> None:
        if drive not in self._loaded:
            raise UsageError("no such drive", expected=", ".join(self._loaded), found=drive)
        if self._loaded[drive] is not None:
            raise MediaError(
                "the drive holds a cartridge already", place=drive, found=str(self._loaded[drive]), hint="unload it"
            )
        for other, loaded in self._loaded.items():
            if loaded == barcode:
                raise MediaError("the cartridge is in another drive", place=other, found=barcode, hint="unload it")
        if barcode not in self.inventory().slots:
            raise self._missing(barcode)

    def _missing(self, barcode: str) -> OperatorNeeded:
        exported = barcode in self._exported()
        how = f"bring it in (holdfast tape import {barcode})" if exported else f"put {barcode} into a slot"
        return OperatorNeeded(
            "the cartridge was exported" if exported else "the cartridge is not in the library",
            place=str(self._folder / "ports" if exported else self._folder),
            expected=barcode,
            hint=f"{how}, then run the same command again",
        )

    def export(self, barcode: str) -> None:
        inventory = self._with_cartridge_at_rest(barcode)
        if barcode in inventory.ports and barcode not in inventory.slots:
            self._sync_ports()  # a killed run may have moved it, and not come to this
            return
        if barcode not in inventory.slots:
            raise self._missing(barcode)
        self._rename(barcode, "cartridges", "ports")

    def bring_in(self, barcode: str) -> None:
        inventory = self._with_cartridge_at_rest(barcode)
        if barcode in inventory.slots and barcode not in inventory.ports:
            self._sync_ports()
            return
        if barcode not in inventory.ports:
            raise OperatorNeeded(
                "the cartridge is in no port of the library",
                place=str(self._folder / "ports"),
                expected=barcode,
                hint=f"put {barcode} into a port, then run the same command again",
            )
        self._rename(barcode, "ports", "cartridges")

    def _with_cartridge_at_rest(self, barcode: str) -> Inventory:
        inventory = self.inventory()
        for drive, loaded in inventory.drives.items():
            if loaded == barcode:
                raise MediaError("the cartridge is in a drive", place=drive, found=barcode, hint="holdfast tape unload")
        return inventory

    def _sync_ports(self) -> None:
        for name in ("cartridges", "ports"):
            if (self._folder / name).exists():
                durable.sync_folder(self._folder / name)

    def _rename(self, barcode: str, source: str, target: str) -> None:
        """At every instant it is in one of the two. One that is in the way is another one of the same name."""
        durable.make_folder(self._folder / target)
        place = self._folder / target / barcode
        if place.exists():
            raise MediaError(
                "there are two cartridges with one barcode",
                place=f"{self._folder / source / barcode} and {place}",
                found=barcode,
                hint="take one of them out of the library",
            )
        (self._folder / source / barcode).rename(place)
        self._sync_ports()

    def unload(self, drive: str) -> None:
        if drive not in self._loaded:
            raise UsageError("no such drive", expected=", ".join(self._loaded), found=drive)
        opened = self._open.pop(drive, None)
        if opened is not None:
            opened.close()
        if self._loaded[drive] is not None:
            self._loaded[drive] = None
            self._write_moves()

    def scratch(self, sides: Sequence[Side], known: set[str]) -> tuple[str, ...]:
        count = len(sides)
        present = self._barcodes()
        loaded = set(self._loaded.values())
        pattern = re.compile(re.escape(self._prefix) + r"([0-9]{4})" + re.escape(self._media))
        free = [name for name in present if pattern.fullmatch(name) and name not in known and name not in loaded]
        barcodes = [name for name in free if self._is_blank(name)][:count]
        # a number is used once: not again for a cartridge that was taken out of the library
        taken = [found for name in {*present, *self._exported(), *known} if (found := pattern.fullmatch(name))]
        first = max((int(found[1]) for found in taken), default=0) + 1
        barcodes += [
            f"{self._prefix}{number:04d}{self._media}" for number in range(first, first + count - len(barcodes))
        ]
        if not all(pattern.fullmatch(name) for name in barcodes):
            raise OperatorNeeded(
                "the library has no blank cartridges, and no number left for another one",
                place=str(self._folder),
                hint="choose another barcode_prefix in the vault's settings",
            )
        for barcode in barcodes:
            make_cartridge(self.cartridge_folder(barcode), barcode, self._cartridge_bytes)
        return tuple(barcodes)

    def _is_blank(self, barcode: str) -> bool:
        """Nothing but what `make_cartridge` leaves, whole or interrupted."""
        return all(path.name.startswith(CARTRIDGE_NAME) for path in self.cartridge_folder(barcode).iterdir())

    def capacity_bytes(self, barcode: str) -> int:
        return int(read_cartridge(self.cartridge_folder(barcode))["capacity_bytes"])

    def close(self) -> None:
        """Let the drives and the robot go. Cartridges stay where they are."""
        for opened in self._open.values():
            opened.abandon()
        self._open.clear()
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)
