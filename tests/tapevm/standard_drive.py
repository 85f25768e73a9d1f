"""Tape drives that do what the standard says (SSC-3), for the guest: iSCSI targets with one drive each.

`tgt` lacks what matters most in real drives: it cannot locate or tell where the tape stands, does not know the end of
data, has no physical end, and nothing can fail. These do, and a test can ask them, with commands of their own, for a
blank cartridge, a power cut, or a record that cannot be read. No robot serves them: cartridges lie on a shelf, and a
test puts them in by their number, of the size that it wants. Records are in memory.

As little of iSCSI (RFC 7143) as QEMU's initiator needs: one connection, no digests, all data of a write with the
command (up to `LARGEST_BYTES`).
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

TARGET = "iqn.2000-01.invalid.holdfast:drive"
SERIALS = ("HFSSC00001", "HFSSC00002")
LARGEST_BYTES = 2 * 2**20
WARNING_BYTES, CAPACITY_BYTES = 24 * 2**20, 32 * 2**20

# Commands of our own, in the vendor's range (C0h and on): what a hand at the drive, or fate, does.
BLANK_CARTRIDGE, CUT_POWER, BREAK_BLOCK, PROTECT, PUT_IN = 0xC0, 0xC1, 0xC2, 0xC3, 0xC4
PUT_IN_UNIT_BYTES = 64 * 2**10
"""PUT_IN has the cartridge's number, and for one that nobody had before its capacity (2 bytes) and how much of that lies
behind the early warning (1 byte), in these units."""


NO_SENSE, NOT_READY, MEDIUM_ERROR, ILLEGAL, ATTENTION, PROTECTED, BLANK, OVERFLOW = 0, 2, 3, 5, 6, 7, 8, 13
FILE_MARK, END_OF_MEDIUM, WRONG_LENGTH = 0x80, 0x40, 0x20


class Check(Exception):
    """CHECK CONDITION: sense key, additional code, flags, information, and data that was transferred all the same."""

    def __init__(self, key: int, code: int = 0, flags: int = 0, left: int = 0, data: bytes = b"") -> None:
        super().__init__(key, code)
        self.data = data
        self.sense = bytes([0xF0, 0, key | flags]) + (left & 0xFFFFFFFF).to_bytes(4) + bytes([10, 0, 0, 0, 0])
        self.sense += code.to_bytes(2) + bytes(4)


@dataclass
class Cartridge:
    """Records and marks (None); `durable`: how many are on the medium."""

    items: list[bytes | None] = field(default_factory=list)
    durable: int = 0
    used_bytes: int = 0
    broken: set[int] = field(default_factory=set)
    is_protected: bool = False
    warning_bytes: int = WARNING_BYTES
    capacity_bytes: int = CAPACITY_BYTES


@dataclass
class Shelf:
    """Cartridges by their numbers, and the drives that they are put into. One thread at a time, with the lock."""

    cartridges: dict[int, Cartridge] = field(default_factory=dict)
    drives: list[Drive] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Drive:
    """The drive's commands. `at`: the block number."""

    def __init__(self, serial: str, shelf: Shelf) -> None:
        self.serial, self.shelf = serial, shelf
        shelf.drives.append(self)
        self.cartridge = Cartridge()
        self.is_loaded = True
        self.at = 0
        self.attention = 0x2900
        self.commands: dict[int, Callable[[bytes, bytes], bytes]] = {
            0x00: self._ready, 0x01: self._rewind, 0x05: self._limits, 0x08: self._read, 0x0A: self._write,
            0x10: self._marks, 0x11: self._space, 0x12: self._inquiry, 0x15: self._ignore, 0x1A: self._mode,
            0x19: self._erase, 0x1B: self._load, 0x1E: self._ignore, 0x2B: self._locate, 0x34: self._position, 0xA0: self._units,
            BLANK_CARTRIDGE: self._blank, CUT_POWER: self._cut, BREAK_BLOCK: self._break, PROTECT: self._protect,
            PUT_IN: self._put_in,
        }  # fmt: skip

    def run(self, command: bytes, data: bytes) -> bytes:
        """The data of the answer. Raises `Check`."""
        if self.attention and command[0] not in (0x03, 0x12, 0x1B, 0xA0) and command[0] < BLANK_CARTRIDGE:
            code, self.attention = self.attention, 0
            raise Check(ATTENTION, code)
        step = self.commands.get(command[0])
        if step is None:
            raise Check(ILLEGAL, 0x2000)
        return step(command, data)

    def _ignore(self, command: bytes, data: bytes) -> bytes:
        return b""

    def _ready(self, command: bytes, data: bytes) -> bytes:
        if not self.is_loaded:
            raise Check(NOT_READY, 0x3A00)
        return b""

    def _rewind(self, command: bytes, data: bytes) -> bytes:
        self._ready(command, data)
        self.cartridge.durable = len(self.cartridge.items)
        self.at = 0
        return b""

    def _limits(self, command: bytes, data: bytes) -> bytes:
        return b"\0" + (2**20).to_bytes(3) + (1).to_bytes(2)

    def _mode(self, command: bytes, data: bytes) -> bytes:
        self._ready(command, data)
        return bytes([11, 0, 0x10 | 0x80 * self.cartridge.is_protected, 8, 0x5A]) + bytes(7)

    def _inquiry(self, command: bytes, data: bytes) -> bytes:
        if command[1] & 1:
            pages = {0x00: b"\x00\x80\x83", 0x80: self.serial.encode(), 0x83: self._identifier()}
            if command[2] not in pages:
                raise Check(ILLEGAL, 0x2400)
            return bytes([1, command[2]]) + len(pages[command[2]]).to_bytes(2) + pages[command[2]]
        return bytes([1, 0x80, 5, 2, 31, 0, 0, 0]) + b"HOLDFASTSTANDARD DRIVE  0001"

    def _identifier(self) -> bytes:
        text = b"HOLDFASTSTANDARD DRIVE  " + self.serial.encode()
        return bytes([2, 1, 0, len(text)]) + text

    def _units(self, command: bytes, data: bytes) -> bytes:
        return (8).to_bytes(4) + bytes(12)

    def _load(self, command: bytes, data: bytes) -> bytes:
        self.cartridge.durable = len(self.cartridge.items)
        if command[4] & 1 and not self.is_loaded:
            self.attention = 0x2800
        self.is_loaded = bool(command[4] & 1)
        self.at = 0
        return b""

    # -- records

    def _read(self, command: bytes, data: bytes) -> bytes:
        self._ready(command, data)
        wanted = int.from_bytes(command[2:5])
        if self.at >= len(self.cartridge.items):
            raise Check(BLANK, 0x0005, 0, wanted)
        if self.at in self.cartridge.broken:
            raise Check(MEDIUM_ERROR, 0x1100, 0, wanted)
        item = self.cartridge.items[self.at]
        self.at += 1
        if item is None:
            raise Check(NO_SENSE, 0x0001, FILE_MARK, wanted)
        if len(item) != wanted:
            raise Check(NO_SENSE, 0, WRONG_LENGTH, wanted - len(item), item[:wanted])
        return item

    def _cut_off(self) -> None:
        """Whatever lay behind this point is gone."""
        medium = self.cartridge
        if medium.is_protected:
            raise Check(PROTECTED, 0x2700)
        medium.used_bytes -= sum(len(item or b"") for item in medium.items[self.at :])
        del medium.items[self.at :]
        medium.durable = min(medium.durable, self.at)
        medium.broken = {block for block in medium.broken if block < self.at}

    def _put(self, item: bytes | None) -> None:
        self.cartridge.items.append(item)
        self.cartridge.used_bytes += len(item or b"")
        self.at += 1

    def _warn(self) -> None:
        if self.cartridge.used_bytes > self.cartridge.warning_bytes:
            raise Check(NO_SENSE, 0x0002, END_OF_MEDIUM)

    def _write(self, command: bytes, data: bytes) -> bytes:
        self._ready(command, data)
        self._cut_off()
        if self.cartridge.used_bytes + len(data) > self.cartridge.capacity_bytes:
            raise Check(OVERFLOW, 0x0002, END_OF_MEDIUM, len(data))
        self._put(data)
        self._warn()
        return b""

    def _marks(self, command: bytes, data: bytes) -> bytes:
        self._ready(command, data)
        count = int.from_bytes(command[2:5])
        if count:
            self._cut_off()
        for _ in range(count):
            self._put(None)
        if not command[1] & 1:
            self.cartridge.durable = len(self.cartridge.items)
        self._warn()
        return b""

    def _erase(self, command: bytes, data: bytes) -> bytes:
        """The short way: an end of data here, on the medium when it is told."""
        self._ready(command, data)
        if command[1] & 1:
            raise Check(ILLEGAL, 0x2400)
        self._cut_off()
        self.cartridge.durable = len(self.cartridge.items)
        return b""

    # -- moving

    def _space(self, command: bytes, data: bytes) -> bytes:
        self._ready(command, data)
        count = int.from_bytes(command[2:5])
        if count & 0x800000 or command[1] & 7 > 1:
            raise Check(ILLEGAL, 0x2400)
        over_marks = bool(command[1] & 1)
        while count:
            if self.at >= len(self.cartridge.items):
                raise Check(BLANK, 0x0005, 0, count)
            is_mark = self.cartridge.items[self.at] is None
            self.at += 1
            if is_mark and not over_marks:
                raise Check(NO_SENSE, 0x0001, FILE_MARK, count)
            count -= is_mark == over_marks
        return b""

    def _locate(self, command: bytes, data: bytes) -> bytes:
        self._ready(command, data)
        block = self._logical(command, int.from_bytes(command[3:7]))
        self.at = min(block, len(self.cartridge.items))
        if self.at < block:
            raise Check(BLANK, 0x0005)
        return b""

    def _logical(self, command: bytes, number: int) -> int:
        """With the bit BT the number is the drive's own: every third, here."""
        return number // 3 if command[1] & 4 else number

    def _position(self, command: bytes, data: bytes) -> bytes:
        self._ready(command, data)
        number = self.at * 3 if command[1] & 1 else self.at
        return bytes([0x80 * (self.at == 0), 0, 0, 0]) + number.to_bytes(4) * 2 + bytes(8)

    # -- what a test asks for

    def _blank(self, command: bytes, data: bytes) -> bytes:
        self.cartridge, self.is_loaded, self.at, self.attention = Cartridge(), True, 0, 0x2800
        return b""

    def _put_in(self, command: bytes, data: bytes) -> bytes:
        """A hand puts a cartridge of the shelf into the empty drive; it is in no other one."""
        capacity = int.from_bytes(command[2:4]) * PUT_IN_UNIT_BYTES
        new = Cartridge(warning_bytes=capacity - command[4] * PUT_IN_UNIT_BYTES, capacity_bytes=capacity)
        cartridge = self.shelf.cartridges.setdefault(command[1], new)
        if self.is_loaded or any(drive.is_loaded and drive.cartridge is cartridge for drive in self.shelf.drives):
            raise Check(ILLEGAL, 0x2400)
        self.cartridge, self.is_loaded, self.at, self.attention = cartridge, True, 0, 0x2800
        return b""

    def _cut(self, command: bytes, data: bytes) -> bytes:
        """What was not put on the medium is gone, and the tape is at its begin."""
        self.at = self.cartridge.durable
        self._cut_off()
        self.at, self.attention = 0, 0x2900
        return b""

    def _break(self, command: bytes, data: bytes) -> bytes:
        self.cartridge.broken.add(int.from_bytes(command[2:6]))
        return b""

    def _protect(self, command: bytes, data: bytes) -> bytes:
        self.cartridge.is_protected, self.attention = True, 0x2800
        return b""


# -- iSCSI

KEYS = {
    "HeaderDigest": "None", "DataDigest": "None", "MaxConnections": "1", "InitialR2T": "Yes", "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": str(LARGEST_BYTES), "MaxBurstLength": str(LARGEST_BYTES),
    "FirstBurstLength": str(LARGEST_BYTES), "DefaultTime2Wait": "0", "DefaultTime2Retain": "0",
    "MaxOutstandingR2T": "1", "DataPDUInOrder": "Yes", "DataSequenceInOrder": "Yes", "ErrorRecoveryLevel": "0",
}  # fmt: skip


class Connection:
    """One initiator's connection, until it ends."""

    def __init__(self, stream: socket.socket, drive: Drive, lock: threading.Lock) -> None:
        self.file = stream.makefile("rwb")
        self.drive, self.lock = drive, lock
        self.number = 1  # StatSN
        self.expected = 0  # ExpCmdSN

    def serve(self) -> None:
        while len(head := self.file.read(48)) == 48:
            size = int.from_bytes(head[5:8])
            body = self.file.read(head[4] * 4 + size + -size % 4)
            data = body[head[4] * 4 :][:size]
            kind = head[0] & 0x3F
            if not head[0] & 0x40 and kind in (0x00, 0x01, 0x02, 0x04):  # not an immediate one
                self.expected = (int.from_bytes(head[24:28]) + 1) & 0xFFFFFFFF
            elif kind == 0x03:
                self.expected = int.from_bytes(head[24:28])
            steps = {0x00: self._nop, 0x01: self._command, 0x02: self._task, 0x03: self._login, 0x06: self._logout}
            steps[kind](head, data)
            self.file.flush()
            if kind == 0x06:
                return

    def _send(self, head: bytes, data: bytes = b"", *, counts: bool = True) -> None:
        """Fill in lengths and numbers; `head` has its first 24 bytes, and what comes from byte 36 on."""
        first, last = head[:24], head[24:].ljust(12, b"\0")
        first = first[:5] + len(data).to_bytes(3) + first[8:]
        numbers = struct.pack(">III", self.number if counts else 0, self.expected, (self.expected + 64) & 0xFFFFFFFF)
        self.number += counts
        self.file.write(first + numbers + last + data + bytes(-len(data) % 4))

    def _nop(self, head: bytes, data: bytes) -> None:
        if head[16:20] != b"\xff" * 4:
            self._send(bytes([0x20, 0x80]) + bytes(6) + head[8:16] + head[16:20] + b"\xff" * 4, data)

    def _login(self, head: bytes, data: bytes) -> None:
        asked = dict(item.split("=", 1) for item in data.decode().split("\0") if "=" in item)
        answers = {name: value for name, value in KEYS.items() if name in asked}
        if head[1] >> 2 & 3 == 0 and "AuthMethod" in asked:
            answers["AuthMethod"] = "None"
        answers["TargetPortalGroupTag"] = "1"
        text = "".join(f"{name}={value}\0" for name, value in answers.items()).encode()
        session = head[14:16] if head[14:16] != b"\0\0" else b"\0\1"
        self._send(bytes([0x23, head[1], 0, 0]) + bytes(4) + head[8:14] + session + head[16:20] + bytes(4), text)

    def _logout(self, head: bytes, data: bytes) -> None:
        self._send(bytes([0x26, 0x80]) + bytes(14) + head[16:20] + bytes(4))

    def _task(self, head: bytes, data: bytes) -> None:
        if head[1] & 0x7F in (5, 6, 7):  # resets of the unit or the target
            self.drive.attention = 0x2900
        self._send(bytes([0x22, 0x80]) + bytes(14) + head[16:20] + bytes(4))

    def _command(self, head: bytes, data: bytes) -> None:
        tag, expected = head[16:20], int.from_bytes(head[20:24])
        sense, status = b"", 0
        with self.lock:
            try:
                answer = self.drive.run(head[32:48], data)
            except Check as check:
                answer, status = check.data, 2
                sense = len(check.sense).to_bytes(2) + check.sense
        is_read = bool(head[1] & 0x40)
        answer = answer[:expected] if is_read else b""
        for at in range(0, len(answer), 65536):
            piece = answer[at : at + 65536]
            final = 0x80 * (at + 65536 >= len(answer))
            last = struct.pack(">III", at // 65536, at, 0)
            self._send(bytes([0x25, final]) + bytes(14) + tag + b"\xff" * 4 + last, piece, counts=False)
        left = expected - len(answer) if is_read else 0
        under = 0x02 * (left > 0)
        last = struct.pack(">III", -(-len(answer) // 65536), 0, left)
        self._send(bytes([0x21, 0x80 | under, 0, status]) + bytes(12) + tag + bytes(4) + last, sense)


class Server:
    """The target, on a free port of the loopback. `url` is what QEMU opens."""

    def __init__(self, serial: str, shelf: Shelf) -> None:
        self.drive, self.lock = Drive(serial, shelf), shelf.lock
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"iscsi://127.0.0.1:{self.listening.getsockname()[1]}/{TARGET}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        with stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                Connection(stream, self.drive, self.lock).serve()
            except ConnectionError:
                return

    def close(self) -> None:
        self.listening.close()
