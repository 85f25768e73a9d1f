"""The how-to pages say what happens: their examples run here, page by page, and show what the pages show.

An example is a block of kind `console`. Its lines that begin with `$ ` are run, all those of a page in one shell; the
lines below each are what it prints. `…` stands for anything: alone on a line for any lines, else for any characters.
A command of which nothing is shown may print what it likes. Every command must end with 0.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

PAGES = sorted((Path(__file__).parents[2] / "docs" / "howto").glob("*.md"))
BLOCK = re.compile(r"^( *)```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
MARK = "--- end of step, exit code "
NIGHT_TIME_NS = 1_795_215_600 * 10**9  # 2026-11-20 23:00:00 UTC


@dataclass
class Step:
    """One command of a page, and the lines that it prints there."""

    command: str
    shown: list[str] = field(default_factory=list)


def steps_of(page: str) -> list[Step]:
    steps: list[Step] = []
    for indent, block in BLOCK.findall(page):
        for line in block.splitlines():
            text = line.removeprefix(indent)
            if text.startswith("$ "):
                steps.append(Step(text[2:]))
            else:
                steps[-1].shown.append(text)
    return steps


def make_night(folder: Path) -> None:
    """The folder that the pages archive: the same bytes and times in every run."""
    rng = random.Random(20261120)
    (folder / "calibration").mkdir(parents=True)
    dark = rng.randbytes(80_000)
    files = {
        "log.txt": b"clear sky, wind 3 m/s\n",
        "sky-0001.fits": rng.randbytes(120_000),
        "sky-0002.fits": rng.randbytes(160_000),
        "calibration/dark.fits": dark,
        "calibration/dark-copy.fits": dark,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "latest.fits").symlink_to("sky-0002.fits")
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, ns=(NIGHT_TIME_NS, NIGHT_TIME_NS), follow_symlinks=False)


def run_in_one_shell(steps: list[Step], folder: Path) -> list[tuple[int, str]]:
    """Exit code and output of every step."""
    script = "".join(f'{step.command}\necho "{MARK}$?"\n' for step in steps)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "HOLDFAST_VAULT": str(folder / "vault"),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    parts = re.split(rf"^{MARK}(\d+)\n", done.stdout, flags=re.MULTILINE)
    return [(int(code), output) for output, code in zip(parts[::2], parts[1::2], strict=False)]


def looks_like(shown: list[str], output: str) -> bool:
    """Whether the output is what the page shows."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else ".*".join(map(re.escape, line.rstrip().split("…"))) + r" *\n"
        for line in shown
    )
    return re.fullmatch(pattern, output) is not None


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_examples_of_a_how_to_page_run_and_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    make_night(tmp_path / "night")
    steps = steps_of(page.read_text())
    assert steps, "a how-to page without an example"
    results = run_in_one_shell(steps, tmp_path)
    for step, (code, output) in zip(steps, results, strict=True):
        assert code == 0, f"$ {step.command}\nended with {code} and printed:\n{output}"
        if step.shown:
            shown = "\n".join(step.shown)
            assert looks_like(step.shown, output), f"$ {step.command}\nprinted:\n{output}\nand the page shows:\n{shown}"


def test_a_page_that_shows_something_else_is_found() -> None:
    assert looks_like(["kept 2 versions of …", "…", "done"], "kept 2 versions of a file\nb\nc\ndone\n")
    assert looks_like(["kept", "…"], "kept\n")
    assert not looks_like(["kept 2 versions"], "kept 2 versions\nand more\n")
    assert not looks_like(["kept 2 versions", "…", "done"], "kept 3 versions\ndone\n")
