"""The fault tools, made once and used by every room's tests; nothing of the product may import them.

A claim of crash safety is tested here in three ways. `record` runs a real command under a tracer and writes down every
change it makes to its files, its syncs, and what it says; `distinct_states` then gives every tree of files a crash
could leave behind, and the test opens each one and looks whether all that was *said* is still there. `run_killed_at`
really kills the command at a chosen event. `run_with_fault` makes chosen system calls fail: disk full, bad sector,
short write. `FakeClock` and `flip_bit` do the same for time and for silent damage. For tapes, `holdfast.testing.tapefaults`
makes drives and changers fail, and `holdfast.testing.tapetime` gives them a virtual time.

The tracer works on 64-bit x86 Linux, without a compiler or privileges; elsewhere `why_no_tracing` gives the reason to
skip a test with. Example::

    recording = record([sys.executable, "-m", "holdfast", ...], roots=work)
    for state in distinct_states(recording, share=0.1):
        state.tree.write_to(tmp_path / f"state-{state.prefix}")
        ...  # open it, and compare with state.said; state.label says what was cut
"""

from holdfast.testing.clock import Clock, FakeClock
from holdfast.testing.errors import (
    CommandTimedOut,
    FaultToolError,
    ImpossibleEvent,
    UnsupportedPlatform,
    UntraceableCall,
)
from holdfast.testing.events import (
    Create,
    Event,
    Link,
    MakeFolder,
    RemoveFolder,
    Rename,
    Said,
    Symlink,
    Sync,
    SyncAll,
    Truncate,
    Unlink,
    Write,
    describe,
)
from holdfast.testing.faults import (
    CREATES,
    LINKS,
    READS,
    RENAMES,
    RESIZES,
    SYNCS,
    UNLINKS,
    WRITES,
    Fault,
    FaultOutcome,
    disk_full,
    run_with_fault,
)
from holdfast.testing.flip import flip_bit
from holdfast.testing.kill import Outcome, count_events, run_killed_at, run_signalled_at
from holdfast.testing.recorder import record, why_no_tracing
from holdfast.testing.recording import Recording
from holdfast.testing.replay import ALL_VARIANTS, Replayer, State, Variant, distinct_states, states
from holdfast.testing.tree import Content, File, Folder, Tree

__all__ = [
    "ALL_VARIANTS",
    "CREATES",
    "LINKS",
    "READS",
    "RENAMES",
    "RESIZES",
    "SYNCS",
    "UNLINKS",
    "WRITES",
    "Clock",
    "CommandTimedOut",
    "Content",
    "Create",
    "Event",
    "FakeClock",
    "Fault",
    "FaultOutcome",
    "FaultToolError",
    "File",
    "Folder",
    "ImpossibleEvent",
    "Link",
    "MakeFolder",
    "Outcome",
    "Recording",
    "RemoveFolder",
    "Rename",
    "Replayer",
    "Said",
    "State",
    "Symlink",
    "Sync",
    "SyncAll",
    "Tree",
    "Truncate",
    "Unlink",
    "UnsupportedPlatform",
    "UntraceableCall",
    "Variant",
    "Write",
    "count_events",
    "describe",
    "disk_full",
    "distinct_states",
    "flip_bit",
    "record",
    "run_killed_at",
    "run_signalled_at",
    "run_with_fault",
    "states",
    "why_no_tracing",
]
