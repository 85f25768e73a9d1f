"""Silent damage: one bit of a file, turned."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def flip_bit(path: Path, offset_bytes: int, bit: int = 0) -> None:
    """Turn bit `bit` (0 is the lowest) of the byte at `offset_bytes`; a second call turns it back.

    Size, mode and modification time stay as they were, as with a medium that rots; a read-only file is damaged too.
    Raises `ValueError` if the file has no such byte or a byte no such bit.
    """
    if not 0 <= bit <= 7:
        raise ValueError(f"a byte has bits 0 to 7, not {bit}")
    before = path.stat()
    if not 0 <= offset_bytes < before.st_size:
        raise ValueError(f"{path} has {before.st_size} bytes; there is none at {offset_bytes}")
    mode = stat.S_IMODE(before.st_mode)
    path.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
    try:
        with path.open("r+b") as file:
            file.seek(offset_bytes)
            byte = file.read(1)[0]
            file.seek(offset_bytes)
            file.write(bytes([byte ^ (1 << bit)]))
    finally:
        path.chmod(mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
