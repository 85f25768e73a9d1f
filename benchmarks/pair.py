"""B1 and B2: large files to a verified pair of tapes, against two copies made with tar and sha256sum."""

from __future__ import annotations

from pathlib import Path

import material
from lab import MIB, Lab, Line, Row, Run, Skip, interleave, mid, mid_stages, ratios
from peers import PEERS, clean

TARGET = 0.85


def measure(lab: Lab) -> list[Row]:
    sizes = [256, 128, 64, 64] if lab.quick else [512, 256, 128, 64, 64]
    source = lab.folder / "large"
    total = sum(sizes) * MIB
    lab.need_bytes(4 * total)
    lab.say(f"making {total // MIB} MiB in {len(sizes)} files")
    material.large_files(source, [size * MIB for size in sizes])

    in_place, stored = Line("holdfast archive --in-place"), Line("holdfast archive (through the block store)")
    peers = [(Line(peer.name), peer) for peer in PEERS]
    interleave(
        lab.rounds(full=4, quick=2),
        [
            (in_place, lambda: archive(lab, source, "--in-place")),
            *((line, lambda peer=peer: peer.run(lab, source)) for line, peer in peers),
            (stored, lambda: archive(lab, source)),
        ],
        lambda: clean(lab),
        lab.say,
    )
    lines = [line for line, _ in peers]
    return [
        _row("B1", f"pair of tapes in place, {total // MIB} MiB in {len(sizes)} files", in_place, lines, total),
        _row("B2", "the same, kept in the block store as well", stored, lines, total),
    ]


def archive(lab: Lab, source: Path, *options: str) -> Run:
    """Archive into a new vault; raises `Skip` unless both tapes were read back whole and everything is proven."""
    run = lab.holdfast("archive", source, "--vault", lab.folder / "vault", *options)
    report = run.extra.pop("report")
    if report["exit_code"] != 0 or report["unproven"] or report["totals"]["proven"] != report["totals"]["versions"]:
        raise Skip("not everything was proven")
    run.extra |= {"versions": report["totals"]["versions"], "read_back_bytes": report["read_bytes"]}
    return run


def _row(name: str, title: str, ours: Line, peers: list[Line], total: int) -> Row:
    row = Row(name, title, f"peer time / holdfast time at least {TARGET}")
    if not ours.runs:
        row.lines = [ours]
        return row
    if not ours.figure:
        ours.figure = f"{total / MIB / mid(run.wall_s for run in ours.runs):.0f} MiB/s"
    ours.facts["stages_s"] = mid_stages(ours.runs)
    row.lines.append(ours)
    for line in peers:
        compared = Line(line.what, line.runs, line.figure)
        if line.runs and not line.figure:
            found = ratios(line.runs, ours.runs)
            compared.figure = f"ratio {mid(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            compared.verdict = "PASS" if mid(found) >= TARGET else "FAIL"
            compared.facts = {"ratio": mid(found), "ratios": found, "stages_s": mid_stages(line.runs)}
        row.lines.append(compared)
    row.notes = [
        (
            "Holdfast reads the source once, hashes it twice over (SHA-256 of each file, BLAKE3 of each tape file), and "
            "verifies from the medium: both cartridges' pages are dropped from memory before they are read back."
        ),
        (
            "Plain sha256sum reads the copies from the page cache, so it proves nothing about the disk; the variants "
            "that drop the pages first do what Holdfast does."
        ),
    ]
    return row
