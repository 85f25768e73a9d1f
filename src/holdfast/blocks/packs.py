"""Where the packs of a store are: in the vault's folder, and those that were moved, on a backend.

Which pack is where is written down nowhere: the folder is looked into first, as reading there is quickest, then the
backend is asked. A pack may be in both places, after a move that was cut short; they are the same bytes then.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from holdfast.blocks.backends.backend import PACK_SUFFIX, OpenPack, PackBackend, pack_name
from holdfast.blocks.backends.posix import PosixPack
from holdfast.errors import BackendError, HoldfastError, UsageError

__all__ = ["PACK_SUFFIX", "Packs", "pack_path"]

QUIET_S = 300.0
"""A backend that could not be reached is left alone for so long: thousands of files shall not wait for it one by one."""


def pack_path(folder: Path, pack_id: uuid.UUID) -> Path:
    return folder / pack_name(pack_id)


class Packs:
    """A folder of packs, and perhaps a backend, which is opened when it is first needed. Safe for threads."""

    def __init__(self, folder: Path, open_backend: Callable[[], PackBackend] | None = None) -> None:
        self.folder = folder
        self._open_backend = open_backend
        self._backend: PackBackend | None = None
        self._trouble: HoldfastError | None = None
        self._trouble_until_s = 0.0
        self._lock = threading.Lock()

    def backend(self) -> PackBackend | None:
        """Where sealed packs are moved to; None where they stay. Raises `UsageError` if the settings for it are wrong."""
        with self._lock:
            if self._backend is None and self._open_backend is not None:
                self._backend = self._open_backend()
            return self._backend

    def open(self, pack_id: uuid.UUID, *, from_medium: bool = False) -> OpenPack:
        """A pack, from the folder if it is there. `from_medium`: the disk is asked and not the memory.

        Raises OSError as `os.open` does, also when the pack is nowhere, and what backends raise.
        """
        path = pack_path(self.folder, pack_id)
        try:
            return PosixPack(path, from_medium=from_medium)
        except FileNotFoundError:
            held = self._open_elsewhere(pack_id)
            if held is None:
                raise
            return held

    def _open_elsewhere(self, pack_id: uuid.UUID) -> OpenPack | None:
        backend = self.backend()
        if backend is None:
            return None
        known = self._trouble
        if known is not None and time.monotonic() < self._trouble_until_s:
            # a new one each time, as whoever gets it may write into it what it was for
            raise type(known)(
                known.message, place=backend.url, expected=known.expected, found=known.found, hint=known.hint
            )
        try:
            return backend.open(pack_id)
        except (BackendError, UsageError) as error:
            self.was_in_vain(error)
            raise

    def has(self, pack_id: uuid.UUID) -> bool:
        """Whether the pack is anywhere. Raises what backends raise when it is not in the folder, and they cannot say."""
        if self.is_local(pack_id):
            return True
        held = self._open_elsewhere(pack_id)
        if held is not None:
            held.close()
        return held is not None

    def was_in_vain(self, error: HoldfastError) -> None:
        """The backend was tried for as long as is meant: nobody else waits as long for it in the next minutes."""
        self._trouble_until_s = time.monotonic() + QUIET_S
        self._trouble = error

    def is_local(self, pack_id: uuid.UUID) -> bool:
        return pack_path(self.folder, pack_id).exists()

    def place_of(self, pack_id: uuid.UUID) -> str:
        """Where a pack is looked for, for people."""
        path = pack_path(self.folder, pack_id)
        if self._backend is None or path.exists():
            return str(path)
        return f"{self._backend.url}/{path.name}"
