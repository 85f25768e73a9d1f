"""`holdfast init`: making a vault with chosen sizes."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_json
from holdfast.config import SETTINGS_NAME, InitOptions, init_vault, vault_folder
from holdfast.errors import UsageError

DEFAULTS = InitOptions()


def init(
    vault: VaultOption = None,
    cartridge_capacity: Annotated[
        str, typer.Option(help="What each new virtual cartridge holds.")
    ] = DEFAULTS.cartridge_capacity,
    object_size: Annotated[str, typer.Option(help="About how large tar archives on tape are.")] = DEFAULTS.object_size,
    record_size: Annotated[str, typer.Option(help="Size of tape records: 256 KiB to 1 MiB.")] = DEFAULTS.record_size,
    block_size: Annotated[str, typer.Option(help="Size of blocks in the store: at most 64 MiB.")] = DEFAULTS.block_size,
    changer: Annotated[
        str, typer.Option(help="The device of a real changer, such as /dev/sg3; without it the library is virtual.")
    ] = "",
    drive: Annotated[
        list[str] | None,
        typer.Option(
            help="A drive without a robot, such as /dev/nst0; twice or more. A person is asked for cartridges."
        ),
    ] = None,
    scratch_a: Annotated[
        str, typer.Option(help="Barcodes that begin so may be taken for side A, if the cartridges are blank.")
    ] = "",
    scratch_b: Annotated[str, typer.Option(help="The same for side B.")] = "",
    as_json: JsonOption = False,
) -> int:
    """Make a vault. `archive` does it by itself with the defaults; here sizes and the library can be chosen.

    Example: holdfast init --vault /archive/vault --cartridge-capacity '2.5 TB'

    With real drives: holdfast init --changer /dev/sg3 --scratch-a HFA --scratch-b HFB --cartridge-capacity '2.5 TB'

    Without a robot: holdfast init --drive /dev/nst0 --drive /dev/nst1 --scratch-a HFA --scratch-b HFB
    """
    if changer and drive:
        raise UsageError("a library has a changer, or drives without one", found="--changer and --drive")
    options = InitOptions(
        cartridge_capacity=cartridge_capacity,
        object_size=object_size,
        record_size=record_size,
        block_size=block_size,
        library="mtx" if changer else "operator" if drive else "virtual",
        changer=changer,
        drives=tuple(drive or ()),
        scratch_a=scratch_a,
        scratch_b=scratch_b,
    )
    settings = init_vault(vault_folder(vault), options)
    if as_json:
        print_json({"vault": str(settings.folder), "id": str(settings.id)})
    else:
        console().print(f"made a vault in {settings.folder}; its settings are in {SETTINGS_NAME} there")
    return 0
