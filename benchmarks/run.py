"""Holdfast against its peers and limits, each measured in the same run. `make bench` runs it; README.md explains it.

    make bench                          everything, about ten minutes
    make bench ARGS=--quick             smaller and fewer runs, about two minutes; the kept results stay as they are
    make bench ARGS='--only B1 B2'      some rows

It prints a table and writes results/latest.json and results/latest.svg beside this file. A target that is missed is
said, and is no failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import blocks
import holdfast
import pair
import small
import stores
import virtual
from lab import MIB, Lab, Line, Row, Skip, machine, mid

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
RESULTS = HERE / "results"
PLOTTER = ["matplotlib==3.10.*"]
"""Only the plot needs it, so it goes into an environment of its own."""

Measure = Callable[[Lab], list[Row]]
PARTS: list[tuple[set[str], Measure]] = [
    ({"B1", "B2"}, pair.measure),
    ({"B3"}, small.measure_rates),
    ({"B4"}, small.measure_memory),
    ({"B5"}, small.measure_growth),
    ({"B6"}, virtual.measure),
    ({"B7", "B8", "B9"}, stores.measure),
    ({"B10", "B11", "B12", "B13"}, blocks.measure),
]


def main() -> int:
    arguments = _arguments()
    lab = Lab(arguments.work.resolve() / "lab", quick=arguments.quick, rounds=arguments.rounds)
    print(_machine_line(facts := machine(lab.folder)))
    rows: list[Row] = []
    try:
        lab.warm_up()
        for names, measure in PARTS:
            if not arguments.only or names & set(arguments.only):
                found = _measured(lab, names, measure)
                rows += [row for row in found if not arguments.only or row.id in arguments.only]
                small.shelve(lab)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    finally:
        lab.close()
    _show(rows)
    whole = not arguments.quick and not arguments.only
    results = RESULTS if whole else arguments.work.resolve() / "results"
    _write(results, facts, rows, quick=arguments.quick)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer runs")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="only these rows, such as B1")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each variant runs")
    parser.add_argument(
        "--work", type=Path, default=BUILD / "bench", metavar="DIR", help="where; it decides which disk"
    )
    arguments = parser.parse_args()
    known = set().union(*(names for names, _ in PARTS))
    if not set(arguments.only or ()) <= known:
        parser.error(f"there are the rows {', '.join(sorted(known))}")
    return arguments


def _measured(lab: Lab, names: set[str], measure: Measure) -> list[Row]:
    """The rows of one part; one that cannot be measured here says why."""
    try:
        return measure(lab)
    except (Skip, OSError) as reason:
        return [Row(name, f"skipped: {reason}", "") for name in sorted(names)]


# -- the table


def _show(rows: list[Row]) -> None:
    print(f"\n{'':70}{'median':>9}{'CPU':>9}{'memory':>10}")
    for row in rows:
        print(f"\n{row.id}  {row.title}" + (f"   (target: {row.target})" if row.target else ""))
        for line in row.lines:
            print(_line(line).rstrip())
            stages = line.facts.get("stages_s")
            if stages and len(stages) > 1 and row.id in ("B1", "B2"):
                print("        " + "   ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items()))
        for note in row.notes:
            print(f"    note: {note}")
    verdicts = [line.verdict for row in rows for line in row.lines]
    print(f"\n{verdicts.count('PASS')} targets reached, {verdicts.count('FAIL')} missed")


def _line(line: Line) -> str:
    if not line.runs:
        return f"    {line.what:<66}{line.figure}"
    wall, cpu = mid(run.wall_s for run in line.runs), mid(run.cpu_s for run in line.runs)
    rss = max(run.rss_bytes for run in line.runs) / MIB
    return f"    {line.what:<66}{wall:>7.2f} s{cpu:>7.2f} s{rss:>6.0f} MiB   {line.figure}   {line.verdict}"


def _machine_line(facts: dict[str, Any]) -> str:
    return (
        f"{datetime.now(UTC):%Y-%m-%d}  {facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, "
        f"Linux {facts['kernel']}, {facts['file_system']}, Python {facts['python']}, Holdfast {holdfast.__version__}"
    )


# -- what is kept


def _write(folder: Path, facts: dict[str, Any], rows: list[Row], *, quick: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "summary": _machine_line(facts),
        "holdfast": holdfast.__version__,
        "quick": quick,
        "rows": [asdict(row) for row in rows],
    }
    path = folder / "latest.json"
    path.write_text(json.dumps(_rounded(document), indent=1, ensure_ascii=False) + "\n")
    print(f"written: {_shown(path)}")
    _plot(path, path.with_suffix(".svg"))


def _plot(data: Path, image: Path) -> None:
    """Draw the plot with a Python environment of its own; without one there is no plot, and a line that says so."""
    python = BUILD / "bench-plot" / "bin" / "python"
    try:
        if not python.exists():
            print("making an environment for the plot ...", flush=True)
            venv.create(python.parent.parent, with_pip=True)
        if subprocess.run([python, "-c", "import matplotlib"], check=False, capture_output=True).returncode:
            _checked([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PLOTTER])
        _checked([python, HERE / "plot.py", data, image])
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error)
        print(f"no plot: {words.strip().splitlines()[-1]}")
    else:
        print(f"written: {_shown(image)}")


def _checked(command: list[Any]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return value


if __name__ == "__main__":
    sys.exit(main())
