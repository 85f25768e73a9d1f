"""The changer that a vault's settings name: the one place that knows which kinds there are."""

from __future__ import annotations

from holdfast.config import VaultSettings
from holdfast.tape.changer.mtx import LibraryOptions, MtxChanger, MtxRobot, find_drives
from holdfast.tape.changer.protocol import Changer
from holdfast.tape.changer.virtual import VirtualChanger


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
    options = LibraryOptions(
        find_drives(),
        (tape.library.scratch_a, tape.library.scratch_b),
        tape.library.elements,
        cartridge_bytes=tape.cartridge_bytes,
    )
    return MtxChanger(MtxRobot(tape.library.changer), options)
