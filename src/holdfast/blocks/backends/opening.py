"""From a URL, and options for it, to a backend. `memory:` is none of them: a vault's packs must survive the process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from holdfast.blocks.backends.backend import PackBackend
from holdfast.blocks.backends.posix import PosixBackend
from holdfast.errors import UsageError

OBJECT_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
EXPECTED = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or file:///folder"
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|(\$))")


def check_place(url: str) -> str:
    """The URL, without a slash at its end. Raises `UsageError` if no backend has such ones."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "a URL of packs must hold no credentials and no query",
            expected=EXPECTED,
            found=f"{parts.scheme}://…",
            hint="put them into the environment, or as $NAME into [blocks.store_options] of holdfast.toml",
        )
    is_folder = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    is_bucket = parts.scheme in OBJECT_SCHEMES and parts.netloc
    if not is_folder and not is_bucket:
        raise UsageError(
            "not a place for packs",
            expected=EXPECTED,
            found=repr(url),
            hint="correct the URL: [blocks] store in holdfast.toml, or --to",
        )
    return url.rstrip("/")


def open_backend(url: str, options: Mapping[str, str]) -> PackBackend:
    """The backend at a URL; nobody is asked yet, so it may turn out later that it cannot be reached.

    In options `$NAME` stands for a variable of the environment, `$$` for a dollar. Raises `UsageError` for a wrong URL or
    option, a variable that is not set, and if the library for object stores is not installed.
    """
    url = check_place(url)
    if urlsplit(url).scheme == "file":
        return PosixBackend(Path(unquote(urlsplit(url).path)))
    meant = {key: expanded(key, text) for key, text in options.items()}
    try:
        from holdfast.blocks.backends.objects import open_objects
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "obstore":
            raise
        raise UsageError(
            "packs in an object store need the extra 'objects'",
            place=url,
            expected="the library obstore",
            found="it is not installed",
            hint="pip install 'holdfast[objects]'",
        ) from error
    return open_objects(url, meant)


def expanded(key: str, text: str) -> str:
    """The text with variables of the environment put in. Raises `UsageError` naming one that is not set."""

    def value(match: re.Match[str]) -> str:
        if match[3]:
            return "$"
        name = match[1] or match[2]
        if name not in os.environ:
            raise UsageError(
                "a variable of the environment is not set",
                place=f"[blocks.store_options] {key}",
                expected=f"${name}",
                found="nothing",
                hint=f"export {name}=…, then run the same command again",
            )
        return os.environ[name]

    return VARIABLE.sub(value, text)
