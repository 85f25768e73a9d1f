"""The peer of a pair of tapes: what a careful person types to make two verified copies.

    tar c SOURCE | tee copy1 > copy2;  sync copy1 copy2;  sha256sum copy1 copy2

Variants differ in the last step: both copies one after the other, both at once, with OpenSSL's SHA-256 (which uses
the processor's own instructions where coreutils' may not), and each after the copies' pages were dropped from memory,
so that the disk is read, as Holdfast does it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lab import Lab, Run, Skip, remove

_SCRIPT = """
set -euo pipefail
then=$EPOCHREALTIME
stage() { local now=$EPOCHREALTIME; echo "stage $1 $then $now"; then=$now; }
tar c SOURCE | tee copy1 > copy2
stage copy
sync copy1 copy2
stage sync
DROP
HASH
stage hash
"""

_DROP = "dd if=copy1 iflag=nocache count=0 status=none; dd if=copy2 iflag=nocache count=0 status=none"


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    program: str
    at_once: bool
    from_medium: bool = False

    def run(self, lab: Lab, source: Path) -> Run:
        """Make the copies and hash them; raises `Skip` when they are not the same or a program is missing."""
        hashing = self.program.split()
        for needed in ("bash", "tar", "tee", "sync", hashing[0]):
            if shutil.which(needed) is None:
                raise Skip(f"{needed} is not installed")
        line = (
            f"{self.program} copy1 & {self.program} copy2; wait $!" if self.at_once else f"{self.program} copy1 copy2"
        )
        script = _SCRIPT.replace("SOURCE", source.name).replace("DROP", _DROP if self.from_medium else "")
        run, output = lab.run(["bash", "-c", script.replace("HASH", line)])
        digests: list[str] = []
        for text in output.splitlines():
            words = text.split()
            if words[0] == "stage":
                run.stages[words[1]] = float(words[3]) - float(words[2])
            else:
                digests += [word for word in words if len(word) == 64]
        if len(digests) != 2 or len(set(digests)) != 1:
            raise Skip(f"the copies are not the same: {output!r}")
        return run


PEERS = (
    Peer("tar | tee; sync; sha256sum, one after the other", "sha256sum", at_once=False),
    Peer("tar | tee; sync; sha256sum, both at once", "sha256sum", at_once=True),
    Peer("tar | tee; sync; OpenSSL sha256, both at once", "openssl dgst -sha256", at_once=True),
    Peer("tar | tee; sync; drop pages; sha256sum, both at once", "sha256sum", at_once=True, from_medium=True),
    Peer(
        "tar | tee; sync; drop pages; OpenSSL sha256, both at once",
        "openssl dgst -sha256",
        at_once=True,
        from_medium=True,
    ),
)


def clean(lab: Lab) -> None:
    for name in ("copy1", "copy2", "vault", "restored"):
        remove(lab.folder / name)
