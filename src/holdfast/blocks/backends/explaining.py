"""What `obstore` and the services behind it raise, in words that say what to do.

The library tells kinds of errors apart only in part, so their texts are looked at, too; tests with a server hold that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from holdfast.errors import BackendError, HoldfastError, UsageError


class NotThere(Exception):
    """The object is not there."""


class IsThere(Exception):
    """An object of this name is there already."""


@contextmanager
def explained(place: str, *, is_pack: bool) -> Generator[None, None, None]:
    """Errors of the service as ours. Asked for a pack: `NotThere`, `IsThere`; asked for a list: a wrong setting."""
    _refuse_fork(place)
    try:
        yield
    except AlreadyExistsError as error:
        raise IsThere from error
    except (BaseError, OSError) as error:
        if isinstance(error, FileNotFoundError) and is_pack and not _says_no_bucket(error):
            raise NotThere from error
        raise explain(error, place) from error


_used_by: int | None = None


def _refuse_fork(place: str) -> None:
    """The threads of `obstore` do not live in a fork: it would wait for them for ever."""
    global _used_by
    _used_by = _used_by or os.getpid()
    if _used_by != os.getpid():
        raise BackendError(
            "an object store cannot be used in a fork of a process that has used one",
            place=place,
            hint="start processes by 'spawn' (multiprocessing.get_context), or use the store in the forks alone",
        )


def _says_no_bucket(error: Exception) -> bool:
    return any(text in str(error) for text in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist"))


def _says_refused(error: Exception) -> bool:
    is_told = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
    return is_told or any(f"status code: {code}" in str(error) for code in (401, 403))


def explain(error: Exception, place: str) -> HoldfastError:
    """What the library raised, as an error that says what to do."""
    cause = cause_of(error)
    if isinstance(error, FileNotFoundError) or _says_no_bucket(error):
        return UsageError(
            "there is no such bucket or container",
            place=place,
            found=cause,
            hint="make it, or correct [blocks] store in holdfast.toml",
        )
    if "169.254.169.254" in cause or "token request" in cause or "must be specified" in cause:
        return UsageError(
            "there are no credentials for the object store",
            place=place,
            expected="such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or [blocks.store_options]",
            found=f"none; so a machine of the cloud was asked for some: {cause}",
            hint="set them, then run the same command again",
        )
    if _says_refused(error):
        return UsageError(
            "the object store refuses the credentials",
            place=place,
            found=cause,
            hint="set those of somebody who may list, read, write and delete there, then run the same command again",
        )
    return BackendError(
        "the object store cannot be used; packs that are not there stay on the local disk",
        place=place,
        found=cause,
        hint="run the same command again when it is back; holdfast restore --from tape needs no store",
    )


def cause_of(error: Exception) -> str:
    """What the library says, without the dump of its inner state that it puts behind it; of an answer, its message."""
    text, _, answer = str(error).partition("\n\nDebug source")[0].partition(": <?xml")
    message = re.search("<Message>(.*?)</Message>", answer, re.DOTALL)
    return " ".join((f"{text}: {message[1]}" if message else text).split())[:600]
