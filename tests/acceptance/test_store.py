"""Packs in another place: moved when they are proven to be there, read from there, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences
from tests.acceptance.stores import digests, use_store

from holdfast import moving
from holdfast.blocks.backends import PackBackend
from holdfast.blocks.backends.posix import PosixBackend
from holdfast.browsing import VaultTree
from holdfast.cli.app import run
from holdfast.errors import (
    EXIT_BUSY,
    EXIT_DATA_AT_RISK,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_USAGE,
    BackendError,
    IntegrityError,
)
from holdfast.restoring import RestoreRequest, restore
from holdfast.scrubbing import ScrubRequest, scrub
from holdfast.testing import flip_bit
from holdfast.testing.backendfaults import BackendFault, FaultyBackend, Killed
from holdfast.work import vault_lock

Capture = pytest.CaptureFixture[str]
Use = Callable[..., FaultyBackend]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = tmp_path / "night"
    night.mkdir()
    (night / "large").write_bytes(random.Random(7).randbytes(3_000_000))
    for number in range(20):
        (night / f"small-{number}").write_bytes(os.urandom(10_000))
    return night


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    return shelf


@pytest.fixture
def kept(vault: Path, night: Path, archived: Archive) -> Path:
    """A vault whose night is in packs of its own folder, and on two tapes."""
    assert archived(night, now=True).exit_code() == EXIT_DONE
    return vault


@pytest.fixture
def use(kept: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """The vault keeps its packs on the shelf from now on, which has these faults."""

    def begin(*faults: BackendFault) -> FaultyBackend:
        use_store(kept, shelf.as_uri())
        backend = FaultyBackend(PosixBackend(shelf), *faults)

        def opened(url: str, options: object) -> PackBackend:
            return backend

        monkeypatch.setattr("holdfast.vault.open_backend", opened)
        return backend

    return begin


def check_all_from_shelf(vault: Path, night: Path, shelf: Path, packs: dict[str, str], to: Path) -> None:
    """Every pack is on the shelf, as it was, and nowhere else; all comes back from there."""
    assert digests(shelf) == packs
    assert {path.name for path in shelf.iterdir()} == packs.keys()
    assert digests(vault / "packs") == {}
    report = restore(vault, RestoreRequest(to=to, origin="store"))
    assert (report.exit_code(), report.warnings) == (0, [])
    assert differences(night, to / night.name) == []


# -- the whole way


def test_an_archive_moves_its_packs_when_all_is_verified(
    vault: Path, night: Path, shelf: Path, tmp_path: Path, capsys: Capture
) -> None:
    use_store(vault, shelf.as_uri())
    assert run(["archive", str(night), "--vault", str(vault)]) == 0
    said = capsys.readouterr().out
    count = len(digests(shelf))
    assert count > 1
    assert f"moved       {count} packs" in said
    assert said.index("verified ") < said.index("moved ")
    check_all_from_shelf(vault, night, shelf, digests(shelf), tmp_path / "back")


def test_what_is_on_the_shelf_is_read_in_every_way(
    vault: Path, night: Path, shelf: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    use_store(vault, shelf.as_uri())
    run(["archive", str(night), "--vault", str(vault)])
    capfdbinary.readouterr()
    large = (night / "large").read_bytes()
    assert run(["cat", "night/large", "--range", "1000000:1000100", "--vault", str(vault)]) == 0
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == large[1_000_000:1_000_100]
    chance = random.Random(1)
    with VaultTree(vault) as tree, tree.open("night/large") as file:
        for _ in range(50):
            begin = chance.randrange(len(large))
            file.seek(begin)
            assert file.read(70_000) == large[begin : begin + 70_000]
    report = scrub(vault, ScrubRequest())
    assert (report.exit_code(), report.damaged_blocks, report.packs) == (0, 0, report.packs_in_store)


def test_what_is_known_already_is_neither_stored_nor_sent_again(
    vault: Path, night: Path, shelf: Path, tmp_path: Path, archived: Archive
) -> None:
    use_store(vault, shelf.as_uri())
    archived(night)
    before = digests(shelf)
    shutil.copytree(night, tmp_path / "other")
    report = archived(tmp_path / "other")
    assert (report.exit_code(), report.kept.duplicate_files) == (0, 21)
    assert len(digests(shelf)) == len(before) + 1  # only its manifest


def test_packs_that_wait_to_be_written_on_tape_are_not_moved_yet(
    vault: Path, night: Path, shelf: Path, archived: Archive
) -> None:
    use_store(vault, shelf.as_uri())
    settings = vault / "holdfast.toml"
    settings.write_text(settings.read_text().replace('start_at = "0 B"', 'start_at = "1 GiB"'))
    assert archived(night).moved is None
    assert digests(shelf) == {}
    assert run(["store", "push", "--vault", str(vault)]) == 0
    assert len(digests(shelf)) > 1


def test_a_damaged_pack_on_the_shelf_is_put_right_from_tape(
    kept: Path, night: Path, shelf: Path, tmp_path: Path, use: Use
) -> None:
    use()
    moving.push(kept)
    for path in sorted(shelf.iterdir(), key=lambda path: path.stat().st_size)[-2:]:
        flip_bit(path, 10_000)
    report = scrub(kept, ScrubRequest())
    assert (report.exit_code(), report.damaged_blocks, report.repaired_blocks) == (0, 2, 2)
    assert str(shelf) in str(report.warnings[0].place)
    moving.push(kept)
    check_all_from_shelf(kept, night, shelf, digests(shelf), tmp_path / "back")
    assert scrub(kept, ScrubRequest()).damaged_blocks == 0


def test_a_pack_that_is_gone_from_the_shelf_is_put_right_from_tape(kept: Path, shelf: Path, use: Use) -> None:
    use()
    moving.push(kept)
    min(shelf.iterdir(), key=lambda path: path.stat().st_size).unlink()
    max(shelf.iterdir(), key=lambda path: path.stat().st_size).unlink()
    missed = scrub(kept, ScrubRequest())
    assert (missed.exit_code(), missed.unread_packs, missed.damaged_blocks) == (
        EXIT_DATA_AT_RISK,
        1,
        0,
    )  # the small one has names only
    assert all(str(error.place).startswith(shelf.as_uri()) for error in missed.errors)
    assert all("--replace-lost" in str(error.hint) for error in missed.errors)
    report = scrub(kept, ScrubRequest(replace_lost=True))
    assert report.exit_code() == 0
    assert report.damaged_blocks == report.repaired_blocks > 0


# -- law 6: whatever cuts a move short, running again ends the same


FAULTS = [
    BackendFault("put", "kill before"),
    BackendFault("put", "kill before", nth=2),
    BackendFault("put", "kill amid"),
    BackendFault("put", "kill amid", nth=2),
    BackendFault("put", "kill after"),
    BackendFault("open", "kill before"),
    BackendFault("read", "kill after"),
    BackendFault("read", "kill after", nth=2),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_law_6_a_move_that_was_killed_is_finished_by_running_again(
    kept: Path, night: Path, shelf: Path, tmp_path: Path, use: Use, fault: BackendFault
) -> None:
    packs = digests(kept / "packs")
    use(fault)
    with pytest.raises(Killed):
        moving.push(kept)
    assert digests(kept / "packs") | digests(shelf) == packs
    assert restore(kept, RestoreRequest(to=tmp_path / "between", origin="store")).exit_code() == 0
    use()
    assert moving.push(kept).exit_code() == EXIT_DONE
    check_all_from_shelf(kept, night, shelf, packs, tmp_path / "back")
    assert moving.push(kept).packs == 0


def test_law_1_the_local_pack_goes_last(kept: Path, shelf: Path, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = digests(kept / "packs")
    use()

    def killed(folder: Path, pack_id: object) -> None:
        assert digests(shelf)[f"{pack_id}.pack"] == packs[f"{pack_id}.pack"]
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.moving.remove_file", killed)
        with pytest.raises(Killed):
            moving.push(kept)
    assert digests(kept / "packs") == packs
    assert moving.push(kept).packs == len(packs)
    assert digests(shelf) == packs


@pytest.mark.parametrize("call", ["put", "open"])
def test_a_place_that_cannot_be_reached_is_told_and_the_packs_stay(
    kept: Path, night: Path, use: Use, capsys: Capture, call: str
) -> None:
    packs = digests(kept / "packs")
    backend = use(BackendFault(call, count=None))
    assert run(["store", "push", "--vault", str(kept)]) == EXIT_FAILED
    told = capsys.readouterr().err
    assert "the place cannot be reached" in told
    assert "next:" in told
    assert backend.calls["put"] == 1  # the others would wait as long
    assert run(["archive", str(night), "--vault", str(kept)]) == EXIT_FAILED
    said = capsys.readouterr().out
    assert "NOT MOVED: the place cannot be reached" in said
    assert "PROVEN: all" in said
    assert "holdfast store push" in said
    assert digests(kept / "packs").items() >= packs.items()


def test_archiving_goes_on_without_the_place(kept: Path, night: Path, tmp_path: Path, use: Use) -> None:
    """Nothing at the begin of a run, and nothing that is new, asks for it."""
    use(*(BackendFault(call, count=None) for call in ("packs", "open", "put")))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_bytes(os.urandom(100_000))
    assert run(["archive", str(tmp_path / "new"), "--json", "--vault", str(kept)]) == EXIT_FAILED
    assert run(["verify", "--vault", str(kept)]) == EXIT_DONE


# -- law 7: what lies there is not believed


def test_law_7_a_place_that_says_it_took_a_pack_and_did_not(kept: Path, shelf: Path, use: Use, capsys: Capture) -> None:
    packs = digests(kept / "packs")
    use(BackendFault("put", "lie"))
    assert run(["store", "push", "--vault", str(kept)]) == EXIT_DATA_AT_RISK
    assert "no such pack" in capsys.readouterr().err
    assert len(digests(kept / "packs")) == 1
    assert digests(kept / "packs") | digests(shelf) == packs
    assert run(["store", "push", "--vault", str(kept)]) == EXIT_DONE
    assert digests(shelf) == packs


@pytest.mark.parametrize("kind", ["flip", "short"])
def test_law_7_a_pack_that_reads_back_otherwise_stays_here_and_is_taken_away_there(
    kept: Path, shelf: Path, use: Use, kind: str
) -> None:
    packs = digests(kept / "packs")
    use(BackendFault("read", kind, count=None))
    report = moving.push(kept)
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert {str(error.place).rpartition("/")[2] for error in report.errors} == packs.keys()
    assert (digests(kept / "packs"), digests(shelf)) == (packs, {})


@pytest.mark.parametrize("kind", ["flip", "short"])
def test_a_pack_that_suffers_once_on_the_way_back_is_asked_once_more(
    kept: Path, shelf: Path, use: Use, kind: str
) -> None:
    packs = digests(kept / "packs")
    use(BackendFault("read", kind))
    assert moving.push(kept).exit_code() == EXIT_DONE
    assert digests(shelf) == packs


def test_law_5_another_pack_of_this_name_is_an_error_and_neither_is_touched(
    kept: Path, shelf: Path, use: Use, capsys: Capture
) -> None:
    packs = digests(kept / "packs")
    name = min(packs)
    (shelf / name).write_bytes(b"something else")
    use()
    assert run(["store", "push", "--vault", str(kept)]) == EXIT_DATA_AT_RISK
    assert name in capsys.readouterr().err
    assert (shelf / name).read_bytes() == b"something else"
    assert digests(kept / "packs") == {name: packs[name]}


@pytest.mark.parametrize("kind", ["flip", "short"])
def test_law_7_wrong_bytes_from_there_never_pass(kept: Path, night: Path, shelf: Path, use: Use, kind: str) -> None:
    use()
    moving.push(kept)
    use(BackendFault("read", kind, nth=4, count=None))
    large = (night / "large").read_bytes()
    with VaultTree(kept) as tree, tree.open("night/large") as file:
        assert file.read(1000) == large[:1000]
        with pytest.raises(IntegrityError) as caught:
            file.readall()
    assert ".pack" in str(caught.value.place)
    assert str(shelf) in str(caught.value.place)


def test_wrong_bytes_once_are_asked_once_more(kept: Path, night: Path, use: Use) -> None:
    use()
    moving.push(kept)
    backend = use(BackendFault("read", "flip", nth=3))
    with VaultTree(kept) as tree, tree.open("night/large") as file:
        assert file.readall() == (night / "large").read_bytes()
    assert backend.calls["read"] > 3


def test_a_place_that_cannot_be_reached_is_no_damage(kept: Path, use: Use, tmp_path: Path, capsys: Capture) -> None:
    use()
    moving.push(kept)
    use(BackendFault("open", count=None), BackendFault("packs", count=None))
    with pytest.raises(BackendError):
        scrub(kept, ScrubRequest())
    assert run(["cat", "night/large", "--from", "store", "--vault", str(kept)]) == EXIT_FAILED
    assert "the place cannot be reached" in capsys.readouterr().err


def test_a_place_that_is_empty_is_a_wrong_setting_and_no_damage(
    kept: Path, night: Path, shelf: Path, tmp_path: Path, use: Use, archived: Archive, capsys: Capture
) -> None:
    use()
    moving.push(kept)
    use(BackendFault("put", count=None))
    (night / "new").write_bytes(os.urandom(100_000))
    archived(night)
    assert digests(kept / "packs")
    shelf.rename(tmp_path / "elsewhere")
    shelf.mkdir()
    capsys.readouterr()
    assert run(["scrub", "--vault", str(kept)]) == EXIT_FAILED
    told = capsys.readouterr().err
    assert "[blocks] store" in told
    assert shelf.as_uri() in told


def test_files_come_from_tape_when_the_place_cannot_be_reached_and_only_one_waits_for_it(
    kept: Path, night: Path, tmp_path: Path, use: Use, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    use()
    moving.push(kept)
    backend = use(BackendFault("open", count=None))
    report = restore(kept, RestoreRequest(to=tmp_path / "back"))
    assert report.exit_code() == EXIT_DONE
    assert differences(night, tmp_path / "back" / "night") == []
    assert "the place cannot be reached" in str(report.warnings[0])
    assert backend.calls["open"] == 1
    backend.calls["open"] = 0
    assert run(["cat", "night/large", "--vault", str(kept)]) == EXIT_DONE
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == (night / "large").read_bytes()


def test_a_place_that_goes_away_amid_reading_and_comes_back(
    kept: Path, night: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use()
    moving.push(kept)
    backend = use(BackendFault("read", nth=4))
    with VaultTree(kept) as tree, tree.open("night/large") as file:
        for _ in range(2):
            with pytest.raises(BackendError):
                file.readall()
        assert backend.calls["read"] == 4
        monkeypatch.setattr("holdfast.blocks.packs.QUIET_S", 0.0)
        backend.faults[:] = [BackendFault("read", nth=8)]
        tree._packs._trouble_until_s = 0.0
        with pytest.raises(BackendError):
            file.readall()
        assert file.readall() == (night / "large").read_bytes()


def test_a_dump_that_needs_the_place_stops_without_it_and_goes_on_later(
    vault: Path, night: Path, archived: Archive, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(vault, shelf.as_uri())
    settings = vault / "holdfast.toml"
    settings.write_text(settings.read_text().replace('start_at = "0 B"', 'start_at = "1 GiB"'))
    archived(night)
    moving.push(vault)
    backend = FaultyBackend(PosixBackend(shelf), BackendFault("open", count=None))
    monkeypatch.setattr("holdfast.vault.open_backend", lambda *_: backend)
    with pytest.raises(BackendError):
        archived(night, now=True)
    backend.faults.clear()
    report = archived(night, now=True)
    assert (report.exit_code(), report.errors, report.warnings) == (EXIT_DONE, [], [])


# -- an empty catalog


def test_a_lost_catalog_is_filled_again_from_packs_in_both_places(
    kept: Path, night: Path, shelf: Path, tmp_path: Path, use: Use, archived: Archive, capsys: Capture
) -> None:
    use()
    moving.push(kept)
    (night / "large").unlink()
    shutil.copytree(night, tmp_path / "other")  # its manifest names blocks that lie on the shelf
    (tmp_path / "other" / "new").write_bytes(os.urandom(200_000))
    use(BackendFault("put", count=None))
    archived(night, tmp_path / "other")
    assert digests(kept / "packs")
    use()
    capsys.readouterr()
    run(["ls", "--json", "--vault", str(kept)])
    listed = json.loads(capsys.readouterr().out)
    shutil.rmtree(kept / "catalog")
    (kept / "catalog").mkdir()
    shutil.rmtree(kept / "journals")
    (kept / "journals").mkdir()
    shutil.rmtree(kept / "library")
    (kept / "library").mkdir()
    assert run(["store", "push", "--vault", str(kept)]) == 0
    capsys.readouterr()
    run(["ls", "--json", "--vault", str(kept)])
    assert sorted(map(str, json.loads(capsys.readouterr().out))) == sorted(map(str, listed))
    report = restore(kept, RestoreRequest(to=tmp_path / "back", origin="store"))
    assert report.exit_code() == 0
    assert differences(night, tmp_path / "back" / "night") == []
    assert differences(tmp_path / "other", tmp_path / "back" / "other") == []
    assert {row.where for row in moving.list_packs(kept)} == {"store"}
    assert all(row.known for row in moving.list_packs(kept))


# -- copies


def test_a_copy_is_whole_and_leaves_all_where_it_was(
    kept: Path, night: Path, shelf: Path, tmp_path: Path, capsys: Capture
) -> None:
    packs = digests(kept / "packs")
    assert run(["store", "copy", "--to", shelf.as_uri(), "--vault", str(kept)]) == 0
    said = capsys.readouterr().out
    assert f"copied {len(packs)} packs" in said
    assert f'[blocks]\nstore = "{shelf.as_uri()}"' in said
    assert digests(shelf) == digests(kept / "packs") == packs
    use_store(kept, shelf.as_uri())
    assert run(["store", "push", "--vault", str(kept)]) == 0  # they are there: only proven once more, and removed here
    check_all_from_shelf(kept, night, shelf, packs, tmp_path / "back")
    (tmp_path / "further").mkdir()
    assert run(["store", "copy", "--to", (tmp_path / "further").as_uri(), "--json", "--vault", str(kept)]) == 0
    assert digests(tmp_path / "further") == packs


def test_law_6_a_copy_that_was_cut_short_goes_on_and_sends_nothing_twice(
    kept: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = digests(kept / "packs")
    backend = FaultyBackend(PosixBackend(shelf), BackendFault("put", "kill amid", nth=3))
    monkeypatch.setattr("holdfast.moving.open_backend", lambda *_: backend)
    with pytest.raises(Killed):
        moving.copy(kept, shelf.as_uri())
    backend.faults.clear()
    reads = backend.calls["open"]
    report = moving.copy(kept, shelf.as_uri())
    assert (report.packs, report.sent) == (len(packs), len(packs) - 2)
    assert backend.calls["open"] - reads == len(packs) - 2  # what was proven is not read again either
    assert digests(shelf) == packs
    assert moving.copy(kept, shelf.as_uri()).sent == 0


def test_a_copy_that_is_damaged_since_is_found_when_the_state_is_gone(kept: Path, shelf: Path) -> None:
    moving.copy(kept, shelf.as_uri())
    flip_bit(min(shelf.iterdir()), 5000)
    shutil.rmtree(kept / "state")
    (kept / "state").mkdir()
    report = moving.copy(kept, shelf.as_uri())
    assert (report.exit_code(), len(report.errors)) == (EXIT_DATA_AT_RISK, 1)


def test_a_state_that_cannot_be_used_stops_no_copy(kept: Path, shelf: Path) -> None:
    for path in (kept / "state").glob("state.db*"):
        path.write_bytes(b"no database" * 1000)
    report = moving.copy(kept, shelf.as_uri())
    assert (report.exit_code(), len(report.warnings)) == (0, 1)
    assert digests(shelf) == digests(kept / "packs")


def test_a_pack_that_cannot_be_read_keeps_no_other_from_being_copied(kept: Path, shelf: Path) -> None:
    lost = min((kept / "packs").iterdir())
    lost.unlink()
    report = moving.copy(kept, shelf.as_uri())
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert lost.name in str(report.errors[0].place)
    assert digests(shelf) == digests(kept / "packs")


@pytest.mark.parametrize("way", ["plainly", "through a link"])
def test_the_vaults_own_folder_is_no_other_place(kept: Path, tmp_path: Path, way: str, capsys: Capture) -> None:
    packs = digests(kept / "packs")
    (tmp_path / "link").symlink_to(kept / "packs")
    url = (kept / "packs" if way == "plainly" else tmp_path / "link").as_uri()
    assert run(["store", "copy", "--to", url, "--vault", str(kept)]) == EXIT_USAGE
    use_store(kept, url)
    assert run(["store", "push", "--vault", str(kept)]) == EXIT_USAGE
    assert "own folder" in capsys.readouterr().err
    assert digests(kept / "packs") == packs


def test_a_pack_that_is_the_very_file_is_not_removed_whatever_the_folders_look_like(kept: Path, shelf: Path) -> None:
    packs = digests(kept / "packs")
    for name in packs:
        (shelf / name).hardlink_to(kept / "packs" / name)
    use_store(kept, shelf.as_uri())
    assert run(["store", "push", "--vault", str(kept)]) == EXIT_USAGE
    assert digests(kept / "packs") == packs


# -- listing, and wrong use


def test_the_list_says_where_each_pack_is(kept: Path, shelf: Path, use: Use, capsys: Capture) -> None:
    first, second, third, *others = sorted(digests(kept / "packs"))
    moving.copy(kept, shelf.as_uri())
    use()
    (kept / "packs" / first).unlink()
    (shelf / second).unlink()
    for folder in (kept / "packs", shelf):
        (folder / third).unlink()
    capsys.readouterr()
    assert run(["store", "list", "--json", "--vault", str(kept)]) == 0
    where = {row["pack"] + ".pack": row["where"] for row in json.loads(capsys.readouterr().out)}
    assert where == {first: "store", second: "folder", third: "missing"} | dict.fromkeys(others, "folder and store")
    assert run(["store", "list", "--vault", str(kept)]) == 0
    assert f"{first.removesuffix('.pack')}      store" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "options", "told"),
    [
        ("s4://bucket/packs", {}, "not a place for packs"),
        ("s3://", {}, "not a place for packs"),
        ("packs", {}, "not a place for packs"),
        ("memory:", {}, "not a place for packs"),
        ("s3://key:secret@bucket/packs", {}, "must hold no credentials"),
        ("s3://bucket/packs", {"endpoint": "$HOLDFAST_NO_SUCH_VARIABLE"}, "HOLDFAST_NO_SUCH_VARIABLE"),
        ("s3://bucket/packs", {"nonsense": "1"}, "nonsense"),
        ("s3://bucket/packs", {"timeout": "soon"}, "soon"),
        ("s3://bucket/packs", {"aws_allow_http": "perhaps"}, "perhaps"),
        ("s3://bucket/packs", {"max_retries": "often"}, "often"),
        ("az://container/packs", {}, "no credentials"),
    ],
)
def test_wrong_settings_are_told_at_once(
    kept: Path, night: Path, capsys: Capture, url: str, options: dict[str, str], told: str
) -> None:
    packs = digests(kept / "packs")
    use_store(kept, url, options)
    for arguments in (["store", "push"], ["store", "list"], ["archive", str(night)]):
        assert run([*arguments, "--vault", str(kept)]) == EXIT_USAGE
        error = capsys.readouterr().err
        assert told in error
        assert "next:" in error
        assert "secret" not in error
    assert digests(kept / "packs") == packs


def test_without_the_library_the_extra_is_named(kept: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "holdfast.blocks.backends.objects", raising=False)
    assert run(["store", "copy", "--to", "s3://bucket/packs", "--vault", str(kept)]) == EXIT_USAGE
    assert "pip install 'holdfast[objects]'" in capsys.readouterr().err


def test_a_push_without_a_place_says_what_to_write(kept: Path, capsys: Capture) -> None:
    assert run(["store", "push", "--vault", str(kept)]) == EXIT_USAGE
    assert "[blocks] store" in capsys.readouterr().err


def test_a_shelf_that_is_not_mounted_is_told(kept: Path, shelf: Path, capsys: Capture) -> None:
    packs = digests(kept / "packs")
    use_store(kept, shelf.as_uri())
    shelf.rmdir()
    for command in ("push", "list"):
        assert run(["store", command, "--vault", str(kept)]) == EXIT_FAILED
        assert "the folder of packs cannot be used" in capsys.readouterr().err
    assert digests(kept / "packs") == packs


def test_a_copy_goes_on_beside_others_and_a_push_waits_for_the_vault(kept: Path, shelf: Path) -> None:
    with vault_lock(kept / "vault.lock", "archive"):
        assert run(["store", "copy", "--to", shelf.as_uri(), "--vault", str(kept)]) == 0
        use_store(kept, shelf.as_uri())
        assert run(["store", "push", "--vault", str(kept)]) == EXIT_BUSY


@pytest.mark.parametrize("option", ["endpoint", "=x"])
def test_an_option_that_is_none(kept: Path, option: str, capsys: Capture) -> None:
    arguments = ["store", "copy", "--to", "s3://bucket", "--option", option, "--vault", str(kept)]
    assert run(arguments) == EXIT_USAGE
    assert "NAME=VALUE" in capsys.readouterr().err
