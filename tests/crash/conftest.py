"""Scenes are recorded once for a test run; the share of states that is looked at comes from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.scenes import Scene, scene_of

from holdfast.testing import why_no_tracing


@pytest.fixture(scope="session")
def tracing(require_service: Callable[[str, bool, str], None]) -> None:
    reason = why_no_tracing()
    require_service("tracing of system calls", reason is None, reason or "")


@pytest.fixture(scope="session")
def share() -> float:
    """Of all states and kills, the part to take."""
    return float(os.environ.get("HOLDFAST_CRASH_SHARE", "1.0"))


@pytest.fixture(scope="session")
def get_scene(tracing: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scene]:
    """`get_scene(name)`: recorded by the first worker that asks."""
    base = tmp_path_factory.getbasetemp()
    shared: Path = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    known: dict[str, Scene] = {}

    def get(name: str) -> Scene:
        if name not in known:
            known[name] = scene_of(name, shared / "crash-scenes")
        return known[name]

    return get
