"""The library as the operations see it: the changer, the journals and the catalog together, and mounted pairs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Container, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from holdfast import durable
from holdfast.catalog import Cartridge, Catalog, Pair, proof, tapes
from holdfast.config import VaultSettings
from holdfast.errors import HoldfastError, IntegrityError, MediaError, OperatorNeeded
from holdfast.tape.changer import Changer
from holdfast.tape.changer.opening import open_changer
from holdfast.tape.drive import TapeDrive
from holdfast.tape.journal import CartridgeIdentity, CartridgeJournal, JournalState
from holdfast.values import Side

StopsPair = MediaError | IntegrityError | OperatorNeeded
STOPS_A_PAIR = (MediaError, IntegrityError, OperatorNeeded)
"""What is wrong with one pair, its cartridges, drives or journals: it is told, and the work goes on with the others.

Any other error is of the whole vault, the disk or the system, and stops the run.
"""


@dataclass(frozen=True, slots=True)
class MountedPair:
    """What is in the drives of a pair: side A and then B; one of them, or none, where the others failed."""

    pair: Pair
    sides: tuple[tuple[Cartridge, TapeDrive], ...]

    @property
    def drives(self) -> list[TapeDrive]:
        return [drive for _, drive in self.sides]

    @property
    def cartridges(self) -> list[Cartridge]:
        return [cartridge for cartridge, _ in self.sides]

    def without(self, numbers: Container[int]) -> MountedPair:
        """The sides that are left when those with these numbers are not."""
        return MountedPair(self.pair, tuple(side for n, side in enumerate(self.sides) if n not in numbers))


class TapeLibrary:
    """Everything that operations on tapes share. Owns the changer; use as a context manager."""

    def __init__(self, settings: VaultSettings, catalog: Catalog) -> None:
        self.settings = settings
        self.catalog = catalog
        self._suspects: dict[str, set[str]] = {}
        self._found_by: dict[tuple[str, str], set[str]] = {}
        self._drives_of: dict[str, str] = {}  # by barcode, the drive that a cartridge was loaded into last
        self.evidence_journal = durable.Journal(settings.journals_folder / "evidence.jsonl")
        self.changer: Changer = open_changer(settings)

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
        self.unload_all()
        sides = zip(pair.cartridges, self._places(swapped=swapped), strict=True)
        yield MountedPair(pair, tuple((item, self._load(item, drive)) for item, drive in sides))
        self.unload_all()

    @contextmanager
    def mounted_sides(
        self,
        pair: Pair,
        failed: Callable[[Cartridge, HoldfastError], None],
        *,
        swapped: bool = False,
        wanted: Sequence[Cartridge] | None = None,
    ) -> Generator[MountedPair, None, None]:
        """As `mounted`, to read only: a cartridge that cannot be mounted is told to `failed`, and its twin is there.

        That is what there are two for. A drive that cannot be emptied, before or afterwards, is told in the same way:
        what was read is read, and the other drive goes on. `wanted`: these cartridges, in place of the pair's sides.
        """
        stuck = self._unload_each()
        loaded: list[tuple[Cartridge, TapeDrive]] = []
        for item, drive in zip(wanted or pair.cartridges, self._places(swapped=swapped), strict=False):
            try:
                if drive in stuck:
                    raise stuck[drive]
                loaded.append((item, self._load(item, drive)))
            except STOPS_A_PAIR as error:
                failed(item, error)
        yield MountedPair(pair, tuple(loaded))
        in_drives = {self._drives_of[item.barcode]: item for item, _ in loaded}
        for drive, error in self._unload_each().items():
            if drive in in_drives:
                failed(in_drives[drive], error)

    def _places(self, *, swapped: bool) -> tuple[str, str]:
        """The drives of sides A and B."""
        first, second = self.drives()
        return (second, first) if swapped else (first, second)

    def _load(self, cartridge: Cartridge, drive: str) -> TapeDrive:
        self._drives_of[cartridge.barcode] = drive
        return self.changer.load(cartridge.barcode, drive)

    def unload_all(self) -> None:
        """Empty every drive. Raises what keeps the first of them from being emptied, when all others are."""
        for error in self._unload_each().values():
            raise error

    def _unload_each(self) -> dict[str, StopsPair]:
        """Empty every drive; those that cannot be, and why."""
        stuck: dict[str, StopsPair] = {}
        for drive in self.changer.inventory().drives:
            try:
                self.changer.unload(drive)
            except STOPS_A_PAIR as error:
                stuck[drive] = error
        return stuck

    # -- pairs

    def pairs(self) -> list[Pair]:
        with self.catalog.reading() as connection:
            return tapes.all_pairs(connection)

    def new_pair(self) -> Pair:
        """Take two blank cartridges and say, durably, what they will be; their labels are written later."""
        barcodes = self._scratch(Side.A, Side.B)
        one = self._identity(Side.A, barcodes[0], barcodes[1])
        self.journal(one.barcode).begin(one)
        self._begin_twin(one)
        return self._record_pair(one.barcode)

    def replacement(self, failed: Cartridge, twin: Cartridge) -> Pair:
        """Take a blank cartridge and say, durably, that it is the side of the pair that `failed` was; the pair as it
        is now. The twin's tape files are copied to it when it is prepared.
        """
        (barcode,) = self._scratch(failed.side)
        made = self._identity(failed.side, barcode, twin.barcode)
        record_bytes = self.identity(twin.barcode).record_bytes
        made = replace(made, pair_id=failed.pair_id, record_bytes=record_bytes, replaces=failed.barcode)
        self.journal(barcode).begin(made)
        self._record_replacement(made)
        return next(pair for pair in self.pairs() if pair.id == failed.pair_id)

    def failed_replacements(self, failed: Cartridge) -> list[str]:
        """The replacements in a row that never were good, the newest first: `failed`, the one it replaced, and so on.

        One that was ever read back whole ends the row, and so does the cartridge with which the pair began.
        """
        found: list[str] = []
        state = self.journal(failed.barcode).state()
        with self.catalog.reading() as connection:
            while state is not None and state.identity.replaces:
                if proof.was_read_whole(connection, state.identity.barcode):
                    break
                found.append(state.identity.barcode)
                state = self.journal(state.identity.replaces).state()
        return found

    def _scratch(self, *sides: Side) -> tuple[str, ...]:
        """Blank cartridges. Real ones are looked into, which needs a drive: an earlier failure may have left all full."""
        self.unload_all()
        return self.changer.scratch(sides, self._known_barcodes())

    def _identity(self, side: Side, barcode: str, twin: str) -> CartridgeIdentity:
        return CartridgeIdentity(
            barcode=barcode,
            volume_id=uuid.uuid4(),
            pair_id=uuid.uuid4(),
            side=side,
            twin=twin,
            record_bytes=self.settings.tape.record_bytes,
            capacity_bytes=self.changer.capacity_bytes(barcode),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _begin_twin(self, one: CartridgeIdentity) -> None:
        other = self._identity(Side.B if one.side is Side.A else Side.A, one.twin, one.barcode)
        self.journal(one.twin).begin(replace(other, pair_id=one.pair_id, created=one.created))

    def _known_barcodes(self) -> set[str]:
        with self.catalog.reading() as connection:
            return tapes.all_barcodes(connection)

    def adopt_pairs(self) -> None:
        """Pairs, and replaced sides, that a killed run began in the journals only, are told to the catalog now."""
        unknown = self._unknown_journals()
        while unknown:
            known = self._known_barcodes()
            # a replacement comes after the cartridge that it replaces, however their barcodes sort
            ready = [state for state in unknown if not state.identity.replaces or state.identity.replaces in known]
            for state in ready:
                if state.identity.barcode not in self._known_barcodes():
                    self._adopt(state)
            if not ready:
                return
            unknown = [state for state in unknown if state not in ready]

    def _unknown_journals(self) -> list[JournalState]:
        """The journals of cartridges that the catalog does not know."""
        known = self._known_barcodes()
        paths = (path for path in sorted(self.settings.journals_folder.glob("*.jsonl")) if path.stem not in known)
        states = (self.journal(path.stem).state() for path in paths if path != self.evidence_journal.path)
        return [state for state in states if state is not None]

    def _adopt(self, state: JournalState) -> None:
        one = state.identity
        if one.replaces:
            self._record_replacement(one)
        elif self.journal(one.twin).state() is None and state.committed:
            return  # a rebuild was cut short; before a label is written both sides have a journal
        else:
            if self.journal(one.twin).state() is None:
                self._begin_twin(one)
            self._record_pair(one.barcode)
        with self.catalog.transaction() as connection:
            for barcode in (one.barcode, one.twin):
                told = self.journal(barcode).state()
                if told is not None and told.fenced is not None and barcode in tapes.all_barcodes(connection):
                    tapes.fence(connection, barcode, told.fenced)

    def _record_replacement(self, made: CartridgeIdentity) -> None:
        with self.catalog.transaction() as connection:
            tapes.record_replacement(connection, self.cartridge_of(made))

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
        """What the cartridge's journal says. Raises `IntegrityError` when there is none, or it cannot be believed."""
        state = self.journal(barcode).state()
        if state is None:
            raise IntegrityError(
                "a cartridge has no journal",
                place=barcode,
                expected=str(self.journal(barcode).path),
                hint=f"restore the vault's journals folder from a backup, or read the tape: holdfast rebuild {barcode}",
            )
        return state

    def identity(self, barcode: str) -> CartridgeIdentity:
        return self.state(barcode).identity

    def fence(self, barcode: str, error: MediaError) -> MediaError:
        """Never write this cartridge again, nor count what it holds as proven; returns the error to raise.

        A twin that lacks some of what the cartridge holds cannot stand for the pair: it is fenced with it, and all
        that the pair held is written again, on another one.
        """
        self._fence(barcode, str(error))
        twin = self._twin(barcode)
        if twin is not None and len(self.state(twin).committed) < self._count(barcode) > 1:
            self._fence(twin, f"its twin {barcode} was fenced before all of it was copied")
        return error

    def suspect(self, barcode: str, error: MediaError) -> MediaError:
        """A drive failed with this cartridge; returns the error to raise.

        One drive's failure may be its own fault, however often it fails. When a second drive fails with the cartridge
        in this run, it is fenced.
        """
        drives = self._suspects.setdefault(barcode, set())
        drives.add(self._drives_of.get(barcode, ""))
        return self.fence(barcode, error) if len(drives) > 1 else error

    def is_said_by_two_drives(self, barcode: str, what: str) -> bool:
        """Whether a second drive has found `what` of this cartridge in this run; that this one did is noted.

        It is not held against the cartridge, as with `suspect`: what is damaged may be what a later commit stands for.
        """
        drives = self._found_by.setdefault((barcode, what), set())
        drives.add(self._drives_of.get(barcode, ""))
        return len(drives) > 1

    def is_shorter(self, one: Cartridge, other: Cartridge) -> bool:
        """Whether less is committed on `one` than on the `other`, which holds more than its label."""
        return self._count(one.barcode) < self._count(other.barcode) > 1

    def _count(self, barcode: str) -> int:
        """The tape files that are committed; 0 for a cartridge that was never found, and has no journal."""
        state = self.journal(barcode).state()
        return 0 if state is None else len(state.committed)

    def _fence(self, barcode: str, reason: str) -> None:
        self.journal(barcode).fenced(reason, time.time_ns())
        with self.catalog.transaction() as connection:
            tapes.fence(connection, barcode, reason)

    def _twin(self, barcode: str) -> str | None:
        """The good cartridge that is the other side of the pair now; None when there is none."""
        for pair in self.pairs():
            barcodes = {item.barcode for item in pair.cartridges}
            if barcode in barcodes:
                return next((c.barcode for c in pair.cartridges if c.barcode != barcode and not c.fenced), None)
        return None

    def scratch_file(self, name: str) -> Path:
        return self.settings.scratch_folder / name
