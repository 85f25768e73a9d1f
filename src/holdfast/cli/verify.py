"""`holdfast verify`: reading cartridges back."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_error, print_json, watch
from holdfast.config import vault_folder
from holdfast.errors import UsageError
from holdfast.journey import verify as run_verify
from holdfast.reports import VerifyReport, as_document
from holdfast.tape.sample import Sample, parse_share
from holdfast.values import show_bytes


def verify(
    barcodes: Annotated[
        list[str] | None, typer.Argument(metavar="BARCODE", help="Only the pairs of these. Default: all.")
    ] = None,
    vault: VaultOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every tape file; so it is without options, too.")] = False,
    unproven: Annotated[
        bool, typer.Option("--unproven", help="Only the label, and what no matching reading proves yet.")
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option("--sample", metavar="SHARE", help="Label, newest catalogs, both ends, and such a share between."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="NUMBER", help="Draw the sample that had this seed.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Read cartridges back: in full, what is not proven yet, or a sample.

    Reads both cartridges of each pair at the same time and stores the evidence. A sample proves what it read.

    A byte that is not as it was written is named: cartridge, tape file, member, expected and found; exit code 3.

    Example: holdfast verify HF0001L8 --sample 25% --vault /archive/vault
    """
    if sum((everything, unproven, sample is not None)) > 1:
        raise UsageError("what is to be read is said twice", expected="one of --all, --unproven, --sample SHARE")
    report = run_verify(
        vault_folder(vault),
        tuple(barcodes or ()),
        everything=not unproven,
        sample=_drawn(sample, seed),
        watch=watch(as_json=as_json),
    )
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
        return report.exit_code()
    console().print(_in_words(report))
    for warning in report.warnings:
        console().print(f"  got round: {warning}")
    for error in report.errors:
        print_error(error, as_json=False)
    return report.exit_code()


def _drawn(share: str | None, seed: int | None) -> Sample | None:
    """The sample that is wanted, with a seed of its own when none was given; None when none is wanted."""
    if share is None:
        if seed is not None:
            raise UsageError("a seed without a sample", hint=f"holdfast verify --sample 25% --seed {seed}")
        return None
    return Sample(parse_share(share), secrets.randbelow(10**9) if seed is None else seed)


def _in_words(report: VerifyReport) -> str:
    sampled = ""
    if report.sample is not None:
        sampled = f" (a sample of {report.sample}; --seed {report.seed} reads the same again)"
    count = f"{report.tape_files} of {report.committed_tape_files}"
    return (
        f"read {count} tape files{sampled} with {report.members} members ({show_bytes(report.read_bytes)}) "
        f"of {', '.join(report.cartridges) or 'no cartridge'}: {len(report.errors)} problems; "
        f"{report.totals['proven']} of {report.totals['versions']} files, folders and links have two verified copies"
    )
