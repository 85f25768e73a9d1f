"""Conformance suites: what every driver of a tape drive or a changer, database of stores, and backend of packs must do.

Anybody can run them on theirs.

Subclass a suite, give it a stand (how to load, reload and, where that can be simulated, cut the power), and let pytest
collect it::

    class TestMyDrive(TapeDriveConformance):
        @pytest.fixture
        def stand(self) -> DriveStand:
            return MyStand("/dev/nst0")

The cartridges of a stand are scratch: the suites write over them. Stores need only a fixture `place`, which gives a
new folder or URL. pytest and hypothesis must be installed.
"""

from holdfast.testing.conformance.backend import BackendConformance
from holdfast.testing.conformance.changer import ChangerConformance, PortsConformance
from holdfast.testing.conformance.dictionary import DictionaryConformance
from holdfast.testing.conformance.dictionarymachine import DictionaryMachine
from holdfast.testing.conformance.drive import DriveStand, TapeDriveConformance
from holdfast.testing.conformance.machine import DriveMachine
from holdfast.testing.conformance.tasks import TrackerConformance
from holdfast.testing.conformance.trackermachine import TrackerMachine

__all__ = [
    "BackendConformance",
    "ChangerConformance",
    "DictionaryConformance",
    "DictionaryMachine",
    "DriveMachine",
    "DriveStand",
    "PortsConformance",
    "TapeDriveConformance",
    "TrackerConformance",
    "TrackerMachine",
]
