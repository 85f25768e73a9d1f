"""`holdfast verify`: reading cartridges back."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_error, print_json, watch
from holdfast.config import vault_folder
from holdfast.journey import verify as run_verify
from holdfast.reports import as_document
from holdfast.values import show_bytes


def verify(
    barcodes: Annotated[
        list[str] | None, typer.Argument(metavar="BARCODE", help="Only the pairs of these. Default: all.")
    ] = None,
    vault: VaultOption = None,
    unproven: Annotated[
        bool, typer.Option("--unproven", help="Only the label, and what no matching reading proves yet.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Read cartridges back in full.

    Reads both cartridges of each pair at the same time, every byte, and stores the evidence.

    A byte that is not as it was written is named: cartridge, tape file, member, expected and found; exit code 3.

    Example: holdfast verify HF0001L8 --vault /archive/vault
    """
    report = run_verify(
        vault_folder(vault), tuple(barcodes or ()), everything=not unproven, watch=watch(as_json=as_json)
    )
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
        return report.exit_code()
    out = console()
    out.print(
        f"read {report.tape_files} tape files with {report.members} members ({show_bytes(report.read_bytes)}) "
        f"of {', '.join(report.cartridges) or 'no cartridge'}: {len(report.errors)} problems; "
        f"{report.totals['proven']} of {report.totals['versions']} files, folders and links have two verified copies"
    )
    for error in report.errors:
        print_error(error, as_json=False)
    return report.exit_code()
