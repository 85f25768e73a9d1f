"""`holdfast restore`, `holdfast get` and `holdfast cat`: getting files back."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.listing import as_fields
from holdfast.cli.options import AsOfOption, FromOption, JsonOption, VaultOption
from holdfast.cli.show import console, print_error, print_json, watch
from holdfast.config import vault_folder
from holdfast.errors import IntegrityError, UsageError
from holdfast.naming import parse_time
from holdfast.reports import RestorePlan, RestoreReport, ScriptReport, as_document
from holdfast.restoring import RestoreRequest
from holdfast.restoring import cat as run_cat
from holdfast.restoring import get as run_get
from holdfast.restoring import plan as run_plan
from holdfast.restoring import restore as run_restore
from holdfast.restoring import write_script as run_script
from holdfast.restoring.order import ranges
from holdfast.values import show_bytes, show_seconds

ORIGINS = ("any", "store", "tape")


def restore(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where to put the files; nothing is put elsewhere.")],
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="PATTERN", help="Names, folders or globs. Default: everything.")
    ] = None,
    vault: VaultOption = None,
    as_of: AsOfOption = None,
    origin: FromOption = "any",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other files that are in the way.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which tapes are needed, in which order, and for how long.")
    ] = False,
    script: Annotated[
        bool, typer.Option("--script", help="Print a shell script that does it with mt, tar and sha256sum.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Put files back as they were.

    Content, names, links, modes and times come back.

    Every byte is checked; a damaged copy gives way to its twin. Run again, it goes on.

    Example: holdfast restore 'night/*.uvh5' --to /tmp/back --vault /archive/vault
    """
    request = RestoreRequest(
        to=to,
        patterns=tuple(patterns or ()),
        as_of_ns=None if as_of is None else parse_time(as_of),
        origin=check_origin(origin),
        overwrite=overwrite,
    )
    if script:
        _check_script(origin, dry_run=dry_run, as_json=as_json)
        return _print_script(run_script(vault_folder(vault), request, sys.stdout))
    if dry_run:
        return _tell(run_plan(vault_folder(vault), request), as_json=as_json)
    report = run_restore(vault_folder(vault), request, watch(as_json=as_json))
    if as_json:
        print_json(as_document(report) | {"exit_code": report.exit_code()})
    else:
        _show(report, to)
    return report.exit_code()


def _check_script(origin: str, *, dry_run: bool, as_json: bool) -> None:
    if dry_run or as_json:
        raise UsageError("a script is all that --script prints", expected="--script without --dry-run and --json")
    if origin == "store":
        raise UsageError("a script reads tapes", expected="--script without --from store")


def _print_script(report: ScriptReport) -> int:
    """The script is printed; what it lacks is told beside it."""
    sys.stdout.flush()
    for error in report.errors:
        print_error(error, as_json=False)
    return report.exit_code()


def _tell(plan: RestorePlan, *, as_json: bool) -> int:
    if as_json:
        print_json(as_document(plan) | {"exit_code": plan.exit_code()})
        return plan.exit_code()
    out = console()
    out.print(
        f"would restore {plan.files} files, {plan.folders} folders, {plan.links} links to {plan.to}; "
        f"{plan.already_there} are there already"
    )
    if plan.store_files:
        out.print(f"  without a tape: {plan.store_files} files ({show_bytes(plan.store_bytes)}) from the block store")
    for number, tape in enumerate(plan.tapes, start=1):
        out.print(
            f"  {number}. {tape.barcode}{f', or its twin {tape.twin}' if tape.twin else ''}: {tape.files} files ({show_bytes(tape.size_bytes)}) "
            f"in tape file{'s' if len(tape.tape_files) > 1 else ''} {ranges(tape.tape_files)}"
        )
    if plan.tapes:
        out.print(f"  about {show_seconds(plan.estimated_s)} with LTO-8 drives, {plan.mounts} cartridges mounted")
    for error in plan.errors:
        out.print(f"  CANNOT BE RESTORED: {error}")
    out.print("nothing was mounted, nothing was written")
    return plan.exit_code()


def parse_range(text: str) -> slice:
    """`FROM:TO`, either of which may be left out. Raises `UsageError` for anything else."""
    found = re.fullmatch(r"(-?[0-9]{0,18}):(-?[0-9]{0,18})", text, re.ASCII)
    if found is None or "-" in found.groups():
        raise UsageError("not a range of bytes", expected="FROM:TO, such as 0:4096, 4096: or -1000:", found=repr(text))
    first, last = (int(number) if number else None for number in found.groups())
    return slice(first, last)


def check_origin(origin: str) -> str:
    """Raise `UsageError` for an origin that is none."""
    if origin not in ORIGINS:
        raise UsageError("no such origin", expected="--from " + ", ".join(ORIGINS), found=origin)
    return origin


def _show(report: RestoreReport, to: Path) -> None:
    out = console()
    out.print(
        f"restored {report.files} files, {report.folders} folders, {report.links} links "
        f"({show_bytes(report.planted_bytes)}) to {to}; {report.already_there} were there already"
    )
    for warning in report.warnings:
        kind = "DAMAGED COPY, passed over" if isinstance(warning, IntegrityError) else "got round"
        out.print(f"  {kind}: {warning}")
    for error in report.errors:
        out.print(f"  FAILED: {error}")


def get(
    file: Annotated[str, typer.Argument(metavar="FILE", help="<source>/<path> as `holdfast ls` shows it.")],
    to: Annotated[
        Path, typer.Option("--to", metavar="PATH", help="Where to put it: a folder, or a name that is free.")
    ] = Path(),
    vault: VaultOption = None,
    as_of: AsOfOption = None,
    origin: FromOption = "any",
    as_json: JsonOption = False,
) -> int:
    """Put one file back, under its own name or another.

    Checked, durable, with its mode and time; what is there already is never touched.

    Example: holdfast get night/zen.2458661.23480.HH.uvh5 --to /tmp
    """
    moment = None if as_of is None else parse_time(as_of)
    target, version = run_get(vault_folder(vault), file, to, as_of_ns=moment, origin=check_origin(origin))
    if as_json:
        print_json({"to": str(target)} | as_fields(version))
    else:
        console().print(f"{show_bytes(version.size_bytes)}: {target}", soft_wrap=True, highlight=False, markup=False)
    return 0


def cat(
    file: Annotated[str, typer.Argument(metavar="FILE", help="<source>/<path> as `holdfast ls` shows it.")],
    vault: VaultOption = None,
    as_of: AsOfOption = None,
    origin: FromOption = "any",
    part: Annotated[
        str | None,
        typer.Option(
            "--range", metavar="FROM:TO", help="Only these bytes, from 0, TO not among them; -N counts from the end."
        ),
    ] = None,
) -> int:
    """Write one file, or a range of its bytes, to standard output.

    Not one byte that was not checked.

    Example: holdfast cat night/zen.2458661.23480.HH.uvh5 --range 0:2880 | head -c 80
    """
    moment = None if as_of is None else parse_time(as_of)
    where, meant = vault_folder(vault), slice(None) if part is None else parse_range(part)
    run_cat(where, file, sys.stdout.buffer, as_of_ns=moment, origin=check_origin(origin), part=meant)
    sys.stdout.buffer.flush()
    return 0
