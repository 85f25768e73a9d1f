"""What a changer can do: tell what is where, and move cartridges between slots and drives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.tape.drive.protocol import TapeDrive
from holdfast.values import Side


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is where: barcodes by drive serial (None: empty), and barcodes in slots."""

    drives: dict[str, str | None]
    slots: tuple[str, ...]


class Changer(Protocol):
    """A library's robot with its drives. One owner at a time: `close` it."""

    def inventory(self) -> Inventory: ...

    def load(self, barcode: str, drive: str) -> TapeDrive:
        """Put a cartridge from its slot into the drive with this serial number; ready at its begin.

        Raises `OperatorNeeded` when the cartridge is not in the library, `MediaError` when the drive is full.
        """
        ...

    def unload(self, drive: str) -> None:
        """Put what the drive holds back into its slot; nothing happens when it is empty."""
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
