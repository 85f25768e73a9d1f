"""One tree of errors, each with a way out.

    HoldfastError
    ├── UsageError          the command was called wrongly                       exit 2
    ├── VaultError          not a vault, a newer format, a bad setting           exit 1
    ├── SourceError         a source that cannot be read as asked                exit 1
    ├── BusyError           somebody else owns what is needed                    exit 5
    ├── CapacityError       no room: disk, cartridge, or a file too large        exit 1
    ├── IntegrityError      bytes are not what they were: data is at risk        exit 3
    ├── MediaError          a cartridge or drive failed or is not the one named  exit 3
    ├── BackendError        packs in another place cannot be reached             exit 1
    ├── StateError          a dictionary or tracker cannot be kept so            exit 1
    │   ├── NoSuchStore     no dictionary or tracker is there to be read
    │   ├── InvalidKey      a key of a kind that none has; a ValueError, too
    │   ├── InvalidValue    no JSON value; a TypeError and a ValueError, too
    │   ├── DuplicateKeyError  a key to be added is there; a ValueError, too
    │   └── ConflictError   what was read has been changed by somebody else
    │       └── LeaseLost   a task that was claimed is somebody else's by now
    ├── BlockError          a block cannot be kept, or is not used as one        exit 1
    │   ├── BlockStateError a step that a block of this state does not take
    │   ├── NotKeptError    blocks that the store did not take; they are in memory
    │   └── MemoryBudgetError  what failed or is being read holds all the memory
    ├── OperatorNeeded      a person has to do something at the library          exit 4
    └── Interrupted         Ctrl-C; everything durable stays                     exit 130

Every error names the thing and the place, says what was expected and what was found, and what to run next. It may
be raised from any room; only the doors (`cli`) turn it into text and an exit code. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DATA_AT_RISK = 3
EXIT_OPERATOR = 4
EXIT_BUSY = 5
EXIT_INTERRUPTED = 130


class HoldfastError(Exception):
    """Root of the tree.

    Parameters are words for people: `message` says what happened, `place` where (path, or barcode/tape file/member),
    `expected` and `found` what was compared, `hint` the next command to run.
    """

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(
        self,
        message: str,
        *,
        place: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.expected = expected
        self.found = found
        self.hint = hint

    def facts(self) -> dict[str, str]:
        """The parts that were given, in the order in which they are shown."""
        parts = {
            "error": self.message,
            "place": self.place,
            "expected": self.expected,
            "found": self.found,
            "next": self.hint,
        }
        return {name: text for name, text in parts.items() if text is not None}

    def __str__(self) -> str:
        return "; ".join(text if name == "error" else f"{name}: {text}" for name, text in self.facts().items())


class UsageError(HoldfastError):
    """The command was called in a way that cannot be meant."""

    exit_code: ClassVar[int] = EXIT_USAGE


class VaultError(HoldfastError):
    """The folder is not a vault, is of a newer format, cannot be written, has lost its catalog, or wrong settings."""


class SourceError(HoldfastError):
    """A source is missing, or a file of it cannot be read or will not hold still."""


class BusyError(HoldfastError):
    """Somebody else owns the vault, a drive or a cartridge; the owner is named in `found`."""

    exit_code: ClassVar[int] = EXIT_BUSY


class CapacityError(HoldfastError):
    """There is no room: the disk is full, or a file is larger than a cartridge. Nothing committed is lost."""


class IntegrityError(HoldfastError):
    """Bytes read from a medium are not the bytes that were written there."""

    exit_code: ClassVar[int] = EXIT_DATA_AT_RISK


class MediaError(HoldfastError):
    """A cartridge or a drive failed, or a cartridge is not the one that its barcode and journal promise."""

    exit_code: ClassVar[int] = EXIT_DATA_AT_RISK


class BackendError(HoldfastError):
    """The place where sealed packs lie cannot be reached, or fails. Nothing is lost by it: local packs stay."""


class StateError(HoldfastError):
    """A dictionary or tracker cannot be opened, is closed or read-only, or is used in a way that cannot be kept."""


class NoSuchStore(StateError):
    """There is no dictionary or tracker to be read at this place, or none of this name."""


class InvalidKey(StateError, ValueError):
    """Keys are text, whole numbers, or tuples of such; nothing was changed."""


class InvalidValue(StateError, TypeError, ValueError):
    """Values are what JSON has: no NaN, no lone surrogate, no cycle, no other objects; nothing was changed."""


class DuplicateKeyError(StateError, ValueError):
    """A key that was to be added is there already; nothing was changed."""


class ConflictError(StateError):
    """What was read has been changed by somebody else since, so the change that rests on it was not made.

    Read again and decide again; or let the store do both at once (`transaction`, `incr`, `set`).
    """


class LeaseLost(ConflictError):
    """A task that was claimed has been given to somebody else, or ended, since: what was done for it counts for nothing."""


class BlockError(HoldfastError):
    """A block cannot be written or read as asked; what was said to be stored is not touched by it."""


class BlockStateError(BlockError):
    """A step was asked of a block that its state does not allow, as appending to one that is sealed; nothing was done."""


@dataclass(frozen=True, slots=True)
class BlockFailure:
    """Bytes of an owner that the store did not take: where they are in him and in which block, and why."""

    owner: str
    content_offset: int
    length_bytes: int
    block: str
    cause: BaseException

    def __str__(self) -> str:
        end = self.content_offset + self.length_bytes
        cause = str(self.cause) or type(self.cause).__name__
        return f"{self.owner} bytes {self.content_offset} to {end} in block {self.block}: {cause}"


class NotKeptError(BlockError):
    """The store did not take some blocks. They are still in memory, and the next commit tries them again."""

    def __init__(self, failures: Sequence[BlockFailure]) -> None:
        count = len({failure.block for failure in failures})
        super().__init__(
            f"the store did not take {count} block{'s' if count > 1 else ''}, which stay in memory",
            found="; ".join(map(str, failures)),
            hint="mend the store and commit again: what failed is tried again then",
        )
        self.failures = tuple(failures)


class MemoryBudgetError(BlockError):
    """There is no memory for more bytes, and none will come back by itself; `found` names the blocks that hold it."""


class OperatorNeeded(HoldfastError):
    """A person must act at the library (insert a cartridge, clean a drive) before work can go on."""

    exit_code: ClassVar[int] = EXIT_OPERATOR


class Interrupted(HoldfastError):
    """The user asked to stop. Whatever was said to be done is durable; the same command goes on."""

    exit_code: ClassVar[int] = EXIT_INTERRUPTED
