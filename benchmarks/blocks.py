"""B10 to B13: the block store beside the client of Arvados' Keep, and beside the limits: BLAKE3, and `dd`."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from lab import MIB, Lab, Line, Row, Run, Skip, mid, remove

HERE = Path(__file__).resolve().parent
PEER = "arvados-python-client==3.2.*"
PEER_FOLDER = HERE.parent / "build" / "bench-arvados"
MEMORY_MIB_CPU_S, SHA256_MIB_CPU_S, MEMORY_BYTES = 1_200, 500, 350 * MIB
DISK_SHARE = 0.85
SMALL_S = 25_000
STORED_S, WRITABLE_S = 80_000, 50_000


def measure(lab: Lab) -> list[Row]:
    return [_memory(lab), _disk(lab), _small(lab), _reads(lab)]


def _python(kind: str) -> str:
    """The interpreter that has what this kind needs; the peer has an environment of its own."""
    if kind != "arvados":
        return sys.executable
    python = PEER_FOLDER / "bin" / "python"
    if not python.exists():
        venv.create(PEER_FOLDER, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        except subprocess.SubprocessError as error:
            remove(PEER_FOLDER)
            raise Skip(f"it cannot be installed: {error}") from error
    return str(python)


def _run(lab: Lab, kind: str, part: str, count: int) -> tuple[Run, dict[str, Any]]:
    folder = lab.folder / "blocks"
    remove(folder)
    program = str(HERE / "block_program.py")
    run, output = lab.run([_python(kind), program, kind, part, str(folder), str(count)])
    remove(folder)
    return run, json.loads(output.splitlines()[-1])


def _interleaved(lab: Lab, variants: list[tuple[str, str, str, int]]) -> dict[str, tuple[Line, list[dict[str, Any]]]]:
    """Each variant (name, kind, part, count) once a round, each round beginning with another one."""
    found: dict[str, tuple[Line, list[dict[str, Any]]]] = {name: (Line(name), []) for name, *_ in variants}
    for number in range(lab.rounds(full=5, quick=1)):
        turn = number % len(variants)
        for name, kind, part, count in [*variants[turn:], *variants[:turn]]:
            line, results = found[name]
            if line.figure:
                continue
            try:
                run, facts = _run(lab, kind, part, count)
            except Skip as skip:
                line.figure = f"skipped: {skip}"
                continue
            line.runs.append(run)
            results.append(facts)
            lab.say(f"{name}: {run.wall_s:.2f} s")
    return found


def _middle(results: list[dict[str, Any]], name: str) -> float:
    return mid(item[name] for item in results)


def _verdict(what: str, value: float, target: float, shown: str, *, least: bool = True) -> Line:
    verdict = "PASS" if (value >= target if least else value <= target) else "FAIL"
    return Line(what, figure=shown, verdict=verdict, facts={"value": value, "target": target})


def _memory(lab: Lab) -> Row:
    """B10."""
    count = 256 if lab.quick else 512
    row = Row(
        "B10",
        f"blocks: {count} MiB in appends of 1 MiB, to a store in memory",
        f"{MEMORY_MIB_CPU_S:,} MiB per CPU-second, {SHA256_MIB_CPU_S} with SHA-256 too; at most {MEMORY_BYTES // MIB} MiB",
    )
    variants = [
        ("holdfast", "holdfast", "memory", count),
        ("holdfast, and the content's SHA-256", "holdfast", "sha256", count),
        ("arvados (MD5)", "arvados", "memory", count),
        ("BLAKE3 alone, in reused memory", "blake3", "memory", count),
    ]
    rates: dict[str, float] = {}
    for name, (line, results) in _interleaved(lab, variants).items():
        if results:
            rates[name] = count / _middle(results, "cpu_s")
            peak = _middle(results, "peak_bytes")
            line.facts = {"mib_per_cpu_s": rates[name], "peak_bytes": peak}
            line.figure = f"{rates[name]:,.0f} MiB per CPU-second   {peak / MIB:.0f} MiB"
        row.lines.append(line)
    ours, with_sha256 = rates["holdfast"], rates["holdfast, and the content's SHA-256"]
    peak = row.lines[0].facts["peak_bytes"]
    row.lines += [
        _verdict("per CPU-second", ours, MEMORY_MIB_CPU_S, f"{ours:,.0f} MiB"),
        _verdict("with SHA-256", with_sha256, SHA256_MIB_CPU_S, f"{with_sha256:,.0f} MiB"),
        _verdict("memory", peak, MEMORY_BYTES, f"{peak / MIB:.0f} MiB", least=False),
    ]
    return row


def _dd(lab: Lab, count: int) -> Run:
    """The same bytes by `dd`, from a file in memory; random ones, as the disk may compress zeros."""
    source, target = lab.folder / "dd-source", lab.folder / "dd-target"
    if not source.exists():
        subprocess.run(["dd", "if=/dev/urandom", f"of={source}", "bs=1M", f"count={count}", "status=none"], check=True)
    remove(target)
    return lab.run(["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync", "status=none"])[0]


def _disk(lab: Lab) -> Row:
    """B11."""
    count = 256 if lab.quick else 512
    row = Row("B11", f"blocks: the same to disk, durable at the end, {count} MiB", f"{DISK_SHARE} x dd conv=fsync")
    ours, peer = Line("holdfast"), Line("dd conv=fsync")
    shares: list[float] = []
    for number in range(lab.rounds(full=7, quick=2)):
        if number % 2:
            peer_run = _dd(lab, count)
        run, facts = _run(lab, "holdfast", "disk", count)
        if not number % 2:
            peer_run = _dd(lab, count)
        ours.runs.append(run)
        peer.runs.append(peer_run)
        shares.append(peer_run.wall_s / facts["wall_s"])
        lab.say(f"round {number + 1}: {count / facts['wall_s']:.0f} MiB/s, {shares[-1]:.2f} of dd")
    remove(lab.folder / "dd-source")
    remove(lab.folder / "dd-target")
    share = mid(shares)
    row.lines = [
        ours,
        peer,
        _verdict("of dd's rate", share, DISK_SHARE, f"{share:.2f} ({min(shares):.2f} to {max(shares):.2f})"),
    ]
    row.notes = ["Of Holdfast the writing counts, of dd the whole program."]
    return row


def _small(lab: Lab) -> Row:
    """B12."""
    count = 20_000 if lab.quick else 50_000
    row = Row("B12", f"blocks: {count:,} contents of 10 KiB, packed", f"{SMALL_S:,}/s, durable on disk")
    variants = [
        ("holdfast, durable on disk", "holdfast", "small", count),
        ("arvados, packed, in memory", "arvados", "small", count // 10),
    ]
    rates: dict[str, float] = {}
    for name, (line, results) in _interleaved(lab, variants).items():
        if results:
            number = count if name.startswith("holdfast") else count // 10
            rates[name] = number / _middle(results, "wall_s")
            line.facts = {"a_second": rates[name], "cpu_s": _middle(results, "cpu_s")}
            line.figure = f"{rates[name]:,.0f}/s   {number / line.facts['cpu_s']:,.0f} per CPU-second"
        row.lines.append(line)
    ours = rates["holdfast, durable on disk"]
    row.lines.append(_verdict("a second", ours, SMALL_S, f"{ours:,.0f}/s"))
    return row


def _reads(lab: Lab) -> Row:
    """B13."""
    count = 20_000 if lab.quick else 50_000
    row = Row(
        "B13",
        "blocks: random reads of 64 KiB, of stored blocks and of one that is still being written",
        f"{STORED_S:,}/s stored, {WRITABLE_S:,}/s still being written",
    )
    variants = [("holdfast", "holdfast", "reads", count), ("arvados", "arvados", "reads", count)]
    middle: dict[str, dict[str, float]] = {}
    for name, (line, results) in _interleaved(lab, variants).items():
        if results:
            middle[name] = {key: _middle(results, key) for key in ("stored", "writable")}
            line.facts = middle[name]
            line.figure = "   ".join(f"{key} {rate:,.0f}/s" for key, rate in middle[name].items())
        row.lines.append(line)
    ours = middle["holdfast"]
    row.lines += [
        _verdict("stored", ours["stored"], STORED_S, f"{ours['stored']:,.0f}/s"),
        _verdict("still being written", ours["writable"], WRITABLE_S, f"{ours['writable']:,.0f}/s"),
    ]
    row.notes = [
        "Holdfast's stored blocks are in packs on disk, whose pages are in memory; each piece is checked. Arvados' are objects of its process."
    ]
    return row
