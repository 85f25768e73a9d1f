"""Conformance suites: what every driver of a tape drive or a changer must do, as tests that anybody can run on theirs.

Subclass a suite, give it a stand (how to load, reload and, where that can be simulated, cut the power), and let pytest
collect it::

    class TestMyDrive(TapeDriveConformance):
        @pytest.fixture
        def stand(self) -> DriveStand:
            return MyStand("/dev/nst0")

The cartridges of a stand are scratch: the suites write over them. pytest and hypothesis must be installed.
"""

from holdfast.testing.conformance.changer import ChangerConformance, PortsConformance
from holdfast.testing.conformance.drive import DriveStand, TapeDriveConformance
from holdfast.testing.conformance.machine import DriveMachine

__all__ = ["ChangerConformance", "DriveMachine", "DriveStand", "PortsConformance", "TapeDriveConformance"]
