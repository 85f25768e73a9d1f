"""Looking into a stopped thread through /proc: its memory, its descriptors, the paths it means."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from holdfast.testing.errors import UntraceableCall

AT_FDCWD = -100
PATH_LIMIT_BYTES = 4096
DELETED = " (deleted)"


def signed32(register: int) -> int:
    """The C int in a register."""
    low = register & 0xFFFFFFFF
    return low - (1 << 32) if low & 0x80000000 else low


def signed64(register: int) -> int:
    """The C long in a register."""
    return register - (1 << 64) if register & (1 << 63) else register


def read_memory(tid: int, address: int, size_bytes: int) -> bytes:
    """Exactly `size_bytes` of a thread's memory. Raises `UntraceableCall` if they are not there."""
    data = _read_some(tid, address, size_bytes)
    if len(data) != size_bytes:
        raise UntraceableCall(f"only {len(data)} of {size_bytes} bytes of the command's memory could be read")
    return data


def read_text(tid: int, address: int) -> str:
    """The zero-ended string at `address`, decoded as file names are."""
    return os.fsdecode(_read_some(tid, address, PATH_LIMIT_BYTES).split(b"\0", 1)[0])


def read_vector(tid: int, address: int, count: int, size_bytes: int) -> bytes:
    """The first `size_bytes` of what an array of `count` (address, length) pairs gathers."""
    pairs = struct.iter_unpack("<QQ", read_memory(tid, address, 16 * count))
    parts: list[bytes] = []
    for start, length in pairs:
        part_bytes = min(length, size_bytes)
        parts.append(read_memory(tid, start, part_bytes))
        size_bytes -= part_bytes
    return b"".join(parts)


def vector_bytes(tid: int, address: int, count: int) -> int:
    """How many bytes such an array asks for."""
    return sum(length for _, length in struct.iter_unpack("<QQ", read_memory(tid, address, 16 * count)))


def _read_some(tid: int, address: int, size_bytes: int) -> bytes:
    descriptor = os.open(f"/proc/{tid}/mem", os.O_RDONLY)
    try:
        parts: list[bytes] = []
        while size_bytes > 0 and (part := _pread(descriptor, size_bytes, address)):
            parts.append(part)
            address += len(part)
            size_bytes -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, size_bytes: int, address: int) -> bytes:
    try:
        return os.pread(descriptor, size_bytes, address)
    except OSError:  # nothing is mapped there
        return b""


def descriptor_place(tid: int, descriptor: int) -> str:
    """Where a descriptor leads: a magic link that can be opened, read and looked at."""
    return f"/proc/{tid}/fd/{descriptor}"


def descriptor_path(tid: int, descriptor: int) -> str:
    """The present path of what a descriptor holds open; of a deleted file the last one."""
    return os.readlink(descriptor_place(tid, descriptor)).removesuffix(DELETED)


@dataclass(frozen=True, slots=True)
class DescriptorState:
    """Position in bytes, and the flags it was opened with."""

    position_bytes: int
    flags: int


def descriptor_state(tid: int, descriptor: int) -> DescriptorState:
    """Position and flags of an open descriptor."""
    with open(f"/proc/{tid}/fdinfo/{descriptor}", "rb", buffering=0) as file:
        lines = file.read(4096).split(b"\n")
    fields = dict(line.split(b":", 1) for line in lines if b":" in line)
    return DescriptorState(int(fields[b"pos"]), int(fields[b"flags"], 8))


def named_path(tid: int, folder_descriptor: int, address: int) -> str:
    """The absolute path a call names by (folder descriptor, string), links not yet followed."""
    text = read_text(tid, address)
    if text.startswith("/proc/self/"):
        return f"/proc/{tid}/" + text.removeprefix("/proc/self/")
    if os.path.isabs(text):
        return text
    start = f"/proc/{tid}/cwd" if folder_descriptor == AT_FDCWD else descriptor_place(tid, folder_descriptor)
    return os.path.join(os.readlink(start), text)


def entry_path(path: str) -> str:
    """The path of the directory entry itself: links are followed in the folders, not in the last part."""
    folder, name = os.path.split(path.rstrip("/") or "/")
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(folder), name)


def shared_mappings(tid: int, address: int, size_bytes: int) -> list[str]:
    """The files of shared mappings that overlap this range of a thread's memory."""
    found: list[str] = []
    with open(f"/proc/{tid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            parts = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(part, 16) for part in parts[0].split("-"))
            if parts[1].endswith("s") and len(parts) == 6 and start < address + size_bytes and address < end:
                found.append(parts[5])
    return found
