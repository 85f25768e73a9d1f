"""A run that was killed, and the run after it, as one recording: what did the second believe that was not durable?

After SIGKILL the next run sees every write of the one before, also those that were not synced. A power cut during
the second run, or after it, still takes them away, unless the second run has made durable what it went by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.crash.laws import COMMITTED, KEPT, PROVEN, VERIFIED
from tests.crash.scenes import Scene

from holdfast.testing import Event, File, Recording, Replayer, Said, State, Sync, SyncAll, record
from holdfast.testing.recording import StartFile

NEW_IDS = 10**6
"""Files that only the second run made are numbered from here on."""


def kill_points(recording: Recording) -> list[int]:
    """Prefixes at which something was just written and is about to be synced.

    Of each kind of file or folder the first and the last, between one thing said and the next.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    said = 0
    for prefix, event in enumerate(recording.events):
        if isinstance(event, Said):
            said += 1
        elif isinstance(event, Sync):
            kind = f"{said} " + re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+", "N", event.path)
            first.setdefault(kind, prefix)
            last[kind] = prefix
    return sorted({*first.values(), *last.values()})


def killed_and_run_again(scene: Scene, prefix: int, folder: Path) -> Recording:
    """Both runs as one recording, the first killed after `prefix` events."""
    replayer = Replayer(scene.recording)
    replayer.advance_to(prefix)
    tree = replayer.tree("killed")
    tree.write_to(folder / "work")
    second = record(scene.archive_command(folder / "work" / "vault"), folder / "work")
    assert second.returncode == 0, second.stderr.decode()
    ids = {path: node.file_id for path, node in tree.nodes.items() if isinstance(node, File)}
    same = {node.file_id: ids[node.path] for node in second.start if isinstance(node, StartFile)}
    events = tuple(_renumbered(event, same, prefix) for event in second.events)
    return Recording(scene.recording.roots, scene.recording.start, scene.recording.events[:prefix] + events)


def _renumbered(event: Event, same: dict[int, int], prefix: int) -> Event:
    if isinstance(event, SyncAll):
        return replace(event, begin_seq=event.begin_seq + prefix)
    if isinstance(event, Sync):
        event = replace(event, begin_seq=event.begin_seq + prefix)
    file_id = getattr(event, "file_id", None)
    if file_id is None:
        return event
    return replace(event, file_id=same.get(file_id, NEW_IDS + file_id))  # type: ignore[call-arg]


def states_after(recording: Recording, prefix: int, others: int) -> Iterator[State]:
    """Power cuts in the second run: just after each thing it said, at its end, and at so many `others` between."""
    last = len(recording.events)
    wanted = {last} | {prefix + (last - prefix) * number // (others + 1) for number in range(1, others + 1)}
    for number, event in enumerate(recording.events[prefix:], start=prefix + 1):
        text = event.data.decode() if isinstance(event, Said) else ""
        if any(pattern.search(text) for pattern in (KEPT, COMMITTED, VERIFIED, PROVEN)):
            wanted.add(number)
    replayer = Replayer(recording)
    for position in sorted(wanted):
        replayer.advance_to(position)
        label = f"killed after event {prefix}, run again, power cut after event {position}"
        yield State(label, position, replayer.tree("dropped"), replayer.said)
