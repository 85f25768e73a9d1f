"""What a place of packs must not do to a vault: older catalogs, disks that are not mounted, others on the same shelf."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL, Archive
from tests.acceptance.stores import digests, use_store

from holdfast import durable, moving
from holdfast.blocks.backends import HeldPack, OpenPack, Progress
from holdfast.blocks.backends.posix import PosixBackend
from holdfast.blocks.packs import Packs
from holdfast.catalog import files, packs
from holdfast.cli.app import run
from holdfast.collecting import CollectRequest, collect
from holdfast.config import init_vault
from holdfast.doctoring import examine, repair
from holdfast.errors import EXIT_DONE, BackendError, VaultError
from holdfast.journey import ArchiveRequest, archive
from holdfast.releasing import ReleaseRequest, release
from holdfast.reports import Silent, Stage
from holdfast.restoring import RestoreRequest, restore
from holdfast.scrubbing import ScrubRequest, scrub
from holdfast.testing import flip_bit
from holdfast.testing.backendfaults import BackendFault, FaultyBackend
from holdfast.vault import opened

EVERYTHING = CollectRequest(everything=True)


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """Virtual cartridges prove here, and are not written before so much is staged, unless it is asked for."""
    folder = tmp_path / "vault"
    init_vault(folder, SMALL)
    settings = folder / "holdfast.toml"
    text = settings.read_text().replace("as_proof = false", "as_proof = true")
    settings.write_text(re.sub("^start_at = .*$", 'start_at = "30 MiB"', text, flags=re.MULTILINE))
    return folder


@pytest.fixture
def shelf(vault: Path, tmp_path: Path) -> Path:
    """The other place of the vault's packs."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    use_store(vault, folder.as_uri())
    return folder


class Older:
    """Catalog and journals as they were, to be put back."""

    def __init__(self, vault: Path, folder: Path) -> None:
        self._vault = vault
        self._folder = folder

    def save(self) -> None:
        for room in ("catalog", "journals"):
            shutil.copytree(self._vault / room, self._folder / room)

    def put_back(self) -> None:
        for room in ("catalog", "journals"):
            shutil.rmtree(self._vault / room)
            shutil.copytree(self._folder / room, self._vault / room)


@pytest.fixture
def older(vault: Path, tmp_path: Path) -> Older:
    return Older(vault, tmp_path / "older")


def night_of(tmp_path: Path, name: str, data: bytes | None = None) -> Path:
    night = tmp_path / name
    night.mkdir()
    (night / "large").write_bytes(os.urandom(700_000) if data is None else data)
    return night


def comes_back(vault: Path, to: Path, *patterns: str) -> bool:
    report = restore(vault, RestoreRequest(to=to, patterns=patterns, origin="store"))
    return (report.exit_code(), report.errors) == (EXIT_DONE, [])


def further(tmp_path: Path) -> Path:
    folder = tmp_path / "further"
    folder.mkdir()
    return folder


# -- a catalog that was put back from an older copy


def test_law_1_a_collection_asks_for_what_an_older_catalog_does_not_know(
    vault: Path, shelf: Path, archived: Archive, older: Older, tmp_path: Path
) -> None:
    """Only packs there say that what was released once is needed again; and it is on no tape."""
    data = os.urandom(700_000)
    assert archived(night_of(tmp_path, "first", data), now=True).exit_code() == EXIT_DONE
    assert release(vault, ReleaseRequest(patterns=("first",))).contents
    older.save()
    grown = night_of(tmp_path, "second", data + os.urandom(300_000))
    assert not archived(grown).errors
    assert moving.push(vault).packs == 1
    older.put_back()

    report = collect(vault, EVERYTHING)
    assert [type(error) for error in report.errors] == [VaultError]
    assert "doctor --repair" in str(report.errors[0])
    assert (report.packs, report.collected) == (0, 0)
    repair(vault)
    assert collect(vault, EVERYTHING).errors == []
    assert comes_back(vault, tmp_path / "back", "second")
    assert (tmp_path / "back/second/large").read_bytes() == (grown / "large").read_bytes()
    assert digests(shelf)


def test_a_copy_is_not_done_while_the_catalog_lacks_packs(
    vault: Path, shelf: Path, archived: Archive, older: Older, tmp_path: Path
) -> None:
    archived(night_of(tmp_path, "one"), now=True)
    older.save()
    archived(night_of(tmp_path, "two"))
    moving.push(vault)
    older.put_back()
    to = further(tmp_path)
    assert run(["store", "copy", "--to", to.as_uri(), "--vault", str(vault)]) != EXIT_DONE
    repair(vault)
    assert run(["store", "copy", "--to", to.as_uri(), "--vault", str(vault)]) == EXIT_DONE
    assert digests(to) == digests(shelf)


def test_a_repair_counts_on_no_pack_that_the_catalog_does_not_know(
    vault: Path, shelf: Path, archived: Archive, older: Older, tmp_path: Path
) -> None:
    """The bytes are good, so they are taken from there; but nobody would ever copy or collect that pack."""
    archived(night_of(tmp_path, "night"), now=True)
    older.save()
    name = max(digests(shelf))
    flip_bit(shelf / name, first_offset(vault, name) + 5000)
    assert scrub(vault, ScrubRequest()).repaired_blocks == 1
    assert moving.push(vault).packs == 1
    (tmp_path / "night/large").unlink()
    older.put_back()

    report = scrub(vault, ScrubRequest())
    assert (report.repaired_blocks, report.errors) == (1, [])
    with opened(vault) as held, held.catalog.reading() as connection:
        assert packs.known_packs(connection).keys() == packs.settled_packs(connection)
    assert comes_back(vault, tmp_path / "back", "night")


def first_offset(vault: Path, pack: str) -> int:
    with opened(vault) as held, held.catalog.reading() as connection:
        return packs.blocks_of_pack(connection, uuid.UUID(Path(pack).stem))[0].offset_bytes


def test_a_repair_of_the_catalog_that_was_cut_off_is_not_taken_for_done(
    vault: Path, shelf: Path, archived: Archive, older: Older, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(night_of(tmp_path, "one"), now=True)
    older.save()
    archived(night_of(tmp_path, "two"), now=True)
    older.put_back()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.vault._settle_held", killed)
        with pytest.raises(KeyboardInterrupt):
            repair(vault)
    to = further(tmp_path)
    assert moving.copy(vault, to.as_uri()).errors
    repair(vault)
    assert moving.copy(vault, to.as_uri()).errors == []
    assert digests(to) == digests(shelf)


# -- a copy beside others


class Beside(Silent):
    """Something happens when the first stage begins."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def stage(self, name: str, total: int) -> Stage:
        act, self._act = self._act, None
        if act is not None:
            act()
        return super().stage(name, total)


def test_what_is_archived_and_moved_while_a_copy_runs_is_copied_too(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path
) -> None:
    """Whoever was told that all is copied may delete the old place."""
    archived(night_of(tmp_path, "one"), now=True)
    night, to = night_of(tmp_path, "two"), further(tmp_path)
    report = moving.copy(vault, to.as_uri(), None, Beside(lambda: archived(night, now=True)))
    assert (report.exit_code(), digests(vault / "packs")) == (EXIT_DONE, {})
    assert digests(to) == digests(shelf)
    assert len(digests(to)) > 1


class _Flipped:
    """A pack of which one bit is read wrongly, once."""

    def __init__(self, inner: OpenPack) -> None:
        self._inner: OpenPack = inner
        self._is_due = True
        self.place, self.size_bytes = inner.place, inner.size_bytes

    def read_into(self, buffer: memoryview, offset: int) -> int:
        got_bytes = self._inner.read_into(buffer, offset)
        if self._is_due:
            buffer[got_bytes // 2] ^= 1
            self._is_due = False
        return got_bytes

    def forget(self) -> bool:
        return self._inner.forget()

    def close(self) -> None:
        self._inner.close()


def test_law_1_a_copy_takes_nothing_away_that_a_move_has_counted_on(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the very place of the settings: what the copy takes for its own has been found good by the move beside it."""
    use_store(vault, "")
    archived(night_of(tmp_path, "one"))
    use_store(vault, shelf.as_uri())
    before = digests(vault / "packs")
    real_open, real_put, seen = Packs.open, PosixBackend.put, list[str]()

    def open_pack(self: Packs, pack_id: uuid.UUID) -> OpenPack:
        seen.append("open")
        pack = real_open(self, pack_id)
        return _Flipped(pack) if len(seen) == 1 else pack

    def put(self: PosixBackend, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> bool:
        was_sent = real_put(self, pack_id, source, progress)
        if was_sent and "put" not in seen:
            seen.append("put")
            moving.push(vault)
        return was_sent

    with monkeypatch.context() as patch:
        patch.setattr(Packs, "open", open_pack)
        patch.setattr(PosixBackend, "put", put)
        assert moving.copy(vault, shelf.as_uri()).errors
    assert before
    assert digests(vault / "packs") | digests(shelf) == before


def test_what_was_proven_of_one_disk_is_not_believed_of_another_at_the_same_place(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path
) -> None:
    use_store(vault, "")
    archived(night_of(tmp_path, "one"))
    assert moving.copy(vault, shelf.as_uri()).exit_code() == EXIT_DONE
    report = moving.copy(vault, shelf.as_uri())
    assert (report.exit_code(), report.sent) == (EXIT_DONE, 0)
    shelf.rename(tmp_path / "disk-1")
    shelf.mkdir()
    for path in (tmp_path / "disk-1").glob("*.pack"):
        shutil.copy(path, shelf)
        flip_bit(shelf / path.name, 30_000)
    assert moving.copy(vault, shelf.as_uri()).exit_code() != EXIT_DONE


# -- a place that is not what it was


def test_a_shelf_that_is_not_mounted_takes_no_packs(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path
) -> None:
    """They would be hidden as soon as it is."""
    assert archived(night_of(tmp_path, "one"), now=True).exit_code() == EXIT_DONE
    shelf.rename(tmp_path / "away")
    shelf.mkdir()
    report = archived(night_of(tmp_path, "two"), now=True)
    assert report.exit_code() != EXIT_DONE
    assert (digests(shelf), len(digests(vault / "packs"))) == ({}, 1)
    shelf.rmdir()
    (tmp_path / "away").rename(shelf)
    assert moving.push(vault).packs == 1
    assert comes_back(vault, tmp_path / "back", "two")


@pytest.mark.parametrize("is_mounted", [True, False])
def test_law_1_a_repair_without_the_shelf_forgets_no_place(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path, is_mounted: bool
) -> None:
    """A content that was stored again after its release, and a manifest of before it that lies in the folder."""
    same = os.urandom(200_000)
    one = night_of(tmp_path, "one", os.urandom(250_000))
    (one / "a").write_bytes(same)
    (one / "b").write_bytes(os.urandom(250_000))
    assert archived(one, now=True).exit_code() == EXIT_DONE
    release(vault, ReleaseRequest(patterns=("one/a",)))
    collect(vault, CollectRequest())
    assert archived(night_of(tmp_path, "two", same), now=True).exit_code() == EXIT_DONE
    release(vault, ReleaseRequest(patterns=("one/b",)))
    collect(vault, EVERYTHING)
    assert in_store(vault, "two/large")
    assert digests(vault / "packs")
    if not is_mounted:
        shelf.rename(tmp_path / "away")
        shelf.mkdir()
    repair(vault)
    if not is_mounted:
        shelf.rmdir()
        (tmp_path / "away").rename(shelf)
    assert examine(vault).errors == []
    collect(vault, EVERYTHING)
    assert in_store(vault, "two/large")
    assert comes_back(vault, tmp_path / "back", "two")


def in_store(vault: Path, name: str) -> bool:
    with opened(vault) as held:
        with held.catalog.reading() as connection:
            versions = [item.version for item in files.all_versions(connection)]
        contents = [item.content for item in versions if item.full_path.decode() == name]
        return all(content is not None and held.catalog.find_segments(content) for content in contents)


def test_a_place_that_says_it_removed_a_pack_is_asked(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(night_of(tmp_path, "one"), now=True)
    release(vault, ReleaseRequest(patterns=("one",)))
    liar = FaultyBackend(PosixBackend(shelf), BackendFault("remove", "lie", count=None))
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.vault.open_backend", lambda *_: liar)
        with pytest.raises(BackendError, match="still there"):
            collect(vault, EVERYTHING)
    assert collect(vault, EVERYTHING).packs == 1
    assert all(row.known for row in moving.list_packs(vault))


def test_an_empty_mount_point_does_not_stand_for_packs_that_were_removed(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(night_of(tmp_path, "one"), now=True)
    archived(night_of(tmp_path, "two"), now=True)
    release(vault, ReleaseRequest(patterns=("one",)))
    away = FaultyBackend(PosixBackend(shelf), BackendFault("remove", count=None))
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.vault.open_backend", lambda *_: away)
        with pytest.raises(BackendError):
            collect(vault, EVERYTHING)
    shelf.rename(tmp_path / "away")
    shelf.mkdir()
    with pytest.raises(VaultError, match="none of the packs"):
        collect(vault, EVERYTHING)
    shelf.rmdir()
    (tmp_path / "away").rename(shelf)
    assert collect(vault, EVERYTHING).packs == 1
    assert all(row.known for row in moving.list_packs(vault))


class _Vanishing:
    """An object store: what is removed while it is read is gone at once, as no descriptor holds it."""

    def __init__(self, inner: PosixBackend, act: Callable[[], object]) -> None:
        self.url = inner.url
        self.inner = inner
        self._act: Callable[[], object] | None = act
        self.packs, self.held, self.put, self.remove = inner.packs, inner.held, inner.put, inner.remove

    def open(self, pack_id: uuid.UUID) -> OpenPack | None:
        pack = self.inner.open(pack_id)
        return None if pack is None else _VanishingPack(self, pack_id, pack)

    def is_there(self, pack_id: uuid.UUID) -> HeldPack | None:
        act, self._act = self._act, None
        if act is not None:
            act()
        return self.inner.held(pack_id)


class _VanishingPack:
    def __init__(self, backend: _Vanishing, pack_id: uuid.UUID, inner: OpenPack) -> None:
        self._backend, self._pack_id, self._inner = backend, pack_id, inner
        self.place, self.size_bytes = inner.place, inner.size_bytes

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return self._inner.read_into(buffer, offset) if self._backend.is_there(self._pack_id) else 0

    def forget(self) -> bool:
        return True

    def close(self) -> None:
        self._inner.close()


def test_what_is_collected_while_the_doctor_reads_it_is_no_disagreement(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(night_of(tmp_path, "one"), now=True)
    release(vault, ReleaseRequest(patterns=("one",)))
    place = _Vanishing(PosixBackend(shelf), lambda: collect(vault, EVERYTHING))
    monkeypatch.setattr("holdfast.vault.open_backend", lambda *_: place)
    assert examine(vault).errors == []


# -- a pack in both places, and packs of others


def test_law_7_a_damaged_pack_whose_twin_is_on_the_shelf_is_repaired_from_there(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path
) -> None:
    """A move that was cut before the local file went; not on tape, and gone from its source."""
    use_store(vault, "")
    night = night_of(tmp_path, "night")
    data = (night / "large").read_bytes()
    assert not archived(night).errors
    (path,) = (vault / "packs").glob("*.pack")
    shutil.copy(path, shelf)
    use_store(vault, shelf.as_uri())
    flip_bit(path, first_offset(vault, path.name) + 5000)
    shutil.rmtree(night)
    report = scrub(vault, ScrubRequest())
    assert (report.errors, report.repaired_blocks) == ([], 1)
    assert comes_back(vault, tmp_path / "back", "night")
    assert (tmp_path / "back/night/large").read_bytes() == data
    assert "holdfast scrub" in str(moving.push(vault).errors[0])  # the rotten one stays, and it is said why


def test_law_1_what_was_found_there_is_durable_before_the_local_file_goes(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody copied the packs by `cp`, and their bytes are in memory only."""
    use_store(vault, "")
    archived(night_of(tmp_path, "one"))
    for path in (vault / "packs").glob("*.pack"):
        shutil.copy(path, shelf)
    use_store(vault, shelf.as_uri())
    synced, sync_file = set[str](), durable.sync_file

    def noting(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync_file(descriptor)

    monkeypatch.setattr(durable, "sync_file", noting)
    assert moving.push(vault).packs
    assert {str(path) for path in shelf.glob("*.pack")} <= synced


def test_a_local_file_that_cannot_be_removed_does_not_end_the_archive(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(moving, "remove_file", refuse)
    report = archived(night_of(tmp_path, "one"), now=True)
    assert report.moved is not None
    assert "cannot be removed" in str(report.moved.problems[0])
    assert digests(shelf) == digests(vault / "packs")


def test_packs_of_another_vault_are_neither_taken_over_nor_taken_away(
    vault: Path, shelf: Path, archived: Archive, tmp_path: Path
) -> None:
    """Somebody put all that is on a shared shelf into the folder of packs."""
    other = tmp_path / "other"
    init_vault(other, SMALL)
    use_store(other, shelf.as_uri())
    theirs = night_of(tmp_path, "theirs")
    assert archive(other, ArchiveRequest(paths=(theirs,), now=True)).exit_code() == EXIT_DONE
    their_packs = digests(shelf)
    for path in shelf.glob("*.pack"):
        shutil.copy(path, vault / "packs")
    assert archived(night_of(tmp_path, "ours"), theirs, now=True).exit_code() == EXIT_DONE
    assert release(vault, ReleaseRequest(patterns=("theirs", "ours"))).contents == 2
    assert collect(vault, EVERYTHING).errors == []
    assert their_packs.items() <= digests(shelf).items()
    assert comes_back(other, tmp_path / "back")
    report = examine(vault)
    assert (report.errors, report.foreign) == ([], 1)
    assert "another vault" in str(report.warnings[0])
