"""Night after night on drives that fail at random: what an observatory lives through in months, in a minute.

Each night some files come, change and go, and `archive` is run, sometimes twice. Operations of the drives fail from a
seed; runs are stopped, with or without a power cut. After each run all that must hold at any time is checked; see
`tests.crash.tapelaws`. The drives' time is that of LTO-6 on a virtual clock.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.crash.laws import OnTape, demand
from tests.crash.sources import facts_of
from tests.crash.tapelaws import check_committed, check_proofs, check_restored, check_told

from holdfast.config import InitOptions, init_vault
from holdfast.errors import EXIT_OPERATOR, HoldfastError
from holdfast.journey import ArchiveRequest, archive
from holdfast.reports import ArchiveReport
from holdfast.tape.drive.timing import LTO_6
from holdfast.testing.tapefaults import ProcessStopped, Trouble, Troubles, faulty_library, lose_buffers
from holdfast.testing.tapetime import LibraryClock, timed_library

OPTIONS = InitOptions(
    block_size="64 KiB",
    pack_size="1 MiB",
    cartridge_capacity="16 MiB",
    record_size="256 KiB",
    object_size="300 KiB",
    commit_every="600 KiB",
)
"""A pair is full after a dozen nights."""

SCALE = 2000
"""Each byte stands for so many on the virtual clock: some GB a night."""


class Nights:
    """A vault, its source, and its troubles. `runs` counts how they ended."""

    def __init__(self, folder: Path, seed: int, rates: Mapping[Trouble, float]) -> None:
        self.vault, self.source, self._out = folder / "vault", folder / "night", folder / "out"
        self.runs: Counter[str] = Counter()
        self.troubles = Troubles(seed=seed, rates=rates)
        self.clock = LibraryClock(LTO_6, scale=SCALE)
        self.story: list[str] = []
        self._dice = random.Random(seed)
        self._files: list[Path] = []
        self._before: OnTape = {}
        self._night = 0
        self._is_operator_called = False
        init_vault(self.vault, OPTIONS)
        self.source.mkdir()

    def live(self, nights: int) -> None:
        """So many nights. Whatever is wrong is told with the story so far."""
        try:
            for _ in range(nights):
                self._night += 1
                self._change_source()
                for _ in range(self._dice.choice((1, 1, 2))):
                    self._run()
        except BaseException as error:
            error.add_note("\n".join(self.story[-12:]))
            raise

    def end(self) -> None:
        """Nothing fails any more: one run, and everything is proven and comes back.

        Where too many cartridges failed one after the other, that run says so, and a person looks at the drives first.
        """
        self.troubles.quiet()
        self._night += 1
        self._change_source()
        report = self._run()
        if self._is_operator_called:
            report = self._run()
        story = "\n".join(self.story[-12:])
        demand(report is not None and report.exit_code() == 0, "law 6", f"the last run was not done:\n{story}")
        for origin in ("tape", "store"):
            check_restored(self.vault, facts_of(self.source), "night", self._out / origin, origin)

    def happened(self) -> dict[Trouble, int]:
        return dict(Counter(item.trouble for item in self.troubles.happened))

    # -- a night

    def _change_source(self) -> None:
        dice = self._dice
        for _ in range(dice.randint(1, 3)):
            self._write(self.source / f"night {self._night}" / f"{len(self._files)}.bin")
        if dice.random() < 0.5:
            self._write(dice.choice(self._files))
        if len(self._files) > 5 and dice.random() < 0.4:
            gone = self._files.pop(dice.randrange(len(self._files)))
            gone.unlink()
        if dice.random() < 0.3:
            dice.choice(self._files).chmod(dice.choice((0o600, 0o640, 0o644)))

    def _write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self._dice.randbytes(self._dice.choice((0, 100, 5_000, 40_000, 90_000))))
        moment = 10**18 + self._night * 10**13 + self._dice.randrange(10**12)
        os.utime(path, ns=(moment, moment))
        if path not in self._files:
            self._files.append(path)

    # -- a run

    def _run(self) -> ArchiveReport | None:
        """Run `archive`; its report, or None when it ended with an error, or was stopped."""
        met = len(self.troubles.happened)
        report, ending = None, ""
        try:
            with self._library():
                request = ArchiveRequest(paths=(self.source,), replace_again=self._is_operator_called)
                report = archive(self.vault, request)
            self._is_operator_called = report.exit_code() == EXIT_OPERATOR
            check_told(report.errors)
            ending = f"exit code {report.exit_code()}"
        except HoldfastError as error:
            check_told([error])
            ending = type(error).__name__
        except ProcessStopped:
            ending = "stopped" + self._cut_power()
        finally:
            troubles = ", ".join(map(str, self.troubles.happened[met:])) or "no trouble"
            self.story.append(f"night {self._night}: {ending or 'BROKE OFF'} ({troubles})")
        self.runs[ending] += 1
        self._check(report)
        self.troubles.repair_drives()
        return report

    @contextmanager
    def _library(self) -> Generator[None, None, None]:
        with timed_library(self.clock), faulty_library(self.troubles):
            yield

    def _cut_power(self) -> str:
        """On no cartridge, on some, or on all, as the dice say."""
        cut = self._dice.choice(("none", "some", "all"))
        for path in sorted((self.vault / "library" / "cartridges").iterdir()):
            if cut == "all" or (cut == "some" and self._dice.random() < 0.5):
                lose_buffers(path, self._dice)
        return f", power cut on {cut}" if cut != "none" else ""

    def _check(self, report: ArchiveReport | None) -> None:
        self._before = check_committed(self.vault, self._before)
        proven = check_proofs(self.vault)
        if report is not None and not report.unproven:
            names = len(facts_of(self.source))
            demand(proven == names, "law 1", f"nothing is unproven, but {proven} of {names} names are proven")
