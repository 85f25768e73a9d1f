"""A server of PostgreSQL for the length of a test run: its own folder, its own socket, no port of the network.

The server refuses to run as root; then it runs as the user `postgres`, whom Debian's package has made.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

PORT = 5432
"""Only a part of the socket's name: nothing listens on the network."""
USER = "postgres"
START_TIMEOUT_S = 60


def program(name: str) -> str | None:
    """Where this program of the server's is; Debian keeps them out of the path, a folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1]) if found else shutil.which(name)


def is_installed() -> bool:
    return program("initdb") is not None and program("pg_ctl") is not None


class Server:
    """A context manager: a running server."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER)
            self._as_user = ["runuser", "-u", USER, "--"]

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@/postgres?host={self.folder}&port={PORT}"

    def _run(self, name: str, *words: str) -> None:
        command = [*self._as_user, str(program(name)), "-D", str(self.folder / "data"), *words]
        ran = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)}: {ran.stdout}{ran.stderr}")

    def start(self) -> None:
        """Returns when it can be connected to."""
        options = f"-c listen_addresses= -c fsync=off -c full_page_writes=off -c wal_writer_delay=10s -c unix_socket_directories={self.folder} -c port={PORT}"
        self._run("pg_ctl", "start", "-w", "-s", "-l", str(self.folder / "log"), "-o", options)

    def kill(self) -> None:
        """All of its processes, at once, as a power cut of its machine would, but for what was not synced."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)  # its children end at once, without a checkpoint (its manual, 19.5)
        while (self.folder / "data" / "postmaster.pid").exists() and _is_there(pid):
            pass

    def __enter__(self) -> Server:
        self._run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "stop", "-m", "immediate", "-s", "-w")
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
