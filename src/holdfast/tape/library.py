"""The library as the operations see it: the changer, the journals and the catalog together, and mounted pairs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from holdfast import durable
from holdfast.catalog import Cartridge, Catalog, Pair, tapes
from holdfast.config import VaultSettings
from holdfast.errors import HoldfastError, IntegrityError, MediaError, OperatorNeeded
from holdfast.tape.changer import Changer, VirtualChanger
from holdfast.tape.drive import TapeDrive
from holdfast.tape.journal import CartridgeIdentity, CartridgeJournal, JournalState
from holdfast.values import Side


@dataclass(frozen=True, slots=True)
class MountedPair:
    """A pair in two drives: `drives[0]` holds side A, `drives[1]` side B."""

    pair: Pair
    drives: tuple[TapeDrive, TapeDrive]

    def sides(self) -> Sequence[tuple[Cartridge, TapeDrive]]:
        return tuple(zip(self.pair.cartridges, self.drives, strict=True))


@dataclass(frozen=True, slots=True)
class MountedSides:
    """What could be mounted of a pair, to be read: both sides, one, or none."""

    pair: Pair
    loaded: tuple[tuple[Cartridge, TapeDrive], ...]

    def sides(self) -> Sequence[tuple[Cartridge, TapeDrive]]:
        return self.loaded


class TapeLibrary:
    """Everything that operations on tapes share. Owns the changer; use as a context manager."""

    def __init__(self, settings: VaultSettings, catalog: Catalog) -> None:
        self.settings = settings
        self.catalog = catalog
        self.evidence_journal = durable.Journal(settings.journals_folder / "evidence.jsonl")
        self.changer: Changer = VirtualChanger(
            settings.library_folder,
            barcode_prefix=settings.tape.barcode_prefix,
            media=settings.tape.media,
            cartridge_bytes=settings.tape.cartridge_bytes,
        )

    def __enter__(self) -> TapeLibrary:
        return self

    def __exit__(self, *_: object) -> None:
        self.changer.close()

    def journal(self, barcode: str) -> CartridgeJournal:
        return CartridgeJournal(self.settings.journals_folder, barcode)

    def drives(self) -> tuple[str, str]:
        """Serial numbers of the two drives that are used."""
        first, second, *_ = sorted(self.changer.inventory().drives)
        return first, second

    @contextmanager
    def mounted(self, pair: Pair, *, swapped: bool = False) -> Generator[MountedPair, None, None]:
        """Load both cartridges of a pair, A in the first drive unless `swapped`; unload them when the block is left.

        After an exception they are left in the drives without writing anything more to them.
        """
        first, second = self.drives()
        places = (second, first) if swapped else (first, second)
        self.unload_all()
        loaded = [self.changer.load(item.barcode, drive) for item, drive in zip(pair.cartridges, places, strict=True)]
        yield MountedPair(pair, (loaded[0], loaded[1]))
        self.unload_all()

    @contextmanager
    def mounted_sides(
        self, pair: Pair, failed: Callable[[Cartridge, HoldfastError], None], *, swapped: bool = False
    ) -> Generator[MountedSides, None, None]:
        """As `mounted`, to read only: a cartridge that cannot be mounted is told to `failed`, and its twin is there.

        That is what there are two for.
        """
        first, second = self.drives()
        places = (second, first) if swapped else (first, second)
        self.unload_all()
        loaded: list[tuple[Cartridge, TapeDrive]] = []
        for item, drive in zip(pair.cartridges, places, strict=True):
            try:
                loaded.append((item, self.changer.load(item.barcode, drive)))
            except (MediaError, IntegrityError, OperatorNeeded) as error:
                failed(item, error)
        yield MountedSides(pair, tuple(loaded))
        self.unload_all()

    def unload_all(self) -> None:
        for drive in self.changer.inventory().drives:
            self.changer.unload(drive)

    # -- pairs

    def pairs(self) -> list[Pair]:
        with self.catalog.reading() as connection:
            return tapes.all_pairs(connection)

    def new_pair(self) -> Pair:
        """Take two blank cartridges and say, durably, what they will be; their labels are written later."""
        known = {item.barcode for pair in self.pairs() for item in pair.cartridges}
        barcodes = self.changer.scratch(2, known)
        pair_id, created = uuid.uuid4(), datetime.now(UTC).isoformat(timespec="seconds")
        for side, barcode, twin in zip(Side, barcodes, reversed(barcodes), strict=True):
            self._begin_journal(side, barcode, twin, pair_id, created)
        return self._record_pair(barcodes[0])

    def _begin_journal(self, side: Side, barcode: str, twin: str, pair_id: uuid.UUID, created: str) -> None:
        self.journal(barcode).begin(
            CartridgeIdentity(
                barcode=barcode,
                volume_id=uuid.uuid4(),
                pair_id=pair_id,
                side=side,
                twin=twin,
                record_bytes=self.settings.tape.record_bytes,
                capacity_bytes=self.changer.capacity_bytes(barcode),
                created=created,
            )
        )

    def adopt_pairs(self) -> None:
        """Pairs that a killed run began in the journals, and did not tell the catalog of, are told to it now."""
        known = {item.barcode for pair in self.pairs() for item in pair.cartridges}
        for path in sorted(self.settings.journals_folder.glob("*.jsonl")):
            if path == self.evidence_journal.path or path.stem in known:
                continue
            state = self.journal(path.stem).state()
            if state is not None:
                twin = state.identity.twin
                if self.journal(twin).state() is None:
                    if state.committed:
                        continue  # a rebuild was cut short; before a label is written both sides have a journal
                    other = Side.B if state.identity.side is Side.A else Side.A
                    self._begin_journal(other, twin, path.stem, state.identity.pair_id, state.identity.created)
                self._record_pair(path.stem)
                known |= {path.stem, twin}

    def _record_pair(self, barcode: str) -> Pair:
        one = self.identity(barcode)
        identities = sorted((one, self.identity(one.twin)), key=lambda item: item.side)
        cartridges = (self.cartridge_of(identities[0]), self.cartridge_of(identities[1]))
        pair = Pair(one.pair_id, "open", one.record_bytes, cartridges)
        with self.catalog.transaction() as connection:
            tapes.record_pair(connection, pair)
        return pair

    def cartridge_of(self, identity: CartridgeIdentity) -> Cartridge:
        """The catalog's form of a cartridge of this library."""
        domain = str(self.settings.library_folder) if self.changer.is_virtual else f"cartridge {identity.barcode}"
        return Cartridge(
            barcode=identity.barcode,
            volume_id=identity.volume_id,
            pair_id=identity.pair_id,
            side=identity.side,
            capacity_bytes=identity.capacity_bytes,
            virtual=self.changer.is_virtual,
            failure_domain=domain,
        )

    def state(self, barcode: str) -> JournalState:
        """What the cartridge's journal says. Raises `MediaError` when there is no journal."""
        state = self.journal(barcode).state()
        if state is None:
            raise MediaError(
                "a cartridge has no journal",
                place=barcode,
                expected=str(self.journal(barcode).path),
                hint=f"restore the vault's journals folder from a backup, or read the tape: holdfast rebuild {barcode}",
            )
        return state

    def identity(self, barcode: str) -> CartridgeIdentity:
        return self.state(barcode).identity

    def fence(self, barcode: str, error: MediaError) -> MediaError:
        """Never write this cartridge again, nor count what it holds as proven; returns the error to raise."""
        self.journal(barcode).fenced(str(error), time.time_ns())
        with self.catalog.transaction() as connection:
            tapes.fence(connection, barcode, str(error))
        return error

    def scratch_file(self, name: str) -> Path:
        return self.settings.scratch_folder / name
