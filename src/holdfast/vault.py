"""Opening a vault: to look at it beside others, or to work on it alone after adopting what a killed run left."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from holdfast import durable
from holdfast.blocks import BlockReader, GroupSink, StoreWriter, recover_packs
from holdfast.blocks.adopting import Unsealed, adopt_held
from holdfast.blocks.backends import open_backend
from holdfast.blocks.packs import Packs
from holdfast.catalog import Catalog, files
from holdfast.config import VaultSettings, open_or_init_vault, open_vault
from holdfast.errors import HoldfastError
from holdfast.values import Locator
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
                packs = packs_of(settings)
                _recover_store(settings, catalog, packs, warn)
                yield Vault(settings, catalog, work, packs)
        finally:
            for trouble in work.troubles():
                warn(trouble)


def _settle(settings: VaultSettings) -> None:
    """Facts that a killed run wrote and did not come to sync must survive a power cut before we say more by them.

    The packs are settled where they are recovered.
    """
    durable.sync_folder(settings.folder)
    wal = settings.catalog_path.with_name(settings.catalog_path.name + "-wal")
    for path in (*settings.journals_folder.glob("*.jsonl"), *settings.catalog_path.parent.glob(wal.name)):
        durable.settle_file(path)
    durable.sync_folder(settings.journals_folder)
    durable.sync_folder(settings.catalog_path.parent)


def _empty_scratch(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    durable.make_folder(folder)


def _recover_store(
    settings: VaultSettings, catalog: Catalog, packs: Packs, warn: Callable[[HoldfastError], object]
) -> None:
    """The backend is asked only if the catalog knows no sealed pack: then it may have been lost."""
    with catalog.reading() as connection:
        is_empty = not files.is_any_pack_sealed(connection)
    backend = packs.backend() if is_empty else None
    if backend is not None:
        unsealed = Unsealed(catalog)
        held = adopt_held(
            backend,
            vault_id=settings.id,
            is_local=packs.is_local,
            has_block=partial(_has_block, catalog),
            sink=unsealed,
            adopt_local=partial(_recover_local, settings, catalog, unsealed),
            warn=warn,
        )
        with catalog.transaction() as connection:  # all at once: from here on the catalog counts as filled
            for pack in held:
                files.record_pack(connection, pack.pack_id, pack.size_bytes, sealed=True)
    _recover_local(settings, catalog, catalog)


def _recover_local(settings: VaultSettings, catalog: Catalog, sink: GroupSink) -> None:
    recover_packs(
        settings.packs_folder, is_settled=catalog.pack_is_sealed, has_block=partial(_has_block, catalog), sink=sink
    )


def _has_block(catalog: Catalog, locator: Locator) -> bool:
    return catalog.find_block(locator) is not None
