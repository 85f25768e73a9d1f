"""`holdfast tape`: the library."""

from __future__ import annotations

from typing import Any

import typer

from holdfast.catalog import tapes
from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_json
from holdfast.config import vault_folder
from holdfast.values import show_bytes
from holdfast.vault import Vault, opened

app = typer.Typer(help="Cartridges, drives and the changer.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def tape() -> None:
    """Cartridges, drives and the changer."""


@app.command("list")
def list_(vault: VaultOption = None, as_json: JsonOption = False) -> int:
    """List the cartridges: pair, side, state, and how full they are.

    Example: holdfast tape list --vault /archive/vault
    """
    with opened(vault_folder(vault)) as open_vault:
        rows = _rows(open_vault)
    if as_json:
        print_json(rows)
        return 0
    out = console()
    out.print(f"{'cartridge':<12}{'side':<6}{'twin':<12}{'state':<8}{'tape files':>10}{'used':>12}{'capacity':>12}")
    for row in rows:
        used, capacity = show_bytes(row["used_bytes"]), show_bytes(row["capacity_bytes"])
        line = f"{row['barcode']:<12}{row['side']:<6}{row['twin']:<12}{row['state']:<8}"
        out.print(f"{line}{row['tape_files']:>10}{used:>12}{capacity:>12}")
    return 0


def _rows(open_vault: Vault) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with open_vault.catalog.reading() as connection:
        for pair in tapes.all_pairs(connection):
            for item, twin in zip(pair.cartridges, reversed(pair.cartridges), strict=True):
                committed = tapes.tape_files(connection, item.barcode)
                rows.append(
                    {
                        "barcode": item.barcode,
                        "side": item.side.value,
                        "twin": twin.barcode,
                        "pair": str(pair.id),
                        "state": "fenced" if item.fenced else pair.state,
                        "fenced": item.fenced,
                        "virtual": item.virtual,
                        "tape_files": len(committed),
                        "used_bytes": sum(tape_file.size_bytes for tape_file in committed),
                        "capacity_bytes": item.capacity_bytes,
                    }
                )
    return rows
