"""Draws the figures of a results file: `python plot.py latest.json latest.svg`. Needs matplotlib; run.py sees to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

OURS = "#1b6ca8"
SHADES = ("#0d3b66", "#1b6ca8", "#5fa8d3", "#9bcbe6", "#cfe6f3", "#e8f1f6")


def main(data: Path, image: Path) -> None:
    document = json.loads(data.read_text())
    rows = {row["id"]: row for row in document["rows"] if any(line["runs"] for line in row["lines"])}
    if not rows:
        raise SystemExit("nothing was measured")
    plt.rcParams |= {
        "svg.hashsalt": "holdfast",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    figure, axes = plt.subplots(len(rows), 1, figsize=(10, 2.1 * len(rows) + 0.8), squeeze=False)
    for axis, row in zip(axes[:, 0], rows.values(), strict=True):
        if row["id"] == "B4":
            _memory(axis, row)
        elif row["id"] == "B5":
            _cost(axis, row)
        else:
            _seconds(axis, row)
        axis.set_title(f"{row['id']}: {row['title']}", loc="left", fontweight="bold")
        axis.invert_yaxis()
    figure.text(0.01, 0.004, document["summary"], fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, 0.015, 1, 1))
    figure.savefig(image, metadata={"Date": None})


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in row["lines"] if line["runs"]]


def _seconds(axis: Any, row: dict[str, Any]) -> None:
    """A bar of its stages for each line, and a dot for each run."""
    for place, line in enumerate(_lines(row)):
        left = 0.0
        stages = line["facts"].get("stages_s") or {"": median(run["wall_s"] for run in line["runs"])}
        ours = line["what"].startswith("holdfast")
        for number, (name, seconds) in enumerate(stages.items()):
            colour = SHADES[number % len(SHADES)] if ours else str(0.55 + 0.12 * (number % 4))
            axis.barh(place, seconds, left=left, color=colour, height=0.7)
            if seconds > 0.09 * max(run["wall_s"] for item in _lines(row) for run in item["runs"]):
                dark = ours and number < 2
                axis.text(
                    left + seconds / 2, place, name, ha="center", va="center", fontsize=7, color="w" if dark else "k"
                )
            left += seconds
        axis.plot([run["wall_s"] for run in line["runs"]], [place] * len(line["runs"]), "k.", markersize=3)
        end = max([left, *(run["wall_s"] for run in line["runs"])])
        axis.text(end, place, f"  {line['figure']} {line['verdict']}", va="center", fontsize=7)
    axis.set_yticks(range(len(_lines(row))), [line["what"] for line in _lines(row)], fontsize=7)
    axis.set_xlabel("seconds", fontsize=7)
    axis.margins(x=0.3)


def _memory(axis: Any, row: dict[str, Any]) -> None:
    lines = _lines(row)
    peaks = [max(run["rss_bytes"] for run in line["runs"]) / 2**20 for line in lines]
    axis.barh(range(len(lines)), peaks, color=OURS, height=0.7)
    axis.axvline(300, color="#c0392b", linewidth=1)
    axis.set_yticks(range(len(lines)), [line["what"] for line in lines], fontsize=7)
    axis.set_xlabel("peak resident MiB (line: the limit)", fontsize=7)


def _cost(axis: Any, row: dict[str, Any]) -> None:
    """Microseconds of a file: on the wall, and of the processor."""
    lines = [line for line in _lines(row) if "us_a_file" in line["facts"]]
    for place, line in enumerate(lines):
        facts = line["facts"]
        axis.barh(place - 0.18, facts["us_a_file"], color=SHADES[2], height=0.34)
        axis.barh(place + 0.18, facts["cpu_us_a_file"], color=SHADES[0], height=0.34)
        axis.text(facts["us_a_file"], place - 0.18, "  on the wall", va="center", fontsize=7)
        axis.text(
            facts["cpu_us_a_file"], place + 0.18, f"  of the processor {line['verdict']}", va="center", fontsize=7
        )
    axis.set_yticks(range(len(lines)), [line["what"] for line in lines], fontsize=7)
    axis.set_xlabel("microseconds a file", fontsize=7)
    axis.margins(x=0.3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
