"""What every backend of packs must do."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from contextlib import closing

import pytest

from holdfast.blocks.backends import HeldPack, OpenPack, PackBackend, add_pack
from holdfast.blocks.backends.backend import pack_name
from holdfast.blocks.backends.memory import MemoryPack
from holdfast.errors import IntegrityError


class _Stopped(Exception):
    """Stands for whatever cuts an upload short."""


def nothing(_: int) -> None:
    """Nobody wants to know."""


def give(backend: PackBackend, data: bytes, pack_id: uuid.UUID | None = None) -> uuid.UUID:
    """Put a new pack."""
    pack_id = pack_id or uuid.uuid4()
    assert backend.put(pack_id, MemoryPack(data), nothing)
    return pack_id


def part(pack: OpenPack, begin: int, size_bytes: int) -> bytes:
    """What a read of so many bytes gives."""
    buffer = bytearray(size_bytes)
    got_bytes = pack.read_into(memoryview(buffer), begin)
    assert not any(buffer[got_bytes:])
    return bytes(buffer[:got_bytes])


def whole(backend: PackBackend, pack_id: uuid.UUID) -> bytes | None:
    """All of a pack; None where it is not there."""
    pack = backend.open(pack_id)
    if pack is None:
        return None
    with closing(pack):
        return part(pack, 0, pack.size_bytes)


class BackendConformance:
    """The suite. Subclasses give `backend`, an empty one, and `put_foreign`, which puts something of another name there."""

    large_bytes = 300_000
    """More than the backend takes in one piece, and not a whole number of pieces."""
    many = 1_100
    """More packs than services list in one answer."""
    is_atomic = True
    """Of two puts at the same time just one may win; False where the server of a test does not see to that."""

    @pytest.fixture
    def backend(self) -> PackBackend:
        raise NotImplementedError("a subclass gives an empty backend")

    @pytest.fixture
    def put_foreign(self) -> Callable[[str, bytes], object]:
        raise NotImplementedError("a subclass puts an object beside the packs")

    def test_an_empty_backend_has_nothing(self, backend: PackBackend) -> None:
        missing = uuid.uuid4()
        assert list(backend.packs()) == []
        assert backend.open(missing) is None
        assert backend.held(missing) is None
        backend.remove(missing)

    def test_what_was_put_is_there(self, backend: PackBackend) -> None:
        pack_id = give(backend, b"0123456789")
        assert list(backend.packs()) == [HeldPack(pack_id, 10)]
        pack = backend.open(pack_id)
        assert pack is not None
        with closing(pack):
            assert pack.size_bytes == 10
            assert pack_name(pack_id) in pack.place
            assert [part(pack, 0, 10), part(pack, 3, 4), part(pack, 7, 1), part(pack, 3, 0)] == [
                b"0123456789",
                b"3456",
                b"7",
                b"",
            ]

    def test_a_range_beyond_the_end_gives_what_there_is(self, backend: PackBackend) -> None:
        pack = backend.open(give(backend, b"0123456789"))
        assert pack is not None
        with closing(pack):
            assert [part(pack, 8, 100), part(pack, 10, 5), part(pack, 1000, 5)] == [b"89", b"", b""]

    def test_a_large_pack_is_read_on_and_anywhere(self, backend: PackBackend) -> None:
        data = os.urandom(self.large_bytes)
        pack = backend.open(give(backend, data))
        assert pack is not None
        step = self.large_bytes // 7 + 1
        with closing(pack):
            for _ in range(2):
                assert b"".join(part(pack, begin, step) for begin in range(0, len(data), step)) == data
                assert part(pack, 100, 50) == data[100:150]
                pack.forget()
            assert part(pack, len(data) - 10, 10) == data[-10:]

    @pytest.mark.parametrize("is_large", [False, True])
    def test_law_5_nothing_is_written_over(self, backend: PackBackend, is_large: bool) -> None:
        first, other = os.urandom(self.large_bytes), os.urandom(self.large_bytes if is_large else 10)
        pack_id = give(backend, first)
        assert backend.put(pack_id, MemoryPack(other), nothing) is False
        assert whole(backend, pack_id) == first
        assert list(backend.packs()) == [HeldPack(pack_id, len(first))]

    @pytest.mark.parametrize("is_large", [False, True])
    def test_of_two_at_a_time_one_wins(self, backend: PackBackend, is_large: bool) -> None:
        if not self.is_atomic:
            pytest.skip("the server of this test looks and writes in two steps")
        size_bytes, pack_id = self.large_bytes if is_large else 10, uuid.uuid4()
        packs = [bytes([number]) * size_bytes for number in range(4)]
        won: list[bytes] = []
        together = threading.Barrier(len(packs))

        def put(data: bytes) -> None:
            together.wait()
            if backend.put(pack_id, MemoryPack(data), nothing):
                won.append(data)

        threads = [threading.Thread(target=put, args=(data,)) for data in packs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [whole(backend, pack_id)] == won
        assert list(backend.packs()) == [HeldPack(pack_id, size_bytes)]

    @pytest.mark.parametrize("is_large", [False, True])
    def test_law_6_a_put_that_was_cut_short_leaves_no_pack_and_is_done_again(
        self, backend: PackBackend, is_large: bool
    ) -> None:
        data, pack_id = os.urandom(self.large_bytes if is_large else 10), uuid.uuid4()

        class Breaks(MemoryPack):
            def read_into(self, buffer: memoryview, offset: int) -> int:
                if offset + len(buffer) == len(data):
                    raise _Stopped
                return super().read_into(buffer, offset)

        with pytest.raises(_Stopped):
            backend.put(pack_id, Breaks(data), nothing)
        assert list(backend.packs()) == []
        assert backend.open(pack_id) is None
        give(backend, data, pack_id)
        assert whole(backend, pack_id) == data

    def test_what_is_not_ours_is_left_alone(
        self, backend: PackBackend, put_foreign: Callable[[str, bytes], object]
    ) -> None:
        other = uuid.uuid4()
        names = ["readme.txt", f"{other}.pack.incoming", f"{other}.PACK", f"{other.hex}.pack", "x.pack", str(other)]
        for name in names:
            put_foreign(name, b"not ours")
        pack_id = give(backend, b"ours")
        assert list(backend.packs()) == [HeldPack(pack_id, 4)]
        assert backend.open(other) is None
        backend.remove(other)
        backend.remove(pack_id)
        for name in names:
            with pytest.raises(FileExistsError):
                put_foreign(name, b"still there?")

    def test_more_packs_than_one_answer_lists(self, backend: PackBackend) -> None:
        made = {HeldPack(give(backend, b"x" * (number % 3)), number % 3) for number in range(self.many)}
        listed = list(backend.packs())
        assert len(listed) == self.many
        assert set(listed) == made

    def test_what_was_removed_is_gone_and_may_come_again(self, backend: PackBackend) -> None:
        pack_id, other = give(backend, b"first"), give(backend, b"other")
        for _ in range(2):
            backend.remove(pack_id)
        assert list(backend.packs()) == [HeldPack(other, 5)]
        assert (backend.open(pack_id), backend.held(pack_id)) == (None, None)
        give(backend, b"second", pack_id)
        assert whole(backend, pack_id) == b"second"

    def test_a_tag_is_another_when_the_bytes_are(self, backend: PackBackend) -> None:
        """As many bytes, so that nothing else tells; a place that cannot tell gives none."""
        pack_id = give(backend, b"0123456789")
        (first,) = backend.packs()
        same = backend.held(pack_id)
        assert same is not None
        assert same == first == HeldPack(pack_id, 10)
        assert same.tag == first.tag
        backend.remove(pack_id)
        give(backend, b"9876543210", pack_id)
        (second,) = backend.packs()
        assert second.tag != first.tag or not first.tag

    def test_a_pack_is_added_once_and_proven_each_time(self, backend: PackBackend) -> None:
        data, pack_id, told = os.urandom(self.large_bytes), uuid.uuid4(), list[int]()
        assert add_pack(backend, pack_id, MemoryPack(data), told.append, take_away=True) is True
        assert sum(told) == 2 * len(data)
        told.clear()
        assert add_pack(backend, pack_id, MemoryPack(data), told.append, take_away=True) is False
        assert sum(told) == 2 * len(data)
        assert whole(backend, pack_id) == data

    @pytest.mark.parametrize("size_bytes", [9, 10, 11])
    def test_law_5_a_pack_of_this_name_with_other_bytes_is_an_error_and_stays(
        self, backend: PackBackend, size_bytes: int
    ) -> None:
        pack_id = give(backend, b"x" * size_bytes)
        with pytest.raises(IntegrityError) as caught:
            add_pack(backend, pack_id, MemoryPack(b"0123456789"), take_away=True)
        assert pack_name(pack_id) in str(caught.value.place)
        assert f"{size_bytes} bytes" in str(caught.value.found)
        assert whole(backend, pack_id) == b"x" * size_bytes
