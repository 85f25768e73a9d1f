"""A file's whole way, top to bottom.

    archive    discover → store (or note, in place) → [enough staged?] → dump on a pair → verify both
               → [packs elsewhere?] move them → conclude
    restore    find the versions → plant them, from the store or from tape, twin by twin (`holdfast.restoring`)
    verify     read cartridges back in full, store the evidence

Each step asks the catalog what is still to be done and does that, so running again is resuming. The rooms below do
the work; this page only says in which order, and what is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.catalog import Pair, files, packs, proof, tapes
from holdfast.errors import CapacityError, HoldfastError, SourceError
from holdfast.moving import move_packs
from holdfast.reports import ArchiveReport, Kept, Silent, Stage, VerifyReport, Watch, counted
from holdfast.tape.contents import StoredContents
from holdfast.tape.dump import DumpResult
from holdfast.tape.library import STOPS_A_PAIR, TapeLibrary
from holdfast.tape.pairs import PairsToWrite, dump_session, is_anything_unwritten, is_whole, smallest_room
from holdfast.tape.plan import fits_blank
from holdfast.tape.reach import OutOfReach, find_out_of_reach
from holdfast.tape.sample import Sample
from holdfast.tape.verify import (
    adopt_evidence,
    fence_unreadable,
    verify_pair,
    wanted_files,
    wants_verifying,
    was_misread,
)
from holdfast.trees.keep import Recorder, TreeKeeper
from holdfast.trees.noting import InPlaceContents, NotingRecorder
from holdfast.trees.scope import Scope, check_paths, find_scopes
from holdfast.trees.storing import StoringRecorder
from holdfast.trees.walk import Entry, walk
from holdfast.values import Kind, show_bytes, show_path
from holdfast.vault import Vault, owned
from holdfast.work import Step

IN_PLACE_ROUNDS = 3
"""In place, files that change while they are dumped are noted and dumped again, so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRequest:
    """What is to be archived, and how.

    `now`: write on tape however little is staged.
    `replace_again`: sides whose replacements failed again and again get another one, as a person looked at the drives.
    """

    paths: tuple[Path, ...]
    source_name: str | None = None
    in_place: bool = False
    recheck: bool = False
    now: bool = False
    replace_again: bool = False


def archive(folder: Path, request: ArchiveRequest, watch: Watch | None = None) -> ArchiveReport:
    """Keep everything under the paths, dump it on pairs of cartridges, verify both sides, and report.

    Whatever the report calls proven has two copies that were read back in full. Run again after any interruption, it
    goes on where the last run's durable work ended. Raises `HoldfastError` for what stops the whole; what concerns
    single files is in the report.
    """
    watch = watch or Silent()
    report = ArchiveReport(vault=str(folder), in_place=request.in_place)
    check_paths(request.paths, request.source_name, vault=folder)
    with (
        owned(folder, "archive", report.warnings.append, make=True) as vault,
        TapeLibrary(vault.settings, vault.catalog) as library,
    ):
        vault.packs.backend()  # wrong settings for it shall not be found out when all is done
        _adopt(library)
        scopes = find_scopes(vault.catalog, request.paths, request.source_name)
        _discover(vault, scopes, report, watch)
        _keep(vault, scopes, request, report, watch)
        if request.now or _is_time_to_write(vault, library, report, watch):
            restless = _dump(vault, library, report, watch, replace_again=request.replace_again)
            for _ in range(IN_PLACE_ROUNDS - 1):
                if restless:
                    _keep(vault, scopes, request, report, watch)
                    restless = _dump(vault, library, report, watch, replace_again=request.replace_again)
            report.errors += restless
            _make_proven(vault, library, report, watch)
            if vault.settings.blocks.store:
                report.moved = move_packs(vault, report, watch)
        _conclude(vault, scopes, report)
    return report


def verify(
    folder: Path,
    barcodes: tuple[str, ...],
    *,
    everything: bool,
    sample: Sample | None = None,
    watch: Watch | None = None,
) -> VerifyReport:
    """Read cartridges back, both of a pair at once: what is not proven yet, or `everything`; store the evidence.

    With a `sample`, what it chooses of each cartridge instead, proven or not. With barcodes, only their pairs. Raises
    `SourceError` for a barcode that is not known.
    """
    report = VerifyReport(vault=str(folder))
    if sample is not None:
        report.sample, report.seed = str(sample), sample.seed
    with (
        owned(folder, "verify", report.warnings.append) as vault,
        TapeLibrary(vault.settings, vault.catalog) as library,
    ):
        _adopt(library)
        pairs = _pairs_of(library, barcodes)
        _verify(vault, library, pairs, report, watch or Silent(), everything=everything, sample=sample)
        with vault.catalog.reading() as connection:
            report.totals = proof.count_proven(connection)
    return report


# -- the steps, in their order


def _adopt(library: TapeLibrary) -> None:
    """What a killed run put in the journals and did not tell the catalog."""
    library.adopt_pairs()
    adopt_evidence(library)


def _discover(vault: Vault, scopes: list[Scope], report: ArchiveReport, watch: Watch) -> None:
    """Look at every name once: how much is there, and is any file too large for a cartridge?"""
    room = smallest_room(vault.settings)
    with watch.stage("discover") as stage:
        for scope in scopes:
            for found in walk(scope.source.root, scope.below, leave_out=vault.identity()):
                if isinstance(found, Entry) and found.kind is Kind.FILE:
                    if not fits_blank(len(found.path) + 101, found.stat.st_size, room):
                        raise _too_large(found, vault.settings.tape.cartridge_bytes)
                    report.source_bytes += found.stat.st_size
                    stage.count()
        report.stages.append(stage.done())


def _too_large(found: Entry, capacity_bytes: int) -> CapacityError:
    return CapacityError(
        "a file is larger than a cartridge; nothing was written",
        place=show_path(found.path),
        expected=f"a file that fits a cartridge of {capacity_bytes} bytes beside its label and catalogs",
        found=f"{found.stat.st_size} bytes",
        hint="use larger cartridges ([tape] cartridge_capacity in holdfast.toml), or archive without this file",
    )


def _keep(vault: Vault, scopes: list[Scope], request: ArchiveRequest, report: ArchiveReport, watch: Watch) -> None:
    """Record what is new, changed and gone; unless in place, with its bytes in the block store."""
    name, sources = "note" if request.in_place else "store", ", ".join(scope.source.name for scope in scopes)
    vault.work.plan(name, {sources: report.source_bytes})
    with (
        watch.stage(name, report.source_bytes) as stage,
        vault.work.doing(name, sources, report.source_bytes, also=stage.advance) as step,
    ):
        if request.in_place:
            noting = NotingRecorder(vault.catalog, step.advance)
            kept = _keep_trees(vault, scopes, noting, request, step)
            noting.flush()
        else:
            with vault.store_writer() as writer:
                storing = StoringRecorder(vault.catalog, writer, step.advance)
                kept = _keep_trees(vault, scopes, storing, request, step)
            storing.flush_looks()
        report.add_kept(kept)
        report.stages.append(stage.done())
    watch.say(f"kept {kept.new_versions} new versions of {kept.files} files")


def _keep_trees(vault: Vault, scopes: list[Scope], recorder: Recorder, request: ArchiveRequest, step: Step) -> Kept:
    total = Kept()
    for scope in scopes:
        keeper = TreeKeeper(
            vault.catalog,
            scope.source,
            recorder,
            recheck=request.recheck,
            leave_out=vault.identity(),
            progress=step.advance,
        )
        total.merge(keeper.keep(scope.below))
    return total


def _is_time_to_write(vault: Vault, library: TapeLibrary, report: ArchiveReport, watch: Watch) -> bool:
    """Whether enough is staged for drives to stream; if not, the report says so.

    What a run began is ended whatever is staged (law 6): pairs that are not whole, what is not proven yet, and what
    lost its copies, as their pair was fenced.
    """
    with vault.catalog.reading() as connection:
        staged_bytes = tapes.count_unwritten_bytes(connection)
        lost_copies = tapes.is_any_to_write_again(connection)
    wanted_bytes = vault.settings.tape.start_bytes
    if staged_bytes >= wanted_bytes or not is_anything_unwritten(library):
        return True
    if lost_copies or _is_anything_begun(library):
        return True
    report.staged_bytes, report.wanted_bytes = staged_bytes, wanted_bytes
    watch.say(f"staged {show_bytes(staged_bytes)} of the {show_bytes(wanted_bytes)} at which the drives start")
    return False


def _is_anything_begun(library: TapeLibrary) -> bool:
    """Whether a pair is not whole, or not proven; or its journal, catalog and tapes disagree, which the dump will tell."""
    pairs = [pair for pair in library.pairs() if pair.state != "fenced"]
    try:
        return any(not is_whole(library, pair) or wants_verifying(library, pair) for pair in pairs)
    except STOPS_A_PAIR:
        return True


def _make_proven(vault: Vault, library: TapeLibrary, report: ArchiveReport, watch: Watch) -> None:
    """Verify what is not proven yet; what that finds bad is written and verified once more."""
    told = len(report.errors)
    _verify_new(vault, library, report, watch)
    if _fence_misread(vault, library, report, told, watch):
        report.errors += _dump(vault, library, report, watch)
        _verify_new(vault, library, report, watch)


def _dump(
    vault: Vault, library: TapeLibrary, report: ArchiveReport, watch: Watch, *, replace_again: bool = False
) -> list[HoldfastError]:
    """Write what no tape holds yet, pair after pair; what is returned are files that must be noted again, and why."""
    with vault.store_reader() as reader:
        contents = StoredContents(vault.catalog, reader, InPlaceContents(vault.catalog))
        left_out = find_out_of_reach(library, contents)
        _report_out_of_reach(vault, left_out, report)
        with vault.catalog.reading() as connection:
            total_bytes = tapes.count_unwritten_bytes(connection) - left_out.size_bytes
        vault.work.plan("dump", {})  # pair by pair, as drives and cartridges allow
        pairs = PairsToWrite(library, replace_again=replace_again, left_out=left_out.ids)
        with watch.stage("dump", total_bytes) as stage:
            restless = _write_pairs(vault, library, pairs, contents, stage, report, watch)
            report.stages.append(stage.done())
    got_round, errors = pairs.troubles()
    report.warnings += got_round
    report.errors += errors
    return restless


def _report_out_of_reach(vault: Vault, left_out: OutOfReach, report: ArchiveReport) -> None:
    with vault.catalog.reading() as connection:
        roots = {source.name: source.root for source in files.all_sources(connection)}
    told = {str(error) for error in report.errors}
    report.errors += [error for error in left_out.errors(roots) if str(error) not in told]


def _write_pairs(
    vault: Vault,
    library: TapeLibrary,
    pairs: PairsToWrite,
    contents: StoredContents,
    stage: Stage,
    report: ArchiveReport,
    watch: Watch,
) -> list[HoldfastError]:
    restless: list[HoldfastError] = []
    while (visit := pairs.next()) is not None:
        result = DumpResult()
        try:
            left_bytes = stage.total_bytes - stage.done_bytes
            with vault.work.doing("dump", _names(visit.pair), left_bytes, also=stage.advance) as step:
                dump_session(library, visit, contents, step.advance, result)
        except STOPS_A_PAIR as error:
            pairs.failed(visit.pair, error)
        else:
            pairs.written(visit.pair, result.lost)
            watch.say(_what_was_written(result))
        restless += _report_session(result, report)
    return restless


def _what_was_written(result: DumpResult) -> str:
    if not result.barcodes:
        return "both sides of a full pair hold the same again"
    return f"committed {counted(result.objects, 'object')} on {' and '.join(result.barcodes)}"


def _report_session(result: DumpResult, report: ArchiveReport) -> list[HoldfastError]:
    """What was committed counts, also when the session broke off after it."""
    report.objects += result.objects
    report.written_bytes += result.tape_bytes
    report.written_on += [barcode for barcode in result.barcodes if barcode not in report.written_on]
    return _report_void(result, report)


def _report_void(result: DumpResult, report: ArchiveReport) -> list[HoldfastError]:
    """Report members that could not be written as promised; returns the reasons where noting anew may help."""
    restless: list[HoldfastError] = []
    for item in result.void:
        item.reason.place = show_path(item.version.full_path)
        item.reason.hint = item.reason.hint or "run the same command again when nothing changes the file"
        (restless if item.version.content is None else report.errors).append(item.reason)
    return restless


def _verify_new(vault: Vault, library: TapeLibrary, report: VerifyReport, watch: Watch) -> None:
    pairs = [pair for pair in library.pairs() if wants_verifying(library, pair)]
    _verify(vault, library, pairs, report, watch, everything=False)


def _fence_misread(vault: Vault, library: TapeLibrary, report: ArchiveReport, told: int, watch: Watch) -> bool:
    """Fence sides that were read back with other bytes than their proven twins, in both drives; whether there were any.

    Both sides are read whole, each in the other drive than before: what is good now is proven, as the first drive was
    at fault; and a twin is not relied on for readings of long ago. Of the errors of the verification, those behind the
    first `told`, what the first reading found of such a pair becomes a warning, and so does what the second one finds
    of a side that is fenced, as it is made good.
    """
    fenced = False
    for pair in library.pairs():
        if was_misread(library, pair):
            _got_round(report, told, _barcodes(pair))
            _verify(vault, library, [pair], report, watch, everything=True, swapped=False)
            fenced |= _fence_if_unreadable(library, pair, report, told)
    return fenced


def _fence_if_unreadable(library: TapeLibrary, pair: Pair, report: ArchiveReport, told: int) -> bool:
    try:
        fenced = fence_unreadable(library, pair)
    except STOPS_A_PAIR as problem:
        report.errors.append(problem)
        return False
    for error in fenced:
        _got_round(report, told, str(error.place).split()[:1])
        report.warnings.append(error)
    return bool(fenced)


def _got_round(report: ArchiveReport, told: int, barcodes: list[str]) -> None:
    """What is wrong with these cartridges is made good: the errors about them, behind the first `told`, are warnings."""
    found = report.errors[told:]
    report.warnings += [error for error in found if _is_about(error, barcodes)]
    report.errors[told:] = [error for error in found if not _is_about(error, barcodes)]


def _is_about(error: HoldfastError, barcodes: list[str]) -> bool:
    return f"{error.place} ".partition(" ")[0] in barcodes


def _verify(
    vault: Vault,
    library: TapeLibrary,
    pairs: list[Pair],
    report: VerifyReport,
    watch: Watch,
    *,
    everything: bool,
    swapped: bool = True,
    sample: Sample | None = None,
) -> None:
    """Read both cartridges of each pair at once, in swapped drives, and unload them."""
    sizes = {_names(pair): _bytes_to_read(library, pair, everything=everything, sample=sample) for pair in pairs}
    vault.work.plan("verify", sizes)
    with watch.stage("verify", sum(sizes.values())) as stage:
        for pair in pairs:
            with vault.work.doing("verify", _names(pair), sizes[_names(pair)], also=stage.advance) as step:
                result = verify_pair(
                    library, pair, everything=everything, sample=sample, progress=step.advance, swapped=swapped
                )
                step.problem = counted(len(result.problems), "problem") if result.problems else None
            report.cartridges += [barcode for barcode in _barcodes(pair) if barcode not in report.cartridges]
            report.tape_files += result.tape_files
            report.members += result.members
            report.read_bytes += result.read_bytes
            report.errors += result.problems
            outcome = f"{len(result.problems)} PROBLEMS" if result.problems else "all as written"
            watch.say(f"verified {result.tape_files} tape files on {' and '.join(_barcodes(pair))}: {outcome}")
        report.stages.append(stage.done())
    with library.catalog.reading() as connection:
        report.committed_tape_files = sum(len(tapes.tape_files(connection, name)) for name in report.cartridges)


def _bytes_to_read(library: TapeLibrary, pair: Pair, *, everything: bool, sample: Sample | None) -> int:
    return sum(
        item.size_bytes
        for cartridge in pair.cartridges
        for item in wanted_files(library, cartridge, everything=everything, sample=sample)
    )


def _conclude(vault: Vault, scopes: list[Scope], report: ArchiveReport) -> None:
    """Say what is proven now, and what is not."""
    names = {scope.source.name for scope in scopes}
    with vault.catalog.reading() as connection:
        report.unproven = [show_path(v.full_path) for v in proof.unproven_versions(connection, names, 100)]
        report.gone_unproven = [show_path(v.full_path) for v in proof.gone_and_unproven(connection, 100)]
        report.totals = packs.count_store(connection) | tapes.count_tapes(connection) | proof.count_proven(connection)
        report.totals["gone_unproven"] = proof.count_gone_and_unproven(connection)


def _pairs_of(library: TapeLibrary, barcodes: tuple[str, ...]) -> list[Pair]:
    pairs = library.pairs()
    known = {barcode for pair in pairs for barcode in _barcodes(pair)}
    for barcode in barcodes:
        if barcode not in known:
            raise SourceError("no such cartridge", place=barcode, hint="holdfast tape list shows those of the vault")
    return [pair for pair in pairs if not barcodes or set(_barcodes(pair)) & set(barcodes)]


def _names(pair: Pair) -> str:
    return " and ".join(_barcodes(pair))


def _barcodes(pair: Pair) -> list[str]:
    return [item.barcode for item in pair.cartridges]
