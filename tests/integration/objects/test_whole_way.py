"""A whole archive whose packs move to a server of S3, are read from there in every way, and survive what may happen."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import obstore
import pytest
from tests.acceptance.nights import differences, make_night
from tests.acceptance.stores import digests, use_store
from tests.integration.objects.server import Line, Server, options_for
from tests.integration.objects.test_s3 import names_in, raw_store

from holdfast import moving
from holdfast.browsing import VaultTree
from holdfast.cli.app import run
from holdfast.config import InitOptions, init_vault
from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_DONE, EXIT_FAILED, EXIT_USAGE, IntegrityError
from holdfast.restoring import RestoreRequest, restore
from holdfast.scrubbing import ScrubRequest, scrub

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MIB = 2**20
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = make_night(tmp_path / "night")
    (night / "large").write_bytes(random.Random(3).randbytes(40 * MIB))
    with h5py.File(night / "data.h5", "w") as file:
        file["frames"] = np.arange(1_000_000, dtype="u4").reshape(1000, 1000)
    return night


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "vault"
    init_vault(folder, InitOptions(block_size="4 MiB", pack_size="32 MiB", cartridge_capacity="256 MiB"))
    monkeypatch.setenv("HOLDFAST_VAULT", str(folder))
    return folder


def of_bucket(server: Server, bucket: str) -> dict[str, str]:
    """The packs in the bucket, as somebody else's program finds them."""
    folder = f"s3://{bucket}/vault/packs"
    return {name.rpartition("/")[2]: folder for name in names_in(server.port, bucket)}


def push(*, code: int = EXIT_DONE) -> None:
    assert run(["store", "push"]) == code


@pytest.fixture
def kept(vault: Path, night: Path) -> Path:
    """All is archived; the packs lie in the vault's folder."""
    assert run(["archive", str(night)]) == EXIT_DONE
    return vault


def check_all_is_there(vault: Path, night: Path, server: Server, bucket: str, packs: dict[str, str], to: Path) -> None:
    """The bucket has the packs, each once and as it was, and nothing else; from them all comes back."""
    assert digests(vault / "packs") == {}
    assert names_in(server.port, bucket) == sorted(f"vault/packs/{name}" for name in packs)
    fetched = to / "fetched"
    fetched.mkdir(parents=True)
    for name in packs:
        (fetched / name).write_bytes(obstore.get(raw_store(server.port, bucket), name).bytes())
    assert digests(fetched) == packs
    report = restore(vault, RestoreRequest(to=to / "back", origin="store"))
    assert (report.exit_code(), report.warnings) == (EXIT_DONE, [])
    assert differences(night, to / "back" / "night") == []


def test_the_whole_way(
    vault: Path, night: Path, server: Server, bucket: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    use_store(vault, f"s3://{bucket}/vault/packs", options_for(server.port))
    assert run(["archive", str(night), "--json"]) == EXIT_DONE
    sys.stdout.flush()
    moved = json.loads(capfdbinary.readouterr().out)["moved"]
    assert moved["packs"] == len(names_in(server.port, bucket)) >= 2
    assert digests(vault / "packs") == {}

    back = restore(vault, RestoreRequest(to=tmp_path / "back", origin="store"))
    assert (back.exit_code(), back.warnings) == (EXIT_DONE, [])
    assert differences(night, tmp_path / "back" / "night") == []
    assert run(["cat", "night/large", "--range", "20000000:20100000"]) == EXIT_DONE
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == (night / "large").read_bytes()[20_000_000:20_100_000]
    with VaultTree(vault) as tree, tree.open("night/data.h5") as stored, h5py.File(stored, "r") as file:
        rows = np.random.default_rng(1).integers(0, 1000, 30)
        assert all((file["frames"][row] == np.arange(row * 1000, row * 1000 + 1000)).all() for row in rows)
    report = scrub(vault, ScrubRequest())
    assert (report.exit_code(), report.damaged_blocks, report.packs) == (EXIT_DONE, 0, report.packs_in_store)
    assert run(["archive", str(night)]) == EXIT_DONE  # nothing new, and nothing is sent
    assert len(names_in(server.port, bucket)) == moved["packs"]


@pytest.mark.parametrize("after_bytes", [5 * MIB, 45 * MIB, 70 * MIB])
def test_law_6_a_push_that_was_killed_is_finished_by_running_again(
    kept: Path, night: Path, server: Server, line: Line, bucket: str, tmp_path: Path, after_bytes: int
) -> None:
    """Before the first, amid a multipart upload, and while a pack is read back, as far as bytes on the line tell."""
    packs = digests(kept / "packs")
    use_store(kept, f"s3://{bucket}/vault/packs", options_for(line.port) | {"timeout": "100s"})
    line.hush_after(after_bytes)
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "store", "push"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert line.is_quiet.wait(60)
    process.kill()
    assert process.communicate()[1] == b""
    line.cut()
    line.mend()
    assert restore(kept, RestoreRequest(to=tmp_path / "between", origin="store")).exit_code() == EXIT_DONE
    push()
    check_all_is_there(kept, night, server, bucket, packs, tmp_path / "then")
    push()


def test_ctrl_c_stops_a_push_amid_an_upload(kept: Path, server: Server, line: Line, bucket: str) -> None:
    packs = digests(kept / "packs")
    use_store(kept, f"s3://{bucket}/vault/packs", options_for(line.port))
    line.hush_after(5 * MIB)
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "store", "push"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert line.is_quiet.wait(60)
    process.send_signal(signal.SIGINT)
    line.mend()
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert "run the same command again" in told
    assert digests(kept / "packs").keys() | of_bucket(server, bucket).keys() >= packs.keys()
    push()
    assert of_bucket(server, bucket).keys() == packs.keys()


def test_a_server_that_goes_away_and_comes_back(
    kept: Path, night: Path, server: Server, line: Line, bucket: str, tmp_path: Path, capsys: Capture
) -> None:
    packs = digests(kept / "packs")
    use_store(kept, f"s3://{bucket}/vault/packs", options_for(line.port))
    line.cut_after(10 * MIB)
    push(code=EXIT_FAILED)
    told = capsys.readouterr().err
    assert "the object store cannot be used" in told
    assert ".pack" in told
    assert digests(kept / "packs") == packs
    (night / "more").write_bytes(os.urandom(MIB))
    assert run(["archive", str(night)]) == EXIT_FAILED
    said = capsys.readouterr().out
    assert "NOT MOVED" in said
    assert "PROVEN: all" in said
    line.mend()
    packs = digests(kept / "packs")
    assert run(["archive", str(night)]) == EXIT_DONE
    assert {name.rpartition("/")[2] for name in names_in(server.port, bucket)} >= packs.keys()
    report = restore(kept, RestoreRequest(to=tmp_path / "back", origin="store"))
    assert (report.exit_code(), differences(night, tmp_path / "back" / "night")) == (EXIT_DONE, [])


def test_law_7_wrong_bytes_in_the_bucket_never_pass_and_are_put_right(
    kept: Path, night: Path, server: Server, bucket: str
) -> None:
    use_store(kept, f"s3://{bucket}/vault/packs", options_for(server.port))
    push()
    raw = raw_store(server.port, bucket)
    for item in [item for page in obstore.list(raw) for item in page if item["size"] > 10 * MIB]:
        data = bytearray(obstore.get(raw, item["path"]).bytes())
        data[5 * MIB] ^= 1
        obstore.put(raw, item["path"], bytes(data))
    with VaultTree(kept) as tree, tree.open("night/large") as file, pytest.raises(IntegrityError) as caught:
        file.readall()
    assert f"s3://{bucket}/vault/packs/" in str(caught.value.place)
    report = scrub(kept, ScrubRequest())
    assert report.exit_code() == EXIT_DONE
    assert report.damaged_blocks == report.repaired_blocks > 0
    push()
    with VaultTree(kept) as tree, tree.open("night/large") as file:
        assert file.readall() == (night / "large").read_bytes()


def test_a_new_vault_takes_the_place_of_one_that_was_lost(
    kept: Path, night: Path, server: Server, bucket: str, tmp_path: Path
) -> None:
    use_store(kept, f"s3://{bucket}/vault/packs", options_for(server.port))
    push()
    settings = (kept / "holdfast.toml").read_text()
    shutil.rmtree(kept)
    assert run(["init"]) == EXIT_DONE
    (kept / "holdfast.toml").write_text(settings)
    push()
    report = restore(kept, RestoreRequest(to=tmp_path / "back", origin="store"))
    assert (report.exit_code(), differences(night, tmp_path / "back" / "night")) == (EXIT_DONE, [])


def test_another_vaults_packs_in_the_same_place_are_not_taken(
    kept: Path, server: Server, bucket: str, tmp_path: Path
) -> None:
    use_store(kept, f"s3://{bucket}/vault/packs", options_for(server.port))
    push()
    init_vault(tmp_path / "other")
    use_store(tmp_path / "other", f"s3://{bucket}/vault/packs", options_for(server.port))
    assert run(["store", "push", "--vault", str(tmp_path / "other")]) == EXIT_DONE
    assert not any(row.known for row in moving.list_packs(tmp_path / "other"))


def test_a_copy_from_one_bucket_to_another_goes_on(
    kept: Path, server: Server, line: Line, bucket: str, capsys: Capture
) -> None:
    packs, other = digests(kept / "packs"), server.make_bucket()
    use_store(kept, f"s3://{bucket}/vault/packs", options_for(server.port))
    push()
    arguments = ["store", "copy", "--to", f"s3://{other}/vault/packs"]
    for name, value in options_for(line.port).items():
        arguments += ["--option", f"{name}={value}"]
    line.cut_after(40 * MIB)
    assert run(arguments) == EXIT_FAILED
    line.mend()
    capsys.readouterr()
    assert run(arguments) == EXIT_DONE
    said = capsys.readouterr().out
    assert f'store = "s3://{other}/vault/packs"' in said
    assert said.count("[blocks.store_options]") == 1
    assert f'endpoint = "http://127.0.0.1:{line.port}"' in said
    assert 'secret_access_key = "$…"' in said
    assert of_bucket(server, other).keys() == of_bucket(server, bucket).keys() == packs.keys()


# -- wrong use


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"secret_access_key": None, "access_key_id": None}, "no credentials"),
        ({"bucket": "no-such-bucket"}, "no such bucket"),
        ({"secret_access_key": "$HOLDFAST_TEST_UNSET"}, "HOLDFAST_TEST_UNSET"),
    ],
    ids=str,
)
def test_what_the_settings_lack_is_told(
    kept: Path, server: Server, bucket: str, capsys: Capture, change: dict[str, str | None], told: str
) -> None:
    packs = digests(kept / "packs")
    meant: dict[str, str | None] = {**options_for(server.port), **change}
    bucket = meant.pop("bucket", None) or bucket
    use_store(kept, f"s3://{bucket}/packs", {key: text for key, text in meant.items() if text is not None})
    for command in ("push", "list"):
        assert run(["store", command]) == EXIT_USAGE
        error = capsys.readouterr().err
        assert told in error
        assert "next:" in error
        assert "Traceback" not in error
    assert digests(kept / "packs") == packs


def test_another_pack_of_this_name_is_an_error(kept: Path, server: Server, bucket: str, capsys: Capture) -> None:
    packs = digests(kept / "packs")
    use_store(kept, f"s3://{bucket}/vault/packs", options_for(server.port))
    raw, name = raw_store(server.port, bucket), min(packs)
    obstore.put(raw, name, b"something else")
    push(code=EXIT_DATA_AT_RISK)
    assert name in capsys.readouterr().err
    assert obstore.get(raw, name).bytes() == b"something else"
    assert digests(kept / "packs") == {name: packs[name]}


def test_what_is_released_is_given_back_in_the_bucket(
    vault: Path, night: Path, server: Server, bucket: str, tmp_path: Path, capsys: Capture
) -> None:
    settings = vault / "holdfast.toml"
    settings.write_text(settings.read_text().replace("as_proof = false", "as_proof = true"))
    use_store(vault, f"s3://{bucket}/vault/packs", options_for(server.port))
    assert run(["archive", str(night)]) == EXIT_DONE
    before = set(names_in(server.port, bucket))
    assert run(["release", "night/large", "--from", "store", "--no-collect"]) == EXIT_DONE
    capsys.readouterr()
    assert run(["collect", "--all", "--json"]) == EXIT_DONE
    report = json.loads(capsys.readouterr().out)
    assert report["removed_bytes"] - report["written_bytes"] > 40 * MIB
    assert len(before - set(names_in(server.port, bucket))) == report["packs"] > 0
    push()
    assert digests(vault / "packs") == {}
    for room in ("catalog", "journals"):
        shutil.rmtree(vault / room)
        (vault / room).mkdir()
    shutil.move(vault / "library", tmp_path / "library")
    (vault / "library").mkdir()
    push()  # the empty catalog is filled from the bucket
    shutil.rmtree(vault / "library")
    shutil.move(tmp_path / "library", vault / "library")
    assert run(["rebuild"]) == EXIT_DONE
    back = restore(vault, RestoreRequest(to=tmp_path / "back"))
    assert (back.exit_code(), back.warnings) == (EXIT_DONE, [])
    assert differences(night, tmp_path / "back" / "night") == []
    scrubbed = scrub(vault, ScrubRequest())
    assert (scrubbed.exit_code(), scrubbed.damaged_blocks, scrubbed.packs) == (EXIT_DONE, 0, scrubbed.packs_in_store)
