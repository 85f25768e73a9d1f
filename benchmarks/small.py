"""B3, B4 and B5: many small files: files a second, memory, and whether the cost of a file stays the same."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import material
from lab import MIB, Lab, Line, Row, Run, Skip, interleave, mid, mid_stages, ratios, remove
from pair import archive
from peers import PEERS, clean

FILE_BYTES = 10 * 1024
QUICK, FEW, MANY = 2_000, 10_000, 100_000
RSS_LIMIT_BYTES = 300 * MIB
FLAT = 1.3
LONGEST_S = 240.0
"""B5 is left out when its large half would take longer."""

WAYS: Sequence[tuple[str, tuple[str, ...]]] = (("in place", ("--in-place",)), ("through the block store", ()))


def measure_rates(lab: Lab) -> list[Row]:
    """B3."""
    source = _few(lab)
    ours = [(Line(f"holdfast archive, {name}"), options) for name, options in WAYS]
    peer = Line(PEERS[3].name)
    interleave(
        lab.rounds(full=3, quick=1),
        [
            *((line, lambda options=options: archive(lab, source, *options)) for line, options in ours),
            (peer, lambda: PEERS[3].run(lab, source)),
        ],
        lambda: clean(lab),
        lab.say,
    )
    count = _count(lab)
    row = Row("B3", f"{count:,} files of 10 KiB", "none: to be seen, stage by stage")
    for line, _ in ours:
        row.lines.append(line)
        if line.runs:
            stages = mid_stages(line.runs)
            line.figure = f"{count / mid(run.wall_s for run in line.runs):,.0f} files/s"
            line.facts["stages_s"] = stages
            line.facts["files_per_s"] = {name: count / seconds for name, seconds in stages.items() if seconds > 0}
            row.lines += [
                Line(f"  {name}", figure=f"{count / seconds:,.0f} files/s in {seconds:.2f} s", is_detail=True)
                for name, seconds in stages.items()
                if seconds > 0
            ]
    if peer.runs and ours[0][0].runs:
        found = ratios(peer.runs, ours[0][0].runs)
        peer.figure = f"{count / mid(run.wall_s for run in peer.runs):,.0f} files/s; ratio {mid(found):.2f}"
        peer.facts = {"ratio": mid(found), "stages_s": mid_stages(peer.runs)}
    row.lines.append(peer)
    row.notes = ["The peer makes two tar files and knows nothing about any file in them; Holdfast's catalog does."]
    return [row]


def measure_memory(lab: Lab) -> list[Row]:
    """B4."""
    row = Row(
        "B4",
        f"memory: {_count(lab):,} files of 10 KiB and Python's own library",
        f"each process at most {RSS_LIMIT_BYTES // MIB} MiB resident",
    )
    sources = [_few(lab), _library(lab)]
    for name, options in WAYS:
        clean(lab)
        vault = lab.folder / "vault"
        words = [*sources, "--vault", vault, *options]
        _measured(lab, row, f"archive, {name}", lambda words=words: lab.holdfast("archive", *words))
        _measured(lab, row, f"archive again, {name}", lambda words=words: lab.holdfast("archive", *words))
        for origin in ["tape"] if options else ["store", "tape"]:
            restored = lab.folder / "restored"
            words = ["--vault", vault, "--to", restored, "--from", origin]
            _measured(lab, row, f"restore from {origin}", lambda words=words: lab.holdfast("restore", *words))
            remove(restored)
        _measured(lab, row, "verify", lambda vault=vault: lab.holdfast("verify", "--vault", vault))
        if lab.quick:
            break
    clean(lab)
    row.notes = ["Python's library is that of the Python that runs the benchmarks, with its tests if it has them."]
    return [row]


def _measured(lab: Lab, row: Row, what: str, run: Callable[[], Run]) -> None:
    line = Line(f"holdfast {what}")
    row.lines.append(line)
    try:
        line.runs.append(run())
    except Skip as skip:
        line.figure = f"skipped: {skip}"
        return
    report = line.runs[0].extra.pop("report")
    count = report.get("kept", {}).get("files") or report.get("files") or report.get("members") or 0
    line.figure = f"{count:,} files, peak {line.runs[0].rss_bytes / MIB:.0f} MiB"
    line.verdict = "PASS" if line.runs[0].rss_bytes <= RSS_LIMIT_BYTES else "FAIL"
    line.facts["stages_s"] = mid_stages(line.runs)
    lab.say(f"{line.runs[0].wall_s:7.2f} s  {line.what}: {line.figure}")


def measure_growth(lab: Lab) -> list[Row]:
    """B5."""
    row = Row(
        "B5", f"cost of a file, {FEW:,} and {MANY:,} files of 10 KiB", f"at most {FLAT} times as much of {MANY:,}"
    )
    if lab.quick:
        row.notes = ["left out by --quick"]
        return [row]
    lab.need_bytes(MANY * 16 * 1024 * 4)
    lines = {count: Line(f"holdfast archive --in-place, {count:,} files") for count in (FEW, MANY)}
    row.lines = list(lines.values())
    for _ in range(3):
        clean(lab)
        lines[FEW].runs.append(archive(lab, _few(lab), "--in-place"))
    clean(lab)
    expected = lines[FEW].runs[-1].wall_s * MANY / FEW
    if expected > LONGEST_S:
        lines[MANY].figure = f"skipped: would take about {expected:.0f} s"
        return [row]
    lab.say(f"making {MANY:,} files")
    many = lab.folder / "many"
    material.small_files(many, MANY, FILE_BYTES)
    lines[MANY].runs.append(archive(lab, many, "--in-place"))
    lab.say(f"{lines[MANY].runs[0].wall_s:7.2f} s  {lines[MANY].what}")
    clean(lab)
    remove(many)
    costs = {count: _cost(line.runs) for count, line in lines.items()}
    for count, line in lines.items():
        line.facts = {"us_a_file": costs[count][0] * 1e6, "cpu_us_a_file": costs[count][1] * 1e6}
        line.figure = f"{costs[count][0] * 1e6:.0f} us, {costs[count][1] * 1e6:.0f} CPU-us a file"
    grown = costs[MANY][1] / costs[FEW][1]
    lines[MANY].figure += f"; {costs[MANY][0] / costs[FEW][0]:.2f} x, CPU {grown:.2f} x"
    lines[MANY].facts |= {"growth": costs[MANY][0] / costs[FEW][0], "cpu_growth": grown}
    lines[MANY].verdict = "PASS" if grown <= FLAT else "FAIL"
    row.notes = [
        (
            "The verdict is by CPU-seconds: the wall clock of a shared machine says less. The start of the "
            "process is in both figures."
        )
    ]
    return [row]


def _cost(runs: list[Run]) -> tuple[float, float]:
    """Seconds and CPU-seconds a file."""
    count = runs[0].extra["versions"]
    return mid(run.wall_s for run in runs) / count, mid(run.cpu_s for run in runs) / count


def _few(lab: Lab) -> Path:
    source = lab.folder / "few"
    if not source.is_dir():
        lab.need_bytes(FEW * 16 * 1024 * 8)
        lab.say(f"making {_count(lab):,} files")
        material.small_files(source, _count(lab), FILE_BYTES)
    return source


def _count(lab: Lab) -> int:
    return QUICK if lab.quick else FEW


def _library(lab: Lab) -> Path:
    """A copy of Python's own library, without what was installed beside it and without compiled modules."""
    lab.need_bytes(8 * 400 * MIB)
    leave_out = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__")
    target = lab.folder / "library"
    if not target.is_dir():
        shutil.copytree(sysconfig.get_path("stdlib"), target, symlinks=True, ignore=leave_out)
    return target


def shelve(lab: Lab) -> None:
    """Throw the sources away."""
    for name in ("few", "many", "large", "library"):
        shutil.rmtree(lab.folder / name, ignore_errors=True)
