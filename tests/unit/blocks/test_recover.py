"""Adopting what a killed run left: all that is whole, nothing else, and nothing that was said is lost."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.blocks.kit import FENCE, VAULT_ID, MemoryStore, check_readable, keep, writer_for

from holdfast import durable
from holdfast.blocks import DurableGroup, StoredVersion, packfile, packformat, recover_packs
from holdfast.blocks import manifest as manifests
from holdfast.blocks.backends.memory import MemoryBackend, MemoryPack
from holdfast.blocks.packfile import PackWriter
from holdfast.blocks.packformat import RecordType
from holdfast.blocks.packs import Packs
from holdfast.blocks.recover import LeftPacks
from holdfast.errors import CapacityError, IntegrityError
from holdfast.testing import flip_bit
from holdfast.testing.backendfaults import BackendFault, FaultyBackend
from holdfast.values import Locator, VersionEnd

pytestmark = pytest.mark.timeout(60)


class Killed(Exception):
    pass


def write_left_pack(folder: Path, memory: MemoryStore) -> Path:
    """A pack as a killed run leaves it: groups with shared, own, and earlier blocks, and an end; not sealed."""
    try:
        with writer_for(folder, memory) as writer:
            first = keep(writer, b"small", b"abc" * 300)
            keep(writer, b"own", os.urandom(70_000))
            writer.barrier()
            keep(writer, b"known", b"abc" * 300)
            keep(writer, b"empty", b"")
            writer.barrier()
            writer.end(VersionEnd(first.id, 5))
            keep(writer, b"small", b"changed", seen_ns=5)
            writer.barrier()
            keep(writer, b"last", os.urandom(3000))
            writer.barrier()
            raise Killed
    except Killed:
        pass
    (path,) = folder.glob("*.pack")
    return path


def recover(folder: Path, memory: MemoryStore) -> int:
    return recover_packs(folder, vault_id=VAULT_ID, known=memory, sink=memory, fence=FENCE)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemoryStore]:
    memory = MemoryStore()
    return write_left_pack(tmp_path_factory.mktemp("left"), memory), memory


def whole_records(path: Path) -> tuple[dict[Locator, int], list[tuple[manifests.Manifest, int]]]:
    """Every block and manifest of a pack, each with the offset behind it."""
    blocks: dict[Locator, int] = {}
    named: list[tuple[manifests.Manifest, int]] = []
    with path.open("rb") as file:
        for record in packfile.scan_pack(file.fileno(), uuid.UUID(path.stem)):
            header = record.header
            end = header.table_offset + 8 * header.pieces
            if header.type is RecordType.BLOCK:
                blocks[record.place().locator] = end
            elif header.type is RecordType.MANIFEST:
                named.append((manifests.decode(packfile.read_payload(file.fileno(), header)), end))
    return blocks, named


def check_recovered(folder: Path, damaged: Path, known: MemoryStore) -> MemoryStore:
    """Recover twice, and compare with what the records say that are whole."""
    blocks, named = whole_records(damaged)

    def is_whole(stored: StoredVersion) -> bool:
        return all(s.locator in blocks or known.has_block(s.locator) for s in stored.segments)

    whole = [manifest for manifest, _ in named if all(map(is_whole, manifest.versions))]
    memory = copy.deepcopy(known)
    assert recover(folder, memory) == 1
    assert set(memory.blocks) == set(blocks) | set(known.blocks)
    versions = {stored.version.id for manifest, _ in named for stored in manifest.versions if is_whole(stored)}
    assert set(memory.versions) == versions | set(known.versions)
    ended = {end.version_id for manifest in whole for end in manifest.ends} | set(known.ends)
    assert set(memory.ends) == ended & set(memory.versions)
    before = copy.deepcopy(memory.facts())
    assert recover(folder, memory) == 0
    memory.sealed.clear()  # as if power was cut before the catalog heard of the seal
    recover(folder, memory)
    assert memory.facts() == before
    return memory


def test_law_6_every_whole_group_of_a_cut_off_pack_is_adopted_and_none_else(
    left: tuple[Path, MemoryStore], tmp_path: Path
) -> None:
    path, _ = left
    first_end = min(whole_records(path)[0].values())
    counts: set[int] = set()
    for size in range(packformat.SUPERBLOCK_BYTES, path.stat().st_size + 1, packformat.ALIGNMENT_BYTES):
        folder = tmp_path / str(size)
        folder.mkdir()
        cut = folder / path.name
        shutil.copyfile(path, cut)
        os.truncate(cut, size)
        if size < first_end:  # within the first record: nothing was ever whole
            memory = MemoryStore()
            assert recover(folder, memory) == 1
            assert memory.facts() == MemoryStore().facts()
            assert not cut.exists()
            continue
        memory = check_recovered(folder, cut, MemoryStore())
        check_readable(folder, memory)
        assert_sealed(cut, memory)
        counts.add(len(memory.versions))
        shutil.rmtree(folder)
    assert counts == {0, 2, 4, 5, 6}


def assert_sealed(path: Path, memory: MemoryStore) -> None:
    with path.open("rb") as file:
        footer = packfile.read_footer(file.fileno())
        assert footer is not None
        file.seek(footer.index_offset)
        head = file.read(packformat.HEADER_BYTES)
        header = packformat.decode_header(head, pack_id=footer.pack_id, offset=footer.index_offset)
        entries = list(packformat.decode_index(file.read(header.payload_bytes)))
    assert footer.records == len(entries)
    listed = {(entry.blake3, entry.offset_bytes) for entry in entries if entry.type is RecordType.BLOCK}
    assert listed >= {(p.locator.blake3, p.offset_bytes) for p in memory.blocks.values() if p.pack_id == footer.pack_id}
    assert memory.sealed[footer.pack_id] == path.stat().st_size


@given(st.data())
@settings(max_examples=60)
def test_law_6_groups_survive_any_damage_to_others(left: tuple[Path, MemoryStore], data: st.DataObject) -> None:
    path, _ = left
    size = path.stat().st_size
    cut = data.draw(st.none() | st.integers(0, size), label="cut at")
    holes = data.draw(
        st.lists(st.tuples(st.integers(0, size), st.integers(1, 90_000), st.sampled_from([b"\0", b"\xff"])), max_size=3)
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        damaged = folder / path.name
        content = bytearray(path.read_bytes())
        for start, length, filler in holes:
            content[start : start + length] = filler * len(content[start : start + length])
        damaged.write_bytes(content[:cut])
        blocks, named = whole_records(damaged)
        if blocks or named:
            memory = check_recovered(folder, damaged, MemoryStore())
            check_readable(folder, memory)
        else:
            recover(folder, MemoryStore())
            recover(folder, MemoryStore())


@pytest.mark.parametrize("told", [0, 1, 2, 3, 4])
def test_law_1_blocks_of_groups_that_were_said_never_disappear(
    left: tuple[Path, MemoryStore], tmp_path: Path, told: int
) -> None:
    """The catalog knew some groups when power was cut; the torn tail begins behind the last of them."""
    path, memory = left
    known = MemoryStore()
    for group in memory.groups[:told]:
        known.group_durable(group)
    end = memory.groups[told - 1].pack_bytes if told else packformat.SUPERBLOCK_BYTES
    behind = path.stat().st_size - end
    for torn in {0, behind // 2, behind}:
        folder = tmp_path / str(torn)
        folder.mkdir()
        shutil.copyfile(path, folder / path.name)
        os.truncate(folder / path.name, end + torn)
        after = copy.deepcopy(known)
        recover(folder, after)
        assert known.blocks.items() <= after.blocks.items()
        assert known.versions.items() <= after.versions.items()
        check_readable(folder, after)


def test_a_damaged_pack_is_not_thrown_away(left: tuple[Path, MemoryStore], tmp_path: Path) -> None:
    """Even when no record of it is whole: its bytes are somebody's, and nearly all there."""
    path, _ = left
    damaged = tmp_path / path.name
    content = bytearray(path.read_bytes())
    for start in range(packformat.SUPERBLOCK_BYTES + 128, len(content), packformat.ALIGNMENT_BYTES):
        content[start] ^= 1
    damaged.write_bytes(content)
    memory = MemoryStore()
    assert recover(tmp_path, memory) == 1
    assert damaged.read_bytes().startswith(content)
    assert memory.blocks == {}
    assert recover(tmp_path, memory) == 0


def test_a_torn_block_that_the_catalog_counts_on_is_not_thrown_away(tmp_path: Path) -> None:
    memory = MemoryStore()
    path = write_left_pack(tmp_path, memory)
    size = packformat.SUPERBLOCK_BYTES + 512
    os.truncate(path, size)
    recover(tmp_path, memory)
    assert path.stat().st_size > size


def test_a_torn_block_that_lies_whole_in_another_pack_is_removed(tmp_path: Path) -> None:
    """A repair was cut off: the block that it was about is known, but not in this pack."""
    memory = MemoryStore()
    with writer_for(tmp_path, memory) as writer:
        keep(writer, b"file", b"abc" * 20_000)
    (place,) = memory.blocks.values()
    torn = PackWriter(tmp_path, vault_id=VAULT_ID, pack_id=uuid.uuid4(), created_ns=1)
    torn.append(RecordType.BLOCK, place.locator.blake3, memoryview(b"abc" * 20_000))
    torn.close()
    os.truncate(torn.path, packformat.SUPERBLOCK_BYTES + 512)
    recover(tmp_path, memory)
    assert not torn.path.exists()
    check_readable(tmp_path, memory)


def test_a_pack_with_the_name_of_another_is_an_error_and_untouched(
    left: tuple[Path, MemoryStore], tmp_path: Path
) -> None:
    path, _ = left
    wrong = tmp_path / f"{uuid.uuid4()}.pack"
    shutil.copyfile(path, wrong)
    with pytest.raises(IntegrityError, match="the name of another pack") as caught:
        recover(tmp_path, MemoryStore())
    assert caught.value.found == path.stem
    assert wrong.read_bytes() == path.read_bytes()


def test_files_that_are_no_packs_are_left_alone(tmp_path: Path) -> None:
    names = ["notes.txt", "x.pack", f"{uuid.uuid4()}.pack.new", f"{uuid.uuid4().hex}.pack"]
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    assert recover(tmp_path, MemoryStore()) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_law_10_the_pack_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    memory, other = MemoryStore(), MemoryStore()
    with writer_for(tmp_path, memory) as writer:
        keep(writer, b"a", b"abc")
        writer.barrier()
        recover(tmp_path, other)
        keep(writer, b"b", b"def")
    assert other.facts() == MemoryStore().facts()
    check_readable(tmp_path, memory)
    assert len(memory.versions) == 2


def test_law_6_an_empty_catalog_is_filled_again_from_packs_in_any_order(tmp_path: Path) -> None:
    """Later packs name blocks of earlier ones, and end versions of earlier ones; the names of packs have no order."""
    for _ in range(4):  # the ids are random: so is the order in which the folder lists them
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        memory = MemoryStore()
        shared = os.urandom(70_000)
        for run in range(5):
            with writer_for(folder, memory) as writer:
                for stored in list(memory.versions.values()):
                    if stored.version.id not in memory.ends:
                        writer.end(VersionEnd(stored.version.id, run))
                keep(writer, b"file", shared, seen_ns=run)
                keep(writer, b"own%d" % run, b"%d" % run, seen_ns=run)
        again = MemoryStore()
        assert recover(folder, again) == 5
        assert again.facts() == memory.facts()


def test_a_clock_that_ran_backwards_loses_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStore()
    moments = iter([9000, 1000])
    monkeypatch.setattr("holdfast.blocks.store.time.time_ns", lambda: next(moments))
    with writer_for(tmp_path, memory) as writer:
        first = keep(writer, b"file", b"old")
    with writer_for(tmp_path, memory) as writer:
        writer.end(VersionEnd(first.id, 2))
        keep(writer, b"file", b"new")
    again = MemoryStore()
    recover(tmp_path, again)
    assert again.facts() == memory.facts()


def test_law_1_what_is_adopted_is_synced_first_and_read_from_the_disk(
    left: tuple[Path, MemoryStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(left[0], tmp_path / left[0].name)
    calls: list[str] = []
    real_sync, real_advise, real_scan = durable.sync_file, os.posix_fadvise, packfile.scan_pack
    monkeypatch.setattr(durable, "sync_file", lambda d: (calls.append("sync"), real_sync(d))[1])
    monkeypatch.setattr(durable, "sync_folder", lambda _: calls.append("folder"))
    monkeypatch.setattr(os, "posix_fadvise", lambda *a: (calls.append("drop"), real_advise(*a))[1])
    monkeypatch.setattr(packfile, "scan_pack", lambda *a: (calls.append("scan"), real_scan(*a))[1])

    class Sink(MemoryStore):
        def group_durable(self, group: DurableGroup) -> None:
            calls.append("told")
            super().group_durable(group)

    recover(tmp_path, Sink())
    assert calls[:5] == ["sync", "folder", "drop", "scan", "told"]
    assert calls.index("sync", 5) < len(calls)  # the seal


def test_a_full_disk_stops_the_recovery_and_it_goes_on_when_there_is_room(
    left: tuple[Path, MemoryStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reference = left
    shutil.copyfile(path, tmp_path / path.name)
    memory = MemoryStore()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_all", full)
        with pytest.raises(CapacityError) as caught:
            recover(tmp_path, memory)
    assert caught.value.place == str(tmp_path / path.name)
    assert recover(tmp_path, memory) == 1
    assert memory.versions == reference.versions
    check_readable(tmp_path, memory)


def test_a_manifest_that_is_whole_and_makes_no_sense_is_an_error(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path, vault_id=VAULT_ID, pack_id=uuid.uuid4(), created_ns=1)
    payload = b'{"is":"something new"}\n'
    writer.append(RecordType.MANIFEST, blake3(payload).digest(), memoryview(payload))
    writer.close()
    with pytest.raises(IntegrityError, match="damaged manifest"):
        recover(tmp_path, MemoryStore())
    assert writer.path.exists()


def test_law_8_a_pack_whose_begin_was_torn_says_again_what_it_is(
    left: tuple[Path, MemoryStore], tmp_path: Path
) -> None:
    """Power was cut before anything was synced, and pages reach the disk in any order. Elsewhere nobody else could tell."""
    path, _ = left
    copied = tmp_path / path.name
    shutil.copyfile(path, copied)
    with copied.open("r+b") as file:
        file.write(bytes(packformat.SUPERBLOCK_BYTES))
    os.utime(copied, ns=(17, 17))
    check_recovered(tmp_path, path, MemoryStore())
    with copied.open("rb") as file:
        said = packfile.read_superblock(file.fileno())
    assert said == packformat.Superblock(VAULT_ID, uuid.UUID(path.stem), 17)


def test_a_sealed_pack_whose_begin_has_rotted_says_again_what_it_is(
    left: tuple[Path, MemoryStore], tmp_path: Path
) -> None:
    path, _ = left
    copied = tmp_path / path.name
    shutil.copyfile(path, copied)
    recover(tmp_path, MemoryStore())
    before = copied.read_bytes()
    flip_bit(copied, 100)
    recover(tmp_path, MemoryStore())
    with copied.open("rb") as file:
        assert packfile.read_superblock(file.fileno()).vault_id == VAULT_ID
    assert copied.read_bytes()[packformat.SUPERBLOCK_BYTES :] == before[packformat.SUPERBLOCK_BYTES :]


def test_the_begin_of_a_pack_of_a_later_format_is_not_written_over(
    left: tuple[Path, MemoryStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = left
    copied = tmp_path / path.name
    shutil.copyfile(path, copied)
    with monkeypatch.context() as patch, copied.open("r+b") as file:
        patch.setattr(packformat, "PACK_FORMAT", packformat.PACK_FORMAT + 1)
        file.write(packformat.encode_superblock(packformat.Superblock(VAULT_ID, uuid.UUID(path.stem), 1)))
    before = copied.read_bytes()
    recover(tmp_path, MemoryStore())
    assert copied.read_bytes()[: packformat.SUPERBLOCK_BYTES] == before[: packformat.SUPERBLOCK_BYTES]


def test_packs_of_another_vault_are_left_alone(left: tuple[Path, MemoryStore], tmp_path: Path) -> None:
    path, _ = left
    copied = tmp_path / path.name
    shutil.copyfile(path, copied)
    before, memory, other = copied.read_bytes(), MemoryStore(), uuid.uuid4()
    assert recover_packs(tmp_path, vault_id=other, known=memory, sink=memory, fence=FENCE) == 0
    assert (copied.read_bytes(), memory.blocks) == (before, {})
    assert LeftPacks(tmp_path, other, memory, memory).foreign == [(copied, VAULT_ID)]


def test_a_footer_without_its_index_is_sealed_again(left: tuple[Path, MemoryStore], tmp_path: Path) -> None:
    """Power was cut amid the sealing: pages reach the disk in any order."""
    path, _ = left
    copied = tmp_path / path.name
    shutil.copyfile(path, copied)
    memory = MemoryStore()
    recover(tmp_path, memory)
    with copied.open("rb") as file:
        footer = packfile.read_footer(file.fileno())
    assert footer is not None
    with copied.open("r+b") as file:
        file.seek(footer.index_offset - 512)
        file.write(bytes(1024))
    memory = MemoryStore()
    recover(tmp_path, memory)
    assert_sealed(copied, memory)
    with copied.open("rb") as file:
        assert packfile.read_index(file.fileno(), uuid.UUID(copied.stem))


@pytest.mark.parametrize(
    ("where", "is_moved", "asked"),
    [("folder", False, 0), ("elsewhere", False, 1), ("nowhere", True, 1), ("out of reach", False, 1)],
)
def test_only_a_block_whose_pack_is_known_to_be_nowhere_is_read_from_where_it_was_found(
    tmp_path: Path, where: str, is_moved: bool, asked: int
) -> None:
    """A catalog from before a collection; the other place is asked for each missing pack once, however many blocks it had."""
    folder, memory, newer = tmp_path / "packs", MemoryStore(), MemoryStore()
    folder.mkdir()
    for store in (memory, newer):
        with writer_for(folder, store) as writer:
            keep(writer, b"one", b"1" * 70_000)
            keep(writer, b"other", b"2" * 70_000)
    old_id = next(iter(memory.sealed))
    faulty = FaultyBackend(MemoryBackend(), *([BackendFault("open", count=None)] if where == "out of reach" else []))
    old = folder / f"{old_id}.pack"
    if where == "elsewhere":
        faulty.inner.put(old_id, MemoryPack(old.read_bytes()), lambda _: None)
    if where != "folder":
        old.unlink()
    before = dict(memory.blocks)
    assert recover_packs(Packs(folder, lambda: faulty), vault_id=VAULT_ID, known=memory, sink=memory, fence=FENCE) == 1
    assert memory.blocks == (newer.blocks if is_moved else before)
    assert faulty.calls["open"] == asked


def test_the_other_place_is_not_asked_at_the_usual_start_of_a_run(
    left: tuple[Path, MemoryStore], tmp_path: Path
) -> None:
    path, _ = left
    shutil.copyfile(path, tmp_path / path.name)
    memory, faulty = MemoryStore(), FaultyBackend(MemoryBackend())
    assert (
        recover_packs(Packs(tmp_path, lambda: faulty), vault_id=VAULT_ID, known=memory, sink=memory, fence=FENCE) == 1
    )
    assert not any(faulty.calls.values())
