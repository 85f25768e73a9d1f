"""The rescue reader: one file and Python's standard library give everything back, and say what is damaged."""

from __future__ import annotations

import ast
import errno
import fcntl
import hashlib
import os
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.tape.building import (
    MTIME_NS,
    RECORD_BYTES,
    Member,
    file,
    folder,
    hard_link,
    manifest_of,
    symbolic_link,
    tape_file,
    write_cartridge,
)

from holdfast.tape import layout, rescue
from holdfast.tape.layout import MemberHeader

SCRIPT = Path(rescue.__file__)
PLAIN_PYTHON = "/usr/bin/python3"
HOSTILE = b"src/\xff\xfe new\nline \\ " + "ü☃".encode() + b"n" * 200


def night() -> list[Member]:
    return [
        folder(b"src", mode=0o755),
        file(b"src/a", b"alpha" * 1000, mode=0o600),
        file(b"src/empty"),
        folder(b"src/deep", mode=0o555),
        folder(b"src/deep/" + b"d" * 255, mode=0o2770),
        file(b"src/deep/" + b"d" * 255 + b"/" + b"f" * 255, b"deep", mtime_ns=-1_500_000_001),
        file(HOSTILE, b"hostile" * 500),
        symbolic_link(b"src/link", b"../" * 50 + b"\xff"),
        hard_link(b"src/hard", b"src/a", mode=0o600),
        file(b"src/-rf", b"x" * 512),
    ]


def label() -> bytes:
    return tape_file([file(b"VOLUME.json", b"{}"), file(b"README.txt", b"read me")], kind="label")


@pytest.fixture
def cartridge(tmp_path: Path) -> Path:
    """A label, a night, a later night with a newer version, and two catalogs."""
    later = [folder(b"src", mode=0o755), file(b"src/empty", b"not any more"), file(b"src/late", b"late")]
    catalog = tape_file([file(b"CATALOG.jsonl.gz", b"gz")], kind="catalog")
    path = tmp_path / "HF0001L8"
    write_cartridge(path, [label(), tape_file(night()), tape_file(later), catalog, catalog])
    return path


def run(*words: str | Path, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script as a person runs it, with nothing installed."""
    return subprocess.run(
        [python, "-I", "-S", SCRIPT, *words],
        env={"LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def tree(top: Path) -> dict[bytes, object]:
    """What lies in a folder: by path, all that extracting should give back."""
    found: dict[bytes, object] = {}
    for path, folders, files in os.walk(bytes(top)):
        for name in folders + files:
            full = os.path.join(path, name)
            info = os.lstat(full)
            what: object = None
            if stat.S_ISLNK(info.st_mode):
                what = os.readlink(full)
            elif stat.S_ISREG(info.st_mode):
                what = Path(os.fsdecode(full)).read_bytes(), info.st_nlink
            found[os.path.relpath(full, bytes(top))] = (stat.S_IFMT(info.st_mode), what, info.st_mtime_ns)
    return found


def contents(top: Path) -> dict[bytes, bytes]:
    return {
        os.path.relpath(os.path.join(path, name), bytes(top)): Path(os.fsdecode(os.path.join(path, name))).read_bytes()
        for path, _, names in os.walk(bytes(top))
        for name in names
        if not os.path.islink(os.path.join(path, name))
    }


def extract(tape: Path, into: Path, *patterns: str, code: int = 0) -> str:
    """Extract in this process; what was printed."""
    done = run("extract", tape, into, *patterns)
    assert done.stderr == ""
    assert done.returncode == code
    assert not [name for name in os.listdir(into) if name.startswith(".rescue-")]
    return done.stdout


# -- a good tape


def test_extracting_gives_everything_back(cartridge: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = extract(cartridge, out)
    assert printed.splitlines()[-1] == "all good"
    expected = {member.header.name.rstrip(b"/"): member for member in night()}
    found = tree(out)
    assert set(found) == {*expected, b"src/late"}
    for name, member in expected.items():
        header = member.header
        path = os.path.join(bytes(out), name)
        assert os.lstat(path).st_mtime_ns == header.mtime_ns
        if header.type == layout.TYPE_SYMBOLIC_LINK:
            assert os.readlink(path) == header.link_name
        elif header.type == layout.TYPE_FOLDER:
            assert stat.S_IMODE(os.lstat(path).st_mode) == header.mode
        elif name != b"src/empty":
            assert stat.S_IMODE(os.lstat(path).st_mode) == header.mode
            assert Path(os.fsdecode(path)).read_bytes() == (member.data or night()[1].data)
    assert (out / "src" / "hard").samefile(out / "src" / "a")


def test_the_newest_version_of_a_name_wins(cartridge: Path, tmp_path: Path) -> None:
    extract(cartridge, tmp_path / "out")
    assert (tmp_path / "out" / "src" / "empty").read_bytes() == b"not any more"


def test_it_gives_back_what_gnu_tar_does(cartridge: Path, tmp_path: Path) -> None:
    extract(cartridge, tmp_path / "out")
    by_tar = tmp_path / "tar"
    by_tar.mkdir()
    for number in ("00001", "00002"):
        command = ["tar", "--no-same-owner", "-xpf", cartridge / number]
        subprocess.run(command, cwd=by_tar, check=True)
    (by_tar / "MANIFEST").unlink()
    assert tree(tmp_path / "out") == tree(by_tar)


def test_extracting_again_changes_nothing(cartridge: Path, tmp_path: Path) -> None:
    extract(cartridge, tmp_path / "out")
    before = tree(tmp_path / "out")
    extract(cartridge, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_verify_reads_everything_and_writes_nothing(cartridge: Path) -> None:
    before = tree(cartridge)
    done = run("verify", cartridge)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "good     tape file 0: 2 members",
        "good     tape file 1: 10 members",
        "good     tape file 2: 3 members",
        "good     tape file 3: 1 members",
        "good     tape file 4: 1 members",
        "all good",
    ]
    assert tree(cartridge) == before


def test_list_shows_every_member_of_every_tape_file(cartridge: Path) -> None:
    done = run("list", cartridge)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tape file 0: holdfast label 11111111-")
    assert lines[-1] == "all good"
    assert "           5000  2023-11-14 22:13:20.123456789  src/a" in lines
    assert "              0  2023-11-14 22:13:20.123456789  src/hard link to src/a" in lines
    assert any("1969-12-31 23:59:58.499999999  src/deep/" in line for line in lines)
    assert any(line.endswith("src/link -> " + "../" * 50 + "\\xff") for line in lines)
    hostile = next(line for line in lines if "hostile" in line or "new" in line)
    assert "src/\\xff\\xfe new\\nline \\ ü☃nnn" in hostile
    assert sum(line.startswith("tape file") for line in lines) == 5


def test_list_in_a_terminal_without_unicode(cartridge: Path) -> None:
    done = run("list", cartridge, LC_ALL="POSIX", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_single_tape_file_is_a_tape_too(cartridge: Path, tmp_path: Path) -> None:
    extract(cartridge / "00002", tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == [b"src/empty", b"src/late"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["src/a"], [b"src/a"]),
        (["src/[a]"], [b"src/a"]),
        (["src/l*"], [b"src/late"]),
        (["src/deep"], [b"src/deep/" + b"d" * 255 + b"/" + b"f" * 255]),
        (["src/deep/"], [b"src/deep/" + b"d" * 255 + b"/" + b"f" * 255]),
        (["*ü☃*"], [HOSTILE]),
        (["src/-rf", "src/a"], [b"src/-rf", b"src/a"]),
        (["README.txt"], [b"README.txt"]),
        (["nothing"], []),
    ],
)
def test_patterns_choose(cartridge: Path, tmp_path: Path, patterns: list[str], expected: list[bytes]) -> None:
    extract(cartridge, tmp_path / "out", *patterns)
    assert sorted(contents(tmp_path / "out")) == expected


def test_a_pattern_of_raw_bytes(cartridge: Path, tmp_path: Path) -> None:
    extract(cartridge, tmp_path / "out", os.fsdecode(b"src/\xff*"))
    assert sorted(contents(tmp_path / "out")) == [HOSTILE]


def test_a_hard_link_without_its_file_is_told(cartridge: Path, tmp_path: Path) -> None:
    printed = extract(cartridge, tmp_path / "out", "src/hard", code=1)
    assert "src/hard is a hard link to src/a, which is not here" in printed
    assert contents(tmp_path / "out") == {}


# -- damage


def damage(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as tape:
        tape.seek(offset)
        tape.write(data)


def offset_of(path: Path, data: bytes) -> int:
    return path.read_bytes().index(data)


def test_a_damaged_file_is_named_and_the_others_are_good(cartridge: Path, tmp_path: Path) -> None:
    damage(cartridge / "00001", offset_of(cartridge / "00001", b"hostile") + 3, b"!")
    verified = run("verify", cartridge)
    assert verified.returncode == 1
    assert "DAMAGED  tape file 1: src/\\xff\\xfe new\\nline" in verified.stdout
    assert f"its SHA-256 was {hashlib.sha256(b'hostile' * 500).hexdigest()} and is " in verified.stdout
    assert verified.stdout.splitlines()[-1] == "1 damages, each told above"
    extract(cartridge, tmp_path / "out", code=1)
    found = contents(tmp_path / "out")
    base = HOSTILE.rpartition(b"/")[2]
    assert base + b".damaged" not in found
    (damaged,) = [name for name in found if name.endswith(b".damaged")]
    assert found[damaged] == b"hos!ile" + b"hostile" * 499
    assert HOSTILE not in found
    assert found[b"src/a"] == b"alpha" * 1000
    assert found[b"src/-rf"] == b"x" * 512


def test_a_damaged_file_and_the_hard_links_to_it(cartridge: Path, tmp_path: Path) -> None:
    damage(cartridge / "00001", offset_of(cartridge / "00001", b"alpha"), b"ALPHA")
    extract(cartridge, tmp_path / "out", code=1)
    out = tmp_path / "out" / "src"
    assert (out / "a.damaged").samefile(out / "hard.damaged")
    assert not (out / "a").exists()
    assert not (out / "hard").exists()


def test_a_damaged_newer_version_does_not_replace_an_older_good_one(cartridge: Path, tmp_path: Path) -> None:
    damage(cartridge / "00002", offset_of(cartridge / "00002", b"not any more"), b"NOT")
    extract(cartridge, tmp_path / "out", code=1)
    assert (tmp_path / "out" / "src" / "empty").read_bytes() == b""
    assert (tmp_path / "out" / "src" / "empty.damaged").read_bytes() == b"NOT any more"


def test_a_damaged_file_does_not_replace_a_good_one_that_has_its_name(tmp_path: Path) -> None:
    first = [file(b"s/a.damaged", b"a good file"), file(b"s/a", b"was good")]
    write_cartridge(tmp_path / "tape", [tape_file(first)])
    damage(tmp_path / "tape" / "00000", offset_of(tmp_path / "tape" / "00000", b"was good"), b"no longer")
    extract(tmp_path / "tape", tmp_path / "out", code=1)
    assert contents(tmp_path / "out") == {b"s/a.damaged": b"a good file", b"s/a.damaged.2": b"no longe"}


def test_after_a_damaged_header_the_members_behind_it_are_given_back(cartridge: Path, tmp_path: Path) -> None:
    data = (cartridge / "00001").read_bytes()
    start = data.index(layout.encode_member(night()[1].header))
    damage(cartridge / "00001", start + 512, b"\x80")  # the length of a pax record
    damage(cartridge / "00001", start + 1024, b"\x80")  # the ustar header
    printed = extract(cartridge, tmp_path / "out", code=1)
    assert "damaged pax header" in printed
    assert f"damaged at byte {start + 1024}; going on with the next whole header" in printed
    assert "src/a is lost: the MANIFEST names it, but it is not there" in printed
    assert "src/hard is a hard link to src/a, which is not here" in printed
    found = contents(tmp_path / "out")
    assert HOSTILE in found
    assert b"src/-rf" in found
    assert b"src/a" not in found


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_a_lost_record_costs_only_what_lay_in_it(tmp_path: Path, fill: bytes) -> None:
    members = [file(b"s/%02d" % number, bytes([number]) * 3000) for number in range(20)]
    write_cartridge(tmp_path / "tape", [tape_file(members)])
    damage(tmp_path / "tape" / "00000", 5 * RECORD_BYTES, fill * RECORD_BYTES)
    extract(tmp_path / "tape", tmp_path / "out", code=1)
    found = contents(tmp_path / "out")
    good = {member.header.name: member.data for member in members}
    for name, data in found.items():
        assert name.endswith(b".damaged") or good[name] == data
    assert sum(not name.endswith(b".damaged") for name in found) >= 17


def test_a_tape_file_that_was_cut_off(cartridge: Path, tmp_path: Path) -> None:
    path = cartridge / "00001"
    os.truncate(path, offset_of(path, b"hostile") + 100)
    printed = extract(cartridge, tmp_path / "out", code=1)
    assert "DAMAGED  tape file 1: ends before its end" in printed
    assert "there is no MANIFEST, so its files cannot be checked" in printed
    assert "is cut off" in printed
    found = contents(tmp_path / "out")
    assert found[b"src/a.damaged"] == b"alpha" * 1000  # perhaps good, but nothing proves it
    assert found[b"src/late"] == b"late"


def test_a_damaged_manifest_line(tmp_path: Path) -> None:
    write_cartridge(tmp_path / "tape", [tape_file([file(b"s/a", b"1"), file(b"s/b", b"2")])])
    digest = hashlib.sha256(b"1").hexdigest().encode()
    damage(tmp_path / "tape" / "00000", offset_of(tmp_path / "tape" / "00000", digest), b"X")
    printed = extract(tmp_path / "tape", tmp_path / "out", code=1)
    assert "line 1 of the MANIFEST is damaged" in printed
    assert "s/a cannot be checked: no MANIFEST names it" in printed
    assert contents(tmp_path / "out") == {b"s/a.damaged": b"1", b"s/b": b"2"}


def test_a_manifest_without_its_last_newline_makes_nobody_void(tmp_path: Path) -> None:
    members = [file(b"s/a", b"1"), file(b"s/b", b"2")]
    write_cartridge(tmp_path / "tape", [tape_file(members, manifest=manifest_of(members)[:-1] + b"J")])
    printed = extract(tmp_path / "tape", tmp_path / "out", code=1)
    assert "the MANIFEST does not end with a whole line" in printed
    assert "void" not in printed
    assert contents(tmp_path / "out") == {b"s/a": b"1", b"s/b.damaged": b"2"}


def test_a_void_member_is_noted_and_kept_apart(tmp_path: Path) -> None:
    write_cartridge(tmp_path / "tape", [tape_file([file(b"s/void", b"half\0\0", void=True), file(b"s/b", b"2")])])
    printed = extract(tmp_path / "tape", tmp_path / "out")
    assert "note     tape file 0: s/void is void: it changed while it was archived" in printed
    assert contents(tmp_path / "out") == {b"s/void.damaged": b"half\0\0", b"s/b": b"2"}


def test_two_members_of_one_name(tmp_path: Path) -> None:
    """Holdfast writes none, but what is there is given back."""
    members = [file(b"s/a", b"old"), file(b"s/a", b"new")]
    write_cartridge(tmp_path / "tape", [tape_file(members, manifest=manifest_of(members[1:]))])
    extract(tmp_path / "tape", tmp_path / "out", code=1)
    assert contents(tmp_path / "out") == {b"s/a": b"new", b"s/a.damaged": b"old"}


SMALL = (
    folder(b"s"),
    file(b"s/one", b"1" * 600),
    file(b"s/\xffn\n" + b"long" * 30, b"2" * 100),
    symbolic_link(b"s/link", b"t" * 110),
    hard_link(b"s/hard", b"s/one"),
    file(b"s/last", b"3" * 50),
)
SMALL_TAPE_FILE = tape_file(SMALL)
SMALL_CONTENTS = {member.header.name: member.data for member in SMALL if member.data} | {b"s/hard": b"1" * 600}


@settings(max_examples=150)
@given(st.integers(0, len(SMALL_TAPE_FILE) * 8 - 1))
def test_law_7_after_any_flipped_bit_no_file_is_wrong_under_its_name(bit: int) -> None:
    damaged = bytearray(SMALL_TAPE_FILE)
    damaged[bit // 8] ^= 1 << bit % 8
    check_nothing_wrong(bytes(damaged))


@settings(max_examples=60)
@given(st.integers(0, len(SMALL_TAPE_FILE) - 1), st.binary(min_size=1, max_size=2000))
def test_law_7_after_any_damage_no_file_is_wrong_under_its_name(offset: int, noise: bytes) -> None:
    check_nothing_wrong(SMALL_TAPE_FILE[:offset] + noise + SMALL_TAPE_FILE[offset + len(noise) :])


@settings(max_examples=40)
@given(st.integers(0, len(SMALL_TAPE_FILE)))
def test_law_7_cut_off_anywhere_no_file_is_wrong_under_its_name(length: int) -> None:
    check_nothing_wrong(SMALL_TAPE_FILE[:length])


def check_nothing_wrong(damaged: bytes) -> None:
    with tempfile.TemporaryDirectory() as top:
        Path(top, "tape").write_bytes(damaged)
        said: list[str] = []
        code = quietly(said, ["extract", f"{top}/tape", f"{top}/out"])
        found = contents(Path(top, "out"))
        wrong = {name for name, data in found.items() if SMALL_CONTENTS.get(name) != data and b".damaged" not in name}
        assert wrong == set()
        missing = set(SMALL_CONTENTS) - set(found)
        assert code == (1 if missing else code)
        assert code in (0, 1)
        assert said[-1] == ("all good" if code == 0 else said[-1])


def quietly(said: list[str], words: list[str]) -> int:
    """Run in this process; what would be printed goes into `said`."""
    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(rescue, "say", said.append)
        return rescue.main(words)
    finally:
        patch.undo()


# -- nothing is ever written outside


def escaping() -> list[tuple[str, list[Member]]]:
    return [
        ("up", [file(b"../escaped", b"!")]),
        ("deep up", [file(b"s/../../escaped", b"!")]),
        ("absolute", [file(b"/tmp/escaped-absolutely", b"!")]),
        ("dot", [file(b"./escaped", b"!"), file(b"s//escaped", b"!"), file(b"s/./escaped", b"!")]),
        ("folder", [folder(b"../escaped")]),
        ("absolute folder", [folder(b"/tmp/escaped-absolutely")]),
        ("link", [symbolic_link(b"../escaped", b"x")]),
        ("through a link", [symbolic_link(b"s/l", b"../../outside"), file(b"s/l/escaped", b"!")]),
        ("through an absolute link", [symbolic_link(b"s", b"OUTSIDE"), file(b"s/escaped", b"!")]),
        ("over a link", [symbolic_link(b"s/l", b"OUTSIDE/victim"), file(b"s/l", b"!")]),
        ("folder over a link", [symbolic_link(b"s/l", b"OUTSIDE"), folder(b"s/l", mode=0o700, mtime_ns=7)]),
        ("hard link to outside", [hard_link(b"s/h", b"../outside/victim"), file(b"s/h", b"!")]),
        ("hard link through a link", [symbolic_link(b"s/l", b"OUTSIDE/victim"), hard_link(b"s/h", b"s/l")]),
        (
            "hard link over a link",
            [file(b"a", b"!"), symbolic_link(b"s/l", b"OUTSIDE/victim"), hard_link(b"s/l", b"a")],
        ),
        ("mode through a link", [symbolic_link(b"s/l", b"OUTSIDE/victim"), file(b"s/l", b"", mode=0o777)]),
    ]


@pytest.mark.parametrize("members", [members for _, members in escaping()], ids=[name for name, _ in escaping()])
@pytest.mark.parametrize("together", [True, False])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, members: list[Member], together: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "victim").write_bytes(b"precious")
    (outside / "victim").chmod(0o600)
    os.utime(outside, ns=(MTIME_NS, MTIME_NS))
    before = tree(tmp_path)
    members = [with_link_to(member, bytes(outside)) for member in members]
    tape_files = [members] if together else [[member] for member in members]
    tape, out = tmp_path / "tape", tmp_path / "out"
    write_cartridge(tape, [tape_file(item) for item in tape_files])
    done = run("extract", tape, out)
    assert "Traceback" not in done.stderr
    after = tree(tmp_path)
    assert {name: what for name, what in after.items() if not name.startswith((b"out", b"tape")) or name in before} == (
        before
    )
    assert stat.S_IMODE((outside / "victim").stat().st_mode) == 0o600
    assert not Path("/tmp/escaped-absolutely").exists()
    for name in contents(out):
        assert not os.path.islink(os.path.join(bytes(out), name))


def with_link_to(member: Member, outside: bytes) -> Member:
    header = member.header
    link = header.link_name.replace(b"OUTSIDE", outside)
    return symbolic_link(header.name, link) if header.type == layout.TYPE_SYMBOLIC_LINK else member


def test_a_folder_that_the_person_linked_elsewhere_is_replaced_not_followed(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (out / "s").symlink_to(elsewhere)
    write_cartridge(tmp_path / "tape", [tape_file([file(b"s/a", b"1")])])
    extract(tmp_path / "tape", out)
    assert list(elsewhere.iterdir()) == []
    assert (out / "s" / "a").read_bytes() == b"1"


def test_dir_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    write_cartridge(tmp_path / "tape", [tape_file([file(b"s/a", b"1")])])
    extract(tmp_path / "tape", tmp_path / "out")
    assert (tmp_path / "real" / "s" / "a").read_bytes() == b"1"


def test_set_user_id_is_not_given_back(tmp_path: Path) -> None:
    """Owners are not, so a program of another user must not become one that runs as whoever extracts it."""
    members = [file(b"s/program", b"#!", mode=0o6755), folder(b"s/shared", mode=0o3770)]
    write_cartridge(tmp_path / "tape", [tape_file(members)])
    extract(tmp_path / "tape", tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out/s/program").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out/s/shared").stat().st_mode) == 0o3770


# -- what changes from tape file to tape file


def test_a_name_that_was_a_folder_a_file_and_a_link_in_turn(tmp_path: Path) -> None:
    turns = [
        [file(b"s/x", b"file")],
        [folder(b"s/x"), file(b"s/x/inside", b"1")],
        [symbolic_link(b"s/y", b"x")],
        [file(b"s/y/inside", b"2")],
        [symbolic_link(b"s/y/inside", b"target")],
    ]
    write_cartridge(tmp_path / "tape", [tape_file(members) for members in turns])
    extract(tmp_path / "tape", tmp_path / "out")
    assert contents(tmp_path / "out") == {b"s/x/inside": b"1"}
    assert os.readlink(tmp_path / "out/s/y/inside") == "target"


def test_a_file_that_a_folder_stands_in_the_way_of_is_kept_beside_it(tmp_path: Path) -> None:
    turns = [[file(b"s/x/inside", b"1")], [file(b"s/x", b"file")], [symbolic_link(b"s/x", b"t")]]
    write_cartridge(tmp_path / "tape", [tape_file(members) for members in turns])
    printed = extract(tmp_path / "tape", tmp_path / "out", code=1)
    assert printed.count("s/x cannot be written") == 2
    assert contents(tmp_path / "out") == {b"s/x/inside": b"1", b"s/x.damaged": b"file"}


def test_a_folder_that_nobody_may_write_in_gets_later_files_too(tmp_path: Path) -> None:
    turns = [[folder(b"s", mode=0o500), file(b"s/a", b"1")], [file(b"s/b", b"2")], [folder(b"s", mode=0o550)]]
    write_cartridge(tmp_path / "tape", [tape_file(members) for members in turns])
    extract(tmp_path / "tape", tmp_path / "out")
    assert contents(tmp_path / "out") == {b"s/a": b"1", b"s/b": b"2"}
    found = (tmp_path / "out/s").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o550, MTIME_NS)


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists(PLAIN_PYTHON),
    reason="only root can become somebody else, who then needs a Python that is not in root's folder",
)
def test_somebody_who_is_not_root_extracts_closed_folders_again_and_again() -> None:
    with tempfile.TemporaryDirectory() as top:
        place = Path(top)
        place.chmod(0o777)
        members = [
            folder(b"s", mode=0o500),
            folder(b"s/closed", mode=0),
            file(b"s/closed/a", b"1", mode=0),
            file(b"s/b", b"2", mode=0o400),
        ]
        write_cartridge(place / "tape", [tape_file(members), tape_file([file(b"s/closed/z", b"3")])])
        (place / "rescue.py").write_bytes(SCRIPT.read_bytes())
        for _ in range(2):
            command = [PLAIN_PYTHON, place / "rescue.py", "extract", place / "tape", place / "out"]
            done = subprocess.run(command, user=65534, group=65534, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert contents(place / "out") == {b"s/closed/a": b"1", b"s/closed/z": b"3", b"s/b": b"2"}
            assert stat.S_IMODE((place / "out/s/closed").stat().st_mode) == 0
            assert stat.S_IMODE((place / "out/s").stat().st_mode) == 0o500
            assert (place / "out/s/closed").stat().st_mtime_ns == MTIME_NS


# -- a real drive, as `st` answers


class FakeSt:
    """/dev/nst0: `blocks` are records (bytes), marks (None) and bad spots (an OSError, raised when they are read).

    At the end of data a read gives nothing, or (`at_end`) what an emulated drive gives, and the status tells what it is;
    or it fails, and the status tells it only after a spacing that failed, too.
    """

    def __init__(
        self,
        blocks: Sequence[bytes | OSError | None],
        *,
        stays_before_bad: bool = False,
        at_end: bytes | OSError | None = None,
    ) -> None:
        self.at_end = at_end
        self.told_end = False
        self.blocks = list(blocks)
        self.position = 7  # anywhere but at the begin
        self.stays_before_bad = stays_before_bad
        self.block_size: int | None = None

    def read(self, limit: int) -> bytes:
        if self.position >= len(self.blocks):
            self.told_end = isinstance(self.at_end, bytes)
            if isinstance(self.at_end, OSError):
                raise self.at_end
            return self.at_end or b""
        block = self.blocks[self.position]
        if isinstance(block, OSError):
            self.position += not self.stays_before_bad
            raise block
        self.position += 1
        if block is not None and len(block) > limit:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return block or b""

    def ioctl(self, request: int, argument: bytes) -> bytes:
        if request == 0x80086D03:
            return struct.pack("@l", self.position)
        if request == 0x80306D02:
            return struct.pack("@lllllii", 0, 0, 0, 0x08000000 if self.told_end else 0x01000000, 0, 0, 0)
        assert request == 0x40086D01
        operation, count = struct.unpack("@hi", argument)
        if operation == 6:
            self.position = 0
        elif operation == 20:
            self.block_size = count
        elif operation == 3:
            if self.position >= len(self.blocks):
                self.told_end = True
                raise OSError(errno.EIO, "Input/output error")
            self.position += count
        elif operation == 1:
            while self.position < len(self.blocks) and self.blocks[self.position] is not None:
                self.position += 1
            if self.position >= len(self.blocks):
                raise OSError(errno.EIO, "Input/output error")
            self.position += 1
        else:
            raise AssertionError(operation)
        return argument


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[FakeSt], str]]:
    """Puts a tape into a drive; the path of its device."""
    device = tmp_path / "nst0"
    device.touch()
    real_open, real_read, real_stat, real_ioctl = os.open, os.read, os.stat, fcntl.ioctl
    tapes: dict[int, FakeSt] = {}

    def install(tape: FakeSt) -> str:
        def opened(path: str, flags: int, *args: int, **kwargs: int) -> int:
            found = real_open(path, flags, *args, **kwargs)
            if path == str(device):
                tapes[found] = tape
            return found

        def status(path: str, **kwargs: bool) -> os.stat_result:
            found = real_stat(path, **kwargs)
            return os.stat_result((stat.S_IFCHR | 0o600, *found[1:])) if path == str(device) else found

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "stat", status)
        monkeypatch.setattr(os, "read", lambda fd, n: tapes[fd].read(n) if fd in tapes else real_read(fd, n))
        monkeypatch.setattr(
            fcntl, "ioctl", lambda fd, *args: tapes[fd].ioctl(*args) if fd in tapes else real_ioctl(fd, *args)
        )
        return str(device)

    yield install
    monkeypatch.undo()
    for descriptor in tapes:
        os.close(descriptor)


def records(*tape_files: bytes) -> list[bytes | OSError | None]:
    found: list[bytes | OSError | None] = []
    for data in tape_files:
        found += [data[start : start + RECORD_BYTES] for start in range(0, len(data), RECORD_BYTES)]
        found.append(None)
    return found


def bad() -> OSError:
    return OSError(errno.EIO, "Input/output error")


def test_a_tape_drive_is_rewound_and_read_to_its_end_of_data(drive: Callable[[FakeSt], str], tmp_path: Path) -> None:
    tape = FakeSt([*records(label(), tape_file(night())), None, b"older data behind the end"])
    said: list[str] = []
    assert quietly(said, ["extract", drive(tape), str(tmp_path / "out")]) == 0
    assert [line.split(":")[0] for line in said] == ["good     tape file 0", "good     tape file 1", "all good"]
    assert contents(tmp_path / "out")[b"src/a"] == b"alpha" * 1000
    assert tape.block_size == 0
    assert quietly(said, ["list", drive(tape)]) == 0
    assert quietly(said, ["verify", drive(tape)]) == 0


@pytest.mark.parametrize("stays", [False, True])
def test_a_bad_record_costs_only_what_lay_in_it(drive: Callable[[FakeSt], str], tmp_path: Path, stays: bool) -> None:
    members = [file(b"s/%02d" % number, bytes([number]) * 3000) for number in range(20)]
    blocks = records(tape_file(members), tape_file([file(b"s/later", b"1")]))
    blocks[5] = bad()
    said: list[str] = []
    tape = FakeSt(blocks, stays_before_bad=stays)
    assert quietly(said, ["extract", drive(tape), str(tmp_path / "out")]) == 1
    assert "DAMAGED  tape file 0: record 5 of the tape cannot be read: Input/output error" in said
    found = contents(tmp_path / "out")
    good = {member.header.name: member.data for member in members} | {b"s/later": b"1"}
    whole = {name for name in found if not name.endswith(b".damaged")}
    assert all(found[name] == good[name] for name in whole)
    assert len(whole) >= 18


def test_after_too_many_bad_records_the_next_tape_file_is_read(drive: Callable[[FakeSt], str], tmp_path: Path) -> None:
    blocks = [*records(tape_file([file(b"s/a", b"1")])), bytes(RECORD_BYTES), *[bad() for _ in range(40)], None]
    blocks += records(tape_file([file(b"s/b", b"2")]))
    said: list[str] = []
    assert quietly(said, ["extract", drive(FakeSt(blocks)), str(tmp_path / "out")]) == 1
    assert "DAMAGED  tape file 1: too many bad records: the rest of this tape file is left out" in said
    assert contents(tmp_path / "out") == {b"s/a": b"1", b"s/b": b"2"}


def test_a_tape_that_ends_in_bad_records(drive: Callable[[FakeSt], str], tmp_path: Path) -> None:
    blocks = [*records(tape_file([file(b"s/a", b"1")])), *[bad() for _ in range(40)]]
    said: list[str] = []
    assert quietly(said, ["extract", drive(FakeSt(blocks)), str(tmp_path / "out")]) == 1
    assert any("the tape cannot be read further" in line for line in said)
    assert contents(tmp_path / "out") == {b"s/a": b"1"}


@pytest.mark.parametrize("at_end", [b"stale" * 1000, bad()])
def test_the_driver_knows_the_end_of_data(drive: Callable[[FakeSt], str], at_end: bytes | OSError) -> None:
    said: list[str] = []
    assert quietly(said, ["verify", drive(FakeSt([], at_end=at_end))]) == 0
    whole = records(tape_file([file(b"s/a", b"1")]))
    assert quietly(said, ["verify", drive(FakeSt(whole, at_end=at_end))]) == 0
    assert quietly(said, ["verify", drive(FakeSt(whole[:-1], at_end=at_end))]) == 0  # all but the mark


def test_an_empty_tape(drive: Callable[[FakeSt], str]) -> None:
    said: list[str] = []
    assert quietly(said, ["verify", drive(FakeSt([]))]) == 0


# -- how it is called, and what it needs


@pytest.mark.parametrize(
    "words", [[], ["list"], ["extract", "x"], ["verify"], ["what", "x"], ["list", "x", "y"], ["--help"]]
)
def test_wrong_use_shows_how_it_is_used(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "python3 rescue.py extract TAPE DIR" in done.stderr


def test_a_tape_that_is_not_there(tmp_path: Path) -> None:
    done = run("list", tmp_path / "none")
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
    done = run("verify", tmp_path)
    assert done.returncode == 1
    assert "there are no tape files" in done.stderr


def test_a_full_disk_ends_it_with_a_reason(
    cartridge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert rescue.main(["extract", str(cartridge), str(tmp_path / "out")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".rescue-")]


def test_who_reads_only_the_first_lines_gets_no_traceback(tmp_path: Path) -> None:
    members = [file(b"s/%05d" % number) for number in range(5000)]
    (tmp_path / "tape").write_bytes(tape_file(members))
    command = f"'{sys.executable}' '{SCRIPT}' list '{tmp_path}/tape' | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_law_9_memory_is_small_however_large_the_files_are(tmp_path: Path) -> None:
    size = 300 * 2**20
    header = MemberHeader(name=b"s/large", type=layout.TYPE_FILE, size_bytes=size)
    digest = hashlib.sha256()
    for _ in range(300):
        digest.update(bytes(2**20))
    manifest = b"%s  s/large\n" % digest.hexdigest().encode()
    closing = MemberHeader(name=b"MANIFEST", type=layout.TYPE_FILE, size_bytes=len(manifest))
    with (tmp_path / "tape").open("wb") as tape:
        tape.write(layout.encode_member(header))
        tape.seek(size, os.SEEK_CUR)  # a hole
        tape.write(layout.encode_member(closing) + manifest.ljust(512, b"\0") + bytes(1024))
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: sys.stderr.write(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SCRIPT, "verify", tmp_path / "tape"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert int(done.stderr) < 40_000  # KiB


def test_it_needs_nothing_but_the_standard_library() -> None:
    imports = [
        node for node in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


def test_its_syntax_is_that_of_python_3_6() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def other_pythons() -> list[str]:
    """Whatever other Pythons this machine has; CI shows the syntax check at least."""
    return sorted(map(str, Path.home().glob(".pyenv/versions/3.*/bin/python")))


@pytest.mark.parametrize("python", other_pythons())
def test_it_runs_on_older_and_newer_pythons(cartridge: Path, tmp_path: Path, python: str) -> None:
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 6))"], check=False).returncode:
        pytest.skip("older than promised")
    for locale in ("C", "C.UTF-8"):
        done = run("extract", cartridge, tmp_path / locale, python=python, LC_ALL=locale)
        assert (done.returncode, done.stderr) == (0, "")
        assert run("list", cartridge, python=python, LC_ALL=locale).returncode == 0
    assert tree(tmp_path / "C") == tree(tmp_path / "C.UTF-8")
    extract(cartridge, tmp_path / "here")
    assert tree(tmp_path / "C") == tree(tmp_path / "here")


def test_no_descriptor_is_left_open(cartridge: Path, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    said: list[str] = []
    quietly(said, ["extract", str(cartridge), str(tmp_path / "out")])
    quietly(said, ["verify", str(cartridge)])
    assert set(os.listdir("/proc/self/fd")) == before
