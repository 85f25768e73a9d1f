"""What begins a tape: nothing, a mark and nothing else, our label, or somebody's data."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.tape.drive import VirtualDrive
from holdfast.tape.drive.virtual import make_cartridge
from holdfast.tape.scan import ForeignTape, RecordBuffer, is_blank, read_label_volume
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
