"""Vaults: made durably, opened as they are, and everything else refused with a way out."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast import config, durable
from holdfast.config import (
    SETTINGS_NAME,
    InitOptions,
    LibrarySettings,
    VaultSettings,
    init_vault,
    open_or_init_vault,
    open_vault,
    take_identity,
    vault_folder,
)
from holdfast.errors import CapacityError, UsageError, VaultError

REAL = InitOptions(library="mtx", changer="/dev/sg3", scratch_a="HFA", scratch_b="HFB")
ROOMS = ["catalog", "journals", "library", "packs", "scratch", "state"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "vault"


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "holdfast.toml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


# -- making and opening


def test_a_new_vault_opens_as_it_was_made(folder: Path) -> None:
    made = init_vault(folder)
    assert open_vault(folder) == open_or_init_vault(folder) == made
    assert sorted(path.name for path in folder.iterdir()) == sorted([*ROOMS, "holdfast.toml"])
    assert made.blocks.block_bytes == 16 * 2**20
    assert made.tape.record_bytes == 512 * 1024
    assert made.tape.cartridge_bytes == 12 * 10**12
    assert made.tape.virtual_counts_as_proof is False
    for path in (made.catalog_path, made.state_folder, made.packs_folder, made.journals_folder, made.lock_path):
        assert folder in path.parents


def test_each_vault_has_an_identity_of_its_own(tmp_path: Path) -> None:
    assert init_vault(tmp_path / "a").id != init_vault(tmp_path / "b").id


def test_options_are_kept(folder: Path) -> None:
    options = InitOptions(
        block_size="64 KiB",
        pack_size="1 MiB",
        cartridge_capacity="32 MiB",
        record_size="256 KiB",
        object_size="1MB",
        commit_every="2 MB",
    )
    made = init_vault(folder, options)
    assert made == open_vault(folder)
    assert (made.blocks.block_bytes, made.blocks.pack_bytes) == (2**16, 2**20)
    assert (made.tape.cartridge_bytes, made.tape.record_bytes) == (2**25, 2**18)
    assert (made.tape.object_bytes, made.tape.commit_bytes) == (10**6, 2 * 10**6)


def test_law_1_the_settings_are_written_last_and_durably(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_make, real_replace = durable.make_folder, durable.replace_file

    def make(path: Path) -> None:
        calls.append(path.name)
        real_make(path)

    def replace(path: Path, data: bytes) -> None:
        calls.append(path.name)
        real_replace(path, data)

    monkeypatch.setattr(durable, "make_folder", make)
    monkeypatch.setattr(durable, "replace_file", replace)
    init_vault(folder)
    assert calls[0] == "vault"
    assert sorted(calls[1:-1]) == ROOMS
    assert calls[-1] == "holdfast.toml"


@pytest.mark.parametrize("steps", range(7))
def test_law_6_a_vault_whose_making_was_cut_off_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    left = [steps]
    real = durable.make_folder

    def make(path: Path) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "make_folder", make)
        with pytest.raises(KeyboardInterrupt):
            init_vault(folder)
    with pytest.raises(VaultError, match="not a vault"):
        open_vault(folder)
    if folder.exists():
        (folder / "holdfast.toml.new").write_bytes(b"half of th")
    assert isinstance(open_or_init_vault(folder), VaultSettings)


def test_the_folder_is_the_one_named_else_that_of_the_environment_else_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOLDFAST_VAULT", "from-environment")
    assert vault_folder(Path("named/../other")) == tmp_path / "other"
    assert vault_folder(Path("~/v")) == tmp_path / "home" / "v"
    assert vault_folder(None) == tmp_path / "from-environment"
    monkeypatch.setenv("HOLDFAST_VAULT", "")
    assert vault_folder(None) == tmp_path / "home" / "holdfast-vault"
    monkeypatch.delenv("HOLDFAST_VAULT")
    assert vault_folder(None) == tmp_path / "home" / "holdfast-vault"


# -- what is no vault


def test_a_vault_is_not_made_twice(folder: Path) -> None:
    made = init_vault(folder)
    with pytest.raises(VaultError, match="a vault here already") as caught:
        init_vault(folder)
    assert caught.value.hint == f"holdfast status --vault {folder}"
    assert open_vault(folder) == made


@pytest.mark.parametrize("name", ["photo.jpg", "catalog/catalog.db", "packs/x.pack", ".hidden", "lost+found/x"])
def test_law_5_a_folder_with_other_things_is_left_as_it_is(folder: Path, name: str) -> None:
    """Also what a vault leaves that lost its settings: a new identity must not be put over its packs."""
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"precious")
    before = sorted(folder.rglob("*"))
    for action in (init_vault, open_or_init_vault, open_vault):
        with pytest.raises(VaultError, match="not a vault") as caught:
            action(folder)
        assert caught.value.place == str(folder)
        assert caught.value.hint
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_is_no_vault(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    for action in (init_vault, open_or_init_vault, open_vault):
        with pytest.raises(VaultError) as caught:
            action(tmp_path / path)
        assert caught.value.place == str(tmp_path / path)
    assert (tmp_path / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_parent_that_cannot_be_written_is_a_vault_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", fails)
    with pytest.raises(VaultError, match="cannot be written") as caught:
        open_or_init_vault(folder)
    assert caught.value.found == os.strerror(number)
    assert "--vault" in (caught.value.hint or "")


def test_a_parent_that_may_not_be_looked_into_is_a_vault_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", fails)
    for action in (init_vault, open_or_init_vault):
        with pytest.raises(VaultError) as caught:
            action(folder)
        assert caught.value.found == "Permission denied"


def test_a_read_only_parent_is_a_vault_error() -> None:
    with tempfile.TemporaryDirectory() as parent, nobody_in_particular():
        if os.geteuid() == Path(parent).stat().st_uid:
            Path(parent).chmod(0o500)
        with pytest.raises(VaultError, match="cannot be written"):
            init_vault(Path(parent) / "vault")


@contextmanager
def nobody_in_particular() -> Generator[None, None, None]:
    """Root may write everywhere, so root gives that up for the while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_full_disk_is_a_capacity_error_and_no_vault_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(CapacityError):
            init_vault(folder)
    with pytest.raises(VaultError, match="not a vault"):
        open_vault(folder)
    init_vault(folder)


# -- settings


def test_law_5_a_newer_vault_is_refused(folder: Path) -> None:
    init_vault(folder)
    edit(folder, "format = 1", "format = 2")
    for action in (open_vault, open_or_init_vault):
        with pytest.raises(VaultError, match="newer format") as caught:
            action(folder)
        assert (caught.value.expected, caught.value.found) == ("format 1 or older", "format 2")
        assert "pip install" in (caught.value.hint or "")


def test_a_newer_vault_is_refused_before_its_settings_are_judged(folder: Path) -> None:
    """A newer release may have other settings: what is wrong is the release, not the file."""
    init_vault(folder)
    (folder / "holdfast.toml").write_text("[vault]\nformat = 7\n")
    with pytest.raises(VaultError, match="newer format"):
        open_vault(folder)


WRONG = [
    ('block_size = "16 MiB"', 'block_size = "65 MiB"', "[blocks] block_size"),
    ('block_size = "16 MiB"', 'block_size = "63 KiB"', "[blocks] block_size"),
    ('block_size = "16 MiB"', "block_size = 16777216", "[blocks] block_size"),
    ('pack_size = "1 GiB"', "", "[blocks] pack_size"),
    ('pack_size = "1 GiB"', 'pack_size = "much"', "[blocks] pack_size"),
    ('record_size = "512 KiB"', 'record_size = "2 MiB"', "[tape] record_size"),
    ('record_size = "512 KiB"', 'record_size = "262145"', "[tape] record_size"),
    ('barcode_prefix = "HF"', 'barcode_prefix = "../x"', "[tape] barcode_prefix"),
    ('barcode_prefix = "HF"', 'barcode_prefix = ""', "[tape] barcode_prefix"),
    ('media = "L8"', 'media = "LTO8"', "[tape] media"),
    ("virtual_counts_as_proof = false", 'virtual_counts_as_proof = "no"', "[tape] virtual_counts_as_proof"),
    ("virtual_counts_as_proof = false", "virtual_counts_as_proof = 0", "[tape] virtual_counts_as_proof"),
    ('start_at = "0 B"', "start_at = 0", "[tape] start_at"),
    ('start_at = "0 B"', 'start_at = "soon"', "[tape] start_at"),
    ('start_at = "0 B"', 'start_at = "5 bananas"', "[tape] start_at"),
    ("format = 1", "format = true", "[vault] format"),
    ("format = 1", 'format = "1"', "[vault] format"),
    ('id = "', 'id = "x', "[vault] id"),
    ('id = "', 'identity = "', "[vault] id"),
    ("[blocks]", "[blocs]", "[blocks] block_size"),
    ("[vault]", "vault = 5\n[volt]", "[vault] format"),
]


@pytest.mark.parametrize(("old", "new", "named"), WRONG)
def test_a_wrong_setting_is_named_with_what_is_expected(folder: Path, old: str, new: str, named: str) -> None:
    init_vault(folder)
    edit(folder, old, new)
    with pytest.raises(VaultError) as caught:
        open_vault(folder)
    assert caught.value.message == f"wrong setting {named}"
    assert caught.value.place == str(folder / "holdfast.toml")
    assert caught.value.expected
    assert caught.value.found
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"[vault", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_settings_that_are_no_toml_are_a_vault_error(folder: Path, data: bytes) -> None:
    init_vault(folder)
    (folder / "holdfast.toml").write_bytes(data)
    with pytest.raises(VaultError, match="settings cannot be read") as caught:
        open_vault(folder)
    assert caught.value.place == str(folder / "holdfast.toml")


def test_settings_that_are_a_folder_are_a_vault_error(folder: Path) -> None:
    (folder / "holdfast.toml").mkdir(parents=True)
    with pytest.raises(VaultError, match="settings cannot be read"):
        open_vault(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("block_size", "65 MiB"),
        ("pack_size", "three bananas"),
        ("record_size", '512 KiB"\nlibrary = "evil'),
        ("object_size", ""),
        ("cartridge_capacity", "1"),
        ("commit_every", '"'),
    ],
)
def test_a_wrong_option_is_wrong_use_and_makes_nothing(folder: Path, name: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        init_vault(folder, InitOptions(**{name: text}))
    assert name in str(caught.value)
    assert not folder.parent.exists()


def test_the_template_says_which_settings_there_are() -> None:
    for name in InitOptions.__slots__:
        shown = f"{{{name}}}" if name in ("drives", "ready_timeout_s") else f'"{{{name}}}"'
        assert f"{name} = {shown}" in config.SETTINGS_TEMPLATE


def test_a_vault_from_before_a_setting_has_its_default(folder: Path) -> None:
    made = init_vault(folder, replace(REAL, ready_timeout_s=9000, start_at="200 GB"))
    assert made.tape.start_bytes == 200 * 10**9
    assert made.tape.library is not None
    assert made.tape.library.ready_timeout_s == 9000
    path = folder / "holdfast.toml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("start_at", "ready_timeout_s"))))
    older = open_vault(folder)
    assert older.tape.start_bytes == 0
    assert older.tape.library is not None
    assert older.tape.library.ready_timeout_s == 120


@pytest.mark.parametrize("told", ["0", '"120 s"', "86401", "true", "1.5"])
def test_a_wait_that_cannot_be_meant_is_named(folder: Path, told: str) -> None:
    init_vault(folder, REAL)
    edit(folder, "ready_timeout_s = 120", f"ready_timeout_s = {told}")
    with pytest.raises(VaultError) as caught:
        open_vault(folder)
    assert caught.value.message == "wrong setting [library] ready_timeout_s"
    assert caught.value.expected


def test_packs_stay_unless_another_place_is_named(folder: Path) -> None:
    made = init_vault(folder)
    assert (made.blocks.store, made.blocks.store_options) == ("", {})
    path = folder / "holdfast.toml"
    old = "".join(line for line in path.read_text().splitlines(keepends=True) if "store" not in line.partition("#")[0])
    path.write_text(old)
    assert open_vault(folder).blocks == made.blocks


def test_another_place_and_its_options(folder: Path) -> None:
    init_vault(folder)
    path = folder / "holdfast.toml"
    text = path.read_text().replace('store = ""', 'store = "s3://bucket/packs"')
    path.write_text(
        re.sub(r"(\[blocks.store_options\].*\n)", r'\1region = "$REGION"\nallow_http = true\nmax_retries = 3\n', text)
    )
    blocks = open_vault(folder).blocks
    assert blocks.store == "s3://bucket/packs"
    assert blocks.store_options == {"region": "$REGION", "allow_http": "true", "max_retries": "3"}


@pytest.mark.parametrize("options", ["store_options = 3", "store_options = {region = 1.5}", "store_options = {a = []}"])
def test_options_that_are_none_are_named(folder: Path, options: str) -> None:
    init_vault(folder)
    path = folder / "holdfast.toml"
    text = re.sub(r"\[blocks.store_options\].*\n", "", path.read_text())
    path.write_text(text.replace('store = ""', options))
    with pytest.raises(VaultError, match="store_options"):
        open_vault(folder)


def test_comments_and_further_settings_are_passed_over(folder: Path) -> None:
    made = init_vault(folder)
    with (folder / "holdfast.toml").open("a") as file:
        file.write('\n# a note\n[later]\nsetting = "unknown"\n')
    assert open_vault(folder) == made
    assert made.id.version == 4
    assert isinstance(made.id, uuid.UUID)


# -- real libraries


def test_a_real_library_is_named_by_its_changer_and_its_pools(tmp_path: Path) -> None:
    assert init_vault(tmp_path / "virtual").tape.library is None
    settings = init_vault(tmp_path / "real", REAL)
    assert settings.tape.library == LibrarySettings(
        changer=Path("/dev/sg3"), scratch_a="HFA", scratch_b="HFB", elements={}, drives=()
    )
    path = tmp_path / "real" / SETTINGS_NAME
    path.write_text(path.read_text() + '"HU1234ABCD" = 1\n')
    found = open_vault(tmp_path / "real").tape.library
    assert found is not None
    assert found.elements == {"HU1234ABCD": 1}


STAND_ALONE = InitOptions(library="operator", drives=("/dev/nst0", "/dev/nst1"), scratch_a="HFA", scratch_b="HFB")


def test_drives_without_a_robot_are_named_by_their_devices(tmp_path: Path) -> None:
    library = init_vault(tmp_path / "vault", STAND_ALONE).tape.library
    assert library == LibrarySettings(
        changer=None, scratch_a="HFA", scratch_b="HFB", elements={}, drives=(Path("/dev/nst0"), Path("/dev/nst1"))
    )


@pytest.mark.parametrize("drives", [(), ("/dev/nst0",), ("/dev/nst0", "/dev/nst0"), ("/dev/nst0", "nst1"), ("", "/x")])
def test_a_pair_needs_two_drives(tmp_path: Path, drives: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="drives"):
        init_vault(tmp_path / "vault", replace(STAND_ALONE, drives=drives))
    assert not (tmp_path / "vault").exists()


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"library": "robot"}, "library"),
        ({"changer": "sg3"}, "changer"),
        ({"scratch_a": ""}, "scratch_a"),
        ({"scratch_b": "HFA"}, "scratch_b"),
        ({"scratch_b": "H"}, "scratch_b"),
        ({"scratch_a": "HF-"}, "scratch_a"),
    ],
)
def test_a_real_library_that_is_told_wrongly_makes_no_vault(
    tmp_path: Path, change: dict[str, str], setting: str
) -> None:
    with pytest.raises(UsageError, match=setting):
        init_vault(tmp_path / "vault", replace(REAL, **change))
    assert not (tmp_path / "vault").exists()


def test_an_element_that_is_no_number_is_named(tmp_path: Path) -> None:
    init_vault(tmp_path / "vault", REAL)
    path = tmp_path / "vault" / SETTINGS_NAME
    path.write_text(path.read_text() + '"HU1234ABCD" = "first"\n')
    with pytest.raises(VaultError, match="HU1234ABCD"):
        open_vault(tmp_path / "vault")


def test_a_vault_takes_another_identity_and_keeps_its_settings(tmp_path: Path) -> None:
    made = init_vault(tmp_path / "vault", InitOptions(record_size="1 MiB"))
    other = uuid.uuid4()
    taken = take_identity(made, other)
    assert taken == replace(made, id=other) == open_vault(tmp_path / "vault")
