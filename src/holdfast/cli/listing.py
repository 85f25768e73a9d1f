"""`holdfast ls`: what is in the vault."""

from __future__ import annotations

import stat
from typing import Annotated, Any

import typer

from holdfast.catalog import files
from holdfast.cli.options import AsOfOption, JsonOption, VaultOption
from holdfast.cli.show import print_json, print_line, when
from holdfast.config import vault_folder
from holdfast.naming import matcher, parse_time
from holdfast.values import FileVersion, Kind, path_fields, show_path
from holdfast.vault import opened

TYPES = {Kind.FILE: stat.S_IFREG, Kind.FOLDER: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK}


def ls(
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="PATTERN", help="Names, folders or globs. Default: everything.")
    ] = None,
    vault: VaultOption = None,
    as_of: AsOfOption = None,
    as_json: JsonOption = False,
) -> int:
    """List what is in the vault.

    Files, folders and links, as they are now or were at a time.

    Example: holdfast ls night --as-of 2026-11-20T12:00
    """
    moment = None if as_of is None else parse_time(as_of)
    documents: list[dict[str, Any]] = []
    with opened(vault_folder(vault)) as open_vault:
        meant = matcher(open_vault.catalog, tuple(patterns or ()))
        with open_vault.catalog.reading() as connection:
            for present in files.versions_at(connection, moment):
                if not meant(present.version):
                    continue
                if as_json:
                    documents.append(as_fields(present.version))
                else:
                    print_line(_line(present.version))
    if as_json:
        print_json(documents)
    return 0


def as_fields(version: FileVersion) -> dict[str, Any]:
    """A version as JSON."""
    return path_fields(version.full_path) | {
        "id": str(version.id),
        "kind": version.kind.value,
        "size_bytes": version.size_bytes,
        "mode": f"{version.attributes.mode:04o}",
        "mtime_ns": version.attributes.mtime_ns,
        "sha256": version.content.sha256.hex() if version.content else None,
        "link_target": show_path(version.link_target) if version.link_target is not None else None,
        "seen_ns": version.seen_ns,
    }


def _line(version: FileVersion) -> str:
    mode = stat.filemode(TYPES[version.kind] | version.attributes.mode)
    target = f" -> {show_path(version.link_target)}" if version.link_target is not None else ""
    return f"{mode} {version.size_bytes:>14} {when(version.attributes.mtime_ns)} {show_path(version.full_path)}{target}"
