"""`holdfast scrub`: reading the block store back."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_error, print_json, watch
from holdfast.config import vault_folder
from holdfast.errors import UsageError
from holdfast.reports import ScrubReport, as_document, counted
from holdfast.scrubbing import ScrubRequest
from holdfast.scrubbing import scrub as run_scrub
from holdfast.values import parse_bytes, show_bytes

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def scrub(
    vault: VaultOption = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="BYTES", help="At most so many bytes a second, such as 100MB.")
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Begin no pack after so long, such as 90min or 8h.")
    ] = None,
    no_repair: Annotated[bool, typer.Option("--no-repair", help="Only say what is damaged; mount no tape.")] = False,
    replace_lost: Annotated[
        bool, typer.Option("--replace-lost", help="Packs that are missing are lost for good: put them together anew.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Read the block store back, and repair what rotted from the tapes.

    Reads every pack in full, the one that was read longest ago first; an archive may go on beside it.

    A damaged block is put together again from its good pieces and the files on tape, or at their source. Exit code 3 if
    that failed, or a pack is missing.

    Example: holdfast scrub --rate 100MB --for 8h --vault /archive/vault
    """
    request = ScrubRequest(
        rate_bytes_s=None if rate is None else parse_bytes(rate),
        for_s=None if time_limit is None else parse_duration(time_limit),
        repair=not no_repair,
        replace_lost=replace_lost,
    )
    report = run_scrub(vault_folder(vault), request, watch(as_json=as_json))
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
        return report.exit_code()
    console().print(_in_words(report))
    for warning in report.warnings:
        console().print(f"  got round: {warning}")
    for error in report.errors:
        print_error(error, as_json=False)
    if more := sum(report.totals.values()) - len(report.warnings) - len(report.errors):
        console().print(f"  and {more} more, which are not shown")
    return report.exit_code()


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `15min`, `8h` or `2d`. Raises `UsageError` for anything else."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(s|min|h|d)", text.strip(), re.ASCII)
    if found is None:
        raise UsageError("not a time span", expected="such as 90s, 15min, 8h or 2d", found=repr(text))
    return float(found[1]) * SECONDS[found[2]]


def _in_words(report: ScrubReport) -> str:
    unread = f", {counted(report.unread_packs, 'pack')} not read" if report.unread_packs else ""
    return (
        f"read {report.packs} of {counted(report.packs_in_store, 'pack')} ({show_bytes(report.read_bytes)}): "
        f"{counted(report.damaged_blocks, 'damaged block')}, {report.repaired_blocks} repaired{unread}"
    )
