"""`holdfast status`: the vault at a glance."""

from __future__ import annotations

from typing import Any

from holdfast.catalog import files, packs, proof, tapes
from holdfast.cli.archive import SHOWN, show_gone
from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_json, when
from holdfast.config import vault_folder
from holdfast.errors import EXIT_DATA_AT_RISK
from holdfast.reports import as_document, counted
from holdfast.values import show_bytes, show_path, show_seconds
from holdfast.vault import opened
from holdfast.work import look_at_work


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
            facts |= packs.count_store(connection) | tapes.count_tapes(connection) | proof.count_proven(connection)
            facts["staged_bytes"] = tapes.count_unwritten_bytes(connection)
            facts["start_at_bytes"] = open_vault.settings.tape.start_bytes
            facts["problems"] = proof.count_problems(connection)
            facts["gone_unproven"] = proof.count_gone_and_unproven(connection)
            facts["gone_unproven_names"] = [show_path(v.full_path) for v in proof.gone_and_unproven(connection, SHOWN)]
        work = look_at_work(open_vault.settings.state_folder)
        facts["runs"] = [as_document(run) for run in work.runs]
        facts["work"] = [as_document(step) for step in work.steps]
        facts["work_unknown"] = work.trouble and work.trouble.facts()
    if as_json:
        print_json(facts)
    else:
        _show(facts)
    return EXIT_DATA_AT_RISK if facts["problems"] or facts["gone_unproven"] else 0


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
    if facts["work_unknown"]:
        out.print(f"work        not known: {facts['work_unknown']}")
    for step in facts["work"]:
        out.print(f"work        {in_words(step)}")
    for run in facts["runs"]:
        out.print(f"run         {when(run['begun_ns'])} {run['command']}: {run['outcome']}")


def in_words(step: dict[str, Any]) -> str:
    """`verify A00001L6 and B00001L6: running since …, 43 %, 12 min left`, and so on."""
    words = [f"{step['step']} {step['what']}: {step['state']}"]
    if step["state"] == "running":
        words[0] += f" since {when(step['begun_ns'])}, process {step['pid']}"
    if step["size_bytes"] and step["state"] != "to do":
        words.append(f"{100 * step['done_bytes'] / step['size_bytes']:.0f} %")
    if step["eta_s"] is not None:
        words.append(f"{show_seconds(step['eta_s'])} {'left' if step['state'] == 'running' else 'to do'}")
    if step["state"] != "to do" and step["attempts"] > 1:
        words.append(counted(step["attempts"], "attempt"))
    if step["error"]:
        words.append(step["error"])
    return ", ".join(words)
