"""Programs to be traced, and the skip where tracing cannot work."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.testing import why_no_tracing


@pytest.fixture(scope="session")
def tracing(require_service: Callable[[str, bool, str], None]) -> None:
    reason = why_no_tracing()
    require_service("tracing of system calls", reason is None, reason or "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The watched folder, empty."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def python() -> Callable[..., list[str]]:
    """`python(code, *args)`: the command line of a small program; args are `sys.argv[1:]`."""

    def command(code: str, *args: object) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", textwrap.dedent(code), *map(str, args)]

    return command
