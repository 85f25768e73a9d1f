"""A real tape library for the tests: one that a virtual machine has (`make test-tape-vm`), or none.

These tests write on cartridges that nobody has written on. So they never take a library that they happen to find:
HOLDFAST_TAPE_LIBRARY=emulated says that this one is meant for them.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL
from tests.tapevm.emulation import POOL

from holdfast.config import init_vault
from holdfast.tape.drive.st import serial_number

WANTED = "HOLDFAST_TAPE_LIBRARY"
HAVE_LIBRARY = os.environ.get(WANTED) == "emulated"
ROBOTS = Path("/sys/class/scsi_changer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them are integration tests; without the library they are skipped, with it they must run."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)
            if not HAVE_LIBRARY:
                item.add_marker(pytest.mark.skip(reason="no tape library for tests here: make test-tape-vm has one"))


@dataclass
class RealLibrary:
    """The library's devices, and a cartridge that nobody has used for whoever asks."""

    changer: Path
    drives: dict[str, Path]  # devices by serial number
    left: list[tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.left = self._full_slots()

    def mtx(self, *words: str) -> str:
        command = ["mtx", "-f", str(self.changer), *words]
        return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout

    def _full_slots(self) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for line in self.mtx("status").splitlines():
            name, _, rest = line.strip().partition(":")
            if rest.startswith("Full") and name.startswith("Storage Element") and "IMPORT" not in name:
                found.append((rest.partition("=")[2].strip(), int(name.split()[2])))
        return found

    def blank(self) -> tuple[str, int]:
        """Barcode and slot of a blank cartridge; nobody gets it again."""
        return self.left.pop()

    def blank_prefixes(self) -> tuple[str, str]:
        """A prefix for each side, each of a few barcodes that nobody has used; nobody gets them again."""
        whole = [prefix for prefix, count in Counter(name[:5] for name, _ in self.left).items() if count == POOL]
        pair = (
            next(name for name in whole if name.startswith("HFA")),
            next(name for name in whole if name.startswith("HFB")),
        )
        self.left = [(barcode, slot) for barcode, slot in self.left if not barcode.startswith(pair)]
        return pair

    def slot_of(self, barcode: str) -> int:
        return next(slot for name, slot in self._full_slots() if name == barcode)

    def element(self, serial: str) -> int:
        """The changer's number of a drive: the emulator counts both in the order of the logical units."""
        return sorted(self.drives.values()).index(self.drives[serial])

    def empty_drives(self) -> None:
        """Put back what an earlier test left in the drives."""
        for line in self.mtx("status").splitlines():
            if line.startswith("Data Transfer Element") and ":Full (Storage Element" in line:
                self.mtx("unload", line.split("Storage Element ")[1].split()[0], line.split()[3].partition(":")[0])


@pytest.fixture(scope="session")
def library() -> RealLibrary:
    robot = next(ROBOTS.glob("*/device/scsi_generic/sg*"))
    nodes = sorted(path for path in Path("/dev").glob("nst*") if path.name.removeprefix("nst").isdigit())
    for node in nodes:
        # the emulated drive says that records have 4 bytes at least, and takes smaller ones
        subprocess.run(["mt", "-f", str(node), "stsetoptions", "no-blklimits"], check=True, timeout=60)
    drives = {serial: node for node in nodes if (serial := serial_number(node) or "").startswith("HFDRV")}
    return RealLibrary(Path("/dev") / robot.name, drives)


@dataclass
class Vaults:
    """Vaults whose settings name the real library.

    The emulated library does not tell the last drive's serial number whole, so the settings say where it is.
    """

    library: RealLibrary

    def make(self, folder: Path, prefixes: tuple[str, str], **options: str) -> Path:
        """A vault with these prefixes of new cartridges, and `options` of `init` that are not those of small tests."""
        side_a, side_b = prefixes
        real = replace(SMALL, library="mtx", changer=str(self.library.changer), scratch_a=side_a, scratch_b=side_b)
        init_vault(folder, replace(real, **options))  # type: ignore[arg-type]
        self.say_where_the_last_drive_is(folder)
        return folder

    def say_where_the_last_drive_is(self, folder: Path) -> None:
        """As its owner has to, when a library does not tell."""
        last = max(self.library.drives, key=self.library.element)
        with (folder / "holdfast.toml").open("a") as settings:
            settings.write(f'"{last}" = {self.library.element(last)}\n')


@pytest.fixture
def vaults(library: RealLibrary) -> Iterator[Vaults]:
    library.empty_drives()
    yield Vaults(library)
    library.empty_drives()


@pytest.fixture
def vault(library: RealLibrary, vaults: Vaults, tmp_path: Path) -> Path:
    """A vault with cartridges that nobody has used."""
    return vaults.make(tmp_path / "vault", library.blank_prefixes())
