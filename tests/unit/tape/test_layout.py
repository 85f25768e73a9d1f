"""The bytes of a tape file, held against GNU tar, `sha256sum` and Python's tarfile."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.tape.building import (
    MTIME_NS,
    Member,
    file,
    folder,
    hard_link,
    manifest_of,
    owned,
    symbolic_link,
    tape_file,
)

from holdfast.errors import IntegrityError
from holdfast.tape import layout
from holdfast.tape.layout import MemberHeader
from holdfast.values import Attributes, FileVersion, Kind

LOCALES = ("C", "C.UTF-8")
TAR, SHA256SUM = shutil.which("tar"), shutil.which("sha256sum")

HOSTILE_NAMES = (
    b"not utf-8 \xff\xfe\x80",
    b"new\nline",
    b"carriage\rreturn",
    b"tab\tand bell\a",
    b"back\\slash",
    b"back\\nslash that looks escaped",
    b"ends with backslash\\",
    b"  spaces  in  it  ",
    "café ☃ 𝄞".encode(),
    "café".encode("latin-1"),
    b"-rf",
    b"--checkpoint-action=exec=false",
    b"*?[x]{a,b}$HOME`id`\"'",
    b"#comment",
    b"!bang",
    b"%41\\101",
    b"e" * 255,
    b"\xff" * 255,
    b"n" * 99,
    b"n" * 100,
    b"n" * 101,
    b"=",
    b"30 path=trick",
    b".hidden",
    b"...",
    b"~",
    b"MANIFEST",
    b"PaxHeaders",
    b"a:b",
    b"host:dev",
)


def hostile_members() -> list[Member]:
    """A tree below the folder `-source`, whose name already looks like an option."""
    root = "source é".encode()
    members = [folder(root, mode=0o755)]
    for number, name in enumerate(HOSTILE_NAMES):
        data = name * number  # the first file is empty
        members.append(file(root + b"/" + name, data, mode=0o600 + number % 8, mtime_ns=MTIME_NS + number))
    deep = root + b"".join(b"/" + bytes([97 + level]) * 60 for level in range(8))
    parts = deep.split(b"/")
    members += [folder(b"/".join(parts[:count])) for count in range(2, len(parts) + 1)]
    members += [
        file(deep + b"/deep file", b"deep"),
        hard_link(deep + b"/link to newline", root + b"/new\nline"),
        file(deep + b"/" + b"\xc3" * 255, b"deeper"),
        hard_link(root + b"/link to deep", deep + b"/" + b"\xc3" * 255),
        symbolic_link(root + b"/short", b"-rf"),
        symbolic_link(root + b"/long", b"../" * 400 + b"\xff\n target"),
        symbolic_link(root + b"/exactly 100", b"t" * 100),
        symbolic_link(root + b"/exactly 101", b"t" * 101),
        symbolic_link(root + b"/dangling", "kein Ziel ß".encode()),
        folder(root + b"/empty folder\n", mode=0o700),
        folder(root + b"/" + b"\xfe" * 254, mode=0o2775),
        file(root + b"/whole seconds", b"", mtime_ns=5 * 10**9),
        file(root + b"/one nanosecond", b"", mtime_ns=1),
        file(root + b"/exactly a block", b"b" * 512),
        file(root + b"/one more", b"b" * 513),
        owned(file(root + b"/large ids", b"1"), uid=2**21, gid=2**31, user="u" * 40, group="g" * 32),
        owned(file(root + b"/named ids", b"1"), uid=2**21 - 1, gid=4_294_967_294, user="müller", group="größe"),
        owned(file(root + b"/32 user", b"1"), user="u" * 31, group="g" * 31),
    ]
    return members


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Member]]:
    members = hostile_members()
    path = tmp_path_factory.mktemp("hostile") / "00001"
    path.write_bytes(tape_file(members, record_bytes=10240))
    return path, members


def run_quietly(*command: str | os.PathLike[str], cwd: Path, locale: str) -> bytes:
    """Run a tool that must succeed without a word on standard error; returns what it printed."""
    done = subprocess.run(
        [os.fspath(word) for word in command],
        cwd=cwd,
        env={"LC_ALL": locale, "TZ": "UTC"},
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize("locale", LOCALES)
class TestGnuTar:
    def test_lists_every_member_in_order_without_a_word(
        self, hostile: tuple[Path, list[Member]], tmp_path: Path, locale: str
    ) -> None:
        path, members = hostile
        command = (str(TAR), "-b", "20", "--quoting-style=literal", "--null", "--show-transformed-names", "-tf", path)
        listed = run_quietly(*command, cwd=tmp_path, locale=locale)
        expected = [member.header.name for member in members] + [b"MANIFEST"]
        assert listed == b"".join(name + b"\n" for name in expected)
        assert run_quietly(str(TAR), "-b", "20", "-tvf", path, cwd=tmp_path, locale=locale).count(b"\n") == len(
            expected
        )

    def test_extracts_every_byte_name_mode_time_and_link(
        self, hostile: tuple[Path, list[Member]], tmp_path: Path, locale: str
    ) -> None:
        path, members = hostile
        run_quietly(str(TAR), "--no-same-owner", "-b", "20", "-xpf", path, cwd=tmp_path, locale=locale)
        for member in members:
            check_extracted(tmp_path, member)
        extracted = {
            os.path.join(top, name) for top, folders, files in os.walk(bytes(tmp_path)) for name in folders + files
        }
        assert extracted == {os.path.join(bytes(tmp_path), member.header.name.rstrip(b"/")) for member in members} | {
            os.path.join(bytes(tmp_path), b"MANIFEST")
        }

    def test_sha256sum_checks_what_was_extracted(
        self, hostile: tuple[Path, list[Member]], tmp_path: Path, locale: str
    ) -> None:
        path, _ = hostile
        run_quietly(str(TAR), "-b", "20", "-xf", path, cwd=tmp_path, locale=locale)
        command = (str(SHA256SUM), "--check", "--strict", "--quiet", "MANIFEST")
        assert run_quietly(*command, cwd=tmp_path, locale=locale) == b""
        damaged = tmp_path / "source é" / "one more"
        damaged.write_bytes(b"b" * 512 + b"B")
        done = subprocess.run(command, cwd=tmp_path, env={"LC_ALL": locale}, capture_output=True, check=False)
        assert done.returncode == 1
        assert b"one more: FAILED" in done.stdout


def check_extracted(root: Path, member: Member) -> None:
    header = member.header
    path = os.path.join(bytes(root), header.name.rstrip(b"/"))
    found = os.lstat(path)
    if header.type == layout.TYPE_SYMBOLIC_LINK:
        assert os.readlink(path) == header.link_name
    elif header.type == layout.TYPE_HARD_LINK:
        assert os.path.samefile(path, os.path.join(bytes(root), header.link_name))
    else:
        assert found.st_mode & 0o7777 == header.mode
        assert found.st_mtime_ns == header.mtime_ns
    if header.type == layout.TYPE_FILE:
        with open(path, "rb") as data:
            assert data.read() == member.data


def test_a_name_that_looks_like_an_option_may_begin_the_tape_file(tmp_path: Path) -> None:
    (tmp_path / "tf").write_bytes(tape_file([folder(b"-C"), file(b"-C/x", b"1"), file(b"--help", b"2")]))
    run_quietly(str(TAR), "-xf", "tf", cwd=tmp_path, locale="C")
    run_quietly(str(SHA256SUM), "-c", "--strict", "--quiet", "MANIFEST", cwd=tmp_path, locale="C")


def test_owners_are_listed_in_full(hostile: tuple[Path, list[Member]], tmp_path: Path) -> None:
    path, _ = hostile
    by_number = run_quietly(str(TAR), "--numeric-owner", "-tvf", path, cwd=tmp_path, locale="C.UTF-8").decode()
    by_name = run_quietly(str(TAR), "-tvf", path, cwd=tmp_path, locale="C.UTF-8").decode()
    assert f"{2**21}/{2**31}" in by_number
    assert f"{2**21 - 1}/4294967294" in by_number
    assert f"{'u' * 40}/{'g' * 32}" in by_name
    assert "müller/größe" in by_name
    assert f"{'u' * 31}/{'g' * 31}" in by_name


@pytest.mark.parametrize("time_ns", [-1, -(10**9), -1_500_000_000, -31_536_000_500_000_000, 2**32 * 10**9 + 7])
def test_times_outside_1970_to_2038_are_given_back(tmp_path: Path, time_ns: int) -> None:
    (tmp_path / "tf").write_bytes(tape_file([file(b"strange", mtime_ns=time_ns)]))
    # tar warns of files from the future or the far past, whoever wrote the archive
    run_quietly(str(TAR), "--warning=no-timestamp", "-xf", "tf", cwd=tmp_path, locale="C")
    assert (tmp_path / "strange").stat().st_mtime_ns == time_ns


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 2**40, 2**62])
def test_a_size_beyond_ustar_is_read_by_gnu_tar_and_tarfile(tmp_path: Path, size: int) -> None:
    header = MemberHeader(name=b"huge", type=layout.TYPE_FILE, size_bytes=size, mtime_ns=MTIME_NS)
    encoded = layout.encode_member(header)
    with tarfile.open(fileobj=io.BytesIO(encoded + bytes(1024)), mode="r|") as tar:
        assert tar.next().size == size  # type: ignore[union-attr]
    path = tmp_path / "head"
    path.write_bytes(encoded)
    # the data is not there, so tar ends in an error; but it says what the header holds
    done = subprocess.run([str(TAR), "-tvf", path], env={"LC_ALL": "C"}, capture_output=True, check=False)
    assert f" {size} ".encode() in done.stdout


def test_pythons_tarfile_reads_the_same(hostile: tuple[Path, list[Member]]) -> None:
    path, members = hostile
    with tarfile.open(path, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        found = tar.getmembers()
        assert [os.fsencode(info.name) for info in found[:-1]] == [
            member.header.name.rstrip(b"/") for member in members
        ]
        for info, member in zip(found, members, strict=False):
            header = member.header
            assert (info.mode, info.uid, info.gid) == (header.mode, header.uid, header.gid)
            assert (info.uname, info.gname) == (header.user, header.group)
            assert os.fsencode(info.linkname) == header.link_name
            assert info.pax_headers["mtime"] == show_decimal(header.mtime_ns)
            if info.isreg() and member.data:
                assert tar.extractfile(info).read() == member.data  # type: ignore[union-attr]
        assert tar.extractfile(found[-1]).read() == manifest_of(members)  # type: ignore[union-attr]


def show_decimal(time_ns: int) -> str:
    sign = "-" if time_ns < 0 else ""
    seconds, fraction = divmod(abs(time_ns), 10**9)
    return f"{sign}{seconds}.{fraction:09d}" if fraction else f"{sign}{seconds}"


def test_golden_bytes_the_format_does_not_drift() -> None:
    """If this fails, tapes written from now on differ from those in the vault: that needs a new tape format number."""
    version = uuid.UUID("01234567-89ab-4cde-8f01-23456789abcd")
    members = [
        folder(b"s"),
        file(b"s/a", b"alpha"),
        owned(file(b"s/" + b"\xff\n\\" * 40, b"beta" * 200, mtime_ns=-1_500_000_000), uid=1000, gid=2**22, user="u"),
        hard_link(b"s/h", b"s/a"),
        symbolic_link(b"s/l", b"t" * 150),
    ]
    members[1] = replace(members[1], header=replace(members[1].header, version_id=version))
    data = tape_file(members, record_bytes=16384)
    assert len(data) == 16384
    assert hashlib.sha256(data).hexdigest() == "461e12d8c2a1117903c39617a86d05783b4fa2983ae856a3588d71de7ab5215b"


def test_object_comment_stands_in_the_global_header() -> None:
    data = tape_file([])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.getmembers()
        assert tar.pax_headers == {
            "comment": "holdfast object 11111111-2222-4333-8444-555555555555 pair 66666666-7777-4888-9999-aaaaaaaaaaaa"
        }


# -- encode and decode are inverse

names = st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"0"))
users = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40)
headers = st.builds(
    MemberHeader,
    name=names,
    type=st.sampled_from([layout.TYPE_FILE, layout.TYPE_HARD_LINK, layout.TYPE_SYMBOLIC_LINK, layout.TYPE_FOLDER]),
    size_bytes=st.integers(0, 2**63),
    mode=st.integers(0, 0o7777),
    mtime_ns=st.integers(-(2**63) * 10**9, 2**63 * 10**9),
    uid=st.integers(0, 2**32),
    gid=st.integers(0, 2**32),
    user=users,
    group=users,
    link_name=st.one_of(st.just(b""), names),
    version_id=st.one_of(st.none(), st.uuids()),
)


def decode_member(data: bytes) -> MemberHeader:
    records: dict[str, bytes] = {}
    first = layout.decode_ustar(data[:512])
    assert first is not None
    if first.type == layout.TYPE_EXTENDED:
        records = layout.decode_pax(data[512 : 512 + first.size_bytes])
        data = data[512 + layout.padded(first.size_bytes) :]
    block = layout.decode_ustar(data)
    assert block is not None
    return layout.apply_pax(block, records)


@given(headers)
def test_every_header_comes_back_as_it_was(header: MemberHeader) -> None:
    encoded = layout.encode_member(header)
    assert len(encoded) % 512 == 0
    assert decode_member(encoded) == header


@given(headers, st.data())
def test_a_flipped_bit_in_a_ustar_header_never_passes(header: MemberHeader, data: st.DataObject) -> None:
    block = bytearray(layout.encode_member(header)[-512:])
    bit = data.draw(st.integers(0, 512 * 8 - 1))
    block[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        layout.decode_ustar(bytes(block))


@given(st.binary(max_size=200))
def test_pax_records_of_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(IntegrityError):
        layout.decode_pax(data)


@given(st.dictionaries(st.sampled_from(["size", "mtime", "uid", "gid", "comment", "path"]), st.binary(max_size=40)))
def test_pax_values_of_any_bytes_are_applied_or_refused(records: dict[str, bytes]) -> None:
    block = layout.decode_ustar(layout.encode_member(MemberHeader(name=b"x", type=b"0"))[-512:])
    assert block is not None
    with suppress(IntegrityError):
        assert layout.apply_pax(block, records).size_bytes >= 0


@pytest.mark.parametrize(
    "records",
    [
        {"size": b"-1"},
        {"size": b"1_0"},
        {"size": b" 1"},
        {"uid": b"-1"},
        {"mtime": b"nan"},
        {"mtime": b"1.5e3"},
        {"mtime": b"--1"},
        {"comment": b"holdfast version nonsense"},
        {"comment": b"holdfast version \xff"},
    ],
)
def test_a_damaged_pax_value_is_an_integrity_error(records: dict[str, bytes]) -> None:
    block = layout.decode_ustar(layout.encode_member(MemberHeader(name=b"x", type=b"0"))[-512:])
    assert block is not None
    with pytest.raises(IntegrityError, match="damaged pax header"):
        layout.apply_pax(block, records)


@pytest.mark.parametrize(
    "data", [b"0 a=b\n", b"3 a", b"6 a=b", b"99 a=b\n", b"6 a=bc", b"1 a=b\n", b"x a=b\n", b"7 ab=c\n\0"]
)
def test_pax_records_that_do_not_add_up_are_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="damaged pax header"):
        layout.decode_pax(data)


def test_a_block_of_zeros_is_no_header() -> None:
    assert layout.decode_ustar(bytes(512)) is None


def test_a_pax_record_counts_its_own_length_across_every_power_of_ten() -> None:
    for length in range(1, 1100):
        header = MemberHeader(name=b"p" * length, type=b"0")
        assert decode_member(layout.encode_member(header)).name == b"p" * length


@pytest.mark.parametrize(("content", "record", "expected"), [(0, 1024, 1024), (1, 1024, 2048), (3072, 4096, 4096)])
def test_a_tape_file_is_whole_records_with_room_for_its_end(content: int, record: int, expected: int) -> None:
    assert layout.tape_file_bytes(content, record) == expected


# -- versions become headers


def version(kind: Kind, **changes: object) -> FileVersion:
    attributes = Attributes(0o4755, MTIME_NS, 1, 2, "u", "g")
    made = FileVersion(uuid.UUID(int=7), "src", b"a/b", kind, 10, attributes, 0)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_version_becomes_a_header_of_its_kind() -> None:
    as_file = layout.header_of(version(Kind.FILE))
    assert (as_file.name, as_file.type, as_file.size_bytes, as_file.mode) == (b"src/a/b", b"0", 10, 0o4755)
    as_link = layout.header_of(version(Kind.FILE), b"src/a/c")
    assert (as_link.type, as_link.size_bytes, as_link.link_name) == (b"1", 0, b"src/a/c")
    as_folder = layout.header_of(version(Kind.FOLDER))
    assert (as_folder.name, as_folder.type, as_folder.size_bytes) == (b"src/a/b/", b"5", 0)
    as_symbolic = layout.header_of(version(Kind.LINK, link_target=b"../x"))
    assert (as_symbolic.type, as_symbolic.size_bytes, as_symbolic.link_name) == (b"2", 0, b"../x")
    root = layout.header_of(version(Kind.FOLDER, path=b""))
    assert root.name == b"src/"


# -- what a tape file says of itself at its begin


def test_the_begin_of_a_tape_file_names_it() -> None:
    own_id, pair_id = uuid.uuid4(), uuid.uuid4()
    for kind in ("label", "object", "catalog"):
        begin = layout.encode_global(layout.object_comment(kind, own_id, pair_id))
        assert layout.name_of(begin + b"x" * 512) == layout.TapeFileName(kind, own_id, pair_id)


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"\0" * 1024,
        b"\xff" * 1024,
        layout.encode_global("somebody else's comment"),
        layout.encode_global("holdfast object x pair y"),
        layout.encode_member(MemberHeader(name=b"a", type=layout.TYPE_FILE)),
        layout.encode_global(layout.object_comment("object", uuid.UUID(int=1), uuid.UUID(int=2)))[:600],
    ],
)
def test_what_is_not_ours_has_no_name(begin: bytes) -> None:
    assert layout.name_of(begin) is None
