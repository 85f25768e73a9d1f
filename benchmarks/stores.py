"""B7, B8 and B9: dictionaries that persist, beside their peers: rates, opening a million entries, and leases on tasks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

from lab import MIB, Lab, Line, Row, Run, Skip, mid, remove

HERE = Path(__file__).resolve().parent
PEERS = ["sqlitedict==2.1.*", "diskcache==5.6.*"]
PEERS_FOLDER = HERE.parent / "build" / "bench-peers"
KINDS = ("holdfast", "sqlite", "sqlitedict", "diskcache", "shelve", "fdatasync")
TARGETS = {"bulk": 80_000, "get": 40_000, "again": 150_000}
POWER_SHARE = 0.8
OPEN_S, OPEN_BYTES = 0.015, 10 * MIB
LEASES = {1: 7_000, 32: 80_000}
FAIR = 0.7
WORKERS = 4


def measure(lab: Lab) -> list[Row]:
    return [_rates(lab), _opening(lab), _leases(lab)]


def _python(kind: str) -> str:
    """The interpreter that has what this kind needs; peers have an environment of their own."""
    if kind not in ("sqlitedict", "diskcache"):
        return sys.executable
    python = PEERS_FOLDER / "bin" / "python"
    if not python.exists():
        venv.create(PEERS_FOLDER, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        except subprocess.SubprocessError as error:
            remove(PEERS_FOLDER)
            raise Skip(f"its peers cannot be installed: {error}") from error
    return str(python)


def _run(lab: Lab, kind: str, part: str, count: int) -> tuple[Run, dict[str, Any]]:
    folder = lab.folder / "stores"
    program = str(HERE / "store_program.py")
    run, output = lab.run([_python(kind), program, kind, part, str(folder / kind), str(count)])
    return run, json.loads(output)


def _rates(lab: Lab) -> Row:
    """B7."""
    count = 20_000 if lab.quick else 100_000
    row = Row(
        "B7",
        f"a dictionary of {count:,} entries: bulk set, get at random, get again, single sets",
        f"bulk {TARGETS['bulk']:,}/s, get {TARGETS['get']:,}/s, again {TARGETS['again']:,}/s; "
        f"power-safe {POWER_SHARE} of fdatasync",
    )
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    lines = {kind: Line(kind) for kind in KINDS}
    for number in range(lab.rounds(full=3, quick=1)):
        for kind in (*KINDS[number % len(KINDS) :], *KINDS[: number % len(KINDS)]):
            _one(lab, kind, count, lines[kind], found[kind])
    middle = {kind: _middle(results) for kind, results in found.items()}
    for kind, line in lines.items():
        line.facts = middle[kind]
        line.figure = line.figure or "   ".join(f"{name} {rate:,.0f}/s" for name, rate in middle[kind].items())
        row.lines.append(line)
    row.lines += _verdicts(middle["holdfast"], middle["fdatasync"])
    row.notes = ["sqlitedict and shelve have no single write that survives a power cut."]
    return row


def _one(lab: Lab, kind: str, count: int, line: Line, found: list[dict[str, float]]) -> None:
    if line.figure:
        return
    (lab.folder / "stores").mkdir(exist_ok=True)
    try:
        run, rates = _run(lab, kind, "rates", count)
    except Skip as skip:
        line.figure = f"skipped: {skip}"
        return
    finally:
        remove(lab.folder / "stores")
    line.runs.append(run)
    found.append(rates)
    lab.say(f"dictionary: {run.wall_s:7.2f} s  {kind}")


def _middle(results: list[dict[str, float]]) -> dict[str, float]:
    return {name: mid(one[name] for one in results) for name in results[0]} if results else {}


def _verdicts(ours: dict[str, float], limit: dict[str, float]) -> list[Line]:
    lines = [
        Line(f"  {name}", figure=f"{ours[name]:,.0f}/s, target {target:,}", verdict=_verdict(ours[name] >= target))
        for name, target in TARGETS.items()
        if ours
    ]
    if ours and limit:
        share = ours["power"] / limit["power"]
        lines.append(Line("  power", figure=f"{share:.2f} of fdatasync", verdict=_verdict(share >= POWER_SHARE)))
    for line in lines:
        line.figure, line.is_detail = f"{line.figure}   {line.verdict}", True
    return lines


def _opening(lab: Lab) -> Row:
    """B8."""
    count = 100_000 if lab.quick else 1_000_000
    limit = f"at most {OPEN_S * 1000:.0f} ms and {OPEN_BYTES // MIB} MiB"
    row = Row("B8", f"open a dictionary of {count:,} entries, and get one", limit)
    for kind in ("holdfast", "sqlite", "sqlitedict", "diskcache"):
        line = Line(kind)
        row.lines.append(line)
        (lab.folder / "stores").mkdir(exist_ok=True)
        try:
            _run(lab, kind, "fill", count)
            found = [_run(lab, kind, "open", count) for _ in range(3)]
        except Skip as skip:
            line.figure = f"skipped: {skip}"
            continue
        finally:
            remove(lab.folder / "stores")
        line.runs = [run for run, _ in found]
        seconds, grown = (mid(one[name] for _, one in found) for name in ("open_s", "bytes"))
        line.facts = {"open_s": seconds, "bytes": grown}
        line.figure = f"{seconds * 1000:.1f} ms, {grown / MIB:.1f} MiB"
        if kind == "holdfast":
            line.verdict = _verdict(seconds <= OPEN_S and grown <= OPEN_BYTES)
        lab.say(f"opening: {line.figure}  {kind}")
    row.notes = ["Modules are imported before; the first get is in the figure."]
    return row


def _leases(lab: Lab) -> Row:
    """B9."""
    row = Row(
        "B9",
        f"claim and finish tasks, {WORKERS} processes for 3 s",
        ", ".join(f"{rate:,}/s by {count}" for count, rate in LEASES.items()) + f"; nobody below {FAIR} of the mean",
    )
    for count, target in LEASES.items():
        for kind in ("holdfast", "sqlite"):
            done = _claimed(lab, kind, count)
            rate, worst = sum(done) / 3, min(done) / (sum(done) / WORKERS)
            line = Line(f"{kind}, {count} at a time", figure=f"{rate:,.0f}/s, the slowest {worst:.2f} of the mean")
            line.facts = {"per_s": rate, "fairness": worst}
            if kind == "holdfast":
                line.figure += f"   {_verdict(rate >= target and worst >= FAIR)}"
                line.verdict = _verdict(rate >= target and worst >= FAIR)
            row.lines.append(line)
            lab.say(f"leases: {line.figure}  {line.what}")
    row.notes = ["The peer is two statements by hand: no history, and nobody notices that an owner is gone."]
    return row


def _claimed(lab: Lab, kind: str, count: int) -> list[int]:
    folder = lab.folder / "stores"
    folder.mkdir(exist_ok=True)
    try:
        _run(lab, kind, "tasks", 60_000 if count == 1 else 600_000)
        begin = str(time.monotonic() + 3)
        command = [
            sys.executable,
            str(HERE / "store_program.py"),
            kind,
            "leases",
            str(folder / kind),
            str(count),
            begin,
        ]
        workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(WORKERS)]
        return [json.loads(worker.communicate(timeout=60)[0])["done"] for worker in workers]
    finally:
        remove(folder)


def _verdict(reached: bool) -> str:
    return "PASS" if reached else "FAIL"
