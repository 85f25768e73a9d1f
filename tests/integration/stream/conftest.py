"""A broker of Apache Kafka that the tests share, a topic for each test, and a broker of its own for who stops it.

HOLDFAST_TEST_KAFKA=host:port has them use a broker that runs already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from tests.integration.stream.broker import RETURNS_SOON, Broker, Cluster, shared
from tests.integration.stream.jars import fetched, missing

GIVEN = os.environ.get("HOLDFAST_TEST_KAFKA", "")


class MakeTopic(Protocol):
    """Makes a topic that nobody has used, deleted after the test, and returns its name."""

    def __call__(self, partitions: int = 4, settings: Mapping[str, str] | None = None) -> str: ...


@pytest.fixture(scope="session")
def jars(require_service: Callable[[str, bool, str], None]) -> Path:
    """What a broker of ours is started from."""
    hint = "apt-get install maven, or HOLDFAST_TEST_KAFKA=host:port"
    require_service("Kafka", not missing(), f"not installed: {missing()}; {hint}")
    try:
        return fetched()
    except RuntimeError as error:
        require_service("Kafka", False, str(error))
        raise


@pytest.fixture(scope="session")
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[Cluster]:
    """One for all tests of a run, also when several processes run them; nobody may stop it."""
    if GIVEN:
        yield Cluster(GIVEN)
        return
    request.getfixturevalue("jars")
    of_worker = tmp_path_factory.getbasetemp()
    of_run = of_worker if worker_id == "master" else of_worker.parent
    with shared(of_run / "kafka") as cluster:
        yield cluster


@pytest.fixture
def make_topic(broker: Cluster) -> Iterator[MakeTopic]:
    with ExitStack() as topics:

        def make(partitions: int = 4, settings: Mapping[str, str] | None = None) -> str:
            return topics.enter_context(broker.new_topic(partitions, settings))

        yield make


@pytest.fixture
def topic(make_topic: MakeTopic) -> str:
    """The name of a topic with four partitions that nobody has used."""
    return make_topic()


@pytest.fixture
def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """One that the test may stop, kill and start again."""
    if GIVEN:
        pytest.skip("stops the broker, and the one of HOLDFAST_TEST_KAFKA is not ours")
    request.getfixturevalue("jars")
    with Broker(tmp_path / "kafka", RETURNS_SOON) as broker:
        yield broker
