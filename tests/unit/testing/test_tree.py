from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.testing import Content, File, Folder, Tree
from holdfast.testing.tree import PAGE_BYTES, Link

SIZES = st.one_of(
    st.integers(0, 100), st.integers(-2, 2).map(lambda near: 2 * PAGE_BYTES + near), st.integers(0, 70000)
)
CHANGE = st.one_of(st.tuples(SIZES, st.integers(0, 255), SIZES), st.tuples(SIZES))


@given(st.lists(CHANGE, max_size=12))
def test_content_behaves_like_plain_bytes(changes: list[tuple[int, ...]]) -> None:
    content, plain = Content(), bytearray()
    for change in changes:
        before, bytes_before = content, bytes(plain)
        if len(change) == 1:
            content = content.resized(change[0])
            plain = plain[: change[0]].ljust(change[0], b"\0")
        else:
            offset, byte, size = change
            data = bytes([byte]) * size
            content = content.written(offset, data)
            if data:
                plain = plain.ljust(offset, b"\0")
            plain[offset : offset + size] = data
        assert (bytes(content), content.size_bytes) == (bytes(plain), len(plain))
        assert content == Content.of(bytes(plain))
        assert bytes(before) == bytes_before


def sample() -> Tree:
    data = Content.of(b"data" * 10000)
    return Tree(
        {
            ".": Folder(0o755),
            "!first": File(Content.of(b"sorts before the root"), 0o400, 1),
            "f": Folder(0o500),
            "f/one": File(data, 0o640, 2),
            "f/two": File(data, 0o640, 2),
            "f-g": File(data, 0o640, 3),
            "link": Link("f/one"),
            "name \udcff": File(Content(), 0o600, 4),
        }
    )


def test_a_tree_written_to_disk_and_read_back_is_the_same(tmp_path: Path) -> None:
    sample().write_to(tmp_path / "deep" / "image")
    image = tmp_path / "deep" / "image"
    assert Tree.read_from(image) == sample()
    assert (image / "f" / "one").samefile(image / "f" / "two")
    assert stat.S_IMODE((image / "f" / "one").stat().st_mode) == 0o640
    with pytest.raises(FileExistsError):
        sample().write_to(image)


def test_trees_differ_by_bytes_names_kinds_and_hard_links() -> None:
    data = Content.of(b"x")
    nodes = {".": Folder(0o755), "a": File(data, 0o644, 1), "b": File(data, 0o644, 2)}
    others = [
        {**nodes, "b": File(data, 0o644, 1)},
        {**nodes, "b": File(Content.of(b"y"), 0o644, 2)},
        {**nodes, "b": Link("a")},
        {**nodes, "b": Folder(0o755)},
        {".": Folder(0o755), "a": File(data, 0o644, 1)},
        {},
    ]
    assert len({Tree(nodes), *map(Tree, others)}) == 7
    assert Tree({**nodes, "b": File(data, 0o600, 9)}) == Tree(nodes)  # neither mode nor the number of the file count


def test_an_absent_root_is_not_made(tmp_path: Path) -> None:
    Tree({}).write_to(tmp_path / "image")
    assert not (tmp_path / "image").exists()
    assert Tree.read_from(tmp_path / "image") == Tree({})


def test_only_files_are_read() -> None:
    assert sample().read("f/two") == b"data" * 10000
    assert "f" in sample()
    for path in ("f", "link", "nowhere"):
        with pytest.raises(FileNotFoundError):
            sample().read(path)
