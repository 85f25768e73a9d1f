"""Runs a command for as long as somebody needs it; a program of its own, started by `broker.py`.

    keeper.py FOLDER USERS LOG COMMAND…

Whoever needs the command holds a shared lock (`flock`) on the file USERS, and the system lets go of it when that
process ends, however it ends. When nobody holds it any more, the command is killed and FOLDER removed. If the command
ends before, so does the keeper, and removes nothing. It prints the command's process id and goes to the background.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading


def main(folder: str, users: str, log: str, *command: str) -> None:
    if os.fork():
        return
    os.setsid()  # Ctrl-C is for the tests; they end the command when they are ready for it
    with open(log, "ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        print(process.pid, flush=True)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    nobody_left = threading.Event()
    lock = open(users, "ab")  # noqa: SIM115 (kept until we end: whoever waits for it finds the folder gone)

    def kill_when_nobody_is_left() -> None:
        fcntl.flock(lock, fcntl.LOCK_EX)
        nobody_left.set()
        process.kill()

    threading.Thread(target=kill_when_nobody_is_left, daemon=True).start()
    process.wait()
    if nobody_left.is_set():
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
