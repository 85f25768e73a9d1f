"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

VaultOption = Annotated[
    Path | None,
    typer.Option("--vault", metavar="DIR", help="The vault. Default: HOLDFAST_VAULT, else ~/holdfast-vault."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", metavar="TIME", help="As it was at that time, such as 2026-11-21T06:30.")
]
FromOption = Annotated[
    str, typer.Option("--from", metavar="WHERE", help="Take the bytes from 'store', 'tape', or 'any'.")
]
