"""What begins a tape: nothing, a mark and nothing else, our label, or somebody's data."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from holdfast.tape import layout
from holdfast.tape.drive import EndOfData, VirtualDrive
from holdfast.tape.drive.virtual import make_cartridge
from holdfast.tape.layout import TapeFileName
from holdfast.tape.scan import ForeignTape, RecordBuffer, UnmarkedBegin, is_blank, read_label_volume
from holdfast.testing.conformance.drive import MARK, OnTape, write


@pytest.fixture
def drive(tmp_path: Path) -> VirtualDrive:
    make_cartridge(tmp_path / "HF0001L8", "HF0001L8", 2**26)
    return VirtualDrive("VDRIVE-0", tmp_path / "HF0001L8")


@pytest.mark.parametrize("items", [[], [MARK]])
def test_a_tape_with_nothing_but_a_mark_at_its_begin_is_blank(drive: VirtualDrive, items: OnTape) -> None:
    write(drive, items)
    buffer = RecordBuffer(512)
    assert is_blank(drive, buffer)
    assert read_label_volume(drive, buffer) is None


@pytest.mark.parametrize("items", [[b"x", MARK], [MARK, MARK], [MARK, b"x", MARK], [b"x"]])
def test_law_5_any_other_tape_is_not(drive: VirtualDrive, items: OnTape) -> None:
    write(drive, items)
    buffer = RecordBuffer(512)
    assert not is_blank(drive, buffer)
    with pytest.raises(ForeignTape):
        read_label_volume(drive, buffer)


class Unmarked(VirtualDrive):
    """A drive whose tape ends without a file mark, as after a power cut: its virtual cartridges cannot show that."""

    def read_record(self, buffer: memoryview) -> int:
        count = super().read_record(buffer)
        if not count:
            raise EndOfData
        return count


LABEL = TapeFileName("label", uuid.UUID(int=1), uuid.UUID(int=2))


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (b"VOL1BACK01 " + b" " * 69, None),
        (layout.encode_global(layout.object_comment(LABEL.kind, LABEL.id, LABEL.pair_id)), LABEL),
    ],
    ids=["somebody's", "a label"],
)
def test_law_5_never_overwrite_a_tape_that_begins_with_data_and_no_mark(
    tmp_path: Path, record: bytes, name: TapeFileName | None
) -> None:
    make_cartridge(tmp_path / "HF0001L8", "HF0001L8", 2**26)
    drive = Unmarked("VDRIVE-0", tmp_path / "HF0001L8")
    write(drive, [record, MARK])
    buffer = RecordBuffer(2048)
    assert not is_blank(drive, buffer)
    with pytest.raises(UnmarkedBegin) as raised:
        read_label_volume(drive, buffer)
    assert raised.value.name == name
