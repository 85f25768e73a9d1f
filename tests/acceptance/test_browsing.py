"""A vault as a tree that is only read: through `VaultTree`, and through `fsspec`, now and as of a time."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from pathlib import Path

import fsspec
import pytest
from tests.acceptance.conftest import SMALL, Archive

from holdfast.browsing import VaultTree
from holdfast.cli.app import run
from holdfast.config import init_vault
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_USAGE, IntegrityError, SourceError, VaultError
from holdfast.filesystem import HoldfastFileSystem
from holdfast.testing import flip_bit
from holdfast.values import Kind

DATA = os.urandom(300_000)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = tmp_path / "night"
    (night / "deep/er").mkdir(parents=True)
    (night / "a").write_bytes(DATA)
    (night / "deep/b").write_bytes(b"text\nof two lines\n")
    (night / "deep/er/empty").touch()
    (night / "latest").symlink_to("deep/b")
    (night / "out").symlink_to("/etc/passwd")
    (night / "loop").symlink_to("loop")
    (night / "folder").symlink_to("deep")
    (night / "deeper").symlink_to("deep/er")
    (night / "up").symlink_to("deeper/../b")
    (night / "b").write_bytes(b"the wrong one")
    (night / "grow").symlink_to("grow/y")
    (night / os.fsdecode(b"raw\xff name")).write_bytes(b"raw")
    return night


@pytest.fixture
def tree(vault: Path, night: Path, archived: Archive) -> VaultTree:
    archived(night)
    return VaultTree(vault)


def test_folders_and_files(tree: VaultTree, night: Path) -> None:
    assert [entry.name for entry in tree.entries("")] == ["night"]
    names = [entry.name.removeprefix("night/") for entry in tree.entries("/night/")]
    assert names == [
        "a",
        "b",
        "deep",
        "deeper",
        "folder",
        "grow",
        "latest",
        "loop",
        "out",
        os.fsdecode(b"raw\xff name"),
        "up",
    ]
    assert [entry.name for entry in tree.entries("night/deep/.")] == ["night/deep/b", "night/deep/er"]
    assert [entry.name for entry in tree.entries("night/folder")] == ["night/folder/b", "night/folder/er"]
    assert tree.entry("night/folder/b").size_bytes == 18
    assert tree.entry("night/folder/b").name == "night/folder/b"
    assert tree.entry("night/a").size_bytes == len(DATA)
    assert (tree.entry("").kind, tree.entry("night/latest").kind) == (Kind.FOLDER, Kind.LINK)
    with tree.open("night/a") as file:
        file.seek(123_456)
        assert file.read(1000) == DATA[123_456:124_456]
    for name in ("night/latest", "night/folder/b", "night/up"):
        assert (night.parent / name).read_bytes() == b"text\nof two lines\n"
        with tree.open(name) as file:
            assert file.read() == b"text\nof two lines\n"
    with tree.open("night/deep/er/empty") as file:
        assert file.read() == b""
    with tree.open(os.fsdecode(b"night/raw\xff name")) as file:
        assert file.read() == b"raw"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("night/none", "no such file"),
        ("other", "no such file"),
        ("night/../night/a", "no such file"),
        ("night/deep", "not a file"),
        ("", "not a file"),
        ("night/out", "out of its source"),
        ("night/loop", "too many links"),
        ("night/a/b", "no such file"),
        ("night/loop/x", "too many links"),
        ("night/grow", "too many links"),
        ("night/\ud800", "no such file"),
        ("night/..", "no such file"),
    ],
)
def test_what_is_no_file_is_told(tree: VaultTree, name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        tree.open(name)


def test_what_is_no_folder_is_told(tree: VaultTree) -> None:
    with pytest.raises(SourceError, match="not a folder"):
        tree.entries("night/a")


def test_the_tree_of_a_time(vault: Path, night: Path, archived: Archive) -> None:
    archived(night)
    before = time.time_ns()
    (night / "a").write_bytes(b"new")
    (night / "deep/b").unlink()
    archived(night)
    with VaultTree(vault) as now, VaultTree(vault, before) as then:
        assert now.open("night/a").read() == b"new"
        assert then.open("night/a").read() == DATA
        assert [entry.name for entry in now.entries("night/deep")] == ["night/deep/er"]
        assert [entry.name for entry in then.entries("night/deep")] == ["night/deep/b", "night/deep/er"]
        with pytest.raises(SourceError):
            now.open("night/deep/b")
        assert then.open("night/latest").read() == b"text\nof two lines\n"


def test_what_only_tapes_have_says_how_to_get_it(vault: Path, night: Path, archived: Archive) -> None:
    archived(night, in_place=True)
    with VaultTree(vault) as tree, pytest.raises(IntegrityError, match="holdfast restore 'night/a'"):
        tree.open("night/a")


def test_fsspec_reads_a_vault(vault: Path, night: Path, archived: Archive) -> None:
    archived(night)
    fs = fsspec.filesystem("holdfast", vault=str(vault))
    assert isinstance(fs, HoldfastFileSystem)
    assert fs.ls("", detail=False) == ["night"]
    assert fs.ls("holdfast://night/deep", detail=False) == ["night/deep/b", "night/deep/er"]
    assert fs.find("night/deep") == ["night/deep/b", "night/deep/er/empty"]
    assert fs.glob("night/*/b") == ["night/deep/b"]
    info = fs.info("night/a")
    assert (info["type"], info["size"], info["mtime"]) == ("file", len(DATA), (night / "a").stat().st_mtime_ns / 1e9)
    assert (fs.exists("night/a"), fs.exists("night/none"), fs.isdir("night/deep")) == (True, False, True)
    assert fs.info("night/latest")["destination"] == "deep/b"
    assert fs.cat("night/deep/b") == b"text\nof two lines\n"
    assert fs.cat_file("night/a", 1000, -1000) == DATA[1000:-1000]
    assert fs.cat_ranges(["night/a"] * 2, [0, 299_000], [10, 300_000]) == [DATA[:10], DATA[299_000:]]
    assert fs.ukey("night/a") != fs.ukey("night/deep/b")
    assert fs.checksum("night/a") == int(fs.ukey("night/a"), 16)
    assert fs.modified("night/a").timestamp() == pytest.approx(info["mtime"])
    with fsspec.open("holdfast://night/deep/b", "rt", vault=str(vault)) as text:
        assert text.readlines() == ["text\n", "of two lines\n"]
    with fs.open("night/a") as file:
        assert isinstance(file, io.BufferedReader)
        file.seek(-5, os.SEEK_END)
        assert file.read() == DATA[-5:]
    fs.get("night/deep", str(night.parent / "got"), recursive=True)
    assert (night.parent / "got/b").read_bytes() == b"text\nof two lines\n"


def test_fsspec_gives_the_errors_that_programs_expect(vault: Path, night: Path, archived: Archive) -> None:
    archived(night)
    fs = HoldfastFileSystem(vault=vault)
    with pytest.raises(FileNotFoundError):
        fs.open("night/none")
    with pytest.raises(IsADirectoryError):
        fs.open("night/deep")
    with pytest.raises(FileNotFoundError):
        fs.ls("other")
    for write in (
        lambda: fs.open("night/new", "wb"),
        lambda: fs.mkdir("night/new"),
        lambda: fs.makedirs("night/new"),
        lambda: fs.rmdir("night/deep"),
        lambda: fs.rm("night/a"),
        lambda: fs.rm_file("night/a"),
        lambda: fs.cp_file("night/a", "night/b"),
        lambda: fs.touch("night/new"),
        lambda: fs.pipe_file("night/new", b""),
        lambda: fs.put_file(str(night / "a"), "night/new"),
    ):
        with pytest.raises(OSError, match="only read") as caught:
            write()
        assert caught.value.errno == errno.EROFS
    with pytest.raises(VaultError):
        HoldfastFileSystem(vault=vault / "none")


def test_fsspec_follows_the_environment_and_tells_vaults_apart(
    vault: Path, night: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(night)
    other = vault.parent / "other"
    init_vault(other, SMALL)
    monkeypatch.setenv("HOLDFAST_VAULT", str(vault))
    assert HoldfastFileSystem().ls("", detail=False) == ["night"]
    monkeypatch.setenv("HOLDFAST_VAULT", str(other))
    assert HoldfastFileSystem().ls("", detail=False) == []
    vault.rename(vault.parent / "moved")
    other.rename(vault)
    monkeypatch.setenv("HOLDFAST_VAULT", str(vault))
    assert HoldfastFileSystem().ls("", detail=False) == []


def test_law_7_damage_reaches_no_program(vault: Path, night: Path, archived: Archive) -> None:
    archived(night)
    (pack,) = (vault / "packs").glob("*.pack")
    at = pack.read_bytes().index(DATA[100_000:100_100])
    flip_bit(pack, at)
    fs = HoldfastFileSystem(vault=vault)
    with pytest.raises(IntegrityError, match="damaged bytes in the block store"):
        fs.cat("night/a")
    assert fs.cat_file("night/deep/b") == b"text\nof two lines\n"


@pytest.mark.parametrize("text", ["0:10", "250000:", ":-299990", "-7:", ":", "5:5", "10:3", "299999:400000"])
@pytest.mark.parametrize("origin", ["store", "tape", "any"])
def test_a_range_of_a_file_on_standard_output(
    vault: Path, night: Path, archived: Archive, capfdbinary: pytest.CaptureFixture[bytes], text: str, origin: str
) -> None:
    archived(night, now=True)
    first, last = (int(part) if part else None for part in text.split(":"))
    capfdbinary.readouterr()
    assert run(["cat", "night/a", f"--range={text}", "--from", origin, "--vault", str(vault)]) == 0
    assert capfdbinary.readouterr().out == DATA[first:last]


@pytest.mark.parametrize("origin", ["store", "tape", "any"])
def test_one_file_is_put_where_nothing_is(
    vault: Path, night: Path, archived: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    (night / "a").chmod(0o640)
    os.utime(night / "a", ns=(17, 1_600_000_000_123_456_789))
    archived(night, now=True)
    back = tmp_path / "back"
    back.mkdir()
    monkeypatch.chdir(back)
    shared = ["--from", origin, "--vault", str(vault)]
    assert run(["get", "night/a", *shared]) == 0
    assert run(["get", "night/deep/b", "--to", "other name", *shared]) == 0
    assert ((back / "a").read_bytes(), (back / "other name").read_bytes()) == (DATA, b"text\nof two lines\n")
    status = (back / "a").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o640, 1_600_000_000_123_456_789)
    assert {path.name for path in back.iterdir()} == {"a", "other name"}


def test_what_is_got_as_json(vault: Path, night: Path, archived: Archive, tmp_path: Path, capsys: Capture) -> None:
    archived(night)
    capsys.readouterr()
    assert run(["get", "night/a", "--to", str(tmp_path / "x"), "--json", "--vault", str(vault)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["to"], told["size_bytes"]) == (str(tmp_path / "x"), len(DATA))


def test_law_5_what_is_there_is_not_touched_and_nothing_is_left_of_what_failed(
    vault: Path, night: Path, archived: Archive, tmp_path: Path, capsys: Capture
) -> None:
    archived(night)
    back = tmp_path / "back"
    back.mkdir()
    (back / "a").write_text("mine")
    (back / "link").symlink_to("nowhere")
    for arguments in (["night/a", "--to", str(back)], ["night/a", "--to", str(back / "link")]):
        assert run(["get", *arguments, "--vault", str(vault)]) == EXIT_USAGE
        assert "there already" in capsys.readouterr().err
    assert run(["get", "night/a", "--to", str(back / "no/folder"), "--vault", str(vault)]) == EXIT_USAGE
    assert run(["get", "night/deep", "--to", str(back), "--vault", str(vault)]) != 0
    assert run(["get", "night/none", "--to", str(back), "--vault", str(vault)]) != 0
    (pack,) = (vault / "packs").glob("*.pack")
    for offset in range(5000, pack.stat().st_size - 5000, 20_000):
        flip_bit(pack, offset)
    assert (
        run(["get", "night/a", "--to", str(back / "new"), "--from", "store", "--vault", str(vault)])
        == EXIT_DATA_AT_RISK
    )
    assert ({path.name for path in back.iterdir()}, (back / "a").read_text()) == ({"a", "link"}, "mine")


@pytest.mark.parametrize("text", ["", "5", "a:b", "1:2:3", "-:", "1-5", "٣:", "9" * 19 + ":"])
def test_what_is_no_range_is_told(vault: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cat", "night/a", f"--range={text}", "--vault", str(vault)]) == EXIT_USAGE
    assert "not a range of bytes" in capsys.readouterr().err


def test_a_range_reads_only_its_pieces_and_goes_round_damage_by_tape(
    vault: Path, night: Path, archived: Archive, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    archived(night, now=True)
    (pack,) = (vault / "packs").glob("*.pack")
    flip_bit(pack, pack.read_bytes().index(DATA[100_000:100_100]))
    capfdbinary.readouterr()
    assert run(["cat", "night/a", "--range", "200000:200010", "--from", "store", "--vault", str(vault)]) == 0
    assert capfdbinary.readouterr().out == DATA[200_000:200_010]
    assert run(["cat", "night/a", "--range", "99000:200010", "--vault", str(vault)]) == 0
    assert capfdbinary.readouterr().out == DATA[99_000:200_010]
    assert run(["cat", "night/a", "--range", "99000:200010", "--from", "store", "--vault", str(vault)]) == 3
