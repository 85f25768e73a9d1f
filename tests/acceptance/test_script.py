"""Law 8: a restore script brings back what restore would, with `mt`, `tar` and `sha256sum` alone."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences, facts, make_night

from holdfast.cli.app import run
from holdfast.restoring import RestoreRequest, restore, write_script
from holdfast.testing import flip_bit

pytestmark = pytest.mark.acceptance

SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]


def script_for(vault: Path, folder: Path, **wanted: object) -> Path:
    out = io.StringIO()
    report = write_script(vault, RestoreRequest(to=folder / "never", **wanted), out)  # type: ignore[arg-type]
    assert report.errors == []
    path = folder / "script.sh"
    path.write_bytes(out.getvalue().encode("ascii"))
    return path


def run_script(script: Path, to: Path, shell: str = "sh", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run it where nothing of Holdfast can be found."""
    plain = {"PATH": "/usr/bin:/bin", "ANSWERS": "/dev/null"}
    return subprocess.run(
        [shell, str(script), str(to)],
        env=plain | environment,
        cwd=script.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def cartridges(vault: Path) -> str:
    return str(vault / "library/cartridges")


def demand_done(done: subprocess.CompletedProcess[bytes]) -> None:
    assert done.returncode == 0, done.stderr.decode()
    assert b"all is restored to" in done.stderr
    assert b"PROBLEM" not in done.stderr


def same_as_restore(vault: Path, folder: Path, shell: str = "sh", **wanted: object) -> None:
    """The script and the restore bring back the same, but for the times of folders that were not asked for."""
    script = script_for(vault, folder, **wanted)
    demand_done(run_script(script, folder / "by-script", shell, TAPE_DIR=cartridges(vault)))
    request = RestoreRequest(to=folder / "by-restore", origin="tape", **wanted)  # type: ignore[arg-type]
    assert restore(vault, request).exit_code() == 0
    ours, theirs = facts(folder / "by-restore"), facts(folder / "by-script")
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - bare_folders(folder, request):
        assert theirs[name] == ours[name], name


def bare_folders(folder: Path, request: RestoreRequest) -> set[bytes]:
    """Folders around what was asked for: their times are those of the restore itself."""
    names: set[bytes] = {b""}
    for pattern in request.patterns:
        parts = os.fsencode(pattern).split(b"/")[:-1]
        names |= {b"/" + b"/".join(parts[: count + 1]) for count in range(len(parts))}
    return names


@pytest.fixture
def hostile(tmp_path: Path, archived: Archive) -> Path:
    """A night with all that is hard, in several sessions: changed, touched, renamed, deleted and linked anew."""
    night = make_night(tmp_path / "night", before_1970=False)
    for name in (b"%s%n\\101", b"$(touch gone)`x`", b"ends in newline\n", b"a;b|c&d", b"END_OF_LIST", b"~", b"  "):
        (night / os.fsdecode(name)).write_bytes(b"of " + name)
    os.link(night / "empty", night / "empty, too")
    sealed = night / "sealed"
    sealed.mkdir()
    (sealed / "inside").write_bytes(b"in a folder that nobody may write to")
    sealed.chmod(0o555)
    assert archived(night).exit_code() == 0
    (night / "visdata").write_bytes(random.Random(7).randbytes(200_000))  # both names of it
    os.utime(night / "larger-than-a-block", ns=(10**18, 10**18 + 123))
    (night / "larger-than-a-block").chmod(0o604)
    (night / "new\nline").rename(night / "newer\nline")
    (night / "-rf").unlink()
    os.link(night / "sparse", night / "zen.2458661.uv" / "another name of sparse")
    assert archived(night).exit_code() == 0
    return night


@pytest.mark.parametrize("shell", SHELLS)
def test_law_8_a_script_brings_everything_back_as_it_was(
    vault: Path, hostile: Path, tmp_path: Path, shell: str
) -> None:
    script = script_for(vault, tmp_path)
    demand_done(run_script(script, tmp_path / "out", shell, TAPE_DIR=cartridges(vault)))
    assert differences(hostile, tmp_path / "out/night") == []
    same_as_restore(vault, tmp_path, shell)


@pytest.mark.parametrize(
    "pattern",
    [
        "night/zen.2458661.uv",
        "night/*line*",
        "night/empty*",
        "night/visdata",
        "night/deep/d00-" + "x" * 30 + "/d01*",
        "night/link*",
        "night/sealed/inside",
    ],
)
def test_patterns_and_names_of_hard_links_whose_first_name_is_not_wanted(
    vault: Path, hostile: Path, tmp_path: Path, pattern: str
) -> None:
    same_as_restore(vault, tmp_path, patterns=(pattern,))


def test_as_it_was(vault: Path, archived: Archive, tmp_path: Path) -> None:
    night = make_night(tmp_path / "night", before_1970=False)
    archived(night)
    before, moment_ns = facts(night), time.time_ns()
    (night / "visdata").unlink()
    (night / "visdata").write_bytes(b"now another file, and no hard link")
    (night / "empty-folder").rmdir()
    (night / "back\\slash").chmod(0o600)
    archived(night)
    script = script_for(vault, tmp_path, as_of_ns=moment_ns)
    demand_done(run_script(script, tmp_path / "out", TAPE_DIR=cartridges(vault)))
    assert facts(tmp_path / "out/night") == before
    same_as_restore(vault, tmp_path, as_of_ns=moment_ns, patterns=("night/zen.2458661.uv", "night/back*"))


FAKE_MT = """#!/bin/sh
# A drive that shows the tape file it stands at as a plain file.
[ "$1" = -f ] || exit 9
echo "$3 ${4:-}" >>"$LOG"
case $3 in
  rewind) number=0 ;;
  fsf) number=$4 ;;
  setblk) exit 0 ;;
  *) exit 9 ;;
esac
ln -sf "$LOADED/$(printf %05d "$number")" "$2"
"""


def fake_drive(folder: Path) -> dict[str, str]:
    (folder / "bin").mkdir()
    (folder / "bin/mt").write_text(FAKE_MT)
    (folder / "bin/mt").chmod(0o755)
    return {
        "PATH": f"{folder}/bin:/usr/bin:/bin",
        "LOG": str(folder / "mt.log"),
        "TAPE": str(folder / "nst0"),
        "TAPE_DIR": "",
    }


def test_with_a_drive_it_goes_by_mt(vault: Path, hostile: Path, tmp_path: Path) -> None:
    script = script_for(vault, tmp_path)
    drive = fake_drive(tmp_path)
    done = run_script(script, tmp_path / "out", **drive, LOADED=cartridges(vault) + "/HF0001L8")
    demand_done(done)
    assert differences(hostile, tmp_path / "out/night") == []
    log = (tmp_path / "mt.log").read_text().split("\n")
    assert log[0] == "setblk 0"
    assert log.count("rewind ") == sum(line.startswith("fsf") for line in log) + 1, "the label, and each tape file"


def test_it_asks_for_the_cartridge_and_takes_no_other(vault: Path, hostile: Path, tmp_path: Path) -> None:
    script = script_for(vault, tmp_path)
    done = run_script(script, tmp_path / "out", **fake_drive(tmp_path), LOADED=cartridges(vault) + "/HF0002L8")
    assert done.returncode == 4
    assert f"Load cartridge HF0001L8 into {tmp_path}/nst0, then press Enter." in done.stderr.decode()
    assert list((tmp_path / "out").rglob("*.uv")) == [tmp_path / "out/night/zen.2458661.uv"], "folders only"


def test_the_folder_of_one_cartridge_and_the_twin(vault: Path, hostile: Path, tmp_path: Path) -> None:
    script = script_for(vault, tmp_path)
    one = cartridges(vault) + "/HF0002L8"
    assert run_script(script, tmp_path / "wrong", TAPE_DIR=one).returncode == 4
    demand_done(run_script(script, tmp_path / "out", TAPE_DIR=one, TWIN="yes"))
    assert differences(hostile, tmp_path / "out/night") == []


def tape_file_with(vault: Path, name: str) -> Path:
    for path in sorted(Path(cartridges(vault), "HF0001L8").iterdir()):
        if path.name.isdigit():
            with tarfile.open(path) as tar:
                if name in tar.getnames():
                    return path
    raise AssertionError(f"no tape file with {name}")


def test_damage_is_told_and_the_twin_has_it(vault: Path, hostile: Path, tmp_path: Path) -> None:
    script = script_for(vault, tmp_path)
    flip_bit(tape_file_with(vault, "night/larger-than-a-block"), 600_000)
    done = run_script(script, tmp_path / "out", TAPE_DIR=cartridges(vault))
    assert done.returncode == 1
    assert b"PROBLEM: not all files from HF0001L8 are what was archived" in done.stderr
    assert b"NOT everything could be restored" in done.stderr
    refused = run_script(script, tmp_path / "out", TAPE_DIR=cartridges(vault), TWIN="yes")
    assert refused.returncode == 2
    assert b"is not empty" in refused.stderr
    demand_done(run_script(script, tmp_path / "out", TAPE_DIR=cartridges(vault), TWIN="yes", AGAIN="yes"))
    assert differences(hostile, tmp_path / "out/night") == []


def test_of_each_pair_it_takes_the_side_that_evidence_speaks_for(vault: Path, hostile: Path, tmp_path: Path) -> None:
    flip_bit(tape_file_with(vault, "night/larger-than-a-block"), 600_000)
    assert run(["verify", "--vault", str(vault)]) == 3
    script = script_for(vault, tmp_path)
    assert "\ncartridge HF0002L8 HF0001L8 " in script.read_text()
    demand_done(run_script(script, tmp_path / "out", TAPE_DIR=cartridges(vault)))


def test_several_pairs(vault: Path, archived: Archive, tmp_path: Path) -> None:
    night = tmp_path / "night"
    night.mkdir()
    for number in range(30):
        (night / f"{number:02d}").write_bytes(os.urandom(3_000_000))
    archived(night)
    script = script_for(vault, tmp_path)
    assert script.read_text().count("\ncartridge ") >= 2
    demand_done(run_script(script, tmp_path / "out", TAPE_DIR=cartridges(vault)))
    assert differences(night, tmp_path / "out/night") == []


def test_the_command_prints_the_script_and_tells_what_is_on_no_tape(
    vault: Path, tmp_path: Path, archived: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    night = make_night(tmp_path / "night")
    archived(night)
    (night / "late").write_bytes(b"stored and not dumped")
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.journey._dump", lambda *_, **__: [])
        archived(night)
    capsys.readouterr()
    assert run(["restore", "--script", "--to", str(tmp_path / "out"), "--vault", str(vault)]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("#!/bin/sh\n# Restores ")
    assert "night/late\n" not in printed.out
    assert "on no tape yet" in printed.err
    assert "night/late" in printed.err
    for wrong in (["--json"], ["--dry-run"], ["--from", "store"]):
        assert run(["restore", "--script", "--to", "x", "--vault", str(vault), *wrong]) == 2
