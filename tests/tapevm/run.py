"""Runs the tape tests on real `st` and changer drivers: in a virtual machine, on an emulated library.

    python -m tests.tapevm.run [words for pytest ...]
    python -m tests.tapevm.run --script FILE        run this script in the guest instead of the tests
    python -m tests.tapevm.run --drives 12          another library than the tests want
    python -m tests.tapevm.run --night DIR          a folder for the tests to archive, instead of a generated one

The guest is built once, into ${HOLDFAST_VM_CACHE:-~/.cache/holdfast/tapevm}. It gets the working tree and the
packages that this Python has, without any network. Ends with the guest's exit status.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from tests.tapevm import emulation, standard_drive

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GUEST_PYTHON = {"bookworm": (3, 11), "trixie": (3, 13)}
# What the tests import; everything that these need comes along.
PACKAGES = ("holdfast", "pytest", "pytest-timeout", "hypothesis")
WORKING_TREE = ("src", "tests", "pyproject.toml")
RESULT_BYTES = 64 * 2**20
NO_RESULT = 98
NIGHT = "night"
TESTS = """\
export CI={ci} PYTHONPATH=/job/site:/job/src HOLDFAST_TAPE_LIBRARY=emulated PYTHONDONTWRITEBYTECODE=1 HOLDFAST_NIGHT={night}
exec python3 -m pytest -p no:cacheprovider --junitxml=/result/tests.xml -m integration tests/integration/tape {words}
"""


def cache_folder() -> Path:
    return Path(os.environ.get("HOLDFAST_VM_CACHE") or Path.home() / ".cache/holdfast/tapevm")


def check_python() -> None:
    """Compiled packages travel to the guest, so its Python must be of our minor version."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    if GUEST_PYTHON.get(suite) != sys.version_info[:2]:
        raise SystemExit(
            f"tapevm: this is Python {sys.version_info[0]}.{sys.version_info[1]}, and the guest, Debian {suite!r}, has "
            f"{GUEST_PYTHON.get(suite)}. Set the project up with the guest's version: make setup PYTHON=python3.11"
        )


def distributions(names: Sequence[str]) -> dict[str, metadata.Distribution]:
    """The named packages and all that they need here, by name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        needs = (Requirement(text) for text in found[name].requires or ())
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def package_files() -> Iterator[tuple[Path, str]]:
    """The files of the packages, and where they go in the job."""
    for name, item in distributions(PACKAGES).items():
        for file in item.files or () if name != "holdfast" else ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                yield Path(str(item.locate_file(file))), f"site/{file}"


def pack_job(target: Path, script: str, night: Path | None) -> None:
    """The tar that the guest unpacks and runs."""
    with tarfile.open(target, "w") as job:
        for name in WORKING_TREE:
            job.add(ROOT / name, name, filter=lambda item: None if "__pycache__" in item.name else item)
        for path, name in package_files():
            job.add(path, name)
        if night is not None:
            job.add(night, f"{NIGHT}/{night.name}")
        run = target.with_name("run")
        run.write_text(script)
        job.add(run, "run")


def accelerator() -> list[str]:
    """The processor's help only where it has some: /dev/kvm alone may be there, and hang the guest."""
    if {"vmx", "svm"} & set(Path("/proc/cpuinfo").read_text().split()) and os.access("/dev/kvm", os.W_OK):
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max"]


def machine(image: Path, job: Path, result: Path, console: Path, units: Sequence[str], memory_mb: int) -> list[str]:
    """The command that runs the guest until it switches itself off."""
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35"]
    command += [*accelerator(), "-smp", "2", "-m", str(memory_mb)]
    command += ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.gz")]
    command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on"]
    for path, more in ((image / "root.ext4", ",readonly=on"), (job, ",readonly=on"), (result, ",cache=unsafe")):
        command += ["-drive", f"file={path},if=virtio,format=raw{more}"]
    command += ["-serial", f"file:{console}", "-device", "virtio-serial-pci"]
    command += ["-chardev", "stdio,id=said,signal=off", "-device", "virtconsole,chardev=said"]
    command += ["-device", "virtio-scsi-pci,id=bus"]
    for number, url in enumerate(units):
        command += ["-drive", f"file={url},if=none,id=unit{number},format=raw"]
        command += ["-device", f"scsi-generic,drive=unit{number},scsi-id={number},bus=bus.0"]
    return command


def run_guest(command: list[str], seconds: float) -> None:
    guest = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        guest.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"tapevm: the guest was stopped after {seconds:.0f} s", file=sys.stderr)
    finally:
        guest.kill()
        guest.wait()


def take_result(packed: Path, folder: Path) -> int:
    """Unpack what the guest left; its exit status, or `NO_RESULT`."""
    try:
        with tarfile.open(packed) as result:
            result.extractall(folder, filter="data")
        return int((folder / "status").read_text())
    except (tarfile.TarError, OSError, ValueError) as error:
        print(f"tapevm: the guest left no result ({error}); see {folder / 'console.log'}", file=sys.stderr)
        return NO_RESULT


def run(script: str, night: Path | None, shape: emulation.Shape, result: Path, seconds: float, memory_mb: int) -> int:
    result.mkdir(parents=True, exist_ok=True)
    media = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # cartridges live as long as the run
    with tempfile.TemporaryDirectory(prefix="tapevm.", dir=media) as name:
        folder = Path(name)
        job, packed, cartridges = folder / "job.tar", folder / "result.tar", folder / "cartridges"
        pack_job(job, script, night)
        with packed.open("wb") as file:
            file.truncate(RESULT_BYTES)
        cartridges.mkdir()
        with ExitStack() as stack:
            shelf = standard_drive.Shelf()
            standard = [standard_drive.Server(serial, shelf) for serial in standard_drive.SERIALS]
            for server in standard:
                stack.callback(server.close)
            library = stack.enter_context(emulation.emulated(cartridges, shape))
            units = [*library, *(server.url for server in standard)]
            run_guest(machine(cache_folder(), job, packed, result / "console.log", units, memory_mb), seconds)
        return take_result(packed, result)


def existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise SystemExit(f"tapevm: no such folder: {path}")
    return path.resolve()


def main() -> int:
    parser = argparse.ArgumentParser(prog="tapevm")
    parser.add_argument("--script", type=Path, help="a bash script to run in the guest instead of the tests")
    parser.add_argument("--drives", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1800.0, help="the guest is stopped after so long")
    parser.add_argument("--memory-mb", type=int, default=2048)
    parser.add_argument("--result", type=Path, default=ROOT / "build" / "tapevm")
    parser.add_argument("--night", type=Path, help="a folder for the tests to archive, instead of a generated one")
    options, words = parser.parse_known_args()
    night = options.night and existing_folder(options.night)
    check_python()
    subprocess.run([HERE / "build-image", cache_folder()], check=True)
    place = f"/job/{NIGHT}/{night.name}" if night else ""
    tests = TESTS.format(ci=shlex.quote(os.environ.get("CI", "")), words=shlex.join(words), night=shlex.quote(place))
    script = options.script.read_text() if options.script else tests
    shape = emulation.Shape(drives=options.drives)
    return run(script, night, shape, options.result, options.seconds, options.memory_mb)


if __name__ == "__main__":
    sys.exit(main())
