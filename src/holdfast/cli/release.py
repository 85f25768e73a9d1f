"""`holdfast release` and `holdfast collect`: giving up in the store what two proven copies on tape make it safe to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_error, print_json, watch
from holdfast.collecting import CollectRequest
from holdfast.collecting import collect as run_collect
from holdfast.config import vault_folder
from holdfast.errors import HoldfastError, UsageError
from holdfast.releasing import ReleaseRequest
from holdfast.releasing import release as run_release
from holdfast.reports import CollectReport, ReleaseReport, as_document, counted
from holdfast.values import show_bytes


def release(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...", help="Names, folders or patterns, as for `holdfast ls`. Default: everything."
        ),
    ] = None,
    origin: Annotated[str, typer.Option("--from", metavar="WHERE", help="Where it is to be given up: 'store'.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be released.")] = False,
    no_collect: Annotated[
        bool, typer.Option("--no-collect", help="Leave giving the room back to `holdfast collect`.")
    ] = False,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Give up in the block store what lies proven on two tapes, and give its room back.

    Only what law 4 allows goes: two copies, read back in full, on cartridges that cannot be lost at one blow. All else
    stays, and is named. Released files are read from tape from then on. Nothing at the source is touched.

    Example: holdfast release --from store night --dry-run
    """
    if origin != "store":
        raise UsageError("release from where?", expected="--from store", found=repr(origin) if origin else "nothing")
    folder, seen = vault_folder(vault), watch(as_json=as_json)
    report = run_release(folder, ReleaseRequest(patterns=tuple(files or ()), dry_run=dry_run), seen)
    if report.contents and not (dry_run or no_collect):
        try:
            report.collected = run_collect(folder, CollectRequest(), seen)
            report.errors += report.collected.errors
        except HoldfastError as error:  # what was released is released all the same
            report.errors.append(error)
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
        return report.exit_code()
    _show_release(report)
    if report.collected is not None:
        _show_collect(report.collected, folder)
    for error in report.errors:
        print_error(error, as_json=False)
    return report.exit_code()


def collect(
    everything: Annotated[
        bool, typer.Option("--all", help="Packs with any waste; by default those of which half or more is waste.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for runs that began earlier to end.")] = False,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Give back the room in the block store that only released files needed.

    What is still needed of a pack is copied to another one before its file is removed. Others may work on the vault
    meanwhile. A damaged pack stays until `holdfast scrub` has repaired it.

    Example: holdfast collect --all --wait
    """
    folder = vault_folder(vault)
    report = run_collect(folder, CollectRequest(everything=everything, wait=wait), watch(as_json=as_json))
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
        return report.exit_code()
    _show_collect(report, folder)
    for error in report.errors:
        print_error(error, as_json=False)
    return report.exit_code()


def _show_release(report: ReleaseReport) -> None:
    out, verb = console(), "may be released" if report.dry_run else "released"
    out.print(f"{verb}: {counted(report.contents, 'content')} ({show_bytes(report.released_bytes)}) in the block store")
    if report.refused:
        out.print(f"not yet allowed (law 4): {counted(report.refused, 'content')}")
        for name in report.refused_names[:10]:
            out.print(f"  {name}")
        if report.refused > 10:
            out.print(f"  … and {report.refused - 10} more")
        out.print(
            "  `holdfast custody FILE` shows what is proven; virtual cartridges count only if holdfast.toml says so"
        )


def _show_collect(report: CollectReport, folder: Path) -> None:
    out = console()
    if report.waiting:
        out.print("no room was given back yet: somebody is at work who began earlier")
        out.print(f"  when they have ended: holdfast collect --vault {folder}")
        return
    freed_bytes = report.removed_bytes - report.written_bytes
    out.print(
        f"removed {counted(report.packs, 'pack')} ({show_bytes(report.removed_bytes)}), copied "
        f"{show_bytes(report.copied_bytes)} that is needed: {show_bytes(freed_bytes)} are free"
    )
    if left := report.wasteful_packs - report.collected - len(report.errors) - len(report.warnings):
        out.print(f"  some waste is left in {counted(left, 'pack')}: holdfast collect --all gives that back, too")
    for warning in report.warnings:
        out.print(f"  got round: {warning}")
