"""Writing one content: its bytes into blocks, and where they lie once they are durable.

A content of up to a quarter of a block is copied into a shared one when it is closed; a larger one has blocks of its
own, so that equal contents make equal blocks. What is short of memory may be cut into shorter blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, overload

from holdfast.blocks.buffered.blockstate import NO_NAMING, BlockState, Naming
from holdfast.blocks.buffered.bufferblock import BufferBlock
from holdfast.errors import BlockStateError
from holdfast.values import Segment

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Blocks(Protocol):
    """What a content asks of its manager."""

    @property
    def small_limit_bytes(self) -> int: ...

    @property
    def step_bytes(self) -> int: ...

    def check(self) -> None: ...

    def abandon_later(self, content: ContentWriter) -> None: ...

    def hold(self, size_bytes: int) -> bool: ...

    def let_go_of(self, size_bytes: int) -> None: ...

    def begun(self, content: ContentWriter) -> Naming: ...

    def ended(self, content: ContentWriter) -> None: ...

    def new_block(self, owner: str, content_offset: int, hash_after_bytes: int) -> BufferBlock: ...

    def pack(self, content: BufferBlock) -> tuple[BufferBlock, int] | None: ...

    def pack_bytes(self, data: bytes, owner: str) -> tuple[BufferBlock, int]: ...

    def commit(self, block: BufferBlock, *, wait: bool = False) -> None: ...

    def make_durable(self, blocks: list[BufferBlock], owner: str) -> None: ...

    def delete(self, block: BufferBlock) -> None: ...

    def unpack(self, block: BufferBlock, offset: int) -> None: ...


@dataclass(frozen=True, slots=True)
class _Piece:
    block: BufferBlock
    offset_bytes: int
    length_bytes: int


class ContentWriter:
    """One content on its way; made by `BlockManager.content`. Not for two threads at once.

    As a context manager it closes durably, or abandons the content when there is an exception. What was closed is safe
    from a collector until the keeper is closed, or its writer says that he has `named` it.
    """

    def __init__(self, manager: Blocks, owner: str) -> None:
        self.owner = owner
        self._manager = manager
        self._blocks: list[BufferBlock] = []
        self._in_hand = b""  # all of it as long as there are no blocks; then what they begin with
        self._pieces: list[_Piece] | None = None  # known once it is closed
        self._is_abandoned = False
        self._naming = NO_NAMING

    @property
    def size_bytes(self) -> int:
        """How much of it was taken, also by a call that was interrupted."""
        if self._pieces is not None:
            return sum(piece.length_bytes for piece in self._pieces)
        return max(len(self._in_hand), self._blocks_bytes())

    def _blocks_bytes(self) -> int:
        return sum(block.size_bytes for block in self._blocks)

    @property
    def is_closed(self) -> bool:
        return self._pieces is not None

    def __enter__(self) -> ContentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None and not self._is_abandoned:
            self.close()
        elif kind is GeneratorExit:  # perhaps the garbage collector, amid any step of this thread: no lock may be taken
            self._manager.abandon_later(self)
        elif self._pieces is None:
            self.abandon()

    def write(self, data: ReadableBuffer) -> int:
        """Append all of `data`, which is copied; returns its size in bytes. Waits for memory.

        Raises `BlockStateError` after `close`, and `MemoryBudgetError`; `size_bytes` says what was taken before that.
        """
        self._check_open()
        rest = memoryview(data).cast("B")
        if not self._blocks and not self._in_hand and self._manager.hold(len(rest)):
            self._in_hand = bytes(rest)
            return len(rest)
        self._put_down()
        self._append(rest)
        return len(rest)

    def _append(self, rest: memoryview) -> None:
        while rest:
            block = self._block_with_room()
            rest = rest[block.try_append(rest[: self._manager.step_bytes]) :]
            if block.room_bytes == 0:
                self._manager.commit(block)

    def _put_down(self) -> None:
        """What is in hand goes into blocks; one that was interrupted goes on."""
        if self._in_hand:
            self._append(memoryview(self._in_hand)[self._blocks_bytes() :])
            self._drop_in_hand()

    def _drop_in_hand(self) -> None:
        held, self._in_hand = len(self._in_hand), b""
        if held:
            self._manager.let_go_of(held)

    def _block_with_room(self) -> BufferBlock:
        if self._blocks and self._blocks[-1].is_writable and self._blocks[-1].room_bytes:
            return self._blocks[-1]
        if not self._blocks:
            self._begin()
        # as long as it may yet be packed its bytes are not hashed: they will be, in the shared block
        hash_after_bytes = 0 if self._blocks else self._manager.small_limit_bytes
        block = self._manager.new_block(self.owner, self._blocks_bytes(), hash_after_bytes)
        self._blocks.append(block)
        return block

    def _begin(self) -> None:
        """Before the store is first asked for any of its bytes."""
        self._naming.end()  # of a call that was interrupted
        self._naming = self._manager.begun(self)

    @overload
    def close(self, *, wait: Literal[True] = True) -> tuple[Segment, ...]: ...

    @overload
    def close(self, *, wait: Literal[False]) -> None: ...

    def close(self, *, wait: bool = True) -> tuple[Segment, ...] | None:
        """The content is whole. Durable when this returns, with its segments; many who close at once share a sync.

        `wait=False` hands it over: it is durable after the next good `commit_all`, and `segments` says where. Raises
        `NotKeptError` when the store did not take it, and `MemoryBudgetError`; then it may be closed again, which
        tries again, or abandoned.
        """
        if self._is_abandoned:
            raise BlockStateError("an abandoned content is not closed", place=self.owner)
        self._manager.check()
        if self._pieces is None:
            self._pieces = self._hand_over()
            self._blocks = [piece.block for piece in self._pieces if piece.block in self._blocks]
        self._drop_in_hand()
        self._manager.ended(self)
        if not wait:
            return None
        self._manager.make_durable([piece.block for piece in self._pieces], self.owner)
        return self.segments()

    def _hand_over(self) -> list[_Piece]:
        if self._in_hand and not self._blocks:
            self._begin()
            shared, offset = self._manager.pack_bytes(self._in_hand, self.owner)
            return [_Piece(shared, offset, len(self._in_hand))]
        self._put_down()
        blocks = self._blocks
        if any(block.state is BlockState.DELETED for block in blocks if block.size_bytes):
            raise BlockStateError(
                "the bytes of this content were let go",
                place=self.owner,
                hint="write it anew: closing it was interrupted, or the block manager is stopped",
            )
        if len(blocks) == 1 and 0 < self.size_bytes <= self._manager.small_limit_bytes:
            packed = self._manager.pack(blocks[0])
            if packed is not None:
                return [_Piece(packed[0], packed[1], blocks[0].size_bytes)]
        for block in blocks:
            if block.size_bytes == 0:
                self._manager.delete(block)
            elif not block.is_ended:  # also one that somebody else is sealing: it may be on its way only in name
                self._manager.commit(block)
        return [_Piece(block, 0, block.size_bytes) for block in blocks if block.size_bytes]

    def segments(self) -> tuple[Segment, ...]:
        """Where the content lies. Raises `BlockStateError` as long as it is not durable."""
        if self._pieces is None or any(piece.block.state is not BlockState.COMMITTED for piece in self._pieces):
            raise BlockStateError("a content has its segments when it is durable", place=self.owner)
        found: list[Segment] = []
        for piece in self._pieces:
            assert piece.block.locator is not None, "a committed block has its name"
            found.append(Segment(piece.block.locator, piece.offset_bytes, piece.length_bytes))
        return tuple(found)

    def named(self) -> None:
        """Its segments are named durably by now, or never will be: a collector need not wait for it any more.

        Raises `BlockStateError` before it is closed.
        """
        if self._pieces is None and not self._is_abandoned:
            raise BlockStateError("a content is named once it is closed", place=self.owner)
        self._naming.end()

    def will_not_be_named(self) -> None:
        """The manager ends: unless it is closed already, it never will be."""
        if self._pieces is None:
            self._naming.end()

    def abandon(self) -> None:
        """The content is not wanted: its own blocks are let go. What lies in a shared block stays, named by nobody, as long
        as another content in it is wanted; no barrier tells of it any more, unless closing it was interrupted.
        """
        self._is_abandoned = True
        for piece in self._pieces or ():
            if piece.block not in self._blocks:
                self._manager.unpack(piece.block, piece.offset_bytes)
        for block in self._blocks:
            self._manager.delete(block)
        self._drop_in_hand()
        self._manager.ended(self)
        self._naming.end()

    def _check_open(self) -> None:
        self._manager.check()
        if self._pieces is not None or self._is_abandoned:
            raise BlockStateError("a closed content takes no more bytes", place=self.owner)
