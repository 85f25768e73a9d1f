"""The keeper over packs: what a sync has passed is durable and told, whatever failed before it."""

from __future__ import annotations

import errno
import os
import threading
import uuid
from pathlib import Path

import pytest
from tests.unit.blocks.buffered.blockkit import PATIENCE_S, Thread, descriptors, interrupted, locator_of, noise
from tests.unit.blocks.kit import FENCE, VAULT_ID, MemoryStore

from holdfast import durable
from holdfast.blocks import BlockManager, DurableGroup, Fence, PackKeeper, SlabPool, recover_packs
from holdfast.blocks.backends import add_pack
from holdfast.blocks.backends.memory import MemoryBackend
from holdfast.blocks.backends.posix import PosixPack
from holdfast.blocks.buffered.committer import Backoff
from holdfast.blocks.packfile import PackReader, PackWriter
from holdfast.blocks.packs import Packs
from holdfast.blocks.recover import has_left_packs
from holdfast.errors import BackendError, BlockError, CapacityError, IntegrityError
from holdfast.testing.backendfaults import BackendFault, FaultyBackend
from holdfast.values import BlockPlace, Locator

pytestmark = pytest.mark.timeout(60)

PIECE = 64 * 1024


def keeper_for(folder: Path | Packs, store: MemoryStore, *, pack_bytes: int = 2**30, **options: object) -> PackKeeper:
    return PackKeeper(
        folder, vault_id=VAULT_ID, pack_bytes=pack_bytes, index=store, sink=store, **{"fence": FENCE} | options
    )  # type: ignore[arg-type]


def put(keeper: PackKeeper, data: bytes) -> Locator:
    locator = locator_of(data)
    view = memoryview(data)
    keeper.put(locator, [view[start : start + PIECE] for start in range(0, len(data), PIECE)])
    return locator


def check_kept(folder: Path, store: MemoryStore, wanted: list[bytes]) -> None:
    """All is told of and read, from the packs as they are and after they are scanned anew."""
    scanned = MemoryStore()
    recover_packs(folder, vault_id=VAULT_ID, known=scanned, sink=scanned, fence=FENCE)
    for known in (store, scanned):
        with keeper_for(folder, known) as keeper:
            assert [keeper.fetch(locator_of(data), 0, len(data)) for data in wanted] == wanted


def test_law_1_blocks_are_told_of_after_the_pack_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    store = MemoryStore()
    real_sync, real_told = durable.sync_file, store.group_durable

    def sync(descriptor: int) -> None:
        calls.append("sync")
        real_sync(descriptor)

    def told(group: DurableGroup) -> None:
        calls.append(f"told {len(group.blocks)}")
        real_told(group)

    monkeypatch.setattr(durable, "sync_file", sync)
    store.group_durable = told  # type: ignore[method-assign]
    data = [noise(10), noise(3 * PIECE + 5, 1)]
    with keeper_for(tmp_path, store) as keeper:
        locators = [put(keeper, part) for part in data]
        assert all(keeper.has(locator) for locator in locators)
        assert store.blocks == {}
        keeper.sync()
        keeper.sync()
        assert set(store.blocks) == set(locators)
    assert calls == ["sync", "told 2", "sync"]  # the last one seals the pack
    assert set(store.sealed) == set(store.packs)
    check_kept(tmp_path, store, data)


def test_full_packs_are_sealed_by_the_sync_that_makes_their_blocks_durable(tmp_path: Path) -> None:
    store, data = MemoryStore(), [noise(PIECE, seed) for seed in range(9)]
    with keeper_for(tmp_path, store, pack_bytes=3 * PIECE) as keeper:
        for part in data:
            put(keeper, part)
        assert store.sealed == {}
        keeper.sync()
        assert len(store.sealed) == 3
        assert set(store.blocks) == set(map(locator_of, data))
    assert len(store.sealed) == 3
    check_kept(tmp_path, store, data)


def test_a_collector_waits_for_whoever_found_a_block(tmp_path: Path) -> None:
    store, fence = MemoryStore(), Fence(tmp_path / "fence")
    with keeper_for(tmp_path, store, fence=fence) as keeper:
        locator = put(keeper, b"abc")
        keeper.sync()
        assert keeper.has(locator)
        assert not keeper.has(locator_of(b"other"))
        fence.raise_to(1)
        assert not fence.is_clear(1)
        keeper.renew()
        assert fence.is_clear(1)
        fence.raise_to(2)
        assert not fence.is_clear(2)
    assert fence.is_clear(2)


def test_a_put_that_fails_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real_write, fails = MemoryStore(), os.writev, threading.Event()

    def writev(descriptor: int, parts: list[memoryview]) -> int:
        if fails.is_set():
            real_write(descriptor, parts[:1])
            raise OSError(errno.ENOSPC, "full")
        return real_write(descriptor, parts)

    monkeypatch.setattr(os, "writev", writev)
    with keeper_for(tmp_path, store) as keeper:
        put(keeper, b"first")
        size = next(tmp_path.iterdir()).stat().st_size
        fails.set()
        with pytest.raises(CapacityError, match="the disk is full"):
            put(keeper, noise(5 * PIECE))
        assert next(tmp_path.iterdir()).stat().st_size == size
        assert not keeper.has(locator_of(noise(5 * PIECE)))
        fails.clear()
        put(keeper, b"second")
    assert len(store.sealed) == 1
    check_kept(tmp_path, store, [b"first", b"second"])


def test_a_pack_whose_torn_end_stays_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real_write, fails = MemoryStore(), os.writev, threading.Event()

    def fail(*arguments: object) -> int:
        if fails.is_set():
            raise OSError(errno.EIO, "no")
        return real_write(*arguments)  # type: ignore[arg-type]

    def cut_back(_: PackWriter) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "writev", fail)
    monkeypatch.setattr(PackWriter, "cut_back", cut_back)
    before = descriptors()
    with keeper_for(tmp_path, store) as keeper:
        put(keeper, b"first")
        fails.set()
        with pytest.raises(OSError, match="no"):
            put(keeper, b"second")
        fails.clear()
        put(keeper, b"second")
    assert descriptors() == before
    assert len(list(tmp_path.iterdir())) == 2
    assert len(store.sealed) == 1  # the torn one is left to the recovery
    check_kept(tmp_path, store, [b"first", b"second"])


def test_after_a_sync_that_failed_blocks_go_into_another_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real_sync, fails = MemoryStore(), durable.sync_file, threading.Event()

    def sync(descriptor: int) -> None:
        if fails.is_set():
            raise OSError(errno.EIO, "no")
        real_sync(descriptor)

    monkeypatch.setattr(durable, "sync_file", sync)
    before = descriptors()
    with keeper_for(tmp_path, store) as keeper:
        put(keeper, b"first")
        keeper.sync()
        put(keeper, b"second")
        fails.set()
        with pytest.raises(OSError, match="no"):
            keeper.sync()
        fails.clear()
        assert keeper.has(locator_of(b"first"))
        assert not keeper.has(locator_of(b"second"))
        put(keeper, b"second")
        keeper.sync()
        assert len({place.pack_id for place in store.blocks.values()}) == 2
    assert descriptors() == before
    check_kept(tmp_path, store, [b"first", b"second"])


def test_what_the_sink_did_not_take_is_told_again_and_not_written_again(tmp_path: Path) -> None:
    store = MemoryStore()
    real_told = store.group_durable

    def refuse(_: DurableGroup) -> None:
        raise OSError("the catalog is busy")

    store.group_durable = refuse  # type: ignore[method-assign]
    with keeper_for(tmp_path, store) as keeper:
        put(keeper, b"abc")
        with pytest.raises(OSError, match="busy"):
            keeper.sync()
        assert keeper.has(locator_of(b"abc"))
        store.group_durable = real_told  # type: ignore[method-assign]
        keeper.sync()
        assert keeper.fetch(locator_of(b"abc"), 1, 2) == b"bc"
    assert len(list(tmp_path.iterdir())) == 1


def test_blocks_are_put_while_a_sync_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, reached, go_on = MemoryStore(), threading.Event(), threading.Event()
    real_sync = durable.sync_file

    def sync(descriptor: int) -> None:
        reached.set()
        assert go_on.wait(PATIENCE_S)
        real_sync(descriptor)

    monkeypatch.setattr(durable, "sync_file", sync)
    with keeper_for(tmp_path, store) as keeper:
        put(keeper, b"first")
        syncing = Thread(keeper.sync)
        assert reached.wait(PATIENCE_S)
        put(keeper, b"second")
        go_on.set()
        syncing.join_result()
        assert set(store.blocks) == {locator_of(b"first")}  # the second came later: it is another sync's
    assert set(store.blocks) == {locator_of(b"first"), locator_of(b"second")}


def test_an_exception_in_the_caller_leaves_the_pack_to_the_recovery(tmp_path: Path) -> None:
    store, before = MemoryStore(), descriptors()
    with interrupted(KeyError), keeper_for(tmp_path, store) as keeper:
        put(keeper, b"abc")
        keeper.sync()
        keeper.fetch(locator_of(b"abc"), 0, 3)
        raise KeyError
    assert descriptors() == before
    assert store.sealed == {}
    check_kept(tmp_path, store, [b"abc"])


def test_law_7_a_read_of_a_piece_is_checked(tmp_path: Path) -> None:
    store, data = MemoryStore(), noise(40 * PIECE)
    with keeper_for(tmp_path, store) as keeper:
        locator = put(keeper, data)
        keeper.sync()
        assert keeper.fetch(locator, 0, len(data)) == data
        assert keeper.fetch(locator, PIECE - 1, 17 * PIECE) == data[PIECE - 1 : 18 * PIECE - 1]
        pack = next(tmp_path.iterdir())
        flipped = bytearray(pack.read_bytes())
        flipped[4096 + 128 + 20 * PIECE] ^= 1
        pack.write_bytes(flipped)
        assert keeper.fetch(locator, 19 * PIECE, PIECE) == data[19 * PIECE : 20 * PIECE]
        with pytest.raises(IntegrityError, match="damaged bytes in the block store"):
            keeper.fetch(locator, 21 * PIECE - 1, 1)
        with pytest.raises(IntegrityError, match="missing from the store"):
            keeper.fetch(locator_of(b"never"), 0, 5)


def test_a_block_that_was_moved_to_another_pack_is_found_there(tmp_path: Path) -> None:
    store = MemoryStore()
    with keeper_for(tmp_path, store) as keeper:
        locator = put(keeper, b"abc")
        keeper.sync()
        assert keeper.fetch(locator, 0, 3) == b"abc"
        for reader in keeper._readers:
            reader.close()
        pack = next(tmp_path.iterdir())
        other = MemoryStore()
        with keeper_for(tmp_path, other) as mover:
            put(mover, b"abc")
        pack.unlink()
        store.blocks[locator] = other.blocks[locator]
        assert keeper.fetch(locator, 0, 3) == b"abc"


def test_a_block_whose_pack_was_moved_to_another_place_is_read_there(tmp_path: Path) -> None:
    store, backend = MemoryStore(), MemoryBackend()
    here = tmp_path / "packs"
    here.mkdir()
    with keeper_for(here, store) as keeper:
        locator = put(keeper, noise(3 * PIECE))
    (path,) = here.iterdir()
    assert add_pack(backend, store.blocks[locator].pack_id, PosixPack(path), take_away=True)
    path.unlink()
    faulty = FaultyBackend(backend, BackendFault("open"))
    with keeper_for(Packs(here, lambda: faulty), store) as keeper:
        with pytest.raises(BackendError):
            keeper.fetch(locator, 0, 5)
        keeper._packs._trouble = None
        assert keeper.fetch(locator, PIECE, PIECE) == noise(3 * PIECE)[PIECE : 2 * PIECE]
        put(keeper, b"new ones are born in the folder")
    assert len(list(here.iterdir())) == 1


def test_only_the_places_used_last_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.blocks.buffered.packkeeper.KEPT_PLACES", 3)
    store = MemoryStore()
    with keeper_for(tmp_path, store) as keeper:
        locators = [put(keeper, noise(9, seed)) for seed in range(10)]
        keeper.sync()
        assert [keeper.fetch(locator, 0, 9) for locator in locators] == [noise(9, seed) for seed in range(10)]
        assert len(keeper._places) == 3


def test_parts_that_do_not_end_with_a_piece_are_refused(tmp_path: Path) -> None:
    with keeper_for(tmp_path, MemoryStore()) as keeper, pytest.raises(ValueError, match="does not end with a piece"):
        keeper.put(locator_of(b"abcdef"), [memoryview(b"abc"), memoryview(b"def")])


def test_a_block_of_very_many_parts_is_written_whole(tmp_path: Path) -> None:
    """More than the kernel takes in one call."""
    store, data = MemoryStore(), noise(PIECE) * 1024
    with keeper_for(tmp_path, store) as keeper:
        locator = put(keeper, data)
        keeper.sync()
        assert keeper.fetch(locator, 0, len(data)) == data


def test_the_manager_keeps_small_and_large_contents_in_packs(tmp_path: Path) -> None:
    store, before = MemoryStore(), descriptors()
    data = [noise(size, size) for size in (1, 10_000, 60_000, 70_000, 300_000, 1_000_000)]
    pool = SlabPool(20 * PIECE)
    with keeper_for(tmp_path, store, pack_bytes=500_000) as keeper:
        with BlockManager(keeper, pool=pool, block_bytes=4 * PIECE) as manager:
            contents = [manager.content(f"file {number}") for number in range(len(data))]
            for content, part in zip(contents, data, strict=True):
                content.write(part)
                content.close(wait=False)
            manager.commit_all()
            segments = [content.segments() for content in contents]
            again = manager.content("again")
            again.write(data[-1])
            assert again.close() == segments[-1]
        told = [place.locator for group in store.groups for place in group.blocks]
        assert len(told) == len(set(told))
        for found, part in zip(segments, data, strict=True):
            assert b"".join(keeper.fetch(s.locator, s.offset_bytes, s.length_bytes) for s in found) == part
    assert pool.used_bytes == 0
    assert descriptors() == before
    assert set(store.packs) == set(store.sealed) == {uuid.UUID(path.stem) for path in tmp_path.iterdir()}


def test_a_disk_that_was_full_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real_write, is_full = MemoryStore(), os.writev, threading.Event()
    is_full.set()

    def writev(descriptor: int, parts: list[memoryview]) -> int:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, "full")
        return real_write(descriptor, parts)

    monkeypatch.setattr(os, "writev", writev)
    pool = SlabPool(40 * PIECE)
    with (
        keeper_for(tmp_path, store) as keeper,
        BlockManager(keeper, pool=pool, backoff=Backoff(tries=2), pause=lambda _: None) as manager,
    ):
        content = manager.content("night.dat")
        content.write(noise(5 * PIECE))
        with pytest.raises(Exception, match=r"night.dat bytes 0 to 327680 in block b3:.*the disk is full"):
            content.close()
        is_full.clear()
        segment = content.close()[0]
        with manager.read(segment.locator) as found:
            assert found == noise(5 * PIECE)
    assert isinstance(store.blocks[segment.locator], BlockPlace)


class FailingDisk:
    """Syncs of files fail while it `fails`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = errno.EIO) -> None:
        self.fails, self.number, self.real_sync = False, number, durable.sync_file
        monkeypatch.setattr(durable, "sync_file", self.sync)

    def sync(self, descriptor: int) -> None:
        if self.fails:
            raise OSError(self.number, "no")
        self.real_sync(descriptor)


@pytest.mark.parametrize("is_seal", [False, True])
def test_law_1_whoever_put_before_a_sync_failed_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_seal: bool
) -> None:
    """The sync, or the sealing of the pack, was somebody else's."""
    store, disk = MemoryStore(), FailingDisk(monkeypatch)
    with keeper_for(tmp_path, store) as keeper:
        epoch = keeper.epoch
        put(keeper, b"mine")
        disk.fails = True
        with pytest.raises(OSError, match="no"):
            keeper.seal() if is_seal else keeper.sync(epoch)
        disk.fails = False
        with pytest.raises(BlockError, match="lost, as a sync has failed since"):
            keeper.sync(epoch)
        assert store.blocks == {}
        put(keeper, b"mine")
        keeper.sync(keeper.epoch)
        assert set(store.blocks) == {locator_of(b"mine")}
    check_kept(tmp_path, store, [b"mine"])


def test_law_1_two_managers_share_a_keeper_whose_sync_fails_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, disk, was_put, go_on = MemoryStore(), FailingDisk(monkeypatch), threading.Event(), threading.Event()
    with keeper_for(tmp_path, store) as keeper:
        real_put = keeper.put

        def slow_put(locator: Locator, parts: list[memoryview]) -> None:
            real_put(locator, parts)
            was_put.set()
            assert go_on.wait(PATIENCE_S)

        keeper.put = slow_put  # type: ignore[method-assign]
        with BlockManager(keeper, pool=SlabPool(8 * PIECE), workers=1, pause=lambda _: None) as manager:
            content = manager.content("night.dat")
            content.write(noise(2 * PIECE))
            closing = Thread(content.close)
            assert was_put.wait(PATIENCE_S)
            disk.fails = True
            with pytest.raises(OSError, match="no"):
                keeper.seal()
            disk.fails = False
            go_on.set()
            segments = closing.join_result()
            assert [segment.locator for segment in segments] == list(store.blocks)  # type: ignore[attr-defined]
            with manager.read(locator_of(noise(2 * PIECE))) as data:
                assert data == noise(2 * PIECE)
    check_kept(tmp_path, store, [noise(2 * PIECE)])


def test_a_full_disk_that_is_tried_often_is_not_filled_with_packs_of_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, disk = MemoryStore(), FailingDisk(monkeypatch, errno.ENOSPC)
    with keeper_for(tmp_path, store) as keeper:
        put(keeper, b"told")
        keeper.sync()
        disk.fails = True
        for _ in range(5):
            put(keeper, noise(PIECE))
            with pytest.raises(CapacityError, match="the disk is full"):
                keeper.sync()
        assert len(list(tmp_path.iterdir())) == 1  # that in which something was told
        disk.fails = False
        put(keeper, noise(PIECE))
    check_kept(tmp_path, store, [b"told", noise(PIECE)])


def test_a_pack_that_is_synced_is_not_given_up_when_another_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    real_sync, failing = durable.sync_file, list[int]()

    def sync(descriptor: int) -> None:
        if len(failing) == 1:
            failing.append(descriptor)
            raise OSError(errno.EIO, "no")
        failing.append(descriptor)
        real_sync(descriptor)

    with keeper_for(tmp_path, store, pack_bytes=PIECE) as keeper:
        put(keeper, noise(PIECE, 1))
        put(keeper, noise(PIECE, 2))
        monkeypatch.setattr(durable, "sync_file", sync)
        with pytest.raises(OSError, match="no"):
            keeper.sync()
        assert [keeper.has(locator_of(noise(PIECE, seed))) for seed in (1, 2)] == [True, False]
        put(keeper, noise(PIECE, 2))
        keeper.sync()
    check_kept(tmp_path, store, [noise(PIECE, 1), noise(PIECE, 2)])


def test_law_9_what_the_sink_does_not_take_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.blocks.buffered.packkeeper.UNTOLD_GROUPS", 3)
    store, taken = MemoryStore(), 0
    real_told = store.group_durable

    def refuse(_: DurableGroup) -> None:
        raise OSError("the catalog is busy")

    store.group_durable = refuse  # type: ignore[method-assign]
    with keeper_for(tmp_path, store) as keeper:
        epoch = keeper.epoch
        for seed in range(10):
            try:
                put(keeper, noise(9, seed))
                taken += 1
                keeper.sync(epoch)
            except OSError as error:
                assert "busy" in str(error)  # noqa: PT017
        assert (taken, len(keeper._to_tell), keeper.epoch) == (3, 3, epoch)
        store.group_durable = real_told  # type: ignore[method-assign]
        put(keeper, noise(9, 9))
        keeper.sync(epoch)
    assert len(list(tmp_path.iterdir())) == 1
    check_kept(tmp_path, store, [noise(9, seed) for seed in (0, 1, 2, 9)])


def test_law_3_an_interrupt_after_the_sync_leaves_a_pack_that_may_be_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()

    class Groups(list[DurableGroup]):
        def append(self, group: DurableGroup) -> None:
            super().append(group)
            raise KeyboardInterrupt

    with keeper_for(tmp_path, store) as keeper:
        put(keeper, b"abc")
        keeper._to_tell = Groups()
        with interrupted(KeyboardInterrupt):
            keeper.sync()
        keeper.sync()
        assert keeper.fetch(locator_of(b"abc"), 0, 3) == b"abc"
    check_kept(tmp_path, store, [b"abc"])


def test_a_closed_keeper_takes_nothing(tmp_path: Path) -> None:
    with keeper_for(tmp_path, MemoryStore()) as keeper:
        keeper.close()
        with pytest.raises(BlockError, match="the keeper is closed"):
            put(keeper, b"late")
        for act in (keeper.renew, keeper.begin_naming):
            with pytest.raises(BlockError, match="the keeper is closed"):
                act()
    assert list(tmp_path.iterdir()) == []


def test_law_1_a_keeper_that_holds_no_pass_says_of_nothing_that_it_is_kept(tmp_path: Path) -> None:
    store = MemoryStore()
    with keeper_for(tmp_path, store) as closed:
        locator = put(closed, b"abc")
        closed.sync()
    for keeper, why in ((closed, "the keeper is closed"), (keeper_for(tmp_path, store), "the keeper is not entered")):
        for act in (keeper.sync, keeper.seal, lambda keeper=keeper: keeper.has(locator)):
            with pytest.raises(BlockError, match=why):
                act()


def test_what_only_condemned_contents_needed_is_not_found_to_be_named(tmp_path: Path) -> None:
    class Condemning(MemoryStore):
        def find_block_to_name(self, locator: Locator) -> None:
            return None

    store = Condemning()
    with keeper_for(tmp_path, store) as keeper:
        locator = put(keeper, b"abc")
        keeper.sync()
        assert keeper.fetch(locator, 0, 3) == b"abc"
        assert not keeper.has(locator)


def test_a_read_leaves_nothing_open_when_the_keeper_is_closed_before_it_or_amid_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = MemoryStore(), descriptors()
    reached, go_on, real_read = threading.Event(), threading.Event(), PackReader.read

    def read(reader: PackReader, place: BlockPlace, offset: int, length: int) -> memoryview:
        found = real_read(reader, place, offset, length)
        reached.set()
        assert go_on.wait(PATIENCE_S)
        return found

    with keeper_for(tmp_path, store) as keeper:
        locator = put(keeper, b"abc")
        keeper.sync()
        monkeypatch.setattr(PackReader, "read", read)
        reading = Thread(keeper.fetch, locator, 0, 3)
        assert reached.wait(PATIENCE_S)
    go_on.set()
    assert reading.join_result() == b"abc"
    with pytest.raises(BlockError, match="the keeper is closed"):
        keeper.fetch(locator, 0, 3)
    assert descriptors() == before


def test_closing_waits_for_the_sync_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its descriptor could be another file's by the time it is synced."""
    store, reached, go_on = MemoryStore(), threading.Event(), threading.Event()
    real_sync = durable.sync_file

    def sync(descriptor: int) -> None:
        reached.set()
        assert go_on.wait(PATIENCE_S)
        real_sync(descriptor)

    keeper = keeper_for(tmp_path, store).__enter__()
    put(keeper, b"abc")
    monkeypatch.setattr(durable, "sync_file", sync)
    syncing = Thread(keeper.sync)
    assert reached.wait(PATIENCE_S)
    closing = Thread(keeper.close)
    closing.join(0.05)
    assert closing.is_alive()
    go_on.set()
    syncing.join_result()
    closing.join_result()
    assert set(store.blocks) == {locator_of(b"abc")}
    check_kept(tmp_path, store, [b"abc"])


def fail_sync(keeper: PackKeeper, disk: FailingDisk) -> None:
    disk.fails = True
    with pytest.raises(OSError, match="no"):
        keeper.sync()
    disk.fails = False


def test_a_pack_that_a_failed_sync_has_left_counts_as_being_written_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector would have to adopt it else, for which it needs the vault, which is this process's."""
    monkeypatch.setattr("holdfast.blocks.buffered.packkeeper.LEFT_PACKS", 2)
    store, disk, before = MemoryStore(), FailingDisk(monkeypatch), descriptors()
    with keeper_for(tmp_path, store) as keeper:
        for number in range(4):
            put(keeper, noise(9, number))
            keeper.sync()
            put(keeper, noise(9, 10 + number))
            fail_sync(keeper, disk)
            assert has_left_packs(tmp_path, VAULT_ID, store) == (number >= 2)  # descriptors are bounded, too
    assert descriptors() == before
    assert has_left_packs(tmp_path, VAULT_ID, store)
    check_kept(tmp_path, store, [noise(9, number) for number in range(4)])


def test_a_pack_whose_sealing_failed_counts_as_being_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, disk = MemoryStore(), FailingDisk(monkeypatch)
    with keeper_for(tmp_path, store, pack_bytes=PIECE) as keeper:
        put(keeper, noise(PIECE))
        real_told = store.group_durable

        def told(group: DurableGroup) -> None:
            real_told(group)
            disk.fails = True

        store.group_durable = told  # type: ignore[method-assign]
        with pytest.raises(OSError, match="no"):
            keeper.sync()
        disk.fails = False
        assert not has_left_packs(tmp_path, VAULT_ID, store)
    check_kept(tmp_path, store, [noise(PIECE)])


def test_a_sealed_pack_that_the_sink_did_not_take_is_told_of_again(tmp_path: Path) -> None:
    store = MemoryStore()
    real_sealed = store.pack_sealed

    def refuse(*_: object) -> None:
        raise OSError("the catalog is busy")

    store.pack_sealed = refuse  # type: ignore[method-assign]
    with keeper_for(tmp_path, store, pack_bytes=PIECE) as keeper:
        put(keeper, noise(PIECE))
        with pytest.raises(OSError, match="busy"):
            keeper.sync()
        store.pack_sealed = real_sealed  # type: ignore[method-assign]
        keeper.sync()
        assert set(store.sealed) == set(store.packs)


def test_law_3_a_collector_waits_for_who_has_found_a_block_and_not_named_it_whatever_others_say(tmp_path: Path) -> None:
    """One has his segments and is about to name them; another one keeps house meanwhile."""
    store, fence = MemoryStore(), Fence(tmp_path / "fence")
    with keeper_for(tmp_path, store, fence=fence) as keeper:
        with BlockManager(keeper, pool=SlabPool(8 * PIECE)) as manager:
            content, other = manager.content("night.dat"), manager.content("other")
            content.write(b"abc")
            content.close()
            fence.raise_to(1)  # a collector has condemned what nobody names
            keeper.renew()
            other.write(b"abc")
            other.close()
            assert not fence.is_clear(1)
        keeper.renew()  # the manager has ended, its caller has not
        assert not fence.is_clear(1)
        content.named()
        assert fence.is_clear(1)  # the other one began after it
        fence.raise_to(2)
        assert not fence.is_clear(2)
        other.named()
        keeper.renew()
        assert fence.is_clear(2)
    fence.raise_to(3)
    assert fence.is_clear(3)


def test_law_3_a_content_that_began_under_a_fresh_pass_takes_over_nothing_that_was_found_before(tmp_path: Path) -> None:
    """Its equal one is on its way still, and was found in the store before it was condemned."""
    store, gate, looks = MemoryStore(), threading.Event(), list[int]()
    with keeper_for(tmp_path, store) as keeper:
        real_has, real_sync = keeper.has, keeper.sync

        def has(locator: Locator) -> bool:
            looks.append(keeper.look)
            return real_has(locator)

        def sync(epoch: int | None = None) -> None:
            assert gate.wait(PATIENCE_S)
            real_sync(epoch)

        keeper.has, keeper.sync = has, sync  # type: ignore[method-assign]
        with BlockManager(keeper, pool=SlabPool(40 * PIECE), workers=1) as manager:
            blocks = [manager.alloc(str(number)) for number in range(2)]
            for block in blocks:
                manager.append(block, b"abc")
                manager.commit(block)
            keeper.renew()
            blocks.append(manager.alloc("later"))
            manager.append(blocks[2], b"abc")
            manager.commit(blocks[2])
            gate.set()
            manager.commit_all()
        keeper.sync = real_sync  # type: ignore[method-assign]
        assert len(looks) == 2
        assert looks[1] == keeper.look
    check_kept(tmp_path, store, [b"abc"])


def test_passes_are_not_lost_when_several_threads_renew_them_and_name(tmp_path: Path) -> None:
    fence = Fence(tmp_path / "fence")
    with keeper_for(tmp_path, MemoryStore(), fence=fence) as keeper:
        before = descriptors()

        def work() -> None:
            for _ in range(50):
                naming = keeper.begin_naming()
                keeper.renew()
                naming.end()
                naming.end()

        for thread in [Thread(work) for _ in range(4)]:
            thread.join_result()
        assert descriptors() == before
    fence.raise_to(1)
    assert fence.is_clear(1)
