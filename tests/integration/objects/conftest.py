"""A server that speaks S3, a bucket in it for each test, and a line to it that may be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.integration.objects.server import Line, Server, missing


@pytest.fixture(scope="session")
def server(require_service: Callable[[str, bool, str], None]) -> Iterator[Server]:
    require_service("A server of S3", not missing(), f"not installed: {missing()}; make setup installs them")
    with Server() as server:
        yield server


@pytest.fixture
def bucket(server: Server) -> str:
    return server.make_bucket()


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    line = Line(server.port)
    yield line
    line.close()
