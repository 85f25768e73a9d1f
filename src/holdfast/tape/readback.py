"""Reading one committed tape file back, and comparing every byte of it.

The BLAKE3 of the whole is compared with what was committed, the SHA-256 of every member with the tape file's MANIFEST
and with the catalog.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast.catalog import Cartridge, Evidence, TapeFile, tapes
from holdfast.errors import HoldfastError, IntegrityError, MediaError
from holdfast.tape import layout
from holdfast.tape.drive import EndOfData, Position, TapeDrive
from holdfast.tape.library import TapeLibrary
from holdfast.tape.reader import ReadMember, TarReader, compare_with_manifest
from holdfast.tape.scan import RecordBuffer, read_tape_file
from holdfast.values import show_path

MAX_PROBLEMS = 20
"""Of one tape file, at most so many damaged members are named one by one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading of a tape file found: the evidence, and what is not as it was written."""

    evidence: Evidence
    problems: list[HoldfastError]


@dataclass(slots=True)
class _Seen:
    """The members of one tape file as they were read: SHA-256 by name, and where each began."""

    digests: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    versions: dict[uuid.UUID, bytes] = field(default_factory=dict[uuid.UUID, bytes])
    count: int = 0

    def add(self, member: ReadMember) -> None:
        self.count += 1
        header = member.header
        digest = member.sha256
        if header.type == layout.TYPE_HARD_LINK:
            digest = self.digests.get(header.link_name)
        if digest is not None:
            self.digests[header.name] = digest
            if header.version_id is not None:
                self.versions[header.version_id] = digest


def read_back(
    library: TapeLibrary,
    cartridge: Cartridge,
    drive: TapeDrive,
    item: TapeFile,
    buffer: RecordBuffer,
    progress: Callable[[int], None],
) -> Reading:
    """Read a committed tape file from its begin to its mark, and compare it. Damage is in the reading, not raised."""
    begun_ns = time.time_ns()
    seen = _Seen()
    try:
        drive.locate(Position(item.number, 0, item.first_block))
        reader = read_tape_file(drive, buffer, on_member=seen.add, on_bytes=progress)
    except (EndOfData, MediaError) as error:
        reader, problems = None, [_unreadable(cartridge, item, error)]
    else:
        problems = _compare(library, cartridge, item, reader, seen)
    return Reading(_evidence(cartridge, drive, item, reader, seen, problems, begun_ns), problems)


def _evidence(
    cartridge: Cartridge,
    drive: TapeDrive,
    item: TapeFile,
    reader: TarReader | None,
    seen: _Seen,
    problems: list[HoldfastError],
    begun_ns: int,
) -> Evidence:
    found = bytes(32) if reader is None else reader.blake3()
    matched = not problems and found == item.blake3
    return Evidence(
        id=uuid.uuid4(),
        barcode=cartridge.barcode,
        tape_file=item.number,
        object_id=item.object_id,
        drive=drive.serial,
        begun_ns=begun_ns,
        ended_ns=time.time_ns(),
        size_bytes=0 if reader is None else reader.size_bytes,
        members=seen.count,
        expected=item.blake3,
        found=found,
        matched=matched,
        reloaded=True,
        problem=None if matched else "; ".join(str(problem) for problem in problems[:3]),
    )


def _place(cartridge: Cartridge, item: TapeFile, rest: str = "") -> str:
    return f"{cartridge.barcode} tape file {item.number}" + (f" {rest}" if rest else "")


def _hint(cartridge: Cartridge) -> str:
    return f"holdfast restore takes the twin of {cartridge.barcode}; keep the source until both copies are verified"


def _unreadable(cartridge: Cartridge, item: TapeFile, error: Exception) -> HoldfastError:
    return IntegrityError(
        "a tape file cannot be read",
        place=_place(cartridge, item),
        expected=f"{item.size_bytes} bytes and a file mark",
        found=error.found or error.message if isinstance(error, HoldfastError) else "end of data",
        hint=_hint(cartridge),
    )


def _compare(
    library: TapeLibrary, cartridge: Cartridge, item: TapeFile, reader: TarReader, seen: _Seen
) -> list[HoldfastError]:
    problems = list(_member_problems(library, cartridge, item, reader, seen))
    if not problems and reader.blake3() != item.blake3:
        problems.append(
            IntegrityError(
                "a tape file is not what was committed, though its members are",
                place=_place(cartridge, item),
                expected=f"BLAKE3 {item.blake3.hex()}",
                found=f"BLAKE3 {reader.blake3().hex()}",
                hint=_hint(cartridge),
            )
        )
    return problems


def _member_problems(
    library: TapeLibrary, cartridge: Cartridge, item: TapeFile, reader: TarReader, seen: _Seen
) -> Iterator[HoldfastError]:
    if reader.problem is not None:
        yield _damaged_at(library, cartridge, item, reader.problem)
        return
    try:
        against_manifest = compare_with_manifest(seen.digests, reader.manifest_digests())
    except IntegrityError as error:
        yield _placed(cartridge, item, error, f"MANIFEST {error.place or ''}")
        return
    found = {problem.place for problem in against_manifest}
    for problem in against_manifest[:MAX_PROBLEMS]:
        yield _placed(cartridge, item, problem, f"member {problem.place}")
    for problem in _against_catalog(library, item, seen):
        if problem.place not in found:
            yield _placed(cartridge, item, problem, f"member {problem.place}")


def _placed(cartridge: Cartridge, item: TapeFile, error: HoldfastError, rest: str) -> IntegrityError:
    return IntegrityError(
        error.message,
        place=_place(cartridge, item, rest.rstrip()),
        expected=error.expected,
        found=error.found,
        hint=_hint(cartridge),
    )


def _damaged_at(library: TapeLibrary, cartridge: Cartridge, item: TapeFile, error: IntegrityError) -> IntegrityError:
    """Damage to a header: the catalog says whose member it was."""
    rest = error.place or ""
    offset = int(rest.removeprefix("byte ") or 0)
    if item.object_id is not None:
        with library.catalog.reading() as connection:
            name = tapes.member_at(connection, item.object_id, offset)
        rest = f"member {show_path(name)} ({rest})" if name is not None else rest
    return _placed(cartridge, item, error, rest)


def _against_catalog(library: TapeLibrary, item: TapeFile, seen: _Seen) -> Iterator[HoldfastError]:
    if item.object_id is None:
        return
    with library.catalog.reading() as connection:
        members = tapes.members_of(connection, item.object_id)
    for facts, version in members:
        found = seen.versions.get(version.id)
        if facts.content is not None and found != facts.content.sha256:
            yield IntegrityError(
                "a member on tape is not what the catalog says",
                place=show_path(version.full_path),
                expected=f"SHA-256 {facts.content.sha256.hex()}",
                found="no such member" if found is None else f"SHA-256 {found.hex()}",
            )
