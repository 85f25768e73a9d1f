"""The changer that a vault's settings name: the one place that knows which kinds there are."""

from __future__ import annotations

from pathlib import Path

from holdfast.config import LibrarySettings, VaultSettings
from holdfast.tape.changer.mtx import LibraryOptions, MtxChanger, MtxRobot, find_drives
from holdfast.tape.changer.operator import Asker, NobodyThere, OperatorChanger, OperatorOptions
from holdfast.tape.changer.protocol import Changer
from holdfast.tape.changer.shelf import Expected
from holdfast.tape.changer.virtual import VirtualChanger
from holdfast.tape.drive.st import serial_number
from holdfast.tape.journal import CartridgeJournal

_asker: Asker = NobodyThere()


def ask_with(asker: Asker) -> None:
    """The way to the person at the drives, for this process; without it nobody is there."""
    global _asker
    _asker = asker


def open_changer(settings: VaultSettings) -> Changer:
    """Become the owner of the library. Raises `BusyError` while it has another, `MediaError` when it does not answer."""
    tape = settings.tape
    if tape.library is None:
        return VirtualChanger(
            settings.library_folder,
            barcode_prefix=tape.barcode_prefix,
            media=tape.media,
            cartridge_bytes=tape.cartridge_bytes,
        )
    if tape.library.changer is None:
        return _open_operator(settings, tape.library)
    options = LibraryOptions(
        find_drives(),
        (tape.library.scratch_a, tape.library.scratch_b),
        tape.library.elements,
        cartridge_bytes=tape.cartridge_bytes,
        ready_seconds=float(tape.library.ready_timeout_s),
    )
    return MtxChanger(MtxRobot(tape.library.changer), options)


def _open_operator(settings: VaultSettings, library: LibrarySettings) -> OperatorChanger:
    options = OperatorOptions(
        {serial_number(device) or device.name: device for device in library.drives},
        (library.scratch_a, library.scratch_b),
        settings.tape.media,
        settings.tape.cartridge_bytes,
        lambda barcode: expected_on(settings.journals_folder, barcode),
        ready_seconds=float(library.ready_timeout_s),
    )
    return OperatorChanger(settings.library_folder, options, _asker)


def expected_on(journals: Path, barcode: str) -> Expected:
    """What the cartridge's journal says must be on it."""
    state = CartridgeJournal(journals, barcode).state()
    if state is None:
        return Expected.UNKNOWN
    return Expected.WRITTEN if state.committed else Expected.BEGUN
