"""Drives with a person for a robot: the conformance suite with a scripted person, and what a person may do wrong."""

from __future__ import annotations

import errno
import io
import json
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.unit.tape.drive.fake_st import MARK, Drive, FakeNode, Tape

from holdfast.cli.asking import TerminalAsker
from holdfast.config import InitOptions, init_vault
from holdfast.errors import BusyError, MediaError, OperatorNeeded, UsageError
from holdfast.tape import label, layout
from holdfast.tape.changer import Changer, opening
from holdfast.tape.changer.opening import expected_on, open_changer
from holdfast.tape.changer.operator import ATTEMPTS, Asker, NobodyThere, OperatorChanger, OperatorOptions
from holdfast.tape.changer.shelf import (
    Content,
    Expected,
    Kind,
    complaint,
    may_be_taken_unasked,
    next_barcode,
    wrong_name,
)
from holdfast.tape.drive.mtio import Operation
from holdfast.tape.drive.st import READY_SECONDS
from holdfast.tape.journal import CartridgeIdentity, CartridgeJournal
from holdfast.testing.conformance import ChangerConformance
from holdfast.values import Side

DEVICES = {"DRVX": Path("/dev/nst0"), "DRVY": Path("/dev/nst1")}


class EjectingNode(FakeNode):
    def operate(self, operation: Operation, count: int = 1) -> None:
        super().operate(operation, count)
        if operation is Operation.UNLOAD:
            self.drive.tape = None


@dataclass
class Person:
    """Does what is asked: finds the cartridge on the shelf, or takes a new one. `mistakes`: what is put in instead."""

    drives: dict[Path, Drive] = field(default_factory=lambda: {device: Drive() for device in DEVICES.values()})
    shelf: dict[str, Tape] = field(default_factory=dict)
    mistakes: list[Tape | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def open_node(self, device: Path) -> FakeNode:
        node = self.drives[device].open(device)
        return EjectingNode(self.drives[device], is_ready=node.is_ready)

    def put_in(self, barcode: str, drive: str, because: str) -> None:
        self.asked.append((barcode, drive, because))
        (device,) = (device for device in self.drives if str(device) in drive)
        assert self.drives[device].tape is None, "there is one in it"
        self.drives[device].tape = self.mistakes.pop(0) if self.mistakes else self.shelf.get(barcode)

    def name_new(self, side: Side, proposed: str, because: str) -> str:
        name = self.names.pop(0) if self.names else ""
        self.shelf.setdefault(name or proposed, Tape())
        return name

    def tell(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def person() -> Person:
    return Person()


@pytest.fixture
def memory() -> dict[str, Expected]:
    return {}


Open = Callable[..., OperatorChanger]


@pytest.fixture
def opened(person: Person, memory: dict[str, Expected], tmp_path: Path) -> Iterator[Open]:
    options = OperatorOptions(
        DEVICES, ("HFA", "HFB"), "L6", 2**40, lambda barcode: memory.get(barcode, Expected.UNKNOWN), ready_seconds=0.0
    )
    made: list[OperatorChanger] = []

    def open_it(asker: Asker = person) -> OperatorChanger:
        made.append(OperatorChanger(tmp_path / "library", options, asker, person.open_node))
        return made[-1]

    yield open_it
    for changer in made:
        changer.close()


class TestOperatorChanger(ChangerConformance):
    """All of the suite: `slots` are what was handled under this owner."""

    @pytest.fixture
    def open_changer(self, opened: Open) -> Callable[[], Changer]:
        return opened


def labelled(barcode: str) -> Tape:
    """A cartridge of ours: its label with VOLUME.json, and a mark."""
    who = label.Label(
        barcode=barcode,
        volume_id=uuid.uuid4(),
        pair_id=uuid.uuid4(),
        vault_id=uuid.uuid4(),
        side=Side.A,
        twin_barcode="HFB001L6",
        record_bytes=10240,
        created="2026-11-21",
    )
    volume = label.encode_volume(who)
    comment = layout.object_comment("label", who.volume_id, who.pair_id)
    data = layout.encode_global(comment) + plain_member(label.VOLUME_NAME, volume) + bytes(1024)
    data += bytes(-len(data) % 10240)
    return Tape([data[at : at + 10240] for at in range(0, len(data), 10240)] + [MARK])


def plain_member(name: bytes, data: bytes) -> bytes:
    info = tarfile.TarInfo(name.decode())
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


# -- what a person does


def test_it_is_no_virtual_library(opened: Open) -> None:
    assert not opened().is_virtual


def test_the_person_is_asked_by_barcode_drive_and_device_and_told_where_it_goes(opened: Open, person: Person) -> None:
    person.shelf["HFA001L6"] = labelled("HFA001L6")
    changer = opened()
    changer.load("HFA001L6", "DRVY")
    changer.unload("DRVY")
    assert person.asked == [("HFA001L6", "DRVY (/dev/nst1)", "")]
    assert person.told == ["take HFA001L6 out of drive DRVY (/dev/nst1), and put it back on its shelf"]
    assert person.drives[Path("/dev/nst1")].tape is None


def test_law_5_a_wrong_cartridge_is_told_ejected_and_asked_for_again(
    opened: Open, person: Person, memory: dict[str, Expected]
) -> None:
    memory["HFA001L6"] = Expected.WRITTEN
    person.shelf["HFA001L6"] = labelled("HFA001L6")
    person.mistakes = [labelled("HFA002L6"), Tape()]
    drive = opened().load("HFA001L6", "DRVX")
    assert drive.barcode == "HFA001L6"
    reasons = [because for _, _, because in person.asked]
    assert reasons == ["", "it is HFA002L6, not HFA001L6", "it is blank, and HFA001L6 is not"]


def test_law_5_after_some_wrong_ones_it_is_given_up_and_none_was_written(
    opened: Open, person: Person, memory: dict[str, Expected]
) -> None:
    memory["HFA001L6"] = Expected.BEGUN
    foreign = [Tape([b"VOL1ABC123" + b" " * 70, MARK]) for _ in range(ATTEMPTS)]
    before = [[*tape.items] for tape in foreign]
    person.mistakes = [*foreign]
    changer = opened()
    with pytest.raises(OperatorNeeded, match="ABC123") as caught:
        changer.load("HFA001L6", "DRVX")
    assert caught.value.expected == "HFA001L6"
    assert [tape.items for tape in foreign] == before
    assert person.drives[Path("/dev/nst0")].tape is None
    assert changer.inventory().drives["DRVX"] is None


def test_a_drive_that_stays_empty_is_asked_for_again(opened: Open, person: Person) -> None:
    person.shelf["HFA001L6"] = labelled("HFA001L6")
    person.mistakes = [None]
    opened().load("HFA001L6", "DRVX")
    assert person.asked[1][2] == "there was no cartridge in the drive"


def test_new_cartridges_are_put_in_once(opened: Open, person: Person, memory: dict[str, Expected]) -> None:
    changer = opened()
    assert changer.scratch((Side.A, Side.B), {"HFA004L6", "HFB003L8"}) == ("HFA005L6", "HFB001L6")
    memory.update(HFA005L6=Expected.BEGUN, HFB001L6=Expected.BEGUN)
    for drive in DEVICES:
        changer.unload(drive)
    changer.load("HFA005L6", "DRVX")
    changer.load("HFB001L6", "DRVY")
    assert len(person.asked) == 2


def test_a_person_may_name_a_new_cartridge(opened: Open, person: Person) -> None:
    person.names = ["HFB001L6", "HFA077L6"]
    assert opened().scratch((Side.A,), set()) == ("HFA077L6",)


def test_a_new_cartridge_that_was_erased_by_a_mark_is_blank(opened: Open, person: Person) -> None:
    person.mistakes = [Tape([MARK, b"data behind a mark", MARK]), Tape([MARK])]
    assert opened().scratch((Side.A,), set()) == ("HFA001L6",)
    assert person.told[-1].endswith(
        "it is not blank, and a new cartridge must be (a tape that begins with a file mark)"
    )


def test_law_5_a_new_cartridge_that_is_not_blank_or_may_not_be_written_is_refused(opened: Open, person: Person) -> None:
    person.mistakes = [labelled("HFA001L6"), Tape([b"data", MARK]), Tape(is_write_protected=True)]
    with pytest.raises(OperatorNeeded, match="no blank cartridge for side A") as caught:
        opened().scratch((Side.A,), set())
    assert caught.value.found == "it is write-protected"
    assert [text.partition(": ")[2][:15] for text in person.told[:2]] == ["it is not blank"] * 2


# -- nobody there


def test_without_a_person_it_says_which_cartridge_and_drive(opened: Open) -> None:
    changer = opened(NobodyThere())
    with pytest.raises(OperatorNeeded) as caught:
        changer.load("HFA001L6", "DRVX")
    assert (caught.value.expected, caught.value.place) == ("HFA001L6", "drive DRVX (/dev/nst0)")
    with pytest.raises(OperatorNeeded, match="HFA001L6") as caught:
        changer.scratch((Side.A,), set())
    assert caught.value.exit_code == 4


def test_what_a_person_has_put_in_since_is_taken_without_asking(opened: Open, person: Person) -> None:
    person.drives[Path("/dev/nst0")].tape = labelled("HFA001L6")
    changer = opened(NobodyThere())
    changer.unload("DRVX")
    assert changer.load("HFA001L6", "DRVX").barcode == "HFA001L6"


def test_what_was_left_in_a_drive_counts_as_reloaded_only_after_it_was_ejected(opened: Open, person: Person) -> None:
    person.shelf["HFA001L6"] = labelled("HFA001L6")
    first = opened()
    first.load("HFA001L6", "DRVX")
    first.close()
    following = opened(NobodyThere())
    assert following.inventory().drives["DRVX"] == "HFA001L6"
    following.unload("DRVX")
    with pytest.raises(OperatorNeeded):
        following.load("HFA001L6", "DRVX")


def test_a_cartridge_that_a_person_took_out_by_hand_is_not_in_the_way(opened: Open, person: Person) -> None:
    person.shelf["HFA001L6"] = labelled("HFA001L6")
    changer = opened()
    changer.load("HFA001L6", "DRVX")
    changer.close()
    person.drives[Path("/dev/nst0")].tape = None
    following = opened()
    following.unload("DRVX")
    assert following.inventory().drives["DRVX"] is None


def test_a_damaged_note_has_a_way_out(opened: Open, tmp_path: Path) -> None:
    opened().close()
    (tmp_path / "library/operator.json").write_text(json.dumps([]))
    with pytest.raises(MediaError) as caught:
        opened()
    assert "remove" in str(caught.value.hint)


def test_a_drive_that_is_missing_is_no_busy_one(opened: Open, person: Person) -> None:
    def missing(device: Path) -> FakeNode:
        raise OSError(errno.ENOENT, "No such file or directory")

    changer = opened()
    person.drives[Path("/dev/nst1")].is_open = True
    with pytest.raises(BusyError, match="fuser"):
        changer.load("HFA001L6", "DRVY")
    person.drives[Path("/dev/nst0")].open = missing  # type: ignore[method-assign]
    with pytest.raises(MediaError, match="No such file"):
        changer.load("HFA001L6", "DRVX")


def test_the_journal_says_what_must_be_on_a_cartridge(tmp_path: Path) -> None:
    journal = CartridgeJournal(tmp_path, "HFA001L6")
    assert expected_on(tmp_path, "HFA001L6") is Expected.UNKNOWN
    one = uuid.uuid4()
    journal.begin(
        CartridgeIdentity(
            barcode="HFA001L6",
            volume_id=one,
            pair_id=one,
            side=Side.A,
            twin="HFB001L6",
            record_bytes=10240,
            capacity_bytes=2**40,
            created="2026-11-21",
        )
    )
    assert expected_on(tmp_path, "HFA001L6") is Expected.BEGUN


def test_the_settings_open_it(tmp_path: Path) -> None:
    options = InitOptions(library="operator", drives=("/dev/nst0", "/dev/nst1"), scratch_a="HFA", scratch_b="HFB")
    changer = open_changer(init_vault(tmp_path / "vault", options))
    assert isinstance(changer, OperatorChanger)
    assert len(changer.inventory().drives) == 2
    changer.close()


@pytest.mark.parametrize("kind", ["operator", "mtx"])
def test_the_settings_say_how_long_a_drive_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """LTO-9 needs two hours for a new cartridge."""
    given: list[float] = []
    for name in ("MtxChanger", "OperatorChanger"):
        monkeypatch.setattr(opening, name, lambda *told: given.append(next(filter(None, map(ready_of, told)))))
    monkeypatch.setattr(opening, "MtxRobot", lambda device: device)
    drives = ("/dev/nst0", "/dev/nst1")
    options = InitOptions(library=kind, changer="/dev/sg3", drives=drives, scratch_a="HFA", scratch_b="HFB")
    open_changer(init_vault(tmp_path / "one", options))
    open_changer(init_vault(tmp_path / "two", replace(options, ready_timeout_s=9000)))
    assert given == [READY_SECONDS, 9000.0]


def ready_of(told: object) -> float | None:
    return getattr(told, "ready_seconds", None)


def test_there_are_no_ports(opened: Open) -> None:
    changer = opened()
    for move in (changer.export, changer.bring_in):
        with pytest.raises(UsageError, match="shelf"):
            move("HFA001L6")
    assert changer.devices() == DEVICES


# -- judging, purely


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        (Content(Kind.BLANK), {Expected.NEW, Expected.BEGUN, Expected.UNKNOWN}),
        (Content(Kind.OURS, "HFA001L6"), {Expected.BEGUN, Expected.WRITTEN, Expected.UNKNOWN}),
        (Content(Kind.OURS, "HFA002L6"), set[Expected]()),
        (Content(Kind.TORN), {Expected.BEGUN, Expected.WRITTEN, Expected.UNKNOWN}),
        (Content(Kind.FOREIGN, "LTFS"), {Expected.UNKNOWN}),
        (Content(Kind.UNREADABLE), {Expected.BEGUN, Expected.WRITTEN, Expected.UNKNOWN}),
    ],
)
def test_law_5_what_may_be_which_cartridge(content: Content, accepted: set[Expected]) -> None:
    assert {e for e in Expected if complaint(content, "HFA001L6", e) is None} == accepted
    unasked = {e for e in Expected if may_be_taken_unasked(content, "HFA001L6", e)}
    assert unasked == (accepted if content == Content(Kind.OURS, "HFA001L6") else set())


def test_barcodes_go_on_behind_the_highest() -> None:
    assert next_barcode("HFA", "L6", []) == "HFA001L6"
    assert next_barcode("HFA", "L6", ["HFA009L6", "HFA011L8", "HFB012L6", "HFA0100L6"]) == "HFA010L6"
    assert next_barcode("H", "L8", ["H00099L8"]) == "H00100L8"
    assert next_barcode("HFARCHIV", "L8", []) == "HFARCHIV001L8"


def test_names_of_new_cartridges() -> None:
    assert wrong_name("HFA001L6", "HFA", set()) is None
    for name in ("HFA", "HFB001L6", "HFA-01L6", "HFA002L6", ""):
        assert wrong_name(name, "HFA", {"HFA002L6"}) is not None


# -- on a terminal


def test_the_terminal_asks_on_one_stream_and_reads_from_the_other() -> None:
    out = io.StringIO()
    asker = TerminalAsker(io.StringIO("\nhfa007l6\n"), out)
    asker.put_in("HFA001L6", "DRVX (/dev/nst0)", "it is HFA002L6, not HFA001L6")
    assert asker.name_new(Side.A, "HFA005L6", "") == "HFA007L6"
    assert (
        "it is HFA002L6, not HFA001L6\nput HFA001L6 into drive DRVX (/dev/nst0), then press Enter: " in out.getvalue()
    )
    with pytest.raises(OperatorNeeded):
        asker.put_in("HFA001L6", "DRVX (/dev/nst0)", "")
    with pytest.raises(OperatorNeeded):
        asker.name_new(Side.A, "HFA005L6", "")
