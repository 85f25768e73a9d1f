"""`holdfast status`: the vault at a glance."""

from __future__ import annotations

import os
from typing import Any

from holdfast.catalog import files, proof, tapes
from holdfast.cli.archive import SHOWN, show_gone
from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_json, when
from holdfast.config import vault_folder
from holdfast.errors import EXIT_DATA_AT_RISK
from holdfast.state import Run, RunLog
from holdfast.values import show_bytes, show_path
from holdfast.vault import opened


def status(vault: VaultOption = None, as_json: JsonOption = False) -> int:
    """Show the vault at a glance.

    What is in it, what is proven, and who is at work. Exit code 3 if a reading did not match, or if something that is
    gone from its source is not proven.

    Example: holdfast status --vault /archive/vault
    """
    folder = vault_folder(vault)
    with opened(folder) as open_vault:
        with open_vault.catalog.reading() as connection:
            facts: dict[str, Any] = {"vault": str(folder), "id": str(open_vault.settings.id)}
            facts["sources"] = [
                {"name": s.name, "host": s.host, "root": show_path(s.root)} for s in files.all_sources(connection)
            ]
            facts |= files.count_store(connection) | tapes.count_tapes(connection) | proof.count_proven(connection)
            facts["staged_bytes"] = tapes.count_unwritten_bytes(connection)
            facts["start_at_bytes"] = open_vault.settings.tape.start_bytes
            facts["problems"] = proof.count_problems(connection)
            facts["gone_unproven"] = proof.count_gone_and_unproven(connection)
            facts["gone_unproven_names"] = [show_path(v.full_path) for v in proof.gone_and_unproven(connection, SHOWN)]
        facts["runs"] = [_run_fields(run) for run in RunLog(open_vault.settings.state_path).latest(5)]
    if as_json:
        print_json(facts)
    else:
        _show(facts)
    return EXIT_DATA_AT_RISK if facts["problems"] or facts["gone_unproven"] else 0


def _run_fields(run: Run) -> dict[str, Any]:
    outcome = run.outcome or ("running" if _is_alive(run.pid) else "killed")
    return {"command": run.command, "pid": run.pid, "host": run.host, "begun_ns": run.begun_ns, "outcome": outcome}


def _is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _staged(facts: dict[str, Any]) -> str:
    staged = f"{show_bytes(facts['staged_bytes'])} to be written on tape"
    if facts["staged_bytes"] >= facts["start_at_bytes"]:
        return staged
    return (
        f"{staged}; the drives start at {show_bytes(facts['start_at_bytes'])}, or with: holdfast archive --now PATH..."
    )


def _show(facts: dict[str, Any]) -> None:
    out = console()
    out.print(f"vault       {facts['vault']}")
    for source in facts["sources"]:
        out.print(f"source      {source['name']}: {source['root']} on {source['host']}")
    out.print(f"store       {facts['blocks']} blocks ({show_bytes(facts['block_bytes'])}) in {facts['packs']} packs")
    out.print(
        f"tape        {facts['objects']} objects on {facts['cartridges']} cartridges ({show_bytes(facts['tape_bytes'])})"
    )
    if facts["staged_bytes"]:
        out.print(f"staged      {_staged(facts)}")
    out.print(f"proven      {facts['proven']} of {facts['versions']} files, folders and links have two verified copies")
    if facts["problems"]:
        out.print(
            f"AT RISK     {facts['problems']} tape files did not match when last read: holdfast verify names them"
        )
    if facts["gone_unproven"]:
        out.print(f"AT RISK     {facts['gone_unproven']} files are gone from their source and not proven:")
        show_gone(facts["gone_unproven_names"], facts["gone_unproven"])
    for run in facts["runs"]:
        out.print(f"run         {when(run['begun_ns'])} {run['command']}: {run['outcome']}")
