"""`holdfast doctor`: whether packs and catalog agree."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_error, print_json, watch
from holdfast.config import vault_folder
from holdfast.doctoring import examine
from holdfast.doctoring import repair as run_repair
from holdfast.reports import as_document, counted


def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Read every pack, and take it into the catalog again.")
    ] = False,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare what the packs say with what the catalog knows.

    Reads each pack's own index and the names in it; others may work on the vault meanwhile. With --repair the catalog learns
    again all that the packs say: blocks, names, ends. Whether blocks are whole is a question for `holdfast scrub`.

    Example: holdfast doctor --repair --vault /archive/vault
    """
    folder, seen = vault_folder(vault), watch(as_json=as_json)
    report = run_repair(folder, seen) if repair else examine(folder, seen)
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
        return report.exit_code()
    verdict = "they agree with the catalog" if not report.errors else f"{counted(len(report.errors), 'disagreement')}"
    console().print(
        f"looked at {counted(report.packs, 'pack')} with {counted(report.blocks, 'block')} "
        f"and {counted(report.versions, 'version')}: {verdict}"
    )
    for warning in report.warnings:
        console().print(f"  {warning}")
    for error in report.errors:
        print_error(error, as_json=False)
    return report.exit_code()
