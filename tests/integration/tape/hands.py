"""Hands at the two standard drives, which no robot serves: they do what is asked for, or something else."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.tape.steps import items_on, run
from tests.tapevm import standard_drive
from tests.tapevm.standard_drive import PUT_IN, PUT_IN_UNIT_BYTES

from holdfast.tape.changer.mtx import find_drives
from holdfast.values import Side

_numbers = itertools.count(1)  # of cartridges on the shelf; each is one test's


def ask(device: Path, *command: int) -> None:
    """Send a command to a drive past `st`."""
    generic = next((Path("/sys/class/scsi_tape") / device.name / "device" / "scsi_generic").iterdir()).name
    words = [f"{byte:02x}" for byte in (*command, *bytes(6 - len(command)))]
    subprocess.run(["sg_raw", f"/dev/{generic}", *words], check=True, capture_output=True, timeout=60)


@dataclass
class Hands:
    """A scripted person: puts in the cartridge that is asked for, or the next of the `mistakes`.

    New cartridges have `capacity_bytes`; a drive warns `warning_bytes` before the end.
    """

    capacity_bytes: int = 32 * 2**20
    warning_bytes: int = 8 * 2**20
    drives: dict[str, Path] = field(init=False)
    shelf: dict[str, int] = field(default_factory=dict[str, int])
    mistakes: list[str] = field(default_factory=list[str])
    asked: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    def __post_init__(self) -> None:
        found = find_drives()
        self.drives = {serial: found[serial] for serial in standard_drive.SERIALS}
        self.empty_drives()

    def empty_drives(self) -> None:
        for device in self.drives.values():
            ask(device, 0x1B)

    def put(self, barcode: str, serial: str) -> Path:
        """The drive with this cartridge in it. There is none in it yet, and this one is in no other."""
        if barcode not in self.shelf:
            self.shelf[barcode] = next(_numbers)
        capacity, behind = self.capacity_bytes // PUT_IN_UNIT_BYTES, self.warning_bytes // PUT_IN_UNIT_BYTES
        ask(self.drives[serial], PUT_IN, self.shelf[barcode], *capacity.to_bytes(2), behind)
        return self.drives[serial]

    def items(self, barcode: str) -> list[bytes | None]:
        """Every record and mark on a cartridge that is on the shelf, where it is again afterwards."""
        device = self.put(barcode, min(self.drives))
        items = items_on(device)
        run("mt", "-f", device, "offline")
        return items

    def put_in(self, barcode: str, drive: str, because: str) -> None:
        serial = drive.split(maxsplit=1)[0]
        self.asked.append((barcode, serial, because))
        self.put(self.mistakes.pop(0) if self.mistakes else barcode, serial)

    def name_new(self, side: Side, proposed: str, because: str) -> str:
        if because:
            self.asked.append((f"new {side.value}", "", because))
        return proposed

    def tell(self, text: str) -> None:
        """The drive has let it go: it is on the shelf."""
