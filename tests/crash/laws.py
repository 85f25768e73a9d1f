"""What must hold of a vault at any instant, and what must have become of it when the command was run again.

`check_vault` asks of a state as the crash left it: is what the journals, packs and catalog say really on the medium
(laws 1, 3, 5)? `check_said` compares it with what the run had said by then (law 1). `rerun_and_check` runs the same
command again and compares the end with that of an undisturbed run (laws 5, 6, 7, 8).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3
from sqlalchemy import Connection, select
from tests.crash.scenes import Scene, count_versions
from tests.crash.sources import differences, facts_of

from holdfast import durable
from holdfast.blocks import BlockReader, packfile
from holdfast.blocks import manifest as manifests
from holdfast.blocks.packformat import RecordType
from holdfast.catalog import Catalog, files, proof, schema, tapes
from holdfast.errors import HoldfastError
from holdfast.journey import archive, verify
from holdfast.reports import Report
from holdfast.restoring import RestoreRequest, restore
from holdfast.tape.drive.virtual import data_path
from holdfast.tape.journal import CartridgeJournal, Committed, JournalState
from holdfast.values import Kind, Locator, Segment


class Broken(AssertionError):
    """A law does not hold."""


def demand(holds: bool, law: str, text: object) -> None:
    if not holds:
        raise Broken(f"{law}: {text}")


# -- the packs


@dataclass
class Packs:
    """What lies whole in the packs: blocks by place, and the versions, and their ends, that manifests name."""

    blocks: dict[tuple[uuid.UUID, int], Locator] = field(default_factory=dict[tuple[uuid.UUID, int], Locator])
    versions: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    sealed: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    ends: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    named: list[tuple[str, Segment]] = field(default_factory=list[tuple[str, Segment]])


def read_packs(vault: Path) -> Packs:
    packs = Packs()
    for path in sorted((vault / "packs").glob("*.pack")):
        pack_id = uuid.UUID(path.stem)
        with path.open("rb") as file:
            for record in packfile.scan_pack(file.fileno(), pack_id):
                if record.header.type is RecordType.BLOCK:
                    packs.blocks[pack_id, record.header.offset_bytes] = record.place().locator
                elif record.header.type is RecordType.MANIFEST:
                    manifest = manifests.decode(packfile.read_payload(file.fileno(), record.header))
                    packs.versions.update(stored.version.id for stored in manifest.versions)
                    packs.ends.update(end.version_id for end in manifest.ends)
                    packs.named += [(str(s.version.path), segment) for s in manifest.versions for segment in s.segments]
            if packfile.read_footer(file.fileno()) is not None:
                packs.sealed.add(pack_id)
    return packs


def check_manifests(packs: Packs) -> None:
    whole = set(packs.blocks.values())
    for name, segment in packs.named:
        demand(segment.locator in whole, "law 3", f"a manifest names {segment.locator} for {name}; no pack holds it")


# -- the cartridges

FENCED_AS_DAMAGED = "read back with other bytes than were written"

OnTape = dict[tuple[str, int], bytes]
"""The BLAKE3 of each committed tape file's bytes, by barcode and number."""


def journals_of(vault: Path) -> dict[str, JournalState]:
    """What the journal of each cartridge says; none may say that it is fenced, unless it was read back as damaged."""
    found: dict[str, JournalState] = {}
    for path in sorted((vault / "journals").glob("*.jsonl")):
        state = None if path.stem == "evidence" else CartridgeJournal(path.parent, path.stem).state()
        if state is not None:
            expected = state.fenced is None or FENCED_AS_DAMAGED in state.fenced
            demand(expected, "law 6", f"{path.stem} is fenced: {state.fenced}")
            found[path.stem] = state
    return found


def committed_of(vault: Path) -> dict[str, tuple[Committed, ...]]:
    """What the journal of each cartridge says is committed."""
    return {barcode: state.committed for barcode, state in journals_of(vault).items()}


def cartridge_folder(vault: Path, barcode: str) -> Path:
    return vault / "library" / "cartridges" / barcode


def check_tapes(vault: Path, damaged: str) -> OnTape:
    """Every committed tape file is there, whole, with its mark, and the same on both sides; but on the cartridge that
    the scene damaged.
    """
    found: OnTape = {}
    shared: dict[tuple[uuid.UUID, int], tuple[Committed, str]] = {}
    for barcode, state in journals_of(vault).items():
        if barcode == damaged:
            continue
        folder = cartridge_folder(vault, barcode)
        marks = {entry["file"]: entry["bytes"] for entry in durable.Journal(folder / "marks.jsonl").entries()}
        for item in state.committed:
            place = f"{barcode} tape file {item.tape_file} ({item.kind})"
            path = data_path(folder, item.tape_file)
            data = path.read_bytes() if path.exists() else b""
            digest = found[barcode, item.tape_file] = blake3(data).digest()
            demand(digest == item.blake3, "law 1", f"{place} is committed in the journal and not whole on the medium")
            demand(marks.get(item.tape_file) == item.size_bytes == len(data), "law 1", f"{place} has no file mark")
            twin, other = shared.setdefault((state.identity.pair_id, item.tape_file), (item, barcode))
            same = (twin.kind, twin.size_bytes, twin.blake3) == (item.kind, item.size_bytes, item.blake3)
            demand(item.kind == "label" or same, "law 4", f"{place} is another one than on {other}")
    return found


# -- the catalog


@contextmanager
def catalog_of(vault: Path, scratch: Path) -> Iterator[Catalog | None]:
    """The catalog as a crash left it; a copy, so that looking at it mends nothing. None when there is none."""
    if not (vault / "catalog" / "catalog.db").exists():
        yield None
        return
    copy = scratch / f"looked-at-{uuid.uuid4().hex}"
    shutil.copytree(vault / "catalog", copy)
    try:
        with Catalog(copy / "catalog.db") as catalog:
            yield catalog
    finally:
        shutil.rmtree(copy)


def check_catalog(vault: Path, catalog: Catalog, packs: Packs, *, in_place: bool) -> None:
    """The catalog tells of nothing that packs and journals do not have; in place, only it knows the versions."""
    with catalog.reading() as connection:
        if not in_place:
            _check_version_rows(connection, packs)
        rows = connection.execute(
            select(schema.block, schema.pack.c.uuid).join(schema.pack, schema.pack.c.id == schema.block.c.pack_id)
        )
        for row in rows:
            place = uuid.UUID(bytes=row.uuid), row.offset_bytes
            locator = Locator(row.blake3, row.size_bytes)
            demand(packs.blocks.get(place) == locator, "law 1", f"the catalog knows {locator} at {place}, not there")
        for row in connection.execute(select(schema.pack).where(schema.pack.c.sealed)):
            pack_id = uuid.UUID(bytes=row.uuid)
            demand(pack_id in packs.sealed, "law 1", f"the catalog calls pack {pack_id} sealed")
        committed = committed_of(vault)
        for pair in tapes.all_pairs(connection):
            demand(pair.state != "fenced", "law 6", f"the pair {pair.id} is fenced")
            for cartridge in pair.cartridges:
                _check_tape_rows(tapes.tape_files(connection, cartridge.barcode), cartridge.barcode, committed)
        readings = {bytes(row) for row in connection.scalars(select(schema.evidence.c.uuid))}
    missing = readings - {uuid.UUID(entry["id"]).bytes for entry in evidence_of(vault)}
    demand(not missing, "law 1", f"{len(missing)} readings in the catalog are not in the evidence journal")


def _check_version_rows(connection: Connection, packs: Packs) -> None:
    rows = connection.execute(select(schema.version.c.uuid, schema.version.c.ended_ns)).all()
    unnamed = {uuid.UUID(bytes=row.uuid) for row in rows} - packs.versions
    demand(not unnamed, "law 1", f"the catalog knows {len(unnamed)} versions that no manifest names")
    not_ended = {uuid.UUID(bytes=row.uuid) for row in rows if row.ended_ns is not None} - packs.ends
    demand(not not_ended, "law 1", f"the catalog calls {len(not_ended)} versions ended, no manifest does")


def _check_tape_rows(rows: list[tapes.TapeFile], barcode: str, committed: dict[str, tuple[Committed, ...]]) -> None:
    journal = committed.get(barcode)
    demand(journal is not None, "law 1", f"the catalog knows {barcode}, no journal does")
    said = {(item.tape_file, item.kind, item.first_block, item.blake3) for item in journal or ()}
    for row in rows:
        key = (row.number, row.kind, row.first_block, row.blake3)
        demand(key in said, "law 1", f"the catalog knows {barcode} tape file {row.number}, its journal does not")


def evidence_of(vault: Path) -> list[dict[str, object]]:
    return list(durable.Journal(vault / "journals" / "evidence.jsonl").entries())


# -- the state as the crash left it


def check_vault(vault: Path, scene: Scene, said: bytes, scratch: Path) -> OnTape:
    """Everything that must hold before the command is run again; the committed tape files."""
    packs = read_packs(vault)
    check_manifests(packs)
    on_tape = check_tapes(vault, scene.damaged)
    with catalog_of(vault, scratch) as catalog:
        if catalog is not None:
            check_catalog(vault, catalog, packs, in_place=scene.in_place)
        check_said(vault, catalog, scene, said.decode())
    return on_tape


KEPT = re.compile(r"^kept (\d+) new versions of (\d+) files$", re.MULTILINE)
COMMITTED = re.compile(r"^committed (\d+) objects? on (\S+) and (\S+)$", re.MULTILINE)
VERIFIED = re.compile(r"^verified (\d+) tape files on (\S+) and (\S+): (.*)$", re.MULTILINE)
PROVEN = re.compile(r"^PROVEN: all (\d+) files, folders and links have two verified copies", re.MULTILINE)


def check_said(vault: Path, catalog: Catalog | None, scene: Scene, said: str) -> None:
    """Law 1: what was said survived."""
    if not any(pattern.search(said) for pattern in (KEPT, COMMITTED, VERIFIED, PROVEN)):
        return
    if catalog is None:
        raise Broken("law 1: something was said, and there is no catalog")
    if KEPT.search(said):
        _check_kept(vault, catalog, scene)
    left_out = "FAILED: " in said or len(COMMITTED.findall(said)) < scene.sessions
    for found in COMMITTED.finditer(said):
        _check_committed(vault, catalog, int(found[1]), (found[2], found[3]), left_out=left_out)
    for found in VERIFIED.finditer(said):
        if found[4] == "all as written":
            _check_verified(vault, catalog, (found[2], found[3]))
    for found in PROVEN.finditer(said):
        with catalog.reading() as connection:
            totals = proof.count_proven(connection)
        demand(totals == {"versions": int(found[1]), "proven": int(found[1])}, "law 1", f"{found[0]}; now: {totals}")


def _check_kept(vault: Path, catalog: Catalog, scene: Scene) -> None:
    """Every name of the source has its version; unless in place, with bytes that the store gives back."""
    with catalog.reading() as connection:
        present = {item.version.path: item.version for item in files.versions_at(connection, None)}
    demand(present.keys() == scene.expected.keys(), "law 1", f"kept was said; the catalog has {sorted(present)}")
    with BlockReader(vault / "packs", catalog) as reader:
        for path, version in present.items():
            expected = scene.expected[path]
            demand(version.kind.value == expected.kind, "law 1", f"{path!r} is a {version.kind}")
            if version.kind is not Kind.FILE or scene.in_place:
                continue
            demand(version.content is not None, "law 1", f"{path!r} was kept without content")
            digest = hashlib.sha256()
            if version.content is not None and version.size_bytes:
                segments = catalog.find_segments(version.content)
                demand(segments is not None, "law 1", f"kept was said; the store does not have {path!r}")
                for piece in reader.read(segments or ()):
                    digest.update(piece)
            demand(digest.hexdigest() == expected.sha256, "law 1", f"kept was said; {path!r} reads back as other bytes")


def _check_committed(vault: Path, catalog: Catalog, objects: int, barcodes: tuple[str, str], *, left_out: bool) -> None:
    """Both sides hold as many objects, a catalog behind them, and all is on tape but what may be `left_out` yet."""
    committed = committed_of(vault)
    for barcode in barcodes:
        kinds = [item.kind for item in committed.get(barcode, ())]
        demand(kinds.count("object") >= objects, "law 1", f"{objects} objects were committed; {barcode} has {kinds}")
        demand(kinds[-2:] == ["catalog"] * 2, "law 1", f"a session was committed; {barcode} ends {kinds}")
    lengths = {len(committed[barcode]) for barcode in barcodes}
    demand(len(lengths) == 1, "law 1", f"one side has more than the other: {lengths}")
    with catalog.reading() as connection:
        unwritten = [item.version.path for item in tapes.unwritten_versions(connection)]
        for barcode in barcodes:
            rows = len(tapes.tape_files(connection, barcode))
            demand({rows} == lengths, "law 1", f"the catalog knows {rows} tape files of {barcode}")
    demand(left_out or not unwritten, "law 1", f"committed was said; not on tape: {unwritten}")


def _check_verified(vault: Path, catalog: Catalog, barcodes: tuple[str, str]) -> None:
    """Evidence of every committed tape file, in the journal and in the catalog."""
    matched = {
        (str(entry["barcode"]), entry["tape_file"], entry["found"]) for entry in evidence_of(vault) if entry["matched"]
    }
    for barcode in barcodes:
        committed = committed_of(vault)[barcode]
        for item in committed:
            key = (barcode, item.tape_file, item.blake3.hex())
            demand(key in matched, "law 1", f"verified was said; no evidence of {barcode} tape file {item.tape_file}")
        with catalog.reading() as connection:
            proven = proof.proven_tape_files(connection, barcode)
        demand(proven == set(range(len(committed))), "law 1", f"verified was said; proven on {barcode}: {proven}")


# -- running again


def rerun_and_check(vault: Path, scene: Scene, before: OnTape, scratch: Path, *, number: int) -> None:
    """Run the same command again, and ask of its end what is asked of an undisturbed run's.

    What costs time and differs little from state to state is done for a part of the `number`s only. In every second
    one the state is deleted before: it holds no fact.
    """
    if number % 2:
        shutil.rmtree(vault / "state", ignore_errors=True)
    report = archive(vault, scene.archive_request())
    _demand_done(report, "archive, run again")
    unknown = [str(warning) for warning in report.warnings if "the state holds no facts" in str(warning)]
    demand(not unknown, "law 6", f"the work could not be noted: {unknown}")
    check_end(vault, scene, before, scratch, everything=number % 3 == 0)
    _check_restore(vault, scene, "tape" if number % 2 or scene.in_place else "store", scratch / "restored")
    if number % 4 == 0:
        _check_nothing_left_to_do(vault, scene)
    if scene.night_one is not None and number % 4 == 1:
        _check_night_one(vault, scene, scratch / "restored-before")
    if number % 16 == 0:
        check_with_plain_tools(vault, scratch / "plain", scene.damaged)


def _demand_done(report: Report, what: str) -> None:
    problems = [*map(str, report.errors), *getattr(report, "unproven", [])]
    demand(report.exit_code() == 0, "law 6", f"{what}: exit code {report.exit_code()}, {problems}")


def check_end(vault: Path, scene: Scene, before: OnTape, scratch: Path, *, everything: bool) -> None:
    """The vault of a command that said it was done, however often it was interrupted before.

    `everything`: verify all cartridges once more, though the run itself read back what was not proven yet.
    """
    after = check_vault(vault, scene, b"", scratch)
    for place, digest in before.items():
        demand(after.get(place) == digest, "law 5", f"{place} was committed before the crash and is not what it was")
    if everything:
        report = verify(vault, (), everything=True)
        _demand_done(report, "verify")
        demand(report.tape_files == len(after), "law 8", f"{report.tape_files} of {len(after)} tape files were read")
    used = {barcode for barcode, _ in after} | {scene.damaged} - {""}
    made = set(os.listdir(vault / "library" / "cartridges"))
    demand(len(used) == scene.cartridges, "law 6", f"not as many pairs as in an undisturbed run: {sorted(used)}")
    demand(made == used, "law 6", f"cartridges were made and not used: {sorted(made - used)}")
    with Catalog(vault / "catalog" / "catalog.db") as catalog:
        _check_kept(vault, catalog, scene)
        _check_members(catalog)
        _check_sides(catalog)
    found = count_versions(vault)
    demand(found == scene.versions, "law 6", f"{found} versions, where an undisturbed run leaves {scene.versions}")
    demand(not list((vault / "scratch").iterdir()), "law 6", "something was left in scratch")


def _check_members(catalog: Catalog) -> None:
    """Each version is once on tape, or named by a session's catalog: nothing was forgotten, nothing written twice."""
    with catalog.reading() as connection:
        times = dict.fromkeys(connection.scalars(select(schema.version.c.id)), 0)
        for row in (
            *connection.scalars(select(schema.member.c.version_id).where(schema.member.c.void.is_(False))),
            *connection.scalars(select(schema.listing.c.version_id)),
        ):
            times[row] += 1
    wrong = {row: count for row, count in times.items() if count != 1}
    demand(not wrong, "law 6", f"so often on tape, by row of the version: {wrong}")


def _check_sides(catalog: Catalog) -> None:
    """The sides of every pair that are used now hold the same."""
    with catalog.reading() as connection:
        for pair in tapes.all_pairs(connection):
            one, other = (tapes.tape_files(connection, item.barcode) for item in pair.cartridges)
            same = [(f.kind, f.object_id, f.blake3) for f in one[1:]] == [
                (f.kind, f.object_id, f.blake3) for f in other[1:]
            ]
            demand(same, "law 4", f"the sides of pair {pair.id} differ: {one} and {other}")


def _check_restore(vault: Path, scene: Scene, origin: str, out: Path) -> None:
    report = restore(vault, RestoreRequest(to=out, origin=origin))
    _demand_done(report, f"restore from {origin}")
    demand(not report.warnings, "law 7", [*map(str, report.warnings)])
    wrong = differences(scene.expected, facts_of(out / scene.source.name))
    demand(not wrong, "law 6", f"restored from {origin}: {wrong}")
    shutil.rmtree(out)


def _check_night_one(vault: Path, scene: Scene, out: Path) -> None:
    assert scene.night_one is not None
    between_ns, expected = scene.night_one
    report = restore(vault, RestoreRequest(to=out, as_of_ns=between_ns))
    _demand_done(report, "restore of the night before")
    wrong = differences(expected, facts_of(out / scene.source.name))
    demand(not wrong, "law 6", f"restored as of the night before: {wrong}")
    shutil.rmtree(out)


def _check_nothing_left_to_do(vault: Path, scene: Scene) -> None:
    report = archive(vault, scene.archive_request())
    _demand_done(report, "archive, run once more")
    done = (report.kept.new_versions, report.kept.ended, report.objects, report.tape_files)
    demand(done == (0, 0, 0, 0), "law 6", f"a finished archive found this to do: {done}")


def check_with_plain_tools(vault: Path, out: Path, damaged: str) -> None:
    """Law 8: `tar` and `sha256sum` read every tape file."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    for barcode, committed in committed_of(vault).items():
        for item in committed if barcode != damaged else ():
            folder = out / f"{barcode}-{item.tape_file}"
            folder.mkdir(parents=True)
            tape_file = data_path(cartridge_folder(vault, barcode), item.tape_file)
            for argv in (["tar", "-xf", str(tape_file)], ["sha256sum", "--quiet", "--strict", "-c", "MANIFEST"]):
                lists_nothing = argv[0] == "sha256sum" and not (folder / "MANIFEST").stat().st_size
                if lists_nothing:
                    continue  # only folders and links: sha256sum has nothing to check
                done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, check=False)
                good = done.returncode == 0 and not done.stdout and not done.stderr
                demand(good, "law 8", f"{barcode} tape file {item.tape_file}: {argv}: {done.stdout}{done.stderr}")
    shutil.rmtree(out)


def explain(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, Broken | HoldfastError) else str(error)
