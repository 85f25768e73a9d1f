"""The other place of a vault's packs: is it the one that they were moved to, and does the catalog know all that is there?

What is asked before packs are moved there, copied from there or collected there. A disk that is not mounted, a wrong URL and
a catalog that was put back from an older copy all look like a place where less is needed than is.
"""

from __future__ import annotations

import uuid

from holdfast.blocks.backends import HeldPack, PackBackend, may_be_of
from holdfast.blocks.backends.backend import pack_name
from holdfast.catalog import packs
from holdfast.errors import BackendError, HoldfastError, VaultError
from holdfast.vault import Vault


def check_mounted(vault: Vault) -> None:
    """Raise `VaultError` when packs were moved, and none of them is there; and what backends raise."""
    backend = vault.packs.backend()
    if backend is None:
        return
    moved = _moved(vault)
    if moved and not _has_any(vault, backend) and moved & _moved(vault):
        raise VaultError(  # and they were not just collected
            "none of the packs that were moved to the other place is there",
            place=backend.url,
            expected=f"some of {len(moved)} packs",
            found="none of them",
            hint="is it mounted, and is [blocks] store in holdfast.toml right? To another place: holdfast store copy first. "
            "If the packs are lost for good: holdfast scrub --replace-lost, and then holdfast store copy to this place",
        )


def _has_any(vault: Vault, backend: PackBackend) -> bool:
    """Also one that lies in the folder, too: somebody copied it there, as the place is new."""
    with vault.catalog.reading() as connection:
        sealed = packs.sealed_packs(connection)
    return any(held.pack_id in sealed for held in backend.packs())


def _moved(vault: Vault) -> set[uuid.UUID]:
    with vault.catalog.reading() as connection:
        return {pack_id for pack_id in packs.sealed_packs(connection) if not vault.packs.is_local(pack_id)}


def unknown_packs(vault: Vault) -> list[HoldfastError]:
    """One error if the place has packs of the vault that the catalog has not taken over: they may name what seems unneeded."""
    backend = vault.packs.backend()
    found = [] if backend is None else _unknown(vault, backend)
    if backend is None or not found:
        return []
    return [
        VaultError(
            "the catalog does not know all packs of this vault that lie in the other place: was it put back from a copy?",
            place=backend.url,
            expected="no packs but those that the catalog knows",
            found=f"{len(found)} more, such as {found[0].pack_id}",
            hint="holdfast doctor --repair takes them into the catalog; then run the same command again. What it says that it "
            "cannot take: put it into the vault's folder packs if it is this vault's, else move it away. While somebody moves "
            "packs: wait for him",
        )
    ]


def _unknown(vault: Vault, backend: PackBackend) -> list[HeldPack]:
    """Listed before it is asked what is known, as a pack is known before it is moved."""
    listed = list(backend.packs())
    with vault.catalog.reading() as connection:
        known = packs.settled_packs(connection)
    return [
        held for held in listed if held.pack_id not in known and may_be_of(backend, held.pack_id, vault.settings.id)
    ]


def remove_pack(vault: Vault, backend: PackBackend, pack_id: uuid.UUID) -> None:
    """A pack of this vault is gone from there when this returns.

    Raises `BackendError` when the place says so, and it is not, and what backends raise; and `VaultError`, and it stays,
    when it says that it is another vault's.
    """
    if backend.held(pack_id) is None:
        return
    if not may_be_of(backend, pack_id, vault.settings.id):
        raise VaultError(
            "a pack that this vault has collected says that it is another vault's; it stays",
            place=f"{backend.url}/{pack_name(pack_id)}",
            expected=f"vault {vault.settings.id}",
            hint="is [vault] id in holdfast.toml the one it was?",
        )
    backend.remove(pack_id)
    if backend.held(pack_id) is not None:
        raise BackendError(
            "the place of the packs says that a pack is removed, and it is still there",
            place=f"{backend.url}/{pack_name(pack_id)}",
            hint="look at what the place does with what is deleted, and run the same command again",
        )
