"""What a changer can do: tell what is where, and move cartridges between slots and drives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdfast.tape.drive.protocol import TapeDrive
from holdfast.values import Side


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is where: barcodes by drive serial (None: empty), barcodes in slots, and barcodes in ports."""

    drives: dict[str, str | None]
    slots: tuple[str, ...]
    ports: tuple[str, ...] = ()


class Changer(Protocol):
    """A library's robot with its drives. One owner at a time: `close` it."""

    def inventory(self) -> Inventory: ...

    def load(self, barcode: str, drive: str) -> TapeDrive:
        """Put a cartridge from its slot into the drive with this serial number; ready at its begin.

        Raises `OperatorNeeded` when the cartridge is not in the library or in a port, `MediaError` when the drive is
        full.
        """
        ...

    def unload(self, drive: str) -> None:
        """Put what the drive holds back into its slot; nothing happens when it is empty."""
        ...

    def export(self, barcode: str) -> None:
        """Put a cartridge from its slot into a port, where a person takes it out; durable on return.

        Nothing happens when it is in one. Raises `OperatorNeeded` when it is not in the library or no port is free,
        `MediaError` when it is in a drive, `UsageError` when there are no ports.
        """
        ...

    def bring_in(self, barcode: str) -> None:
        """Put a cartridge from a port into a free slot; durable on return. Nothing happens when it is in one.

        Raises `OperatorNeeded` when it is not there or no slot is free, and else as `export` does.
        """
        ...

    def devices(self) -> dict[str, Path]:
        """The devices of the drives by serial number; none of those that are files."""
        ...

    def scratch(self, sides: Sequence[Side], known: set[str]) -> tuple[str, ...]:
        """Barcodes of blank cartridges that are not `known`, one that may be taken for each of the sides.

        Raises `OperatorNeeded` when there are too few.
        """
        ...

    @property
    def is_virtual(self) -> bool:
        """Whether the cartridges are files: then they prove nothing for release unless the owner says so (law 4)."""
        ...

    def capacity_bytes(self, barcode: str) -> int:
        """What the cartridge holds."""
        ...

    def close(self) -> None:
        """Leave the library as it is, for the next owner."""
        ...
