"""`holdfast rebuild`: catalog and journals again, from the tapes alone."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_error, print_json, watch
from holdfast.config import vault_folder
from holdfast.rebuilding import rebuild as run_rebuild
from holdfast.reports import RebuildReport, as_document, counted


def rebuild(
    barcodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="BARCODE", help="Only these and their twins. Default: all in the library."),
    ] = None,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Fill catalog and journals from the tapes alone.

    Reads every label, every catalog on tape, and the objects that no catalog tells of. What is known stays as it is.

    Copies count as unproven until `verify` has read them again.

    Example: holdfast init --vault /archive/vault; holdfast rebuild --vault /archive/vault
    """
    report = run_rebuild(vault_folder(vault), tuple(barcodes or ()), watch(as_json=as_json))
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
    else:
        _show(report)
    return report.exit_code()


def _show(report: RebuildReport) -> None:
    out = console()
    for item in report.cartridges:
        out.print(f"  {item.barcode:<12}{item.state}{': ' if item.text else ''}{item.text}")
    if report.adopted_id is not None:
        out.print(f"the vault is now the one that wrote the tapes: {report.adopted_id}")
    totals = report.totals
    out.print(
        f"rebuilt {counted(report.objects, 'object')} ({report.scanned} member by member) "
        f"and {counted(report.evidence, 'reading')}; "
        f"{totals['proven']} of {totals['versions']} files, folders and links have two verified copies"
    )
    if report.missing:
        out.print(f"NOT FOUND: {', '.join(report.missing)}, which other cartridges name")
    for warning in report.warnings:
        out.print(f"  got round: {warning}")
    for error in report.errors:
        print_error(error, as_json=False)
