"""A broker of Apache Kafka for the length of a test or of a test run: its own folder, its own ports of the loopback.

No process outlives the tests, not even when they are killed: `keeper.py` sees to that.
"""

from __future__ import annotations

import base64
import fcntl
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from tests.integration.stream.jars import fetched, locked

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
ANSWER_TIMEOUT_S = 30
"""For whatever is asked of a broker that runs."""
MEMORY = ("-Xms64m", "-Xmx384m", "-XX:MaxDirectMemorySize=128m", "-XX:+UseSerialGC")
START_SOON = ("-XX:TieredStopAtLevel=1",)
START_ATTEMPTS = 3
IN_USE = "Address already in use"

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.segment.delete.delay.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "8388608",
}
"""One node that is broker and controller, and quick to form groups and to forget topics."""

RETURNS_SOON = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "500"}
"""A broker that was killed is taken back only after its session is over, by default nine seconds."""

QUIET = {"log_level": 0}
"""For clients whose broker may be down: that is no news."""

LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c)%n%xEx
"""


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
    """Asks again and again; to ask a broker takes as long as it takes. Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not so after {timeout_s} s: {what}")


class Cluster:
    """A Kafka that runs, by its address (`host:port`), and what tests ask of it."""

    def __init__(self, address: str) -> None:
        self.address = address

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient(self.client(QUIET))

    def client(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a client's constructor wants: the address, and these settings."""
        return {"bootstrap.servers": self.address, **(settings or {})}

    def create_topic(self, name: str, partitions: int = 4, settings: Mapping[str, str] | None = None) -> None:
        """Returns when each partition has a leader, so that it can be written and read at once."""
        topic = NewTopic(name, partitions, -1, config=dict(settings or {}))
        self.admin.create_topics([topic], request_timeout=ANSWER_TIMEOUT_S)[name].result(ANSWER_TIMEOUT_S)
        wait_until(lambda: self._is_led(name, partitions), f"each partition of {name} has a leader")

    def _is_led(self, name: str, partitions: int) -> bool:
        found = self.admin.list_topics(name, timeout=ANSWER_TIMEOUT_S).topics[name].partitions
        return len(found) == partitions and all(partition.leader >= 0 for partition in found.values())

    def delete_topic(self, name: str) -> None:
        """Whether it is there or not; returns when it is no longer told of."""
        try:
            self.admin.delete_topics([name], request_timeout=ANSWER_TIMEOUT_S)[name].result(ANSWER_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
        wait_until(lambda: name not in self.admin.list_topics(timeout=ANSWER_TIMEOUT_S).topics, f"{name} is deleted")

    @contextmanager
    def new_topic(self, partitions: int = 4, settings: Mapping[str, str] | None = None) -> Iterator[str]:
        """The name of a topic that nobody has used, deleted afterwards."""
        name = f"test-{uuid.uuid4().hex[:20]}"
        self.create_topic(name, partitions, settings)
        yield name
        self.delete_topic(name)


class Broker(Cluster):
    """A context manager: a running broker, which may be stopped, killed, and started again.

    It keeps its address and its data, in `folder`, for as long as the context lasts; then it is killed and the folder
    removed. `settings` are added to those of its server.properties.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__("")
        self.folder = folder
        self.pid: int | None = None
        """The Java process; None while it does not run."""
        self._pidfd = -1
        self._cluster_id = base64.urlsafe_b64encode(b"test" + os.urandom(12)).decode().rstrip("=")  # 22 signs
        self._settings = settings or {}
        self._context = ExitStack()

    def __enter__(self) -> Broker:
        with ExitStack() as context:
            context.enter_context(in_use(self.folder))
            context.callback(shutil.rmtree, self.folder, ignore_errors=True)
            context.callback(self.kill)
            self.start()
            self._context = context.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError with its last words if it ends instead."""
        if self.address:
            return self._start()
        for attempt in range(START_ATTEMPTS):
            self._configure(*free_ports(2))
            try:
                return self._start()
            except RuntimeError as error:
                if IN_USE not in str(error) or attempt == START_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """As its administrator would: it writes and closes everything, and returns when it has ended."""
        self._signal(signal.SIGTERM)
        if not self._has_ended(STOP_TIMEOUT_S):
            self.kill()
            raise TimeoutError(f"the broker had not stopped after {STOP_TIMEOUT_S} s: {self._last_words()}")
        self._forget()

    def kill(self) -> None:
        """At once, and returns when it is gone; nothing happens if it does not run."""
        if self.pid is None:
            return
        self._signal(signal.SIGKILL)
        if not self._has_ended(STOP_TIMEOUT_S):
            raise TimeoutError(f"the broker had not ended {STOP_TIMEOUT_S} s after it was killed")
        self._forget()

    def _configure(self, port: int, controller_port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        own = {
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{controller_port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "log.dirs": str(self.folder / "data"),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}\n" for name, value in {**SETTINGS, **own, **self._settings}.items()]
        (self.folder / "server.properties").write_text("".join(lines))
        (self.folder / "log4j2.properties").write_text(LOGGING)
        if not (self.folder / "data").exists():
            self._format()

    def _format(self) -> None:
        words = ["format", "-t", self._cluster_id, "-c", str(self.folder / "server.properties")]
        command = self._java("kafka.tools.StorageTool", *words)
        ran = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)}: {ran.stdout}{ran.stderr}")

    def _java(self, *words: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return ["java", *MEMORY, *START_SOON, logging, "-cp", f"{fetched()}/*", *words]

    def _start(self) -> None:
        if self.pid is not None:
            raise RuntimeError(f"the broker runs already, as process {self.pid}")
        keeper = [sys.executable, "-I", str(Path(__file__).with_name("keeper.py"))]
        paths = [str(path) for path in (self.folder, users(self.folder), self.folder / "log")]
        command = self._java("kafka.Kafka", str(self.folder / "server.properties"))
        told = subprocess.run([*keeper, *paths, *command], stdout=subprocess.PIPE, text=True, check=True, timeout=30)
        self.pid = int(told.stdout)
        try:
            self._pidfd = os.pidfd_open(self.pid)
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_answers(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        asking = AdminClient(self.client({**QUIET, "reconnect.backoff.max.ms": 100}))
        while True:
            if self._has_ended(0):
                raise RuntimeError(f"the broker ended while it started: {self._last_words()}")
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the broker did not answer within {START_TIMEOUT_S} s: {self._last_words()}")
            try:
                found = asking.list_topics(timeout=0.3)
                if found.brokers and found.cluster_id == self._cluster_id:
                    return  # it is ours that answers there
            except KafkaException:
                pass  # it listens to nobody yet

    def _signal(self, number: int) -> None:
        if self.pid is None:
            raise RuntimeError("the broker does not run")
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass  # it has ended by itself

    def _has_ended(self, timeout_s: float) -> bool:
        """Waits for it at most so long."""
        waiting = select.poll()
        waiting.register(self._pidfd, select.POLLIN)
        return bool(waiting.poll(timeout_s * 1000))

    def _forget(self) -> None:
        os.close(self._pidfd)
        self.pid, self._pidfd = None, -1

    def _last_words(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]


def users(folder: Path) -> Path:
    """Who holds a lock on this file uses the broker in `folder`."""
    return folder.with_name(f"{folder.name}.users")


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """The broker in `folder` is kept alive. Waits while one that nobody used is still being ended."""
    with users(folder).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def shared(folder: Path) -> Iterator[Cluster]:
    """The broker that several processes share: the first starts it, and when the last has left it is killed."""
    ready = folder / "address"
    with ExitStack() as context:
        with locked(folder.with_name(f"{folder.name}.start")):
            context.enter_context(in_use(folder))
            if not ready.exists():
                broker = Broker(folder)
                broker.start()
                ready.write_text(broker.address)
            address = ready.read_text()
        yield Cluster(address)


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on.

    The system does not give them to clients by itself: no client may take the port of a broker that is down, least of
    all the one that wants to connect to it.
    """
    first_for_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    below = range(10_000, first_for_clients) if first_for_clients > 11_000 else range(61_000, 65_536)
    choose = random.SystemRandom()
    found: list[int] = []
    while len(found) < count:
        port = choose.choice(below)
        with closing(socket.socket()) as ear:
            try:
                ear.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
