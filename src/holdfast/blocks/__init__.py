"""The block store: content-addressed blocks in pack files, each byte once, each read checked.

`StoreWriter` keeps contents durably, `BlockReader` gives them back, `ContentFile` from anywhere in them, `recover_packs`
adopts what a killed run left.
`BlockManager` is for many writers and readers at once: contents (`ContentWriter`) and blocks (`BufferBlock`) in memory
from one pool (`SlabPool`), in `buffered`, over a `BlockKeeper`, which is a `PackKeeper` on disks, or a `MemoryKeeper`.
The room does not know the catalog: it asks an index for places (`BlockIndex`) and hands over each durable group
(`GroupSink`). No tape, no network, no user's files may come in.
"""

from holdfast.blocks.buffered import (
    Backoff,
    BlockKeeper,
    BlockManager,
    BlockState,
    BufferBlock,
    ContentWriter,
    MemoryKeeper,
    PackKeeper,
    SlabPool,
    View,
    process_pool,
)
from holdfast.blocks.fence import Fence
from holdfast.blocks.manifest import Manifest, StoredVersion
from holdfast.blocks.reader import BlockIndex, BlockReader, ContentFile
from holdfast.blocks.recover import recover_packs
from holdfast.blocks.store import DurableGroup, GroupSink, StoreWriter

__all__ = [
    "Backoff",
    "BlockIndex",
    "BlockKeeper",
    "BlockManager",
    "BlockReader",
    "BlockState",
    "BufferBlock",
    "ContentFile",
    "ContentWriter",
    "DurableGroup",
    "Fence",
    "GroupSink",
    "Manifest",
    "MemoryKeeper",
    "PackKeeper",
    "SlabPool",
    "StoreWriter",
    "StoredVersion",
    "View",
    "process_pool",
    "recover_packs",
]
