"""Nights to archive: hostile trees, and telling whether two trees are the same."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path

LONG_NAME = b"n" * 251 + b".fit"


def plain_night(root: Path, *, large_bytes: int, smalls: int, small_bytes: int = 10_000) -> Path:
    """A folder of one large file, `large`, and small ones, `small-0` and so on; random bytes."""
    root.mkdir()
    (root / "large").write_bytes(os.urandom(large_bytes))
    for number in range(smalls):
        (root / f"small-{number}").write_bytes(os.urandom(small_bytes))
    return root


def make_night(root: Path, seed: int = 1, *, before_1970: bool = True) -> Path:
    """A small folder with everything that a folder can hold and that is hard to keep.

    GNU tar restores times before 1970, but remarks on them.
    """
    rng = random.Random(seed)
    root.mkdir(parents=True)
    base = os.fsencode(root)
    deep = base + b"/deep"
    for level in range(12):
        deep += b"/" + b"d%02d-" % level + b"x" * 30
    os.makedirs(deep)
    files = {
        b"visdata": rng.randbytes(300_000),
        b"larger-than-a-block": rng.randbytes(900_001),
        b"copy-of-visdata": None,
        b"empty": b"",
        b"latin1-\xe9\xff": b"not utf-8",
        "grüße-日本.txt".encode(): b"nicht ascii",
        b"new\nline": b"newline",
        b"carriage\rreturn": b"cr",
        b"back\\slash": b"backslash",
        b" leading and trailing ": b"spaces",
        b"-rf": b"dash",
        b"*?[glob]": b"glob",
        b"tab\tquote\"'": b"quote",
        LONG_NAME: b"255 bytes of name",
        b"zen.2458661.uv/visdata": rng.randbytes(5000),
        b"zen.2458661.uv/header": b"header",
    }
    os.mkdir(base + b"/zen.2458661.uv")
    for name, data in files.items():
        (root / os.fsdecode(name)).write_bytes(files[b"visdata"] if data is None else data)  # type: ignore[arg-type]
    with open(deep + b"/at-the-end", "wb") as file:
        file.write(b"deep")
    with open(base + b"/sparse", "wb") as file:
        file.truncate(1_000_000)
        file.seek(500_000)
        file.write(b"island")
    os.mkdir(base + b"/empty-folder")
    os.mkdir(base + b"/folder-\xff")
    os.symlink(b"visdata", base + b"/link")
    os.symlink(b"/nowhere/\xff/at all", base + b"/dangling")
    os.symlink(b"zen.2458661.uv", base + b"/link-to-folder")
    os.link(base + b"/visdata", base + b"/zen.2458661.uv/hard-link")
    _set_attributes(base, rng)
    if before_1970:
        os.utime(base + b"/empty", ns=(-1_500_000_000, -1_500_000_000))
        os.utime(base, ns=(10**18 + 7, 10**18 + 7))
    return root


def _set_attributes(base: bytes, rng: random.Random) -> None:
    for folder, folders, names in os.walk(base, topdown=False):
        for name in (*names, *folders):
            path = folder + b"/" + name
            moment = (rng.randrange(10**9, 1_700_000_000)) * 10**9 + rng.randrange(10**9)
            os.utime(path, ns=(moment, moment), follow_symlinks=False)
    os.chmod(base + b"/visdata", 0o640)
    os.chmod(base + b"/empty", 0o4755)
    os.chmod(base + b"/empty-folder", 0o1777)
    os.utime(base, ns=(10**18 + 7, 10**18 + 7))


def facts(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that must come back: kind, content, mode, mtime, target, and which names are one file."""
    base = os.fsencode(root)
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    paths = [base]
    for folder, folders, names in os.walk(base):
        paths += [folder + b"/" + name for name in (*folders, *names)]
    for path in sorted(paths):
        status = os.lstat(path)
        name = path[len(base) :]
        what: object = None
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                what = (hashlib.sha256(file.read()).hexdigest(), inodes.setdefault(status.st_ino, name))
        elif stat.S_ISLNK(status.st_mode):
            what = os.readlink(path)
        found[name] = (what, stat.filemode(status.st_mode), status.st_mtime_ns, status.st_uid, status.st_gid)
    return found


def differences(one: Path, two: Path) -> list[str]:
    """What differs between two trees; empty when they are the same."""
    a, b = facts(one), facts(two)
    return [
        f"{name!r}: {a.get(name)} is not {b.get(name)}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]
