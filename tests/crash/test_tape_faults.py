"""Each trouble at each operation of the drives that it can befall: nothing is lost, nobody is told wrongly, and the
next run gets by.

What does not get by yet is marked with the reason; such a mark fails as soon as it is mended.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from tests.crash.laws import OnTape, demand, explain
from tests.crash.runs import spread
from tests.crash.scenes import OPTIONS, shrunk
from tests.crash.tapelaws import check_committed, check_proofs, check_restored, check_told
from tests.crash.tapescenes import TapeScene, tape_scene_of

from holdfast.catalog import Catalog, proof, tapes
from holdfast.config import init_vault
from holdfast.errors import HoldfastError
from holdfast.journey import ArchiveRequest, archive
from holdfast.reports import ArchiveReport
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.journal import CartridgeJournal, Committed
from holdfast.testing.tapefaults import CALLS, Operation, ProcessStopped, TapeFault, Trouble, Troubles, faulty_library
from holdfast.values import Content

GetTapeScene = Callable[[str], TapeScene]
Count = Callable[[str, object], None]

RUNS = 3
"""The run that meets the trouble, and two more: one may have to find out that a pair cannot be used."""


@pytest.fixture(scope="session")
def get_tape_scene(tmp_path_factory: pytest.TempPathFactory) -> GetTapeScene:
    base = tmp_path_factory.getbasetemp()
    shared: Path = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return lambda name: tape_scene_of(name, shared / "tape-scenes")


@dataclass(frozen=True)
class Outcome:
    """`runs` until everything was proven, and how many cartridges were taken for it."""

    runs: int
    cartridges: int


def befallen(scene: TapeScene, trouble: Trouble) -> list[Operation]:
    return [item for item in scene.operations if item.name in CALLS.get(trouble, frozenset({item.name}))]


def meet(scene: TapeScene, trouble: Trouble, operation: Operation, folder: Path) -> Outcome:
    """Meet the trouble, check what must hold after each run, and run again until everything is proven."""
    vault = folder / "vault"
    shutil.copytree(scene.start, vault)
    troubles = Troubles([TapeFault(trouble, drive=operation.drive, number=operation.number)])
    before: OnTape = {}
    runs = 0
    report = None
    while runs < RUNS and (report is None or report.exit_code() != 0):
        report = run(scene, vault, troubles)
        troubles.demand_all_happened()
        troubles.repair_drives()
        before = check_committed(vault, before)
        check_proofs(vault)
        runs += 1
    demand(report is not None and report.exit_code() == 0, "law 6", f"not proven after {runs} runs")
    check_restored(vault, scene.scene.expected, "night", folder / "out", "tape")
    outcome = Outcome(runs, len(os.listdir(vault / "library" / "cartridges")))
    shutil.rmtree(folder)
    return outcome


def run(scene: TapeScene, vault: Path, troubles: Troubles) -> ArchiveReport | None:
    """Run `archive`; None when it ended with an error."""
    try:
        with shrunk(scene.scene), faulty_library(troubles):
            report = archive(vault, scene.scene.archive_request())
    except HoldfastError as error:
        check_told([error])
        return None
    check_told(report.errors)
    return report


def meet_everywhere(scene: TapeScene, trouble: Trouble, share: float, folder: Path) -> list[Outcome]:
    """At each operation that it can befall, or a share of them. Raises what was wrong with the first few."""
    operations = befallen(scene, trouble)
    wrong: list[str] = []
    outcomes: list[Outcome] = []
    for operation in spread(operations, max(1, round(len(operations) * share))):
        try:
            outcomes.append(meet(scene, trouble, operation, folder / str(len(outcomes) + len(wrong))))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told with the trouble it came from
            wrong.append(f"{trouble} at {operation}:\n    {explain(error)}")
            if len(wrong) == 5:
                break
    assert not wrong, "\n".join(wrong)
    return outcomes


PASSING = [Trouble.WRITE_ERROR, Trouble.FAILED_BUT_DONE, Trouble.NOT_DONE, Trouble.DRIVE_DIES, Trouble.LOAD_FAILS]
"""What is over when the command is run again."""

LASTING = [Trouble.LASTING_WRITE_ERROR, Trouble.READ_ERROR]
"""What stays with a cartridge: another one takes its place."""

ENDING = [
    ("tape_one_file", Trouble.END_OF_MEDIUM),
    ("tape_appended", Trouble.END_OF_MEDIUM),
    ("tape_one_file", Trouble.EARLY_WARNING),
]


@pytest.mark.parametrize("trouble", PASSING, ids=lambda item: item.name)
def test_a_trouble_that_passes_costs_a_run_at_most(
    get_tape_scene: GetTapeScene, tmp_path: Path, trouble: Trouble
) -> None:
    outcomes = meet_everywhere(get_tape_scene("tape_one_file"), trouble, 0.001, tmp_path)
    assert [outcome.runs for outcome in outcomes] <= [2]


@pytest.mark.crash
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["tape_one_file", "tape_appended"])
@pytest.mark.parametrize("trouble", PASSING, ids=lambda item: item.name)
def test_a_trouble_that_passes_costs_a_run_at_most_wherever_it_comes(
    get_tape_scene: GetTapeScene, share: float, tmp_path: Path, name: str, trouble: Trouble, record_property: Count
) -> None:
    outcomes = meet_everywhere(get_tape_scene(name), trouble, share, tmp_path)
    assert {outcome.runs for outcome in outcomes} <= {1, 2}
    record_property("troubles of drives", len(outcomes))


@pytest.mark.crash
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["tape_one_file", "tape_appended"])
@pytest.mark.parametrize("trouble", LASTING, ids=lambda item: item.name)
def test_a_trouble_that_lasts_costs_a_cartridge(
    get_tape_scene: GetTapeScene, share: float, tmp_path: Path, name: str, trouble: Trouble, record_property: Count
) -> None:
    """In the same run another one takes its place."""
    outcomes = meet_everywhere(get_tape_scene(name), trouble, share, tmp_path)
    assert {outcome.runs for outcome in outcomes} == {1}
    assert {outcome.cartridges for outcome in outcomes} <= {2, 3}
    record_property("troubles of drives", len(outcomes))


@pytest.mark.crash
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "trouble"), ENDING)
def test_a_tape_that_ends_early_blocks_nobody(
    get_tape_scene: GetTapeScene, tmp_path: Path, name: str, trouble: Trouble, record_property: Count
) -> None:
    outcomes = meet_everywhere(get_tape_scene(name), trouble, 1.0, tmp_path)
    record_property("troubles of drives", len(outcomes))


@pytest.mark.crash
@pytest.mark.timeout(600)
def test_a_warning_that_comes_early_closes_the_pair(
    get_tape_scene: GetTapeScene, share: float, tmp_path: Path, record_property: Count
) -> None:
    """What was committed before stays on it, and the rest goes on another, in the same run."""
    outcomes = meet_everywhere(get_tape_scene("tape_appended"), Trouble.EARLY_WARNING, share, tmp_path)
    assert {outcome.runs for outcome in outcomes} == {1}
    assert {outcome.cartridges for outcome in outcomes} <= {2, 4}
    record_property("troubles of drives", len(outcomes))


@pytest.mark.crash
@pytest.mark.timeout(600)
@pytest.mark.parametrize("operation", ["rewind", "locate", "read_record"])
def test_a_drive_that_fails_speaks_against_no_cartridge(
    get_tape_scene: GetTapeScene, tmp_path: Path, operation: str, record_property: Count
) -> None:
    """A cartridge that is fenced is lost, with what it holds: a drive's failure must not do that."""
    scene = get_tape_scene("tape_one_file")
    operations = [item for item in befallen(scene, Trouble.DRIVE_DIES) if item.name == operation]
    taken = [meet(scene, Trouble.DRIVE_DIES, item, tmp_path / str(item)).cartridges for item in operations]
    record_property("troubles of drives", len(taken))
    assert set(taken) == {scene.scene.cartridges}


# -- restoring


@pytest.mark.parametrize(
    "trouble",
    [Trouble.READ_ERROR, Trouble.NOT_DONE, Trouble.FAILED_BUT_DONE, Trouble.DRIVE_DIES, Trouble.LOAD_FAILS],
    ids=lambda item: item.name,
)
def test_what_one_drive_does_not_give_the_twin_gives(
    get_tape_scene: GetTapeScene, tmp_path: Path, trouble: Trouble, record_property: Count
) -> None:
    scene, vault = get_tape_scene("tape_first"), tmp_path / "vault"
    shutil.copytree(scene.start, vault)
    with shrunk(scene.scene):
        assert archive(vault, scene.scene.archive_request()).exit_code() == 0
    operations = _asked_by_restore(scene, vault, tmp_path / "undisturbed")
    befalling = [item for item in operations if item.name in CALLS.get(trouble, frozenset({item.name}))]
    for item in befalling:
        troubles = Troubles([TapeFault(trouble, drive=item.drive, number=item.number)])
        with faulty_library(troubles):
            check_restored(vault, scene.scene.expected, "night", tmp_path / str(item), "tape")
        troubles.demand_all_happened()
    assert befalling
    record_property("troubles of drives", len(befalling))


def _asked_by_restore(scene: TapeScene, vault: Path, out: Path) -> list[Operation]:
    undisturbed = Troubles()
    with faulty_library(undisturbed):
        check_restored(vault, scene.scene.expected, "night", out, "tape")
    return undisturbed.operations


@pytest.mark.parametrize("loads", [2, 6])
def test_after_a_side_was_replaced_a_restore_that_can_load_nothing_says_so(
    get_tape_scene: GetTapeScene, tmp_path: Path, loads: int
) -> None:
    """Both sides are tried in both drives, and then the replaced cartridge, too: six loads."""
    scene, vault = get_tape_scene("tape_first"), tmp_path / "vault"
    shutil.copytree(scene.start, vault)
    damaged = Troubles([TapeFault(Trouble.READ_ERROR, drive="VDRIVE-1", barcode="HF0001L8", block=2)])
    assert run(scene, vault, damaged) is not None
    damaged.demand_all_happened()
    assert (vault / "library" / "cartridges" / "HF0003L8").is_dir()
    troubles = Troubles([TapeFault(Trouble.LOAD_FAILS, times=loads)])
    with faulty_library(troubles):
        report = restore(vault, RestoreRequest(to=tmp_path / "out", origin="tape"))
    troubles.demand_all_happened()
    told = "no cartridge with a copy of the file can be mounted" in {error.message for error in report.errors}
    assert (told, report.exit_code() == 0) == (loads == 6, loads == 2)
    check_restored(vault, scene.scene.expected, "night", tmp_path / "again", "tape")


# -- one side ahead


@pytest.mark.crash
@pytest.mark.parametrize(
    "fault",
    [
        TapeFault(Trouble.READ_ERROR, barcode="HF0001L8", operation="read_record", block=2),
        TapeFault(Trouble.LASTING_WRITE_ERROR, barcode="HF0002L8", operation="write_record", block=2),
    ],
    ids=["the side ahead cannot be read", "the side behind cannot be written"],
)
def test_a_pair_that_cannot_be_levelled_blocks_nobody(
    get_tape_scene: GetTapeScene, tmp_path: Path, fault: TapeFault
) -> None:
    """Stopped between the journals of both sides, and then one of them fails."""
    scene, vault = get_tape_scene("tape_first"), tmp_path / "vault"
    shutil.copytree(scene.start, vault)
    with _stopped_between_journals(), shrunk(scene.scene), pytest.raises(ProcessStopped):
        archive(vault, scene.scene.archive_request())
    troubles = Troubles([fault])
    reports = [run(scene, vault, troubles) for _ in range(RUNS)]
    troubles.demand_all_happened()
    assert reports[-1] is not None
    assert reports[-1].exit_code() == 0


@contextmanager
def _stopped_between_journals() -> Generator[None, None, None]:
    """The first commit of objects is in the journal of side A, and not in that of side B."""
    commit, objects = CartridgeJournal.committed, list[Committed]()

    def committed(self: CartridgeJournal, tape_files: Iterable[Committed], at_ns: int) -> None:
        items = list(tape_files)
        if items[0].kind == "object" and objects:
            raise ProcessStopped
        objects.extend(item for item in items if item.kind == "object")
        commit(self, items, at_ns)

    with mock.patch.object(CartridgeJournal, "committed", committed):
        yield


# -- a drive that is broken


@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_new", [False, True], ids=["on a pair that holds something", "on a new pair"])
def test_a_drive_that_cannot_write_uses_up_no_cartridges(tmp_path: Path, is_new: bool) -> None:
    """Dirty heads: everything loads and reads, nothing can be written. A week must not take the library's scratch."""
    source, vault = tmp_path / "night", tmp_path / "vault"
    source.mkdir()
    init_vault(vault, OPTIONS)
    if not is_new:
        (source / "before").write_bytes(b"before" * 1000)
        assert archive(vault, ArchiveRequest(paths=(source,))).exit_code() == 0
    troubles = Troubles([TapeFault(Trouble.WRITE_ERROR, drive="VDRIVE-1", operation="write_*", times=60)])
    for number in range(5):
        (source / str(number)).write_bytes(b"new" * 1000)
        with suppress(HoldfastError), faulty_library(troubles):
            archive(vault, ArchiveRequest(paths=(source,)))
    troubles.demand_all_happened()
    assert len(os.listdir(vault / "library" / "cartridges")) <= 8


# -- what has no source any more


@pytest.mark.crash
@pytest.mark.timeout(300)
def test_law_4_what_was_proven_stays_so_when_two_commands_of_a_drive_fail_in_passing(tmp_path: Path) -> None:
    """Archived in place, proven, and the source deleted: there is nothing that it could be written from again."""
    left = [_proven_after_two_failures(tmp_path / str(nth), nth) for nth in range(1, 7)]
    assert min(left) >= 2, f"cartridges that still prove the content, by the failed locate: {left}"


def _proven_after_two_failures(folder: Path, nth: int) -> int:
    source, vault = folder / "night", folder / "vault"
    source.mkdir(parents=True)
    init_vault(vault, OPTIONS)
    request = ArchiveRequest(paths=(source,), in_place=True)
    (source / "old").write_bytes(b"old" * 1000)
    assert archive(vault, request).exit_code() == 0
    (source / "old").unlink()
    (source / "new").write_bytes(b"new" * 1000)
    rewind = TapeFault(Trouble.NOT_DONE, drive="VDRIVE-0", barcode="HF0001L8", operation="rewind")
    locate = TapeFault(Trouble.NOT_DONE, barcode="HF0002L8", operation="locate", nth=nth)
    troubles = Troubles([rewind, locate])
    with faulty_library(troubles):
        archive(vault, request)
    troubles.demand_all_happened()
    assert archive(vault, request).exit_code() == 0
    return _proven_copies(vault, hashlib.sha256(b"old" * 1000).digest())


def _proven_copies(vault: Path, sha256: bytes) -> int:
    """Cartridges on which the content is proven now."""
    with Catalog(vault / "catalog" / "catalog.db") as catalog, catalog.reading() as connection:
        places = tapes.tape_places(connection, Content(sha256, 3000))
        return sum(place.tape_file in proof.proven_tape_files(connection, place.barcode) for place in places)
