"""Which source a path belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.catalog import Catalog
from holdfast.errors import SourceError, UsageError
from holdfast.trees.scope import check_paths, find_scopes


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.db") as opened:
        yield opened


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "file").touch()
    return path


def scope(catalog: Catalog, path: Path, name: str | None = None) -> tuple[str, bytes]:
    (found,) = find_scopes(catalog, (path,), name)
    return found.source.name, found.below


def test_a_new_folder_is_a_source_of_its_name(tmp_path: Path, catalog: Catalog) -> None:
    night = folder(tmp_path / "night")
    assert scope(catalog, night) == ("night", b"")
    assert scope(catalog, night / "file") == ("night", b"file")


def test_a_folder_inside_a_known_source_belongs_to_it(tmp_path: Path, catalog: Catalog) -> None:
    night = folder(tmp_path / "night")
    scope(catalog, night)
    assert scope(catalog, folder(night / "inner")) == ("night", b"inner")


def test_the_innermost_source_counts(tmp_path: Path, catalog: Catalog) -> None:
    inner = folder(tmp_path / "night" / "inner")
    assert scope(catalog, inner) == ("inner", b"")
    assert scope(catalog, tmp_path / "night") == ("night", b"")
    assert scope(catalog, inner) == ("inner", b"")


@pytest.mark.parametrize("named", [None, "HERA"])
def test_paths_that_overlap_are_looked_at_once(tmp_path: Path, catalog: Catalog, named: str | None) -> None:
    night = folder(tmp_path / "night")
    deep, beside = folder(night / "in" / "deep"), folder(night / "in2")
    find_scopes(catalog, (night,), named)
    for paths, expected in (
        ((night, night / "in", night), [b""]),
        ((deep, night), [b""]),
        ((deep, night / "in", beside), [b"in", b"in2"]),
        ((deep, deep), [b"in/deep"]),
    ):
        assert [scope.below for scope in find_scopes(catalog, paths, named)] == expected


def test_a_vault_is_not_archived_into_itself(tmp_path: Path) -> None:
    vault = folder(tmp_path / "vault")
    (tmp_path / "link").symlink_to(vault)
    inside = folder(vault / "packs")
    for path in (vault, inside, tmp_path / "link", tmp_path / "link" / "packs"):
        with pytest.raises(SourceError, match="into itself"):
            check_paths((path,), None, vault=tmp_path / "link")
    check_paths((tmp_path,), None, vault=vault)


def test_equal_names_are_numbered(tmp_path: Path, catalog: Catalog) -> None:
    assert scope(catalog, folder(tmp_path / "one" / "night"))[0] == "night"
    assert scope(catalog, folder(tmp_path / "two" / "night"))[0] == "night-2"


def test_a_named_source_takes_only_what_is_in_it(tmp_path: Path, catalog: Catalog) -> None:
    assert scope(catalog, folder(tmp_path / "a"), "HERA") == ("HERA", b"")
    with pytest.raises(SourceError, match="not in the source 'HERA'") as caught:
        scope(catalog, folder(tmp_path / "b"), "HERA")
    assert "--source" in (caught.value.hint or "")


def test_several_paths_under_one_name_share_their_common_folder(tmp_path: Path, catalog: Catalog) -> None:
    one, two = folder(tmp_path / "data" / "one"), folder(tmp_path / "data" / "two")
    scopes = find_scopes(catalog, (one, two), "HERA")
    assert [(item.source.name, item.below) for item in scopes] == [("HERA", b"one"), ("HERA", b"two")]


@pytest.mark.parametrize("name", ["MANIFEST", "NO-FILES.txt", "a/b", "", "..", "-x", " x", "x\n"])
def test_names_that_cannot_stand_on_tape_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        check_paths((tmp_path,), name)
