"""The dump: when it commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.journey import ArchiveRequest, archive
from holdfast.tape import dump, plan
from holdfast.tape.journal import Committed
from holdfast.tape.library import MountedPair, TapeLibrary


@pytest.mark.parametrize(("limit", "objects_at_once"), [(3, [1, 1, 1, 1, 1]), (4, [2, 2, 1]), (64_000, [5])])
def test_a_commit_is_due_after_so_many_members_however_small_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, objects_at_once: list[int]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(14):  # with the folder itself 15 members, three to an object
        (source / f"file-{number}").write_bytes(b"x" * number)
    committed: list[int] = []
    commit_journals = dump.commit_journals

    def counted(library: TapeLibrary, mounted: MountedPair, items: list[Committed]) -> dict[str, list[Committed]]:
        committed.append(len(items))
        return commit_journals(library, mounted, items)

    monkeypatch.setattr(plan, "OBJECT_MEMBERS", 3)
    monkeypatch.setattr(dump, "COMMIT_MEMBERS", limit)
    monkeypatch.setattr(dump, "commit_journals", counted)
    report = archive(tmp_path / "vault", ArchiveRequest(paths=(source,), in_place=True))
    assert committed == objects_at_once
    assert report.exit_code() == 0
    assert report.totals["proven"] == 15
