"""What is kept of what is found, and what it is called."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path

from holdfast.blocks.packs import Packs, pack_path
from holdfast.errors import EXIT_DATA_AT_RISK, CapacityError, HoldfastError, IntegrityError
from holdfast.reports import ScrubReport
from holdfast.scrubbing.findings import KEPT, Findings, of_pack

PACKS, PACK_ID = Packs(Path("/vault/packs")), uuid.uuid4()
PACK = pack_path(PACKS.folder, PACK_ID)


def test_law_9_errors_and_warnings_are_counted_and_few_are_kept() -> None:
    report = ScrubReport(vault="")
    findings = Findings(report)
    for _ in range(KEPT + 50):
        findings.error(CapacityError("full"))
        findings.warn(HoldfastError("odd"))
    assert (len(report.errors), len(report.warnings)) == (KEPT, KEPT)
    assert report.totals == {"errors": KEPT + 50, "warnings": KEPT + 50}


def test_an_error_that_decides_the_exit_code_is_kept_among_many_others() -> None:
    report = ScrubReport(vault="")
    findings = Findings(report)
    for _ in range(KEPT + 1):
        findings.error(CapacityError("full"))
    findings.error(IntegrityError("damaged"))
    assert report.exit_code() == EXIT_DATA_AT_RISK


def test_what_the_system_says_of_a_pack_names_it() -> None:
    missing = of_pack(PACKS, PACK_ID, 3, FileNotFoundError(errno.ENOENT, "No such file", str(PACK)), doing="read")
    assert (missing.exit_code, missing.place, missing.expected) == (
        EXIT_DATA_AT_RISK,
        str(PACK),
        "a pack with 3 blocks",
    )
    assert "is its disk mounted?" in missing.message
    refused = of_pack(PACKS, PACK_ID, 3, PermissionError(errno.EACCES, "Permission denied", str(PACK)), doing="read")
    assert (refused.exit_code, refused.place, refused.found) == (EXIT_DATA_AT_RISK, str(PACK), "Permission denied")
    other = of_pack(
        PACKS, PACK_ID, 3, OSError(errno.EROFS, "Read-only file system", "/vault/packs/y.pack"), doing="repaired"
    )
    assert (other.exit_code, other.place, other.found) == (1, str(PACK), "Read-only file system: /vault/packs/y.pack")
