"""A backend that fails, lies, and gives short or wrong bytes, on command; around any other one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.blocks.backends import HeldPack, OpenPack, PackBackend, Progress
from holdfast.errors import BackendError

CALLS: tuple[str, ...] = ("packs", "held", "open", "put", "read", "remove")
KINDS = ("fail", "lie", "short", "flip", "kill before", "kill amid", "kill after")


class Killed(BaseException):
    """The process ended here, as far as the code that is tested can tell."""


@dataclass(frozen=True, slots=True)
class BackendFault:
    """Which calls go wrong, and how: the `nth` of this name (from 1) and `count` - 1 more; None: all that follow.

    `fail`: the place cannot be reached. `lie`: it says that it did what it did not (put, remove). `short`, `flip`: a read
    gives half of the bytes, or one bit turned. `kill`: the process ends before, amid (put) or after it.
    """

    call: str
    kind: str = "fail"
    nth: int = 1
    count: int | None = 1

    def __post_init__(self) -> None:
        if self.call not in CALLS or self.kind not in KINDS:
            raise ValueError(f"no such fault: {self.call}, {self.kind}")


class FaultyBackend:
    """Does what the backend in it does, but for its faults; `calls` counts them by name."""

    def __init__(self, inner: PackBackend, *faults: BackendFault) -> None:
        self.inner = inner
        self.faults = list(faults)
        self.calls: dict[str, int] = dict.fromkeys(CALLS, 0)
        self.url = inner.url

    def meets(self, call: str) -> str:
        """A call is made: which kind of fault it meets; empty for none. Raises what comes before the call."""
        self.calls[call] += 1
        for fault in self.faults:
            since = self.calls[call] - fault.nth
            if fault.call == call and since >= 0 and (fault.count is None or since < fault.count):
                if fault.kind == "fail":
                    raise BackendError(
                        "the place cannot be reached",
                        place=self.url,
                        found=f"{call} failed on command",
                        hint="try again",
                    )
                if fault.kind == "kill before":
                    raise Killed
                return fault.kind
        return ""

    def packs(self) -> Iterator[HeldPack]:
        self.meets("packs")
        return self.inner.packs()

    def held(self, pack_id: uuid.UUID) -> HeldPack | None:
        self.meets("held")
        return self.inner.held(pack_id)

    def open(self, pack_id: uuid.UUID) -> OpenPack | None:
        self.meets("open")
        pack = self.inner.open(pack_id)
        return None if pack is None else _FaultyPack(self, pack)

    def put(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> bool:
        kind = self.meets("put")
        if kind == "lie":
            progress(source.size_bytes)
            return True
        taken = self.inner.put(pack_id, _Ending(source) if kind == "kill amid" else source, progress)
        if kind == "kill after":
            raise Killed
        return taken

    def remove(self, pack_id: uuid.UUID) -> None:
        if self.meets("remove") != "lie":
            self.inner.remove(pack_id)


class _Ending:
    """A pack that is being read when the process ends."""

    def __init__(self, inner: OpenPack) -> None:
        self._inner = inner
        self.place, self.size_bytes = inner.place, inner.size_bytes

    def read_into(self, buffer: memoryview, offset: int) -> int:
        if offset + len(buffer) >= self.size_bytes:
            raise Killed
        return self._inner.read_into(buffer, offset)

    def forget(self) -> bool:
        return self._inner.forget()

    def close(self) -> None:
        self._inner.close()


class _FaultyPack:
    def __init__(self, backend: FaultyBackend, inner: OpenPack) -> None:
        self._backend = backend
        self._inner = inner
        self.place, self.size_bytes = inner.place, inner.size_bytes

    def read_into(self, buffer: memoryview, offset: int) -> int:
        kind = self._backend.meets("read")
        got_bytes = self._inner.read_into(buffer, offset)
        if kind == "short":
            return got_bytes // 2
        if kind == "flip" and got_bytes:
            buffer[got_bytes // 2] ^= 1
        if kind == "kill after":
            raise Killed
        return got_bytes

    def forget(self) -> bool:
        self._inner.forget()
        return True

    def close(self) -> None:
        self._inner.close()
