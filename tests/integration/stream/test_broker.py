"""The broker that tests get is a real one, keeps its promises, and is gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import ConfigResource
from tests.integration.stream import jars as jars_module
from tests.integration.stream.broker import QUIET, Broker, Cluster, free_ports, shared, wait_until
from tests.integration.stream.conftest import MakeTopic

pytestmark = pytest.mark.integration

WAIT_S = 30
SPAWN = get_context("spawn")


def send(
    cluster: Cluster, topic: str, values: list[bytes], settings: Mapping[str, Any] | None = None
) -> list[KafkaError | None]:
    """What became of each value, in the order in which it was known; returns when it is known of all."""
    outcomes: list[KafkaError | None] = []
    producer = Producer(cluster.client({**QUIET, "enable.idempotence": True, "acks": "all", **(settings or {})}))
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: outcomes.append(error))
    assert producer.flush(WAIT_S) == 0
    return outcomes


@contextmanager
def consumer(cluster: Cluster, topic: str, group: str) -> Iterator[Consumer]:
    settings = {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    with closing(Consumer(cluster.client({**QUIET, **settings, "session.timeout.ms": 6000}))) as reader:
        reader.subscribe([topic])
        yield reader


def receive(reader: Consumer, count: int) -> list[Message]:
    got: list[Message] = []
    deadline_s = time.monotonic() + WAIT_S
    while len(got) < count and time.monotonic() < deadline_s:
        got += reader.consume(count - len(got), timeout=0.2)
    assert [message.error() for message in got] == [None] * count
    return got


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_what_is_sent_is_received_once(broker: Cluster, topic: str) -> None:
    assert send(broker, topic, numbered(200)) == [None] * 200
    with consumer(broker, topic, topic) as reader:
        got = receive(reader, 200)
        assert reader.consume(1, timeout=0.5) == []
    assert sorted(message.value() for message in got) == sorted(numbered(200))
    assert {message.partition() for message in got} <= {0, 1, 2, 3}


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_what_was_acknowledged_is_there_after_the_broker_was_killed_or_stopped(own_broker: Broker, way: str) -> None:
    address, pid = own_broker.address, own_broker.pid
    own_broker.create_topic("t", partitions=2)
    assert send(own_broker, "t", numbered(200)) == [None] * 200
    getattr(own_broker, way)()
    with pytest.raises(KafkaException):
        Cluster(address).admin.list_topics(timeout=0.5)
    own_broker.start()
    assert own_broker.address == address
    assert own_broker.pid != pid
    with consumer(own_broker, "t", "g") as reader:
        assert sorted(message.value() for message in receive(reader, 200)) == sorted(numbered(200))


def test_a_record_over_the_limit_of_the_broker_is_refused(broker: Cluster, topic: str) -> None:
    values = [b"x" * 2_000_000, b"small"]
    outcomes = [send(broker, topic, [value], {"message.max.bytes": 4_000_000})[0] for value in values]
    assert outcomes[0] is not None
    assert (outcomes[0].code(), outcomes[1]) == (KafkaError.MSG_SIZE_TOO_LARGE, None)


def test_a_topic_has_the_partitions_and_settings_that_were_asked_for(broker: Cluster, make_topic: MakeTopic) -> None:
    topic = make_topic(partitions=7, settings={"max.message.bytes": "54321"})
    assert len(broker.admin.list_topics(topic, timeout=WAIT_S).topics[topic].partitions) == 7
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    found = broker.admin.describe_configs([resource])[resource].result(WAIT_S)
    assert found["max.message.bytes"].value == "54321"
    broker.delete_topic(topic)
    broker.delete_topic(topic)
    assert topic not in broker.admin.list_topics(timeout=WAIT_S).topics


def test_two_of_a_group_share_the_partitions(broker: Cluster, topic: str) -> None:
    with consumer(broker, topic, topic) as one, consumer(broker, topic, topic) as other:

        def is_shared() -> bool:
            assert [*one.consume(1, timeout=0.1), *other.consume(1, timeout=0.1)] == []
            return [len(reader.assignment()) for reader in (one, other)] == [2, 2]

        wait_until(is_shared, "each has two partitions")
        held = [partition.partition for reader in (one, other) for partition in reader.assignment()]
    assert sorted(held) == [0, 1, 2, 3]


# -- the harness itself


def use(folder: Path, go: Any, ready: Any) -> None:
    with shared(folder) as cluster:
        ready.put(cluster.address)
        go.wait()


def answers(address: str) -> bool:
    try:
        return bool(Cluster(address).admin.list_topics(timeout=0.5).brokers)
    except KafkaException:
        return False


def test_a_shared_broker_is_started_once_and_ends_with_the_last_however_that_ends(jars: Path, tmp_path: Path) -> None:
    ready, goes = SPAWN.Queue(), [SPAWN.Event() for _ in range(3)]
    folder = tmp_path / "kafka"
    processes = [SPAWN.Process(target=use, args=(folder, go, ready), daemon=True) for go in goes]
    for process in processes:
        process.start()
    addresses = {ready.get(timeout=90) for _ in processes}
    assert len(addresses) == 1
    address = addresses.pop()
    goes[0].set()
    processes[0].join()
    processes[1].kill()
    processes[1].join()
    assert answers(address)
    processes[2].kill()
    processes[2].join()
    wait_until(lambda: not answers(address), "it is killed")
    with shared(folder) as cluster:  # waits for the end of the one before
        assert answers(cluster.address)


def test_jars_that_cannot_be_fetched_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mvn"
    program.write_text("#!/bin/sh\nmkdir jars; echo half > jars/one.jar; echo no route to it; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("HOLDFAST_KAFKA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match="no route to it"):
        jars_module.fetched()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


SLOW_MAVEN = """\
#!/bin/sh
echo ran >> "$HOLDFAST_KAFKA_CACHE/runs"
mkdir jars
sleep 0.5
echo whole > jars/one.jar
"""


def test_jars_are_fetched_once_for_all_who_ask_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mvn"
    program.write_text(SLOW_MAVEN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("HOLDFAST_KAFKA_CACHE", str(tmp_path))
    command = [sys.executable, "-m", "tests.integration.stream.jars"]
    root = Path(__file__).parents[3]
    asking = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = Counter(process.communicate(timeout=WAIT_S)[0].strip() for process in asking)
    assert told == {str(jars_module.jars_folder()): 3}
    assert (tmp_path / "runs").read_text() == "ran\n"
    assert (jars_module.jars_folder() / "one.jar").read_text() == "whole\n"


def test_a_broker_that_cannot_start_says_why(jars: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"num\.io\.threads"), Broker(tmp_path / "kafka", {"num.io.threads": "0"}):
        pass
    assert not (tmp_path / "kafka").exists()


def test_another_port_is_taken_when_the_first_has_gone(
    jars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: Cluster
) -> None:
    taken, free = int(broker.address.rpartition(":")[2]), free_ports(3)
    choices = [[taken, free[0]], free[1:]]
    monkeypatch.setattr("tests.integration.stream.broker.free_ports", lambda _: choices.pop(0))
    with Broker(tmp_path / "kafka") as other:
        assert other.address == f"127.0.0.1:{free[1]}"
        assert not choices
