"""A server of PostgreSQL, and a place in it for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from tests.integration.state.server import Server, is_installed


@pytest.fixture(scope="session")
def server(require_service: Callable[[str, bool, str], None]) -> Iterator[Server]:
    """One of our own, which may be killed and started again."""
    require_service("PostgreSQL", is_installed(), "its server is not installed; apt-get install postgresql")
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> str:
    """The URL of a database that is given, or else of one of our own."""
    return os.environ.get("HOLDFAST_TEST_POSTGRES") or request.getfixturevalue("server").url


@pytest.fixture
def place(database: str) -> Iterator[str]:
    """A schema that nobody has used."""
    schema = f"test_{uuid.uuid4().hex[:20]}"
    yield f"{database}#{schema}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
