"""Making a mounted pair ready to be written on: who is it, where does it end, are both sides level?

The order of authority: what the tape says when it is read beats the journal, the journal beats the catalog.

    1. a side whose journal has no commit gets its label, if it is blank or holds only our own unfinished label
    2. each label is read and must be the one promised; the last committed tape file is read and must be whole
    3. sessions that stand behind the last commit of either side are taken over (see `beyond`)
    4. a side that lacks tape files which the other has committed gets them from its twin, record by record
    5. what the journals know and the catalog does not is read from tape and told to the catalog

Anything that does not agree fences the cartridge: it is never written again, and another one takes its side of the
pair (`pairs`). A side that was left behind in the middle of a session, as its medium failed, is caught up by step 4.
When a drive fails with a cartridge, that is tried once more in the other drive; then the cartridge is fenced.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib import resources

from blake3 import blake3

from holdfast.catalog import Cartridge, MemberFacts, files, tapes
from holdfast.errors import HoldfastError, IntegrityError, MediaError
from holdfast.tape import label as labels
from holdfast.tape import layout
from holdfast.tape.beyond import LostBehind, adopt_beyond, may_be_levelled
from holdfast.tape.drive import EndOfData, Position, TapeDrive
from holdfast.tape.facts import member_facts, tape_file_of
from holdfast.tape.fan import RecordFan, WrittenFile
from holdfast.tape.journal import CartridgeIdentity, Committed
from holdfast.tape.layout import TapeFileName
from holdfast.tape.library import MountedPair, TapeLibrary
from holdfast.tape.looking import look_at
from holdfast.tape.reader import ReadMember, first_problem, member_digests
from holdfast.tape.scan import ForeignTape, RecordBuffer, UnmarkedBegin, read_label_volume, read_tape_file
from holdfast.tape.survey import survey
from holdfast.tape.writing import TrailerDrive, write_small_tar
from holdfast.values import show_path

LEDGER_LIMIT_BYTES = 16 * 1024 * 1024

ANOTHER = "if both drives find it so, it is fenced, and another cartridge takes its place"


def prepare(library: TapeLibrary, mounted: MountedPair) -> None:
    """Bring both sides to the same, proven end, and position them there. See the module."""
    buffer = RecordBuffer(mounted.pair.record_bytes)
    for cartridge, _ in mounted.sides:
        _check_journal(library, cartridge)
    for cartridge, drive in mounted.sides:
        if not library.state(cartridge.barcode).committed:
            _write_label(library, cartridge, drive, buffer)
        _check_side(library, cartridge, drive, buffer)
    if _adopt_beyond(library, mounted, buffer):
        for cartridge, drive in mounted.sides:
            _check_side(library, cartridge, drive, buffer)
    _level(library, mounted, buffer)
    for cartridge, drive in mounted.sides:
        adopt_committed(library, cartridge, drive, buffer)
    for cartridge, drive in mounted.sides:
        drive.locate(library.state(cartridge.barcode).committed[-1].end)


def _check_journal(library: TapeLibrary, cartridge: Cartridge) -> None:
    """Law 5: a journal that lacks what the catalog was told of, or tells otherwise, does not say where to write on."""
    state = library.state(cartridge.barcode)
    if state.fenced is not None:
        raise library.fence(
            cartridge.barcode,
            MediaError(
                "the journal of a cartridge says that it was fenced",
                place=cartridge.barcode,
                found=state.fenced,
                hint="run the same command again: another cartridge takes its place",
            ),
        )
    told = dict(enumerate(state.committed))
    with library.catalog.reading() as connection:
        known = tapes.tape_files(connection, cartridge.barcode)
    for item in known:
        found = told.get(item.number)
        if found is None or tape_file_of(found) != item:
            raise IntegrityError(
                "the journal of a cartridge lacks what was committed; nothing was written",
                place=str(library.journal(cartridge.barcode).path),
                expected=f"tape file {item.number}, {item.kind}, BLAKE3 {item.blake3.hex()}",
                found="no such line" if found is None else f"{found.kind}, BLAKE3 {found.blake3.hex()}",
                hint="put back the newest copy of the journals folder, or complete it from the tapes: holdfast rebuild",
            )


# -- 1. labels


def _write_label(library: TapeLibrary, cartridge: Cartridge, drive: TapeDrive, buffer: RecordBuffer) -> None:
    identity = library.identity(cartridge.barcode)
    _refuse_foreign(library, identity, drive, buffer)
    written = _standing_label(library, identity, drive, buffer)
    try:
        drive.rewind()
        written = written or _put_label(library, identity, drive)
    except MediaError as error:
        raise library.suspect(identity.barcode, _unwritable(identity.barcode, error)) from error
    committed = Committed(
        tape_file=0,
        kind="label",
        id=identity.volume_id,
        first_block=0,
        size_bytes=written.size_bytes,
        blake3=written.blake3,
        record_bytes=identity.record_bytes,
    )
    library.journal(identity.barcode).committed([committed], time.time_ns())


def _standing_label(
    library: TapeLibrary, identity: CartridgeIdentity, drive: TapeDrive, buffer: RecordBuffer
) -> WrittenFile | None:
    """Our label, if it stands there whole; None if it must be written.

    Law 5: to write it makes all behind it vanish, which may be committed, as the journal may be an older copy.
    """
    members: list[ReadMember] = []
    try:
        drive.rewind()
        reader = read_tape_file(drive, buffer, on_member=members.append)
        if first_problem(reader, member_digests(members)) is None:
            return WrittenFile(reader.size_bytes, reader.blake3())
        behind = survey(drive, buffer, identity.pair_id)
    except EndOfData:
        return None
    except MediaError as error:
        raise library.suspect(identity.barcode, error) from None
    if behind:
        raise library.suspect(identity.barcode, _damaged_label(identity.barcode, len(behind)))
    return None


def _damaged_label(barcode: str, behind: int) -> MediaError:
    return MediaError(
        "the label of a cartridge is damaged, and its journal does not know what stands behind it; nothing was written",
        place=f"{barcode} tape file 0",
        expected="a blank tape, or a whole label",
        found=f"{behind} tape files behind it",
        hint=f"holdfast rebuild {barcode}, or put back the newest copy of the journals folder",
    )


def _put_label(library: TapeLibrary, identity: CartridgeIdentity, drive: TapeDrive) -> WrittenFile:
    with RecordFan([TrailerDrive(drive)], identity.record_bytes) as fan:
        comment = layout.object_comment("label", identity.volume_id, identity.pair_id)
        write_small_tar(fan, comment, _label_members(library, identity))
        written = fan.end_file()
        fan.each(lambda d: d.write_file_mark(synchronous=True))
        fan.wait()
    return written


def _unwritable(barcode: str, error: MediaError) -> MediaError:
    return MediaError(
        "a cartridge cannot be written",
        place=error.place or barcode,
        expected=error.expected,
        found=error.found or error.message,
        hint="it is tried again in the other drive; if it fails there too, another cartridge takes its place",
    )


def _refuse_foreign(library: TapeLibrary, identity: CartridgeIdentity, drive: TapeDrive, buffer: RecordBuffer) -> None:
    """Law 5: a tape that is neither blank nor ours is never written."""
    try:
        if _is_blank_or_ours(identity, drive, buffer):
            return
        found = look_at(drive).words
    except MediaError as error:
        raise library.suspect(identity.barcode, error) from None
    raise library.suspect(
        identity.barcode,
        MediaError(
            "the cartridge is not blank and not ours; nothing was written on it",
            place=identity.barcode,
            expected="a blank tape",
            found=found,
            hint=f"holdfast tape label {identity.barcode} looks again; {ANOTHER}",
        ),
    )


def _is_blank_or_ours(identity: CartridgeIdentity, drive: TapeDrive, buffer: RecordBuffer) -> bool:
    try:
        volume = read_label_volume(drive, buffer)
        return volume is None or labels.decode_volume(volume).volume_id == identity.volume_id
    except UnmarkedBegin as error:
        # a label whose writing was cut off is ours
        return error.name == TapeFileName("label", identity.volume_id, identity.pair_id)
    except (ForeignTape, IntegrityError):
        return False


def _label_members(library: TapeLibrary, identity: CartridgeIdentity) -> list[tuple[bytes, bytes]]:
    label = labels.Label(
        barcode=identity.barcode,
        volume_id=identity.volume_id,
        pair_id=identity.pair_id,
        vault_id=library.settings.id,
        side=identity.side,
        twin_barcode=identity.twin,
        record_bytes=identity.record_bytes,
        created=identity.created,
        replaces=identity.replaces,
    )
    rescue = resources.files("holdfast.tape").joinpath("rescue.py").read_bytes()
    return [
        (labels.VOLUME_NAME, labels.encode_volume(label)),
        (labels.README_NAME, labels.readme(label)),
        (labels.RESCUE_NAME, rescue),
        (labels.LEDGER_NAME, _ledger(library, identity)),
    ]


def _ledger(library: TapeLibrary, identity: CartridgeIdentity) -> bytes:
    """What earlier tapes hold: a line per object; then members, newest objects first, as far as the cap allows."""
    limit = min(LEDGER_LIMIT_BYTES, identity.capacity_bytes // 1000)
    lines: list[bytes] = []
    objects: list[uuid.UUID] = []
    with library.catalog.reading() as connection:
        for pair in tapes.all_pairs(connection):
            if pair.id == identity.pair_id:
                continue
            barcodes = [item.barcode for item in pair.cartridges]
            for item in tapes.objects_of_pair(connection, pair.id):
                assert item.object_id is not None
                lines.append(_ledger_line({"object": str(item.object_id), "on": barcodes, "tape_file": item.number}))
                objects.append(item.object_id)
        room = limit - sum(map(len, lines))
        for object_id in reversed(objects):
            for facts, version in tapes.members_of(connection, object_id):
                if version.content is None or facts.void:
                    continue
                line = _ledger_line(
                    {"in": str(object_id), "member": show_path(version.full_path), "size": version.size_bytes}
                    | {"sha256": version.content.sha256.hex()}
                )
                room -= len(line)
                if room < 0:
                    return b"".join(lines)
                lines.append(line)
    return b"".join(lines)


def _ledger_line(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


# -- 2. is it the tape that it should be, and does it end where the journal says?


def _check_side(library: TapeLibrary, cartridge: Cartridge, drive: TapeDrive, buffer: RecordBuffer) -> None:
    state = library.state(cartridge.barcode)
    check_label(library, cartridge, drive, buffer)
    last = state.committed[-1]
    try:
        found = _digest_at(drive, last, buffer)
    except MediaError as error:
        raise library.suspect(cartridge.barcode, error) from None
    if found != last.blake3:
        raise library.suspect(
            cartridge.barcode,
            MediaError(
                "the tape does not hold what its journal says was committed last",
                place=f"{cartridge.barcode} tape file {last.tape_file}",
                expected=f"BLAKE3 {last.blake3.hex()}",
                found="end of data" if found is None else f"BLAKE3 {found.hex()}",
                hint=f"holdfast verify reads all of it; {ANOTHER}",
            ),
        )


def check_label(library: TapeLibrary, cartridge: Cartridge, drive: TapeDrive, buffer: RecordBuffer) -> None:
    """Raise `MediaError` unless the cartridge is the one that its barcode promises; it is under suspicion then.

    One drive is no proof: it may fail, or read other bytes.
    """
    try:
        volume = read_label_volume(drive, buffer)
        found = "a blank tape" if volume is None else str(labels.decode_volume(volume).volume_id)
    except (ForeignTape, IntegrityError) as error:
        found = str(error)
    except MediaError as error:
        raise library.suspect(cartridge.barcode, error) from None
    if found != str(cartridge.volume_id):
        raise library.suspect(
            cartridge.barcode,
            MediaError(
                "the cartridge is not the one that its barcode promises",
                place=f"{cartridge.barcode} tape file 0",
                expected=f"volume {cartridge.volume_id}",
                found=found,
                hint="holdfast verify; look which cartridge was put in",
            ),
        )


def _digest_at(drive: TapeDrive, committed: Committed, buffer: RecordBuffer) -> bytes | None:
    try:
        drive.locate(committed.begin)
        return read_tape_file(drive, buffer).blake3()
    except EndOfData:
        return None


# -- 3. what stands behind


def _adopt_beyond(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> bool:
    """As `adopt_beyond`; what is lost behind a pair that is closed does not keep a replacement from being filled."""
    try:
        return adopt_beyond(library, mounted, buffer)
    except LostBehind:
        if mounted.pair.state != "full" or not may_be_levelled(library, mounted, buffer):
            raise
        return False


# -- 4. both sides level


def _level(library: TapeLibrary, mounted: MountedPair, buffer: RecordBuffer) -> None:
    """A run that was killed between the two commits left one side ahead: the other gets the same from it."""
    committed = [library.state(item.barcode).committed for item in mounted.pair.cartridges]
    ahead = 0 if len(committed[0]) >= len(committed[1]) else 1
    behind = 1 - ahead
    for item in committed[ahead][len(committed[behind]) :]:
        origin, target = mounted.pair.cartridges[ahead], mounted.pair.cartridges[behind]
        copied = item.behind(library.state(target.barcode).committed[-1])
        try:
            _copy(mounted.drives[ahead], mounted.drives[behind], item, copied.begin, buffer)
        except _SourceFailed as error:
            raise library.suspect(origin.barcode, error.reason) from error
        except (EndOfData, IntegrityError) as error:
            raise library.suspect(origin.barcode, _unreadable(origin, item, error)) from error
        except MediaError as error:
            raise library.suspect(target.barcode, _unwritable(target.barcode, error)) from error
        library.journal(target.barcode).committed([copied], time.time_ns())


def _copy(source: TapeDrive, target: TapeDrive, item: Committed, place: Position, buffer: RecordBuffer) -> None:
    """Raises `_SourceFailed`, `EndOfData` and `IntegrityError` for the source, `MediaError` for the target."""
    target = TrailerDrive(target)  # it fitted the twin: what early warning leaves is room enough
    target.locate(place)
    digest = blake3()
    for record in _records(source, item, buffer):
        digest.update(record)
        target.write_record(record)
    target.write_file_mark(synchronous=True)
    if digest.digest() != item.blake3:
        raise IntegrityError(
            "a tape file changed while it was copied to its twin; it is not committed there",
            place=f"tape file {item.tape_file} from drive {source.serial}",
            expected=f"BLAKE3 {item.blake3.hex()}",
            found=f"BLAKE3 {digest.hexdigest()}",
            hint="holdfast verify",
        )


def _records(source: TapeDrive, item: Committed, buffer: RecordBuffer) -> Iterator[memoryview]:
    try:
        source.locate(item.begin)
        while count := source.read_record(buffer.view):
            yield buffer.view[:count]
    except MediaError as error:
        raise _SourceFailed(error) from error


class _SourceFailed(Exception):
    """The drive from which is copied failed."""

    def __init__(self, reason: MediaError) -> None:
        super().__init__(str(reason))
        self.reason = reason


# -- 5. what only the journal knows


def adopt_committed(library: TapeLibrary, cartridge: Cartridge, drive: TapeDrive, buffer: RecordBuffer) -> None:
    """Tell the catalog of every tape file that the journal calls committed and the catalog does not know."""
    with library.catalog.reading() as connection:
        known = {item.number for item in tapes.tape_files(connection, cartridge.barcode)}
    for item in library.state(cartridge.barcode).committed:
        if item.tape_file not in known:
            _adopt(library, cartridge, drive, item, buffer)


def _adopt(library: TapeLibrary, cartridge: Cartridge, drive: TapeDrive, item: Committed, buffer: RecordBuffer) -> None:
    with library.catalog.reading() as connection:
        is_known = item.kind != "object" or tapes.is_object_known(connection, item.id)
    try:
        members = [] if is_known else _read_members(cartridge, drive, item, buffer)
    except (EndOfData, MediaError, IntegrityError) as error:
        raise library.suspect(cartridge.barcode, _unreadable(cartridge, item, error)) from error
    with library.catalog.transaction() as connection:
        if not is_known:
            read = {facts.version_id: facts.content for facts in members if facts.content and not facts.void}
            files.record_read_contents(connection, read)
            tapes.record_object(connection, item.id, cartridge.pair_id, item.tape_file, members)
        tapes.record_tape_files(connection, cartridge.barcode, [tape_file_of(item)])


def _unreadable(cartridge: Cartridge, item: Committed, error: Exception) -> MediaError:
    return MediaError(
        "a committed tape file cannot be read back",
        place=f"{cartridge.barcode} tape file {item.tape_file}",
        expected=f"BLAKE3 {item.blake3.hex()}",
        found=error.found or error.message if isinstance(error, HoldfastError) else "end of data",
        hint=f"run the same command again; {ANOTHER}",
    )


def _read_members(cartridge: Cartridge, drive: TapeDrive, item: Committed, buffer: RecordBuffer) -> list[MemberFacts]:
    found: list[ReadMember] = []
    drive.locate(item.begin)
    reader = read_tape_file(drive, buffer, on_member=found.append)
    if reader.problem is not None or reader.blake3() != item.blake3:
        raise IntegrityError(
            "a committed object cannot be read back",
            place=f"{cartridge.barcode} tape file {item.tape_file}",
            expected=f"BLAKE3 {item.blake3.hex()}",
            found=f"BLAKE3 {reader.blake3().hex()}",
            hint="holdfast verify",
        )
    return member_facts(found, reader.manifest_digests())
