"""Opening a vault: to look at it beside others, or to work on it alone after adopting what a killed run left."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from holdfast import durable
from holdfast.blocks import BlockReader, Fence, StoreWriter
from holdfast.blocks.adopting import Adopted, adopt_held
from holdfast.blocks.backends import open_backend
from holdfast.blocks.packs import Packs
from holdfast.blocks.recover import Known, LeftPacks, adopt_in_turn
from holdfast.catalog import Catalog, packs
from holdfast.config import VaultSettings, open_or_init_vault, open_vault
from holdfast.errors import HoldfastError
from holdfast.work import RUN, Work, vault_lock


@dataclass(frozen=True, slots=True)
class Vault:
    """An open vault. `work` notes who does what; nothing, where the vault is only looked at."""

    settings: VaultSettings
    catalog: Catalog
    work: Work
    packs: Packs

    def store_writer(self) -> StoreWriter:
        """A writer into the block store that tells the catalog; use it as a context manager."""
        return StoreWriter(
            self.settings.packs_folder,
            vault_id=self.settings.id,
            block_bytes=self.settings.blocks.block_bytes,
            pack_bytes=self.settings.blocks.pack_bytes,
            index=self.catalog,
            sink=self.catalog,
            fence=Fence(self.settings.fence_folder),
        )

    def store_reader(self) -> BlockReader:
        """A reader of the block store; use it as a context manager."""
        return BlockReader(self.packs, self.catalog)

    def identity(self) -> tuple[int, int]:
        """Device and inode of the vault's folder: what a walk leaves out."""
        status = self.settings.folder.stat()
        return status.st_dev, status.st_ino


def packs_of(settings: VaultSettings) -> Packs:
    """Where the packs of a vault are. Whoever has the backend opened learns then whether its settings are right."""
    blocks = settings.blocks
    return Packs(
        settings.packs_folder, partial(open_backend, blocks.store, blocks.store_options) if blocks.store else None
    )


@contextmanager
def opened(folder: Path) -> Generator[Vault, None, None]:
    """Open a vault to look at it, beside whoever works on it."""
    settings = open_vault(folder)
    with Catalog(settings.catalog_path) as catalog:
        yield Vault(settings, catalog, Work(None), packs_of(settings))


@contextmanager
def owned(
    folder: Path, command: str, warn: Callable[[HoldfastError], object], *, make: bool = False
) -> Generator[Vault, None, None]:
    """Open a vault to work on it, alone; what a killed run left in the packs is adopted first.

    Raises `BusyError` naming the owner when somebody else works on it, and `VaultError` as `open_vault` does. At the end,
    however it comes, `warn` is told why work could not be noted.
    """
    settings = open_or_init_vault(folder) if make else open_vault(folder)
    with vault_lock(settings.lock_path, command):
        _settle(settings)
        work = Work(settings.state_folder)
        try:
            with Catalog(settings.catalog_path) as catalog, work, work.doing(RUN, command):
                _empty_scratch(settings.scratch_folder)
                vault = Vault(settings, catalog, work, packs_of(settings))
                _recover_store(vault, warn)
                yield vault
        finally:
            for trouble in work.troubles():
                warn(trouble)


def _settle(settings: VaultSettings) -> None:
    """Facts that a killed run wrote and did not come to sync must survive a power cut before we say more by them.

    The packs are settled where they are recovered.
    """
    if not settings.catalog_path.parent.is_dir():
        durable.make_folder(settings.catalog_path.parent)  # lost with the catalog in it
    durable.sync_folder(settings.folder)
    wal = settings.catalog_path.with_name(settings.catalog_path.name + "-wal")
    for path in (*settings.journals_folder.glob("*.jsonl"), *settings.catalog_path.parent.glob(wal.name)):
        durable.settle_file(path)
    durable.sync_folder(settings.journals_folder)
    durable.sync_folder(settings.catalog_path.parent)


def _empty_scratch(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    durable.make_folder(folder)


def _recover_store(vault: Vault, warn: Callable[[HoldfastError], object]) -> None:
    """The backend is asked only if the catalog knows no sealed pack: then it may have been lost."""
    with vault.catalog.reading() as connection:
        is_empty = not packs.is_any_pack_sealed(connection)
    take_over(vault, vault.catalog, warn, from_elsewhere=is_empty)


def take_over(
    vault: Vault, known: Known, warn: Callable[[HoldfastError], object], *, from_elsewhere: bool = True
) -> None:
    """Tell the catalog of all that is in packs which `known` does not count as sealed; the vault must be ours.

    `from_elsewhere`: of those on the backend, too; raises what backends raise then.
    """
    backend = vault.packs.backend() if from_elsewhere else None
    with Fence(vault.settings.fence_folder).passing():
        left = LeftPacks(vault.packs, vault.settings.id, known, vault.catalog)
        for path, vault_id in left.foreign:
            warn(foreign_pack(vault.settings, path, vault_id))
        if backend is None:
            adopt_in_turn(left)
        else:
            held = adopt_held(backend, left, vault_id=vault.settings.id, known=known, sink=vault.catalog, warn=warn)
            _settle_held(vault.catalog, held)
        left.tell_sealed()


def foreign_pack(settings: VaultSettings, path: Path, vault_id: uuid.UUID | None) -> HoldfastError:
    """What is told of a pack of another vault in the folder."""
    return HoldfastError(
        "a pack of another vault is left alone",
        place=str(path),
        expected=f"vault {settings.id}",
        found=f"vault {vault_id}",
        hint="move it out of the folder; but if it is this vault's, as holdfast.toml was made anew, write that id into it first",
    )


def _settle_held(catalog: Catalog, held: list[Adopted]) -> None:
    """All at once: from here on the catalog counts as filled."""
    with catalog.transaction() as connection:
        for item in held:
            packs.seal_pack(connection, item.pack_id, item.size_bytes, item.block_bytes)
