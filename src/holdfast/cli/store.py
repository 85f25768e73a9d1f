"""`holdfast store`: the packs of the block store, and where they lie."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from holdfast import moving
from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_error, print_json, show_warning, watch
from holdfast.config import vault_folder
from holdfast.errors import UsageError
from holdfast.reports import StoreReport, as_document, counted
from holdfast.values import show_bytes

app = typer.Typer(help="Packs, and where they lie.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def store() -> None:
    """Packs, and where they lie."""


@app.command("list")
def list_(vault: VaultOption = None, as_json: JsonOption = False) -> int:
    """List the packs: where they lie, how large they are, and whether the catalog knows them.

    Example: holdfast store list --vault /archive/vault
    """
    rows = moving.list_packs(vault_folder(vault))
    if as_json:
        print_json([asdict(row) for row in rows])
        return 0
    out = console()
    out.print(f"{'pack':<42}{'where':<20}{'size':>12}")
    for row in rows:
        out.print(f"{row.pack:<42}{row.where:<20}{show_bytes(row.size_bytes):>12}{'' if row.known else '  unknown'}")
    return 0


@app.command()
def push(vault: VaultOption = None, as_json: JsonOption = False) -> int:
    """Move the sealed packs to the place that [blocks] store in holdfast.toml names.

    Each is sent, read back there in full and compared, and only then removed from the vault's folder.

    Example: holdfast store push --vault /archive/vault
    """
    report = moving.push(vault_folder(vault), watch(as_json=as_json))
    return _show(report, f"moved {counted(report.packs, 'pack')} ({show_bytes(report.size_bytes)})", as_json=as_json)


@app.command()
def copy(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="Such as s3://bucket/prefix, or file:///folder.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="As in [blocks.store_options]; may be given again."),
    ] = None,
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy all sealed packs to another place, and read them back there; run again, it goes on.

    Nothing is removed. At the end it says what to write into holdfast.toml to use the new place.

    Example: holdfast store copy --to s3://bucket/prefix --vault /archive/vault
    """
    options = dict(map(_option, option)) if option else None
    report = moving.copy(vault_folder(vault), to, options, watch(as_json=as_json))
    said = f"copied {counted(report.packs, 'pack')} ({show_bytes(report.size_bytes)}), {report.sent} of them sent now"
    code = _show(report, said, as_json=as_json)
    if code == 0 and not as_json:
        console().print(f"next: to use them from there, write into {vault_folder(vault) / 'holdfast.toml'}")
        console().print("\n".join(_settings_for(report.to, options or {})))
    return code


def _settings_for(url: str, options: dict[str, str]) -> list[str]:
    """The lines of `holdfast.toml`; a secret that was typed is not shown, and should not stand there."""
    lines = ["[blocks]", f"store = {json.dumps(url)}"]
    if options:
        lines.append("[blocks.store_options]")
    for name, text in options.items():
        is_secret = "$" not in text and any(word in name.lower() for word in ("secret", "key", "token", "password"))
        lines.append(f'{name} = "$…"' if is_secret else f"{name} = {json.dumps(text)}")
    return lines


def _option(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise UsageError("not an option for a store", expected="NAME=VALUE", found=repr(text))
    return name, value


def _show(report: StoreReport, said: str, *, as_json: bool) -> int:
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
        return report.exit_code()
    console().print(f"{said}: {report.to}")
    for warning in report.warnings:
        show_warning(warning)
    for error in report.errors:
        print_error(error, as_json=False)
    return report.exit_code()
