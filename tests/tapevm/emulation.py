"""A tape library for the guest: `tgt` on the host plays a changer and drives, told to the guest over iSCSI.

Cartridges are files in a folder of this run. Each run has its own control socket and its own port on the loopback, so
that runs on one machine do not meet.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TARGET = "iqn.2000-01.invalid.holdfast:library"
READY_SECONDS = 20.0
# Element addresses as many libraries number them; they only have to differ.
ROBOT, DRIVE, PORT_SLOT, SLOT = 1, 256, 768, 1024
POOL = 4  # so many cartridges share the first five characters of their barcodes: a test's own scratch cartridges
ELEMENT_TYPES = {"robot": 1, "slot": 2, "port": 3, "drive": 4}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the library is made of. `barcodes` lie in the first slots, one each; the other slots are empty."""

    drives: int = 2
    slots: int = 482
    ports: int = 1
    megabytes: int = 64
    barcodes: tuple[str, ...] = tuple(
        f"HF{side}{pool:02d}{number}L6" for side in "AB" for pool in range(60) for number in range(POOL)
    )

    @property
    def units(self) -> range:
        """The logical unit numbers: the drives, then the changer."""
        return range(1, self.drives + 2)


def serial_of(drive: int) -> str:
    """The serial number of the drive with this index: not in the order of the numbers that the kernel gives."""
    return f"HFDRV{9 - drive if drive < 10 else drive:05d}"


class Emulator:
    """One `tgtd` with its library. Use `emulated`."""

    def __init__(self, folder: Path, shape: Shape, port: int) -> None:
        self.folder, self.shape, self.port = folder, shape, port
        self.control = str(1 + port % 32000)  # tgtd takes a number of up to 15 bits

    def urls(self) -> list[str]:
        return [f"iscsi://127.0.0.1:{self.port}/{TARGET}/{unit}" for unit in self.shape.units]

    def admin(self, *words: str) -> None:
        subprocess.run(["tgtadm", "-C", self.control, "--lld", "iscsi", *words], check=True, timeout=30)

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Until the daemon answers; it gives no other sign."""
        end = time.monotonic() + READY_SECONDS
        show = ["tgtadm", "-C", self.control, "--lld", "iscsi", "--mode", "sys", "--op", "show"]
        while subprocess.run(show, capture_output=True, timeout=30, check=False).returncode:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"tapevm: tgtd does not start; see {self.folder / 'tgtd.log'}")
            time.sleep(0.05)

    def cartridge(self, name: str, barcode: str, megabytes: int) -> Path:
        path = self.folder / name
        words = ["--op", "new", "--device-type", "tape", "--type", "data", "--thin-provisioning"]
        subprocess.run(
            ["tgtimg", *words, f"--barcode={barcode}", f"--size={megabytes}", f"--file={path}"],
            check=True,
            timeout=30,
            stdout=subprocess.DEVNULL,
        )
        return path

    def unit(self, number: int, backing: Path, kind: str, *more: str) -> None:
        words = ("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", str(number))
        self.admin(*words, "-b", str(backing), "--device-type", kind, *more)

    def set(self, number: int, **values: object) -> None:
        text = ",".join(f"{name}={value}" for name, value in values.items())
        words = ("--mode", "logicalunit", "--op", "update", "--tid", "1", "--lun", str(number))
        self.admin(*words, "--params", text)

    def build(self) -> None:
        self.admin("--mode", "target", "--op", "new", "--tid", "1", "--targetname", TARGET)
        for drive in range(self.shape.drives):
            # a drive is not made without a file; the cartridge is never in it
            blank = self.cartridge(f".blank{drive}", f"BLANK{drive:03d}", 1)
            self.unit(drive + 1, blank, "tape", "--bstype", "ssc")
            names = {"vendor_id": "HOLDFAST", "product_id": "DRIVE", "scsi_sn": serial_of(drive)}
            self.set(drive + 1, **names, removable=1, online=0)
        self._build_changer()
        self.admin("--mode", "target", "--op", "bind", "--tid", "1", "--initiator-address", "ALL")

    def _build_changer(self) -> None:
        shape, number = self.shape, self.shape.drives + 1
        robot = self.folder / ".robot"
        robot.write_bytes(bytes(2**20))
        self.unit(number, robot, "changer")
        self.set(number, vendor_id="HOLDFAST", product_id="LIBRARY", scsi_sn="HFLIB00001", removable=1)
        self.set(number, media_home=self.folder)
        for kind, start, count in (("robot", ROBOT, 1), ("drive", DRIVE, shape.drives), ("slot", SLOT, shape.slots)):
            self.set(number, element_type=ELEMENT_TYPES[kind], start_address=start, quantity=count)
        if shape.ports:
            self.set(number, element_type=ELEMENT_TYPES["port"], start_address=PORT_SLOT, quantity=shape.ports)
        for drive in range(shape.drives):
            self.set(number, element_type=ELEMENT_TYPES["drive"], address=DRIVE + drive, tid=1, lun=drive + 1)
        for index, barcode in enumerate(shape.barcodes):
            self.cartridge(barcode, barcode, shape.megabytes)
            self.set(number, element_type=ELEMENT_TYPES["slot"], address=SLOT + index, barcode=barcode, sides=1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def emulated(folder: Path, shape: Shape) -> Generator[Sequence[str], None, None]:
    """A library for as long as the block lasts; gives the URLs of its units, the changer's last.

    `tgtd` does not end on SIGTERM while it has targets, so it is killed, by its own number.
    """
    emulator = Emulator(folder, shape, free_port())
    words = ["tgtd", "-f", "-C", emulator.control, "--iscsi", f"portal=127.0.0.1:{emulator.port}"]
    with (folder / "tgtd.log").open("wb") as log:
        daemon = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        emulator.wait(daemon)
        emulator.build()
        yield emulator.urls()
    finally:
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
