"""What stands on tape and what catalog and journals say come apart: nothing is written over, and nobody is stuck."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.acceptance.conftest import Archive
from tests.acceptance.nights import differences

from holdfast.catalog import Catalog, proof, tapes
from holdfast.config import open_vault
from holdfast.errors import EXIT_DATA_AT_RISK, MediaError
from holdfast.journey import ArchiveRequest, archive, verify
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape import layout, pairs, session
from holdfast.tape.drive import EndOfData, Position, VirtualDrive
from holdfast.tape.drive.virtual import data_path
from holdfast.tape.journal import CartridgeJournal, Committed
from holdfast.tape.library import TapeLibrary
from holdfast.tape.writing import NoRoomLeft
from holdfast.testing import flip_bit
from holdfast.testing.tapefaults import TapeFault, Trouble, Troubles, faulty_library

BARCODES = ("HF0001L8", "HF0002L8")
KNOWLEDGE = ("catalog", "journals", "packs")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = tmp_path / "night"
    night.mkdir()
    write(night, "first")
    return night


def write(night: Path, name: str, size_bytes: int = 70_000) -> bytes:
    data = os.urandom(size_bytes)
    (night / name).write_bytes(data)
    return data


def save(vault: Path, rooms: Sequence[str] = KNOWLEDGE) -> None:
    """A backup of what the vault knows, beside it."""
    for room in rooms:
        shutil.copytree(vault / room, vault.with_name("saved") / room)


def put_back(vault: Path, rooms: Sequence[str] = KNOWLEDGE) -> None:
    for room in rooms:
        shutil.rmtree(vault / room)
        shutil.copytree(vault.with_name("saved") / room, vault / room)


def archive_without_catalogs(vault: Path, night: Path, *, in_place: bool = False) -> None:
    """The tapes have no room for a session's catalogs, so the pair is closed without."""

    def no_room(*_: object) -> None:
        raise NoRoomLeft("the cartridge ends before its label or its catalogs", place=BARCODES[0], hint="run again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "close_session", no_room)
        archive(vault, ArchiveRequest(paths=(night,), in_place=in_place))
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        assert [pair.state for pair in tapes.all_pairs(connection)] == ["full"]


def committed(vault: Path, barcode: str) -> tuple[Committed, ...]:
    state = CartridgeJournal(vault / "journals", barcode).state()
    assert state is not None
    return state.committed


def tape_files(vault: Path) -> dict[str, bytes]:
    """The bytes of every tape file of the first pair."""
    folders = [vault / "library" / "cartridges" / barcode for barcode in BARCODES]
    return {str(path): path.read_bytes() for folder in folders for path in folder.iterdir() if path.name.isdigit()}


def check_untouched(before: dict[str, bytes]) -> None:
    assert before
    for path, data in before.items():
        assert Path(path).read_bytes() == data, path


def check_all_is_well(vault: Path, night: Path, back: Path) -> None:
    """Every version is proven twice, both sides hold the same, and everything comes back from tape."""
    assert verify(vault, (), everything=True).errors == []
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        totals = proof.count_proven(connection)
        assert totals["proven"] == totals["versions"] > 0
        for pair in tapes.all_pairs(connection):
            a, b = (tapes.tape_files(connection, item.barcode) for item in pair.cartridges)
            assert [(f.kind, f.object_id) for f in a[1:]] == [(f.kind, f.object_id) for f in b[1:]]
    report = restore(vault, RestoreRequest(to=back, origin="tape"))
    assert report.exit_code() == 0, report.errors
    assert differences(night, back / "night") == []


# -- an older vault is put back, and the tapes hold objects with no catalog behind them


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("is_gone", [False, True], ids=["the source is as it was", "the source is gone"])
def test_law_5_never_overwrite_objects_that_only_the_tapes_know(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, in_place: bool, is_gone: bool
) -> None:
    archived(night, in_place=in_place)
    save(vault)
    data = write(night, "second")
    archive_without_catalogs(vault, night, in_place=in_place)
    own = {barcode: committed(vault, barcode) for barcode in BARCODES}
    before = tape_files(vault)
    put_back(vault)
    if is_gone:
        (night / "second").unlink()
    write(night, "later")
    report = archived(night, in_place=in_place)
    assert (report.exit_code(), report.unproven) == (0, []), report.errors
    check_untouched(before)
    for barcode in BARCODES:
        assert committed(vault, barcode)[: len(own[barcode])] == own[barcode]
    for folder in (vault / "packs", night):
        shutil.copytree(folder, tmp_path / "kept" / folder.name)
    found = restore(vault, RestoreRequest(to=tmp_path / "all", origin="tape"))
    assert found.exit_code() == 0, found.errors
    assert (tmp_path / "all" / "night" / "second").read_bytes() == data


def test_law_5_never_overwrite_objects_whose_versions_are_known_and_whose_commit_is_not(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """The older catalog knew the files, noted in place, and they lie nowhere else any more."""
    archived(night)
    kept = write(night, "second")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "prepare", _killed)
        with pytest.raises(Killed):
            archived(night, in_place=True)
    save(vault)
    archive_without_catalogs(vault, night, in_place=True)
    before, own = tape_files(vault), committed(vault, BARCODES[0])
    put_back(vault)
    (night / "second").unlink()
    write(night, "later")
    report = archived(night, in_place=True)
    assert report.exit_code() == 0, report.errors
    check_untouched(before)
    assert committed(vault, BARCODES[0])[: len(own)] == own
    with Catalog(open_vault(vault).catalog_path) as catalog, catalog.reading() as connection:
        members = [
            version
            for pair in tapes.all_pairs(connection)
            for item in tapes.objects_of_pair(connection, pair.id)
            for _, version in tapes.members_of(connection, item.object_id)  # type: ignore[arg-type]
        ]
    assert [v.content.size_bytes for v in members if v.path == b"second" and v.content] == [len(kept)]


def _killed(*_: object, **__: object) -> None:
    raise Killed


def test_law_5_never_overwrite_objects_that_only_the_tapes_know_and_nobody_can_read(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """They cannot be taken over: the pair is closed, that is said once, and all goes on another pair."""
    archived(night)
    save(vault)
    end = len(committed(vault, BARCODES[0]))
    write(night, "second")
    archive_without_catalogs(vault, night)
    put_back(vault)
    for barcode in BARCODES:
        flip_bit(data_path(vault / "library" / "cartridges" / barcode, end), 6000)
    before = tape_files(vault)
    report = archived(night)
    assert report.exit_code() == EXIT_DATA_AT_RISK
    (error,) = report.errors
    assert error.hint is not None
    assert "holdfast rebuild HF0001L8 HF0002L8" in error.hint
    assert "HF0001L8" in str(error.place)
    assert report.unproven == []
    assert set(report.written_on).isdisjoint(BARCODES)
    check_untouched(before)
    write(night, "later")
    again = archived(night)
    assert (again.exit_code(), again.unproven) == (0, []), again.errors
    check_untouched(before)
    check_all_is_well(vault, night, tmp_path / "back")


def test_law_5_never_overwrite_a_whole_tape_of_which_only_its_begin_was_known(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """The journals are of the moment before the label was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "prepare", _killed)
        with pytest.raises(Killed):
            archived(night)
    save(vault)
    archived(night)
    before, own = tape_files(vault), committed(vault, BARCODES[0])
    put_back(vault)
    write(night, "later")
    report = archived(night)
    assert report.exit_code() == 0, report.errors
    check_untouched(before)
    assert committed(vault, BARCODES[0])[: len(own)] == own
    check_all_is_well(vault, night, tmp_path / "back")


def test_law_5_never_overwrite_what_stands_behind_a_damaged_label(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """The same, and the label of one side is damaged: that cartridge is left alone, and another takes its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "prepare", _killed)
        with pytest.raises(Killed):
            archived(night)
    save(vault)
    archived(night)
    put_back(vault)
    label = data_path(vault / "library" / "cartridges" / BARCODES[0], 0)
    flip_bit(label, label.read_bytes().index(b"HOLDFAST TAPE"))
    before = tape_files(vault)
    report = archived(night)
    assert (report.exit_code(), report.unproven) == (0, []), report.errors
    assert "the label of a cartridge is damaged" in str(report.warnings)
    check_untouched(before)
    check_all_is_well(vault, night, tmp_path / "back")


def test_what_a_killed_run_left_cut_short_is_nobodys_though_its_versions_were_lost(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """It was never committed: a commit follows whole objects."""
    archived(night)
    save(vault)
    end = committed(vault, BARCODES[0])[-1].end
    write(night, "second")
    archived(night)
    put_back(vault)
    for barcode in BARCODES:
        folder = vault / "library" / "cartridges" / barcode
        record = data_path(folder, end.tape_file).read_bytes()[:65536]
        drive = VirtualDrive("TEST", folder)
        drive.locate(end)
        drive.write_record(memoryview(record))
        drive.write_file_mark(synchronous=True)
        drive.close()
    report = archived(night)
    assert (report.exit_code(), report.unproven) == (0, []), report.errors
    assert report.written_on == [*BARCODES]
    assert committed(vault, BARCODES[0])[end.tape_file].kind == "object"
    check_all_is_well(vault, night, tmp_path / "back")


# -- one place, and two objects that were written there


def test_law_6_resume_is_running_again_though_an_earlier_run_left_another_object_in_the_place(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """A killed run left an object on side B. The next one wrote another in its place, on A alone, and was killed, too.

    Its catalog stands behind the last commit of A, so all of the pair is looked at.
    """
    archived(night)
    end = committed(vault, BARCODES[1])[-1].end
    write(night, "second")
    folder = vault / "library" / "cartridges" / BARCODES[1]
    record = data_path(folder, 1).read_bytes()[:65536]
    _leave(folder, end, record)
    assert _killed_behind_its_catalogs_while_b_failed(vault, night) == [BARCODES[1]]
    assert len(committed(vault, BARCODES[0])) == len(committed(vault, BARCODES[1])) + 1
    report = archived(night)
    assert (report.exit_code(), report.unproven) == (0, []), report.errors
    check_all_is_well(vault, night, tmp_path / "back")


def _leave(folder: Path, place: Position, record: bytes) -> None:
    """The begin of an object of the same pair, with a mark, as a real drive leaves it behind a killed run."""
    name = layout.name_of(record)
    assert name is not None
    head = layout.encode_global(layout.object_comment("object", uuid.uuid4(), name.pair_id))
    drive = VirtualDrive("TEST", folder)
    drive.locate(place)
    drive.write_record(memoryview(head + record[len(head) :]))
    drive.write_file_mark(synchronous=True)
    drive.close()


def _killed_behind_its_catalogs_while_b_failed(vault: Path, night: Path) -> list[str]:
    """Side B takes no record; the run is killed between the catalogs' synchronous mark and the journals."""
    failed: list[str] = []
    whole = VirtualDrive.write_record

    def write_record(self: VirtualDrive, data: memoryview) -> None:
        if self.barcode == BARCODES[1]:
            failed.append(self.barcode)
            raise MediaError("a write error", place=self.barcode, hint="see above")
        whole(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualDrive, "write_record", write_record)
        patch.setattr(session, "commit_journals", _killed)
        with pytest.raises(Killed):
            archive(vault, ArchiveRequest(paths=(night,)))
    return failed


# -- a tape of somebody else


@pytest.mark.parametrize("is_marked", [True, False], ids=["with its mark", "unmarked"])
@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"VOL1ABC123L" + b" " * 13 + b"LTFS" + b" " * 52, "an LTFS tape, volume 'ABC123'"),
        (b"## Paper dump catalog:123 (version:1 on 20131022-0303)\n", "a tape of papertape"),
    ],
    ids=["LTFS", "papertape"],
)
def test_law_5_never_overwrite_a_tape_of_another_system_and_say_whose_it_is(
    vault: Path, night: Path, archived: Archive, record: bytes, words: str, is_marked: bool
) -> None:
    folder = _begun_with(vault, night, record)
    with pytest.MonkeyPatch.context() as patch:
        if not is_marked:
            _lose_marks_of(patch, len(record))
        report = archived(night)
    assert (report.exit_code(), report.written_on) == (0, ["HF0003L8", "HF0002L8"]), report.errors
    assert data_path(folder, 0).read_bytes() == record
    told = [error for error in report.warnings if "not blank and not ours" in error.message]
    assert {error.found for error in told} == {words}
    assert all("another cartridge takes its place" in str(error.hint) for error in told)


def test_law_6_resume_is_running_again_after_our_own_label_was_cut_off_without_a_mark(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """As a power cut leaves it on a real drive; it is the label of this very cartridge, so it is written anew."""
    _begun_with(vault, night, b"to be replaced")
    state = CartridgeJournal(vault / "journals", BARCODES[0]).state()
    assert state is not None
    head = layout.encode_global(layout.object_comment("label", state.identity.volume_id, state.identity.pair_id))
    _write_at_begin(vault, head)
    with pytest.MonkeyPatch.context() as patch:
        _lose_marks_of(patch, len(head))
        report = archived(night)
    assert (report.exit_code(), report.written_on) == (0, [*BARCODES]), report.errors
    check_all_is_well(vault, night, tmp_path / "back")


def _begun_with(vault: Path, night: Path, record: bytes) -> Path:
    """The first cartridge's folder: its journal was begun, and then somebody else wrote on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "prepare", _killed)
        with pytest.raises(Killed):
            archive(vault, ArchiveRequest(paths=(night,)))
    return _write_at_begin(vault, record)


def _write_at_begin(vault: Path, record: bytes) -> Path:
    folder = vault / "library" / "cartridges" / BARCODES[0]
    drive = VirtualDrive("TEST", folder)
    drive.write_record(memoryview(record))
    drive.write_file_mark(synchronous=True)
    drive.close()
    return folder


def _lose_marks_of(patch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """No mark ends a first tape file of so many bytes, as on a real tape after a power cut."""
    whole = VirtualDrive.read_record
    before: dict[int, int] = {}

    def read_record(self: VirtualDrive, buffer: memoryview) -> int:
        at = self.tell()
        count = whole(self, buffer)
        if at.tape_file == 0 and at.record == 1 and not count and before.get(id(self)) == size_bytes:
            raise EndOfData
        before[id(self)] = count
        return count

    patch.setattr(VirtualDrive, "read_record", read_record)


def test_law_6_a_kill_while_a_session_is_taken_over_leaves_one_version_of_a_path(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """What journals know is not looked at again, so ends must be told before."""
    archived(night)
    save(vault)
    write(night, "second")
    archived(night)
    put_back(vault)
    whole = CartridgeJournal.committed
    told: list[str] = []

    def committed_twice(self: CartridgeJournal, tape_files: Sequence[Committed], at_ns: int) -> None:
        whole(self, tape_files, at_ns)
        told.append(self.path.name)
        if len(told) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CartridgeJournal, "committed", committed_twice)
        with pytest.raises(Killed):
            archived(night)
    assert archived(night).exit_code() == 0
    report = restore(vault, RestoreRequest(to=tmp_path / "back", origin="tape"))
    assert report.exit_code() == 0, report.errors
    assert differences(night, tmp_path / "back" / "night") == []


def test_law_5_never_overwrite_objects_behind_a_catalog_of_which_one_journal_knows_the_first_copy_only(
    tmp_path: Path, vault: Path, night: Path, archived: Archive
) -> None:
    """Side B failed amid the catalogs, and the run was killed while it was caught up from side A."""
    archived(night)
    write(night, "before")
    fault = TapeFault(Trouble.WRITE_ERROR, drive="VDRIVE-1", operation="write_file_mark", nth=2)
    with faulty_library(Troubles([fault])):
        _killed_at_journal_line(vault, night, 5)
    a, b = (committed(vault, barcode) for barcode in BARCODES)
    assert [len(a) - len(b), b[-1].kind, b[-2].kind] == [1, "catalog", "object"]
    write(night, "second")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "prepare", _killed)
        with pytest.raises(Killed):
            archived(night)
    save(vault)
    archive_without_catalogs(vault, night)
    before = tape_files(vault)
    put_back(vault)
    write(night, "later")
    report = archived(night)
    assert (report.exit_code(), report.unproven) == (0, []), report.errors
    check_untouched(before)
    check_all_is_well(vault, night, tmp_path / "back")


@pytest.mark.parametrize("case", ["killed while it was taken over", "the older catalog knew the versions"])
def test_law_5_never_overwrite_objects_behind_sides_of_which_one_journal_lags(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, case: str
) -> None:
    """To bring the side whose journal lags to the same end would write over what stands behind."""
    archived(night)
    write(night, "second")
    _killed_at_journal_line(vault, night, 2)
    assert len(committed(vault, BARCODES[0])) == len(committed(vault, BARCODES[1])) + 1
    write(night, "third")
    if case == "the older catalog knew the versions":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pairs, "prepare", _killed)
            with pytest.raises(Killed):
                archived(night)
    save(vault)
    archive_without_catalogs(vault, night)
    before = tape_files(vault)
    put_back(vault)
    if case == "killed while it was taken over":
        _killed_at_journal_line(vault, night, 1)
    write(night, "later")
    report = archived(night)
    assert (report.exit_code(), report.unproven) == (0, []), report.errors
    check_untouched(before)
    check_all_is_well(vault, night, tmp_path / "back")


@pytest.mark.parametrize("is_for_good", [False, True], ids=["in one drive", "in both drives"])
def test_law_5_never_overwrite_nor_give_up_what_one_drive_cannot_read(
    tmp_path: Path, vault: Path, night: Path, archived: Archive, is_for_good: bool
) -> None:
    """Behind the last commit of the one good side stand a session, and an object that no catalog tells of."""
    archived(night)
    save(vault)
    write(night, "second")
    archived(night)
    write(night, "third")
    archive_without_catalogs(vault, night)
    lost, before = len(committed(vault, BARCODES[0])) - 1, tape_files(vault)
    put_back(vault)
    with TapeLibrary(open_vault(vault), Catalog(open_vault(vault).catalog_path)) as library, library.catalog:
        library.fence(BARCODES[1], MediaError("it fell", place=BARCODES[1]))
    with pytest.MonkeyPatch.context() as patch:
        drives = _failing_drives(patch, BARCODES[0], lost, most=2 if is_for_good else 1)
        report = archived(night)
    assert len(drives) == (2 if is_for_good else 1)
    check_untouched(before)
    assert report.unproven == []
    if is_for_good:
        (error,) = report.errors
        assert (error.place, report.exit_code()) == (f"{BARCODES[0]} tape file {lost}", EXIT_DATA_AT_RISK)
        assert set(report.written_on).isdisjoint(BARCODES)
    else:
        assert report.exit_code() == 0, report.errors
        assert committed(vault, BARCODES[0])[lost].kind == "object"
        check_all_is_well(vault, night, tmp_path / "back")


def _failing_drives(patch: pytest.MonkeyPatch, barcode: str, tape_file: int, *, most: int) -> set[str]:
    """The first drives, at most so many, that come to a tape file of a cartridge cannot read it."""
    whole = VirtualDrive.read_record
    failing: set[str] = set()

    def read_record(self: VirtualDrive, buffer: memoryview) -> int:
        if (self.barcode, self.tell().tape_file) == (barcode, tape_file) and (
            self.serial in failing or len(failing) < most
        ):
            failing.add(self.serial)
            raise MediaError("a read error", place=barcode, hint="see above")
        return whole(self, buffer)

    patch.setattr(VirtualDrive, "read_record", read_record)
    return failing


def _killed_at_journal_line(vault: Path, night: Path, number: int) -> None:
    """The process ends before a commit is told to a journal."""
    whole = CartridgeJournal.committed
    left = [number]

    def counted(self: CartridgeJournal, tape_files: Sequence[Committed], at_ns: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed
        whole(self, tape_files, at_ns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CartridgeJournal, "committed", counted)
        with pytest.raises(Killed):
            archive(vault, ArchiveRequest(paths=(night,)))
