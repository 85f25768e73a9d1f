"""Whose tape is it? What the first record of a tape that is not ours says.

Pure: bytes in, words out. Law 5 refuses every tape that is neither blank nor ours; this tells people what it is.
"""

from __future__ import annotations

_VOL1 = b"VOL1"  # ANSI X3.27 (ECMA-13), first label of a labelled tape
_VOL1_EBCDIC = "VOL1".encode("cp500")  # IBM standard labels
_LTFS_AT = 24  # LTFS Format Specification 2.4, section 5.1.1: implementation identifier of the VOL1 label
_USTAR_AT = 257  # POSIX.1-1988, magic of a tar header
_BLOCK_ID_AT = 12  # Bacula's and Bareos' block header: checksum, size and number of 4 bytes each, then its name

_OUR_LABEL = b"comment=holdfast label "  # in the first extended header of our tapes, see `layout`

_BEGINNINGS = (
    (b"## Paper dump catalog", "a tape of papertape"),
    (b"AMANDA: TAPESTART", "a tape of Amanda"),
    (b"070701", "a cpio archive"),
    (b"070707", "a cpio archive"),
    (b"\x1f\x8b", "data compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "data compressed with zstd"),
    (b"\xfd7zXZ", "data compressed with xz"),
)


def identify(record: bytes) -> str:
    """What the tape is that begins with this record, in a few words; never empty. No bytes: it begins with a mark."""
    if not record:
        return "a tape that begins with a file mark"
    if record.startswith(_VOL1):
        return _labelled(record)
    if record.startswith(_VOL1_EBCDIC):
        return "a tape with IBM standard labels"
    for beginning, name in _BEGINNINGS:
        if record.startswith(beginning):
            return name
    if record[_BLOCK_ID_AT : _BLOCK_ID_AT + 2] == b"BB":
        return "a tape of Bareos or Bacula"
    if _OUR_LABEL in record[:1024]:
        return "a tape with a label of Holdfast"
    if record[_USTAR_AT : _USTAR_AT + 5] == b"ustar":
        return "a tar archive that is no label of Holdfast"
    return f"unknown data in records of {len(record)} bytes"


def _labelled(record: bytes) -> str:
    name = record[4:10].decode("ascii", "replace").strip()
    kind = "an LTFS tape" if record[_LTFS_AT : _LTFS_AT + 4] == b"LTFS" else "a tape with ANSI labels"
    return f"{kind}, volume {name!r}"
