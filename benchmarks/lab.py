"""Where the benchmarks work: a folder of their own, programs run and measured one at a time, and the machine's facts.

A program is measured whole, from its start to its end, with everything it started: seconds on the wall, CPU-seconds
of user and system together, and the largest resident set that any one of its processes had.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

MIB = 2**20


class Skip(Exception):
    """A row cannot be measured here; the text says why."""


@dataclass(slots=True)
class Run:
    """One run of one program. `stages`: seconds of its parts, by name."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    stages: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Line:
    """One line of the table. `verdict`: PASS, FAIL or nothing."""

    what: str
    runs: list[Run] = field(default_factory=list)
    figure: str = ""
    verdict: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    is_detail: bool = False


@dataclass(slots=True)
class Row:
    """What one benchmark found."""

    id: str
    title: str
    target: str
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Lab:
    """A scratch folder on the disk that is measured, and what is done in it."""

    def __init__(self, folder: Path, *, quick: bool, rounds: int | None) -> None:
        self.folder = folder
        self.quick = quick
        self._rounds = rounds
        self.begun = time.monotonic()
        remove(folder)
        folder.mkdir(parents=True)
        # compiled modules are kept, as where Holdfast is installed, but beside the scratch data, not in the checkout
        self._env = os.environ | {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)

    def rounds(self, full: int, quick: int) -> int:
        return self._rounds or (quick if self.quick else full)

    def close(self) -> None:
        remove(self.folder)

    def need_bytes(self, count: int) -> None:
        """Raise `Skip` unless so much and a fifth more is free."""
        free = shutil.disk_usage(self.folder).free
        if free < count * 1.2:
            raise Skip(f"needs {count * 1.2 / MIB:.0f} MiB of free disk, {free / MIB:.0f} MiB are there")

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begun:6.1f} s] {text}", file=sys.stderr, flush=True)

    def warm_up(self) -> None:
        """Run every command once, so that all of Holdfast is compiled and read before anything is measured."""
        source, vault, restored = (self.folder / name for name in ("source", "vault", "restored"))
        source.mkdir()
        (source / "file").write_bytes(b"file")
        self.holdfast("archive", "--in-place", source, "--vault", vault)
        self.holdfast("archive", self.folder / "source", "--source", "stored", "--vault", vault)
        self.holdfast("verify", "--vault", vault)
        self.holdfast("restore", "--vault", vault, "--to", restored)
        for path in (source, vault, restored):
            remove(path)

    def run(self, command: Sequence[str]) -> tuple[Run, str]:
        """Run a program in the scratch folder; what it cost, and its standard output. Raises `Skip` if it fails."""
        output = self.folder / "output"
        with output.open("wb") as out, (self.folder / "errors").open("wb") as errors:
            settle()
            begun = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=self._env
            )
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
            wall = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            words = "".join((self.folder / name).read_text(errors="replace") for name in ("errors", "output"))
            words = words if len(words) < 1000 else f"{words[:300]} ... {words[-700:]}"
            raise Skip(f"{command[0]} ended with {process.returncode}: {words.strip()}")
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), output.read_text(errors="replace")

    def holdfast(self, *words: str | Path) -> Run:
        """Run Holdfast's command, as a process of its own, with --json; its stages and report come with the run."""
        run, output = self.run([sys.executable, "-m", "holdfast", *map(str, words), "--json"])
        report = json.loads(output)
        for stage in report.get("stages", []):
            run.stages[stage["name"]] = run.stages.get(stage["name"], 0.0) + stage["seconds"]
        run.stages["start, end"] = run.wall_s - sum(run.stages.values())
        run.extra["report"] = report
        return run


def interleave(
    rounds: int,
    variants: Sequence[tuple[Line, Callable[[], Run]]],
    clean: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Run each variant once a round, each round beginning with another one, so that none has the best place.

    A variant that cannot run is left out from then on, and its line says why.
    """
    for number in range(rounds):
        turn = number % len(variants)
        for line, run in [*variants[turn:], *variants[:turn]]:
            if line.figure:
                continue
            clean()
            try:
                line.runs.append(run())
            except Skip as skip:
                line.figure = f"skipped: {skip}"
                continue
            say(f"round {number + 1} of {rounds}: {line.runs[-1].wall_s:7.2f} s  {line.what}")
    clean()


def settle() -> None:
    """Nothing of what was done before is still on its way to the disk."""
    os.sync()


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def mid(values: Iterable[float]) -> float:
    return median(list(values))


def mid_stages(runs: Sequence[Run]) -> dict[str, float]:
    """The median of each stage."""
    names = list(runs[0].stages)
    return {name: mid(run.stages.get(name, 0.0) for run in runs) for name in names}


def ratios(over: Sequence[Run], under: Sequence[Run]) -> list[float]:
    """`over` by `under`, round by round."""
    return [a.wall_s / b.wall_s for a, b in zip(over, under, strict=False)]


# -- the machine


def machine(folder: Path) -> dict[str, Any]:
    """What the figures depend on, and nothing that tells whose machine it is."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "file_system": _file_system(folder),
        "python": platform.python_version(),
    }


def _field(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)


def _file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`."""
    found, longest = "unknown", -1
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) > longest:
            found, longest = kind, len(mount)
    return found
