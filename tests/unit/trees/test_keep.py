"""Comparing a source with the catalog: what is recorded, and in which order."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from holdfast.catalog import Catalog, files
from holdfast.trees import noting
from holdfast.trees.keep import TreeKeeper
from holdfast.trees.noting import NotingRecorder
from holdfast.values import Source

ENDS = 8
"""So many names are gone with the folder `gone`."""


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.db") as catalog:
        yield catalog


@pytest.fixture
def source(tmp_path: Path) -> Source:
    for name in ("gone/deep/er/one", "gone/deep/two", "gone/three", "gone/aside/four", "stays"):
        path = tmp_path / "night" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return Source(id=uuid.uuid4(), name="night", host="here", root=bytes(tmp_path / "night"))


class CutShortError(Exception):
    """The run ends here, as if it were killed between two transactions."""


@contextmanager
def at_most(transactions: int, catalog: Catalog) -> Iterator[None]:
    """Let so many transactions through, and fail the next."""
    left, whole = transactions, catalog.transaction

    @contextmanager
    def transaction() -> Iterator[Connection]:
        nonlocal left
        if not left:
            raise CutShortError
        left -= 1
        with whole() as connection:
            yield connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "transaction", transaction)
        yield


def keep(catalog: Catalog, source: Source) -> None:
    recorder = NotingRecorder(catalog, lambda _: None)
    TreeKeeper(catalog, source, recorder, recheck=False, leave_out=(0, 0), progress=lambda _: None).keep(b"")
    recorder.flush()


def present(catalog: Catalog) -> set[bytes]:
    with catalog.reading() as connection:
        return {item.version.path for item in files.versions_at(connection, None)}


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("transactions", range(ENDS))
def test_law_6_resume_is_running_again_when_a_folder_was_half_ended(
    catalog: Catalog,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transactions: int,
    replaced: bool,
) -> None:
    """Whichever part of the ends was recorded, the next run finds the rest, though the folder is no longer there."""
    keep(catalog, source)
    shutil.rmtree(tmp_path / "night" / "gone")
    if replaced:
        (tmp_path / "night" / "gone").write_bytes(b"a file now")
    monkeypatch.setattr(noting, "BATCH", 1)
    with at_most(transactions, catalog), pytest.raises(CutShortError):
        keep(catalog, source)
    keep(catalog, source)
    assert present(catalog) == {b"", b"stays", *([b"gone"] if replaced else [])}
