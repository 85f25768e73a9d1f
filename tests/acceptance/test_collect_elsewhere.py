"""Releasing and collecting where packs lie in another place: it is read there, given back there, and never guessed about."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences
from tests.acceptance.stores import digests, use_store

from holdfast import moving
from holdfast.blocks.backends import HeldPack, OpenPack, PackBackend, Progress
from holdfast.blocks.backends.posix import PosixBackend
from holdfast.catalog import Catalog, files, releasing
from holdfast.cli.app import run
from holdfast.collecting import CollectRequest, collect
from holdfast.errors import EXIT_DONE, EXIT_FAILED, BackendError, VaultError
from holdfast.releasing import ReleaseRequest, release
from holdfast.restoring import RestoreRequest, restore
from holdfast.scrubbing import ScrubRequest, scrub
from holdfast.testing.backendfaults import BackendFault, FaultyBackend, Killed
from holdfast.vault import opened

Capture = pytest.CaptureFixture[str]
EVERYTHING = CollectRequest(everything=True)
SMALLS = ("first/small-*", "second/small-*")


def make_night(tmp_path: Path, name: str) -> Path:
    night = tmp_path / name
    night.mkdir()
    (night / "large").write_bytes(os.urandom(900_000))
    for number in range(10):
        (night / f"small-{number}").write_bytes(os.urandom(10_000))
    return night


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    return shelf


@pytest.fixture
def nights(tmp_path: Path, vault: Path, shelf: Path, archived: Archive) -> tuple[Path, Path]:
    """Two nights, each archived by a run of its own, and so in packs of its own; all of them on the shelf."""
    settings = vault / "holdfast.toml"
    settings.write_text(settings.read_text().replace("as_proof = false", "as_proof = true"))
    use_store(vault, shelf.as_uri())
    first, second = make_night(tmp_path, "first"), make_night(tmp_path, "second")
    for night in (first, second):
        assert archived(night, now=True).exit_code() == EXIT_DONE
    assert digests(vault / "packs") == {}
    return first, second


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, PackBackend], None]:
    """Whoever opens the other place is given this one."""

    def begin(vault: Path, backend: PackBackend) -> None:
        use_store(vault, backend.url)
        monkeypatch.setattr("holdfast.vault.open_backend", lambda *_: backend)

    return begin


Meet = Callable[[Path, PackBackend], None]


def released(vault: Path, *patterns: str) -> None:
    report = release(vault, ReleaseRequest(patterns=patterns))
    assert report.contents
    assert report.refused == 0


def in_store(vault: Path) -> set[str]:
    """The names of all files whose contents lie in the store."""
    with opened(vault) as held:
        with held.catalog.reading() as connection:
            versions = [item.version for item in files.all_versions(connection)]
        return {
            v.full_path.decode() for v in versions if v.content is not None and held.catalog.find_segments(v.content)
        }


def check_all_comes_back(vault: Path, to: Path, *nights: Path, shelf: Path) -> None:
    """From wherever it is, with every byte; the store has its part of it, and no pack is anywhere that nobody knows."""
    wanted = in_store(vault)
    report = restore(vault, RestoreRequest(to=to))
    assert (report.exit_code(), report.warnings) == (0, [])
    for night in nights:
        assert differences(night, to / night.name) == []
    if wanted:
        back = restore(vault, RestoreRequest(patterns=tuple(sorted(wanted)), to=to / "store", origin="store"))
        assert (back.exit_code(), back.errors, back.warnings) == (0, [], [])
    scrubbed = scrub(vault, ScrubRequest())
    assert (scrubbed.damaged_blocks, scrubbed.unread_packs, scrubbed.errors) == (0, 0, [])
    assert all(row.known and row.where != "missing" for row in moving.list_packs(vault))
    assert {path.suffix for path in shelf.iterdir()} <= {".pack"}


# -- the whole way


def test_the_room_of_what_was_released_comes_back_on_the_shelf(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path
) -> None:
    before = digests(shelf)
    released(vault, "first", "second/large")
    report = collect(vault, EVERYTHING)
    assert (report.exit_code(), report.waiting, report.errors, report.warnings) == (0, False, [], [])
    assert report.copied_bytes == 100_000
    assert report.packs == len(before) - len(digests(shelf)) > 0
    assert report.removed_bytes > 1_800_000
    assert len(digests(vault / "packs")) == 1  # born here
    check_all_comes_back(vault, tmp_path / "back", *nights, shelf=shelf)
    assert moving.push(vault).packs == 1
    assert digests(vault / "packs") == {}
    again = collect(vault, EVERYTHING)
    assert (again.packs, again.wasteful_packs) == (0, 0)
    check_all_comes_back(vault, tmp_path / "again", *nights, shelf=shelf)


def test_packs_in_both_places_are_given_back_in_both(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path
) -> None:
    for path in shelf.iterdir():
        shutil.copy(path, vault / "packs")
    before = digests(shelf)
    released(vault, "first", "second")
    assert collect(vault, EVERYTHING).packs
    assert not digests(shelf)
    assert not digests(vault / "packs").keys() & before.keys()
    check_all_comes_back(vault, tmp_path / "back", *nights, shelf=shelf)


# -- a place that cannot be reached, at each step


@dataclass(slots=True)
class Copies:
    """Copies of one vault and its shelf, in which waste is ready to be collected."""

    vault: Path
    shelf: Path
    to: Path
    made: list[Path] = field(default_factory=list[Path])

    def another(self) -> tuple[Path, Path]:
        folder = self.to / str(len(self.made))
        self.made.append(folder)
        shutil.copytree(self.vault, folder / "vault")
        shutil.copytree(self.shelf, folder / "shelf")
        return folder / "vault", folder / "shelf"


@pytest.fixture
def copies(vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path) -> Copies:
    del nights
    released(vault, "first/large", *SMALLS[1:])
    return Copies(vault, shelf, tmp_path / "copies")


def faults(calls: dict[str, int]) -> Iterator[BackendFault]:
    """The first, one in the middle and the last call of each kind, that fails alone or with all that follow."""
    for call in ("open", "read", "remove"):
        assert calls[call] > 1
        for nth in sorted({1, 2, calls[call] // 2, calls[call]}):
            yield BackendFault(call, nth=nth)
            yield BackendFault(call, nth=nth, count=None)
            if call != "open":
                yield BackendFault(call, "kill before" if call == "remove" else "kill after", nth=nth)


@pytest.mark.timeout(600)
def test_law_6_a_collection_that_fails_at_any_step_loses_nothing_and_ends_the_same_when_run_again(
    copies: Copies, nights: tuple[Path, Path], meet: Meet
) -> None:
    vault, shelf = copies.another()
    undisturbed = FaultyBackend(PosixBackend(shelf))
    meet(vault, undisturbed)
    ends_with = collect(vault, EVERYTHING).copied_bytes
    tried = 0
    for fault in faults(undisturbed.calls):
        vault, shelf = copies.another()
        before = digests(shelf)
        meet(vault, FaultyBackend(PosixBackend(shelf), fault))
        with pytest.raises((BackendError, Killed)):
            collect(vault, EVERYTHING)
        meet(vault, PosixBackend(shelf))
        folder = vault.parent
        back = restore(vault, RestoreRequest(to=folder / "between", patterns=tuple(in_store(vault)), origin="store"))
        assert (back.exit_code(), back.errors, back.warnings) == (0, [], []), fault
        report = collect(vault, EVERYTHING)
        assert (report.exit_code(), report.errors, report.warnings, report.waiting) == (0, [], [], False), fault
        assert not before.keys() & digests(shelf).keys(), fault
        assert sum(path.stat().st_size for path in (vault / "packs").glob("*.pack")) < ends_with + 100_000, fault
        check_all_comes_back(vault, folder / "back", *nights, shelf=shelf)
        shutil.rmtree(folder)
        tried += 1
    assert tried > 10


def test_a_place_that_cannot_be_reached_is_told_and_what_was_released_is_released(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path, meet: Meet, capsys: Capture
) -> None:
    before = digests(shelf)
    meet(vault, FaultyBackend(PosixBackend(shelf), *(BackendFault(call, count=None) for call in ("open", "packs"))))
    assert run(["release", "first", "--from", "store", "--vault", str(vault)]) == EXIT_FAILED
    told = capsys.readouterr()
    assert "released: 11 contents" in told.out
    assert "the place cannot be reached" in told.err
    assert run(["collect", "--all", "--vault", str(vault)]) == EXIT_FAILED
    assert "the place cannot be reached" in capsys.readouterr().err
    assert (digests(shelf), digests(vault / "packs")) == (before, {})
    meet(vault, PosixBackend(shelf))
    assert run(["collect", "--all", "--vault", str(vault)]) == EXIT_DONE
    check_all_comes_back(vault, tmp_path / "back", *nights, shelf=shelf)


def test_a_shelf_that_is_not_mounted_keeps_its_packs_in_the_catalog(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path, meet: Meet
) -> None:
    """Amid a collection, when nothing is read from the packs any more, and their files are still there."""
    released(vault, "first")
    meet(vault, FaultyBackend(PosixBackend(shelf), BackendFault("remove", "kill before")))
    with pytest.raises(Killed):
        collect(vault, EVERYTHING)
    meet(vault, PosixBackend(shelf))
    shelf.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(BackendError):
            collect(vault, EVERYTHING)
    (tmp_path / "away").rename(shelf)
    assert collect(vault, EVERYTHING).packs
    check_all_comes_back(vault, tmp_path / "back", *nights, shelf=shelf)


def test_an_empty_shelf_in_its_place_is_a_wrong_setting_and_nothing_is_given_up(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path
) -> None:
    released(vault, "first", *SMALLS[1:])
    shelf.rename(tmp_path / "away")
    shelf.mkdir()
    with pytest.raises(VaultError, match=r"is \[blocks\] store in"):
        collect(vault, EVERYTHING)
    with pytest.raises(VaultError, match=r"is \[blocks\] store in"):
        scrub(vault, ScrubRequest())
    shelf.rmdir()
    (tmp_path / "away").rename(shelf)
    assert collect(vault, EVERYTHING).exit_code() == EXIT_DONE
    check_all_comes_back(vault, tmp_path / "back", *nights, shelf=shelf)


# -- a lost catalog


@pytest.mark.parametrize("where", ["shelf", "both places"])
def test_names_come_back_from_the_shelf_after_a_collection(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path, where: str
) -> None:
    released(vault, "first", "second/large")
    assert collect(vault, EVERYTHING).errors == []
    if where == "shelf":
        moving.push(vault)
    before, stored = all_names(vault), in_store(vault)
    assert {name for name in before if name.startswith("first/")}
    assert stored == {f"second/small-{number}" for number in range(10)}
    for room in ("catalog", "journals", "library"):
        shutil.rmtree(vault / room)
        (vault / room).mkdir()
    assert run(["store", "push", "--vault", str(vault)]) == EXIT_DONE
    assert (all_names(vault), in_store(vault)) == (before, stored)
    back = restore(vault, RestoreRequest(to=tmp_path / "back", patterns=tuple(stored), origin="store"))
    assert (back.exit_code(), back.errors) == (0, [])
    for name in stored:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert collect(vault, EVERYTHING).packs == 0
    assert all(row.known and row.where == "store" for row in moving.list_packs(vault))


def test_what_was_archived_again_after_its_release_has_its_place_again(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path, archived: Archive
) -> None:
    """Its names lie in a pack of the folder, what it was released by and its bytes on the shelf: all is asked in turn."""
    released(vault, "first")
    collect(vault, EVERYTHING)
    shutil.copytree(nights[0], tmp_path / "other")
    assert archived(tmp_path / "other", now=True).exit_code() == EXIT_DONE
    use_store(vault, "")
    (tmp_path / "other" / "new").write_bytes(b"new")
    archived(tmp_path / "other", now=True)
    use_store(vault, shelf.as_uri())
    assert digests(vault / "packs")
    before, stored = all_names(vault), in_store(vault)
    for room in ("catalog", "journals", "library"):
        shutil.rmtree(vault / room)
        (vault / room).mkdir()
    moving.push(vault)
    assert (all_names(vault), in_store(vault)) == (before, stored)
    back = restore(vault, RestoreRequest(to=tmp_path / "back", patterns=("other",), origin="store"))
    assert (back.exit_code(), differences(tmp_path / "other", tmp_path / "back" / "other")) == (0, [])


def all_names(vault: Path) -> set[str]:
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.reading() as connection:
        return {item.version.full_path.decode() for item in files.all_versions(connection)}


def test_an_older_catalog_finds_on_the_shelf_what_was_gathered_since(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path
) -> None:
    """It does not learn of the new pack by itself; `scrub` takes the blocks from there, when it is told that the old are lost."""
    shutil.copytree(vault / "catalog", tmp_path / "older")
    released(vault, "first/large", "second/large")
    collect(vault, EVERYTHING)
    moving.push(vault)
    shutil.rmtree(vault / "catalog")
    shutil.copytree(tmp_path / "older", vault / "catalog")
    for night in nights:
        night.rename(tmp_path / f"{night.name}-away")
    report = scrub(vault, ScrubRequest(replace_lost=True))
    assert report.repaired_blocks
    assert report.errors == []
    back = restore(vault, RestoreRequest(to=tmp_path / "back", patterns=SMALLS, origin="store"))
    assert (back.exit_code(), back.errors) == (0, [])


# -- beside others


class Vanishing:
    """A folder whose packs are objects: removed, they are gone for whoever has them open, too."""

    def __init__(self, folder: Path, before_read: Callable[[], object] = lambda: None) -> None:
        self._inner = PosixBackend(folder)
        self.url = self._inner.url
        self.before_read = before_read

    def packs(self) -> Iterator[HeldPack]:
        return self._inner.packs()

    def held(self, pack_id: uuid.UUID) -> HeldPack | None:
        return self._inner.held(pack_id)

    def open(self, pack_id: uuid.UUID) -> OpenPack | None:
        pack = self._inner.open(pack_id)
        return None if pack is None else _VanishingPack(self, pack_id, pack)

    def put(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> bool:
        return self._inner.put(pack_id, source, progress)

    def remove(self, pack_id: uuid.UUID) -> None:
        self._inner.remove(pack_id)


class _VanishingPack:
    def __init__(self, backend: Vanishing, pack_id: uuid.UUID, inner: OpenPack) -> None:
        self._backend, self._pack_id, self._inner = backend, pack_id, inner
        self.place, self.size_bytes = inner.place, inner.size_bytes

    def read_into(self, buffer: memoryview, offset: int) -> int:
        self._backend.before_read()
        held = self._backend._inner.open(self._pack_id)
        if held is None:
            return 0
        held.close()
        return self._inner.read_into(buffer, offset)

    def forget(self) -> bool:
        return True

    def close(self) -> None:
        self._inner.close()


def test_a_scrub_beside_a_collection_takes_nothing_for_damaged_or_lost(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path, meet: Meet
) -> None:
    """Whatever is collected between two of its reads."""
    begun = list[str]()

    def amid() -> None:
        if not begun:
            begun.append("collection")
            released(vault, "first", *SMALLS[1:])
            assert collect(vault, EVERYTHING).packs

    meet(vault, Vanishing(shelf, amid))
    report = scrub(vault, ScrubRequest())
    assert begun
    assert (report.exit_code(), report.damaged_blocks, report.unread_packs) == (0, 0, 0)
    assert report.warnings == []
    check_all_comes_back(vault, tmp_path / "back", *nights, shelf=shelf)


def test_a_reader_goes_on_while_the_pack_is_collected_under_it(
    vault: Path, nights: tuple[Path, Path], shelf: Path, meet: Meet
) -> None:
    meet(vault, Vanishing(shelf))
    with opened(vault) as reading, reading.store_reader() as reader:
        with reading.catalog.reading() as connection:
            version = next(v.version for v in files.all_versions(connection) if v.version.full_path == b"second/large")
        assert version.content is not None
        segments = reading.catalog.find_segments(version.content)
        assert segments is not None
        pieces = reader.read(segments)
        data = bytes(next(pieces))
        released(vault, "first", "second/small-*")
        assert collect(vault, EVERYTHING).packs
        assert not digests(shelf)
        assert data + b"".join(map(bytes, pieces)) == (nights[1] / "large").read_bytes()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_pack_that_is_collected_while_it_is_moved_is_left_in_neither_place(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path, when: str, meet: Meet
) -> None:
    for path in shelf.iterdir():
        path.rename(vault / "packs" / path.name)
    released(vault, "first", "second")
    before = digests(vault / "packs")

    class Slow(PosixBackend):
        def put(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> bool:
            if when == "before":
                collect(vault, EVERYTHING)
            taken = super().put(pack_id, source, progress)
            if when == "after":
                collect(vault, EVERYTHING)
            return taken

    meet(vault, Slow(shelf))
    report = moving.push(vault)
    assert (report.exit_code(), report.errors) == (EXIT_DONE, [])
    assert not before.keys() & (digests(shelf) | digests(vault / "packs")).keys()
    meet(vault, PosixBackend(shelf))
    check_all_comes_back(vault, tmp_path / "back", *nights, shelf=shelf)
    with opened(vault) as held, held.catalog.reading() as connection:
        assert releasing.emptied_packs(connection) == {}


def test_a_pack_that_is_collected_while_it_is_copied_is_no_error(
    vault: Path, nights: tuple[Path, Path], shelf: Path, tmp_path: Path, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    del nights
    meet(vault, Vanishing(shelf))
    copied, further = moving._copy, tmp_path / "further"
    further.mkdir()

    def amid(*arguments: object) -> bool:
        released_once = in_store(vault)
        if released_once:
            released(vault, "first", "second")
            assert collect(vault, EVERYTHING).packs
        return copied(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(moving, "open_backend", lambda *_: PosixBackend(further))
    monkeypatch.setattr(moving, "_copy", amid)
    report = moving.copy(vault, further.as_uri())
    assert (report.exit_code(), report.errors) == (EXIT_DONE, [])
