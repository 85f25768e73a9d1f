"""Programs that write to a dictionary and say what they have written, and what must be found after any end of theirs."""

from __future__ import annotations

import sys
from pathlib import Path

from holdfast.state import POD

WRITER = """
import sys
from holdfast.state import POD

folder, level, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
pod = POD(folder, durability="kill" if level == "sync" else level, default={"list": [], "n": 0})
first = len(pod["list"])
for i in range(first, first + count):
    with pod.transaction():
        pod[i] = "x" * 100
        pod["list"].append(i)
        pod.set["n"] += 1
        if i % 3 == 2:
            del pod[i - 1]
    if level == "sync":
        pod.sync()
    print(i, flush=True)
"""


def command(folder: Path, level: str, count: int) -> list[str]:
    """Writes `count` entries more; `level` is a durability, or "sync" for a `sync` before each is said."""
    return [sys.executable, "-c", WRITER, str(folder), level, str(count)]


def check(folder: Path, said: bytes) -> int:
    """Open what is left, look whether all that was said is there and whole, and write on; how many were said."""
    lines = said.split(b"\n")[:-1]  # the last line may be cut
    if not (folder / "state.db").exists():
        assert not lines
        return 0
    with POD(folder, default={"list": [], "n": 0}) as pod:
        assert pod.verify() == []
        found: list[int] = pod["list"]
        assert found == list(range(len(found)))
        assert pod["n"] == len(found) >= len(lines)
        kept = {i for i in found if not (i % 3 == 1 and i + 1 < len(found))}
        assert {key: value for key, value in pod.items() if isinstance(key, int)} == dict.fromkeys(
            sorted(kept), "x" * 100
        )
        pod["after"] = len(found)
        pod.sync()
    return len(lines)
