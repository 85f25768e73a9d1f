"""Writing tape files through the fan: small tars in memory, and one large member from a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from holdfast.errors import MediaError
from holdfast.tape import checksums, layout
from holdfast.tape.drive import EarlyWarning, EndOfMedium, Position, TapeDrive
from holdfast.tape.fan import RecordFan
from holdfast.tape.plan import manifest_header

READ_BYTES = 1024 * 1024


class NoRoomLeft(MediaError):
    """The cartridge ends before what ends a session: its early warning came too late, or it is not of its kind."""


class TrailerDrive:
    """A drive that writes on when it warns: the room behind early warning is what a session's end is for.

    At the physical end it raises `NoRoomLeft`.
    """

    def __init__(self, drive: TapeDrive) -> None:
        self._drive = drive

    @property
    def serial(self) -> str:
        return self._drive.serial

    def write_record(self, data: memoryview) -> None:
        try:
            self._write(data)
        except EndOfMedium as error:
            raise NoRoomLeft(
                "the cartridge ends before its label or its catalogs",
                place=error.place,
                found="the end of the medium",
                hint="run the same command again: what is missing goes on another cartridge",
            ) from error

    def _write(self, data: memoryview) -> None:
        try:
            self._drive.write_record(data)
        except EarlyWarning:
            self._drive.write_record(data)

    def write_file_mark(self, *, synchronous: bool) -> None:
        self._drive.write_file_mark(synchronous=synchronous)

    def erase(self) -> None:
        self._drive.erase()

    def read_record(self, buffer: memoryview) -> int:
        return self._drive.read_record(buffer)

    def rewind(self) -> None:
        self._drive.rewind()

    def locate(self, position: Position) -> None:
        self._drive.locate(position)

    def space_file_marks(self, count: int) -> None:
        self._drive.space_file_marks(count)

    def tell(self) -> Position:
        return self._drive.tell()


def write_small_tar(fan: RecordFan, comment: str, members: Iterable[tuple[bytes, bytes]]) -> None:
    """A whole tar, `MANIFEST` and end included, of members that are in memory. The caller ends the tape file."""
    fan.write(layout.encode_global(comment))
    manifest = b""
    for name, data in members:
        write_member(fan, layout.MemberHeader(name=name, type=layout.TYPE_FILE, size_bytes=len(data)), data)
        manifest += checksums.encode_line(hashlib.sha256(data).digest(), name)
    write_manifest(fan, manifest)


def write_file_tar(fan: RecordFan, comment: str, name: bytes, path: Path, sha256: bytes) -> None:
    """A whole tar of one member whose data is in a file, however large."""
    fan.write(layout.encode_global(comment))
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        fan.write(layout.encode_member(layout.MemberHeader(name=name, type=layout.TYPE_FILE, size_bytes=size_bytes)))
        while piece := file.read(READ_BYTES):
            fan.write(piece)
    fan.write_zeros(layout.padded(size_bytes) - size_bytes)
    write_manifest(fan, checksums.encode_line(sha256, name))


def write_member(fan: RecordFan, header: layout.MemberHeader, data: bytes) -> None:
    fan.write(layout.encode_member(header))
    fan.write(data)
    fan.write_zeros(header.padded_bytes - header.size_bytes)


def write_manifest(fan: RecordFan, manifest: bytes) -> None:
    """The last member, and the end of the tar."""
    write_member(fan, manifest_header(len(manifest)), manifest)
    fan.write_zeros(layout.END_BYTES)
