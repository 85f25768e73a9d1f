"""Releasing and collecting: room comes back for what two tapes prove, and for nothing else."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences, plain_night
from tests.acceptance.stores import count_virtual_as_proof

from holdfast import collecting
from holdfast.blocks import BlockReader, Fence
from holdfast.catalog import Catalog, files, packs, tapes
from holdfast.cli.app import run
from holdfast.collecting import CollectRequest, collect
from holdfast.config import open_vault
from holdfast.errors import EXIT_BUSY, EXIT_DATA_AT_RISK, EXIT_DONE, EXIT_FAILED, EXIT_USAGE, BusyError, IntegrityError
from holdfast.releasing import ReleaseRequest, release
from holdfast.reports import ReleaseReport
from holdfast.restoring import RestoreRequest, restore
from holdfast.scrubbing import ScrubRequest, scrub
from holdfast.testing import flip_bit
from holdfast.trees.keep import TreeKeeper
from holdfast.trees.storing import StoringRecorder
from holdfast.values import Source
from holdfast.vault import opened
from holdfast.work import vault_lock

Capture = pytest.CaptureFixture[str]
EVERYTHING = CollectRequest(everything=True)


@pytest.fixture
def vault(vault: Path) -> Path:
    count_virtual_as_proof(vault)
    return vault


@pytest.fixture
def nights(tmp_path: Path, vault: Path, archived: Archive) -> tuple[Path, Path]:
    """Two nights, each archived by a run of its own, and so in packs of its own."""
    del vault
    first, second = (plain_night(tmp_path / name, large_bytes=900_000, smalls=10) for name in ("first", "second"))
    assert archived(first, now=True).exit_code() == 0
    assert archived(second, now=True).exit_code() == 0
    return first, second


@contextmanager
def catalog_of(vault: Path) -> Iterator[Catalog]:
    with Catalog(vault / "catalog/catalog.db") as catalog:
        yield catalog


def pack_files(vault: Path) -> set[str]:
    return {path.stem for path in (vault / "packs").glob("*.pack")}


def released(vault: Path, *patterns: str) -> ReleaseReport:
    return release(vault, ReleaseRequest(patterns=patterns))


def check_all_comes_back(vault: Path, to: Path, *nights: Path) -> None:
    """From wherever it is, with every byte; and what the store has is whole."""
    report = restore(vault, RestoreRequest(to=to))
    assert (report.exit_code(), report.warnings) == (0, [])
    for night in nights:
        assert differences(night, to / night.name) == []
    assert scrub(vault, ScrubRequest()).damaged_blocks == 0


def in_store(vault: Path) -> set[str]:
    """The sources of which any content lies in the store."""
    with catalog_of(vault) as catalog:
        with catalog.reading() as connection:
            versions = [item.version for item in files.all_versions(connection)]
        return {v.source for v in versions if v.content is not None and catalog.find_segments(v.content)}


def test_released_files_come_from_tape_and_their_room_comes_back(
    vault: Path, nights: tuple[Path, Path], tmp_path: Path
) -> None:
    before = pack_files(vault)
    report = released(vault, "first")
    assert (report.contents, report.refused, report.exit_code()) == (11, 0, 0)
    assert report.released_bytes == 1_000_000
    assert pack_files(vault) == before
    assert in_store(vault) == {"second"}
    gone = collect(vault, CollectRequest())
    assert (gone.exit_code(), gone.waiting, gone.errors) == (0, False, [])
    assert gone.removed_bytes - gone.written_bytes > 1_000_000
    assert len(pack_files(vault) & before) < len(before)
    check_all_comes_back(vault, tmp_path / "back", *nights)
    again = collect(vault, EVERYTHING)
    assert (again.packs, again.wasteful_packs) == (0, 0)


def test_law_4_nothing_is_released_that_is_not_proven_twice(
    vault: Path, nights: tuple[Path, Path], archived: Archive, tmp_path: Path, capsys: Capture
) -> None:
    third = plain_night(tmp_path / "third", large_bytes=900_000, smalls=10)
    settings = vault / "holdfast.toml"
    settings.write_text(settings.read_text().replace('start_at = "0 B"', 'start_at = "1 GB"'))
    archived(third)  # in the store, and on no tape
    assert run(["release", "--from", "store", "--vault", str(vault), "--json"]) == EXIT_DONE
    document = json.loads(capsys.readouterr().out)
    assert (document["contents"], document["refused"]) == (22, 11)
    assert all(name.startswith("third/") for name in document["refused_names"])
    assert in_store(vault) == {"third"}
    assert run(["release", "third", "--from", "store", "--vault", str(vault)]) == EXIT_FAILED
    assert "not yet allowed (law 4): 11 contents" in capsys.readouterr().out
    check_all_comes_back(vault, tmp_path / "back", *nights, third)


@pytest.mark.parametrize("against", ["virtual", "fenced", "mismatch", "unproven name"])
def test_law_4_what_speaks_against_a_proof_keeps_a_content_in_the_store(
    vault: Path, nights: tuple[Path, Path], archived: Archive, tmp_path: Path, against: str
) -> None:
    first, _ = nights
    settings = vault / "holdfast.toml"
    if against == "virtual":
        settings.write_text(settings.read_text().replace("proof = true", "proof = false"))
    elif against == "fenced":
        with catalog_of(vault) as catalog, catalog.transaction() as connection:
            tapes.fence(connection, "HF0002L8", "a test")
    elif against == "mismatch":
        for path in (vault / "library/cartridges/HF0001L8").glob("*"):
            if path.stat().st_size > 100_000:
                flip_bit(path, 70_000)
        run(["verify", "--vault", str(vault)])
    else:  # the same bytes under another name that is on no tape yet
        settings.write_text(settings.read_text().replace('start_at = "0 B"', 'start_at = "1 GB"'))
        other = tmp_path / "other"
        shutil.copytree(first, other)
        archived(other)
    report = released(vault, "first")
    assert (report.contents, report.exit_code()) == (0, EXIT_FAILED)
    assert report.refused == 11
    assert "first" in in_store(vault)


def test_a_dry_run_changes_nothing(vault: Path, nights: tuple[Path, Path], capsys: Capture) -> None:
    del nights
    before = (vault / "catalog/catalog.db-wal").stat().st_size if (vault / "catalog/catalog.db-wal").exists() else 0
    assert run(["release", "first/small-*", "--from", "store", "--dry-run", "--vault", str(vault)]) == EXIT_DONE
    assert "may be released: 10 contents (100.0 kB)" in capsys.readouterr().out
    assert in_store(vault) == {"first", "second"}
    wal = vault / "catalog/catalog.db-wal"
    assert (wal.stat().st_size if wal.exists() else 0) == before


def test_releasing_needs_to_be_told_from_where(vault: Path, capsys: Capture) -> None:
    assert run(["release", "--vault", str(vault)]) == EXIT_USAGE
    assert "--from store" in capsys.readouterr().err


def test_what_is_needed_of_a_pack_is_copied_with_the_names(
    vault: Path, nights: tuple[Path, Path], tmp_path: Path
) -> None:
    released(vault, "first/large", "second/large")
    report = collect(vault, EVERYTHING)
    assert report.packs >= 2
    assert report.copied_bytes == 200_000
    assert sum(path.stat().st_size for path in (vault / "packs").glob("*.pack")) < 300_000
    check_all_comes_back(vault, tmp_path / "back", *nights)
    report = restore(vault, RestoreRequest(to=tmp_path / "small", patterns=("*small*",), origin="store"))
    assert report.exit_code() == 0


@pytest.mark.parametrize("loss", ["catalog", "catalog and state"])
def test_names_come_back_from_packs_alone_after_a_collection(
    vault: Path, nights: tuple[Path, Path], tmp_path: Path, loss: str, capsys: Capture
) -> None:
    """All names of the second night, whose packs were gathered, and those of the first, whose bytes are on tape only."""
    released(vault, "first", "second/large")
    assert collect(vault, EVERYTHING).errors == []
    with catalog_of(vault) as catalog, catalog.reading() as connection:
        before = {item.version.id for item in files.all_versions(connection)}
    shutil.rmtree(vault / "catalog")
    if loss != "catalog":
        shutil.rmtree(vault / "state")
    assert run(["rebuild", "--vault", str(vault)]) in (EXIT_DONE, EXIT_FAILED), capsys.readouterr()
    with catalog_of(vault) as catalog, catalog.reading() as connection:
        assert {item.version.id for item in files.all_versions(connection)} >= before
    assert in_store(vault) == {"second"}
    check_all_comes_back(vault, tmp_path / "back", *nights)


def test_a_released_file_that_is_archived_again_is_kept_again(
    vault: Path, nights: tuple[Path, Path], archived: Archive, tmp_path: Path
) -> None:
    first, _ = nights
    released(vault, "first")
    collect(vault, EVERYTHING)
    other = tmp_path / "other"
    shutil.copytree(first, other)
    assert archived(other, now=True).exit_code() == 0
    assert "other" in in_store(vault)
    check_all_comes_back(vault, tmp_path / "back", *nights, other)


def test_the_same_before_the_collection_pardons_the_blocks(
    vault: Path, nights: tuple[Path, Path], archived: Archive, tmp_path: Path
) -> None:
    first, _ = nights
    released(vault, "first")
    other = tmp_path / "other"
    shutil.copytree(first, other)
    assert archived(other, now=True).exit_code() == 0
    collect(vault, EVERYTHING)
    assert restore(vault, RestoreRequest(to=tmp_path / "store", patterns=("other",), origin="store")).exit_code() == 0
    check_all_comes_back(vault, tmp_path / "back", *nights, other)


def test_a_metadata_change_of_a_released_file_needs_no_bytes(
    vault: Path, nights: tuple[Path, Path], archived: Archive, tmp_path: Path
) -> None:
    first, _ = nights
    released(vault, "first")
    collect(vault, EVERYTHING)
    os.utime(first / "large", ns=(10**18, 10**18))
    report = archived(first, now=True)
    assert report.exit_code() == 0, report.errors
    check_all_comes_back(vault, tmp_path / "back", *nights)


def test_a_writer_that_found_a_block_before_is_waited_for(
    vault: Path, nights: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    """It found the content in the store, then all was released and collected beside it, then it named it."""
    first, _ = nights
    with opened(vault) as writing, writing.store_writer() as writer:
        recorder = StoringRecorder(writing.catalog, writer, lambda _: None)
        with writing.catalog.reading() as connection:
            present = next(item for item in files.all_versions(connection) if item.version.full_path == b"first/large")
            source = next(item for item in files.all_sources(connection) if item.name == "first")
        content = present.version.content
        assert content is not None
        found = writer.find(content)
        assert found is not None
        assert found[1]
        assert released(vault, "first").contents == 11
        assert run(["collect", "--vault", str(vault)]) == EXIT_DONE
        assert "no room was given back yet" in capsys.readouterr().out
        again = type(present.version)(
            id=files.new_version_id(5),
            source="first",
            path=b"large-too",
            kind=present.version.kind,
            size_bytes=present.version.size_bytes,
            attributes=present.version.attributes,
            seen_ns=present.version.seen_ns + 1,
            content=content,
        )
        writer.add(source, again, present.sighting, segments=found[1])
        del recorder
    assert collect(vault, EVERYTHING).waiting is False
    with catalog_of(vault) as catalog:
        segments = catalog.find_segments(content)
        assert segments is not None
        with BlockReader(vault / "packs", catalog) as reader:
            assert b"".join(map(bytes, reader.read(segments))) == (first / "large").read_bytes()


@pytest.mark.parametrize("commits", ["before", "after"])
def test_a_writer_that_begins_amid_a_collection_finds_nothing_that_goes(
    vault: Path, nights: tuple[Path, Path], tmp_path: Path, commits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the same bytes under another name, and commits before or after the collection reads from the new place."""
    first, _ = nights
    other = tmp_path / "other"
    shutil.copytree(first, other)
    gather, begun = collecting._gather, list[str]()
    with ExitStack() as session:

        def amid(*arguments: Any) -> None:
            if not begun:
                begun.append("writer")
                writing = session.enter_context(opened(vault))
                writer = session.enter_context(writing.store_writer())
                keeper = TreeKeeper(
                    writing.catalog,
                    Source(uuid.uuid4(), "other", "host", os.fsencode(other)),
                    StoringRecorder(writing.catalog, writer, lambda _: None),
                    recheck=False,
                    leave_out=(0, 0),
                    progress=lambda _: None,
                )
                keeper.keep(b"")
                if commits == "before":
                    writer.barrier()
            gather(*arguments)

        monkeypatch.setattr(collecting, "_gather", amid)
        released(vault, "first")
        report = collect(vault, EVERYTHING)
        assert (report.waiting, begun) == (False, ["writer"])
    assert collect(vault, EVERYTHING).waiting is False
    back = restore(vault, RestoreRequest(to=tmp_path / "back", patterns=("other",), origin="store"))
    assert (back.exit_code(), back.errors) == (0, [])
    assert differences(other, tmp_path / "back/other") == []


def test_a_reader_goes_on_while_packs_are_collected_under_it(vault: Path, nights: tuple[Path, Path]) -> None:
    _, second = nights
    with opened(vault) as reading, reading.store_reader() as reader:
        with reading.catalog.reading() as connection:
            version = next(v.version for v in files.all_versions(connection) if v.version.full_path == b"second/large")
        assert version.content is not None
        segments = reading.catalog.find_segments(version.content)
        assert segments is not None
        pieces = reader.read(segments)
        data = bytes(next(pieces))
        released(vault, "first", "second/small-*")
        before = pack_files(vault)
        assert collect(vault, EVERYTHING).packs
        assert not pack_files(vault) & before
        data += b"".join(map(bytes, pieces))
        assert data == (second / "large").read_bytes()
        reader.close()
        assert b"".join(map(bytes, reader.read(segments))) == data


@pytest.mark.parametrize("what", ["block", "manifest"])
def test_law_7_a_damaged_pack_stays_until_it_is_repaired(
    vault: Path, nights: tuple[Path, Path], tmp_path: Path, what: str
) -> None:
    released(vault, "first/small-*", "second/small-*")
    with catalog_of(vault) as catalog, catalog.reading() as connection:
        damaged = []
        for pack_id in packs.sealed_packs(connection):
            place = packs.blocks_of_pack(connection, pack_id)[0]
            damaged.append((vault / f"packs/{pack_id}.pack", place))
    for path, place in damaged:
        at = place.offset_bytes + 1000 if what == "block" else path.stat().st_size
        if what == "manifest":
            at = path.read_bytes().rindex(b'{"is":"version"') + 40
        flip_bit(path, at)
    before = pack_files(vault)
    report = collect(vault, EVERYTHING)
    assert report.exit_code() == (EXIT_DATA_AT_RISK if what == "block" else 0)
    assert all("stays, as it is damaged" in str(error) for error in (*report.errors, *report.warnings))
    assert len(report.errors) + len(report.warnings) == 2
    assert {path.stem for path, place in damaged if place} & before <= pack_files(vault)
    if what == "block":
        assert scrub(vault, ScrubRequest()).exit_code() == 0
        assert collect(vault, EVERYTHING).exit_code() == 0
        check_all_comes_back(vault, tmp_path / "back", *nights)


def test_two_collections_at_once_are_refused(vault: Path, nights: tuple[Path, Path]) -> None:
    del nights
    with Fence(vault / "fence").collecting(), pytest.raises(BusyError, match="another collection"):
        collect(vault, EVERYTHING)
    assert collect(vault, EVERYTHING).exit_code() == 0


def test_a_killed_runs_pack_is_adopted_before_anything_is_given_up(
    vault: Path, nights: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    """An older catalog is put back: packs that it does not know may name what it takes for released."""
    first, _ = nights
    released(vault, "first")
    shutil.copytree(vault / "catalog", tmp_path / "older")
    other = tmp_path / "other"
    shutil.copytree(first, other)
    run(["archive", str(other), "--vault", str(vault)])
    shutil.rmtree(vault / "catalog")
    shutil.copytree(tmp_path / "older", vault / "catalog")
    capsys.readouterr()
    with vault_lock(open_vault(vault).lock_path, "archive"):
        assert run(["collect", "--all", "--vault", str(vault)]) == EXIT_BUSY
    assert "other" not in in_store(vault)
    assert run(["collect", "--all", "--vault", str(vault)]) == EXIT_DONE
    report = restore(vault, RestoreRequest(to=tmp_path / "back", patterns=("other",), origin="store"))
    assert report.exit_code() == 0
    assert differences(other, tmp_path / "back/other") == []


def test_a_reader_of_what_was_collected_is_told(vault: Path, nights: tuple[Path, Path]) -> None:
    del nights
    with opened(vault) as reading, reading.store_reader() as reader:
        with reading.catalog.reading() as connection:
            version = next(v.version for v in files.all_versions(connection) if v.version.full_path == b"first/large")
        assert version.content is not None
        segments = reading.catalog.find_segments(version.content)
        assert segments is not None
        released(vault, "first")
        collect(vault, EVERYTHING)
        with pytest.raises(IntegrityError, match="missing from the store"):
            list(reader.read(segments))
        assert reading.catalog.find_segments(version.content) is None


def test_custody_tells_of_the_release(vault: Path, nights: tuple[Path, Path], capsys: Capture) -> None:
    del nights
    released(vault, "first/large")
    assert run(["custody", "first/large", "--vault", str(vault), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)[0]
    assert document["segments"] == []
    assert document["released_ns"] > document["seen_ns"]
    assert run(["custody", "second/large", "--vault", str(vault), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["released_ns"] is None
