"""A vault of small cartridges for the main job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.config import InitOptions, init_vault
from holdfast.journey import ArchiveRequest, archive
from holdfast.reports import ArchiveReport

SMALL = InitOptions(
    block_size="256 KiB",
    pack_size="1 MiB",
    cartridge_capacity="64 MiB",
    record_size="256 KiB",
    object_size="1 MiB",
    commit_every="2 MiB",
)

Archive = Callable[..., ArchiveReport]


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    folder = tmp_path / "vault"
    init_vault(folder, SMALL)
    return folder


@pytest.fixture
def archived(vault: Path) -> Archive:
    """Archive folders into the vault; gives the report."""

    def run(*paths: Path, **options: object) -> ArchiveReport:
        return archive(vault, ArchiveRequest(paths=paths, **options))  # type: ignore[arg-type]

    return run
