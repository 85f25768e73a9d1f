"""B6: a whole pair of LTO-6 tapes on the virtual clock, against the hours that papertape's users waited."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lab import MIB, Lab, Line, Row, Run

HERE = Path(__file__).resolve().parent
GENERATION = "LTO-6"
NATIVE_MB_S = 160
PAPERTAPE_H = 30.0
"""A pair of 2.5 TB: written one after the other from batches, then checked one after the other, one file in four."""

TARGET_H = 9.0
TARGET_NATIVE = 0.97
HOSTS_MB_S = {
    0: "files that are quicker than the drives",
    100: "files at 100 MB/s, as over a Gigabit network",
    30: "files at 30 MB/s, slower than the drives can run",
}
DISK_BYTES = 2000 * MIB


def measure(lab: Lab) -> list[Row]:
    lab.need_bytes(DISK_BYTES)
    row = Row(
        "B6",
        "a whole pair of LTO-6 tapes, written and every byte read back, on the virtual clock",
        f"at most {TARGET_H:g} h; at least {TARGET_NATIVE} of the native rate; no back-hitch",
    )
    for host_mb_s, what in HOSTS_MB_S.items():
        run, output = lab.run(
            [sys.executable, str(HERE / "virtual_pair.py"), str(lab.folder / "virtual"), GENERATION, str(host_mb_s)]
        )
        row.lines += _lines(what, run, json.loads(output), counts=host_mb_s == 0)
        lab.say(f"virtual: {row.lines[-1].figure}  {what}")
    row.notes = [
        (
            "The seconds are what the simulation took; the hours are virtual. The sequence of operations is that of the "
            "real command, on cartridges 4000 times smaller whose every byte counts 4000 times. The drives' figures are "
            "in holdfast/tape/drive/timing.py."
        ),
        f"papertape's users measured {PAPERTAPE_H:g} h, with one file in four read back.",
        "What the host does between two operations takes no virtual time: it reads ahead, or it works for seconds.",
    ]
    return [row]


def _lines(what: str, run: Run, facts: dict[str, Any], *, counts: bool) -> list[Line]:
    """The hours, and what they are made of; only what has a target is judged (`counts`)."""
    hours = facts["seconds"] / 3600
    native_s = facts["written_bytes"] / (NATIVE_MB_S * 1e6)
    shares = [native_s / facts["write_s"], native_s / facts["read_s"]]
    hitches = max(drive["back_hitches"] for drive in facts["drives"])
    stages = {name: seconds / 3600 for name, seconds in facts["stages_s"].items()}
    facts |= {"hours": hours, "native_shares": shares, "ratio_to_papertape": PAPERTAPE_H / hours}
    total = Line(what, [run], f"{hours:.2f} h, papertape/holdfast {PAPERTAPE_H / hours:.1f}", facts=facts)
    parts = Line(
        f"    dump {stages['dump']:.2f} h, verify {stages['verify']:.2f} h, {facts['objects']} objects",
        figure=f"{shares[0]:.3f} and {shares[1]:.3f} of native, {hitches} back-hitches",
    )
    if counts:
        total.verdict = _verdict(hours <= TARGET_H)
        parts.verdict = _verdict(min(shares) >= TARGET_NATIVE and hitches == 0)
        parts.figure += f"   {parts.verdict}"
    return [total, parts]


def _verdict(reached: bool) -> str:
    return "PASS" if reached else "FAIL"
