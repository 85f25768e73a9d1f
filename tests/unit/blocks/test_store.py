"""Keeping contents and giving them back: what is said is durable, what fails is heard of, nothing hangs."""

from __future__ import annotations

import errno
import gc
import os
import threading
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.blocks.kit import (
    BLOCK_BYTES,
    FENCE,
    SIGHTING,
    SOURCE,
    MemoryStore,
    check_readable,
    keep,
    keep_large,
    read_back,
    version_of,
    writer_for,
)

from holdfast import durable
from holdfast.blocks import BlockReader, DurableGroup, store
from holdfast.blocks import manifest as manifests
from holdfast.blocks.packfile import PackWriter
from holdfast.blocks.packformat import RecordType
from holdfast.errors import CapacityError, IntegrityError
from holdfast.values import Segment, VersionEnd

pytestmark = pytest.mark.timeout(30)


def pattern(seed: int, size: int) -> bytes:
    return (seed.to_bytes(8, "little") * (size // 8 + 1))[:size]


# -- what goes in comes out

contents = st.builds(
    pattern,
    st.integers(0, 12),
    st.sampled_from(
        [0, 1, 7, 500, 9_000, BLOCK_BYTES // 4, BLOCK_BYTES // 4 + 1, BLOCK_BYTES, BLOCK_BYTES + 1, 300_000]
    ),
)
steps = st.lists(st.one_of(contents, st.sampled_from(["commit", "barrier", "end", "reopen"])), max_size=25)


@given(steps, st.sampled_from([BLOCK_BYTES, 2**30]))
@settings(max_examples=60)
def test_any_contents_read_back_and_are_stored_once(steps: list[bytes | str], pack_bytes: int) -> None:
    memory = MemoryStore()
    wanted: dict[uuid.UUID, bytes] = {}
    ends: set[uuid.UUID] = set()
    with TemporaryDirectory() as name:
        folder = Path(name)
        writer = writer_for(folder, memory, pack_bytes=pack_bytes).__enter__()
        for number, step in enumerate(steps):
            if isinstance(step, bytes):
                wanted[keep(writer, b"file%d" % number, step).id] = step
            elif step == "commit":
                writer.commit()
            elif step == "barrier":
                writer.barrier()
                assert set(memory.versions) == set(wanted)
            elif step == "end" and wanted:
                ended = next(iter(wanted))
                ends.add(ended)
                writer.end(VersionEnd(ended, number))
            elif step == "reopen":
                writer.__exit__(None, None, None)
                writer = writer_for(folder, memory, pack_bytes=pack_bytes).__enter__()
        writer.__exit__(None, None, None)
        assert set(memory.versions) == set(wanted)
        assert set(memory.ends) == ends
        for version_id, data in wanted.items():
            assert read_back(folder, memory, memory.versions[version_id]) == data
        assert set(memory.packs) == set(memory.sealed) == {uuid.UUID(path.stem) for path in folder.iterdir()}
        check_stored_once(folder, memory, wanted)


def check_stored_once(folder: Path, memory: MemoryStore, wanted: dict[uuid.UUID, bytes]) -> None:
    """No content lies in two places, and no block in two."""
    places: dict[bytes, set[tuple[Segment, ...]]] = {}
    for version_id, data in wanted.items():
        places.setdefault(data, set()).add(memory.versions[version_id].segments)
    assert all(len(found) == 1 for found in places.values())
    told = [place.locator for group in memory.groups for place in group.blocks]
    assert len(told) == len(set(told))


def test_identical_large_contents_share_blocks_within_and_between_groups(tmp_path: Path) -> None:
    memory = MemoryStore()
    data = os.urandom(5 * BLOCK_BYTES + 100)
    with writer_for(tmp_path, memory) as writer:
        keep(writer, b"first", data)
        keep(writer, b"second", data)
        writer.barrier()
        keep(writer, b"third", data)
    assert len(memory.blocks) == 6
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < len(data) + 20_000


def test_a_content_found_while_its_group_is_on_its_way_is_named_by_both(tmp_path: Path) -> None:
    memory = MemoryStore()
    with writer_for(tmp_path, memory) as writer:
        first = keep(writer, b"first", b"same")
        writer.commit()
        second = keep(writer, b"second", b"same")
    assert memory.versions[first.id].segments == memory.versions[second.id].segments
    check_readable(tmp_path, memory)


# -- the order of a group


class Recording(MemoryStore):
    """Notes the order of appends, syncs and tellings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.calls: list[str] = []
        real_append, real_sync = PackWriter.append, durable.sync_file

        def append(writer: PackWriter, kind: RecordType, digest: bytes, payload: memoryview) -> int:
            if kind is RecordType.MANIFEST:
                named = {s.locator for v in manifests.decode(bytes(payload)).versions for s in v.segments}
                assert {locator.blake3 for locator in named} <= self.synced, "law 3: a block that is not durable yet"
            else:
                self.appended.add(digest)
            self.calls.append(kind.name.lower())
            return real_append(writer, kind, digest, payload)

        def sync(descriptor: int) -> None:
            real_sync(descriptor)
            self.synced |= self.appended
            self.calls.append("sync")

        self.appended: set[bytes] = set()
        self.synced: set[bytes] = set()
        monkeypatch.setattr(PackWriter, "append", append)
        monkeypatch.setattr(durable, "sync_file", sync)

    def group_durable(self, group: DurableGroup) -> None:
        assert {place.locator.blake3 for place in group.blocks} <= self.synced, "law 1"
        self.calls.append("told")
        super().group_durable(group)

    def pack_sealed(self, pack_id: uuid.UUID, pack_bytes: int, block_bytes: int) -> None:
        assert self.calls[-1] == "sync"
        self.calls.append("sealed")
        super().pack_sealed(pack_id, pack_bytes, block_bytes)


def test_law_3_manifest_names_only_durable_blocks_and_law_1_durable_before_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(monkeypatch)
    with writer_for(tmp_path, recording) as writer:
        keep(writer, b"small", b"abc")
        keep(writer, b"large", os.urandom(100_000))
        writer.barrier()
        keep(writer, b"known", b"abc")  # nothing new but a name
        writer.barrier()
    blocks = ["block", "block", "block"]
    assert recording.calls == [
        *blocks,
        "sync",
        "manifest",
        "sync",
        "told",
        "manifest",
        "sync",
        "told",
        "sync",
        "sealed",
    ]


def test_law_3_holds_when_packs_end_amid_a_large_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(monkeypatch)
    data = os.urandom(10 * BLOCK_BYTES)
    with writer_for(tmp_path, recording, pack_bytes=3 * BLOCK_BYTES) as writer:
        keep(writer, b"large", data)
        keep(writer, b"small", b"small")
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 4
    assert max(sizes) < 4 * BLOCK_BYTES
    check_readable(tmp_path, recording)
    assert len(recording.versions) == 2


def test_an_end_and_the_version_that_replaces_it_are_in_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GROUP_VERSIONS", 3)
    memory = MemoryStore()
    with writer_for(tmp_path, memory) as writer:
        old = [keep(writer, b"f%d" % number, b"old%d" % number) for number in range(5)]
        for number, version in enumerate(old):
            writer.end(VersionEnd(version.id, 9))
            keep(writer, b"f%d" % number, b"new%d" % number)
    assert len(memory.groups) > 3
    for group in memory.groups:
        paths = {old.index(memory.versions[end.version_id].version) for end in group.manifest.ends}
        new = {int(stored.version.path[1:]) for stored in group.manifest.versions if stored.version not in old}
        assert paths == new


# -- mistakes of the caller


def test_wrong_use_is_refused_before_it_costs_bytes(tmp_path: Path) -> None:
    memory = MemoryStore()
    with writer_for(tmp_path, memory) as writer:
        with pytest.raises(ValueError, match="not a small content"):
            writer.small_room(writer.small_limit_bytes + 1)
        with pytest.raises(ValueError, match="no room was given"):
            writer.keep_small(5)
        room = writer.small_room(10)
        room[:10] = b"0123456789"
        with pytest.raises(ValueError, match="no room was given"):
            writer.keep_small(BLOCK_BYTES + 1)
        assert writer.keep_small(0) == ()
        pieces = writer.keep_small(10)
        for data in (b"012345678", b"0123456789a"):
            with pytest.raises(ValueError, match="10 bytes were kept"):
                writer.add(SOURCE, version_of(b"a", data), SIGHTING, pieces=pieces)
        large = writer.large()
        with pytest.raises(ValueError, match="no room was given"):
            large.filled(1)
    assert not memory.versions


def test_law_7_an_abandoned_large_content_gives_no_pieces(tmp_path: Path) -> None:
    memory = MemoryStore()
    with writer_for(tmp_path, memory) as writer:
        for _ in range(3 * store.BUFFER_COUNT):  # each would keep a buffer, and the next would wait for ever
            large = writer.large()
            large.room()[:10] = b"x" * 10
            large.filled(10)
        other = writer.large()
        for use in (large.room, large.finish, lambda: large.filled(1)):
            with pytest.raises(RuntimeError, match="abandoned"):
                use()
        other.abandon()
        other.abandon()
        keep(writer, b"after", os.urandom(3 * BLOCK_BYTES))
    check_readable(tmp_path, memory)
    assert len(memory.versions) == 1


def test_full_blocks_of_an_abandoned_content_are_named_by_nothing_and_found_again(tmp_path: Path) -> None:
    memory = MemoryStore()
    data = os.urandom(4 * BLOCK_BYTES)
    with writer_for(tmp_path, memory) as writer:
        large = writer.large()
        for start in range(0, 2 * BLOCK_BYTES, BLOCK_BYTES):
            large.room()[:] = data[start : start + BLOCK_BYTES]
            large.filled(BLOCK_BYTES)
        large.room()[:5] = b"part "
        large.filled(5)
        large.abandon()
        version = keep(writer, b"again", data)
    assert read_back(tmp_path, memory, memory.versions[version.id]) == data
    assert len(memory.blocks) == 4


# -- what fails


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, count: int, number: int) -> list[int]:
    """Let the `count`th call of `owner.name` and all later ones fail; returns a list that counts the calls."""
    real: Callable[..., object] = getattr(owner, name)
    calls = [0]

    def failing(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] >= count:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, failing)
    return calls


def keep_much(folder: Path, memory: MemoryStore) -> None:
    with writer_for(folder, memory, pack_bytes=6 * BLOCK_BYTES) as writer:
        for number in range(12):
            keep(writer, b"small%d" % number, b"%d" % number * 3000)
            keep(writer, b"large%d" % number, os.urandom(2 * BLOCK_BYTES + 17))
            if number % 3 == 2:
                writer.commit()


@pytest.mark.parametrize(
    "owner", [(os, "writev"), (durable, "sync_file"), (durable, "create_file")], ids=lambda o: o[1]
)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10, 11, 20])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_law_1_a_failing_disk_is_heard_of_and_nothing_untrue_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: tuple[object, str], count: int, number: int
) -> None:
    memory = MemoryStore()
    heard: BaseException | None = None
    with monkeypatch.context() as patch:
        calls = fail_at(patch, *owner, count, number)
        try:
            keep_much(tmp_path, memory)
        except (CapacityError, OSError) as error:
            heard = error
    assert (heard is not None) == (calls[0] >= count)
    if heard is not None and owner[1] != "create_file":
        assert isinstance(heard, CapacityError) == (number == errno.ENOSPC)
    check_readable(tmp_path, memory)
    assert not [thread for thread in threading.enumerate() if thread.name == "store-writer"]
    assert not open_packs()


def test_a_writer_that_cannot_begin_holds_no_collector_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    generation = FENCE.newest() + 1
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            writer_for(tmp_path, MemoryStore()).__enter__()
    FENCE.raise_to(generation)
    assert FENCE.is_clear(generation)


def open_packs() -> list[str]:
    links: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass
    return [link for link in links if link.endswith(".pack")]


class FailingSink(MemoryStore):
    def __init__(self, fail_after: int) -> None:
        super().__init__()
        self.fail_after = fail_after

    def group_durable(self, group: DurableGroup) -> None:
        if len(self.groups) >= self.fail_after:
            raise CapacityError("no room for the catalog")
        super().group_durable(group)


@pytest.mark.parametrize("fail_after", [0, 1, 2])
def test_a_failing_catalog_is_heard_of_and_no_later_group_is_told(tmp_path: Path, fail_after: int) -> None:
    memory = FailingSink(fail_after)
    with pytest.raises(CapacityError, match="no room for the catalog"):
        keep_much(tmp_path, memory)
    assert len(memory.groups) == fail_after
    check_readable(tmp_path, memory)


def test_after_a_failure_the_front_neither_waits_nor_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStore()
    writer = writer_for(tmp_path, memory).__enter__()
    with monkeypatch.context() as patch:
        fail_at(patch, os, "writev", 1, errno.ENOSPC)
        writer.add(SOURCE, version_of(b"a", b"abc"), SIGHTING, pieces=_small(writer, b"abc"))
        with pytest.raises(CapacityError):
            writer.barrier()
    for _ in range(3 * store.BUFFER_COUNT):  # the disk has room again, and still nothing more is taken
        with pytest.raises(CapacityError):
            writer.barrier()
        with pytest.raises(CapacityError):
            writer.small_room(10)
        with pytest.raises(CapacityError):
            keep_large(writer, os.urandom(5 * BLOCK_BYTES))
    with pytest.raises(CapacityError):
        writer.__exit__(None, None, None)
    assert memory.groups == []
    assert memory.sealed == {}


def _small(writer: store.StoreWriter, data: bytes) -> store.Pieces:
    writer.small_room(len(data))[: len(data)] = data
    return writer.keep_small(len(data))


def test_every_buffer_comes_back_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStore()
    writer = writer_for(tmp_path, memory).__enter__()
    pool = writer._pool  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(durable, "create_file", _no_space)
    large = writer.large()

    def fill() -> None:
        for _ in range(100):
            room = large.room()
            room[:] = os.urandom(len(room))
            large.filled(len(room))

    with pytest.raises(OSError, match="No space"):
        fill()
    large.abandon()
    with pytest.raises(OSError, match="No space"):
        writer.__exit__(None, None, None)
    buffers = [pool.take() for _ in range(store.BUFFER_COUNT)]
    assert len(set(map(id, buffers))) == store.BUFFER_COUNT


def _no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_leaving_with_an_exception_keeps_what_was_told_and_adds_nothing(tmp_path: Path) -> None:
    memory = MemoryStore()

    def leave() -> None:
        with writer_for(tmp_path, memory) as writer:
            keep(writer, b"told", b"told")
            writer.barrier()
            keep(writer, b"not told", b"not told")
            keep(writer, b"large", os.urandom(200_000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert [stored.version.path for stored in memory.versions.values()] == [b"told"]
    assert memory.sealed == {}
    assert not open_packs()
    check_readable(tmp_path, memory)


# -- memory


def test_law_9_versions_waiting_for_a_slow_catalog_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "GROUP_VERSIONS", 10)
    added, most = [0], [0]

    class Slow(MemoryStore):
        """Takes the first group only when the front can hand over nothing more, or is done."""

        def group_durable(self, group: DurableGroup) -> None:
            queue = writer._back._work  # pyright: ignore[reportPrivateUsage]
            while not self.versions and not queue.full() and added[0] < 500:
                os.sched_yield()
            most[0] = max(most[0], added[0] - len(self.versions))
            super().group_durable(group)

    memory = Slow()
    with writer_for(tmp_path, memory) as writer:
        for number in range(500):
            writer.add(SOURCE, version_of(b"e%d" % number, b""), SIGHTING)
            added[0] = number + 1
    assert len(memory.versions) == 500
    assert 10 * store.BUFFER_COUNT <= most[0] <= 10 * (store.BUFFER_COUNT + 2)


def test_law_9_memory_does_not_grow_with_the_contents_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "GROUP_VERSIONS", 64)

    class Forgetful(MemoryStore):
        """A sink that keeps nothing, so that only the writer's own memory is seen."""

        def group_durable(self, group: DurableGroup) -> None: ...

    with writer_for(tmp_path, Forgetful()) as writer:

        def keep_some(start: int) -> int:
            for number in range(start, start + 1000):
                keep(writer, b"f%d" % number, b"%d" % number)
            writer.barrier()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            keep_some(0)
            before = keep_some(1000)
            after = keep_some(2000)
        finally:
            tracemalloc.stop()
    assert after - before < 100_000


# -- reading


def test_law_7_bad_bytes_never_pass_a_reader(tmp_path: Path) -> None:
    memory = MemoryStore()
    data = os.urandom(3 * BLOCK_BYTES)
    with writer_for(tmp_path, memory) as writer:
        version = keep(writer, b"file", data)
    segments = memory.versions[version.id].segments
    place = memory.blocks[segments[1].locator]
    path = next(tmp_path.iterdir())
    with path.open("r+b") as file:
        file.seek(place.offset_bytes + 128 + 1000)
        file.write(b"\0\0\0\0")
    given_out = bytearray()

    def read_all() -> None:
        with BlockReader(tmp_path, memory) as reader:
            for piece in reader.read(segments):
                given_out.extend(piece)

    with pytest.raises(IntegrityError, match="damaged bytes") as caught:
        read_all()
    assert str(place.locator) in str(caught.value)
    assert bytes(given_out) == data[:BLOCK_BYTES]


def test_a_block_that_the_index_lost_is_an_error_by_name(tmp_path: Path) -> None:
    memory = MemoryStore()
    with writer_for(tmp_path, memory) as writer:
        version = keep(writer, b"file", b"data")
    segments = memory.versions[version.id].segments
    memory.blocks.clear()
    with BlockReader(tmp_path, memory) as reader, pytest.raises(IntegrityError, match="missing from the store"):
        list(reader.read(segments))
