"""Where a block in memory is on its way, and what lies in it.

    WRITABLE ──▶ PENDING ──▶ COMMITTED          DELETED from any of them
                 │   ▲
                 ▼   │
                 ERROR

WRITABLE takes bytes; PENDING has its name and is on its way; COMMITTED is durable in the store, and its memory is
given back; ERROR was not taken by the store and keeps its bytes, so that it can go again; DELETED is wanted no more.
`LEGAL_MOVES` is the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from blake3 import blake3

from holdfast.errors import BlockStateError, IntegrityError
from holdfast.values import Locator


class BlockState(Enum):
    """Where a block is on its way; see the module."""

    WRITABLE = "writable"
    PENDING = "pending"
    COMMITTED = "committed"
    ERROR = "failed"
    DELETED = "deleted"


LEGAL_MOVES = MappingProxyType(
    {
        BlockState.WRITABLE: frozenset({BlockState.PENDING, BlockState.DELETED}),
        BlockState.PENDING: frozenset({BlockState.COMMITTED, BlockState.ERROR, BlockState.DELETED}),
        BlockState.COMMITTED: frozenset({BlockState.DELETED}),
        BlockState.ERROR: frozenset({BlockState.PENDING, BlockState.DELETED}),
        BlockState.DELETED: frozenset[BlockState](),
    }
)

NOT_IN_MEMORY = (BlockState.COMMITTED, BlockState.DELETED)


def check_move(current: BlockState, wanted: BlockState, block: object) -> None:
    """Raise `BlockStateError` that names `block` unless one may go from `current` to `wanted`."""
    if wanted not in LEGAL_MOVES[current]:
        raise BlockStateError(
            f"a {current.value} block does not become {wanted.value}",
            place=str(block),
            expected=" or ".join(sorted(state.value for state in LEGAL_MOVES[current])) or "no further step",
            found=wanted.value,
        )


def check_name(name: Locator, parts: Sequence[memoryview], owner: str) -> None:
    """Raise `IntegrityError` unless the parts together are the bytes of that name."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    found = Locator(hasher.digest(), sum(map(len, parts)))
    if found != name:
        raise IntegrityError(
            "the bytes of a block have changed in memory",
            place=owner,
            expected=str(name),
            found=str(found),
            hint="write what it holds anew",
        )


CLAIM_BYTES = 256
"""So much of the budget a claim counts for: what is remembered of a content that lies in a shared block."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What lies in a block: `length_bytes` from `offset_bytes` of it are those from `content_offset` of `owner`."""

    owner: str
    content_offset: int
    offset_bytes: int
    length_bytes: int


class Naming:
    """Held by whoever writes what he will name, from before his first block until that is named durably, or never will be.

    As long, nobody gives up a block that was found in the store. `end` it; ending it again does nothing.
    """

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[], None] | None = None) -> None:
        self._end = end

    def end(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end()


NO_NAMING = Naming()
"""Of what is not, or not yet, to be named."""
