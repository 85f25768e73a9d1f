"""Reading a tape file as it streams past: members, their digests, and the digest of the whole.

Pure: bytes are fed in, facts come out; the drive is somebody else's. Every byte goes into the BLAKE3 of the tape
file; every file member's bytes go into its SHA-256; the MANIFEST is compared at the end. A damaged header stops the
parsing of members, not the digest: the caller still learns how the whole differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blake3 import blake3

from holdfast.errors import IntegrityError
from holdfast.tape import checksums, layout
from holdfast.tape.layout import TAR_BLOCK_BYTES, MemberHeader
from holdfast.values import show_path

PAX_LIMIT_BYTES = 1024 * 1024
"""A pax header is a few names long; one that claims more is damage."""


@dataclass(frozen=True, slots=True)
class ReadMember:
    """A member that was read whole. `sha256` is None for what is no file."""

    header: MemberHeader
    header_offset: int
    data_offset: int
    sha256: bytes | None


MemberSink = Callable[[MemberHeader, memoryview], None]


class TarReader:
    """Push parser of one tape file: `feed` the records in order, then `finish`.

    `on_member` is told of each whole member; `on_data`, when given, is handed the data of members as it passes.
    `comment` is that of the global header. `problem` says what stopped the parsing, if anything did; `is_cut_short`
    that it was the end of the tape file, before that of the tar.
    """

    def __init__(self, on_member: Callable[[ReadMember], None], on_data: MemberSink | None = None) -> None:
        self.comment = ""
        self.problem: IntegrityError | None = None
        self.manifest: bytes | None = None
        self.size_bytes = 0
        self._on_member = on_member
        self._on_data = on_data
        self._whole = blake3()
        self._partial = bytearray()
        self._pax: dict[str, bytes] = {}
        self._pax_left = 0
        self._pax_type = b""
        self._header: MemberHeader | None = None
        self._header_offset: int | None = None
        self._data_offset = 0
        self._data_left = 0
        self._pad_left = 0
        self._sha256 = hashlib.sha256()
        self._collected = bytearray()
        self._offset = 0  # of the next byte to parse
        self.ended = False
        self.is_cut_short = False

    def feed(self, data: memoryview) -> None:
        """The next bytes of the tape file."""
        self._whole.update(data)
        self.size_bytes += len(data)
        while data and self.problem is None and not self.ended:
            used = self._step(data)
            self._offset += used
            data = data[used:]

    def blake3(self) -> bytes:
        """The digest of everything fed so far."""
        return self._whole.digest()

    def finish(self) -> None:
        """The tape file ended. Sets `problem` if it ended too early."""
        if self.problem is None and not self.ended:
            self.is_cut_short = True
            self.problem = IntegrityError("the tape file ends before its tar archive", place=f"byte {self._offset}")

    def manifest_digests(self) -> dict[bytes, bytes]:
        """SHA-256 by name, as the MANIFEST says. Raises `IntegrityError` when there is none or it is damaged."""
        if self.manifest is None:
            raise IntegrityError("the tape file has no MANIFEST", expected="a last member MANIFEST")
        return checksums.decode(self.manifest)

    def _step(self, data: memoryview) -> int:
        if self._data_left:
            return self._take_data(data)
        if self._pad_left:
            used = min(self._pad_left, len(data))
            self._pad_left -= used
            return used
        return self._take_block(data)

    def _take_data(self, data: memoryview) -> int:
        piece = data[: self._data_left]
        header = self._header
        assert header is not None
        self._sha256.update(piece)
        if header.name == layout.MANIFEST_NAME:
            self._collected += piece
        if self._on_data is not None:
            self._on_data(header, piece)
        self._data_left -= len(piece)
        if self._data_left == 0:
            self._end_member()
        return len(piece)

    def _take_block(self, data: memoryview) -> int:
        used = min(TAR_BLOCK_BYTES - len(self._partial), len(data))
        self._partial += data[:used]
        if len(self._partial) == TAR_BLOCK_BYTES:
            block, self._partial = bytes(self._partial), bytearray()
            start = self._offset + used - TAR_BLOCK_BYTES
            try:
                self._parse(block, start)
            except IntegrityError as error:
                self.problem = IntegrityError(
                    error.message, place=f"byte {start}", expected=error.expected, found=error.found
                )
        return used

    def _parse(self, block: bytes, start: int) -> None:
        if self._pax_left:
            self._collect_pax(block)
            return
        ustar = layout.decode_ustar(block)
        if ustar is None:
            self.ended = True
            return
        if self._header_offset is None:
            self._header_offset = start
        if ustar.type in (layout.TYPE_EXTENDED, layout.TYPE_GLOBAL):
            self._begin_pax(ustar)
        else:
            self._begin_member(layout.apply_pax(ustar, self._pax), start + TAR_BLOCK_BYTES)

    def _begin_pax(self, ustar: layout.UstarBlock) -> None:
        if not 0 < ustar.size_bytes <= PAX_LIMIT_BYTES:
            raise IntegrityError("damaged pax header", found=f"{ustar.size_bytes} bytes")
        self._pax_left = ustar.size_bytes
        self._pax_type = ustar.type
        self._collected.clear()

    def _collect_pax(self, block: bytes) -> None:
        piece = block[: self._pax_left]
        self._collected += piece
        self._pax_left -= len(piece)
        if self._pax_left:
            return
        records = layout.decode_pax(bytes(self._collected))
        if self._pax_type == layout.TYPE_GLOBAL:
            self.comment = records.get("comment", b"").decode("utf-8", "replace")
            self._header_offset = None
        else:
            self._pax = records

    def _begin_member(self, header: MemberHeader, data_offset: int) -> None:
        self._header, self._pax = header, {}
        self._data_offset = data_offset
        self._data_left = header.size_bytes if header.type == layout.TYPE_FILE else 0
        self._pad_left = layout.padded(self._data_left) - self._data_left
        self._sha256 = hashlib.sha256()
        self._collected.clear()
        if self._data_left == 0:
            self._end_member()

    def _end_member(self) -> None:
        header, self._header = self._header, None
        offset, self._header_offset = self._header_offset, None
        assert header is not None
        assert offset is not None
        if header.name == layout.MANIFEST_NAME:
            self.manifest = bytes(self._collected)
            return
        digest = self._sha256.digest() if header.type == layout.TYPE_FILE else None
        self._on_member(ReadMember(header, offset, self._data_offset, digest))


def compare_with_manifest(members: dict[bytes, bytes], manifest: dict[bytes, bytes]) -> list[IntegrityError]:
    """What differs between the digests that were computed and those the MANIFEST promises.

    `members` holds file members only. A member that the MANIFEST leaves out is void and is no error.
    """
    problems: list[IntegrityError] = []
    for name, expected in manifest.items():
        found = members.get(name)
        if found != expected:
            problems.append(
                IntegrityError(
                    "a member on tape is not what its MANIFEST says",
                    place=show_path(name),
                    expected=f"SHA-256 {expected.hex()}",
                    found="no such member" if found is None else f"SHA-256 {found.hex()}",
                )
            )
    return problems


def member_digests(members: Iterable[ReadMember]) -> dict[bytes, bytes]:
    """The digests of files by name; a hard link has that of its target."""
    found: dict[bytes, bytes] = {}
    for item in members:
        link = found.get(item.header.link_name) if item.header.type == layout.TYPE_HARD_LINK else None
        digest = item.sha256 or link
        if digest is not None:
            found[item.header.name] = digest
    return found


def first_problem(reader: TarReader, digests: dict[bytes, bytes]) -> IntegrityError | None:
    """What is wrong with a tape file that was read; None when it is whole and its MANIFEST agrees."""
    if reader.problem is not None:
        return reader.problem
    try:
        return next(iter(compare_with_manifest(digests, reader.manifest_digests())), None)
    except IntegrityError as error:
        return error
