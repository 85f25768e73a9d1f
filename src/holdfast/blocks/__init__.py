"""The block store: content-addressed blocks in pack files, each byte once, each read checked.

`StoreWriter` keeps contents durably, `BlockReader` gives them back, `ContentFile` from anywhere in them, `recover_packs` adopts
what a killed run left; who names blocks that are there already holds a pass of the `Fence`.
The room does not know the catalog: it asks an index for places (`BlockIndex`) and hands over each durable group
(`GroupSink`). No tape, no network, no user's files may come in.
"""

from holdfast.blocks.fence import Fence
from holdfast.blocks.manifest import Manifest, StoredVersion
from holdfast.blocks.reader import BlockIndex, BlockReader, ContentFile
from holdfast.blocks.recover import recover_packs
from holdfast.blocks.store import DurableGroup, GroupSink, StoreWriter

__all__ = [
    "BlockIndex",
    "BlockReader",
    "ContentFile",
    "DurableGroup",
    "Fence",
    "GroupSink",
    "Manifest",
    "StoreWriter",
    "StoredVersion",
    "recover_packs",
]
