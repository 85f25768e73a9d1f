"""A vault whose catalog, journals and packs are gone is filled again from its cartridges alone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.acceptance.conftest import SMALL, Archive
from tests.acceptance.nights import differences, make_night

from holdfast.catalog import Catalog, files, proof, schema, tapes
from holdfast.cli.app import run
from holdfast.config import init_vault, open_vault
from holdfast.durable import Journal
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_FAILED, HoldfastError, VaultError
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.rebuilding import rebuild
from holdfast.reports import RebuildReport
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape import layout, prepare, session
from holdfast.tape.changer import VirtualChanger
from holdfast.tape.drive.virtual import VirtualDrive, make_cartridge
from holdfast.tape.journal import CartridgeIdentity
from holdfast.tape.library import TapeLibrary
from holdfast.testing import count_events, flip_bit, run_killed_at
from holdfast.values import Side, show_path

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return make_night(tmp_path / "night")


def cartridge(vault: Path, barcode: str) -> Path:
    return vault / "library" / "cartridges" / barcode


def lose_vault(vault: Path) -> None:
    """All that is left are the cartridges, put into the library of a new vault."""
    saved = vault.with_name("saved")
    (vault / "library" / "cartridges").rename(saved)
    shutil.rmtree(vault)
    init_vault(vault, SMALL)
    saved.rename(vault / "library" / "cartridges")


def lose_knowledge(vault: Path) -> None:
    """Catalog and journals are gone; settings and packs are there."""
    for room in ("catalog", "journals"):
        shutil.rmtree(vault / room)
        (vault / room).mkdir()


def all_rows(vault: Path) -> dict[str, list[tuple[object, ...]]]:
    """What the catalog knows of tapes and versions, without row numbers."""
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        return {
            "versions": sorted(
                (
                    str(p.version),
                    connection.scalar(select(schema.version.c.ended_ns).where(schema.version.c.id == p.row)),
                )
                for p in _every_version(connection)
            ),
            "sources": [(s,) for s in files.all_sources(connection)],
            "pairs": [(replace(p, state=""),) for p in tapes.all_pairs(connection)],
            "tape files": [
                (item.barcode, str(tape_file))
                for pair in tapes.all_pairs(connection)
                for item in pair.cartridges
                for tape_file in tapes.tape_files(connection, item.barcode)
            ],
            "members": sorted(
                (str(item.object_id), str(facts))
                for pair in tapes.all_pairs(connection)
                for item in tapes.objects_of_pair(connection, pair.id)
                for facts, _ in tapes.members_of(connection, item.object_id)  # type: ignore[arg-type]
            ),
            "listed": sorted(
                str(p.version.id)
                for pair in tapes.all_pairs(connection)
                for p in tapes.listed_versions(connection, pair.id)
            ),
            "sessions": sorted((bytes(u),) for u in connection.scalars(select(schema.session.c.uuid))),
        }


def _every_version(connection: object) -> list[files.PresentVersion]:
    return [files.present_from(row) for row in connection.execute(files.select_versions())]  # type: ignore[attr-defined]


def journals(vault: Path) -> dict[str, list[dict[str, object]]]:
    """The journals of cartridges, without the times at which their lines were written."""
    return {
        path.name: [{k: v for k, v in entry.items() if k != "at_ns"} for entry in Journal(path).entries()]
        for path in sorted((vault / "journals").glob("*L8.jsonl"))
    }


def back_as_it_was(vault: Path, night: Path, to: Path, **options: object) -> None:
    report = restore(vault, RestoreRequest(to=to, **options))  # type: ignore[arg-type]
    assert report.exit_code() == 0, report.errors
    assert differences(night, to / night.name) == []


def change(night: Path) -> None:
    """A later night: something is new, something else, something gone, something only touched."""
    (night / "new").write_bytes(os.urandom(50_000))
    (night / "visdata").write_bytes(os.urandom(60_000))
    (night / "tab\tquote\"'").unlink()
    os.utime(night / "larger-than-a-block", ns=(10**18, 10**18))


@pytest.mark.parametrize("in_place", [False, True])
def test_everything_is_there_again_after_all_but_the_cartridges_is_lost(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, in_place: bool
) -> None:
    archived(night, in_place=in_place)
    shutil.copytree(night, tmp_path / "before" / "night", symlinks=True)
    before = tmp_path / "before" / "night"
    between_ns = time.time_ns()
    change(night)
    archived(night, in_place=in_place)
    rows, told, own_id = all_rows(vault), journals(vault), open_vault(vault).id

    lose_vault(vault)
    report = rebuild(vault)
    assert (report.exit_code(), report.errors, report.missing) == (0, [], [])
    assert report.adopted_id == str(own_id) == str(open_vault(vault).id)
    assert all_rows(vault) == rows
    assert journals(vault) == told

    back_as_it_was(vault, night, tmp_path / "back", origin="tape")
    as_of = restore(vault, RestoreRequest(to=tmp_path / "as-of", as_of_ns=between_ns))
    assert as_of.exit_code() == 0
    assert _but_hard_links(differences(before, tmp_path / "as-of" / "night")) == []

    again = archived(night, in_place=in_place)
    assert (again.exit_code(), again.kept.new_versions, again.objects) == (0, 0, 0), again.errors
    (night / "another").write_bytes(b"more")
    more = archived(night, in_place=in_place)
    assert (more.exit_code(), more.objects, more.written_on) == (0, 1, ["HF0001L8", "HF0002L8"])
    assert verify(vault, (), everything=True).exit_code() == 0


def _but_hard_links(found: list[str]) -> list[str]:
    """`copytree` parted the hard links."""
    return [text for text in found if "visdata" not in text and "hard-link" not in text]


# -- what the sides do not both have


def archived_twice(night: Path, archived: Archive, **options: object) -> None:
    archived(night, **options)
    change(night)
    assert archived(night, **options).exit_code() == 0


def states(report: RebuildReport) -> dict[str, str]:
    return {item.barcode: item.state for item in report.cartridges}


def kinds_on(vault: Path, barcode: str) -> list[str]:
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        return [item.kind for item in tapes.tape_files(connection, barcode)]


def flip_all(folder: Path, numbers: list[int], offset: int = 2600) -> None:
    for number in numbers:
        flip_bit(folder / f"{number:05d}", offset)


def test_one_side_is_missing_the_other_gives_everything_and_another_cartridge_takes_its_place(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    archived_twice(night, archived)
    lose_vault(vault)
    cartridge(vault, "HF0002L8").rename(tmp_path / "HF0002L8")
    report = rebuild(vault)
    assert (report.exit_code(), report.missing, states(report)) == (0, ["HF0002L8"], {"HF0001L8": "rebuilt"})
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")

    (tmp_path / "HF0002L8").rename(cartridge(vault, "HF0002L8"))
    assert states(rebuild(vault)) == {"HF0001L8": "known", "HF0002L8": "rebuilt"}
    again = archived(night)
    assert (again.exit_code(), again.objects, again.written_on) == (0, 0, []), again.errors

    lose_vault(vault)
    shutil.rmtree(cartridge(vault, "HF0002L8"))
    rebuild(vault)
    anew = archived(night)
    assert (anew.exit_code(), anew.written_on) == (0, ["HF0001L8", "HF0003L8"]), anew.errors


def test_a_damaged_label_is_reported_and_the_twin_gives_everything(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    archived_twice(night, archived)
    lose_vault(vault)
    flip_bit(cartridge(vault, "HF0001L8") / "00000", 100)
    report = rebuild(vault)
    assert (report.exit_code(), states(report)) == (1, {"HF0001L8": "not read", "HF0002L8": "rebuilt"})
    assert [error.place for error in report.errors] == ["HF0001L8 tape file 0"]
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")
    assert verify(vault, (), everything=True).exit_code() == 0


def test_catalogs_that_are_damaged_on_both_sides_are_no_loss_of_files(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """Then objects are read member by member; an end that no tape tells is known only where a version follows."""
    archived_twice(night, archived)
    numbers = [number for number, kind in enumerate(kinds_on(vault, "HF0001L8")) if kind == "catalog"]
    own = journals(vault)
    lose_vault(vault)
    for barcode in ("HF0001L8", "HF0002L8"):
        flip_all(cartridge(vault, barcode), numbers)
    report = rebuild(vault)
    assert (report.exit_code(), len(report.errors)) == (1, 2 * len(numbers))
    assert report.scanned == report.objects > 0
    told = journals(vault)
    for name, entries in own.items():
        for entry, found in zip(entries, told[name], strict=False):
            assert entry == found or entry["kind"] == "catalog"
    restored = restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert restored.exit_code() == 0, restored.errors
    left = differences(night, tmp_path / "back" / "night")
    assert {text.partition(": ")[0] for text in left} <= {
        "b'/tab\\tquote\\\"\\''",
        "b'/larger-than-a-block'",
        "b'/sparse'",
    } | {repr(b"/tab\tquote\"'")}, left
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        assert [(source.name, source.host) for source in files.all_sources(connection)] == [("night", "")]
    first = archived(night)  # neither side ends as its journal says; each is looked at in both drives
    assert first.exit_code() == EXIT_DATA_AT_RISK
    again = archived(night)  # all is written on another pair
    assert (again.errors, again.unproven) == ([], [])
    only_there = show_path(b"night/tab\tquote\"'")  # which the source has no more
    assert (again.exit_code(), again.gone_unproven) == (1, [only_there])
    assert {"HF0001L8", "HF0002L8"}.isdisjoint(again.written_on)
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        assert [source.root for source in files.all_sources(connection)] == [os.fsencode(night)]


def test_objects_behind_the_last_whole_catalog_are_read_from_whichever_side_has_them(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    archived(night)
    (night / "second").write_bytes(os.urandom(70_000))
    archived(night)
    rows, own = all_rows(vault), journals(vault)
    kinds = kinds_on(vault, "HF0001L8")
    first_end = kinds.index("catalog")
    behind = list(range(first_end + 2, len(kinds)))
    lose_vault(vault)
    flip_all(cartridge(vault, "HF0001L8"), behind)
    flip_all(cartridge(vault, "HF0002L8"), [number for number in behind if kinds[number] == "catalog"])
    report = rebuild(vault)
    assert (report.exit_code(), report.scanned) == (1, kinds[behind[0] :].count("object"))
    assert all_rows(vault)["members"] == rows["members"]
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")
    assert report.scanned
    for name, told in journals(vault).items():
        assert [e for e in told if e.get("kind") != "catalog"] == [e for e in own[name] if e.get("kind") != "catalog"]


def test_a_side_that_ends_earlier_is_levelled_by_the_next_run(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    archived(night)
    saved = shutil.copytree(cartridge(vault, "HF0002L8"), tmp_path / "HF0002L8")
    change(night)
    archived(night)
    rows, own = all_rows(vault), journals(vault)
    lose_vault(vault)
    shutil.rmtree(cartridge(vault, "HF0002L8"))
    shutil.copytree(saved, cartridge(vault, "HF0002L8"))
    assert rebuild(vault).exit_code() == 0
    assert len(journals(vault)["HF0002L8.jsonl"]) < len(own["HF0002L8.jsonl"])
    assert archived(night).exit_code() == 0
    assert (all_rows(vault), journals(vault)) == (rows, own)


# -- two pairs


def test_two_pairs_come_back_with_the_ends_that_only_the_second_tells(
    tmp_path: Path, vault: Path, archived: Archive
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    for number in range(60):
        (night / f"{number:02d}").write_bytes(os.urandom(900_000))
    archived(night)
    between_ns = time.time_ns()
    for number in range(30):
        (night / f"{number:02d}").write_bytes(os.urandom(900_000))
    for number in range(50, 60):
        (night / f"{number:02d}").unlink()
    assert "HF0003L8" in archived(night).written_on
    rows, own = all_rows(vault), journals(vault)
    lose_vault(vault)
    report = rebuild(vault)
    assert (report.exit_code(), report.pairs) == (0, 2)
    assert (all_rows(vault), journals(vault)) == (rows, own)
    as_of = restore(vault, RestoreRequest(to=tmp_path / "as-of", as_of_ns=between_ns))
    assert (as_of.exit_code(), as_of.files) == (0, 60)
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")

    lose_vault(vault)
    for barcode in ("HF0001L8", "HF0002L8"):
        cartridge(vault, barcode).rename(tmp_path / barcode)
    report = rebuild(vault)
    assert (report.exit_code(), report.missing) == (0, ["HF0001L8", "HF0002L8"])
    for barcode in ("HF0001L8", "HF0002L8"):
        (tmp_path / barcode).rename(cartridge(vault, barcode))
    assert states(rebuild(vault, ("HF0002L8",))) == {"HF0001L8": "rebuilt", "HF0002L8": "rebuilt"}
    assert rebuild(vault).exit_code() == 0
    assert all_rows(vault) | {"pairs": []} == rows | {"pairs": []} or _sorted(all_rows(vault)) == _sorted(rows)


def _sorted(rows: dict[str, list[tuple[object, ...]]]) -> dict[str, list[str]]:
    return {name: sorted(map(str, found)) for name, found in rows.items()}


# -- what counts, and what is not ours


def test_law_4_two_proofs_before_release_what_travelled_on_tape_is_history_until_tapes_are_read_again(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, capsys: Capture
) -> None:
    archived_twice(night, archived)
    lose_vault(vault)
    report = rebuild(vault)
    assert report.evidence > 0
    assert report.totals["proven"] == 0
    assert run(["custody", "night/visdata", "--vault", str(vault)]) == 0
    assert "matched" in capsys.readouterr().out
    assert verify(vault, (), everything=False).exit_code() == 0
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        totals = proof.count_proven(connection)
    assert totals["proven"] == totals["versions"] > 0
    assert rebuild(vault).totals["proven"] == totals["proven"], "what is known stays known"


def make_foreign(vault: Path, barcode: str, data: bytes) -> None:
    folder = cartridge(vault, barcode)
    make_cartridge(folder, barcode, 2**26)
    if data:
        drive = VirtualDrive("TEST", folder)
        drive.write_record(memoryview(data))
        drive.write_file_mark(synchronous=True)
        drive.close()


def test_blank_foreign_and_broken_cartridges_are_reported_and_the_rest_is_done(
    vault: Path, night: Path, archived: Archive, capsys: Capture
) -> None:
    archived(night)
    lose_vault(vault)
    make_foreign(vault, "HF0005L8", b"")
    make_foreign(vault, "HF0006L8", b"not a tar at all" * 1000)
    make_foreign(vault, "HF0007L8", b"x" * 512)
    (cartridge(vault, "HF0007L8") / "marks.jsonl").write_bytes(b"not a mark\n")
    label = (cartridge(vault, "HF0001L8") / "00000").read_bytes()
    make_foreign(vault, "HF0008L8", label)
    assert run(["rebuild", "--vault", str(vault), "--json"]) == EXIT_FAILED
    report = json.loads(capsys.readouterr().out)
    found = {item["barcode"]: item["state"] for item in report["cartridges"]}
    assert found == {
        "HF0001L8": "rebuilt",
        "HF0002L8": "rebuilt",
        "HF0005L8": "blank",
        "HF0006L8": "not read",
        "HF0007L8": "not read",
        "HF0008L8": "not read",
    }
    assert len(report["errors"]) == 3
    assert archived(night).exit_code() == 0


def test_a_label_of_a_newer_format_is_left_alone(vault: Path, night: Path, archived: Archive) -> None:
    archived(night)
    lose_vault(vault)
    path = cartridge(vault, "HF0001L8") / "00000"
    path.write_bytes(path.read_bytes().replace(b'"holdfast_tape": 1', b'"holdfast_tape": 9'))
    report = rebuild(vault)
    assert (report.exit_code(), states(report)["HF0001L8"]) == (1, "not read")
    assert "newer format" in str(report.errors[0])


def test_tapes_of_two_vaults_are_named_and_each_goes_where_it_belongs(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    archived(night)
    own_id = open_vault(vault).id
    other = tmp_path / "other"
    init_vault(other, SMALL)
    archive(other, ArchiveRequest(paths=(night,)))
    lose_vault(vault)
    for old, new in (("HF0001L8", "HF0011L8"), ("HF0002L8", "HF0012L8")):
        rename_cartridge(cartridge(other, old), cartridge(vault, new), {"HF0001L8": "HF0011L8", "HF0002L8": "HF0012L8"})
    with pytest.raises(VaultError, match="several vaults") as raised:
        rebuild(vault)
    assert str(own_id) in str(raised.value)
    assert "HF0011L8" in str(raised.value)
    assert all_rows(vault)["pairs"] == []

    assert rebuild(vault, ("HF0002L8",)).exit_code() == 0
    assert open_vault(vault).id == own_id
    report = rebuild(vault)
    assert (report.exit_code(), states(report)["HF0011L8"]) == (1, "not read")
    assert "another vault" in str(report.errors[0])


def rename_cartridge(old: Path, new: Path, names: dict[str, str]) -> None:
    """The same tape under another barcode, in its label too."""
    shutil.copytree(old, new)
    for path in (new / "cartridge.json", new / "00000"):
        data = path.read_bytes()
        if path.name == "00000":
            before = len(data)
            for one, two in names.items():
                data = data.replace(one.encode(), two.encode())
            assert len(data) == before
        else:
            data = data.replace(old.name.encode(), new.name.encode())
        path.write_bytes(data)


def test_what_contradicts_what_is_known_is_an_error_that_names_both(
    vault: Path, night: Path, archived: Archive
) -> None:
    archived(night)
    path = vault / "journals" / "HF0001L8.jsonl"
    lines = path.read_text().splitlines()
    entry = json.loads(lines[2])
    other = entry | {"blake3": "00" * 32}
    path.write_text("\n".join([*lines[:2], json.dumps(other), *lines[3:]]) + "\n")
    before, rows = path.read_bytes(), all_rows(vault)
    report = rebuild(vault)
    assert (report.exit_code(), states(report)["HF0001L8"]) == (1, "not rebuilt")
    (error,) = report.errors
    assert error.place == "HF0001L8 tape file 1"
    assert other["blake3"] in (error.expected or "")
    assert entry["blake3"] in (error.found or "")
    assert (path.read_bytes(), all_rows(vault)) == (before, rows)


def test_rebuilding_what_is_known_changes_nothing(vault: Path, night: Path, archived: Archive) -> None:
    archived_twice(night, archived)
    before = {path: path.read_bytes() for path in (vault / "journals").iterdir()}
    rows = all_rows(vault)
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        proven = proof.count_proven(connection)
    for _ in range(2):
        report = rebuild(vault)
        assert (report.exit_code(), report.objects, report.evidence) == (0, 0, 0)
        assert report.totals["proven"] == proven["proven"] > 0
    assert all_rows(vault) == rows
    assert {path: path.read_bytes() for path in (vault / "journals").iterdir()} == before


@pytest.mark.parametrize("in_place", [False, True])
def test_a_lost_catalog_beside_journals_and_packs_that_are_there(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, in_place: bool
) -> None:
    archived_twice(night, archived, in_place=in_place)
    rows, own = all_rows(vault), journals(vault)
    shutil.rmtree(vault / "catalog")
    (vault / "catalog").mkdir()
    report = rebuild(vault)
    assert (report.exit_code(), report.totals["proven"]) == (0, 0)
    assert (_sorted(all_rows(vault)), journals(vault)) == (_sorted(rows), own)
    back_as_it_was(vault, night, tmp_path / "back")
    again = archived(night, in_place=in_place)
    assert (again.exit_code(), again.kept.new_versions, again.objects) == (0, 0, 0)


def test_a_run_with_an_empty_catalog_says_that_the_tapes_can_fill_it(
    vault: Path, night: Path, archived: Archive
) -> None:
    archived(night, in_place=True)
    shutil.rmtree(vault / "catalog")
    (vault / "catalog").mkdir()
    with pytest.raises(VaultError, match="holdfast rebuild"):
        archived(night, in_place=True)
    assert rebuild(vault).exit_code() == 0
    assert archived(night, in_place=True).exit_code() == 0


# -- law 6: a rebuild that was killed


def test_law_6_resume_is_running_again_wherever_a_rebuild_was_killed(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    archived_twice(night, archived)
    rows, own = all_rows(vault), journals(vault)
    lose_vault(vault)
    start = tmp_path / "start"
    vault.rename(start)
    argv = [sys.executable, "-c", "from holdfast.cli import main; main()", "rebuild", "--vault", str(vault)]
    shutil.copytree(start, vault)
    total = count_events(argv, vault)
    assert total > 20
    for turn, number in enumerate(range(1, total, total // 6)):
        shutil.rmtree(vault)
        shutil.copytree(start, vault)
        outcome = run_killed_at(argv, number, vault)
        assert outcome.reached
        before = tape_bytes(vault)
        if turn % 2:
            with contextlib.suppress(HoldfastError):
                archive(vault, ArchiveRequest(paths=()))  # refuses, or does nothing: it writes over nothing
        report = rebuild(vault)
        assert (report.exit_code(), report.errors) == (0, []), number
        assert (_sorted(all_rows(vault)), journals(vault)) == (_sorted(rows), own), number
        assert tape_bytes(vault) == before
        assert turn % 2 or report.totals["proven"] == 0, number


def tape_bytes(vault: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in (vault / "library" / "cartridges").rglob("*") if p.is_file()}


# -- law 5: journals and catalog put back from an older copy


@pytest.mark.parametrize("sessions", [1, 2])
def test_law_5_never_overwrite_sessions_that_only_the_tapes_know(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, sessions: int
) -> None:
    """Somebody put back yesterday's journals and catalog: what was committed since is taken over from tape."""
    archived(night)
    for room in ("catalog", "journals", "packs"):
        shutil.copytree(vault / room, tmp_path / room)
    change(night)
    archived(night)
    if sessions == 2:
        (night / "third").write_bytes(os.urandom(30_000))
        archived(night)
    rows, own, before = all_rows(vault), journals(vault), tape_bytes(vault)
    for room in ("catalog", "journals", "packs"):
        shutil.rmtree(vault / room)
        shutil.copytree(tmp_path / room, vault / room)
    (night / "later").write_bytes(b"after the accident")
    assert archived(night).exit_code() == 0
    for path, data in before.items():
        if not path.endswith("marks.jsonl"):
            assert Path(path).read_bytes() == data
    after = journals(vault)
    assert {name: entries[: len(own[name])] for name, entries in after.items()} == own
    assert {str(row) for row in rows["members"]} <= {str(row) for row in all_rows(vault)["members"]}
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")
    assert verify(vault, (), everything=True).exit_code() == 0


def test_law_5_never_overwrite_what_cannot_be_taken_over(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    archived(night)
    for room in ("catalog", "journals", "packs"):
        shutil.copytree(vault / room, tmp_path / room)
    change(night)
    archived(night)
    for room in ("catalog", "journals", "packs"):
        shutil.rmtree(vault / room)
        shutil.copytree(tmp_path / room, vault / room)
    kinds = kinds_on(vault, "HF0001L8")
    for folder in (cartridge(vault, "HF0001L8"), cartridge(vault, "HF0002L8")):
        flip_all(folder, [len(kinds), len(kinds) + 1, len(kinds) + 2])
    before = tape_bytes(vault)
    for _ in range(2):
        with contextlib.suppress(HoldfastError):
            archived(night)
        after = tape_bytes(vault)
        assert {path: after[path] for path in before} == before
    assert archived(night).exit_code() == 0
    after = tape_bytes(vault)
    assert {path: after[path] for path in before} == before
    back_as_it_was(vault, night, tmp_path / "back")


def test_journals_that_are_older_than_the_catalog_are_completed_from_the_tapes(
    vault: Path, night: Path, archived: Archive
) -> None:
    archived(night)
    old = {path: path.read_bytes() for path in (vault / "journals").glob("*L8.jsonl")}
    change(night)
    archived(night)
    own = journals(vault)
    for path, data in old.items():
        path.write_bytes(data)
    (night / "later").write_bytes(b"after the accident")
    assert "holdfast rebuild" in str(archived(night).errors[0])
    rows, own = all_rows(vault), journals(vault) | own
    report = rebuild(vault)
    assert (report.exit_code(), report.objects, journals(vault)) == (0, 0, own)
    assert all_rows(vault) | {"versions": []} == rows | {"versions": []}
    assert archived(night).exit_code() == 0


def test_law_6_resume_is_running_again_after_a_kill_between_the_tapes_and_the_journals(
    vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is whole on tape: it is taken over and not written again."""

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(session, "commit_journals", killed)
    with pytest.raises(Killed):
        archived(night)
    monkeypatch.undo()
    on_tape = [path.name for path in cartridge(vault, "HF0001L8").iterdir()]
    before = journals(vault)["HF0001L8.jsonl"]
    assert before[-1]["kind"] == "object"
    again = archived(night)
    assert (again.exit_code(), again.objects) == (0, 0), again.errors
    assert sorted(path.name for path in cartridge(vault, "HF0001L8").iterdir()) == sorted(on_tape)
    added = journals(vault)["HF0001L8.jsonl"][len(before) :]
    assert [entry["kind"] for entry in added] == ["catalog", "catalog"]
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        assert {uuid.UUID(bytes=row) for row in connection.scalars(select(schema.session.c.uuid))} == {
            uuid.UUID(str(added[0]["id"]))
        }


def test_a_catalog_that_was_cut_short_is_nobodys(vault: Path, night: Path, archived: Archive) -> None:
    """A real drive puts a mark behind what a killed run was writing."""
    archived(night)
    own = journals(vault)
    pair_id = uuid.UUID(str(own["HF0001L8.jsonl"][0]["pair_id"]))
    whole = (cartridge(vault, "HF0001L8") / f"{len(own['HF0001L8.jsonl']) - 2:05d}").read_bytes()
    head = layout.encode_global(layout.object_comment("catalog", uuid.uuid4(), pair_id))
    record = (head + whole[len(head) : 2600] + os.urandom(2**18))[: 2**18]
    for barcode in ("HF0001L8", "HF0002L8"):
        drive = VirtualDrive("TEST", cartridge(vault, barcode))
        drive.space_file_marks(len(own["HF0001L8.jsonl"]) - 1)
        data = bytearray(record)
        size = data.index(b"ustar", 2048) - 257 + 124
        data[size : size + 12] = b"%011o\0" % 10**7
        checksum = data[size - 124 : size - 124 + 512]
        checksum[148:156] = b" " * 8
        data[size + 24 : size + 32] = b"%06o\0 " % sum(checksum)
        drive.write_record(memoryview(data))
        drive.write_file_mark(synchronous=True)
        drive.close()
    report = rebuild(vault)
    assert [error.message for error in report.errors] == ["a catalog cannot be read"] * 2
    assert journals(vault) == own
    (night / "later").write_bytes(b"more")
    assert archived(night).exit_code() == 0
    assert {name: entries[: len(own[name])] for name, entries in journals(vault).items()} == own
    assert verify(vault, (), everything=True).exit_code() == 0


def test_earlier_cartridges_that_only_a_ledger_names_are_told_as_missing(
    vault: Path, night: Path, archived: Archive
) -> None:
    archived(night)
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.transaction() as connection:
        tapes.set_pair_state(connection, tapes.all_pairs(connection)[0].id, "full")
    (night / "second").write_bytes(b"on another pair")
    assert archived(night).written_on == ["HF0003L8", "HF0004L8"]
    lose_vault(vault)
    for barcode in ("HF0001L8", "HF0002L8"):
        shutil.rmtree(cartridge(vault, barcode))
    report = rebuild(vault)
    assert (report.exit_code(), report.missing) == (0, ["HF0001L8", "HF0002L8"])


def test_a_cartridge_that_took_the_place_of_another_is_its_side_of_the_pair(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """The label of its twin names the failed one, which lies in the library still."""
    archived_twice(night, archived)
    flip_all(cartridge(vault, "HF0001L8"), [2])
    verify(vault, (), everything=True)
    assert archived(night).exit_code() == 0
    for lost in ((), ("HF0001L8",)):
        lose_vault(vault)
        for barcode in lost:
            shutil.rmtree(cartridge(vault, barcode))
        report = rebuild(vault)
        assert report.errors == []
        assert states(report).items() >= {"HF0002L8": "rebuilt", "HF0003L8": "rebuilt"}.items()
        assert states(report).get("HF0001L8") == (None if lost else "replaced")
        again = archived(night)
        assert (again.exit_code(), again.objects, again.written_on) == (0, 0, []), again.errors
        back_as_it_was(vault, night, tmp_path / f"back-{len(lost)}", origin="tape")


def test_a_pair_whose_missing_side_was_replaced_is_followed_by_another_pair(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    archived(night)
    lose_vault(vault)
    shutil.rmtree(cartridge(vault, "HF0002L8"))
    rebuild(vault)
    assert archived(night).exit_code() == 0
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.transaction() as connection:
        (pair,) = tapes.all_pairs(connection)
        tapes.set_pair_state(connection, pair.id, "full")
    change(night)
    report = archived(night)
    assert (report.exit_code(), report.written_on) == (0, ["HF0004L8", "HF0005L8"]), report.errors
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")


def test_a_replacement_with_a_longer_label_can_be_rebuilt(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger may be longer, so all its tape files begin at other blocks than those of its twin."""
    ledger = prepare._ledger

    def longer(library: TapeLibrary, identity: CartridgeIdentity) -> bytes:
        return b"\n" * 600_000 if identity.replaces else ledger(library, identity)

    monkeypatch.setattr(prepare, "_ledger", longer)
    archived_twice(night, archived)
    flip_all(cartridge(vault, "HF0001L8"), [2])
    verify(vault, (), everything=True)
    assert archived(night).exit_code() == 0
    (night / "third").write_bytes(b"a third session")
    assert archived(night).exit_code() == 0
    shutil.rmtree(cartridge(vault, "HF0001L8"))
    for rooms in (("catalog",), ("journals",), ("catalog", "journals", "packs")):
        for room in rooms:
            for path in (vault / room).iterdir():
                path.unlink()
        report = rebuild(vault)
        assert report.errors == [], rooms
        again = archived(night)
        assert (again.exit_code(), again.objects) == (0, 0), again.errors
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")


def take_in_order(monkeypatch: pytest.MonkeyPatch, barcodes: Sequence[str]) -> None:
    """New cartridges are these, one after the other."""

    def scratch(self: VirtualChanger, sides: Sequence[Side], known: set[str]) -> tuple[str, ...]:
        taken = tuple(barcode for barcode in barcodes if barcode not in known)[: len(sides)]
        for barcode in taken:
            make_cartridge(self.cartridge_folder(barcode), barcode, 2**26)
        return taken

    monkeypatch.setattr(VirtualChanger, "scratch", scratch)


@pytest.mark.parametrize("names", [(6, 7, 1), (6, 7, 9, 8)], ids=["sorts before the pair", "one replaces another"])
def test_cartridges_that_took_the_place_of_others_are_told_in_their_order_when_the_catalog_is_lost(
    tmp_path: Path,
    vault: Path,
    night: Path,
    archived: Archive,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[int, ...],
) -> None:
    """Barcodes come in any order on real libraries."""
    barcodes = [f"HF000{number}L8" for number in names]

    take_in_order(monkeypatch, barcodes)
    archived(night)
    for failed in (barcodes[0], *barcodes[2:-1]):
        flip_all(cartridge(vault, failed), [1])
        verify(vault, (), everything=True)
        assert archived(night).exit_code() == 0
    for path in (vault / "catalog").iterdir():
        path.unlink()
    assert rebuild(vault).errors == []
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        (pair,) = tapes.all_pairs(connection)
        assert {item.barcode for item in pair.cartridges} == {barcodes[1], barcodes[-1]}
        assert all(item.fenced for item in tapes.replaced_cartridges(connection))
    again = archived(night)
    assert (again.exit_code(), again.objects) == (0, 0), again.errors
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")


@pytest.mark.parametrize("names", [(6, 7, 1), (6, 7, 9, 8)], ids=["sorts before the first", "one replaces another"])
@pytest.mark.parametrize("is_old", [False, True], ids=["labels say it", "only journals say it"])
def test_of_cartridges_that_were_labelled_in_one_second_the_one_that_is_not_replaced_is_taken(
    tmp_path: Path,
    vault: Path,
    night: Path,
    archived: Archive,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[int, ...],
    is_old: bool,
) -> None:
    barcodes = [f"HF000{number}L8" for number in names]
    identity, members = TapeLibrary._identity, prepare._label_members

    def same_second(self: TapeLibrary, side: Side, barcode: str, twin: str) -> CartridgeIdentity:
        return replace(identity(self, side, barcode, twin), created="2026-11-21T08:00:00+00:00")

    def older(library: TapeLibrary, own: CartridgeIdentity) -> list[tuple[bytes, bytes]]:
        return members(library, replace(own, replaces="") if is_old else own)

    monkeypatch.setattr(TapeLibrary, "_identity", same_second)
    monkeypatch.setattr(prepare, "_label_members", older)
    take_in_order(monkeypatch, barcodes)
    archived(night)
    for failed in (barcodes[0], *barcodes[2:-1]):
        flip_all(cartridge(vault, failed), [1])
        verify(vault, (), everything=True)
        assert archived(night).exit_code() == 0
    if is_old:
        for path in (vault / "catalog").iterdir():
            path.unlink()
    else:
        lose_vault(vault)
    found = states(rebuild(vault))
    assert {found[barcodes[1]], found[barcodes[-1]]} <= {"rebuilt", "known"}
    assert {found[name] for name in (barcodes[0], *barcodes[2:-1])} == {"replaced"}
    again = archived(night)
    assert (again.exit_code(), again.objects, again.written_on) == (0, 0, []), again.errors
    back_as_it_was(vault, night, tmp_path / "back", origin="tape")
