"""Settings and the shape of a vault's folder, read once into frozen types.

A vault is a folder with `holdfast.toml` in it. This module makes one, opens one, and refuses what is neither; it
knows where each room keeps its files, and nothing of what is in them.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from holdfast import durable
from holdfast.errors import HoldfastError, UsageError, VaultError
from holdfast.values import BLOCK_LIMIT_BYTES, parse_bytes

T = TypeVar("T")

VAULT_FORMAT = 1
"""The newest layout of a vault's folder that this release reads and writes."""

SETTINGS_NAME = "holdfast.toml"
DEFAULT_VAULT = Path("~/holdfast-vault")

RECORD_SIZES = (256 * 1024, 1024 * 1024)
"""Smallest and largest tape record: below, drives lose speed; above, some adapters refuse (`st` and HBA limits)."""

SETTINGS_TEMPLATE = """\
# A Holdfast vault. Keep this file: without it the folder is not recognised.
[vault]
format = {format}
id = "{id}"

[blocks]
block_size = "{block_size}"            # at most 64 MiB
pack_size = "{pack_size}"               # a pack is sealed when it is this long
store = ""                      # where sealed packs are moved to: such as "s3://bucket/prefix"; empty: they stay here

[blocks.store_options]          # such as endpoint = "https://..."; "$NAME" is taken from the environment

[tape]
library = "{library}"             # virtual: two drives and cartridges in files, in this vault's folder; or mtx, or operator
cartridge_capacity = "{cartridge_capacity}"    # of each cartridge
barcode_prefix = "HF"           # of new virtual cartridges
media = "L8"
record_size = "{record_size}"         # 256 KiB to 1 MiB; written into each cartridge's label
object_size = "{object_size}"           # files are written in tar archives of about this size
commit_every = "{commit_every}"         # a synchronous file mark at least this often
start_at = "{start_at}"                # drives start when so much waits to be written, enough to stream; 0: always
virtual_counts_as_proof = false # true lets `release` rely on virtual cartridges (law 4)

[library]                       # drives behind the kernel's st driver
changer = "{changer}"           # of the kind mtx: its device, such as "/dev/tape/by-id/...-changer" or "/dev/sg3"
drives = {drives}               # of the kind operator, without a robot: such as ["/dev/nst0", "/dev/nst1"]
scratch_a = "{scratch_a}"       # cartridges whose barcodes begin so may be taken for side A, if they are blank
scratch_b = "{scratch_b}"       # and for side B
ready_timeout_s = {ready_timeout_s}           # how long a loaded drive may take; LTO-9 with new cartridges: 9000

[library.elements]              # "serial number of a drive" = number of its element, where the changer does not tell
"""

READY_TIMEOUT_S = 120
"""Where the settings do not say it: LTO drives take up to a minute. LTO-9 measures each new cartridge at its first
load, which takes from 20 minutes to 2 hours (Oracle, StorageTek SL150 manual)."""

LIBRARY_KINDS = ("virtual", "mtx", "operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSettings:
    """Sizes of the block store, in bytes; and where sealed packs are kept: a URL, or empty for the vault's folder.

    `store_options` are meant for the library that reads and writes there; variables in them are not put in yet.
    """

    block_bytes: int
    pack_bytes: int
    store: str = ""
    store_options: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class LibrarySettings:
    """A real library: the changer's device, None where a person is the changer; how barcodes of cartridges begin that
    may be taken for either side of a pair; the element number of each drive, by serial number, as far as the changer
    does not tell them; without a changer, the devices of the drives; and how many seconds a loaded drive may take until
    it is ready.
    """

    changer: Path | None
    scratch_a: str
    scratch_b: str
    elements: dict[str, int]
    drives: tuple[Path, ...]
    ready_timeout_s: int = READY_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeSettings:
    """How cartridges are made and written; sizes in bytes. `library` is None for the virtual one.

    `start_bytes`: the drives are not started while fewer bytes than that wait to be written.
    """

    library: LibrarySettings | None
    cartridge_bytes: int
    barcode_prefix: str
    media: str
    record_bytes: int
    object_bytes: int
    commit_bytes: int
    start_bytes: int
    virtual_counts_as_proof: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSettings:
    """One vault: its folder, its identity, its settings; and where each room's files are."""

    folder: Path
    id: uuid.UUID
    blocks: BlockSettings
    tape: TapeSettings

    @property
    def catalog_path(self) -> Path:
        return self.folder / "catalog" / "catalog.db"

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    @property
    def packs_folder(self) -> Path:
        return self.folder / "packs"

    @property
    def fence_folder(self) -> Path:
        """For the locks between those who name blocks and the one who collects them."""
        return self.folder / "fence"

    @property
    def journals_folder(self) -> Path:
        return self.folder / "journals"

    @property
    def library_folder(self) -> Path:
        return self.folder / "library"

    @property
    def scratch_folder(self) -> Path:
        """For files that need not survive: emptied whenever a run begins."""
        return self.folder / "scratch"

    @property
    def lock_path(self) -> Path:
        return self.folder / "vault.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """What may be chosen when a vault is made; sizes as people write them."""

    block_size: str = "16 MiB"
    pack_size: str = "1 GiB"
    cartridge_capacity: str = "12 TB"
    record_size: str = "512 KiB"
    object_size: str = "4 GiB"
    commit_every: str = "32 GiB"
    start_at: str = "0 B"
    library: str = "virtual"
    changer: str = ""
    drives: tuple[str, ...] = ()
    scratch_a: str = ""
    scratch_b: str = ""
    ready_timeout_s: int = READY_TIMEOUT_S


def vault_folder(named: Path | None) -> Path:
    """The vault meant: named on the command line, else by `HOLDFAST_VAULT`, else `~/holdfast-vault`."""
    if named is None:
        named = Path(os.environ.get("HOLDFAST_VAULT") or DEFAULT_VAULT)
    return Path(os.path.abspath(named.expanduser()))


def init_vault(folder: Path, options: InitOptions | None = None) -> VaultSettings:
    """Make a vault in `folder`, which must be missing or empty; when this returns the vault is durable.

    Raises `VaultError` when the folder holds something else or cannot be written.
    """
    options = options or InitOptions()
    text = settings_text(folder, options)
    try:
        refuse_foreign(folder)
        durable.make_folder(folder)
        for room in ("catalog", "state", "packs", "journals", "library", "scratch"):
            durable.make_folder(folder / room)
        durable.replace_file(folder / SETTINGS_NAME, text.encode())
    except OSError as error:
        raise VaultError(
            "the vault cannot be written",
            place=str(folder),
            found=error.strerror or str(error),
            hint="choose a folder that you may write to with --vault DIR",
        ) from error
    return open_vault(folder)


def settings_text(folder: Path, options: InitOptions) -> str:
    """The settings of a new vault. Raises `UsageError` for a wrong option, before anything is made."""
    chosen = {name: getattr(options, name) for name in options.__slots__}
    chosen["drives"] = json.dumps(options.drives)
    text = SETTINGS_TEMPLATE.format(format=VAULT_FORMAT, id=uuid.uuid4(), **chosen)
    try:
        parse_settings(folder, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError("a size with characters that no size has", found=repr(chosen)) from error
    except VaultError as error:
        wrong = error.message.rpartition(" ")[2]
        raise UsageError(f"wrong {wrong}", expected=error.expected, found=error.found) from error
    return text


ROOMS = {"catalog", "state", "packs", "journals", "library", "scratch", SETTINGS_NAME + ".new"}


def refuse_foreign(folder: Path) -> None:
    """Raise `VaultError` if `folder` holds anything but what an interrupted `init_vault` leaves."""
    if (folder / SETTINGS_NAME).exists():
        raise VaultError("there is a vault here already", place=str(folder), hint=f"holdfast status --vault {folder}")
    if not folder.is_dir():
        if folder.exists():
            raise VaultError("not a vault, and not a folder either", place=str(folder), hint="name another --vault DIR")
        return
    for entry in folder.iterdir():
        if entry.name in ROOMS and not (entry.is_dir() and any(entry.iterdir())):
            continue
        raise VaultError(
            "not a vault: the folder holds other things",
            place=str(folder),
            expected=f"{SETTINGS_NAME}, or an empty folder to make a vault in",
            found=entry.name,
            hint="name an empty or missing folder with --vault DIR",
        )


def open_or_init_vault(folder: Path, options: InitOptions | None = None) -> VaultSettings:
    """Open the vault in `folder`, making it first when there is none."""
    try:
        exists = (folder / SETTINGS_NAME).exists()
    except OSError as error:
        raise VaultError("not a folder that can be looked into", place=str(folder), found=error.strerror) from error
    return open_vault(folder) if exists else init_vault(folder, options)


def open_vault(folder: Path) -> VaultSettings:
    """Read the settings of the vault in `folder`.

    Raises `VaultError` when the folder is not a vault, the vault is of a newer format, or a setting is wrong.
    """
    path = folder / SETTINGS_NAME
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VaultError(
            "not a vault",
            place=str(folder),
            expected=f"a file {SETTINGS_NAME}",
            found="none",
            hint="name a vault with --vault DIR, or make one: holdfast init --vault DIR",
        ) from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise VaultError("the vault's settings cannot be read", place=str(path), found=str(error)) from error
    return parse_settings(folder, document)


def take_identity(settings: VaultSettings, vault_id: uuid.UUID) -> VaultSettings:
    """Give a vault that knows nothing yet the id of the vault whose tapes it is filled from; durable on return."""
    path = settings.folder / SETTINGS_NAME
    text = path.read_text()
    if text.count(str(settings.id)) != 1:
        raise VaultError("the vault's settings do not name its id once", place=str(path), expected=str(settings.id))
    durable.replace_file(path, text.replace(str(settings.id), str(vault_id)).encode())
    return open_vault(settings.folder)


def parse_settings(folder: Path, document: dict[str, Any]) -> VaultSettings:
    """Turn the parsed `holdfast.toml` into settings; raises `VaultError` naming the setting that is wrong."""
    reader = _Reader(folder / SETTINGS_NAME, document)
    check_format(folder, reader.value("vault", "format", int))
    blocks = BlockSettings(
        block_bytes=reader.size("blocks", "block_size", 64 * 1024, BLOCK_LIMIT_BYTES),
        pack_bytes=reader.size("blocks", "pack_size", 64 * 1024, 2**40),
        store="" if reader.is_missing("blocks", "store") else reader.value("blocks", "store", str),
        store_options=reader.texts("blocks", "store_options"),
    )
    tape = TapeSettings(
        library=_library_of(reader),
        cartridge_bytes=reader.size("tape", "cartridge_capacity", 4 * 2**20, 2**60),
        barcode_prefix=reader.matching("tape", "barcode_prefix", "[A-Z0-9]{1,4}"),
        media=reader.matching("tape", "media", "[A-Z0-9]{2}"),
        record_bytes=reader.size("tape", "record_size", *RECORD_SIZES, multiple_of=1024),
        object_bytes=reader.size("tape", "object_size", 1, 2**50),
        commit_bytes=reader.size("tape", "commit_every", 1, 2**50),
        start_bytes=0 if reader.is_missing("tape", "start_at") else reader.size("tape", "start_at", 0, 2**60),
        virtual_counts_as_proof=reader.value("tape", "virtual_counts_as_proof", bool),
    )
    vault_id = uuid.UUID(reader.matching("vault", "id", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"))
    return VaultSettings(folder=folder, id=vault_id, blocks=blocks, tape=tape)


def _library_of(reader: _Reader) -> LibrarySettings | None:
    kind = reader.value("tape", "library", str)
    if kind not in LIBRARY_KINDS:
        raise reader.wrong("tape", "library", f"one of {', '.join(LIBRARY_KINDS)}", repr(kind))
    if kind == "virtual":
        return None
    scratch = {name: reader.matching("library", name, "[A-Z0-9]{1,8}") for name in ("scratch_a", "scratch_b")}
    if scratch["scratch_a"].startswith(scratch["scratch_b"]) or scratch["scratch_b"].startswith(scratch["scratch_a"]):
        raise reader.wrong("library", "scratch_b", "other barcodes than for side A", repr(scratch["scratch_b"]))
    ready_s = reader.seconds("library", "ready_timeout_s", READY_TIMEOUT_S)
    if kind == "operator":
        drives = reader.devices("library", "drives")
        return LibrarySettings(changer=None, elements={}, drives=drives, ready_timeout_s=ready_s, **scratch)
    changer = Path(reader.matching("library", "changer", "/.+"))
    elements = reader.numbers("library", "elements")
    return LibrarySettings(changer=changer, elements=elements, drives=(), ready_timeout_s=ready_s, **scratch)


def check_format(folder: Path, found: int) -> None:
    """Raise `VaultError` when the vault was made by a newer Holdfast than this one."""
    if not 1 <= found <= VAULT_FORMAT:
        raise VaultError(
            "the vault is of a newer format than this Holdfast knows",
            place=str(folder),
            expected=f"format {VAULT_FORMAT} or older",
            found=f"format {found}",
            hint="use the Holdfast release that made it, or a newer one: pip install --upgrade holdfast",
        )


class _Reader:
    """Takes checked values out of the parsed document, naming table and key in every complaint."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document

    def value(self, table: str, key: str, kind: type[T]) -> T:
        settings = self.document.get(table)
        found = cast("dict[str, Any]", settings).get(key) if isinstance(settings, dict) else None
        if type(found) is not kind:
            raise self.wrong(table, key, kind.__name__, "nothing" if found is None else repr(found))
        return found

    def matching(self, table: str, key: str, pattern: str) -> str:
        text = self.value(table, key, str)
        if re.fullmatch(pattern, text) is None:
            raise self.wrong(table, key, f"text of the form {pattern}", repr(text))
        return text

    def is_missing(self, table: str, key: str) -> bool:
        """Settings that came later than the format are missing in older vaults."""
        settings = self.document.get(table)
        return isinstance(settings, dict) and key not in settings

    def seconds(self, table: str, key: str, default: int) -> int:
        """Whole seconds, up to a day; `default` when it is missing."""
        found = default if self.is_missing(table, key) else self.value(table, key, int)
        if not 1 <= found <= 86400:
            raise self.wrong(table, key, "1 to 86400 seconds", str(found))
        return found

    def numbers(self, table: str, key: str) -> dict[str, int]:
        """A table of whole numbers inside a table; an empty one when it is missing."""
        settings = cast("dict[str, Any]", self.document[table]).get(key, {})
        if not isinstance(settings, dict):
            raise self.wrong(table, key, "a table of whole numbers", repr(settings))
        found = cast("dict[str, Any]", settings)
        for name, number in found.items():
            if type(number) is not int:
                raise self.wrong(f"{table}.{key}", name, "a whole number", repr(number))
        return found

    def texts(self, table: str, key: str) -> dict[str, str]:
        """A table of texts, numbers, `true` and `false` inside a table, all as texts; an empty one when it is missing."""
        settings = cast("dict[str, Any]", self.document[table]).get(key, {})
        if not isinstance(settings, dict):
            raise self.wrong(table, key, "a table of texts", repr(settings))
        found: dict[str, str] = {}
        for name, value in cast("dict[str, Any]", settings).items():
            if not isinstance(value, (str, int)):
                raise self.wrong(f"{table}.{key}", name, "a text, a whole number, true or false", repr(value))
            found[name] = value if isinstance(value, str) else str(value).lower()
        return found

    def devices(self, table: str, key: str) -> tuple[Path, ...]:
        """At least two different absolute paths: a pair has two sides."""
        found = cast("list[Any]", self.value(table, key, list))
        names = [name for name in found if isinstance(name, str) and name.startswith("/")]
        if len(names) != len(found) or len(set(names)) != len(names) or len(names) < 2:
            raise self.wrong(table, key, "two drives or more, such as /dev/nst0", repr(found))
        return tuple(map(Path, names))

    def size(self, table: str, key: str, low: int, high: int, *, multiple_of: int = 1) -> int:
        text = self.value(table, key, str)
        try:
            size_bytes = parse_bytes(text, least=min(low, 1))
        except UsageError as error:
            raise self.wrong(table, key, error.expected or "a size", repr(text)) from error
        if not low <= size_bytes <= high or size_bytes % multiple_of:
            raise self.wrong(table, key, f"{low} to {high} bytes, a multiple of {multiple_of}", f"{size_bytes} bytes")
        return size_bytes

    def wrong(self, table: str, key: str, expected: str, found: str) -> HoldfastError:
        return VaultError(
            f"wrong setting [{table}] {key}",
            place=str(self.path),
            expected=expected,
            found=found,
            hint="correct the file and run the command again",
        )
