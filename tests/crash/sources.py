"""Source trees that hold a bit of everything, and what is compared when they come back."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from dataclasses import dataclass
from pathlib import Path

EPOCH_NS = 1_600_000_000_123_456_789

SMALL_BYTES = (700, 3000, 9000, 15_000, 15_500)
"""Several of these share a block of 64 KiB; none is larger than a quarter of one."""

OWN_BLOCK_BYTES = 40_000
MANY_BLOCKS_BYTES = 300_000
"""More than a block, and more than a tape record of 256 KiB."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What restore must give back of one name. `linked`: every name of the same inode, itself included."""

    kind: str
    mode: int
    mtime_ns: int
    sha256: str = ""
    target: bytes = b""
    linked: frozenset[bytes] = frozenset()


def facts_of(root: Path) -> dict[bytes, Facts]:
    """Everything at and below a folder, by relative path; the folder itself is the empty path."""
    top = os.fsencode(root)
    found: dict[bytes, os.stat_result] = {b"": os.lstat(top)}
    for folder, folders, names in os.walk(top):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = os.lstat(path)
    inodes: dict[int, set[bytes]] = {}
    for path, status in found.items():
        inodes.setdefault(status.st_ino, set()).add(path)
    return {path: _facts(top, path, status, inodes[status.st_ino]) for path, status in sorted(found.items())}


def _facts(top: bytes, path: bytes, status: os.stat_result, linked: set[bytes]) -> Facts:
    full = os.path.join(top, path) if path else top
    if stat.S_ISDIR(status.st_mode):
        return Facts("folder", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        return Facts("link", 0, status.st_mtime_ns, target=os.readlink(full))
    with open(full, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    mode = stat.S_IMODE(status.st_mode)
    return Facts("file", mode, status.st_mtime_ns, sha256=sha256, linked=frozenset(linked))


def differences(expected: dict[bytes, Facts], found: dict[bytes, Facts]) -> list[str]:
    """In words, at most a few of them."""
    return [
        f"{path!r}: expected {expected.get(path)}, found {found.get(path)}"
        for path in sorted(expected.keys() | found.keys())
        if expected.get(path) != found.get(path)
    ][:5]


class _Maker:
    """Writes files of random bytes below a folder, each with a time of its own."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self._chance = random.Random(seed)
        self._clock_ns = EPOCH_NS + seed * 10**15

    def _tick(self) -> int:
        self._clock_ns += 61 * 10**9 + 7
        return self._clock_ns

    def file(self, name: str | bytes, size: int, mode: int = 0o644) -> Path:
        return self.bytes(name, self._chance.randbytes(size), mode)

    def bytes(self, name: str | bytes, data: bytes, mode: int = 0o644) -> Path:
        path = self.root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
        now = self._tick()
        os.utime(path, ns=(now, now))
        return path

    def settle_folders(self) -> None:
        """Last, as making a name in a folder changes its time."""
        folders = [self.root, *(path for path in self.root.rglob("*") if path.is_dir() and not path.is_symlink())]
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            now = self._tick()
            os.utime(folder, ns=(now, now))


def make_night_one(root: Path) -> None:
    make = _Maker(root, 1)
    for number, size in enumerate(SMALL_BYTES):
        make.file(f"small/{number}.txt", size)
    make.file("big.bin", MANY_BLOCKS_BYTES, mode=0o600)
    own = make.file("own.bin", OWN_BLOCK_BYTES)
    make.bytes("twice/own again.bin", own.read_bytes(), mode=0o440)
    make.bytes("twice/small again", (root / "small/1.txt").read_bytes())
    make.file("empty", 0)
    make.file(b"not \xff\xfe utf-8\n", 500)
    (root / "hollow").mkdir(mode=0o750)
    (root / "link").symlink_to("small/0.txt")
    (root / "dangling").symlink_to(os.fsdecode(b"nowhere \xe9"))
    os.link(root / "big.bin", root / "twice/big too")
    make.settle_folders()


def change_for_night_two(root: Path) -> None:
    """What a day at the lab does: new, changed, gone, renamed, only another mode, another kind."""
    make = _Maker(root, 2)
    make.file("small/1.txt", 3100)
    make.file("new/first.bin", 20_000)
    make.bytes("new/own, a third time", (root / "own.bin").read_bytes())
    (root / "small/0.txt").unlink()
    (root / "own.bin").chmod(0o400)
    (root / "hollow").rmdir()
    make.file("hollow", 40)
    (root / "empty").unlink()
    make.file("empty/not any more", 60)
    (root / "link").unlink()
    (root / "link").symlink_to("new/first.bin")
    (root / "twice").rename(root / "thrice")
    make.settle_folders()


def make_few(root: Path) -> None:
    make = _Maker(root, 3)
    make.file("a/one", 900)
    make.file("a/two", MANY_BLOCKS_BYTES)
    make.file("b/three", 30_000)
    make.bytes("b/three again", (root / "b/three").read_bytes())
    make.file(b"b/\xfe", 20)
    make.file("empty", 0)
    (root / "link").symlink_to("a/one")
    os.link(root / "a/two", root / "b/two")
    make.settle_folders()


def make_many(root: Path) -> None:
    """More than one small cartridge holds."""
    make = _Maker(root, 4)
    for number in range(9):
        make.file(f"night/{number}.bin", 230_000)
    make.file("few", 900)
    os.link(root / "night/1.bin", root / "one again")
    make.settle_folders()
