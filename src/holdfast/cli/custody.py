"""`holdfast custody`: everything known of one file."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from holdfast.catalog import PresentVersion, files, proof, releasing, tapes
from holdfast.cli.listing import as_fields
from holdfast.cli.options import JsonOption, VaultOption
from holdfast.cli.show import console, print_json, when
from holdfast.config import vault_folder
from holdfast.naming import find_version
from holdfast.vault import opened


def custody(
    file: Annotated[str, typer.Argument(metavar="FILE", help="<source>/<path> as `holdfast ls` shows it.")],
    vault: VaultOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show everything known of one file.

    Every version: when it was seen, where it lies, and which readings prove it.

    Example: holdfast custody night/zen.2458661.23480.HH.uvh5
    """
    with opened(vault_folder(vault)) as open_vault:
        newest = find_version(open_vault.catalog, file).version
        virtual_counts = open_vault.settings.tape.virtual_counts_as_proof
        with open_vault.catalog.reading() as connection:
            versions = files.versions_of_path(connection, newest.source, newest.path)
            documents = [_facts(connection, *item, virtual_counts=virtual_counts) for item in versions]
        for document, (present, _) in zip(documents, versions, strict=True):
            content = present.version.content
            segments = (open_vault.catalog.find_segments(content) if content is not None else None) or ()
            document["segments"] = [[str(s.locator), s.offset_bytes, s.length_bytes] for s in segments]
    if as_json:
        print_json(documents)
    else:
        for document in documents:
            _show(document)
    return 0


def _facts(
    connection: Connection, present: PresentVersion, ended_ns: int | None, *, virtual_counts: bool
) -> dict[str, Any]:
    content = present.version.content
    document = as_fields(present.version)
    document |= {"ended_ns": ended_ns, "copies": list[dict[str, Any]](), "releasable": False, "released_ns": None}
    if content is None:
        return document
    for place in tapes.tape_places(connection, content):
        readings = [e for e in proof.evidence_of_object(connection, place.object_id) if e.barcode == place.barcode]
        document["copies"].append(
            {
                "cartridge": place.barcode,
                "tape_file": place.tape_file,
                "data_offset": place.data_offset,
                "object": str(place.object_id),
                "evidence": [
                    {
                        "id": str(item.id),
                        "read_ns": item.ended_ns,
                        "drive": item.drive,
                        "matched": item.matched,
                        "reloaded": item.reloaded,
                        "problem": item.problem,
                    }
                    for item in readings
                ],
            }
        )
    document["released_ns"] = releasing.released_ns(connection, content)
    document["releasable"] = proof.is_releasable(connection, content, virtual_counts=virtual_counts)
    return document


def _show(document: dict[str, Any]) -> None:
    out = console()
    end = f", ended {when(document['ended_ns'])}" if document["ended_ns"] is not None else ""
    out.print(f"{document['path']}: {document['kind']}, {document['size_bytes']} bytes")
    out.print(f"  version   {document['id']}, seen {when(document['seen_ns'])}{end}")
    out.print(f"  SHA-256   {document['sha256'] or '-'}")
    for locator, offset, length in document["segments"]:
        out.print(f"  block     {locator} from byte {offset}, {length} bytes")
    for copy in document["copies"]:
        out.print(f"  tape      {copy['cartridge']} tape file {copy['tape_file']} byte {copy['data_offset']}")
        for item in copy["evidence"]:
            outcome = "matched" if item["matched"] else f"DID NOT MATCH: {item['problem']}"
            out.print(f"    read    {when(item['read_ns'])} in drive {item['drive']}: {outcome}")
    if document["released_ns"] is not None:
        out.print(f"  released  from the block store {when(document['released_ns'])}")
    out.print(
        f"  release   {'two independent verified copies' if document['releasable'] else 'not allowed yet (law 4)'}"
    )
