"""The other place of a vault's packs: is it the one that they were moved to, and does the catalog know all that is there?

What is asked before packs are moved there, copied from there or collected there. A disk that is not mounted, a wrong URL and
a catalog that was put back from an older copy all look like a place where less is needed than is.
"""

from __future__ import annotations

import uuid

from holdfast.blocks.backends import HeldPack, PackBackend, may_be_of
from holdfast.catalog import packs
from holdfast.errors import BackendError, HoldfastError, VaultError
from holdfast.vault import Vault


def check_mounted(vault: Vault) -> None:
    """Raise `VaultError` when packs were moved, and none of them is there; and what backends raise."""
    backend = vault.packs.backend()
    if backend is None:
        return
    moved = _moved(vault)
    if moved and not any(held.pack_id in moved for held in backend.packs()) and moved & _moved(vault):
        raise VaultError(  # and they were not just collected
            "none of the packs that were moved to the other place is there",
            place=backend.url,
            expected=f"some of {len(moved)} packs",
            found="none of them",
            hint="is it mounted, and is [blocks] store in holdfast.toml right? To another place: holdfast store copy first. "
            "If the packs are lost for good: holdfast scrub --replace-lost",
        )


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
            hint="holdfast doctor --repair takes them into the catalog; then run the same command again",
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
    """A pack of this vault is gone from there when this returns; one of another vault stays.

    Raises `BackendError` when the place says so, and it is not; and what backends raise.
    """
    if may_be_of(backend, pack_id, vault.settings.id):
        backend.remove(pack_id)
        if backend.held(pack_id) is not None:
            raise BackendError(
                "the place of the packs says that a pack is removed, and it is still there",
                place=backend.url,
                found=str(pack_id),
                hint="look at what the place does with what is deleted, and run the same command again",
            )
