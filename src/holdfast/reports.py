"""What operations tell: while they run (`Watch`), and when they are done (reports).

Plain data for the doors to show; nothing here prints, and nothing here knows a database or a drive. Figures are bytes
and seconds.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol

from holdfast.errors import EXIT_DATA_AT_RISK, EXIT_DONE, EXIT_FAILED, EXIT_OPERATOR, HoldfastError


@dataclass(frozen=True, slots=True)
class StageFacts:
    """One stage of the work when it is over."""

    name: str
    seconds: float
    done_bytes: int
    count: int

    @property
    def rate_bytes_s(self) -> float:
        return self.done_bytes / self.seconds if self.seconds > 0 else 0.0


class Stage:
    """One stage while it runs. `advance` may be called from any thread."""

    def __init__(self, name: str, total_bytes: int = 0) -> None:
        self.name = name
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.counted = 0
        self._begun = time.monotonic()

    def advance(self, count_bytes: int) -> None:
        self.done_bytes += count_bytes

    def count(self) -> None:
        self.counted += 1

    def done(self) -> StageFacts:
        return StageFacts(self.name, time.monotonic() - self._begun, self.done_bytes, self.counted)


class Watch(Protocol):
    """Somebody who wants to see the work."""

    def stage(self, name: str, total_bytes: int = 0) -> AbstractContextManager[Stage]:
        """A stage begins; it is over when the block is left."""
        ...

    def say(self, text: str) -> None:
        """Something is durable now: one line for people."""
        ...


class Silent:
    """Nobody watches."""

    @contextmanager
    def stage(self, name: str, total_bytes: int = 0) -> Generator[Stage, None, None]:
        yield Stage(name, total_bytes)

    def say(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of a source that could not be kept as it is. `failed`: the exit code tells of it."""

    path: str
    reason: str
    failed: bool = True


@dataclass(slots=True)
class Kept:
    """What one look at the sources found and did."""

    files: int = 0
    folders: int = 0
    links: int = 0
    seen_bytes: int = 0
    unchanged: int = 0
    new_versions: int = 0
    ended: int = 0
    read_bytes: int = 0
    duplicate_files: int = 0
    duplicate_bytes: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])

    def merge(self, other: Kept) -> None:
        """Add what a look at another source found."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Report:
    """What every operation tells: its stages, the errors that it met, and, as `warnings`, those it got round."""

    vault: str
    stages: list[StageFacts] = field(default_factory=list[StageFacts])
    errors: list[HoldfastError] = field(default_factory=list[HoldfastError])
    warnings: list[HoldfastError] = field(default_factory=list[HoldfastError])
    totals: dict[str, int] = field(default_factory=dict[str, int])

    def has_failed(self) -> bool:
        """Whether something was not done."""
        return bool(self.errors)

    def exit_code(self) -> int:
        """0 only if everything was done and matched; when not, 3 if a medium failed, 4 if a person must act; else 1."""
        if not self.has_failed():
            return EXIT_DONE
        met = {error.exit_code for error in (*self.errors, *self.warnings)}
        return next((code for code in (EXIT_DATA_AT_RISK, EXIT_OPERATOR) if code in met), EXIT_FAILED)


@dataclass(slots=True)
class VerifyReport(Report):
    """What was read back, and from which cartridges: `tape_files` of the `committed_tape_files` that they hold.

    `sample` and `seed`: the share that was asked for, and what reads the same again; None when it was not a sample.
    """

    cartridges: list[str] = field(default_factory=list[str])
    tape_files: int = 0
    committed_tape_files: int = 0
    sample: str | None = None
    seed: int | None = None
    members: int = 0
    read_bytes: int = 0


@dataclass(slots=True)
class Moved:
    """What became of the sealed packs that lay on the local disk, where the vault keeps them elsewhere.

    `packs` were moved, of `size_bytes` together; those that have `problems` stay on the local disk, whole.
    """

    to: str
    packs: int = 0
    size_bytes: int = 0
    problems: list[HoldfastError] = field(default_factory=list[HoldfastError])


@dataclass(slots=True)
class ArchiveReport(VerifyReport):
    """What `archive` did. `unproven`: at most a hundred names of what has no two verified copies.

    `staged_bytes` wait until there are `wanted_bytes` for the drives; both are 0 when nothing waits.
    `gone_unproven`: at most a hundred names of files whose sources have these bytes no more, and which lost their two
    verified copies, or never had them; `totals` has their number.
    `moved`: None where packs stay in the vault's folder, or wait there to be written on tape.
    """

    in_place: bool = False
    source_bytes: int = 0
    staged_bytes: int = 0
    wanted_bytes: int = 0
    kept: Kept = field(default_factory=Kept)
    objects: int = 0
    written_bytes: int = 0
    written_on: list[str] = field(default_factory=list[str])
    unproven: list[str] = field(default_factory=list[str])
    gone_unproven: list[str] = field(default_factory=list[str])
    moved: Moved | None = None

    def add_kept(self, kept: Kept) -> None:
        """A look at the sources is over. Later looks of the same run only add what is new since the first."""
        if self.kept.files:
            kept.files, kept.folders, kept.links, kept.seen_bytes, kept.unchanged = 0, 0, 0, 0, 0
            self.kept.problems.clear()
        self.kept.merge(kept)

    def is_proven(self) -> bool:
        """Whether all went well as far as the copies on tape are concerned."""
        failed = any(problem.failed for problem in self.kept.problems)
        return not (self.errors or failed or self.unproven or self.gone_unproven)

    def has_failed(self) -> bool:
        return not self.is_proven() or (self.moved is not None and bool(self.moved.problems))


@dataclass(slots=True)
class RestoreReport(Report):
    """What `restore` planted.

    `from_twin`: files of which a bad copy gave way to another one; `from_replaced`: those for which only a cartridge in
    whose place another one is had a good copy.
    """

    files: int = 0
    folders: int = 0
    links: int = 0
    planted_bytes: int = 0
    already_there: int = 0
    from_twin: int = 0
    from_replaced: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTape:
    """One cartridge that a restore would read: its twin is mounted with it, and read where the cartridge is bad.

    `twin` is empty for one that is no side of a pair any more.

    `estimated_s`: to position and read, and back to the begin of the tape; mounting is not in it.
    """

    barcode: str
    twin: str
    files: int
    size_bytes: int
    tape_files: list[int]
    estimated_s: float


@dataclass(slots=True)
class RestorePlan(Report):
    """What `restore` would do. `tapes` stand in the order in which they would be read.

    `store_files` need no tape, `files_on_tape` do. `estimated_s`: for the tapes, mounting included.
    """

    to: str = ""
    files: int = 0
    folders: int = 0
    links: int = 0
    already_there: int = 0
    store_files: int = 0
    store_bytes: int = 0
    files_on_tape: int = 0
    tape_bytes: int = 0
    tapes: list[PlannedTape] = field(default_factory=list[PlannedTape])
    mounts: int = 0
    estimated_s: float = 0.0


@dataclass(slots=True)
class ScriptReport(Report):
    """What a restore script brings back, from which cartridges; its errors name what is on no tape."""

    files: int = 0
    folders: int = 0
    links: int = 0
    cartridges: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class ScrubReport(Report):
    """What `scrub` read: `packs` of the `packs_in_store`; `unread_packs` are missing, or could not be read.

    Errors are what could not be read, or is damaged and could not be repaired; warnings what could be, and what nothing
    needs. At most some hundred of them are kept; `totals` has the number of `errors` and `warnings`.
    """

    packs: int = 0
    packs_in_store: int = 0
    unread_packs: int = 0
    read_bytes: int = 0
    damaged_blocks: int = 0
    repaired_blocks: int = 0


@dataclass(slots=True)
class CollectReport(Report):
    """What `collect` gave back. Of `wasteful_packs`, in which something is not needed any more, so many were `collected`;
    `packs` were removed, also those that an interrupted run had collected.

    `copied_bytes` of needed blocks, with the names of files, became packs of `written_bytes`.

    `waiting`: nothing was, as somebody is still at work who may name what nothing names now.
    """

    packs: int = 0
    wasteful_packs: int = 0
    collected: int = 0
    removed_bytes: int = 0
    copied_bytes: int = 0
    written_bytes: int = 0
    waiting: bool = False


@dataclass(slots=True)
class ReleaseReport(Report):
    """What `release` gave up in the store: so many contents. `refused`: contents that may not go yet, with at most a
    hundred of their names. `named`: they were asked for by name. `collected`: what was done for their room at once.
    """

    named: bool = False
    dry_run: bool = False
    contents: int = 0
    released_bytes: int = 0
    refused: int = 0
    refused_names: list[str] = field(default_factory=list[str])
    collected: CollectReport | None = None

    def has_failed(self) -> bool:
        return bool(self.errors) or (self.named and bool(self.refused))


@dataclass(slots=True)
class StoreReport(Report):
    """What `store push` and `store copy` did with `packs`; `sent` of them were not there before.

    Errors are of packs that were not proven to be at the place that `to` names; they stay where they are.
    """

    to: str = ""
    packs: int = 0
    sent: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PackRow:
    """A pack, and where it lies: in the vault's `folder`, in the `store` that the settings name, or both; or `missing`.

    `known`: the catalog names it as sealed; others are still written, or not this vault's.
    """

    pack: str
    where: str
    size_bytes: int
    known: bool


@dataclass(slots=True)
class DoctorReport(Report):
    """What `doctor` looked at. `foreign`: what is in the folder of packs and is none. After a repair `totals` has what the
    catalog learnt by it.
    """

    packs: int = 0
    blocks: int = 0
    versions: int = 0
    foreign: int = 0


@dataclass(frozen=True, slots=True)
class FoundTape:
    """A cartridge that `rebuild` met: `rebuilt`, `known` already, `blank`, `not read`, or `not rebuilt`, and why."""

    barcode: str
    state: str
    text: str = ""


@dataclass(slots=True)
class RebuildReport(Report):
    """What `rebuild` found on tape and took over.

    `objects`, `evidence`: how many the catalog did not know; `scanned`: objects that no catalog on tape told of;
    `missing`: cartridges that labels and ledgers name and that are not in the library; `adopted_id`: the vault's id,
    if it was taken from the tapes.
    """

    cartridges: list[FoundTape] = field(default_factory=list[FoundTape])
    pairs: int = 0
    objects: int = 0
    scanned: int = 0
    evidence: int = 0
    missing: list[str] = field(default_factory=list[str])
    adopted_id: str | None = None

    def exit_code(self) -> int:
        """0 only if all was read; 1 else, as what could not be read may be on the twin: `verify` tells of damage."""
        return EXIT_FAILED if self.has_failed() else EXIT_DONE


def counted(number: int, what: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def as_document(value: Any) -> Any:
    """A report as JSON can hold it: errors as their facts."""
    if isinstance(value, HoldfastError):
        return value.facts()
    if isinstance(value, list):
        return [as_document(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {str(name): as_document(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    if is_dataclass(value):
        return {item.name: as_document(getattr(value, item.name)) for item in fields(value)}
    return value
