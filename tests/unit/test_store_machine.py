"""The block store of a vault against a plain model: put, get, range, release, collect, scrub, damage, reopen, lose the catalog."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.acceptance.conftest import SMALL
from tests.unit.catalog.kit import quick_folder

from holdfast.blocks import BlockReader, ContentFile, StoreWriter
from holdfast.blocks.store import Pieces
from holdfast.catalog import packs, releasing
from holdfast.collecting import CollectRequest, collect
from holdfast.config import init_vault
from holdfast.errors import IntegrityError
from holdfast.scrubbing import ScrubRequest, scrub
from holdfast.testing import flip_bit
from holdfast.values import Attributes, BlockPlace, Content, FileVersion, Kind, Source
from holdfast.vault import Vault, opened, owned

SOURCE = Source(uuid.UUID(int=7), "lab", "host", b"/data")
ATTRIBUTES = Attributes(0o644, 1, 0, 0, "ann", "staff")
NUMBERS = st.integers(0, 4)


def bytes_of(number: int) -> bytes:
    """Every third is large; so few that they come again."""
    size = 300_000 + 4096 * number if number % 3 == 0 else 3000 + 700 * number
    return hashlib.shake_128(b"%d" % number).digest(size)


def content_of(number: int) -> Content:
    data = bytes_of(number)
    return Content(hashlib.sha256(data).digest(), len(data))


class StoreMachine(RuleBasedStateMachine):
    """`kept`: what must be readable. `released`: what may be gone. `unsaid`: what no barrier has made durable yet."""

    def __init__(self) -> None:
        super().__init__()
        self._scope = ExitStack()
        self.vault = self._scope.enter_context(quick_folder()) / "vault"
        init_vault(self.vault, SMALL)
        self.kept: set[int] = set()
        self.released: set[int] = set()
        self.unsaid: set[int] = set()
        self.damaged: set[tuple[BlockPlace, int]] = set()
        self.seen_ns = 0
        self._session = ExitStack()
        self.writer: StoreWriter | None = None

    def teardown(self) -> None:
        self._session.close()
        self._scope.close()

    # -- a writer

    @precondition(lambda self: self.writer is None)
    @rule()
    def begin_to_write(self) -> None:
        vault = self._session.enter_context(opened(self.vault))
        self.writer = self._session.enter_context(vault.store_writer())

    @precondition(lambda self: self.writer is not None)
    @rule(number=NUMBERS)
    def put(self, number: int) -> None:
        writer, data, content = self.writer, bytes_of(number), content_of(number)
        assert writer is not None
        known = writer.find(content)
        if known is None and len(data) <= writer.small_limit_bytes:
            writer.small_room(len(data))[:] = data
            known = writer.keep_small(len(data)), ()
        elif known is None:
            known = self._put_large(writer, data), ()
        self.seen_ns += 1
        path = b"%d-%d" % (number, self.seen_ns)
        version = FileVersion(uuid.uuid4(), "lab", path, Kind.FILE, len(data), ATTRIBUTES, self.seen_ns, content)
        writer.add(SOURCE, version, None, pieces=known[0], segments=known[1])
        self.unsaid.add(number)

    def _put_large(self, writer: StoreWriter, data: bytes) -> Pieces:
        large, left = writer.large(), memoryview(data)
        while left:
            room = large.room()[: len(left)]
            room[:] = left[: len(room)]
            left = left[len(room) :]
            large.filled(len(room))
        return large.finish()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def make_durable(self) -> None:
        assert self.writer is not None
        self.writer.barrier()
        self._said()

    def _said(self) -> None:
        self.kept |= self.unsaid
        self.released -= self.unsaid
        self.unsaid = set()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def end_writing(self) -> None:
        self._session.close()
        self.writer = None
        self._said()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def be_killed(self) -> None:
        """As good as: the writer ends without sealing, and the next owner adopts what it left."""
        with pytest.raises(ZeroDivisionError), self._session.pop_all():
            raise ZeroDivisionError
        self.writer = None
        with owned(self.vault, "test", print):
            pass
        self.released -= self.unsaid  # some of it may be there
        self.unsaid = set()

    # -- giving up

    @rule(numbers=st.sets(NUMBERS, max_size=3))
    def release(self, numbers: set[int]) -> None:
        with opened(self.vault) as vault, vault.catalog.transaction() as connection:
            rows = releasing.stored_contents(connection, map(content_of, numbers))
            releasing.release_contents(connection, rows, 1)
        self.released |= numbers & self.kept
        self.kept -= numbers

    @rule(everything=st.booleans())
    def collect(self, everything: bool) -> None:
        report = collect(self.vault, CollectRequest(everything=everything))
        assert report.waiting <= (self.writer is not None)
        if not self.damaged:
            assert report.errors == []

    # -- harm

    @precondition(lambda self: not self.damaged and self.writer is None)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        with opened(self.vault) as vault:
            places = self._places(vault)
            if not places:
                return
            place = data.draw(st.sampled_from(places))
            offset = data.draw(st.integers(0, place.locator.size_bytes - 1))
            flip_bit(self._path(place), place.offset_bytes + 128 + offset)
        self.damaged.add((place, offset))

    @precondition(lambda self: self.damaged)
    @rule()
    def find_the_damage(self) -> None:
        report = scrub(self.vault, ScrubRequest(repair=False))
        with opened(self.vault) as vault:
            there = {place for place, _ in self.damaged if place in self._places(vault)}
        assert report.damaged_blocks == len(there)

    @precondition(lambda self: self.damaged)
    @rule()
    def mend(self) -> None:
        for place, offset in self.damaged:
            if self._path(place).exists():
                flip_bit(self._path(place), place.offset_bytes + 128 + offset)
        self.damaged.clear()

    @precondition(lambda self: not self.damaged and self.writer is None)
    @rule()
    def lose_the_catalog(self) -> None:
        """What was released may come back with it; nothing else may go."""
        shutil.rmtree(self.vault / "catalog")
        with owned(self.vault, "test", print):
            pass

    # -- what must hold

    def _places(self, vault: Vault) -> list[BlockPlace]:
        with vault.catalog.reading() as connection:
            return sorted(
                (place for pack in packs.sealed_packs(connection) for place in packs.blocks_of_pack(connection, pack)),
                key=lambda place: place.locator.blake3,
            )

    def _path(self, place: BlockPlace) -> Path:
        return self.vault / "packs" / f"{place.pack_id}.pack"

    @rule(number=NUMBERS, begin=st.integers(0, 10**6), length=st.integers(0, 100_000))
    def read_a_part(self, number: int, begin: int, length: int) -> None:
        with opened(self.vault) as vault:
            segments = vault.catalog.find_segments(content_of(number))
            if segments is None:
                assert number not in self.kept
                return
            begin %= len(bytes_of(number))
            with ContentFile(vault.store_reader(), segments) as file:
                try:
                    assert file.part(begin, begin + length) == bytes_of(number)[begin : begin + length]
                except IntegrityError:
                    assert self.damaged

    @invariant()
    def what_was_kept_is_there(self) -> None:
        with opened(self.vault) as vault, BlockReader(vault.settings.packs_folder, vault.catalog) as reader:
            for number in self.kept:
                segments = vault.catalog.find_segments(content_of(number))
                assert segments is not None, f"{number} is gone"
                try:
                    assert b"".join(map(bytes, reader.read(segments))) == bytes_of(number)
                except IntegrityError:
                    assert self.damaged


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
TestStore.pytestmark = [pytest.mark.timeout(300)]
