"""Packs in an object store: S3 and what speaks like it, Google Cloud Storage, Azure; through `obstore`.

One pack is one object, `<uuid>.pack` below the URL. Nothing is ever written over:

    up to 16 MiB   one put, on condition that there is no object of this name
    more           in parts, to a name of its own; then copied by the service to the pack's name, on the same condition,
                   as not every service puts the parts of an upload together on a condition

Retries and their back-off are those of `obstore`, with bounds; what it does not try again, a read that brings too few
bytes, is tried again here. This page and `explaining` are all that knows
`obstore`; they are imported only when there is a URL for it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, UnknownConfigurationKeyError
from obstore.store import from_url

from holdfast.blocks.backends.ahead import ReadAhead
from holdfast.blocks.backends.backend import (
    HeldPack,
    OpenPack,
    Progress,
    incoming_name,
    is_incoming,
    pack_id_of,
    pack_name,
    parts_of,
)
from holdfast.blocks.backends.explaining import IsThere, NotThere, cause_of, explain, explained
from holdfast.errors import BackendError, HoldfastError, UsageError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

PART_BYTES = 16 * 1024 * 1024
PARTS_AT_ONCE = 3
"""With one that waits and one that is being read, 80 MiB are in memory."""
COPY_LIMIT_BYTES = 5 * 2**30
"""S3 copies no larger object (its manual, CopyObject and UploadPartCopy)."""
AHEAD_BYTES = 4 * 1024 * 1024
"""Whoever reads on where the last read ended is given so much at once."""
SHORT_READS = 3

CLIENT_OPTIONS = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "http1_only",
    "http2_only",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "randomize_addresses",
    "read_timeout",
    "root_certificate",
    "timeout",
    "user_agent",
)
"""What `obstore` takes for the connection, and not for the service."""
RETRY_OPTIONS = {"max_retries": 8, "retry_timeout_s": 120}
"""Ours: how often a request is tried again, and until when."""
CLIENT_DEFAULTS = {"connect_timeout": "10s", "timeout": "120s"}
"""The second one is for a whole request, so for a part of 16 MiB."""


class ObjectBackend:
    """The packs below one URL."""

    def __init__(self, store: ObjectStore, url: str, *, part_bytes: int = PART_BYTES) -> None:
        self.url = url
        self._store = store
        self._part_bytes = part_bytes

    def packs(self) -> Iterator[HeldPack]:
        for page in self._pages():
            for item in page:
                pack_id = pack_id_of(item["path"])
                if pack_id is not None:
                    yield _held(pack_id, item)

    def _pages(self, after: str | None = None) -> Iterator[Sequence[ObjectMeta]]:
        """All that is below the URL, page by page; or what comes after a name."""
        with self._explained(None):
            yield from obstore.list(self._store, offset=after)  # pyright: ignore[reportUnknownMemberType]

    def held(self, pack_id: uuid.UUID) -> HeldPack | None:
        try:
            with self._explained(pack_id):
                return _held(pack_id, obstore.head(self._store, pack_name(pack_id)))
        except NotThere:  # or the bucket is not: such an answer has no words
            next(self._pages(after=pack_name(pack_id)), None)
            return None

    def open(self, pack_id: uuid.UUID) -> OpenPack | None:
        held = self.held(pack_id)
        return None if held is None else _ObjectPack(self, pack_id, held.size_bytes)

    def put(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> bool:
        put = self._put_small if source.size_bytes <= self._part_bytes else self._put_large
        try:
            with self._explained(pack_id):
                if self.held(pack_id) is not None:
                    return False
                put(pack_id, source, progress)
        except IsThere:
            return False
        except NotThere as error:
            if self.held(pack_id) is None:
                raise explain(error, self.url) from error
            return False  # another one was quicker, and has cleared up
        finally:
            if source.size_bytes > self._part_bytes:
                self._clear_up(pack_id)
        return True

    def _put_small(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> None:
        whole = b"".join(parts_of(source, self._part_bytes, progress))
        obstore.put(self._store, pack_name(pack_id), whole, mode="create", use_multipart=False)

    def _put_large(self, pack_id: uuid.UUID, source: OpenPack, progress: Progress) -> None:
        if source.size_bytes > COPY_LIMIT_BYTES and urlsplit(self.url).scheme == "s3":
            raise BackendError(
                "a pack is larger than an object that S3 copies; it stays on the local disk",
                place=source.place,
                expected=f"at most {COPY_LIMIT_BYTES} bytes",
                found=f"{source.size_bytes} bytes",
                hint="keep [blocks] pack_size in holdfast.toml below that, for the packs to come",
            )
        incoming = incoming_name(pack_id)
        with closing(ReadAhead(parts_of(source, self._part_bytes, progress))) as parts:
            obstore.put(
                self._store,
                incoming,
                parts,
                use_multipart=True,
                chunk_size=self._part_bytes,
                max_concurrency=PARTS_AT_ONCE,
            )
        try:
            obstore.copy(self._store, incoming, pack_name(pack_id), overwrite=False)
        finally:
            self._discard(incoming)

    def _clear_up(self, pack_id: uuid.UUID) -> None:
        """Once the pack is there, whatever is or was on its way to its name is of no use."""
        try:
            if self.held(pack_id) is not None:
                # services list by name, so that those which begin with this one come first
                for item in next(self._pages(after=pack_name(pack_id)), ()):
                    if is_incoming(item["path"], pack_id):
                        self._discard(item["path"])
        except HoldfastError:
            pass  # it is told by whoever asks next

    def _discard(self, name: str) -> None:
        """Best effort: what stays is no pack, and is taken away when this pack comes again."""
        try:
            obstore.delete(self._store, name)
        except (BaseError, OSError):
            pass

    def remove(self, pack_id: uuid.UUID) -> None:
        try:
            with self._explained(pack_id):
                obstore.delete(self._store, pack_name(pack_id))
        except NotThere:
            pass

    def get(self, pack_id: uuid.UUID, begin: int, end: int) -> memoryview:
        """The bytes from `begin` to before `end`, which the object has. Fewer only if the service gave fewer, thrice."""
        data = memoryview(b"")
        for _ in range(SHORT_READS):
            try:
                with self._explained(pack_id):
                    data = memoryview(obstore.get_range(self._store, pack_name(pack_id), start=begin, end=end))
            except NotThere:
                return memoryview(b"")  # it was there when it was opened
            if len(data) == end - begin:
                break
        return data[: end - begin]

    def _explained(self, pack_id: uuid.UUID | None) -> AbstractContextManager[None]:
        """Errors of the service as ours; for a pack, also `NotThere` and `IsThere`."""
        return explained(
            self.url if pack_id is None else f"{self.url}/{pack_name(pack_id)}", is_pack=pack_id is not None
        )


def _held(pack_id: uuid.UUID, item: ObjectMeta) -> HeldPack:
    return HeldPack(pack_id, item["size"], item["e_tag"] or "")


class _ObjectPack:
    """An open pack of an object store; what is read on and on is fetched ahead."""

    def __init__(self, backend: ObjectBackend, pack_id: uuid.UUID, size_bytes: int) -> None:
        self.place = f"{backend.url}/{pack_name(pack_id)}"
        self.size_bytes = size_bytes
        self._backend = backend
        self._pack_id = pack_id
        self._ahead = memoryview(b"")
        self._ahead_begin = 0
        self._read_end = 0

    def read_into(self, buffer: memoryview, offset: int) -> int:
        end = min(offset + len(buffer), self.size_bytes)
        if offset >= end:
            return 0
        at = offset - self._ahead_begin
        if not 0 <= at <= at + (end - offset) <= len(self._ahead):
            self._fetch(offset, end)
            at = 0
        piece = self._ahead[at : at + (end - offset)]
        buffer[: len(piece)] = piece
        self._read_end = offset + len(piece)
        return len(piece)

    def _fetch(self, begin: int, end: int) -> None:
        wanted_end = end
        if begin == self._read_end:
            wanted_end = min(max(end, begin + AHEAD_BYTES), self.size_bytes)
        self._ahead = self._backend.get(self._pack_id, begin, wanted_end)
        self._ahead_begin = begin

    def forget(self) -> bool:
        self._ahead = memoryview(b"")
        self._ahead_begin = 0
        return True

    def close(self) -> None:
        self.forget()


# -- opening, and what may go wrong


def open_objects(url: str, options: Mapping[str, str]) -> ObjectBackend:
    """The backend at a URL. Asks nobody yet. Raises `UsageError` for a wrong URL or option."""
    options = {_plain(key): text for key, text in options.items()}
    config: dict[str, Any] = {
        key: text for key, text in options.items() if key not in (*CLIENT_OPTIONS, *RETRY_OPTIONS)
    }
    if urlsplit(url).scheme == "s3":
        config.setdefault("copy_if_not_exists", "multipart")  # the only way that S3 has
    client: Any = CLIENT_DEFAULTS | {key: text for key, text in options.items() if key in CLIENT_OPTIONS}
    retry: Any = {
        "max_retries": _number(options, "max_retries"),
        "retry_timeout": timedelta(seconds=_number(options, "retry_timeout_s")),
    }
    try:
        choose: Any = from_url  # its types tell the schemes apart by their options
        store: ObjectStore = choose(url, config=config, client_options=client, retry_config=retry)
    except (BaseError, ValueError, TypeError) as error:
        if "must be specified" in str(error):
            raise explain(error, url) from error
        is_option = isinstance(error, UnknownConfigurationKeyError) or "Config error" in str(error)
        raise UsageError(
            "a wrong option for the object store" if is_option else "an object store cannot be opened",
            place=url,
            found=cause_of(error),
            hint="correct [blocks] store or [blocks.store_options] in holdfast.toml, or the environment",
        ) from error
    return ObjectBackend(store, url)


def _plain(key: str) -> str:
    """`aws_endpoint` and `endpoint` are one option; for those of the connection the library knows only the second form."""
    return re.sub("^(aws|google|azure)_", "", key.lower())


def _number(options: Mapping[str, str], key: str) -> int:
    text = options.get(key, str(RETRY_OPTIONS[key]))
    if not text.isdecimal():
        raise UsageError(
            "a wrong option for the object store",
            place=f"[blocks.store_options] {key}",
            expected="a whole number",
            found=repr(text),
            hint="correct it in holdfast.toml, or in --option",
        )
    return int(text)
