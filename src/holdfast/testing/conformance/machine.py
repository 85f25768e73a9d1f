"""A drive against the simplest possible tape: a list of records and marks. Hypothesis looks for the shortest way in
which the two differ.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.errors import MediaError
from holdfast.tape.drive import EndOfData, TapeDrive
from holdfast.testing.conformance.drive import MARK, NOTHING, DriveStand, place, read_on


class DriveMachine(RuleBasedStateMachine):
    """Subclasses give `make_stand`; its cartridge must be blank, and large enough never to fill up.

    `items`: what is on the tape; `position`: where it stands; `committed`: what would survive a power cut.
    """

    unit_bytes = 1
    """The lengths of records are multiples of this."""

    def make_stand(self) -> DriveStand:
        raise NotImplementedError("a subclass gives its stand")

    def __init__(self) -> None:
        super().__init__()
        self.stand = self.make_stand()
        self.drive: TapeDrive = self.stand.load()
        self.items: list[bytes | None] = []
        self.position = 0
        self.writing = False
        self.committed: list[bytes | None] = []

    def teardown(self) -> None:
        self.stand.unload(self.drive)
        self.stand.close()

    def _put(self, item: bytes | None) -> None:
        del self.items[self.position :]
        if len(self.committed) > self.position:
            # its mark is gone, so what is left of the tape file that is written over need not survive
            self.committed = self.items.copy()
            while self.committed and self.committed[-1] is not MARK:
                self.committed.pop()
        self.items.append(item)
        self.position += 1

    def _leave(self) -> None:
        """Going elsewhere after a write ends the tape file."""
        if self.writing:
            self._put(MARK)
        self.writing = False

    @rule(size=st.integers(1, 40), fill=st.integers(0, 255), count=st.integers(1, 3))
    def write_records(self, size: int, fill: int, count: int) -> None:
        for _ in range(count):
            data = bytes([fill]) * size * self.unit_bytes
            self.drive.write_record(memoryview(data))
            self._put(data)
        self.writing = True

    @rule(synchronous=st.booleans())
    def write_file_mark(self, synchronous: bool) -> None:
        self.drive.write_file_mark(synchronous=synchronous)
        self._put(MARK)
        self.writing = False
        if synchronous:
            self.committed = list(self.items)

    @rule()
    def erase(self) -> None:
        self.drive.erase()
        found = read_on(self.drive, 64 * self.unit_bytes)
        assert found in NOTHING
        self.drive.rewind()
        self.items, self.position, self.writing = found, 0, False
        self.committed = list(found)

    @rule(count=st.integers(1, 5))
    def read(self, count: int) -> None:
        self._leave()
        buffer = memoryview(bytearray(64 * self.unit_bytes))
        for _ in range(count):
            if self.position == len(self.items):
                with pytest.raises(EndOfData):
                    self.drive.read_record(buffer)
                return
            length = self.drive.read_record(buffer)
            assert (bytes(buffer[:length]) or MARK) == self.items[self.position]
            self.position += 1

    @rule()
    def rewind(self) -> None:
        self._leave()
        self.drive.rewind()
        self.position = 0

    @rule(data=st.data())
    def locate(self, data: st.DataObject) -> None:
        self._leave()
        block = data.draw(st.integers(0, len(self.items) + 2))
        if block <= len(self.items):
            self.drive.locate(place(self.items, block))
            self.position = block
        else:
            with pytest.raises(MediaError):
                self.drive.locate(place(self.items, block))
            self.position = len(self.items)
            self.drive.locate(place(self.items, self.position))

    @rule(count=st.integers(0, 3))
    def space_file_marks(self, count: int) -> None:
        self._leave()
        marks = [block for block, item in enumerate(self.items) if item is MARK and block >= self.position]
        if count <= len(marks):
            self.drive.space_file_marks(count)
            self.position = marks[count - 1] + 1 if count else self.position
        else:
            with pytest.raises(EndOfData):
                self.drive.space_file_marks(count)
            self.position = len(self.items)
            self.drive.locate(place(self.items, self.position))

    @rule()
    def reload(self) -> None:
        self._leave()
        self.stand.unload(self.drive)
        self.drive = self.stand.load()
        self.position = 0
        self.committed = list(self.items)

    @precondition(lambda self: self.stand.can_cut_power)
    @rule()
    def cut_power(self) -> None:
        self.stand.cut_power(self.drive)
        self.drive = self.stand.load()
        found = read_on(self.drive, 64 * self.unit_bytes)
        assert found[: len(self.committed)] == self.committed
        self.drive.rewind()
        self.items, self.position, self.writing = found, 0, False
        self.committed = list(found)

    @rule()
    def read_everything(self) -> None:
        self._leave()
        self.drive.rewind()
        found = read_on(self.drive, 64 * self.unit_bytes)
        assert found == self.items, f"{found} read, {self.items} written"
        self.position = len(self.items)

    @invariant()
    def the_tape_stands_where_it_should(self) -> None:
        assert self.drive.tell() == place(self.items, self.position)
