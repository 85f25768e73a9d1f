"""The walk tells everything there is, and follows nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.trees.walk import Entry, FolderEnd, Unreadable, walk
from holdfast.values import Kind


def entries(root: Path, below: bytes = b"") -> dict[bytes, Kind]:
    return {found.path: found.kind for found in walk(os.fsencode(root), below) if isinstance(found, Entry)}


def test_folders_come_before_what_is_in_them_and_names_in_byte_order(tmp_path: Path) -> None:
    for name in ("b/z", "b/a", "a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = [found.path for found in walk(os.fsencode(tmp_path)) if isinstance(found, Entry)]
    assert paths == [b"", b"a", b"b", b"b/a", b"b/z"]


def test_links_are_told_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "loop").symlink_to(".")
    found = entries(tmp_path)
    assert found[b"link"] is Kind.LINK
    assert found[b"loop"] is Kind.LINK
    assert b"link/inside" not in found


def test_a_link_to_a_folder_may_be_the_root(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    assert entries(tmp_path / "link") == {b"": Kind.FOLDER, b"file": Kind.FILE}


def test_paths_longer_than_the_kernel_takes_at_once(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(25):
        os.mkdir(b"x" * 200, dir_fd=descriptor)
        inner = os.open(b"x" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open(b"deep", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    found = entries(tmp_path)
    assert len(max(found)) == 25 * 201 + 4
    assert len(found) == 27


def test_a_folder_that_cannot_be_listed_ends_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").touch()
    plain = os.open

    def refuse(path: object, *arguments: object, **options: object) -> int:
        if path == b"closed":
            raise PermissionError(13, "Permission denied")
        return plain(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    found = list(walk(os.fsencode(tmp_path)))
    ends = {item.path: item.whole for item in found if isinstance(item, FolderEnd)}
    assert ends == {b"closed": False, b"": True}
    assert [item.path for item in found if isinstance(item, Unreadable)] == [b"closed"]
    assert b"open" in {item.path for item in found if isinstance(item, Entry)}


def test_the_vault_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "vault" / "inside").mkdir(parents=True)
    status = os.stat(tmp_path / "vault")
    found = list(walk(os.fsencode(tmp_path), leave_out=(status.st_dev, status.st_ino)))
    assert [item.path for item in found if isinstance(item, Entry)] == [b""]
    (left_out,) = [item for item in found if isinstance(item, Unreadable)]
    assert not left_out.is_failure


def test_descriptors_are_closed_when_nobody_listens_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    steps = walk(os.fsencode(tmp_path))
    for _ in range(3):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before
