"""One file, from the block store or from tape: to a stream, or to a place of one's choice."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from holdfast import durable
from holdfast.blocks import ContentFile
from holdfast.catalog import Cartridge, tapes
from holdfast.errors import BackendError, HoldfastError, IntegrityError, SourceError, UsageError
from holdfast.naming import find_version
from holdfast.restoring.ways import Ways
from holdfast.tape.library import TapeLibrary
from holdfast.tape.recall import TapeContents
from holdfast.values import Content, FileVersion, Kind
from holdfast.vault import Vault, opened


def cat(
    folder: Path,
    name: str,
    out: BinaryIO,
    *,
    as_of_ns: int | None = None,
    origin: str = "any",
    part: slice = slice(None),
) -> None:
    """Write one file's bytes to `out`, or a `part` of them. Not one byte is written that was not checked.

    From the store only what is wanted is read; from tape the whole file is, as only its last byte proves the first. Raises
    `SourceError` when there is no such file, and `IntegrityError` when no copy is good.
    """
    with opened(folder) as vault:
        version = find_version(vault.catalog, name, as_of_ns).version
        _write(vault, name, version, out, origin, part)


def get(
    folder: Path, name: str, to: Path, *, as_of_ns: int | None = None, origin: str = "any"
) -> tuple[Path, FileVersion]:
    """Put one file at `to`, or into `to` under its own name if that is a folder; returns where, and which version.

    When this returns the file is whole, checked and durable, with its mode and mtime; before that nothing has its name.
    Raises `UsageError` when something is there already or there is no such folder, and what `cat` raises.
    """
    with opened(folder) as vault:
        version = find_version(vault.catalog, name, as_of_ns).version
        target = to / os.fsdecode(version.full_path.rpartition(b"/")[2]) if to.is_dir() else to
        _check_free(target)
        with (
            durable.disk_full_explained(target),
            tempfile.TemporaryDirectory(dir=target.parent, prefix=".holdfast-") as aside,
        ):
            path = Path(aside) / "file"
            with path.open("xb") as out:
                _write(vault, name, version, out, origin, slice(None))
                out.flush()
                os.fchmod(out.fileno(), version.attributes.mode)
                os.utime(out.fileno(), ns=(version.attributes.mtime_ns, version.attributes.mtime_ns))
                durable.sync_file(out.fileno())
            _give_name(path, target)
        durable.sync_folder(target.parent)
    return target, version


def _give_name(path: Path, target: Path) -> None:
    """Unless something has it by now; where there are no hard links, after one more look."""
    try:
        target.hardlink_to(path)
    except FileExistsError:
        _check_free(target)
        raise
    except OSError:
        _check_free(target)
        path.rename(target)


def _check_free(target: Path) -> None:
    if not target.parent.is_dir():
        raise UsageError("there is no such folder", place=str(target.parent), hint="make it, or name another with --to")
    if os.path.lexists(target):
        raise UsageError("something is there already", place=str(target), hint="name another place with --to")


def _write(vault: Vault, name: str, version: FileVersion, out: BinaryIO, origin: str, part: slice) -> None:
    if version.kind is not Kind.FILE or version.content is None:
        raise SourceError("not a file whose bytes are kept", place=name, found=version.kind.value)
    segments = None if origin == "tape" else vault.catalog.find_segments(version.content)
    if segments is None and origin == "store" and version.size_bytes:
        raise SourceError("the file is not in the block store", place=name, hint="leave out --from store")
    begin, end, _ = part.indices(version.size_bytes)
    with vault.store_reader() as reader:
        try:
            for piece in ContentFile(reader, segments or ()).pieces(begin, end):
                out.write(piece)
                begin += len(piece)
        except (IntegrityError, BackendError):
            if origin == "store" or not _is_on_tape(vault, version.content):
                raise
    if begin < end:
        _cat_from_tape(vault, version.content, out, begin, end)


def _is_on_tape(vault: Vault, content: Content) -> bool:
    with vault.catalog.reading() as connection:
        return bool(tapes.tape_places(connection, content, limit=1))


def _cat_from_tape(vault: Vault, content: Content, out: BinaryIO, begin: int, end: int) -> None:
    """From byte `begin` to before `end`; by way of a temporary file, as only the last byte proves the first."""
    ways = Ways(vault.catalog, "tape")
    places = ways.places(content)
    failures: list[HoldfastError] = [SourceError("no copy of the file can be read", hint="holdfast custody shows more")]
    with TapeLibrary(vault.settings, vault.catalog) as library, tempfile.TemporaryFile() as spool:
        for turn in (ways.turns[number] for number in sorted(ways.turns_with(content))):
            told = partial(_told, failures)
            with library.mounted_sides(turn.pair, told, wanted=turn.cartridges) as mounted:
                good = TapeContents(mounted).read_any(places, content, lambda: _fresh(spool), failures.append)
            if good:
                _copy_out(spool, out, begin, end)
                return
    raise failures[-1]


def _told(failures: list[HoldfastError], _: Cartridge, error: HoldfastError) -> None:
    failures.append(error)


def _fresh(spool: BinaryIO) -> Callable[[memoryview], None]:
    spool.seek(0)
    spool.truncate()

    def write(piece: memoryview) -> None:
        spool.write(piece)

    return write


def _copy_out(spool: BinaryIO, out: BinaryIO, begin: int, end: int) -> None:
    spool.seek(begin)
    while piece := spool.read(min(2**20, end - begin)):
        out.write(piece)
        begin += len(piece)
