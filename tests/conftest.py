"""What every test shares: hypothesis profiles, and the rule for services that may be missing.

The profile is `ci` where CI=true, else `dev`; HYPOTHESIS_PROFILE names another one (`thorough` looks ten times longer).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

IN_CI = os.environ.get("CI", "").lower() == "true"

# No deadline and no "too slow": two busy cores make any time limit on one example a coin toss.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples in every run, so that a red run is red again on the next machine.
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("thorough", settings.get_profile("dev"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))

# Whoever starts a job in the background may have it ignore Ctrl-C, and children inherit that. Ours shall hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _require_service(name: str, available: bool, reason: str) -> None:
    if available:
        return
    message = f"{name} is not available: {reason}"
    if IN_CI:
        pytest.fail(f"{message} (CI must have it: a skipped test shows nothing)", pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def require_service() -> Callable[[str, bool, str], None]:
    """`require_service(name, available, reason)`: skips with the reason where the service is missing, fails in CI."""
    return _require_service


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The sums of what tests counted with `record_property(what, number)`, to be quoted."""
    sums: dict[str, int] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for what, number in report.user_properties if getattr(report, "when", "") == "call" else ():
                sums[what] = sums.get(what, 0) + number
    if sums:
        terminalreporter.section("counted")
    for what, total in sorted(sums.items()):
        terminalreporter.write_line(f"{total:>7} {what}")
