"""Where sealed packs may lie besides the vault's own folder: another folder, or an object store.

A backend keeps whole packs by their ids, gives any range of their bytes, and never writes over one. It knows nothing of
what is in a pack: pieces are checked by whoever reads them (`holdfast.blocks.packfile`), wherever they come from. No
catalog, no settings file and nothing that is not sealed may come in.
"""

from holdfast.blocks.backends.backend import HeldPack, OpenPack, PackBackend, Progress, add_pack, digest_of, may_be_of
from holdfast.blocks.backends.opening import check_place, open_backend

__all__ = [
    "HeldPack",
    "OpenPack",
    "PackBackend",
    "Progress",
    "add_pack",
    "check_place",
    "digest_of",
    "may_be_of",
    "open_backend",
]
