"""Blocks in memory on their way to the store and back: for many writers and readers at once.

`BlockManager` is the door. Contents (`ContentWriter`) and blocks (`BufferBlock`, `blockstate`) take memory from one pool
(`SlabPool`); small contents are put together (`packing`); the register knows the blocks that take bytes still, the
committer brings the others through its line to a `BlockKeeper`, which is a `PackKeeper` on disks or a `MemoryKeeper`;
`readcache` holds what was fetched ahead. `waiting` says how all of them live with interrupts.
"""

from holdfast.blocks.buffered.blockstate import BlockState
from holdfast.blocks.buffered.bufferblock import BufferBlock
from holdfast.blocks.buffered.committer import Backoff
from holdfast.blocks.buffered.content import ContentWriter
from holdfast.blocks.buffered.keeper import BlockKeeper, MemoryKeeper
from holdfast.blocks.buffered.manager import BlockManager
from holdfast.blocks.buffered.packkeeper import PackKeeper
from holdfast.blocks.buffered.slabs import SlabPool, process_pool
from holdfast.blocks.buffered.views import View

__all__ = [
    "Backoff",
    "BlockKeeper",
    "BlockManager",
    "BlockState",
    "BufferBlock",
    "ContentWriter",
    "MemoryKeeper",
    "PackKeeper",
    "SlabPool",
    "View",
    "process_pool",
]
