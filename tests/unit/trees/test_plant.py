"""Planting: below one folder, whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError
from holdfast.trees.plant import NewFile, Occupied, Planter
from holdfast.values import Attributes, Content, FileVersion, Kind

Refusals = list[tuple[FileVersion, HoldfastError]]


def version(path: bytes, kind: Kind = Kind.FILE, **more: object) -> FileVersion:
    fields: dict[str, object] = {
        "id": uuid.uuid4(),
        "source": "s",
        "path": path,
        "kind": kind,
        "size_bytes": 4 if kind is Kind.FILE else 0,
        "attributes": Attributes(0o640, 10**18 + 5, os.getuid(), os.getgid(), "", ""),
        "seen_ns": 1,
    }
    return FileVersion(**(fields | more))  # type: ignore[arg-type]


def fill(data: bytes) -> Callable[[NewFile], None]:
    return lambda new: new.write(memoryview(data))


@pytest.fixture
def refusals() -> Refusals:
    return []


@pytest.fixture
def planter(tmp_path: Path, refusals: Refusals) -> Iterator[Planter]:
    with Planter(tmp_path / "to", overwrite=False, refused=lambda *refusal: refusals.append(refusal)) as made:
        yield made


def test_a_file_gets_its_name_with_the_flush(tmp_path: Path, planter: Planter) -> None:
    planter.file(version(b"sub/f"), fill(b"data"))
    assert not (tmp_path / "to/s/sub/f").exists()
    planter.flush()
    status = (tmp_path / "to/s/sub/f").stat()
    assert (tmp_path / "to/s/sub/f").read_bytes() == b"data"
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o640, 10**18 + 5)
    assert os.listdir(tmp_path / "to/s/sub") == ["f"]


def test_a_failed_filling_leaves_nothing(tmp_path: Path, planter: Planter) -> None:
    def fail(new: NewFile) -> None:
        new.write(memoryview(b"da"))
        raise HoldfastError("bad copy")

    with pytest.raises(HoldfastError, match="bad copy") as caught:
        planter.file(version(b"f"), fail)
    assert caught.value.place == "s/f"
    planter.flush()
    assert os.listdir(tmp_path / "to/s") == []


def test_what_waits_when_the_work_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    with Planter(tmp_path / "to", overwrite=False, refused=lambda *_: None) as planter:
        planter.file(version(b"f"), fill(b"data"))
    assert os.listdir(tmp_path / "to/s") == []


@pytest.mark.parametrize("name", [b"out/f", b"out/deeper/f"])
def test_links_on_the_way_are_never_followed(tmp_path: Path, planter: Planter, name: bytes) -> None:
    (tmp_path / "outside").mkdir()
    planter.folder(version(b"", Kind.FOLDER))
    (tmp_path / "to/s/out").symlink_to(tmp_path / "outside")
    with pytest.raises(Occupied, match="not followed"):
        planter.file(version(name), fill(b"data"))
    assert os.listdir(tmp_path / "outside") == []


def test_a_link_that_comes_before_the_flush_is_not_followed_either(
    tmp_path: Path, planter: Planter, refusals: Refusals
) -> None:
    (tmp_path / "outside").mkdir()
    planter.file(version(b"sub/f"), fill(b"data"))
    (tmp_path / "to/s/sub").rename(tmp_path / "to/s/moved")
    (tmp_path / "to/s/sub").symlink_to(tmp_path / "outside")
    planter.flush()
    assert [error.place for _, error in refusals] == ["s/sub/f"]
    assert os.listdir(tmp_path / "outside") == []
    (tmp_path / "to/s/sub").unlink()


def test_other_files_are_not_replaced(tmp_path: Path, planter: Planter, refusals: Refusals) -> None:
    planter.folder(version(b"", Kind.FOLDER))
    (tmp_path / "to/s/mine").write_text("mine")
    with pytest.raises(Occupied):
        planter.file(version(b"mine"), fill(b"data"))
    planter.file(version(b"later"), fill(b"data"))
    (tmp_path / "to/s/later").write_text("mine too")
    planter.flush()
    assert len(refusals) == 1
    assert (tmp_path / "to/s/later").read_text() == "mine too"
    assert sorted(os.listdir(tmp_path / "to/s")) == ["later", "mine"]


def test_sparse_files_come_back_with_holes(tmp_path: Path, planter: Planter) -> None:
    size = 8 * 2**20
    attributes = Attributes(0o644, 1, os.getuid(), os.getgid(), "", "", sparse=True)

    def holes(new: NewFile) -> None:
        for _ in range(size // 2**20 - 1):
            new.write(memoryview(bytes(2**20)))
        new.write(memoryview(b"x" + bytes(2**20 - 1)))

    planter.file(version(b"f", size_bytes=size, attributes=attributes), holes)
    planter.flush()
    status = (tmp_path / "to/s/f").stat()
    assert status.st_size == size
    assert status.st_blocks * 512 < size // 2
    assert (tmp_path / "to/s/f").read_bytes() == bytes(size - 2**20) + b"x" + bytes(2**20 - 1)


def test_is_planted_reads_the_bytes(tmp_path: Path, planter: Planter) -> None:
    import hashlib

    wanted = version(b"f", content=Content(hashlib.sha256(b"data").digest(), 4))
    assert not planter.is_planted(wanted)
    planter.file(wanted, fill(b"data"))
    planter.flush()
    assert planter.is_planted(wanted)
    path = tmp_path / "to/s/f"
    path.write_bytes(b"DATA")
    os.utime(path, ns=(10**18 + 5, 10**18 + 5))
    assert not planter.is_planted(wanted)
