"""The journal of a cartridge: only what it names exists."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.errors import IntegrityError
from holdfast.tape.journal import CartridgeIdentity, CartridgeJournal, Committed, JournalState
from holdfast.values import Side

IDENTITY = CartridgeIdentity(
    barcode="HF0001L8",
    volume_id=uuid.UUID(int=1),
    pair_id=uuid.UUID(int=2),
    side=Side.B,
    twin="HF0002L8",
    record_bytes=1024,
    capacity_bytes=10**12,
    created="2026-11-21T08:00:00+00:00",
)


def tape_files(count: int) -> list[Committed]:
    """A label, and objects behind it."""
    found: list[Committed] = []
    for number in range(count):
        found.append(
            Committed(
                tape_file=number,
                kind="object" if number else "label",
                id=uuid.UUID(int=100 + number),
                first_block=found[-1].end_block if found else 0,
                size_bytes=1024 * (number + 1),
                blake3=bytes([number]) * 32,
                record_bytes=1024,
            )
        )
    return found


@pytest.fixture
def journal(tmp_path: Path) -> CartridgeJournal:
    return CartridgeJournal(tmp_path, "HF0001L8")


def reread(journal: CartridgeJournal) -> JournalState | None:
    return CartridgeJournal(journal.path.parent, journal.path.stem).state()


def test_nothing_was_said_yet(journal: CartridgeJournal) -> None:
    assert journal.state() is None


def test_every_state_is_read_back(journal: CartridgeJournal) -> None:
    label, first, second = tape_files(3)
    journal.begin(IDENTITY)
    assert reread(journal) == JournalState(IDENTITY, (), None)
    journal.committed([label], 5)
    assert reread(journal) == JournalState(IDENTITY, (label,), None)
    journal.committed([first, second], 6)
    assert reread(journal) == JournalState(IDENTITY, (label, first, second), None)
    journal.fenced("it was another tape", 7)
    assert reread(journal) == JournalState(IDENTITY, (label, first, second), "it was another tape")


def test_a_tape_file_ends_behind_its_mark() -> None:
    label, first, second = tape_files(3)
    assert (label.first_block, label.end_block) == (0, 2)
    assert (first.first_block, first.end_block) == (2, 5)
    assert second.end_block == 9


def test_a_torn_tail_of_any_length_leaves_what_was_whole(journal: CartridgeJournal) -> None:
    label, first, second = tape_files(3)
    journal.begin(IDENTITY)
    journal.committed([label], 5)
    said = journal.path.read_bytes()
    journal.committed([first, second], 6)
    whole = journal.path.read_bytes()
    first_line_end = whole.index(b"\n", len(said)) + 1
    for length in range(len(said), len(whole)):
        for tail in (b"", b"\0" * (len(whole) - length)):
            journal.path.write_bytes(whole[:length] + tail)
            expected = (label, first) if length >= first_line_end else (label,)
            assert reread(journal) == JournalState(IDENTITY, expected, None)


def test_what_follows_a_torn_tail_is_read(journal: CartridgeJournal) -> None:
    label, first, second = tape_files(3)
    journal.begin(IDENTITY)
    journal.committed([label], 5)
    end = journal.path.stat().st_size
    journal.committed([first], 6)
    whole = journal.path.read_bytes()
    for length in range(end, len(whole), 7):
        journal.path.write_bytes(whole[:length])
        resumed = CartridgeJournal(journal.path.parent, "HF0001L8")
        resumed.committed([first, second], 8)
        assert reread(journal) == JournalState(IDENTITY, (label, first, second), None)


def test_a_journal_torn_in_its_first_line_says_nothing(journal: CartridgeJournal) -> None:
    journal.begin(IDENTITY)
    whole = journal.path.read_bytes()
    for length in range(len(whole)):
        journal.path.write_bytes(whole[:length])
        assert reread(journal) is None


def test_saying_the_same_identity_again_changes_nothing(journal: CartridgeJournal) -> None:
    journal.begin(IDENTITY)
    journal.committed(tape_files(1), 5)
    journal.begin(IDENTITY)
    state = reread(journal)
    assert state is not None
    assert len(state.committed) == 1


def test_a_cartridge_does_not_become_another_one(journal: CartridgeJournal) -> None:
    journal.begin(IDENTITY)
    journal.begin(replace(IDENTITY, volume_id=uuid.uuid4()))
    with pytest.raises(IntegrityError) as caught:
        journal.state()
    assert caught.value.place == f"{journal.path} line 2"


@pytest.mark.parametrize(
    "entry",
    [
        {"tape_file": 0, "first_block": 0},  # the label again
        {"tape_file": 2, "first_block": 5},  # one is left out
        {"tape_file": 1, "first_block": 0},  # over the label
        {"tape_file": 1, "first_block": 3},
    ],
)
def test_a_commit_that_does_not_follow_the_last_is_not_believed(
    journal: CartridgeJournal, entry: dict[str, int]
) -> None:
    journal.begin(IDENTITY)
    journal.committed(tape_files(1), 5)
    journal.committed([replace(tape_files(2)[1], **entry)], 6)  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match="tape file 1 at block 2 must come next"):
        journal.state()


@pytest.mark.parametrize("damage", [{"blake3": "xyz"}, {"blake3": None}, {"id": "no"}, {"size_bytes": None}])
def test_a_damaged_line_is_an_integrity_error_with_its_number(
    journal: CartridgeJournal, damage: dict[str, object]
) -> None:
    journal.begin(IDENTITY)
    journal.committed(tape_files(1), 5)
    *before, last = journal.path.read_text().splitlines()
    journal.path.write_text("\n".join([*before, json.dumps(json.loads(last) | damage)]) + "\n")
    with pytest.raises(IntegrityError) as caught:
        journal.state()
    assert caught.value.place == f"{journal.path} line 2"
    assert caught.value.hint is not None


def test_a_commit_without_a_cartridge_is_an_integrity_error(journal: CartridgeJournal) -> None:
    journal.committed(tape_files(1), 5)
    with pytest.raises(IntegrityError, match="which cartridge"):
        journal.state()


def test_later_releases_may_say_more(journal: CartridgeJournal) -> None:
    journal.begin(IDENTITY)
    with journal.path.open("a") as file:
        file.write('{"event":"cleaned","at_ns":1}\n')
    assert reread(journal) == JournalState(IDENTITY, (), None)


def test_law_1_what_is_said_is_synced(journal: CartridgeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.begin(IDENTITY)
    synced: list[int] = []
    really = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        really(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    journal.committed(tape_files(2), 5)
    assert synced[-1:] == [journal.path.stat().st_size]


def test_a_journal_that_is_written_anew_is_all_there_or_not_at_all(journal: CartridgeJournal) -> None:
    journal.write_anew(IDENTITY, tape_files(3), 7)
    assert reread(journal) == JournalState(IDENTITY, tuple(tape_files(3)), None)
    journal.committed(tape_files(4)[3:], 8)
    assert reread(journal) == JournalState(IDENTITY, tuple(tape_files(4)), None)
