"""What counts as the same file, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.trees import steady
from holdfast.values import FileVersion, Kind, Sighting


def known(path: Path, looked_ns: int) -> tuple[FileVersion, Sighting]:
    status = path.stat()
    version = FileVersion(
        id=__import__("uuid").uuid4(),
        source="s",
        path=b"f",
        kind=Kind.FILE,
        size_bytes=status.st_size,
        attributes=steady.attributes_of(status),
        seen_ns=looked_ns,
    )
    return version, steady.sighting_of(status, looked_ns)


def test_unchanged_needs_a_look_two_seconds_after_the_last_change(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"data")
    changed_ns = path.stat().st_ctime_ns
    assert steady.is_unchanged(path.stat(), *known(path, changed_ns + 3 * 10**9))
    assert not steady.is_unchanged(path.stat(), *known(path, changed_ns + 10**9))


def test_another_inode_size_mtime_or_ctime_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"data")
    version, sighting = known(path, path.stat().st_ctime_ns + 10**10)
    before = path.stat()
    path.write_bytes(b"DATA")
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert not steady.is_unchanged(path.stat(), version, sighting)  # ctime tells, though mtime was put back
    (tmp_path / "g").write_bytes(b"data")
    assert not steady.is_unchanged((tmp_path / "g").stat(), version, sighting)


def test_opening_follows_no_link_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    os.close(steady.open_steady(os.fsencode(tmp_path), b"real/file"))
    for path in (b"link/file", b"real/none"):
        with pytest.raises(OSError, match=r"Not a directory|Too many|No such"):
            os.close(steady.open_steady(os.fsencode(tmp_path), path))


def test_a_pipe_that_took_the_files_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (b"pipe", b"folder"):
        with pytest.raises(OSError, match="not a regular file any more"):
            steady.open_steady(os.fsencode(tmp_path), path)


def test_a_change_while_reading_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"data")
    before = path.stat()
    descriptor = steady.open_steady(os.fsencode(tmp_path), b"f")
    path.write_bytes(b"more data")
    with pytest.raises(steady.Changed, match="changed while it was read"):
        steady.check_unchanged(before, descriptor, b"f")
    os.close(descriptor)


def test_sparse_files_are_known_as_such(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**7)
    (tmp_path / "full").write_bytes(b"x" * 10**5)
    assert steady.attributes_of((tmp_path / "sparse").stat()).sparse
    assert not steady.attributes_of((tmp_path / "full").stat()).sparse
