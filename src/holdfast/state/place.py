"""Where a database of SQLite may lie: its folder, made durable, on a disk of this machine."""

from __future__ import annotations

from pathlib import Path

from holdfast import durable
from holdfast.errors import StateError

NETWORK_FILE_SYSTEMS = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb3",
        "smbfs",
        "virtiofs",
    ]
)
"""What Linux calls file systems that several hosts can write to: SQLite's WAL needs memory that all writers share."""


def prepare_folder(folder: Path) -> None:
    """Make the folder of a store, durable on return. Raises `StateError` where none can be."""
    try:
        durable.make_folder(folder)
    except OSError as error:
        raise StateError(
            "a store cannot be made here",
            place=str(folder),
            expected="a folder, or a name for a new one",
            found=error.strerror or str(error),
            hint="name another folder, one that you may write to",
        ) from error
    kind = file_system_of(folder, Path("/proc/self/mountinfo").read_text())
    if kind in NETWORK_FILE_SYSTEMS:
        raise StateError(
            "a store cannot be kept on a network's file system",
            place=str(folder),
            expected="a disk of this machine",
            found=kind,
            hint="name a folder on a local disk; for several hosts, open postgresql://… instead",
        )


def file_system_of(folder: Path, mountinfo: str) -> str:
    """The kind of file system that holds `folder`, by `/proc/self/mountinfo` (proc(5)); "" when that is not told."""
    wanted, best, kind = folder.resolve(), -1, ""
    for line in mountinfo.splitlines():
        words, _, rest = line.partition(" - ")
        point = Path(words.split()[4].encode().decode("unicode_escape"))
        if (wanted == point or point in wanted.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind
