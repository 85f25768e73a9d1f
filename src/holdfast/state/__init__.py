"""Work, as opposed to facts: who is doing what. Everything here can be thrown away and made again.

`POD` is of use on its own: a dictionary that persists, for any number of processes::

    from holdfast.state import POD

    with POD("crawl.pod") as pages:
        pages["https://example.org"] = {"links": []}
        pages["https://example.org"]["links"].append("https://example.net")
"""

from holdfast.state.attempt import Attempt
from holdfast.state.backend import Durability
from holdfast.state.keys import Key
from holdfast.state.pod import POD
from holdfast.state.progress import Progress
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
    "Attempt",
    "Durability",
    "Key",
    "PersistentOrderedDict",
    "Progress",
    "ProgressTracker",
    "SharedPOD",
    "SharedPersistentOrderedDict",
    "SharedProgressTracker",
    "SharedTracker",
    "Task",
    "Tracker",
]
