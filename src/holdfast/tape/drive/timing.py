"""How long a real drive would take: LTO-6 to LTO-9 on a clock of their own.

Pure: no drive, no clock of the machine. A `DriveTimer` is told what a drive is asked to do, and adds up the seconds
that a drive of its generation would need, its back-hitches and its wrap turns. It says how an order of operations
compares with another, or with the drive at its native rate; it does not forecast one drive to the second.

The model. A tape is written in wraps, there and back, from band to band; a byte's wrap and its place along the tape
follow from its distance from the begin. Between host and tape lies the drive's buffer. Writing, the tape runs at the
two of its speeds around the host's in turn, no slower than its lowest; if the buffer runs empty it stops, and has to
go back and take a run (a back-hitch); it starts again when the buffer is full, or at once to put everything on the
tape. Reading is the same with a buffer that runs full. What the host does between two operations takes no time here, but for `host_bytes_s`.

The figures come from makers' manuals (IBM TS2290, IBM TS4300 on speed matching, Oracle SL150, HPE QuickSpecs) and
from users' measurements (FNAL's guide to tape users), as named with each.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Protocol

MIB = 2**20
MB = 10**6
TB = 10**12

SPEED_STEPS = 12
"""Speeds between the lowest and the native one; makers name the ends, so the steps are spread evenly between them."""

BANDS = 4
"""All generations write one data band after the other, of four (ECMA-319 and its successors)."""

IMMEDIATE_MARK_S = 0.01
"""A file mark that is not waited for: a command's time. FNAL: it makes no difference that can be measured."""

TINY_BYTES = 64.0
"""So little in the buffer is nothing: floating point cannot tell it from nothing when a year has gone by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generation of full-height drives, with its own cartridges. Rates are native: without compression.

    capacity_bytes, native_bytes_s: the generation's sheet. wraps: HPE QuickSpecs. lowest_bytes_s: the slowest host
    that it follows without stopping, IBM TS4300 (LTO-6: HPE). buffer_bytes: makers' sheets. load_s, unload_s: IBM
    TS2290, without the robot and without the way back to the begin. calibration_s: the first load of a cartridge for
    ever; Oracle SL150 says 20 minutes to 2 hours, this is the middle.
    """

    name: str
    capacity_bytes: int
    native_bytes_s: float
    lowest_bytes_s: float
    wraps: int
    buffer_bytes: int
    load_s: float
    unload_s: float
    calibration_s: float = 0.0
    end_to_end_s: float = 99.0
    """From one end of the tape to the other without reading: HP's longest access of LTO-6."""
    reposition_s: float = 3.0
    """Stop, go back, take a run: 2.5 s (HP LTO-6) to 3 s (FNAL, from the cost of a synchronous mark)."""
    wrap_turn_s: float = 1.5
    """From the end of a wrap to the begin of the next: HP LTO-6."""
    robot_s: float = 20.0
    """A cartridge's way between slot and drive: 10 to 30 s, FNAL."""

    @property
    def wrap_bytes(self) -> float:
        return self.capacity_bytes / self.wraps

    def speeds_around(self, host_bytes_s: float | None) -> tuple[float, float]:
        """The highest speed that is no quicker than the host, and the lowest that is no slower.

        Both are the lowest speed for a slower host, and the native one for a quicker host (None: endlessly quick).
        """
        host = self.native_bytes_s if host_bytes_s is None else host_bytes_s
        host = min(max(host, self.lowest_bytes_s), self.native_bytes_s)
        step = (self.native_bytes_s - self.lowest_bytes_s) / (SPEED_STEPS - 1)
        number = (host - self.lowest_bytes_s) / step
        return self.lowest_bytes_s + floor(number) * step, self.lowest_bytes_s + ceil(number) * step

    def wrap_of(self, byte: float) -> int:
        """The wrap that a byte lies in, from 0; even wraps run away from the begin, odd ones towards it."""
        return min(int(byte / self.wrap_bytes), self.wraps - 1)

    def place_of(self, byte: float) -> float:
        """How far along the tape a byte lies: 0 at its begin, 1 at its far end."""
        wrap = self.wrap_of(byte)
        part = min(byte / self.wrap_bytes - wrap, 1.0)
        return part if wrap % 2 == 0 else 1.0 - part

    def rewind_s(self, byte: float) -> float:
        """From a byte to the begin of the tape: along it at full speed, and 1.5 s to stop (HP LTO-6)."""
        return 1.5 + self.end_to_end_s * self.place_of(byte)

    def locate_s(self, begin: float, end: float) -> float:
        """From one byte to another: along the tape, across it to the other wrap, and a run where it must turn back.

        Terms and constants of a published cost model (remanence, after HP's figures of LTO-6). Its order is to be
        believed (which of two places is quicker to reach), its seconds less.
        """
        one, other = self.wrap_of(begin), self.wrap_of(end)
        along = self.end_to_end_s * abs(self.place_of(end) - self.place_of(begin))
        bands = abs(self._band(other) - self._band(one))
        across = 0.0 if one == other else 0.3 + 1.5 + 0.8 * bands
        turns_back = (one - other) % 2 == 1 or end < begin
        return 0.5 + along + across + (2.5 if turns_back else 0.0)

    def _band(self, wrap: int) -> int:
        return wrap * BANDS // self.wraps


LTO_6 = Generation(
    name="LTO-6",
    capacity_bytes=2_500_000 * MB,
    native_bytes_s=160 * MB,
    lowest_bytes_s=54 * MB,
    wraps=136,
    buffer_bytes=512 * MIB,
    load_s=12,
    unload_s=17,
)
LTO_7 = Generation(
    name="LTO-7",
    capacity_bytes=6 * TB,
    native_bytes_s=300 * MB,
    lowest_bytes_s=101 * MB,
    wraps=112,
    buffer_bytes=1024 * MIB,
    load_s=15,
    unload_s=20,
)
LTO_8 = Generation(
    name="LTO-8",
    capacity_bytes=12 * TB,
    native_bytes_s=360 * MB,
    lowest_bytes_s=112 * MB,
    wraps=208,
    buffer_bytes=1024 * MIB,
    load_s=15,
    unload_s=24,
)
LTO_9 = Generation(
    name="LTO-9",
    capacity_bytes=18 * TB,
    native_bytes_s=400 * MB,
    lowest_bytes_s=177 * MB,
    wraps=280,
    buffer_bytes=1024 * MIB,
    load_s=16,
    unload_s=56,
    calibration_s=70 * 60,
)
GENERATIONS = {item.name: item for item in (LTO_6, LTO_7, LTO_8, LTO_9)}


class Pace(Protocol):
    """Where several drives share one time: told when an operation begins, and when it is over."""

    def begin(self, timer: DriveTimer) -> None:
        """May let the drive wait (`DriveTimer.wait_until`) before it begins."""
        ...

    def end(self, timer: DriveTimer, *, synchronous: bool) -> None:
        """`synchronous`: it was a synchronous mark."""
        ...


@dataclass(slots=True)
class DriveCounts:
    """What a drive did, in bytes of the real tape, and the seconds that each kind of operation took."""

    written_bytes: float = 0
    read_bytes: float = 0
    synchronous_marks: int = 0
    back_hitches: int = 0
    wrap_turns: int = 0
    loads: int = 0
    moves: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("write", "mark", "read", "move", "load", "unload", "wait"), 0.0)
    )


class DriveTimer:
    """The time of one drive; kept while cartridges come and go. Not for several threads at once.

    `now_s`: virtual seconds since it was made. `host_bytes_s`: how quickly the host hands over or takes records, None
    for endlessly; it may be changed at any time. `scale`: each byte that it is told of stands for so many, so that a
    small virtual cartridge can stand for a whole one.
    """

    def __init__(
        self, generation: Generation, *, host_bytes_s: float | None = None, scale: float = 1, pace: Pace | None = None
    ) -> None:
        self.generation = generation
        self.host_bytes_s = host_bytes_s
        self.now_s = 0.0
        self.counts = DriveCounts()
        self._scale = scale
        self._pace = pace
        self._at = 0.0  # where the host is, in real bytes from the begin
        self._mode = ""  # "write", "read", or nothing under way
        self._fill = 0.0  # of the buffer
        self._runs = False  # the tape
        self._starved = False  # it came to stand though the host was not done
        self._ready_s = 0.0  # when it can run again
        self._to_turn = generation.wrap_bytes
        self._flushing = False

    # -- what the drive tells

    def loaded(self, *, is_new: bool) -> None:
        """A cartridge came from its slot and is ready at its begin. `is_new`: for the first time ever."""
        with self._operation("load"):
            self.counts.loads += 1
            calibration_s = self.generation.calibration_s if is_new else 0.0
            self._pass(self.generation.robot_s + self.generation.load_s + calibration_s)
            self._at = 0.0

    def unloaded(self) -> None:
        """What is in the buffer goes on the tape; the cartridge is rewound, unloaded and carried to its slot."""
        with self._operation("unload"):
            self._settle()
            self._pass(self.generation.rewind_s(self._at) + self.generation.unload_s + self.generation.robot_s)

    def lost_power(self) -> None:
        """What was in the buffer is gone; no time passes."""
        self._mode, self._fill, self._runs, self._starved = "", 0.0, False, False

    def wrote(self, at_byte: int, size_bytes: int) -> None:
        """A record was handed over, to lie at this distance from the begin of the tape."""
        with self._operation("write"):
            self._begin("write", at_byte)
            left = size_bytes * self._scale
            self.counts.written_bytes += left
            self._at += left
            while left > 0:
                piece = min(left, self.generation.buffer_bytes / 4)
                self._take_in(piece)
                left -= piece

    def marked(self, *, synchronous: bool) -> None:
        """A file mark was written: at once, or when everything before it was on the tape."""
        with self._operation("mark", synchronous=synchronous):
            if not synchronous:
                self._pass(IMMEDIATE_MARK_S)
                return
            self.counts.synchronous_marks += 1
            self._settle()
            self._pass(self.generation.reposition_s)

    def read(self, at_byte: int, size_bytes: int) -> None:
        """A record was read, which lies at this distance from the begin."""
        with self._operation("read"):
            self._begin("read", at_byte)
            left = size_bytes * self._scale
            self.counts.read_bytes += left
            self._at += left
            while left > 0:
                piece = min(left, self.generation.buffer_bytes / 4)
                self._give_out(piece)
                left -= piece

    def moved(self, to_byte: int) -> None:
        """The tape was positioned. Where it stands already, nothing happens, and a tape that runs runs on."""
        target = to_byte * self._scale
        if self._mode != "write" and abs(target - self._at) < 0.5:
            return
        with self._operation("move"):
            self.counts.moves += 1
            self._settle()
            way = self.generation
            self._pass(way.locate_s(self._at, target) if target else way.rewind_s(self._at))
            self._at = target

    def wait_until(self, moment_s: float) -> None:
        """Nothing is asked of the drive until then; a tape that runs may come to stand."""
        before = self.now_s
        self._run(moment_s)
        self.counts.seconds["wait"] += self.now_s - before

    # -- what happens inside

    @contextmanager
    def _operation(self, kind: str, *, synchronous: bool = False) -> Generator[None, None, None]:
        if self._pace is not None:
            self._pace.begin(self)
        before = self.now_s
        yield
        self.counts.seconds[kind] += self.now_s - before
        if self._pace is not None:
            self._pace.end(self, synchronous=synchronous)

    def _begin(self, mode: str, at_byte: int) -> None:
        if self._mode == mode:
            return
        self._settle()
        self._mode, self._at = mode, at_byte * self._scale
        self._to_turn = self.generation.wrap_bytes - self._at % self.generation.wrap_bytes

    def _settle(self) -> None:
        """Put what was written on the tape, forget what was read ahead, and stop."""
        if self._mode == "write" and self._fill > TINY_BYTES:
            self._flushing = True
            self._run_to(0.0)
            self._flushing = False
        self._mode, self._fill, self._runs, self._starved = "", 0.0, False, False

    def _pass(self, seconds: float) -> None:
        self._run(self.now_s + seconds)

    def _host_s(self, size_bytes: float) -> float:
        return 0.0 if self.host_bytes_s is None else size_bytes / self.host_bytes_s

    def _take_in(self, piece: float) -> None:
        """The host hands over a piece; it waits while the buffer is full."""
        self._pass(self._host_s(piece))
        room = self.generation.buffer_bytes - piece
        if self._fill > room:
            self._start()
            self._run_to(room)
        self._fill += piece

    def _give_out(self, piece: float) -> None:
        """The host takes a piece; it waits until the tape has given it. A stopped tape starts before it is missed."""
        self._pass(self._host_s(piece))
        needed = min(self.generation.reposition_s * (self.host_bytes_s or 0.0), self.generation.buffer_bytes / 2)
        if self._fill <= max(piece, needed):
            self._start()
        if self._fill < piece:
            self._run_to(piece)
        self._fill = max(0.0, self._fill - piece)

    def _run_to(self, fill: float) -> None:
        """Let the tape run until the buffer holds so much."""
        while abs(self._fill - fill) > TINY_BYTES:
            way = min(abs(self._fill - fill), self._to_turn)
            self._start()
            self._run(max(self.now_s, self._ready_s) + way / self._speed())

    def _speed(self) -> float:
        """The quicker of the two speeds around the host's while there is more than half a buffer to run, else the other."""
        slow, quick = self.generation.speeds_around(self.host_bytes_s)
        return quick if self._left_to_run() > self.generation.buffer_bytes / 2 else slow

    def _run(self, until_s: float) -> None:
        """Let time pass; a tape that runs empties the buffer (writing) or fills it (reading)."""
        while self.now_s < until_s and self._runs:
            self.now_s = max(self.now_s, min(self._ready_s, until_s))
            if self.now_s >= until_s:
                break
            way = min((until_s - self.now_s) * self._speed(), self._left_to_run(), self._to_turn)
            self.now_s += way / self._speed()
            self._moved_by(way)
            if way < TINY_BYTES:
                break
        self.now_s = max(self.now_s, until_s)

    def _left_to_run(self) -> float:
        """What the tape can still take or give before it must stop."""
        return self._fill if self._mode == "write" else self.generation.buffer_bytes - self._fill

    def _moved_by(self, way: float) -> None:
        self._fill += -way if self._mode == "write" else way
        self._to_turn -= way
        if self._to_turn <= TINY_BYTES:
            self.counts.wrap_turns += 1
            self._to_turn = self.generation.wrap_bytes
            self._ready_s = self.now_s + self.generation.wrap_turn_s
        if self._left_to_run() <= TINY_BYTES:
            self._stop()

    def _start(self) -> None:
        """A tape that came to stand amid the work, and starts again, has done a back-hitch."""
        self.counts.back_hitches += self._starved
        self._runs, self._starved = True, False

    def _stop(self) -> None:
        """The buffer is empty, or full: unless that was meant, the tape goes back, to take a run when it starts."""
        self._runs = False
        if not self._flushing:
            self._starved = True
            self._ready_s = max(self._ready_s, self.now_s + self.generation.reposition_s)
