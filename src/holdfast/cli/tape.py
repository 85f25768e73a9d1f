"""`holdfast tape`: the library."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from holdfast import handling
from holdfast.catalog import Cartridge, tapes
from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_json, show_warning
from holdfast.config import vault_folder
from holdfast.errors import UsageError
from holdfast.tape.label import encode_volume
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
        line = f"{row['barcode']:<12}{row['side']:<6}{row['twin'] or '-':<12}{row['state']:<8}"
        out.print(f"{line}{row['tape_files']:>10}{used:>12}{capacity:>12}")
    return 0


def _rows(open_vault: Vault) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with open_vault.catalog.reading() as connection:
        for pair in tapes.all_pairs(connection):
            for item, twin in zip(pair.cartridges, reversed(pair.cartridges), strict=True):
                rows.append(_row(connection, item, twin.barcode, pair.state))
        rows += [_row(connection, item, None, "replaced") for item in tapes.replaced_cartridges(connection)]
    return rows


def _row(connection: Connection, item: Cartridge, twin: str | None, state: str) -> dict[str, Any]:
    committed = tapes.tape_files(connection, item.barcode)
    return {
        "barcode": item.barcode,
        "side": item.side.value,
        "twin": twin,
        "pair": str(item.pair_id),
        "state": "fenced" if item.fenced else state,
        "fenced": item.fenced,
        "virtual": item.virtual,
        "tape_files": len(committed),
        "used_bytes": sum(tape_file.size_bytes for tape_file in committed),
        "capacity_bytes": item.capacity_bytes,
    }


BarcodeArgument = Annotated[str, typer.Argument(metavar="BARCODE", help="As `holdfast tape inventory` shows it.")]
DriveOption = Annotated[str | None, typer.Option("--drive", metavar="SERIAL", help="The drive's serial number.")]


@app.command()
def inventory(vault: VaultOption = None, as_json: JsonOption = False) -> int:
    """Show what is in the drives and slots of the library.

    Example: holdfast tape inventory
    """
    places = handling.inventory(vault_folder(vault))
    if as_json:
        print_json([asdict(place) for place in places])
        return 0
    out = console()
    out.print(f"{'where':<24}{'cartridge':<12}known as")
    for place in places:
        where = f"drive {place.drive}" if place.drive is not None else "port" if place.port else "slot"
        out.print(f"{where:<24}{place.barcode or '-':<12}{place.known_as or '-'}".rstrip())
    return 0


@app.command("status")
def status(vault: VaultOption = None, as_json: JsonOption = False) -> int:
    """Show the drives: their devices, what is in them, what the vault knows of it, and who has the library.

    Example: holdfast tape status
    """
    found = handling.drive_status(vault_folder(vault))
    if as_json:
        drives = [
            {name: getattr(place, name) for name in ("drive", "device", "barcode", "known_as")}
            for place in found.drives
        ]
        print_json({"owner": found.owner, "drives": drives})
        return 0
    out = console()
    if found.owner is not None:
        out.print(f"the library is in use by {found.owner}")
        return 0
    out.print(f"{'drive':<24}{'device':<16}{'cartridge':<12}known as")
    for place in found.drives:
        out.print(
            f"{place.drive:<24}{place.device or '-':<16}{place.barcode or '-':<12}{place.known_as or '-'}".rstrip()
        )
    return 0


@app.command("export")
def export(barcode: BarcodeArgument, vault: VaultOption = None) -> int:
    """Put a cartridge into an import/export slot, where a person takes it out.

    Example: holdfast tape export HF0001L8
    """
    handling.export(vault_folder(vault), barcode)
    console().print(f"{barcode} is in an import/export slot")
    return 0


@app.command("import")
def import_(barcode: BarcodeArgument, vault: VaultOption = None) -> int:
    """Take a cartridge that a person has put into an import/export slot into the library.

    Example: holdfast tape import HF0001L8
    """
    handling.bring_in(vault_folder(vault), barcode)
    console().print(f"{barcode} is in a slot of the library")
    return 0


@app.command()
def load(barcode: BarcodeArgument, drive: DriveOption = None, vault: VaultOption = None) -> int:
    """Put a cartridge into a drive: the first empty one, unless told.

    Example: holdfast tape load HF0001L8
    """
    used = handling.load(vault_folder(vault), barcode, drive)
    console().print(f"{barcode} is in drive {used}")
    return 0


@app.command()
def unload(drive: DriveOption = None, vault: VaultOption = None) -> int:
    """Put what is in a drive, or in all of them, back into slots.

    Example: holdfast tape unload
    """
    moved = handling.unload(vault_folder(vault), drive)
    console().print(f"put back: {', '.join(moved)}" if moved else "the drives were empty")
    return 0


@app.command()
def label(barcode: BarcodeArgument, vault: VaultOption = None, as_json: JsonOption = False) -> int:
    """Load a cartridge and show what it says it is, whoever wrote it. Nothing is written.

    Example: holdfast tape label HF0001L8
    """
    found = handling.look(vault_folder(vault), barcode)
    if as_json:
        print_json({"barcode": barcode} | _found_fields(found))
    else:
        console().print(f"{barcode}: {found.words}")
    return 0


@app.command()
def read(
    barcode: BarcodeArgument,
    number: Annotated[int, typer.Argument(metavar="N", min=0, help="The tape file; 0 is the label.")],
    vault: VaultOption = None,
) -> int:
    """Write one tape file, as it lies on the cartridge, to standard output: a plain tar archive.

    Example: holdfast tape read HF0001L8 1 | tar -tvf -
    """
    handling.copy_tape_file(vault_folder(vault), barcode, number, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return 0


ConfirmOption = Annotated[
    str | None,
    typer.Option("--confirm", metavar="BARCODE", help="The barcode once more, instead of being asked for it."),
]


def _demand(barcode: str, said: str | None, what: str) -> None:
    """Raise `UsageError` unless the person says the barcode, now or before."""
    said = typer.prompt(f"type {barcode} to {what} it", err=True) if said is None else said
    if said != barcode:
        raise UsageError("not confirmed; nothing was done", expected=barcode, found=said)


@app.command()
def fence(
    barcode: BarcodeArgument,
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason; `holdfast tape list --json` shows it.")],
    confirm: ConfirmOption = None,
    vault: VaultOption = None,
) -> int:
    """Take a cartridge out of use, for ever: it was dropped, lost, or is not to be trusted.

    It is not written again and proves nothing; what it holds can still be read. The next `archive` copies its twin to
    another cartridge.

    Example: holdfast tape fence HF0002L8 --why 'it was dropped'
    """
    _demand(barcode, confirm, "fence")
    handling.fence(vault_folder(vault), barcode, why, show_warning)
    console().print(f"{barcode} is fenced; run holdfast archive again to copy its twin to another cartridge")
    return 0


@app.command()
def erase(
    barcode: BarcodeArgument,
    labelled: Annotated[
        str | None, typer.Option(metavar="BARCODE", help="What its label says, where its sticker says something else.")
    ] = None,
    confirm: ConfirmOption = None,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Erase a cartridge that is not of this vault, so that it can be taken as a new one.

    It is loaded, what stands on it is said, and the barcode must be typed. A cartridge of this vault is never erased.

    Example: holdfast tape erase HF0009L8
    """
    if confirm is not None:
        _demand(barcode, confirm, "erase")  # before anything is moved

    def ask(found: handling.Found) -> None:
        for line in _told_before_erasing(barcode, found):
            typer.echo(line, err=True)
        _demand(barcode, confirm, "erase")

    found = handling.erase(vault_folder(vault), barcode, ask, labelled=labelled, warn=show_warning)
    if as_json:
        print_json({"barcode": barcode, "erased": True, "held": _found_fields(found)})
    else:
        console().print(f"{barcode} is erased, was read, and is blank")
    return 0


def _told_before_erasing(barcode: str, found: handling.Found) -> list[str]:
    lines = [f"{barcode} holds: {found.words}"]
    if (label := found.label) is not None:
        lines.append(f"  vault {label.vault_id}, pair {label.pair_id}, begun {label.created}")
        lines.append(f"  to make it known to this vault instead: holdfast rebuild {barcode}")
    return lines


def _found_fields(found: handling.Found) -> dict[str, Any]:
    label_document = None if found.label is None else json.loads(encode_volume(found.label))
    return {"words": found.words, "label": label_document}
