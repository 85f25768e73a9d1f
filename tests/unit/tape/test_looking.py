"""What a cartridge says that it is, whoever wrote it."""

from __future__ import annotations

import io
import tarfile
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.tape.test_label import LABEL

from holdfast.tape import label as labels
from holdfast.tape import layout
from holdfast.tape.drive.virtual import VirtualDrive, make_cartridge
from holdfast.tape.fan import RecordFan
from holdfast.tape.looking import look_at
from holdfast.tape.writing import write_small_tar

OBJECT = layout.object_comment("object", uuid.UUID(int=4), uuid.UUID(int=2))


def a_tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return data.getvalue()


@pytest.fixture
def drive(tmp_path: Path) -> VirtualDrive:
    make_cartridge(tmp_path / "HF0001L8", "HF0001L8", 2**26)
    return VirtualDrive("TEST", tmp_path / "HF0001L8")


def write(drive: VirtualDrive, comment: str, name: bytes, data: bytes) -> None:
    with RecordFan([drive], 2**18) as fan:
        write_small_tar(fan, comment, [(name, data)])
        fan.end_file()
        fan.each(lambda d: d.write_file_mark(synchronous=True))
        fan.wait()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"VOL1ABC123L" + b" " * 13 + b"LTFS" + b" " * 52, "an LTFS tape, volume 'ABC123'"),
        (b"VOL1BACK01 " + b" " * 69, "a tape with ANSI labels, volume 'BACK01'"),
        (b"## Paper dump catalog:123 (version:1 on 20131022-0303)\n", "a tape of papertape"),
        (a_tar(), "a tar archive that is no label of Holdfast"),
        (layout.encode_global(OBJECT), f"the begin of Holdfast's object {uuid.UUID(int=4)}, pair {uuid.UUID(int=2)}"),
    ],
    ids=["LTFS", "ANSI", "papertape", "tar", "Holdfast's object"],
)
def test_a_tape_that_begins_with_no_label_of_ours_is_called_by_its_name(
    drive: VirtualDrive, record: bytes, words: str
) -> None:
    drive.write_record(memoryview(record))
    drive.write_file_mark(synchronous=True)
    assert look_at(drive).words == words
    drive.close()


def test_a_blank_tape_and_one_that_begins_with_a_mark(drive: VirtualDrive) -> None:
    assert look_at(drive).words == "a blank tape"
    drive.rewind()
    drive.write_file_mark(synchronous=True)
    assert look_at(drive).words == "a blank tape"  # as some drives erase
    drive.rewind()
    drive.write_file_mark(synchronous=True)
    drive.write_record(memoryview(b"somebody's"))
    drive.write_file_mark(synchronous=True)
    assert look_at(drive).words == "a tape that begins with a file mark"
    drive.close()


def test_a_label_tells_whose_side_it_is_and_a_newer_one_what_is_needed(drive: VirtualDrive) -> None:
    comment = layout.object_comment("label", LABEL.volume_id, LABEL.pair_id)
    write(drive, comment, labels.VOLUME_NAME, labels.encode_volume(LABEL))
    found = look_at(drive)
    assert (found.label, found.words) == (LABEL, "side A of a pair of Holdfast, written for HF0001L8")
    drive.rewind()
    write(drive, comment, labels.VOLUME_NAME, labels.encode_volume(replace(LABEL, format=2)))
    assert look_at(drive).words == "a tape of a newer format than this Holdfast knows: format 2"
    drive.close()
