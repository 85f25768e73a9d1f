"""What lies on a tape, found by spacing; nothing is believed that is not this pair's."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.tape.building import PAIR_ID, RECORD_BYTES, file, tape_file, write_cartridge

from holdfast.errors import MediaError
from holdfast.tape import layout
from holdfast.tape.drive import Position
from holdfast.tape.drive.virtual import VirtualDrive
from holdfast.tape.scan import RecordBuffer
from holdfast.tape.survey import SeenFile, survey


def named(kind: str, own_id: uuid.UUID, pair_id: uuid.UUID = PAIR_ID, *, records: int = 1) -> bytes:
    data = bytearray(tape_file([file(b"a/x", b"x" * RECORD_BYTES * (records - 1))]))
    head = layout.encode_global(layout.object_comment(kind, own_id, pair_id))
    data[: len(head)] = head
    return bytes(data)


@contextmanager
def drive_with(folder: Path, tape_files: list[bytes]) -> Iterator[VirtualDrive]:
    write_cartridge(folder, tape_files)
    drive = VirtualDrive("TEST-1", folder)
    try:
        yield drive
    finally:
        drive.close()


def names_on(drive: VirtualDrive, known: set[uuid.UUID] | None = None) -> list[SeenFile]:
    return survey(drive, RecordBuffer(RECORD_BYTES), PAIR_ID, known or set())


def test_places_and_sizes_follow_from_the_records(tmp_path: Path) -> None:
    ids = [uuid.uuid4() for _ in range(3)]
    data = [named("label", ids[0]), named("object", ids[1], records=3), *[named("catalog", ids[2])] * 2]
    with drive_with(tmp_path / "one", data) as drive:
        found = names_on(drive)
    sizes = [len(item) // RECORD_BYTES for item in data]
    assert [item.records for item in found] == sizes
    assert [item.first_block for item in found] == [sum(sizes[:n]) + n for n in range(4)]
    assert [item.name.id for item in found if item.name] == [*ids, ids[2]]


def test_what_is_of_another_pair_or_was_met_before_ends_it(tmp_path: Path) -> None:
    one, two = uuid.uuid4(), uuid.uuid4()
    stale: dict[str, Callable[[], bytes]] = {
        "other": lambda: named("object", two, uuid.uuid4()),
        "again": lambda: named("object", one),
        "junk": lambda: b"\xff" * RECORD_BYTES,
    }
    for name, make in stale.items():
        with drive_with(tmp_path / name, [named("object", one), make()]) as drive:
            assert [item.number for item in names_on(drive)] == [0], name
    with drive_with(tmp_path / "known", [named("object", one)]) as drive:
        assert names_on(drive, {one}) == []


def test_a_catalog_stands_twice_but_not_again_behind_something_else(tmp_path: Path) -> None:
    session, other = uuid.uuid4(), uuid.uuid4()
    data = [named("catalog", session), named("catalog", session), named("object", other), named("catalog", session)]
    with drive_with(tmp_path / "one", data) as drive:
        assert [item.number for item in names_on(drive)] == [0, 1, 2]


def test_a_damaged_begin_does_not_hide_what_follows(tmp_path: Path) -> None:
    last = uuid.uuid4()
    with drive_with(tmp_path / "one", [named("label", uuid.uuid4()), b"\0" * RECORD_BYTES, named("object", last)]) as d:
        found = names_on(d)
    assert [item.name and item.name.id for item in found][1:] == [None, last]


def test_an_unreadable_record_does_not_hide_what_follows(tmp_path: Path, monkeypatch: object) -> None:
    last = uuid.uuid4()
    with drive_with(tmp_path / "one", [named("label", uuid.uuid4()), named("object", last)]) as drive:
        read = drive.read_record

        def failing(buffer: memoryview) -> int:
            if drive.tell().tape_file == 0:
                raise MediaError("a record cannot be read")
            return read(buffer)

        drive.read_record = failing  # type: ignore[method-assign]
        assert [item.name and item.name.id for item in names_on(drive)] == [None, last]


def test_what_a_drive_fails_with_once_is_read_again(tmp_path: Path) -> None:
    first, last = uuid.uuid4(), uuid.uuid4()
    with drive_with(tmp_path / "one", [named("label", first), named("object", last)]) as drive:
        read, places = drive.read_record, list[Position]()

        def failing_once(buffer: memoryview) -> int:
            if drive.tell() not in places:
                places.append(drive.tell())
                read(buffer)
                raise MediaError("a record cannot be read")
            return read(buffer)

        drive.read_record = failing_once  # type: ignore[method-assign]
        assert [item.name and item.name.id for item in names_on(drive)] == [first, last]
