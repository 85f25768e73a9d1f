"""What must hold of a vault whose drives fail: at any time, and when they have stopped failing.

The laws of `tests.crash.laws` are those of crashes, after which no cartridge is fenced. Here cartridges may be, and
contents may lie on several pairs; but nothing is said to be proven that was not read back twice, nothing committed
goes away, and whoever is told of a failure is told where and what to do next.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from pathlib import Path

from blake3 import blake3
from sqlalchemy import Connection, select
from tests.crash.laws import OnTape, cartridge_folder, demand, evidence_of
from tests.crash.sources import Facts, differences, facts_of

from holdfast.catalog import Catalog, proof, schema, tapes
from holdfast.errors import HoldfastError
from holdfast.reports import Report
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.drive.virtual import data_path
from holdfast.tape.journal import CartridgeJournal


def check_told(errors: list[HoldfastError]) -> None:
    """Each error says where, and what to do next."""
    for error in errors:
        demand(error.place is not None, "an error without a place", error)
        demand(error.hint is not None, "an error without a hint", error)


def check_committed(vault: Path, before: OnTape) -> OnTape:
    """Laws 1 and 5: what a journal calls committed is whole on the medium, fenced or not, and is what it was."""
    found: OnTape = {}
    for path in sorted((vault / "journals").glob("*.jsonl")):
        state = None if path.stem == "evidence" else CartridgeJournal(path.parent, path.stem).state()
        for item in state.committed if state is not None else ():
            file = data_path(cartridge_folder(vault, path.stem), item.tape_file)
            digest = blake3(file.read_bytes() if file.exists() else b"").digest()
            place = f"{path.stem} tape file {item.tape_file}"
            demand(digest == item.blake3, "law 1", f"{place} is committed in the journal and not whole on the medium")
            found[path.stem, item.tape_file] = digest
    lost = [place for place, digest in before.items() if found.get(place) != digest]
    demand(not lost, "law 5", f"committed before, and now gone or another: {lost}")
    return found


def check_proofs(vault: Path) -> int:
    """Law 4: whatever counts as proven was read back on two cartridges, and both readings are in the journal.

    Goes by the evidence journal and the medium alone; returns how many versions are proven.
    """
    last: dict[tuple[str, int], dict[str, object]] = {}
    for entry in evidence_of(vault):
        last[str(entry["barcode"]), int(str(entry["tape_file"]))] = entry
    good = {place for place, entry in last.items() if entry["matched"] and entry["found"] == entry["expected"]}
    with Catalog(vault / "catalog" / "catalog.db") as catalog, catalog.reading() as connection:
        copies = _copies(connection, good)
        for pair in tapes.all_pairs(connection):
            for cartridge in pair.cartridges:
                said = {
                    (cartridge.barcode, number) for number in proof.proven_tape_files(connection, cartridge.barcode)
                }
                demand(said <= good, "law 4", f"proven, and not read back: {said - good}")
        totals = proof.count_proven(connection)
        able = _provable(connection, copies)
    demand(totals["proven"] <= able, "law 4", f"{totals['proven']} count as proven; two readings are there of {able}")
    return totals["proven"]


def _copies(connection: Connection, good: set[tuple[str, int]]) -> dict[int, set[str]]:
    """The cartridges on which each object was read back, by the object's row."""
    rows = connection.execute(
        select(schema.tape_file, schema.cartridge.c.barcode)
        .join(schema.cartridge, schema.cartridge.c.id == schema.tape_file.c.cartridge_id)
        .where(schema.tape_file.c.object_id.is_not(None))
    )
    copies: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        if (row.barcode, row.number) in good:
            copies[row.object_id].add(row.barcode)
    return copies


def _provable(connection: Connection, copies: dict[int, set[str]]) -> int:
    """Present versions that are in an object with two good copies, or whose path and content are."""
    query = select(
        schema.member.c.object_id, schema.version.c.id, schema.version.c.path, schema.version.c.content_id
    ).join(schema.version, schema.version.c.id == schema.member.c.version_id)
    rows = connection.execute(query.where(schema.member.c.void.is_(False))).all()
    twice = [row for row in rows if len(copies[row.object_id]) >= 2]
    own = {row.id for row in twice}
    same = {(bytes(row.path), row.content_id) for row in twice}
    present = connection.execute(select(schema.version).where(schema.version.c.ended_ns.is_(None)))
    return sum(row.id in own or (bytes(row.path), row.content_id) in same for row in present)


def check_restored(vault: Path, expected: dict[bytes, Facts], name: str, out: Path, origin: str) -> None:
    """Everything comes back as it was."""
    report = restore(vault, RestoreRequest(to=out / uuid.uuid4().hex, origin=origin))
    demand(not report.errors, "law 6", f"restore from {origin}: {[*map(str, report.errors)]}")
    (folder,) = out.iterdir()
    wrong = differences(expected, facts_of(folder / name))
    demand(not wrong, "law 6", f"restored from {origin}: {wrong}")


def problems_of(report: Report) -> list[HoldfastError]:
    """What a report tells as failed."""
    return report.errors
