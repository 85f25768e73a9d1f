"""The way back: find the versions, and plant them below one folder.

`request` says what is wanted; `ways` which versions are meant and where the bytes of each come from, which all who
follow ask; `order` in which order tapes are read, and how long that takes (pure). `planting` does it (`restore`),
`planning` tells it and does nothing (`plan`), `script` writes a shell script that does it (`write_script`, in the
words of `shell`), `single` writes one file to a stream (`cat`) or to a place (`get`).
"""

from holdfast.restoring.planning import plan
from holdfast.restoring.planting import restore
from holdfast.restoring.request import RestoreRequest
from holdfast.restoring.script import write_script
from holdfast.restoring.single import cat, get

__all__ = ["RestoreRequest", "cat", "get", "plan", "restore", "write_script"]
