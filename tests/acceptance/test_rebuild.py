"""A vault whose catalog, journals and packs are gone is filled again from its cartridges alone."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.acceptance.conftest import SMALL, Archive
from tests.acceptance.nights import differences, make_night

from holdfast.catalog import Catalog, files, schema, tapes
from holdfast.config import init_vault, open_vault
from holdfast.durable import Journal
from holdfast.journey import verify
from holdfast.rebuilding import rebuild
from holdfast.restoring import RestoreRequest, restore

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
        found = {
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
    return found  # type: ignore[return-value]


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
