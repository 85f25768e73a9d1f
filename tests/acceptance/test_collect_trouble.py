"""Collecting when something is wrong: older catalogs, disks that are away, damage, kills, and others at work."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences, plain_night
from tests.acceptance.stores import count_virtual_as_proof

from holdfast import collecting
from holdfast.blocks import Fence, packfile, packformat, recover_packs
from holdfast.catalog import Catalog, files, packs, releasing
from holdfast.cli.app import run
from holdfast.collecting import CollectRequest, collect
from holdfast.config import open_vault
from holdfast.errors import EXIT_BUSY, EXIT_DATA_AT_RISK, EXIT_DONE, EXIT_FAILED
from holdfast.releasing import ReleaseRequest, release
from holdfast.restoring import RestoreRequest, restore
from holdfast.scrubbing import ScrubRequest, scrub
from holdfast.testing import flip_bit
from holdfast.vault import opened, owned

Capture = pytest.CaptureFixture[str]
EVERYTHING = CollectRequest(everything=True)


@pytest.fixture
def vault(vault: Path) -> Path:
    count_virtual_as_proof(vault)
    return vault


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return plain_night(tmp_path / "night", large_bytes=400_000, smalls=3)


@pytest.fixture
def staged(vault: Path, night: Path, archived: Archive) -> Path:
    """A vault whose night is in the store only."""
    settings = vault / "holdfast.toml"
    settings.write_text(settings.read_text().replace('start_at = "0 B"', 'start_at = "1 GB"'))
    archived(night)
    return vault


@pytest.fixture
def proven(vault: Path, night: Path, archived: Archive) -> Path:
    assert archived(night, now=True).exit_code() == 0
    return vault


def give_up(vault: Path, *names: str) -> None:
    """As a release that law 4 allows: there may be no tapes here."""
    with opened(vault) as held, held.catalog.transaction() as connection:
        meant = [v.version.content for v in files.all_versions(connection) if v.version.path.decode() in names]
        rows = releasing.stored_contents(connection, [content for content in meant if content is not None])
        releasing.release_contents(connection, rows, time.time_ns())


def store_bytes(vault: Path) -> int:
    return sum(path.stat().st_size for path in (vault / "packs").glob("*.pack"))


def names_in_packs(vault: Path, folder: Path) -> set[str]:
    """What whoever has nothing but the packs knows of; and all of it that is in the store comes back."""
    folder.mkdir()
    shutil.copytree(vault / "packs", folder / "packs")
    with Catalog(folder / "catalog.db") as catalog:
        recover_packs(
            folder / "packs", vault_id=open_vault(vault).id, known=catalog, sink=catalog, fence=Fence(folder / "fence")
        )
        with catalog.reading() as connection:
            return {v.version.path.decode() for v in files.all_versions(connection) if v.version.content}


def stored_names(vault: Path) -> set[str]:
    with opened(vault) as held:
        with held.catalog.reading() as connection:
            versions = [item.version for item in files.all_versions(connection)]
        return {v.path.decode() for v in versions if v.content and held.catalog.find_segments(v.content)}


SMALLS = {"small-0", "small-1", "small-2"}


@pytest.mark.parametrize("then", ["collect", "scrub", "archive"])
def test_law_1_an_older_catalog_that_is_put_back_loses_nothing(
    staged: Path, night: Path, tmp_path: Path, archived: Archive, then: str
) -> None:
    """It says that blocks lie in a pack that was collected since; another pack has them."""
    shutil.copytree(staged / "catalog", tmp_path / "older")
    give_up(staged, "large")
    assert collect(staged, EVERYTHING).packs
    shutil.rmtree(staged / "catalog")
    shutil.copytree(tmp_path / "older", staged / "catalog")
    if then == "collect":
        assert collect(staged, CollectRequest()).errors == []
    elif then == "scrub":
        with owned(staged, "test", print):
            pass
        assert {
            error.expected for error in scrub(staged, ScrubRequest(repair=False)).errors if "small" in str(error)
        } == set()
    else:
        other = tmp_path / "other"
        other.mkdir()
        for name in SMALLS:
            shutil.copy(night / name, other)
        archived(other)
        report = restore(staged, RestoreRequest(to=tmp_path / "back", patterns=("other",)))
        assert (report.exit_code(), differences(other, tmp_path / "back/other")) == (0, [])
    for _ in range(2):
        collect(staged, EVERYTHING)
        for name in SMALLS:
            to = tmp_path / "back" / str(time.time_ns())
            report = restore(staged, RestoreRequest(to=to, patterns=(f"night/{name}",)))
            assert (report.exit_code(), report.errors) == (0, [])
            assert (to / "night" / name).read_bytes() == (night / name).read_bytes()


def test_what_a_writer_found_for_one_group_it_may_name_in_a_later_one(staged: Path) -> None:
    with opened(staged) as held, held.store_writer() as writer:
        writer.barrier()
        give_up(staged, "large")
        assert collect(staged, EVERYTHING).waiting
        writer.barrier()
        assert collect(staged, EVERYTHING).waiting
        writer.named()
        assert not collect(staged, EVERYTHING).waiting


def test_a_damaged_index_and_a_lost_catalog_lose_no_name(staged: Path, tmp_path: Path) -> None:
    give_up(staged, "large")
    collect(staged, EVERYTHING)
    assert names_in_packs(staged, tmp_path / "whole") == {"large", *SMALLS}
    for path in (staged / "packs").glob("*.pack"):
        with path.open("rb") as file:
            footer = packfile.read_footer(file.fileno())
        assert footer is not None
        flip_bit(path, footer.index_offset + packformat.HEADER_BYTES + 10)
    assert names_in_packs(staged, tmp_path / "damaged") == {"large", *SMALLS}


def test_a_damaged_block_and_a_lost_catalog_lose_no_other_name(staged: Path, tmp_path: Path) -> None:
    with opened(staged) as held, held.catalog.reading() as connection:
        (pack_id,) = packs.sealed_packs(connection)
        place = packs.blocks_of_pack(connection, pack_id)[0]
    flip_bit(staged / f"packs/{pack_id}.pack", place.offset_bytes + 1000)
    assert names_in_packs(staged, tmp_path / "damaged") in (SMALLS, {"large"})


def test_a_store_whose_disk_is_away_is_left_alone(staged: Path, tmp_path: Path) -> None:
    give_up(staged, "large")
    (staged / "packs").rename(tmp_path / "disk")
    (staged / "packs").mkdir()
    report = collect(staged, EVERYTHING)
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert "is its disk mounted?" in str(report.errors[0])
    assert list((staged / "packs").iterdir()) == []
    (staged / "packs").rmdir()
    (tmp_path / "disk").rename(staged / "packs")
    assert collect(staged, EVERYTHING).exit_code() == 0
    assert names_in_packs(staged, tmp_path / "names") == {"large", *SMALLS}


def test_files_that_are_only_looked_at_again_do_not_fill_the_store_again(
    proven: Path, night: Path, archived: Archive
) -> None:
    release(proven, ReleaseRequest())
    collect(proven, EVERYTHING)
    before = store_bytes(proven)
    assert before < 20_000
    for _ in range(2):
        for path in night.iterdir():
            path.chmod(0o600)
            path.chmod(0o644)
        (night / f"new-{time.time_ns()}").write_bytes(b"new")
        assert archived(night, now=True).exit_code() == 0
        release(proven, ReleaseRequest())
        collect(proven, EVERYTHING)
    assert store_bytes(proven) < before + 40_000


def test_what_was_released_amid_a_collection_that_ends_there_stays_released(
    proven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(proven, ReleaseRequest(patterns=("night/large",)))

    def interrupt(*_: object) -> None:
        assert release(proven, ReleaseRequest(patterns=("night/small-0", "night/small-1"))).contents == 2
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_switch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            collect(proven, EVERYTHING)
    assert stored_names(proven) == {"small-2"}
    assert collect(proven, EVERYTHING).errors == []
    assert stored_names(proven) == {"small-2"}
    assert collect(proven, EVERYTHING).wasteful_packs == 0


def test_a_pack_with_damaged_names_stays_and_costs_nothing_more(proven: Path, capsys: Capture) -> None:
    release(proven, ReleaseRequest())
    for path in (proven / "packs").glob("*.pack"):
        flip_bit(path, path.read_bytes().rindex(b'{"is":"version"') + 40)
    before = store_bytes(proven)
    for _ in range(3):
        report = collect(proven, EVERYTHING)
        assert (report.exit_code(), len(report.warnings), store_bytes(proven)) == (0, 1, before)
    assert run(["collect", "--vault", str(proven)]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "got round: a pack of which little is needed stays" in shown
    assert "some waste is left" not in shown


def test_rotten_bytes_that_nothing_needs_are_no_risk(proven: Path) -> None:
    with opened(proven) as held, held.catalog.reading() as connection:
        (pack_id,) = packs.sealed_packs(connection)
        place = packs.blocks_of_pack(connection, pack_id)[0]
    flip_bit(proven / f"packs/{pack_id}.pack", place.offset_bytes + 1000)
    release(proven, ReleaseRequest())
    report = scrub(proven, ScrubRequest())
    assert (report.exit_code(), report.errors) == (0, [])
    assert "nothing needs it" in " ".join(map(str, report.warnings))
    assert collect(proven, EVERYTHING).exit_code() == 0


def test_a_pack_that_is_collected_under_a_scrub_is_not_missed(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(proven, ReleaseRequest(patterns=("night/large",)))
    real, done = packs.blocks_of_pack, list[int]()

    def meanwhile(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        if not done:
            done.append(collect(proven, EVERYTHING).packs)
        return found

    monkeypatch.setattr(packs, "blocks_of_pack", meanwhile)
    report = scrub(proven, ScrubRequest())
    assert done == [1]
    assert (report.exit_code(), report.errors, report.damaged_blocks) == (0, [], 0)


def test_a_pack_that_is_lost_for_good_is_forgotten_when_that_is_said(proven: Path, night: Path, tmp_path: Path) -> None:
    release(proven, ReleaseRequest(patterns=("night/large",)))
    for path in (proven / "packs").glob("*.pack"):
        path.unlink()
    assert collect(proven, EVERYTHING).exit_code() == EXIT_DATA_AT_RISK
    assert scrub(proven, ScrubRequest(replace_lost=True)).exit_code() == 0
    assert collect(proven, EVERYTHING).exit_code() == 0
    assert scrub(proven, ScrubRequest()).exit_code() == 0
    report = restore(proven, RestoreRequest(to=tmp_path / "back"))
    assert (report.exit_code(), differences(night, tmp_path / "back/night")) == (0, [])


def test_what_was_collected_before_an_interruption_is_removed_and_counted_right(
    proven: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    release(proven, ReleaseRequest())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_remove", interrupt)
        with pytest.raises(KeyboardInterrupt):
            collect(proven, EVERYTHING)
    assert run(["collect", "--vault", str(proven)]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "removed 1 pack " in shown
    assert "left" not in shown


def test_equal_files_are_one_content_however_many_there_are(
    vault: Path, tmp_path: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = tmp_path / "same"
    same.mkdir()
    for number in range(9):
        (same / f"f{number}").write_bytes(b"equal" * 1000)
    archived(same, now=True)
    monkeypatch.setattr(releasing, "PAGE_ROWS", 2)
    for dry_run in (True, False):
        report = release(vault, ReleaseRequest(dry_run=dry_run))
        assert (report.contents, report.released_bytes, report.refused) == (1, 5000, 0)


def test_a_release_is_told_though_no_room_can_be_given_back(proven: Path, capsys: Capture) -> None:
    with Fence(proven / "fence").collecting():
        assert run(["release", "--from", "store", "--vault", str(proven), "--json"]) == EXIT_FAILED
    document = json.loads(capsys.readouterr().out)
    assert document["contents"] == 4
    assert document["errors"][0]["error"] == "another collection is under way"
    with Fence(proven / "fence").collecting():
        assert run(["collect", "--vault", str(proven)]) == EXIT_BUSY


def test_names_that_mean_nothing_are_told(proven: Path, capsys: Capture) -> None:
    assert run(["release", "nix", "--from", "store", "--vault", str(proven)]) == EXIT_FAILED
    assert "nothing in the vault has such a name" in capsys.readouterr().err
    assert run(["release", "night", "--from", "store", "--vault", str(proven)]) == EXIT_DONE
    assert run(["release", "night", "--from", "store", "--vault", str(proven)]) == EXIT_DONE  # nothing is left to do


def collect_and_be_killed_before_the_removal(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(vault, EVERYTHING)


def check_restored(vault: Path, folder: Path, to: Path) -> None:
    report = restore(vault, RestoreRequest(to=to, patterns=(folder.name,)))
    assert (report.exit_code(), report.errors) == (0, [])
    assert differences(folder, to / folder.name) == []


def test_a_pack_that_waits_to_be_removed_is_not_named_again(
    staged: Path, night: Path, tmp_path: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A doctor comes by, and then a file with a block that had been given up."""
    give_up(staged, "large")
    collect_and_be_killed_before_the_removal(staged, monkeypatch)
    assert run(["doctor", "--vault", str(staged)]) == EXIT_DONE
    assert run(["doctor", "--repair", "--vault", str(staged)]) == EXIT_DONE
    other = tmp_path / "other"
    other.mkdir()
    (other / "begins-alike").write_bytes((night / "large").read_bytes() + b"and more")
    archived(other)
    for number in range(2):
        assert collect(staged, EVERYTHING).errors == []
        check_restored(staged, other, tmp_path / f"back-{number}")


def test_a_repair_points_to_no_pack_that_is_to_be_removed(
    staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_up(staged, "large")
    before = {path.name for path in (staged / "packs").glob("*.pack")}
    collect_and_be_killed_before_the_removal(staged, monkeypatch)
    (new,) = {path for path in (staged / "packs").glob("*.pack") if path.name not in before}
    with opened(staged) as held, held.catalog.reading() as connection:
        places = [p for pack_id in packs.sealed_packs(connection) for p in packs.blocks_of_pack(connection, pack_id)]
    for place in places:
        flip_bit(new, place.offset_bytes + 1000)
    assert scrub(staged, ScrubRequest()).exit_code() == 0  # from the source
    collect(staged, EVERYTHING)
    report = restore(staged, RestoreRequest(to=tmp_path / "back", patterns=("night/small-*",)))
    assert (report.exit_code(), report.errors) == (0, [])


def test_law_1_bytes_that_were_stored_again_are_found_after_an_older_catalog(
    staged: Path, night: Path, tmp_path: Path, archived: Archive
) -> None:
    """The older catalog knows the first place only, which was collected; the second one is another block."""
    shutil.copytree(staged / "catalog", tmp_path / "older")
    give_up(staged, "large", *SMALLS)
    assert collect(staged, EVERYTHING).packs
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(night / "small-1", other)
    archived(other)
    shutil.rmtree(staged / "catalog")
    shutil.copytree(tmp_path / "older", staged / "catalog")
    for number in range(2):
        run(["doctor", "--repair", "--vault", str(staged)])
        check_restored(staged, other, tmp_path / f"back-{number}")
        collect(staged, EVERYTHING)
    check_restored(staged, other, tmp_path / "back")


def test_a_block_that_the_catalog_has_never_heard_of_stays(staged: Path, capsys: Capture) -> None:
    from sqlalchemy import delete

    from holdfast.catalog.schema import block, segment

    give_up(staged, "large")
    with opened(staged) as held, held.catalog.transaction() as connection:
        connection.execute(delete(segment))
        connection.execute(delete(block).where(block.c.released.is_(False)))
    before = {path.name for path in (staged / "packs").glob("*.pack")}
    assert run(["collect", "--all", "--vault", str(staged)]) == EXIT_DATA_AT_RISK
    assert "holdfast doctor --repair" in capsys.readouterr().err
    assert {path.name for path in (staged / "packs").glob("*.pack")} == before
    assert run(["doctor", "--repair", "--vault", str(staged)]) == EXIT_DONE
    assert stored_names(staged) >= SMALLS


def test_a_pack_that_was_said_to_be_lost_and_comes_back_is_taken_over(proven: Path, tmp_path: Path) -> None:
    release(proven, ReleaseRequest())
    (path,) = (proven / "packs").glob("*.pack")
    path.rename(tmp_path / path.name)
    assert scrub(proven, ScrubRequest(replace_lost=True)).exit_code() == 0
    (tmp_path / path.name).rename(path)
    for _ in range(2):
        collect(proven, EVERYTHING)
    assert names_in_packs(proven, tmp_path / "names") == {"large", *SMALLS}
