"""Archive one whole simulated pair of tapes in place, with the real code, and print what the drives' clocks say.

    python virtual_pair.py FOLDER GENERATION HOST_MB_S

Everything is made `SCALE` times smaller but the sequence of operations: so many objects, commits, catalogs, records
to a buffer, loads and wraps as a whole cartridge has. The clocks count each byte `SCALE` times. A record stands for
64 MB; labels and catalogs, which do not shrink, count for more than they would on tape. HOST_MB_S 0 is a host that
is never slower than the drive; when tapes are read back, it never is.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import material
from holdfast import config
from holdfast.config import InitOptions, init_vault
from holdfast.journey import ArchiveRequest, archive
from holdfast.reports import Silent, Stage
from holdfast.tape.drive.timing import GENERATIONS, MB, Generation
from holdfast.testing.tapetime import LibraryClock, timed_library

SCALE = 4000
RECORD_BYTES = 16 * 1024
FILE_BYTES = 4_890 * 10**6
"""A night's file. It is larger than an object, so each file has an object of its own."""
OBJECT_BYTES = 4 * 2**30
COMMIT_BYTES = 32 * 2**30
"""The settings of a new vault."""


class StageTimes(Silent):
    """Virtual seconds of each stage."""

    def __init__(self, clock: LibraryClock) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def stage(self, name: str, total_bytes: int = 0) -> Generator[Stage, None, None]:
        if name == "verify":
            self._clock.set_host(None)
        begun = self._clock.now_s
        with super().stage(name, total_bytes) as stage:
            yield stage
        self.seconds[name] = self._clock.now_s - begun


def main() -> None:
    folder, generation, host = Path(sys.argv[1]), GENERATIONS[sys.argv[2]], float(sys.argv[3]) * MB
    config.RECORD_SIZES = (RECORD_BYTES, 2**20)  # smaller than any tape's, as everything here is
    clock = LibraryClock(generation, host_bytes_s=host or None, scale=SCALE)
    times = StageTimes(clock)
    try:
        vault = make_vault(folder, generation)
        make_source(folder, generation)
        with timed_library(clock):
            report = archive(vault, ArchiveRequest(paths=(folder / "source",), in_place=True), times)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert report.exit_code() == 0, report.errors
    assert len(report.written_on) == 2, report.written_on
    counts = clock.counts()
    facts = {
        "seconds": clock.now_s,
        "stages_s": {name: times.seconds[name] for name in ("dump", "verify")},
        "content_bytes": report.source_bytes * SCALE,
        "written_bytes": min(item.written_bytes for item in counts),
        "objects": report.objects,
        "write_s": max(item.seconds["write"] + item.seconds["mark"] for item in counts),
        "read_s": max(item.seconds["read"] for item in counts),
        "drives": [
            {
                "seconds": item.seconds,
                "back_hitches": item.back_hitches,
                "synchronous_marks": item.synchronous_marks,
                "wrap_turns": item.wrap_turns,
                "read_bytes": item.read_bytes,
            }
            for item in counts
        ],
    }
    print(json.dumps(facts))


def make_vault(folder: Path, generation: Generation) -> Path:
    options = InitOptions(
        cartridge_capacity=f"{generation.capacity_bytes // SCALE} B",
        record_size=f"{RECORD_BYTES} B",
        object_size=f"{OBJECT_BYTES // SCALE} B",
        commit_every=f"{COMMIT_BYTES // SCALE} B",
    )
    init_vault(folder / "vault", options)
    return folder / "vault"


def make_source(folder: Path, generation: Generation) -> None:
    """As many files as fit the pair: all but the fiftieth that is kept free, the label and the catalogs."""
    count = int(generation.capacity_bytes * 0.97 // FILE_BYTES)
    material.large_files(folder / "source", [FILE_BYTES // SCALE] * count)


if __name__ == "__main__":
    main()
