"""The backend of object stores on a real server's protocol: what all backends must do, and what only networks do."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError
from obstore.store import from_url
from tests.integration.objects.server import Line, Server, options_for

from holdfast.blocks.backends import HeldPack, PackBackend, add_pack
from holdfast.blocks.backends.memory import MemoryPack
from holdfast.blocks.backends.objects import ObjectBackend, open_objects
from holdfast.errors import BackendError, UsageError
from holdfast.testing.conformance import BackendConformance
from holdfast.testing.conformance.backend import give, nothing, whole

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MIB = 2**20


def raw_store(port: int, bucket: str, prefix: str = "/vault/packs") -> obstore.store.S3Store:
    """The same place, as anybody else's program sees it."""
    options = options_for(port)
    config = {key: options[key] for key in ("endpoint", "region", "access_key_id", "secret_access_key")}
    return from_url(f"s3://{bucket}{prefix}", config=config, client_options={"allow_http": True})


def names_in(port: int, bucket: str) -> list[str]:
    return sorted(item["path"] for page in obstore.list(raw_store(port, bucket, "")) for item in page)


def open_parts(port: int, bucket: str) -> ObjectBackend:
    """With parts of the least size that S3 takes."""
    whole_backend = open_objects(f"s3://{bucket}/vault/packs", options_for(port))
    return ObjectBackend(whole_backend._store, whole_backend.url, part_bytes=5 * MIB)


class TestS3(BackendConformance):
    large_bytes = 12 * MIB + 17
    is_atomic = False

    @pytest.fixture
    def backend(self, server: Server, bucket: str) -> PackBackend:
        return open_parts(server.port, bucket)

    @pytest.fixture
    def put_foreign(self, server: Server, bucket: str) -> Callable[[str, bytes], object]:
        def put(name: str, data: bytes) -> None:
            try:
                obstore.put(raw_store(server.port, bucket), name, data, mode="create")
            except AlreadyExistsError as error:
                raise FileExistsError from error

        return put

    def test_packs_lie_below_the_prefix_by_their_names_and_nothing_else_does(
        self, server: Server, bucket: str, backend: PackBackend
    ) -> None:
        small, large = give(backend, b"x"), give(backend, os.urandom(self.large_bytes))
        assert names_in(server.port, bucket) == sorted(f"vault/packs/{pack_id}.pack" for pack_id in (small, large))

    def test_a_pack_with_more_parts_than_one_may_be_in_memory(self, backend: PackBackend) -> None:
        data = os.urandom(33 * MIB)
        assert whole(backend, give(backend, data)) == data


# -- a network, and a server that is not always there


def test_a_server_that_is_gone_is_told_in_bounded_time_and_may_come_back(
    server: Server, line: Line, bucket: str
) -> None:
    backend = open_parts(line.port, bucket)
    pack_id = give(backend, b"0123456789")
    pack = backend.open(pack_id)
    assert pack is not None
    line.cut()
    calls: list[Callable[[], object]] = [
        lambda: list(backend.packs()),
        lambda: backend.open(pack_id),
        lambda: pack.read_into(memoryview(bytearray(4)), 2),
        lambda: backend.put(uuid.uuid4(), MemoryPack(b"x"), nothing),
        lambda: backend.remove(pack_id),
    ]
    for call in calls:
        with pytest.raises(BackendError) as caught:
            call()
        assert f"s3://{bucket}/vault/packs" in str(caught.value.place)
        assert caught.value.found
        assert "run the same command again" in str(caught.value.hint)
        assert "Debug source" not in str(caught.value)
    line.mend()
    assert whole(backend, pack_id) == b"0123456789"
    assert list(backend.packs()) == [HeldPack(pack_id, 10)]


def test_a_server_that_does_not_answer_is_told_in_bounded_time(server: Server, line: Line, bucket: str) -> None:
    backend = open_parts(line.port, bucket)
    pack_id = give(backend, b"0123456789")
    line.hush()
    with pytest.raises(BackendError) as caught:
        backend.open(pack_id)
    assert "retries" in str(caught.value.found)
    line.mend()
    assert whole(backend, pack_id) == b"0123456789"


def test_a_server_that_comes_back_while_it_is_tried_again_is_not_noticed(
    server: Server, line: Line, bucket: str
) -> None:
    backend = open_objects(f"s3://{bucket}", options_for(line.port) | {"max_retries": "50", "retry_timeout_s": "60"})
    line.cut()
    timer = threading.Timer(0.5, line.mend)
    timer.start()
    pack_id = give(backend, b"0123456789")
    timer.join()
    assert whole(backend, pack_id) == b"0123456789"


@pytest.mark.parametrize("after_bytes", [MIB, 6 * MIB, 11 * MIB])
def test_law_6_a_put_that_the_network_cuts_is_done_again(
    server: Server, line: Line, bucket: str, after_bytes: int
) -> None:
    backend, pack_id, data = open_parts(line.port, bucket), uuid.uuid4(), os.urandom(12 * MIB)
    line.cut_after(after_bytes)
    with pytest.raises(BackendError):
        add_pack(backend, pack_id, MemoryPack(data), take_away=True)
    line.mend()
    assert list(backend.packs()) == []
    assert add_pack(backend, pack_id, MemoryPack(data), take_away=True) is True
    assert names_in(server.port, bucket) == [f"vault/packs/{pack_id}.pack"]


def test_a_read_that_the_network_cuts_gives_no_bytes_that_were_not_there(
    server: Server, line: Line, bucket: str
) -> None:
    backend, data = open_parts(line.port, bucket), os.urandom(3 * MIB)
    pack = backend.open(give(backend, data))
    assert pack is not None
    buffer = memoryview(bytearray(len(data)))
    line.cut_after(MIB)
    with pytest.raises(BackendError):
        pack.read_into(buffer, 0)
    line.mend()
    assert pack.read_into(buffer, 0) == len(data)
    assert buffer == data


def test_what_a_killed_upload_left_is_cleared_away_when_the_pack_comes_again(server: Server, bucket: str) -> None:
    backend, pack_id, other = open_parts(server.port, bucket), uuid.uuid4(), uuid.uuid4()
    raw = raw_store(server.port, bucket)
    for name in (f"{pack_id}.pack.0123.incoming", f"{other}.pack.0123.incoming"):
        obstore.put(raw, name, b"left behind")
    add_pack(backend, pack_id, MemoryPack(os.urandom(6 * MIB)), take_away=True)
    left = {f"vault/packs/{pack_id}.pack", f"vault/packs/{other}.pack.0123.incoming"}
    assert {*names_in(server.port, bucket)} == left


# -- wrong use


def test_a_bucket_that_is_not_there(server: Server) -> None:
    backend = open_objects("s3://no-such-bucket/packs", options_for(server.port))
    for call in (lambda: list(backend.packs()), lambda: backend.put(uuid.uuid4(), MemoryPack(b"x"), nothing)):
        with pytest.raises(UsageError, match="no such bucket") as caught:
            call()
        assert "no-such-bucket" in str(caught.value.place)
