"""Law 10: a vault has one owner at a time, and whoever comes second learns who that is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from tests.crash.runs import check_restored, demand_done, lay_out, run
from tests.crash.scenes import Scene, shrunk

from holdfast.errors import EXIT_BUSY
from holdfast.journey import archive
from holdfast.reports import Silent

GetScene = Callable[[str], Scene]


class SecondRun(Silent):
    """Amid the first run, each time it says something, the next of some real commands is run."""

    def __init__(self, *commands: list[str]) -> None:
        self._commands = iter(commands)
        self.outcomes: list[CompletedProcess[str]] = []

    def say(self, text: str) -> None:
        self.outcomes.append(run(next(self._commands)))


def test_law_10_a_second_archive_is_refused_and_names_the_owner(get_scene: GetScene, tmp_path: Path) -> None:
    ground = lay_out(get_scene("night_one"), tmp_path / "ground")
    archiving = ground.archive_command()
    looking = ground.scene.command("ls", "--vault", ground.vault)
    second = SecondRun(archiving, [*archiving, "--json"], looking)
    with shrunk(ground.scene):
        report = archive(ground.vault, ground.scene.archive_request(), second)
    assert report.exit_code() == 0
    refused, refused_json, listed = second.outcomes
    owner = f"'holdfast archive', process {os.getpid()} on "
    assert refused.returncode == EXIT_BUSY, refused.stderr
    assert refused.stdout == ""
    assert refused.stderr.startswith("holdfast: the vault is in use\n")
    assert owner in refused.stderr
    assert "wait for it to end, then run the same command again" in refused.stderr
    told = json.loads(refused_json.stdout)
    assert (told["error"], told["exit_code"], refused_json.returncode) == ("the vault is in use", EXIT_BUSY, EXIT_BUSY)
    assert owner in told["found"]
    demand_done(listed)  # looking is allowed beside it
    assert "big.bin" in listed.stdout
    demand_done(run(ground.restore_command()))
    check_restored(ground)
