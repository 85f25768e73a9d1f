"""The fence: who holds a pass is waited for, whoever comes later is not, and nobody is kept waiting."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast.blocks import Fence

pytestmark = pytest.mark.timeout(60)

HOLDER = """
import sys
from pathlib import Path
from holdfast.blocks import Fence
held = Fence(Path(sys.argv[1])).take_pass()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def fence(tmp_path: Path) -> Fence:
    return Fence(tmp_path / "fence")


def test_a_fence_that_nobody_used_is_clear(fence: Fence, tmp_path: Path) -> None:
    assert (fence.newest(), fence.is_clear(1)) == (0, True)
    assert not (tmp_path / "fence").exists()


def test_older_passes_are_waited_for_and_newer_ones_are_not(fence: Fence) -> None:
    old = fence.take_pass()
    fence.raise_to(fence.newest() + 1)
    new = fence.take_pass()
    assert not fence.is_clear(1)
    old.end()
    old.end()
    assert fence.is_clear(1)
    fence.raise_to(2)
    assert not fence.is_clear(2)
    assert fence.is_clear(1)
    new.end()
    assert fence.is_clear(2)


def test_a_generation_that_has_begun_is_not_begun_again(fence: Fence) -> None:
    fence.raise_to(5)
    held = fence.take_pass()
    fence.raise_to(3)
    assert fence.newest() == 5
    assert fence.is_clear(5)
    assert not fence.is_clear(6)
    held.end()


def test_passes_of_one_generation_are_waited_for_each(fence: Fence) -> None:
    first, second = fence.take_pass(), fence.take_pass()
    fence.raise_to(1)
    first.end()
    assert not fence.is_clear(1)
    second.end()
    assert fence.is_clear(1)


def test_waiting_ends_with_the_last_pass(fence: Fence) -> None:
    held = fence.take_pass()
    fence.raise_to(1)
    clear = threading.Event()
    waiting = threading.Thread(target=lambda: fence.is_clear(1, wait=True) and clear.set())
    waiting.start()
    assert not clear.is_set()
    held.end()
    waiting.join(30)
    assert clear.is_set()


def test_a_pass_ends_with_its_process(fence: Fence, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "fence")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    fence.raise_to(1)
    assert not fence.is_clear(1)
    process.kill()
    process.communicate()
    assert fence.is_clear(1)


def test_many_take_passes_while_generations_end(fence: Fence) -> None:
    """Whoever has a pass can be seen to have it, whatever is removed meanwhile."""
    stop, troubles = threading.Event(), list[BaseException]()

    def take() -> None:
        try:
            while not stop.is_set():
                with fence.passing():
                    pass
        except BaseException as error:  # noqa: BLE001
            troubles.append(error)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for generation in range(1, 200):
        fence.raise_to(generation)
        assert fence.is_clear(generation, wait=True)
        held = fence.take_pass()
        assert not fence.is_clear(generation + 1)
        held.end()
    stop.set()
    for thread in threads:
        thread.join(30)
    assert troubles == []


def test_no_descriptor_is_left(fence: Fence) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for generation in range(1, 20):
        with fence.passing():
            fence.raise_to(generation)
            fence.is_clear(generation)
        fence.is_clear(generation)
    assert len(os.listdir("/proc/self/fd")) == before
