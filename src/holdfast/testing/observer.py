"""From system calls to events: which calls change watched files, and what they did.

Each call the filter stops at has a reader here. At the call's entry the reader says whether the call touches anything
watched and keeps what is known only then (did the file exist? how large was it?); at the exit, with the result known,
it gives the events. A call that would change a watched file in a way that cannot be recorded raises
`UntraceableCall`: nothing is missed in silence.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.testing import procfs
from holdfast.testing.calls import (
    BARRIERS,
    CALL_NUMBERS,
    O_TMPFILE_BIT,
    PROT_WRITE,
    READING_CALLS,
    REFUSED_CALLS,
    RULES,
)
from holdfast.testing.errors import UntraceableCall
from holdfast.testing.events import (
    Create,
    Event,
    Link,
    MakeFolder,
    RemoveFolder,
    Rename,
    Said,
    Symlink,
    Sync,
    SyncAll,
    Truncate,
    Unlink,
    Write,
)
from holdfast.testing.linux import Call, Rule
from holdfast.testing.procfs import AT_FDCWD, signed32, signed64
from holdfast.testing.roots import Identity, Roots, identity

O_DSYNC_BIT = 0o10000
AT_REMOVEDIR = 0x200
RENAME_NOREPLACE = 1
RWF_DSYNC, RWF_SYNC, RWF_APPEND = 0x2, 0x4, 0x10
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, FALLOC_UNSHARE = 0x1, 0x2, 0x10, 0x40

Finish: TypeAlias = Callable[[int], Sequence[Event]]


@dataclass(frozen=True, slots=True)
class Effect:
    """A call that touches something watched, between its entry and its exit.

    `paths` are what it touches ("" for standard output), `asked_bytes` how much it wants to write, `makes_name`
    whether it wants a new directory entry. `finish` takes the result of a call that succeeded and gives the events.
    """

    name: str
    paths: tuple[str, ...]
    finish: Finish
    asked_bytes: int = 0
    makes_name: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A watched file (or standard output: `file_id` None) behind a descriptor."""

    tid: int
    descriptor: int
    file_id: int | None
    path: str
    size_bytes: int
    position_bytes: int
    flags: int

    def place(self) -> str:
        """Where the tracer can open it."""
        return procfs.descriptor_place(self.tid, self.descriptor)


Reader: TypeAlias = Callable[["Observer", str, Call], Effect | None]

READERS: dict[str, Reader] = {}
"""Who reads which call; filled by the methods below."""


def _reads(*names: str) -> Callable[[Reader], Reader]:
    """Make the method the reader of these calls."""

    def register(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(names, reader))
        return reader

    return register


class Observer:
    """Reads the calls of one run. `events` is what was seen so far."""

    def __init__(self, roots: Roots, ids: Mapping[Identity, int], extra_calls: frozenset[str] = frozenset()) -> None:
        self.events: list[Event] = []
        self._roots = roots
        self._ids = dict(ids)
        self._next_id = max(self._ids.values(), default=0) + 1
        self._extra_calls = extra_calls
        self._readers = {CALL_NUMBERS[name]: (name, reader) for name, reader in READERS.items()}
        self._stdout: Identity | None = None
        self._shares_maps = False  # a watched file is mapped, shared, and could be made writable

    def attach(self, stdout_descriptor: int) -> None:
        """Say which file is the command's standard output."""
        self._stdout = identity(os.fstat(stdout_descriptor))

    def rules(self) -> list[Rule]:
        """At which calls to stop."""
        refused = [Rule(number, errno_number=errno.ENOSYS) for number in REFUSED_CALLS.values()]
        names = [*READERS, *BARRIERS]
        stops = [RULES.get(name) or Rule(CALL_NUMBERS[name]) for name in names if name not in READING_CALLS]
        return refused + stops + [Rule(CALL_NUMBERS[name]) for name in READING_CALLS & self._extra_calls]

    def begin(self, call: Call) -> Effect | None:
        """The call at its entry; None if it touches nothing watched."""
        name, reader = self._readers.get(call.number, ("", None))
        if reader is None:
            return None
        try:
            return reader(self, name, call)
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
            # No such descriptor or folder: the call will fail by itself. Or the thread was killed at its entry.
            return None

    def finish(self, effect: Effect, result: int) -> None:
        """The call came back with `result`; what it did is added to `events`."""
        if result >= 0:
            self.events.extend(effect.finish(result))

    # ---- writing --------------------------------------------------------------------------------------------------

    @_reads("write")
    def _write(self, name: str, call: Call) -> Effect | None:
        target = self._target(call.tid, call.args[0])
        if target is None:
            return None

        def finish(count: int) -> Sequence[Event]:
            return self._written(target, None, procfs.read_memory(call.tid, call.args[1], count))

        return Effect(name, (target.path,), finish, call.args[2])

    @_reads("pwrite64")
    def _pwrite(self, name: str, call: Call) -> Effect | None:
        target = self._target(call.tid, call.args[0])
        if target is None:
            return None

        def finish(count: int) -> Sequence[Event]:
            data = procfs.read_memory(call.tid, call.args[1], count)
            return self._written(target, signed64(call.args[3]), data)

        return Effect(name, (target.path,), finish, call.args[2])

    @_reads("writev", "pwritev", "pwritev2")
    def _writev(self, name: str, call: Call) -> Effect | None:
        target = self._target(call.tid, call.args[0])
        if target is None:
            return None
        vector, count = call.args[1], signed32(call.args[2])
        offset_bytes = None if name == "writev" else signed64(call.args[3])
        flags = call.args[5] if name == "pwritev2" else 0

        def finish(result: int) -> Sequence[Event]:
            data = procfs.read_vector(call.tid, vector, count, result)
            return self._written(target, offset_bytes, data, flags)

        return Effect(name, (target.path,), finish, procfs.vector_bytes(call.tid, vector, count))

    @_reads("sendfile")
    def _sendfile(self, name: str, call: Call) -> Effect | None:
        target = self._target(call.tid, call.args[0])
        return None if target is None else self._copied(name, target, None, call.args[3])

    @_reads("copy_file_range", "splice")
    def _copy_range(self, name: str, call: Call) -> Effect | None:
        """copy_file_range and splice: (from, its offset, to, its offset, count, flags)."""
        target = self._target(call.tid, call.args[2])
        if target is None:
            return None
        offset_bytes: int | None = None
        if call.args[3]:
            offset_bytes = int(struct.unpack("<q", procfs.read_memory(call.tid, call.args[3], 8))[0])
        return self._copied(name, target, offset_bytes, call.args[4])

    def _copied(self, name: str, target: Target, offset_bytes: int | None, asked_bytes: int) -> Effect:
        """The kernel moves the bytes itself: they are read from the file they arrived in."""

        def finish(count: int) -> Sequence[Event]:
            start = self._offset(target, offset_bytes, count)
            return self._written(target, start, _read_range(target.place(), start, count), fixed=True)

        return Effect(name, (target.path,), finish, asked_bytes)

    @_reads("ioctl")
    def _clone(self, name: str, call: Call) -> Effect | None:
        target = self._target(call.tid, call.args[0])
        if target is None:
            return None

        def finish(_result: int) -> Sequence[Event]:
            # Which range was cloned does not matter: what the whole file holds now says it all.
            whole = _read_range(target.place(), 0, os.stat(target.place()).st_size)
            return self._written(target, 0, whole, fixed=True)

        return Effect(name, (target.path,), finish)

    def _offset(self, target: Target, offset_bytes: int | None, count: int, flags: int = 0) -> int:
        """Where `count` bytes went. Followed calls come one by one, so the state after this one still shows it."""
        if (target.flags | (os.O_APPEND if flags & RWF_APPEND else 0)) & os.O_APPEND:
            return os.stat(target.place()).st_size - count
        if offset_bytes is None or offset_bytes == -1:
            return procfs.descriptor_state(target.tid, target.descriptor).position_bytes - count
        return offset_bytes

    def _written(
        self, target: Target, offset_bytes: int | None, data: bytes, flags: int = 0, *, fixed: bool = False
    ) -> list[Event]:
        if not data:
            return []
        if target.file_id is None:
            return [Said(data)]
        start = (
            self._offset(target, offset_bytes, len(data), flags) if not fixed or offset_bytes is None else offset_bytes
        )
        events: list[Event] = [Write(target.file_id, target.path, start, data)]
        if target.flags & O_DSYNC_BIT or flags & (RWF_DSYNC | RWF_SYNC):
            # Opened for synchronous writing: the write came back, so it is durable.
            events.append(Sync(target.path, target.file_id, is_folder=False, begin_seq=len(self.events) + 1))
        return events

    # ---- size -----------------------------------------------------------------------------------------------------

    @_reads("ftruncate")
    def _ftruncate(self, name: str, call: Call) -> Effect | None:
        target = self._target(call.tid, call.args[0])
        return None if target is None else self._resized(name, target, signed64(call.args[1]))

    def _resized(self, name: str, target: Target, size_bytes: int) -> Effect:
        def finish(_result: int) -> Sequence[Event]:
            if target.file_id is None or size_bytes == target.size_bytes:
                return []
            return [Truncate(target.file_id, target.path, size_bytes)]

        return Effect(name, (target.path,), finish, max(0, size_bytes - target.size_bytes))

    @_reads("truncate")
    def _truncate(self, name: str, call: Call) -> Effect | None:
        path = os.path.realpath(procfs.named_path(call.tid, AT_FDCWD, call.args[0]))
        called = self._roots.relative(path)
        if called is None:
            return None
        status = os.stat(path)
        target = Target(call.tid, -1, self._known(status, called), called, status.st_size, 0, 0)
        return self._resized(name, target, signed64(call.args[1]))

    @_reads("fallocate")
    def _fallocate(self, name: str, call: Call) -> Effect | None:
        target = self._target(call.tid, call.args[0])
        if target is None:
            return None
        mode, start, length = signed32(call.args[1]), signed64(call.args[2]), signed64(call.args[3])
        if mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE | FALLOC_UNSHARE):
            raise UntraceableCall(f"fallocate with mode {mode:#x} on {target.path}")
        end = start + length
        grown = target.size_bytes if mode & FALLOC_KEEP_SIZE else max(target.size_bytes, end)

        def finish(_result: int) -> Sequence[Event]:
            events: list[Event] = list(self._resized(name, target, grown).finish(0))
            zeros = min(end, grown) - start
            if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE) and zeros > 0 and target.file_id is not None:
                events.append(Write(target.file_id, target.path, start, bytes(zeros)))
            return events

        return Effect(name, (target.path,), finish, grown - target.size_bytes)

    # ---- durability -----------------------------------------------------------------------------------------------

    @_reads("fsync", "fdatasync")
    def _fsync(self, name: str, call: Call) -> Effect | None:
        tid, descriptor = call.tid, signed32(call.args[0])
        status = os.stat(procfs.descriptor_place(tid, descriptor))
        if not stat.S_ISDIR(status.st_mode):
            target = self._target(tid, descriptor)
            if target is None or target.file_id is None:
                return None
            return self._synced(name, [(target.path, target.file_id)])
        folder = procfs.descriptor_path(tid, descriptor)
        called = self._roots.relative(folder)
        if called is not None:
            gone = not os.path.isdir(folder)
            return None if gone else self._synced(name, [(called, None)])
        held = [(f"{label}/..", None) for label in self._roots.held_by(folder)]
        return self._synced(name, held) if held else None

    def _synced(self, name: str, files: Sequence[tuple[str, int | None]]) -> Effect:
        begin_seq = len(self.events)

        def finish(_result: int) -> Sequence[Event]:
            return [Sync(path, file_id, file_id is None, begin_seq) for path, file_id in files]

        return Effect(name, tuple(path for path, _ in files), finish)

    @_reads("sync", "syncfs")
    def _sync_all(self, name: str, call: Call) -> Effect | None:
        if name == "syncfs":
            status = os.stat(procfs.descriptor_place(call.tid, signed32(call.args[0])))
            if status.st_dev not in self._roots.devices():
                return None
        begin_seq = len(self.events)
        return Effect(name, self._roots.labels, lambda _result: [SyncAll(begin_seq)])

    # ---- opening --------------------------------------------------------------------------------------------------

    @_reads("open")
    def _open(self, name: str, call: Call) -> Effect | None:
        return self._opened(name, call.tid, procfs.named_path(call.tid, AT_FDCWD, call.args[0]), call.args[1])

    @_reads("creat")
    def _creat(self, name: str, call: Call) -> Effect | None:
        path = procfs.named_path(call.tid, AT_FDCWD, call.args[0])
        return self._opened(name, call.tid, path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)

    @_reads("openat", "openat2")
    def _openat(self, name: str, call: Call) -> Effect | None:
        path = procfs.named_path(call.tid, signed32(call.args[0]), call.args[1])
        flags = call.args[2]
        if name == "openat2":
            flags = int(struct.unpack("<Q", procfs.read_memory(call.tid, call.args[2], 8))[0])
        return self._opened(name, call.tid, path, flags)

    def _opened(self, name: str, tid: int, path: str, flags: int) -> Effect | None:
        if not flags & (os.O_CREAT | os.O_TRUNC | O_TMPFILE_BIT):
            return None
        resolved = os.path.realpath(path)
        called = self._roots.relative(resolved)
        if called is None:
            return None
        if flags & O_TMPFILE_BIT:
            return Effect(name, (called,), lambda descriptor: self._created(tid, descriptor, ""), makes_name=True)
        before = _lstat(resolved)

        def finish(descriptor: int) -> Sequence[Event]:
            if before is None:
                return self._created(tid, descriptor, called)
            if flags & os.O_TRUNC and stat.S_ISREG(before.st_mode) and before.st_size:
                return [Truncate(self._known(before, called), called, 0)]
            return []

        return Effect(name, (called,), finish, makes_name=before is None)

    def _created(self, tid: int, descriptor: int, called: str) -> list[Event]:
        status = os.stat(procfs.descriptor_place(tid, descriptor))
        kind = "file" if called else "unnamed"
        return [Create(called, self._new_id(status), kind, stat.S_IMODE(status.st_mode))]

    # ---- names ----------------------------------------------------------------------------------------------------

    @_reads("rename", "renameat", "renameat2")
    def _rename(self, name: str, call: Call) -> Effect | None:
        tid, args = call.tid, call.args
        if name == "rename":
            old, new = procfs.named_path(tid, AT_FDCWD, args[0]), procfs.named_path(tid, AT_FDCWD, args[1])
        else:
            old = procfs.named_path(tid, signed32(args[0]), args[1])
            new = procfs.named_path(tid, signed32(args[2]), args[3])
        old, new = procfs.entry_path(old), procfs.entry_path(new)
        old_called, new_called = self._roots.relative(old), self._roots.relative(new)
        if old_called is None and new_called is None:
            return None
        if name == "renameat2" and args[4] & ~RENAME_NOREPLACE:
            raise UntraceableCall(f"renameat2 with flags {args[4]:#x} of {old} to {new}")
        status, replaced = os.lstat(old), _lstat(new)
        paths = tuple(path for path in (old_called, new_called) if path is not None)

        def finish(_result: int) -> Sequence[Event]:
            if replaced is not None and identity(replaced) == identity(status):
                return []  # two names of one file: POSIX leaves both
            return self._renamed(status, new, old_called, new_called)

        return Effect(name, paths, finish)

    def _renamed(
        self, status: os.stat_result, new: str, old_called: str | None, new_called: str | None
    ) -> Sequence[Event]:
        if old_called is not None and new_called is not None:
            return [Rename(old_called, new_called)]
        if stat.S_ISDIR(status.st_mode):
            raise UntraceableCall(f"a folder moved in or out of the watched roots: {old_called or new_called}")
        if new_called is not None:
            return self._arrived(status, new, new_called)
        if status.st_nlink > 1:
            raise UntraceableCall(f"a file with several names moved out of the watched roots: {old_called}")
        return [Unlink(old_called or "")]

    def _arrived(self, status: os.stat_result, path: str, called: str) -> list[Event]:
        """A file came from outside: to the recording it is new, and nothing of it is known to be durable."""
        file_id = self._new_id(status)
        if stat.S_ISLNK(status.st_mode):
            return [Symlink(called, file_id, os.readlink(path))]
        events: list[Event] = [Create(called, file_id, "file", stat.S_IMODE(status.st_mode))]
        if status.st_size:
            events.append(Write(file_id, called, 0, _read_range(path, 0, status.st_size)))
        return events

    @_reads("link", "linkat")
    def _link(self, name: str, call: Call) -> Effect | None:
        tid, args = call.tid, call.args
        if name == "link":
            old, new = procfs.named_path(tid, AT_FDCWD, args[0]), procfs.named_path(tid, AT_FDCWD, args[1])
        else:
            old = procfs.named_path(tid, signed32(args[0]), args[1])
            new = procfs.named_path(tid, signed32(args[2]), args[3])
        new = procfs.entry_path(new)
        called = self._roots.relative(new)
        if called is None:
            return self._link_out(name, procfs.entry_path(old))

        def finish(_result: int) -> Sequence[Event]:
            status = os.lstat(new)
            file_id = self._ids.get(identity(status))
            return self._arrived(status, new, called) if file_id is None else [Link(file_id, called)]

        return Effect(name, (called,), finish, makes_name=True)

    def _link_out(self, name: str, old: str) -> Effect | None:
        called = self._roots.relative(old)
        if called is None:
            return None

        def finish(_result: int) -> Sequence[Event]:
            raise UntraceableCall(f"a watched file got a name outside the watched roots: {called}")

        return Effect(name, (called,), finish)

    @_reads("symlink", "symlinkat")
    def _symlink(self, name: str, call: Call) -> Effect | None:
        tid, args = call.tid, call.args
        folder, address = (AT_FDCWD, args[1]) if name == "symlink" else (signed32(args[1]), args[2])
        path = procfs.entry_path(procfs.named_path(tid, folder, address))
        called = self._roots.relative(path)
        if called is None:
            return None

        def finish(_result: int) -> Sequence[Event]:
            return [Symlink(called, self._new_id(os.lstat(path)), os.readlink(path))]

        return Effect(name, (called,), finish, makes_name=True)

    @_reads("unlink", "unlinkat", "rmdir")
    def _unlink(self, name: str, call: Call) -> Effect | None:
        if name == "unlinkat":
            path = procfs.named_path(call.tid, signed32(call.args[0]), call.args[1])
            is_folder = bool(call.args[2] & AT_REMOVEDIR)
        else:
            path = procfs.named_path(call.tid, AT_FDCWD, call.args[0])
            is_folder = name == "rmdir"
        called = self._roots.relative(procfs.entry_path(path))
        if called is None:
            return None
        event = RemoveFolder(called) if is_folder else Unlink(called)
        return Effect(name, (called,), lambda _result: [event])

    @_reads("mkdir", "mkdirat")
    def _mkdir(self, name: str, call: Call) -> Effect | None:
        folder, address = (AT_FDCWD, call.args[0]) if name == "mkdir" else (signed32(call.args[0]), call.args[1])
        path = procfs.entry_path(procfs.named_path(call.tid, folder, address))
        called = self._roots.relative(path)
        if called is None:
            return None

        def finish(_result: int) -> Sequence[Event]:
            return [MakeFolder(called, stat.S_IMODE(os.lstat(path).st_mode))]

        return Effect(name, (called,), finish, makes_name=True)

    @_reads("mknod", "mknodat")
    def _mknod(self, name: str, call: Call) -> Effect | None:
        """Special files (pipes, devices) cannot be recorded; regular ones can be made this way too."""
        at = 0 if name == "mknod" else 1
        folder = AT_FDCWD if name == "mknod" else signed32(call.args[0])
        path = procfs.entry_path(procfs.named_path(call.tid, folder, call.args[at]))
        called = self._roots.relative(path)
        if called is None:
            return None

        def finish(_result: int) -> Sequence[Event]:
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                raise UntraceableCall(f"a pipe, socket or device was made: {called}")
            return [Create(called, self._new_id(status), "file", stat.S_IMODE(status.st_mode))]

        return Effect(name, (called,), finish, makes_name=True)

    # ---- memory ---------------------------------------------------------------------------------------------------

    @_reads("mmap")
    def _mmap(self, _name: str, call: Call) -> Effect | None:
        descriptor = signed32(call.args[4])
        target = self._target(call.tid, descriptor) if descriptor >= 0 else None
        if target is None or target.file_id is None or target.flags & os.O_ACCMODE != os.O_RDWR:
            return None
        if call.args[2] & PROT_WRITE:
            raise UntraceableCall(f"a watched file was mapped for shared writing: {target.path}")
        self._shares_maps = True
        return None

    @_reads("mprotect")
    def _mprotect(self, _name: str, call: Call) -> Effect | None:
        if self._shares_maps:
            for path in procfs.shared_mappings(call.tid, call.args[0], call.args[1]):
                called = self._roots.relative(path.removesuffix(procfs.DELETED))
                if called is not None:
                    raise UntraceableCall(f"the shared mapping of a watched file was made writable: {called}")
        return None

    # ---- reading (stopped at only for faults) ---------------------------------------------------------------------

    @_reads("read", "pread64", "readv", "preadv", "preadv2")
    def _read(self, name: str, call: Call) -> Effect | None:
        target = self._target(call.tid, call.args[0])
        return None if target is None else Effect(name, (target.path,), lambda _result: [])

    # ---- which file -----------------------------------------------------------------------------------------------

    def _target(self, tid: int, register: int) -> Target | None:
        """The watched file or standard output behind a descriptor; None for anything else."""
        descriptor = signed32(register)
        status = os.stat(procfs.descriptor_place(tid, descriptor))
        if identity(status) == self._stdout:
            return Target(tid, descriptor, None, "", status.st_size, 0, os.O_APPEND)
        if not stat.S_ISREG(status.st_mode):
            return None
        called = self._roots.relative(procfs.descriptor_path(tid, descriptor))
        if called is None:
            return None
        state = procfs.descriptor_state(tid, descriptor)
        return Target(
            tid, descriptor, self._known(status, called), called, status.st_size, state.position_bytes, state.flags
        )

    def _known(self, status: os.stat_result, called: str) -> int:
        file_id = self._ids.get(identity(status))
        if file_id is None:
            raise UntraceableCall(f"{called} came from elsewhere: something else changes the watched folders")
        return file_id

    def _new_id(self, status: os.stat_result) -> int:
        """An id for a file that has just come to be; its inode may have been another file's before."""
        file_id = self._next_id
        self._next_id += 1
        self._ids[identity(status)] = file_id
        return file_id


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read_range(place: str, start: int, count: int) -> bytes:
    with open(place, "rb") as file:
        file.seek(start)
        data = file.read(count)
    if len(data) != count:
        raise UntraceableCall(f"only {len(data)} of {count} bytes could be read back from {place}")
    return data
