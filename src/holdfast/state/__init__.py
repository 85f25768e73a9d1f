"""Work, as opposed to facts: who is doing what. Everything here can be thrown away and made again.

`POD` is of use on its own: a dictionary that persists, for any number of processes::

    from holdfast.state import POD

    with POD("crawl.pod") as pages:
        pages["https://example.org"] = {"links": []}
        pages["https://example.org"]["links"].append("https://example.net")
"""

from holdfast.state.backend import Durability
from holdfast.state.keys import Key
from holdfast.state.pod import POD
from holdfast.state.progress import Progress
from holdfast.state.runs import Run, RunLog, vault_lock
from holdfast.state.task import Task
from holdfast.state.tracker import Tracker

PersistentOrderedDict = POD
SharedPOD = POD
SharedPersistentOrderedDict = POD
ProgressTracker = Tracker
SharedTracker = Tracker
SharedProgressTracker = Tracker

__all__ = [
    "POD",
    "Durability",
    "Key",
    "PersistentOrderedDict",
    "Progress",
    "ProgressTracker",
    "Run",
    "RunLog",
    "SharedPOD",
    "SharedPersistentOrderedDict",
    "SharedProgressTracker",
    "SharedTracker",
    "Task",
    "Tracker",
    "vault_lock",
]
