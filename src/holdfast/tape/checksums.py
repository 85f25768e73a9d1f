"""The text that `sha256sum -c` reads: one line per file, `<64 hex digits>  <name>`.

Pure. A name with a backslash, a newline or a carriage return is escaped as GNU coreutils define it ("md5sum
invocation"): the line begins with a backslash, and those bytes stand as `\\\\`, `\\n` and `\\r`.
"""

from __future__ import annotations

import re

from holdfast.errors import IntegrityError

_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}
_UNESCAPES = {escaped: plain for plain, escaped in _ESCAPES.items()}
_TO_ESCAPE = re.compile(rb"[\\\n\r]")
_ESCAPED = re.compile(rb"\\.?", re.DOTALL)
_LINE = re.compile(rb"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)


def encode_line(sha256: bytes, name: bytes) -> bytes:
    """The line for one file, newline included."""
    escaped = _TO_ESCAPE.sub(lambda found: _ESCAPES[found[0]], name)
    mark = b"\\" if escaped != name else b""
    return mark + sha256.hex().encode() + b"  " + escaped + b"\n"


def line_bytes(name: bytes) -> int:
    """How long the line of `name` will be, before its digest is known."""
    return len(encode_line(bytes(32), name))


def decode(text: bytes) -> dict[bytes, bytes]:
    """Read such a text: SHA-256 (32 bytes) by name. Raises `IntegrityError` naming the line that is none."""
    found: dict[bytes, bytes] = {}
    for number, line in enumerate(text.split(b"\n")[:-1], start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise IntegrityError("damaged line in a MANIFEST", place=f"line {number}", found=repr(line[:100]))
        name = _unescape(match[3], number) if match[1] else match[3]
        found[name] = bytes.fromhex(match[2].decode())
    if text and not text.endswith(b"\n"):
        raise IntegrityError("the MANIFEST does not end with a whole line", found=repr(text[-100:]))
    return found


def _unescape(name: bytes, number: int) -> bytes:
    def plain(found: re.Match[bytes]) -> bytes:
        if found[0] not in _UNESCAPES:
            raise IntegrityError("unknown escape in a MANIFEST", place=f"line {number}", found=repr(found[0]))
        return _UNESCAPES[found[0]]

    return _ESCAPED.sub(plain, name)
