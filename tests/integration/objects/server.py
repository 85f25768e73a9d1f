"""A server that speaks S3, for the length of a test run, and a way to it that may be cut and mended.

The server is moto's, in a process of its own, on a port of the loopback that the kernel chooses; it keeps all in memory.
It ends when its standard input does, so it never outlives the tests. `Line` stands before it: a server that is gone, does
not answer, or breaks off in the middle, and comes back with all it had.
"""

from __future__ import annotations

import http.client
import importlib.util
import socket
import subprocess
import sys
import threading
import uuid
from contextlib import closing, suppress

PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def missing() -> str:
    """Which of the server's parts is not installed; empty when none is."""
    needed = ("moto", "flask", "flask_cors", "obstore")
    return ", ".join(name for name in needed if importlib.util.find_spec(name) is None)


class Server:
    """A context manager: a running server."""

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def make_bucket(self) -> str:
        """A new, empty bucket."""
        name = f"bucket-{uuid.uuid4().hex}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("PUT", f"/{name}")
        with closing(connection), closing(connection.getresponse()) as answer:
            assert answer.status == 200
        return name


def options_for(port: int) -> dict[str, str]:
    """What `[blocks.store_options]` must say."""
    return {
        "endpoint": f"http://127.0.0.1:{port}",
        "allow_http": "true",
        "region": "us-east-1",
        "access_key_id": "tester",
        "secret_access_key": "secret",
        "max_retries": "2",
        "retry_timeout_s": "5",
        "timeout": "3s",
    }


class Line:
    """The way to a server: a port that passes everything on, until it is told otherwise.

    `cut` breaks all connections, and takes no new ones until `mend`. `cut_after` does so by itself as soon as so many
    bytes went in either direction. `hush` passes nothing on, and lets everybody wait; so does `hush_after`, which sets
    `is_quiet` then.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._left_bytes: int | None = None
        self._then = self.cut
        self.is_quiet = threading.Event()
        self._is_open = threading.Event()
        self._is_open.set()
        self._is_cut = False
        self._ear = socket.create_server(("127.0.0.1", 0))
        self.port = self._ear.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for end in (end for pair in self._pairs for end in pair):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut_after(self, count_bytes: int) -> None:
        self._then = self.cut
        self._left_bytes = count_bytes

    def hush(self) -> None:
        self._is_open.clear()
        self.is_quiet.set()

    def hush_after(self, count_bytes: int) -> None:
        self._then = self.hush
        self._left_bytes = count_bytes

    def mend(self) -> None:
        self._is_cut, self._left_bytes = False, None
        self.is_quiet.clear()
        self._is_open.set()

    def close(self) -> None:
        self.mend()
        self.cut()
        self._ear.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._ear, *(end for pair in self._pairs for end in pair)):
            end.close()

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self._ear.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pass_on, args=(one, other))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                self._is_open.wait()
                if self._left_bytes is not None:
                    self._left_bytes -= len(data)
                    if self._left_bytes <= 0:
                        self._then()
                        self._is_open.wait()
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
