"""`holdfast archive`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_json, watch
from holdfast.config import vault_folder
from holdfast.journey import ArchiveRequest
from holdfast.journey import archive as run_archive
from holdfast.reports import ArchiveReport, Moved, Report, as_document
from holdfast.values import show_bytes

SHOWN = 20


def archive(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Folders (or files) to archive.")],
    vault: VaultOption = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Call the source so. Default: the folder's name.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Do not keep the files in the block store; read them while dumping.")
    ] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Read every file again, even if it looks unchanged.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Write on tape even if less is staged than [tape] start_at says.")
    ] = False,
    replace_again: Annotated[
        bool,
        typer.Option(
            "--replace-again", help="Drives were cleaned: give sides that failed again and again a cartridge."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Keep, dump to two tapes, verify both, report: the main job.

    Keeps the files, dumps them to a pair of cartridges, verifies both in full, and reports.

    The vault is made on first use. Run again, it does only what is new; after any interruption it goes on.

    Example: holdfast archive /data/2026-11-21 --vault /archive/vault
    """
    folder = vault_folder(vault)
    request = ArchiveRequest(
        paths=tuple(paths),
        source_name=source,
        in_place=in_place,
        recheck=recheck,
        now=now,
        replace_again=replace_again,
    )
    report = run_archive(folder, request, watch(as_json=as_json))
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
    else:
        show_report(report)
    return report.exit_code()


def show_report(report: ArchiveReport) -> None:
    """The final report, for people."""
    out = console()
    out.print()
    for name, text in _lines(report):
        out.print(f"{name:<12}{text}")
    out.print()
    show_stages(report)
    show_problems(report)
    out.print()
    out.print(_verdict(report))


def _lines(report: ArchiveReport) -> list[tuple[str, str]]:
    kept, totals = report.kept, report.totals
    found = (
        f"{kept.files} files ({show_bytes(kept.seen_bytes)}), {kept.folders} folders, {kept.links} links; "
        f"{kept.new_versions} new or changed, {kept.unchanged} unchanged, {kept.ended} ended"
    )
    saved = f"{kept.duplicate_files} duplicates saved {show_bytes(kept.duplicate_bytes)}"
    stored = (
        f"{_count(totals['blocks'], 'block')} ({show_bytes(totals['block_bytes'])}) "
        f"in {_count(totals['packs'], 'pack')}; {saved}"
    )
    lines = [
        ("vault", report.vault),
        ("found", found),
        ("store", stored),
        ("tape", _written(report)),
        ("verified", _read_back(report)),
    ]
    return lines if report.moved is None else [*lines, ("moved", _moved(report.moved))]


def _moved(moved: Moved) -> str:
    if not moved.packs and not moved.problems:
        return f"nothing new for {moved.to}"
    stay = ", others stay here" if moved.problems else ""
    return f"{_count(moved.packs, 'pack')} ({show_bytes(moved.size_bytes)}) to {moved.to}{stay}"


def _written(report: ArchiveReport) -> str:
    if report.wanted_bytes:
        staged, wanted = show_bytes(report.staged_bytes), show_bytes(report.wanted_bytes)
        return f"{staged} staged; the drives start at {wanted}, or with --now"
    if not report.written_on:
        return "nothing new to write"
    size = show_bytes(report.written_bytes)
    return f"{_count(report.objects, 'object')} ({size}) on each side: {', '.join(report.written_on)}"


def _read_back(report: ArchiveReport) -> str:
    if not report.cartridges:
        return "nothing new to verify"
    size = show_bytes(report.read_bytes)
    return f"{_count(report.tape_files, 'tape file')} ({size}) of {', '.join(report.cartridges)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def show_stages(report: Report) -> None:
    """Time and rate of every stage."""
    out = console()
    for stage in report.stages:
        rate = f"{show_bytes(stage.rate_bytes_s)}/s" if stage.done_bytes else ""
        amount = show_bytes(stage.done_bytes) if stage.done_bytes else f"{stage.count} files" if stage.count else "-"
        out.print(f"  {stage.name:<10}{stage.seconds:8.2f} s  {amount:>10}  {rate:>12}")


def show_problems(report: ArchiveReport) -> None:
    """What could not be kept as it is, and what is not proven."""
    out = console()
    for problem in report.kept.problems[:SHOWN]:
        out.print(f"  {'FAILED' if problem.failed else 'note'}: {problem.path}: {problem.reason}")
    if len(report.kept.problems) > SHOWN:
        out.print(f"  ... and {len(report.kept.problems) - SHOWN} more: --json lists them all")
    for error in report.warnings[:SHOWN]:
        out.print(f"  got round: {error}")
    for error in report.errors[:SHOWN]:
        out.print(f"  FAILED: {error}")
    for error in report.moved.problems[:SHOWN] if report.moved is not None else ():
        out.print(f"  NOT MOVED: {error}")
    for name in report.unproven[:SHOWN]:
        out.print(f"  NOT PROVEN: {name}")
    show_gone(report.gone_unproven, report.totals["gone_unproven"])


def show_gone(names: list[str], number: int) -> None:
    """What has no two verified copies, and is in its source no more; and what can still be done."""
    out = console()
    for name in names[:SHOWN]:
        out.print(f"  NOT PROVEN, AND GONE FROM ITS SOURCE: {name}")
    if number > SHOWN:
        out.print(f"  ... {number} in all")
    if names:
        out.print(
            "  next: holdfast custody NAME shows their copies; holdfast restore NAME --as-of TIME --to DIR reads what is "
            "good of them: archive that folder, and keep it"
        )


def _verdict(report: ArchiveReport) -> str:
    totals = report.totals
    if report.is_proven():
        how = f"Get them back with: holdfast restore --vault {report.vault} --to DIR"
        if report.has_failed():
            how = f"Packs that could not be moved stay here; to move them: holdfast store push --vault {report.vault}"
        return f"PROVEN: all {totals['proven']} files, folders and links have two verified copies. {how}"
    gone = f", {totals['gone_unproven']} that are gone from their source have not" if totals["gone_unproven"] else ""
    verdict = f"{totals['proven']} of {totals['versions']} have two verified copies{gone}; keep the source."
    return f"NOT ALL PROVEN: {verdict} {_how_to_write(report)}".rstrip()


def _how_to_write(report: ArchiveReport) -> str:
    return f"To write now: holdfast archive --now --vault {report.vault} PATH..." if report.wanted_bytes else ""
