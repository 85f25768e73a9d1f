"""Reads a Holdfast tape with nothing but Python (3.6 or newer): no Holdfast, no database, no network.

    python3 rescue.py list TAPE                         what is on the tape: size, time and name of everything
    python3 rescue.py verify TAPE                       read every byte and check it against the tape's own digests
    python3 rescue.py extract TAPE DIR [PATTERN...]     give the files back, in DIR

TAPE is a tape drive that does not rewind by itself (/dev/nst0), the folder of a virtual cartridge (plain files 00000,
00001, ...), or one such file. PATTERN is a name or a shell pattern ('night/*.fits', quoted); without any, all files
are extracted. A folder's name stands for all that is in it.

What is on such a tape: tape files, each a POSIX tar archive in records of a constant size, whose last member MANIFEST
lists the SHA-256 of the files in the archive. Tape file 0 is the label; the others hold files, or a catalog of them.

Extracting never writes outside DIR. Every file is checked; one that is not what its MANIFEST says, or cannot be
checked, gets the suffix .damaged, and the rest goes on. Where a name is on the tape more than once, the last good one
wins. Modes and times are given back; owners, and with them the set-user-ID and set-group-ID of files, are not.

The exit code is 0 when all is good, 1 when something is damaged, 2 for wrong use.
"""

# Older Pythons must run this, so newer forms of the language are left out on purpose:
# ruff: noqa: UP006, UP007, UP035, UP045

import errno
import fcntl
import fnmatch
import hashlib
import os
import re
import shutil
import stat
import struct
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import BinaryIO, Callable, Dict, Generator, Iterator, List, NamedTuple, Optional, Tuple, Union

BLOCK = 512
ZEROS = bytes(BLOCK)
BUFFER_BYTES = 1024 * 1024  # no record is larger

MTIOCTOP, MTIOCGET, MTIOCPOS = 0x40086D01, 0x80306D02, 0x80086D03  # from <linux/mtio.h>
MTFSF, MTFSR, MTREW, MTSETBLK = 1, 3, 6, 20
MTGET = "@lllllii"  # mt_gstat is the fourth
GMT_EOT, GMT_EOD = 0x20000000, 0x08000000
BAD_RECORDS_LIMIT = 16  # after so many bad records in a row, go on with the next tape file

FILE, HARD_LINK, SYMBOLIC_LINK, FOLDER = b"0", b"1", b"2", b"5"
KINDS = (FILE, HARD_LINK, SYMBOLIC_LINK, FOLDER)
MANIFEST = b"MANIFEST"
NO_FILES = b"NO-FILES.txt"  # stands in an object without files, so that its MANIFEST lists something
DIGEST_LINE = re.compile(rb"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)

Complain = Callable[[str], None]


class CannotGoOn(Exception):
    """The whole task ends here."""


class Member(NamedTuple):
    """One file, folder or link as its tar header tells."""

    name: bytes
    kind: bytes
    size: int
    mode: int
    mtime_ns: int
    link: bytes


# -- the bytes of a tape, tape file by tape file


class Stream:
    """The bytes of one tape file in their order. `more` gives the next record, and b"" after the last."""

    def __init__(self, more: Callable[[], bytes], source: Optional[BinaryIO] = None) -> None:
        self.offset = 0
        self._more = more
        self._source = source
        self._held = memoryview(b"")

    def piece(self, limit: int) -> memoryview:
        """The next bytes, at most `limit`; none at the end of the tape file."""
        if not self._held:
            self._held = memoryview(self._more())
        piece = self._held[:limit]
        self._held = self._held[len(piece) :]
        self.offset += len(piece)
        return piece

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end of the tape file."""
        pieces: List[bytes] = []
        while count:
            piece = self.piece(count)
            if not piece:
                break
            pieces.append(bytes(piece))
            count -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        while count and (self._held or self._source is None):
            piece = self.piece(count)
            if not piece:
                return
            count -= len(piece)
        if count and self._source is not None:
            self._source.seek(count, os.SEEK_CUR)
            self.offset += count


class PlainFiles:
    """A virtual cartridge, or one tape file, in plain files."""

    def __init__(self, path: str) -> None:
        self._paths = [path]
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.isdigit())
            self._paths = [os.path.join(path, name) for name in names]
            if not names:
                raise CannotGoOn("there are no tape files (00000, 00001, ...) in this folder")

    def streams(self, complain: Complain) -> Iterator[Tuple[int, Stream]]:
        """Each tape file's number and bytes."""
        for number, path in enumerate(self._paths):
            name = os.path.basename(path)
            with open(path, "rb", buffering=0) as source:
                yield (int(name) if name.isdigit() else number), Stream(self._reader(source, complain), source)

    def _reader(self, source: BinaryIO, complain: Complain) -> Callable[[], bytes]:
        def more() -> bytes:
            try:
                return source.read(BUFFER_BYTES)
            except OSError as error:
                complain(f"cannot be read further: {error}")
                return b""

        return more


class TapeDrive:
    """A tape in a drive of Linux's `st`. A read that returns nothing is a file mark; two in a row end the data, or the
    driver says that it has ended.
    """

    def __init__(self, path: str) -> None:
        self._drive = os.open(path, os.O_RDONLY)
        try:
            self._operate(MTSETBLK, 0)  # records of any size
        except OSError:
            pass  # some drives want none of it
        self._operate(MTREW, 1)
        self._position = 0  # in records and file marks since the begin, as the drive counts
        self._record_bytes = 0
        self._bad_records = 0
        self._unreadable = False

    def _operate(self, operation: int, count: int) -> None:
        fcntl.ioctl(self._drive, MTIOCTOP, struct.pack("@hi", operation, count))

    def streams(self, complain: Complain) -> Iterator[Tuple[int, Stream]]:
        """Each tape file's number and bytes."""
        number = 0
        while not self._unreadable:
            records = self._records(complain)
            first = next(records, b"")
            if not first:
                return  # a mark where a tape file would begin: the end of the data
            waiting = [first]
            stream = Stream(lambda: waiting.pop() if waiting else next(records, b""))  # noqa: B023
            yield number, stream
            while stream.piece(BUFFER_BYTES):
                pass
            number += 1

    def _records(self, complain: Complain) -> Iterator[bytes]:
        """The records up to the next file mark. One that cannot be read is given as zeros, so the rest stays true."""
        self._bad_records = 0
        while True:
            try:
                record = os.read(self._drive, BUFFER_BYTES)
                if self._at_end_of_data():  # what was read is no record: some drives give whatever they had before
                    return
            except OSError as error:
                if self._at_end_of_data() or self._nothing_follows():
                    return
                complain(f"record {self._position} of the tape cannot be read: {error.strerror}")
                if not self._pass_bad_record(complain):
                    return
                record = bytes(self._record_bytes)
            else:
                self._bad_records = 0
                self._record_bytes = len(record) or self._record_bytes
            self._position += 1
            if record:
                yield record
            elif not self._bad_records:
                return

    def _at_end_of_data(self) -> bool:
        """What the driver says of the last read."""
        try:
            answer = fcntl.ioctl(self._drive, MTIOCGET, bytes(struct.calcsize(MTGET)))
        except OSError:
            return False
        return bool(struct.unpack(MTGET, answer)[3] & (GMT_EOT | GMT_EOD))

    def _nothing_follows(self) -> bool:
        """On a blank tape, or behind a record, the driver tells the end of the data only of a spacing that failed."""
        try:
            if self._tell() != self._position:
                return False
            self._operate(MTFSR, 1)
        except OSError:
            return self._at_end_of_data()
        return False

    def _pass_bad_record(self, complain: Complain) -> bool:
        """Whether the tape stands behind the bad record now, and reading may go on."""
        self._bad_records += 1
        try:
            if self._bad_records < BAD_RECORDS_LIMIT:
                if self._tell() == self._position:
                    self._operate(MTFSR, 1)
                return True
            complain("too many bad records: the rest of this tape file is left out")
            self._operate(MTFSF, 1)
            self._position = self._tell()
        except OSError as error:
            complain(f"the tape cannot be read further: {error.strerror}")
            self._unreadable = True
        return False

    def _tell(self) -> int:
        answer = fcntl.ioctl(self._drive, MTIOCPOS, bytes(struct.calcsize("@l")))
        return int(struct.unpack("@l", answer)[0])


# -- the members of one tape file


class Archive:
    """The members of one tape file as they pass. After damage it goes on with the next whole header."""

    def __init__(self, stream: Stream, complain: Complain) -> None:
        self.what = ""
        self.damaged = False
        self._stream = stream
        self._complain = complain
        self._left = 0  # bytes of the present member's data that were not read yet

    def members(self) -> Iterator[Member]:
        """Every member; its `data` may be read before the next one is asked for."""
        pax: Dict[bytes, bytes] = {}
        ended = lost = False
        while True:
            block = self._stream.exactly(BLOCK)
            if len(block) < BLOCK:
                break
            if block == ZEROS:
                ended = True
                continue
            header = parse_header(block)
            if header is None or ended:
                if not lost:
                    self._damage(f"damaged at byte {self._stream.offset - BLOCK}; going on with the next whole header")
                pax, ended, lost = {}, False, True
            if header is None:
                continue
            lost = False
            if header.kind in (b"x", b"g"):
                records = self._pax_records(self._stream.exactly(padded(header.size))[: header.size])
                if header.kind == b"x":
                    pax = records
                elif records.get(b"comment", b"").startswith(b"holdfast "):
                    self.what = show(records[b"comment"])
                continue
            member = self._with_pax(header, pax)
            pax = {}
            self._left = member.size
            yield member
            self._stream.skip(self._left + padded(member.size) - member.size)
        if not ended:
            self._damage("ends before its end (as the last tape file does, if the writing was interrupted)")

    def data(self) -> Iterator[memoryview]:
        """The bytes of the present member, piece by piece; fewer than its size where the tape file is cut off."""
        while self._left:
            piece = self._stream.piece(self._left)
            if not piece:
                return
            self._left -= len(piece)
            yield piece

    @property
    def cut_off(self) -> bool:
        """Whether the present member's data ended before its size."""
        return self._left > 0

    def _damage(self, text: str) -> None:
        self.damaged = True
        self._complain(text)

    def _pax_records(self, data: bytes) -> Dict[bytes, bytes]:
        """The records `<length> <keyword>=<value>\\n` of an extended header, as far as they are whole."""
        records: Dict[bytes, bytes] = {}
        while data:
            length, _, rest = data.partition(b" ")
            end = int(length) if length.isdigit() and len(length) < 10 else 0
            record = rest[: max(0, end - len(length) - 1)]
            keyword, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n"):
                self._damage(f"damaged pax header before byte {self._stream.offset}")
                break
            records[keyword] = value[:-1]
            data = data[end:]
        return records

    def _with_pax(self, header: Member, pax: Dict[bytes, bytes]) -> Member:
        name, link = pax.get(b"path", header.name), pax.get(b"linkpath", header.link)
        try:
            size = int(pax[b"size"]) if b"size" in pax and header.kind == FILE else header.size
            mtime_ns = nanoseconds(pax[b"mtime"]) if b"mtime" in pax else header.mtime_ns
            if size < 0:
                raise ValueError(size)
        except ValueError:
            self._damage(f"damaged pax header of {show(name)}")
            return header._replace(name=name, link=link)
        return header._replace(name=name, link=link, size=size, mtime_ns=mtime_ns)


def parse_header(block: bytes) -> Optional[Member]:
    """The ustar header in a block of 512 bytes; None when it is damaged."""
    try:
        if block[257:262] != b"ustar" or octal(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 32:
            return None
        kind = FILE if block[156:157] == b"\0" else block[156:157]
        name, prefix = text(block[0:100]), text(block[345:500])
        return Member(
            name=prefix + b"/" + name if prefix else name,
            kind=kind,
            size=0 if kind in (HARD_LINK, SYMBOLIC_LINK, FOLDER) else octal(block[124:136]),
            mode=octal(block[100:108]),
            mtime_ns=octal(block[136:148]) * 10**9,
            link=text(block[157:257]),
        )
    except ValueError:
        return None


def text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def octal(field: bytes) -> int:
    return int(field.strip(b" \0") or b"0", 8)


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def nanoseconds(decimal: bytes) -> int:
    """`-1.5` seconds as nanoseconds, without the rounding of floating point."""
    sign = -1 if decimal.startswith(b"-") else 1
    seconds, _, fraction = decimal.lstrip(b"-").partition(b".")
    return sign * (int(seconds) * 10**9 + int(fraction[:9].ljust(9, b"0")))


def parse_manifest(data: bytes, complain: Complain) -> Dict[bytes, str]:
    """SHA-256 in hex digits by name. A line that is damaged is left out."""
    escapes = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}
    promised: Dict[bytes, str] = {}
    *lines, rest = data.split(b"\n")
    if rest:
        complain("the MANIFEST does not end with a whole line")
    for number, line in enumerate(lines, start=1):
        match = DIGEST_LINE.match(line)
        if match is None:
            complain(f"line {number} of the MANIFEST is damaged")
            continue
        escaped, digest, name = match.groups()
        if escaped:
            name = re.sub(rb"\\.", lambda found: escapes.get(found.group(), found.group()), name)
        promised[name] = digest.decode()
    return promised


# -- what is done with the members


class Report:
    """Says what is wrong, and remembers that something was."""

    def __init__(self) -> None:
        self.damages = 0
        self._where = ""

    def tape_file(self, number: int) -> None:
        self._where = f"tape file {number}"

    def damage(self, what: str) -> None:
        self.damages += 1
        say(f"DAMAGED  {self._where}: {what}")

    def note(self, what: str) -> None:
        say(f"note     {self._where}: {what}")


class Found(NamedTuple):
    """A member that was read: the digest of its data, None when they were cut off; where they wait to be placed."""

    member: Member
    digest: Optional[str]
    staged: Optional[str]


class Checker:
    """Reads tape file after tape file, checks every file in it, and hands them to `folder`, if there is one."""

    def __init__(self, report: Report, folder: "Optional[Folder]", patterns: List[bytes]) -> None:
        self._report = report
        self._folder = folder
        self._patterns = patterns
        self.good = 0

    def check(self, archive: Archive) -> None:
        """Read one tape file. Nothing in it is judged before its MANIFEST, which comes last, is known."""
        found: List[Found] = []
        manifest: Optional[bytes] = None
        for member in archive.members():
            if member.name == MANIFEST and member.kind == FILE:
                manifest = b"".join(archive.data())
            elif member.kind not in KINDS:
                self._report.damage(f"{show(member.name)} is of an unknown kind and left out")
            elif self._is_wanted(member.name, archive):
                found.append(self._read(member, archive))
        if manifest is None:
            self._report.damage("there is no MANIFEST, so its files cannot be checked")
        before = self._report.damages
        promised = parse_manifest(manifest or b"", self._report.damage)
        complete = not archive.damaged and self._report.damages == before
        self._judge_all(found, promised if manifest is not None else None, complete)
        present = {item.member.name for item in found}
        for name in promised:
            if name not in present and self._is_wanted(name, archive):
                self._report.damage(f"{show(name)} is lost: the MANIFEST names it, but it is not there")

    def _is_wanted(self, name: bytes, archive: Archive) -> bool:
        """By its patterns; without any, everything, but of the label and catalogs nothing is extracted."""
        if not self._patterns:
            ours = name == NO_FILES or archive.what.startswith(("holdfast label", "holdfast catalog"))
            return self._folder is None or not ours
        name = name.rstrip(b"/")
        return any(
            fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern.rstrip(b"/") + b"/")
            for pattern in self._patterns
        )

    def _read(self, member: Member, archive: Archive) -> Found:
        if member.kind != FILE:
            return Found(member, None, None)
        digest = hashlib.sha256()
        staged: Optional[str] = None
        if self._folder is None:
            for piece in archive.data():
                digest.update(piece)
        else:
            with self._folder.stage() as (staged, output):
                for piece in archive.data():
                    digest.update(piece)
                    write_all(output, piece)
                set_attributes(output, member.mode & 0o777, member.mtime_ns)
        return Found(member, None if archive.cut_off else digest.hexdigest(), staged)

    def _judge_all(self, found: List[Found], promised: Optional[Dict[bytes, str]], complete: bool) -> None:
        digests = {item.member.name: item.digest for item in found if item.member.kind == FILE}
        places: Dict[bytes, bytes] = {}
        for item in found:
            member = item.member
            damage: Optional[str] = None
            if member.kind == HARD_LINK and member.link not in digests:
                self._report.damage(f"{show(member.name)} is a hard link to {show(member.link)}, which is not here")
                continue
            if member.kind in (FILE, HARD_LINK):
                digest = item.digest if member.kind == FILE else digests[member.link]
                damage = judge(digest, (promised or {}).get(member.name))
            if damage is None:
                self.good += 1
            elif complete and promised is not None and member.name not in promised:
                self._report.note(f"{show(member.name)} is void: it changed while it was archived")
            else:
                self._report.damage(f"{show(member.name)} {damage}")
            if self._folder is not None:
                self._folder.place(item, damage is not None, places)


def judge(digest: Optional[str], promised: Optional[str]) -> Optional[str]:
    """What is wrong with a file, in words; None when nothing is."""
    if digest is None:
        return "is cut off"
    if promised is None:
        return "cannot be checked: no MANIFEST names it"
    if digest != promised:
        return f"is not what was written: its SHA-256 was {promised} and is {digest}"
    return None


# -- giving the files back


class Folder:
    """The folder that files are extracted into. Everything in it is reached from an open descriptor, folder by folder,
    and no symbolic link is followed on the way: so nothing is ever written outside.
    """

    def __init__(self, path: str, report: Report) -> None:
        os.makedirs(path, exist_ok=True)
        self._report = report
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._staging_path = tempfile.mkdtemp(prefix=".rescue-", dir=path)
        self._staging = os.open(self._staging_path, os.O_RDONLY | os.O_DIRECTORY)
        self._staged = 0
        self._closed_folders: Dict[bytes, int] = {}

    def close(self) -> None:
        """Leave nothing but what was extracted. Folders that nobody may write in become so only now."""
        for name in sorted(self._closed_folders, key=lambda name: -name.count(b"/")):
            try:
                with self._open(name.split(b"/"), make=False) as folder:
                    os.fchmod(folder, self._closed_folders[name])
            except OSError:
                pass  # something else has the name by now
        shutil.rmtree(self._staging_path, ignore_errors=True)
        os.close(self._staging)
        os.close(self._folder)

    @contextmanager
    def stage(self) -> Generator[Tuple[str, int], None, None]:
        """A new file to write into, under a name that `place` takes it from."""
        self._staged += 1
        name = str(self._staged)
        output = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._staging)
        try:
            yield name, output
        finally:
            os.close(output)

    def place(self, found: Found, damaged: bool, places: Dict[bytes, bytes]) -> None:
        """Give a member its name. What cannot have it is reported, and kept as damaged if it is a file.

        `places` is told where each file went, for the hard links to it that follow.
        """
        name = found.member.name.rstrip(b"/") if found.member.kind == FOLDER else found.member.name
        if not is_safe(name):
            self._report.damage(f"{show(name)} is left out: such a name could lead out of the folder")
            return
        for as_damaged in (False, True)[damaged:]:
            try:
                places[found.member.name] = self._place(found, name, as_damaged, places)
                return
            except (OSError, OverflowError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._report.damage(f"{show(name)} cannot be written: {error}")
            if found.member.kind != FILE:
                return

    def _place(self, found: Found, name: bytes, damaged: bool, places: Dict[bytes, bytes]) -> bytes:
        member = found.member
        if member.kind == FOLDER:
            with self._open(name.split(b"/"), make=True) as folder:
                set_attributes(folder, member.mode & 0o3777 | 0o700, member.mtime_ns)
            if member.mode & 0o700 != 0o700:
                self._closed_folders[name] = member.mode & 0o3777
            else:
                self._closed_folders.pop(name, None)
            return name
        parents, _, base = name.rpartition(b"/")
        with self._open(parents.split(b"/"), make=True) as folder, same_time(folder):
            base = free_name(folder, base) if damaged else base
            place = parents + b"/" + base if parents else base
            if member.kind == HARD_LINK and places.get(member.link) != place:
                if member.link not in places:
                    raise OSError(errno.ENOENT, "the file that it is a hard link to could not be written")
                other_parents, _, other = places[member.link].rpartition(b"/")
                with self._open(other_parents.split(b"/"), make=False) as other_folder:
                    make_way(folder, base)
                    link_or_copy(other_folder, other, folder, base)
            elif member.kind == SYMBOLIC_LINK:
                make_way(folder, base)
                os.symlink(member.link, base, dir_fd=folder)
                os.utime(base, ns=(member.mtime_ns, member.mtime_ns), dir_fd=folder, follow_symlinks=False)
            elif found.staged is not None:
                make_way(folder, base)
                os.rename(found.staged, base, src_dir_fd=self._staging, dst_dir_fd=folder)
        return place

    @contextmanager
    def _open(self, parts: List[bytes], make: bool) -> Generator[int, None, None]:
        """The open folder that `parts` lead to, no link being followed; with `make`, what is missing is made."""
        folder = os.dup(self._folder)
        try:
            for part in parts:
                if part:
                    inner = open_folder(folder, part, make)
                    os.close(folder)
                    folder = inner
            yield folder
        finally:
            os.close(folder)


def is_safe(name: bytes) -> bool:
    """Whether the name leads to somewhere inside the folder."""
    return not any(part in (b"", b".", b"..") for part in name.split(b"/")) and b"\0" not in name


def open_folder(parent: int, name: bytes, make: bool) -> int:
    """Open a folder; with `make`, make it if it is not there, in place of what else has its name."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if not make or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise
        closed = error.errno == errno.EACCES and stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode)
    if closed:
        os.chmod(name, 0o700, dir_fd=parent)  # closed by an earlier run
    else:
        with same_time(parent):
            make_way(parent, name)
            os.mkdir(name, dir_fd=parent)
    return os.open(name, flags, dir_fd=parent)


@contextmanager
def same_time(folder: int) -> Generator[None, None, None]:
    """The folder's time stays as it was, whatever is done in it here."""
    before = os.fstat(folder)
    yield
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def make_way(folder: int, name: bytes) -> None:
    """Remove what has this name, from before or from an earlier tape file; a folder only if it is empty."""
    try:
        if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def free_name(folder: int, base: bytes) -> bytes:
    """`<base>.damaged`, or `<base>.damaged.2` and so on where that is taken."""
    if len(base) > 240:
        base = base[:200] + b"~" + hashlib.sha256(base).hexdigest()[:16].encode("ascii")
    name, number = base + b".damaged", 1
    while True:
        try:
            os.lstat(name, dir_fd=folder)
        except FileNotFoundError:
            return name
        number += 1
        name = base + b".damaged." + str(number).encode("ascii")


def link_or_copy(source_folder: int, source: bytes, folder: int, name: bytes) -> None:
    """A hard link, or a copy where the disk knows no hard links."""
    try:
        os.link(source, name, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source_folder), "rb") as reading:
            output = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            with open(output, "wb") as writing:
                shutil.copyfileobj(reading, writing)
                writing.flush()
                found = os.fstat(reading.fileno())
                set_attributes(output, found.st_mode & 0o777, found.st_mtime_ns)


def set_attributes(descriptor: int, mode: int, mtime_ns: int) -> None:
    """Mode and time, as far as the disk takes them: no file is given up for that."""
    try:
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    except (OSError, OverflowError):
        pass


def write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]


# -- the door


def show(name: bytes) -> str:
    """A name for people: what is not UTF-8, or not printable, with backslashes, so that no terminal obeys it."""
    decoded = name.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in decoded)


def say(line: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def show_time(mtime_ns: int) -> str:
    seconds, fraction = divmod(mtime_ns, 10**9)
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}"
    except (OSError, OverflowError, ValueError):
        return f"{seconds}.{fraction:09d}"


def show_member(member: Member) -> str:
    name = show(member.name)
    if member.kind == SYMBOLIC_LINK:
        name += " -> " + show(member.link)
    elif member.kind == HARD_LINK:
        name += " link to " + show(member.link)
    return f"{member.size:15d}  {show_time(member.mtime_ns)}  {name}"


def open_tape(path: str) -> "Union[PlainFiles, TapeDrive]":
    if stat.S_ISCHR(os.stat(path).st_mode):
        return TapeDrive(path)
    return PlainFiles(path)


def list_tape(tape: "Union[PlainFiles, TapeDrive]", report: Report) -> None:
    for number, stream in tape.streams(report.damage):
        report.tape_file(number)
        archive = Archive(stream, report.damage)
        headline = False
        for member in archive.members():
            if not headline:
                say(f"tape file {number}: {archive.what}")
                headline = True
            say(show_member(member))


def check_tape(
    tape: "Union[PlainFiles, TapeDrive]", report: Report, folder: Optional[Folder], patterns: List[bytes]
) -> None:
    for number, stream in tape.streams(report.damage):
        report.tape_file(number)
        before = report.damages
        archive = Archive(stream, report.damage)
        checker = Checker(report, folder, patterns)
        checker.check(archive)
        if report.damages == before:
            say(f"good     tape file {number}: {checker.good} members ({archive.what})")


def run(command: str, path: str, words: List[str], report: Report) -> None:
    tape = open_tape(path)
    if command == "list":
        list_tape(tape, report)
    elif command == "verify":
        check_tape(tape, report, None, [])
    else:
        folder = Folder(words[0], report)
        try:
            check_tape(tape, report, folder, [os.fsencode(word) for word in words[1:]])
        finally:
            folder.close()
    say("all good" if report.damages == 0 else f"{report.damages} damages, each told above")


def main(words: List[str]) -> int:
    """Do what the words of the command line say; returns the exit code."""
    command = words[0] if words else ""
    enough = {"list": 2, "verify": 2, "extract": 3}.get(command)
    if enough is None or len(words) < enough or (len(words) > 2 and command != "extract"):
        sys.stderr.write((__doc__ or "") + "\n")
        return 2
    report = Report()
    try:
        run(command, words[1], words[2:], report)
    except BrokenPipeError:  # whoever was reading has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (OSError, CannotGoOn) as error:
        sys.stderr.write(f"cannot go on: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if report.damages == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
