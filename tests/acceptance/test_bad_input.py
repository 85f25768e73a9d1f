"""What goes wrong: every case has a clear error, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.conftest import SMALL, Archive
from tests.acceptance.nights import differences, make_night

from holdfast.blocks.packfile import PackWriter
from holdfast.cli.app import run
from holdfast.config import InitOptions, init_vault
from holdfast.errors import EXIT_BUSY, EXIT_DATA_AT_RISK, EXIT_FAILED, EXIT_USAGE
from holdfast.journey import verify
from holdfast.restoring import RestoreRequest, restore
from holdfast.testing import flip_bit
from holdfast.trees import steady
from holdfast.work import vault_lock

Capture = pytest.CaptureFixture[str]


def object_file(vault: Path, barcode: str) -> Path:
    return vault / "library/cartridges" / barcode / "00001"


def find_in(path: Path, data: bytes) -> int:
    return path.read_bytes().index(data)


# -- tampered cartridges


def test_law_7_bad_bytes_never_pass_one_flipped_bit_is_named_and_the_twin_delivers(
    tmp_path: Path, vault: Path, archived: Archive, capsys: Capture
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    (night / "precious").write_bytes(b"precious data " * 1000)
    (night / "other").write_bytes(b"other")
    archived(night, in_place=True)
    tape = object_file(vault, "HF0001L8")
    flip_bit(tape, find_in(tape, b"precious data precious") + 700)

    assert run(["verify", "--vault", str(vault), "--json"]) == EXIT_DATA_AT_RISK
    report = json.loads(capsys.readouterr().out)
    (error,) = report["errors"]
    assert "HF0001L8 tape file 1" in error["place"]
    assert "night/precious" in error["place"]
    assert error["expected"].startswith("SHA-256 ")
    assert error["found"].startswith("SHA-256 ")
    assert error["expected"] != error["found"]
    assert "restore" in error["next"]

    restored = restore(vault, RestoreRequest(to=tmp_path / "back"))
    assert restored.exit_code() == 0
    assert restored.from_twin == 1
    assert "HF0001L8" in str(restored.warnings[0])
    assert differences(night, tmp_path / "back" / "night") == []
    assert run(["status", "--vault", str(vault)]) == EXIT_DATA_AT_RISK


@pytest.mark.parametrize("where", ["header", "padding", "manifest", "end"])
def test_law_7_bad_bytes_never_pass_wherever_the_bit_is(
    tmp_path: Path, vault: Path, archived: Archive, where: str
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    (night / "precious").write_bytes(b"precious data " * 1000)
    archived(night, in_place=True)
    tape = object_file(vault, "HF0002L8")
    data = tape.read_bytes()
    start = data.index(b"precious data precious")
    offsets = {
        "header": start - 512 + 3,
        "padding": start + 14_000 + 10,
        "manifest": data.index(b"  night/precious") - 5,
        "end": len(data) - 100,
    }
    flip_bit(tape, offsets[where])
    report = verify(vault, ("HF0002L8",), everything=True)
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert all("HF0002L8 tape file 1" in (error.place or "") for error in report.errors)
    assert restore(vault, RestoreRequest(to=tmp_path / "back")).exit_code() == 0
    assert differences(night, tmp_path / "back" / "night") == []


def test_a_tape_file_that_lost_its_end_is_named(tmp_path: Path, vault: Path, archived: Archive) -> None:
    archived(make_night(tmp_path / "night"), in_place=True)
    os.truncate(object_file(vault, "HF0001L8"), 300_000)
    report = verify(vault, (), everything=True)
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert "HF0001L8 tape file 1" in (report.errors[0].place or "")
    assert restore(vault, RestoreRequest(to=tmp_path / "back")).exit_code() == 0
    assert differences(tmp_path / "night", tmp_path / "back" / "night") == []


def test_both_copies_damaged_says_so_and_the_other_files_come_back(
    tmp_path: Path, vault: Path, archived: Archive
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    (night / "precious").write_bytes(b"precious data " * 1000)
    (night / "other").write_bytes(b"other")
    archived(night, in_place=True)
    for barcode in ("HF0001L8", "HF0002L8"):
        flip_bit(object_file(vault, barcode), find_in(object_file(vault, barcode), b"precious data") + 9)
    report = restore(vault, RestoreRequest(to=tmp_path / "back"))
    assert report.exit_code() == EXIT_DATA_AT_RISK
    assert "night/precious" in (report.errors[0].place or "")
    assert not (tmp_path / "back/night/precious").exists()
    assert (tmp_path / "back/night/other").read_bytes() == b"other"


def test_law_7_bad_bytes_never_pass_from_the_block_store_and_tape_delivers(
    tmp_path: Path, vault: Path, archived: Archive
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    (night / "precious").write_bytes(b"precious data " * 1000)
    archived(night)
    (pack,) = (vault / "packs").glob("*.pack")
    flip_bit(pack, find_in(pack, b"precious data") + 1234)
    report = restore(vault, RestoreRequest(to=tmp_path / "back"))
    assert report.exit_code() == 0
    assert "block" in str(report.warnings[0])
    assert differences(night, tmp_path / "back" / "night") == []


def test_law_5_never_overwrite_a_cartridge_that_is_not_ours(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    cartridges = vault / "library/cartridges"
    for name in ("00000", "marks.jsonl"):  # somebody put another tape under this barcode
        (cartridges / "HF0001L8" / name).write_bytes((cartridges / "HF0002L8" / name).read_bytes())
    before = (cartridges / "HF0001L8/00001").read_bytes()
    (night / "new").write_bytes(b"new")
    report = archived(night)  # the cartridge is fenced, and another one takes its place
    assert (cartridges / "HF0001L8/00001").read_bytes() == before
    assert "not the one that its barcode promises" in str(report.warnings[0])
    assert report.exit_code() == 0, (report.errors, report.unproven)
    assert report.written_on == ["HF0003L8", "HF0002L8"]


# -- sources


def test_missing_and_empty_sources_make_no_vault(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (("missing", "No such file"), ("empty", "the source is empty")):
        assert run(["archive", str(tmp_path / name), "--vault", str(tmp_path / "vault")]) == EXIT_FAILED
        said = capsys.readouterr().err
        assert words in said
        assert str(tmp_path / name) in said
        assert "Traceback" not in said
    assert not (tmp_path / "vault").exists()


def test_unreadable_files_are_reported_and_everything_else_is_done(
    tmp_path: Path, vault: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = make_night(tmp_path / "night")
    plain = steady.open_steady

    def refuse(root: bytes, path: bytes) -> int:
        if path == b"visdata":
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(root, path)

    monkeypatch.setattr(steady, "open_steady", refuse)
    report = archived(night)
    assert report.exit_code() == EXIT_FAILED
    failed = [problem for problem in report.kept.problems if problem.failed]
    assert [problem.path for problem in failed] == ["night/visdata"]
    assert report.kept.files - 1 <= report.totals["proven"]


def test_pipes_and_sockets_are_left_out_and_said(tmp_path: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    os.mkfifo(night / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(night / "socket"))
        report = archived(night)
    assert report.exit_code() == 0
    assert {problem.path for problem in report.kept.problems} == {"night/pipe", "night/socket"}


def test_extended_attributes_are_reported_as_dropped(tmp_path: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    try:
        os.setxattr(night / "visdata", "user.observer", b"somebody")
    except OSError:
        pytest.skip("this file system keeps no extended attributes")
    report = archived(night)
    dropped = {problem.path: problem.reason for problem in report.kept.problems}
    assert "user.observer" in dropped["night/visdata"]


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, vault: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = make_night(tmp_path / "night")
    changes = iter([b"second state", b"third state"])
    touch_while_read(monkeypatch, night / "visdata", lambda: next(changes, None))
    report = archived(night)
    assert report.exit_code() == 0, report.kept.problems
    assert restore(vault, RestoreRequest(to=tmp_path / "back")).exit_code() == 0
    assert (tmp_path / "back/night/visdata").read_bytes() == b"third state"


def test_a_file_that_will_not_hold_still_is_reported(
    tmp_path: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = make_night(tmp_path / "night")
    states = iter(range(10**6))
    touch_while_read(monkeypatch, night / "visdata", lambda: b"%d" % next(states))
    report = archived(night)
    assert report.exit_code() == EXIT_FAILED
    assert any("hold still" in problem.reason for problem in report.kept.problems)


def touch_while_read(monkeypatch: pytest.MonkeyPatch, path: Path, next_state: object) -> None:
    """Let somebody write the file between its opening and the check after its reading."""
    plain = steady.open_steady

    def opened(root: bytes, name: bytes) -> int:
        descriptor = plain(root, name)
        if name == os.fsencode(path.name) and (state := next_state()) is not None:  # type: ignore[operator]
            path.write_bytes(state)
        return descriptor

    monkeypatch.setattr(steady, "open_steady", opened)


def test_in_place_a_file_that_changes_before_its_dump_is_void_and_written_again(
    tmp_path: Path, vault: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    (night / "steady").write_bytes(b"steady" * 1000)
    (night / "growing").write_bytes(b"short")
    changes = iter([b"longer than before"])
    touch_while_read(monkeypatch, night / "growing", lambda: next(changes, None))
    report = archived(night, in_place=True)
    assert report.exit_code() == 0, (report.errors, report.unproven)
    assert report.objects == 2
    assert restore(vault, RestoreRequest(to=tmp_path / "back")).exit_code() == 0
    assert differences(night, tmp_path / "back/night") == []


def test_a_file_larger_than_a_cartridge_is_refused_before_anything_is_written(
    tmp_path: Path, vault: Path, capsys: Capture
) -> None:
    night = make_night(tmp_path / "night")
    with (night / "enormous").open("wb") as file:
        file.truncate(64 * 2**20)
    assert run(["archive", str(night), "--vault", str(vault)]) == EXIT_FAILED
    said = capsys.readouterr().err
    assert "larger than a cartridge" in said
    assert "enormous" in said
    assert not list((vault / "packs").iterdir())
    assert not list((vault / "library/cartridges").iterdir())


def test_the_vault_inside_its_source_is_left_out(tmp_path: Path, capsys: Capture) -> None:
    night = make_night(tmp_path / "night")
    init_vault(night / "vault", SMALL)
    assert run(["archive", str(night), "--vault", str(night / "vault"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"]["problems"][0]["path"] == "night/vault"


# -- vaults


def test_what_is_no_vault_or_of_a_newer_format_is_a_clear_error(tmp_path: Path, capsys: Capture) -> None:
    night = make_night(tmp_path / "night")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("not yours")
    newer = tmp_path / "newer"
    init_vault(newer, InitOptions())
    settings = newer / "holdfast.toml"
    settings.write_text(settings.read_text().replace("format = 1", "format = 2"))
    for folder, words in ((other, "not a vault"), (newer, "newer format"), (night / "visdata", "not a vault")):
        assert run(["archive", str(night), "--vault", str(folder)]) == EXIT_FAILED
        assert words in capsys.readouterr().err
    assert run(["ls", "--vault", str(tmp_path / "none")]) == EXIT_FAILED
    assert "holdfast init" in capsys.readouterr().err
    assert (other / "thesis.tex").read_text() == "not yours"


def test_law_10_one_owner_the_second_archive_is_refused_with_the_owners_name(
    tmp_path: Path, vault: Path, capsys: Capture
) -> None:
    night = make_night(tmp_path / "night")
    with vault_lock(vault / "vault.lock", "archive"):
        assert run(["archive", str(night), "--vault", str(vault)]) == EXIT_BUSY
    said = capsys.readouterr().err
    assert f"process {os.getpid()} on {socket.gethostname()}" in said
    assert "holdfast archive" in said


def test_a_disk_that_fills_in_the_middle_loses_nothing_and_goes_on_after_space_is_made(
    tmp_path: Path, vault: Path, archived: Archive, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = make_night(tmp_path / "night")
    plain = PackWriter.append
    room = iter(range(2))

    def append(self: PackWriter, *arguments: object) -> int:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as context:
        context.setattr(PackWriter, "append", append)
        assert run(["archive", str(night), "--vault", str(vault)]) == EXIT_FAILED
    capsys.readouterr()
    assert archived(night).exit_code() == 0
    assert restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape")).exit_code() == 0
    assert differences(night, tmp_path / "back/night") == []


# -- restore


def test_restore_never_writes_outside_its_folder(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    outside = tmp_path / "outside"
    outside.mkdir()
    back = tmp_path / "back"
    back.mkdir()
    (back / "night").symlink_to(outside)
    report = restore(vault, RestoreRequest(to=back))
    assert report.exit_code() != 0
    assert list(outside.iterdir()) == []


def test_restore_does_not_replace_other_files_unless_told(tmp_path: Path, vault: Path, archived: Archive) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    mine = tmp_path / "back/night/visdata"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    report = restore(vault, RestoreRequest(to=tmp_path / "back"))
    assert report.exit_code() == EXIT_FAILED
    assert mine.read_text() == "mine"
    assert "--overwrite" in str(report.errors[0])
    assert restore(vault, RestoreRequest(to=tmp_path / "back", overwrite=True)).exit_code() == 0
    assert differences(night, tmp_path / "back/night") == []


def test_nothing_meant_is_an_error(tmp_path: Path, vault: Path, archived: Archive, capsys: Capture) -> None:
    archived(make_night(tmp_path / "night"))
    arguments = ["restore", "no-such-thing", "--to", str(tmp_path / "back"), "--vault", str(vault)]
    assert run(arguments) == EXIT_FAILED
    assert "holdfast ls" in capsys.readouterr().err
    assert run(["restore", "--to", str(tmp_path), "--as-of", "yesterday", "--vault", str(vault)]) == EXIT_USAGE


# -- stopping


def test_ctrl_c_stops_cleanly_says_how_to_go_on_and_the_next_run_completes(tmp_path: Path, vault: Path) -> None:
    night = tmp_path / "night"
    night.mkdir()
    for number in range(12):
        (night / f"{number:02d}").write_bytes(os.urandom(2**20))
    command = [sys.executable, "-m", "holdfast", "archive", str(night), "--vault", str(vault)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()  # "kept ...": the dump begins
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        code = process.wait(60)
    assert code == 130, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["unproven"] == []


def test_modes_of_the_vault_let_only_its_owner_write(vault: Path) -> None:
    for path in vault.rglob("*"):
        assert not path.stat().st_mode & stat.S_IWOTH, path
