"""What the tests of packs in other places share: settings for them, and looks at what is where."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path


def use_store(vault: Path, url: str, options: Mapping[str, str] | None = None) -> None:
    """Write the place, and options for it, into the vault's settings."""
    settings = vault / "holdfast.toml"
    text = re.sub('^store = ".*?"', f'store = "{url}"', settings.read_text(), flags=re.MULTILINE)
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (options or {}).items())
    settings.write_text(re.sub(r"^(\[blocks\.store_options\].*\n)", rf"\1{lines}", text, flags=re.MULTILINE))


def count_virtual_as_proof(vault: Path) -> None:
    """The vault's owner lets virtual cartridges count: the tests have no others."""
    settings = vault / "holdfast.toml"
    settings.write_text(
        settings.read_text().replace("virtual_counts_as_proof = false", "virtual_counts_as_proof = true")
    )


def digests(folder: Path) -> dict[str, str]:
    """Every pack in a folder, by name, with the SHA-256 of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.pack")}
