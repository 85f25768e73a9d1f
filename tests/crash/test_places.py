"""Kills, write errors, sides left behind, and older vaults put back, in any order: nothing committed is written over,
and in the end the same command is done, with everything proven twice.

A killed run leaves on tape what its drives had taken, with marks between, as real drives do; or power is cut.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.crash.laws import OnTape, cartridge_folder, demand
from tests.crash.nights import OPTIONS
from tests.crash.sources import facts_of
from tests.crash.tapelaws import check_committed, check_proofs, check_restored, check_told

from holdfast import durable
from holdfast.config import init_vault
from holdfast.errors import HoldfastError
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.tape import pairs
from holdfast.tape.drive.virtual import MARKS_NAME, data_path
from holdfast.tape.journal import CartridgeJournal, Committed
from holdfast.tape.library import MountedPair, TapeLibrary
from holdfast.tape.writing import NoRoomLeft
from holdfast.testing.tapefaults import ProcessStopped, TapeFault, Trouble, Troubles, faulty_library, lose_buffers

RECORD_BYTES = 256 * 1024
KNOWLEDGE = ("catalog", "journals", "packs")
RUNS = 3
"""So many undisturbed runs may be needed at most: one may have to find out that a pair cannot be used."""

SIDES = st.sampled_from(["VDRIVE-0", "VDRIVE-1"])
TROUBLES = st.builds(
    TapeFault,
    st.sampled_from([Trouble.WRITE_ERROR, Trouble.NOT_DONE, Trouble.FAILED_BUT_DONE]),
    drive=SIDES,
    operation=st.sampled_from(["write_*", "write_record", "write_file_mark", "locate"]),
    nth=st.integers(1, 6),
    times=st.sampled_from([1, 1, 2, 6]),
)
STOPS = st.builds(
    TapeFault,
    st.just(Trouble.STOPPED),
    drive=SIDES,
    operation=st.sampled_from(["write_record", "write_file_mark", "locate", "read_record"]),
    nth=st.integers(1, 10),
    after=st.booleans(),
)


class Places(RuleBasedStateMachine):
    """A vault whose runs are killed, whose drives fail, and whose knowledge is put back from an older copy."""

    @initialize()
    def begin(self) -> None:
        self.room = Path(tempfile.mkdtemp(prefix="holdfast-places-"))
        self.vault, self.night, self.saved = self.room / "vault", self.room / "night", self.room / "saved"
        self.before: OnTape = {}
        self.files = 0
        init_vault(self.vault, OPTIONS)
        self.night.mkdir()
        self.write(1000)
        self.archive_undisturbed()

    def teardown(self) -> None:
        if hasattr(self, "before"):
            self.archive_undisturbed()
            expected = facts_of(self.night)
            check_restored(self.vault, expected, "night", self.room / "out", "tape")
            demand(verify(self.vault, (), everything=True).errors == [], "law 6", "something cannot be verified")
        if hasattr(self, "room"):
            shutil.rmtree(self.room)

    # -- what happens

    @rule(size_bytes=st.sampled_from([0, 1000, 90_000, 400_000]))
    def write(self, size_bytes: int) -> None:
        self.files += 1
        (self.night / str(self.files)).write_bytes(os.urandom(size_bytes))

    @rule(troubles=st.lists(TROUBLES, max_size=2), no_room=st.booleans())
    def archive_with_troubles(self, troubles: list[TapeFault], no_room: bool) -> None:
        self.write(90_000)
        self._archive(troubles, no_room=no_room)

    @rule(stop=STOPS, troubles=st.lists(TROUBLES, max_size=1), power=st.sampled_from(["", "", "A", "B", "AB"]))
    def archive_stopped_at_a_drive(self, stop: TapeFault, troubles: list[TapeFault], power: str) -> None:
        self.write(90_000)
        self._archive([stop, *troubles], power=power)

    @rule(
        line=st.integers(1, 5),
        after=st.booleans(),
        troubles=st.lists(TROUBLES, max_size=1),
        power=st.sampled_from(["", "", "A", "B", "AB"]),
    )
    def archive_stopped_at_a_journal(self, line: int, after: bool, troubles: list[TapeFault], power: str) -> None:
        self.write(90_000)
        with _stopped_at_line(line, after=after):
            self._archive(troubles, power=power)

    @rule(drive=SIDES, first=st.integers(1, 2), second=st.integers(1, 3))
    def archive_stopped_twice(self, drive: str, first: int, second: int) -> None:
        """What the first run left stands on one side still, as the second one leaves it behind at once."""
        with _stopped_at_line(first, after=False):
            self.write(90_000)
            self._archive([])
        with _stopped_at_line(second, after=False):
            self.write(90_000)
            self._archive([TapeFault(Trouble.WRITE_ERROR, drive=drive, operation="write_record")])

    @rule(no_room=st.booleans(), rooms=st.sampled_from([KNOWLEDGE, KNOWLEDGE[:2]]))
    def archive_and_forget(self, no_room: bool, rooms: Sequence[str]) -> None:
        self.save()
        self.write(90_000)
        self._archive([], no_room=no_room)
        self.put_back(rooms)

    @rule()
    def archive_undisturbed(self) -> None:
        codes: list[int | None] = []
        while len(codes) < RUNS and (not codes or codes[-1] != 0):
            codes.append(self._archive([]))
        demand(codes[-1] == 0, "law 6", f"not done: exit codes {codes}")

    @rule()
    def save(self) -> None:
        """A backup of what the vault knows."""
        shutil.rmtree(self.saved, ignore_errors=True)
        for room in KNOWLEDGE:
            shutil.copytree(self.vault / room, self.saved / room)

    @precondition(lambda self: hasattr(self, "saved") and self.saved.exists())
    @rule(rooms=st.sampled_from([KNOWLEDGE, KNOWLEDGE[:2]]))
    def put_back(self, rooms: Sequence[str]) -> None:
        """Of what was committed on one side only, the other one tells nothing: it may be written over."""
        self.before = {place: digest for place, digest in self.before.items() if digest in self._on_both_sides()}
        for room in rooms:
            shutil.rmtree(self.vault / room)
            shutil.copytree(self.saved / room, self.vault / room)
        note(f"put back; committed {sorted(self.before)}")

    def _on_both_sides(self) -> set[bytes]:
        found = [*self.before.values()]
        return {digest for (_, number), digest in self.before.items() if number == 0 or found.count(digest) > 1}

    # -- a run

    def _archive(self, faults: Iterable[TapeFault], *, power: str = "", no_room: bool = False) -> int | None:
        """Run `archive`, check what must hold at any time; its exit code, None when it was killed or broke off."""
        code, troubles = None, Troubles(faults)
        try:
            with _no_room() if no_room else ExitStack(), faulty_library(troubles):
                report = archive(self.vault, ArchiveRequest(paths=(self.night,)))
            check_told(report.errors)
            code = report.exit_code()
            note(f"exit code {code}: {[*map(str, report.errors)]}")
            demand(code != 0 or check_proofs(self.vault) >= self.files, "law 1", "exit code 0, and not all is proven")
        except HoldfastError as error:
            note(f"broke off: {error}")
            check_told([error])
        except ProcessStopped:
            note(f"stopped; {[*map(str, troubles.happened)]}, power cut on {power or 'neither side'}")
            self._end_drives(power)
        self._check_committed()
        check_proofs(self.vault)
        return code

    def _end_drives(self, power: str) -> None:
        for path in sorted((self.vault / "library" / "cartridges").iterdir()):
            if ("A" if int(path.name[2:6]) % 2 else "B") in power:
                lose_buffers(path, random.Random(path.name))
            else:
                _mark_what_was_written(path)

    def _check_committed(self) -> None:
        """What was ever committed is on tape as it was, whether or not a journal still knows it."""
        for (barcode, number), digest in self.before.items():
            path = data_path(cartridge_folder(self.vault, barcode), number)
            found = blake3(path.read_bytes() if path.exists() else b"").digest()
            demand(found == digest, "law 5", f"{barcode} tape file {number} was committed, and is another one now")
        self.before |= check_committed(self.vault, {})


def _mark_what_was_written(folder: Path) -> None:
    """A killed process's drive keeps the records it has taken, and `st` puts a mark behind them."""
    journal = durable.Journal(folder / MARKS_NAME)
    number = sum(1 for _ in journal.entries())
    while (path := data_path(folder, number)).exists() and (count := path.stat().st_size // RECORD_BYTES):
        os.truncate(path, count * RECORD_BYTES)
        journal.append({"file": number, "bytes": count * RECORD_BYTES, "records": [[RECORD_BYTES, count]]})
        number += 1


@contextmanager
def _stopped_at_line(number: int, *, after: bool) -> Generator[None, None, None]:
    """The process ends before or after a commit is told to a journal."""
    told, whole = [0], CartridgeJournal.committed

    def committed(self: CartridgeJournal, tape_files: Iterable[Committed], at_ns: int) -> None:
        told[0] += 1
        if told[0] > number or (told[0] == number and not after):
            raise ProcessStopped
        whole(self, tape_files, at_ns)
        if told[0] == number:
            raise ProcessStopped

    with mock.patch.object(CartridgeJournal, "committed", committed):
        yield


@contextmanager
def _no_room() -> Generator[None, None, None]:
    """Cartridges end before the catalogs of their session."""

    def close_session(_: TapeLibrary, mounted: MountedPair) -> None:
        place = mounted.cartridges[0].barcode
        raise NoRoomLeft("the cartridge ends before its catalogs (made by a test)", place=place, hint="run again")

    with mock.patch.object(pairs, "close_session", close_session):
        yield


def live(examples: int, number: int = 0) -> None:
    own = settings(
        max_examples=examples,
        stateful_step_count=8,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a life takes seconds: to shrink one would take an hour
    )
    run_state_machine_as_test(seed(number)(Places), settings=own)


@pytest.mark.timeout(300)
def test_law_6_some_lives_of_a_vault_whose_runs_are_killed_and_whose_knowledge_is_put_back() -> None:
    live(3)


@pytest.mark.crash
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(1, 5))
def test_law_6_many_lives_of_a_vault_whose_runs_are_killed_and_whose_knowledge_is_put_back(
    share: float, number: int, record_property: Callable[[str, object], None]
) -> None:
    lives = max(3, round(50 * share))
    live(lives, number)
    record_property("lives of a vault whose knowledge is put back", lives)
