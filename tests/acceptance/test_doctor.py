"""The doctor: packs and catalog agree, or it is told where not; and the catalog is made whole from the packs."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences, plain_night
from tests.acceptance.stores import count_virtual_as_proof, use_store

from holdfast import moving
from holdfast.blocks import packfile
from holdfast.blocks.fence import Fence
from holdfast.blocks.packfile import PackWriter
from holdfast.catalog import Catalog, schema
from holdfast.cli.app import run
from holdfast.collecting import CollectRequest, collect
from holdfast.doctoring import examine, repair
from holdfast.errors import EXIT_BUSY, EXIT_DATA_AT_RISK, EXIT_DONE, EXIT_FAILED
from holdfast.releasing import ReleaseRequest, release
from holdfast.restoring import RestoreRequest, restore
from holdfast.testing import flip_bit
from holdfast.vault import opened
from holdfast.work import vault_lock

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return plain_night(tmp_path / "night", large_bytes=600_000, smalls=5, small_bytes=9_000)


@pytest.fixture
def kept(vault: Path, night: Path, archived: Archive) -> Path:
    assert archived(night, now=True).exit_code() == 0
    return vault


def forget(vault: Path, *statements: object) -> None:
    with Catalog(vault / "catalog/catalog.db") as catalog, catalog.transaction() as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def check_store(vault: Path, night: Path, to: Path) -> None:
    report = restore(vault, RestoreRequest(to=to, origin="store"))
    assert (report.exit_code(), differences(night, to / night.name)) == (0, [])


def test_a_healthy_store_is_told_so_and_nothing_is_written(kept: Path, capsys: Capture) -> None:
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path.is_file()}
    assert run(["doctor", "--vault", str(kept)]) == EXIT_DONE
    assert "they agree with the catalog" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path.is_file()}
    assert {path for path in before if "catalog.db-" not in path.name} <= after.keys()
    assert all(after[path] == before[path] for path in before if "catalog" not in str(path))


LOSSES: dict[str, tuple[Callable[[], list[object]], str]] = {
    "segments": (lambda: [delete(schema.segment)], ""),
    "blocks": (lambda: [delete(schema.segment), delete(schema.block)], "blocks that the catalog does not know"),
    "names": (
        lambda: [delete(schema.listing), delete(schema.member), delete(schema.version)],
        "versions that the catalog does not know",
    ),
    "places": (lambda: [update(schema.block).values(offset_bytes=schema.block.c.offset_bytes + 512)], "not here"),
}


@pytest.mark.parametrize("loss", ["blocks", "names"])
def test_what_the_catalog_has_lost_is_told_and_learnt_again(
    kept: Path, night: Path, tmp_path: Path, loss: str, capsys: Capture
) -> None:
    statements, told = LOSSES[loss]
    forget(kept, *statements())
    assert run(["doctor", "--vault", str(kept)]) == EXIT_DATA_AT_RISK
    shown = capsys.readouterr()
    assert told in shown.err
    assert "holdfast doctor --repair" in shown.err
    assert run(["doctor", "--repair", "--vault", str(kept)]) == EXIT_DONE
    assert "taken over: " in capsys.readouterr().out
    check_store(kept, night, tmp_path / "back")


def test_segments_that_are_lost_are_learnt_again(kept: Path, night: Path, tmp_path: Path) -> None:
    forget(kept, *LOSSES["segments"][0]())
    assert repair(kept).errors == []
    check_store(kept, night, tmp_path / "back")


def test_a_lost_catalog_is_made_again_from_packs_alone(kept: Path, night: Path, tmp_path: Path) -> None:
    shutil.rmtree(kept / "catalog")
    shutil.rmtree(kept / "library")
    report = repair(kept)
    assert (report.exit_code(), report.versions, report.totals["version"]) == (0, 7, 7)
    check_store(kept, night, tmp_path / "back")


def test_what_was_released_stays_released(kept: Path) -> None:
    from tests.acceptance.test_collect_trouble import give_up, stored_names

    give_up(kept, "large")
    assert repair(kept).errors == []
    assert "large" not in stored_names(kept)


@pytest.mark.parametrize("what", ["torn", "no index", "foreign", "missing", "damaged names"])
def test_what_is_wrong_in_the_folder_is_named(kept: Path, what: str) -> None:
    path = next((kept / "packs").glob("*.pack"))
    with path.open("rb") as file:
        footer = packfile.read_footer(file.fileno())
    assert footer is not None
    if what == "torn":
        os.truncate(path, footer.index_offset - 100)
    elif what == "no index":
        os.truncate(path, footer.index_offset)
    elif what == "foreign":
        (kept / "packs" / "notes.txt").write_text("mine")
    elif what == "missing":
        path.unlink()
    else:
        flip_bit(path, path.read_bytes().rindex(b'{"is":"version"') + 40)
    report = examine(kept)
    if what == "foreign":
        assert (report.exit_code(), report.foreign, len(report.warnings)) == (0, 1, 1)
        return
    assert report.exit_code() == EXIT_DATA_AT_RISK
    (error,) = report.errors
    assert str(path) == error.place
    assert what != "no index" or error.found == "it was not sealed"
    if what == "no index":
        assert repair(kept).errors == []


def test_nothing_is_repaired_beside_a_collection(kept: Path, capsys: Capture) -> None:
    """What is taken over from a pack that goes meanwhile would be nowhere."""
    with Fence(kept / "fence").collecting():
        assert run(["doctor", "--repair", "--vault", str(kept)]) == EXIT_BUSY
        assert "collection is under way" in capsys.readouterr().err
        assert run(["doctor", "--vault", str(kept)]) == EXIT_DONE
    assert run(["doctor", "--repair", "--vault", str(kept)]) == EXIT_DONE


def test_repairing_waits_for_nobody(kept: Path, capsys: Capture) -> None:
    with opened(kept) as held, vault_lock(held.settings.lock_path, "archive"):
        assert run(["doctor", "--repair", "--vault", str(kept)]) == EXIT_BUSY
        assert run(["doctor", "--json", "--vault", str(kept)]) == EXIT_DONE
    document = json.loads(capsys.readouterr().out)
    assert (document["packs"], document["errors"]) == (1, [])


def test_a_lost_catalog_is_told_with_the_way_out(kept: Path, capsys: Capture) -> None:
    shutil.rmtree(kept / "catalog")
    assert run(["ls", "--vault", str(kept)]) == EXIT_FAILED
    shown = capsys.readouterr().err
    assert "the vault has lost its catalog" in shown
    assert "holdfast doctor --repair" in shown


@pytest.mark.parametrize("place", ["folder", "elsewhere"])
def test_a_pack_that_was_collected_and_is_about_to_go_is_not_taken_over_again(
    kept: Path, night: Path, tmp_path: Path, archived: Archive, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is archived next would name blocks in it, and the next collection would remove it all the same."""
    count_virtual_as_proof(kept)
    if place == "elsewhere":
        (tmp_path / "shelf").mkdir()
        use_store(kept, (tmp_path / "shelf").as_uri())
        moving.push(kept)
    assert release(kept, ReleaseRequest(patterns=("night/large",))).contents == 1

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.collecting._remove_emptied", lambda *_: 0)
        assert collect(kept, CollectRequest(everything=True)).collected == 1
    assert repair(kept).errors == []
    (tmp_path / "other").mkdir()
    shutil.copy(night / "large", tmp_path / "other")
    archived(tmp_path / "other", now=True)
    assert collect(kept, CollectRequest(everything=True)).packs == 1
    report = restore(kept, RestoreRequest(to=tmp_path / "back", patterns=("other",), origin="store"))
    assert (report.exit_code(), differences(tmp_path / "other", tmp_path / "back/other")) == (0, [])
    assert examine(kept).errors == []


@pytest.fixture
def elsewhere(kept: Path, tmp_path: Path) -> Path:
    """The vault's packs lie on a shelf, beside one of another vault."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    use_store(kept, shelf.as_uri())
    moving.push(kept)
    PackWriter(shelf, vault_id=uuid.uuid4(), pack_id=uuid.uuid4(), created_ns=1).seal()
    return kept


@pytest.mark.parametrize("loss", ["blocks", "names", "an older catalog"])
def test_packs_elsewhere_are_asked_as_well(
    elsewhere: Path, night: Path, tmp_path: Path, loss: str, archived: Archive, capsys: Capture
) -> None:
    assert examine(elsewhere).errors == []
    if loss == "an older catalog":
        shutil.copytree(elsewhere / "catalog", tmp_path / "older")
        (night / "new").write_bytes(os.urandom(100_000))
        archived(night, now=True)
        shutil.rmtree(elsewhere / "catalog")
        shutil.move(tmp_path / "older", elsewhere / "catalog")
    else:
        forget(elsewhere, *LOSSES[loss][0]())
    assert run(["doctor", "--vault", str(elsewhere)]) == EXIT_DATA_AT_RISK
    assert str(tmp_path / "shelf") in capsys.readouterr().err
    assert run(["doctor", "--repair", "--vault", str(elsewhere)]) == EXIT_DONE
    check_store(elsewhere, night, tmp_path / "back")


def test_an_older_catalog_learns_where_blocks_lie_that_were_gathered_and_moved(
    elsewhere: Path, night: Path, tmp_path: Path
) -> None:
    count_virtual_as_proof(elsewhere)
    shutil.copytree(elsewhere / "catalog", tmp_path / "older")
    release(elsewhere, ReleaseRequest(patterns=("night/large",)))
    assert collect(elsewhere, CollectRequest(everything=True)).packs == 1
    moving.push(elsewhere)
    shutil.rmtree(elsewhere / "catalog")
    shutil.move(tmp_path / "older", elsewhere / "catalog")
    assert all("missing" in str(error) for error in repair(elsewhere).errors)  # the old pack, and nothing else
    report = restore(elsewhere, RestoreRequest(to=tmp_path / "back", patterns=("night/small-*",), origin="store"))
    assert (report.exit_code(), len(list((tmp_path / "back/night").iterdir()))) == (0, 5)


def test_a_place_that_cannot_be_reached_is_no_disagreement(elsewhere: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "shelf").rename(tmp_path / "away")
    for arguments in (["doctor"], ["doctor", "--repair"]):
        assert run([*arguments, "--vault", str(elsewhere)]) == EXIT_FAILED
        assert "cannot be used" in capsys.readouterr().err
    (tmp_path / "away").rename(tmp_path / "shelf")
    assert run(["doctor", "--vault", str(elsewhere)]) == EXIT_DONE
