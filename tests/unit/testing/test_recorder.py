from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.testing import (
    CommandTimedOut,
    Create,
    Event,
    Link,
    MakeFolder,
    Recording,
    RemoveFolder,
    Rename,
    Replayer,
    Said,
    Symlink,
    Sync,
    SyncAll,
    Tree,
    Truncate,
    Unlink,
    UntraceableCall,
    Write,
    describe,
    record,
)

pytestmark = pytest.mark.usefixtures("tracing")

Python = Callable[..., list[str]]


def last_tree(recording: Recording) -> Tree:
    replayer = Replayer(recording)
    replayer.advance_to(len(recording.events))
    return replayer.tree("killed")


def described(recording: Recording) -> list[str]:
    return [describe(event) for event in recording.events]


def of_type(recording: Recording, kind: type[Event]) -> list[Event]:
    return [event for event in recording.events if isinstance(event, kind)]


def is_running(pid: int) -> bool:
    """Neither gone nor dead and waiting for its parent to take notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_file_stored_the_careful_way_is_recorded_step_by_step(root: Path, python: Python) -> None:
    code = """
        import os, sys
        os.chdir(sys.argv[1])
        with open("a.tmp", "wb") as file:
            file.write(b"hello")
            file.flush()
            os.fsync(file.fileno())
        os.rename("a.tmp", "a")
        folder = os.open(".", os.O_RDONLY)
        os.fsync(folder)
        print("stored a", flush=True)
        os.unlink("a")
    """
    recording = record(python(code, root), root)
    assert (recording.returncode, recording.stderr) == (0, b"")
    assert described(recording) == [
        "create a.tmp",
        "write a.tmp 0+5",
        "fsync a.tmp",
        "rename a.tmp to a",
        "fsync .",
        "said b'stored a\\n'",
        "unlink a",
    ]
    sync = recording.events[2]
    assert isinstance(sync, Sync)
    assert sync.begin_seq == 2
    assert recording.stdout == b"stored a\n"
    assert recording.said(5) == b""


def test_names_and_folders(root: Path, python: Python) -> None:
    (root / "old").mkdir()
    (root / "old" / "file").write_bytes(b"x")
    code = """
        import os, sys
        root = os.open(sys.argv[1], os.O_RDONLY)
        os.mkdir("new", dir_fd=root)
        os.rename("old/file", "new/file", src_dir_fd=root, dst_dir_fd=root)
        os.rmdir("old", dir_fd=root)
        os.link("new/file", "hard", src_dir_fd=root, dst_dir_fd=root)
        os.symlink("hard", "soft", dir_fd=root)
        os.unlink("new/file", dir_fd=root)
        os.rename("hard", "hard")
    """
    recording = record(python(code, root), root, cwd=root)
    assert recording.stderr == b""
    assert [type(event) for event in recording.events] == [
        MakeFolder,
        Rename,
        RemoveFolder,
        Link,
        Symlink,
        Unlink,
    ]
    assert set(last_tree(recording)) == {".", "new", "hard", "soft"}
    assert last_tree(recording) == Tree.read_from(root)


def test_every_way_to_write_lands_where_it_landed_on_disk(root: Path, python: Python) -> None:
    (root / "source").write_bytes(bytes(range(256)) * 20)
    code = """
        import os, sys
        os.chdir(sys.argv[1])
        a = os.open("a", os.O_RDWR | os.O_CREAT)
        os.write(a, b"0123456789")
        os.lseek(a, 4, os.SEEK_SET)
        os.write(a, b"four")
        os.pwrite(a, b"twenty", 20)
        os.writev(a, [b"one", b"", b"two"])
        os.pwritev(a, [b"far", b"away"], 5000)
        b = os.open("a", os.O_WRONLY | os.O_APPEND)
        os.write(b, b"appended")
        os.pwrite(b, b"appended, whatever the offset", 0)
        os.ftruncate(a, 6000)
        os.truncate("a", 5900)
        os.posix_fallocate(a, 0, 5950)
        source = os.open("source", os.O_RDONLY)
        c = os.open("c", os.O_RDWR | os.O_CREAT)
        os.sendfile(c, source, 10, 300)
        os.copy_file_range(source, c, 100, 20, 4000)
        os.copy_file_range(source, c, 50)
        pipe, feed = os.pipe()
        os.write(feed, b"through a pipe")
        os.splice(pipe, c, 14)
        open("c", "r+b", buffering=0).write(b"same file, other descriptor")
        open("source", "wb").close()
        shared = os.open("shared", os.O_WRONLY | os.O_CREAT)
        for child in range(3):
            if not os.fork():
                os.write(shared, b"child %d" % child)
                os._exit(0)
            os.wait()
    """
    recording = record(python(code, root), root)
    assert recording.stderr == b""
    assert recording.returncode == 0
    assert last_tree(recording).files() == Tree.read_from(root).files()
    offsets = [event.offset_bytes for event in recording.events if isinstance(event, Write) and event.path == "a"]
    assert offsets == [0, 4, 20, 8, 5000, 5007, 5015]
    sizes = [(event.path, event.size_bytes) for event in recording.events if isinstance(event, Truncate)]
    assert sizes == [("a", 6000), ("a", 5900), ("a", 5950), ("source", 0)]


def test_threads_and_children_are_followed_and_every_write_is_seen_once(root: Path, python: Python) -> None:
    code = """
        import os, subprocess, sys, threading
        os.chdir(sys.argv[1])
        def work(number):
            with open(f"thread-{number}", "ab", buffering=0) as file:
                for step in range(20):
                    file.write(b"%d," % step)
                    if step % 5 == 4:
                        os.fsync(file.fileno())
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        children = [
            subprocess.Popen(["sh", "-c", f"echo one > child-{n}; (echo two >> child-{n}; echo said by {n}) & wait"])
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for child in children:
            child.wait()
    """
    recording = record(python(code, root), root)
    assert recording.stderr == b""
    assert last_tree(recording) == Tree.read_from(root)
    writes = Counter(event.path for event in recording.events if isinstance(event, Write))
    assert writes == {**{f"thread-{n}": 20 for n in range(4)}, **{f"child-{n}": 2 for n in range(3)}}
    assert sorted(recording.stdout.splitlines()) == [b"said by 0", b"said by 1", b"said by 2"]
    assert all(sync.begin_seq <= index for index, sync in enumerate(recording.events) if isinstance(sync, Sync))


def test_a_file_is_itself_under_every_name_and_an_inode_used_again_is_another_file(root: Path, python: Python) -> None:
    code = """
        import os, sys
        os.chdir(sys.argv[1])
        file = open("one", "wb", buffering=0)
        os.link("one", "two")
        os.rename("one", "three")
        file.write(b"still me")
        os.unlink("two")
        os.unlink("three")
        file.write(b"without a name")
        file.close()
        open("one", "wb", buffering=0).write(b"new")
    """
    recording = record(python(code, root), root)
    writes = [event for event in recording.events if isinstance(event, Write)]
    assert [(event.path, event.file_id) for event in writes] == [("three", 1), ("three", 1), ("one", 2)]
    assert last_tree(recording).files() == {"one": b"new"}


def test_an_unnamed_file_appears_when_it_is_linked(root: Path, python: Python) -> None:
    code = """
        import os, sys
        os.chdir(sys.argv[1])
        file = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o600)
        os.write(file, b"whole or not at all")
        os.fsync(file)
        os.link(f"/proc/self/fd/{file}", "named", src_dir_fd=file)
    """
    recording = record(python(code, root), root)
    assert recording.stderr == b""
    assert [type(event) for event in recording.events] == [Create, Write, Sync, Link]
    assert last_tree(recording).files() == {"named": b"whole or not at all"}


def test_synchronous_writing_is_durable_without_fsync(root: Path, python: Python) -> None:
    code = """
        import os, sys
        file = os.open(sys.argv[1] + "/a", os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
        os.write(file, b"durable")
        os.sync()
    """
    recording = record(python(code, root), root)
    assert [type(event) for event in recording.events] == [Create, Write, Sync, SyncAll]
    sync = recording.events[2]
    assert isinstance(sync, Sync)
    assert sync.begin_seq == 2


def test_a_root_that_is_made_by_the_command(tmp_path: Path, python: Python) -> None:
    code = """
        import os, sys
        os.mkdir(sys.argv[1])
        open(sys.argv[1] + "/a", "x").close()
        folder = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
        os.fsync(folder)
    """
    recording = record(python(code, tmp_path / "new"), tmp_path / "new")
    assert described(recording) == ["mkdir .", "create a", "fsync ./.."]


def test_several_roots_have_their_names_in_front_and_nothing_else_is_seen(tmp_path: Path, python: Python) -> None:
    for name in ("left", "right", "elsewhere"):
        (tmp_path / name).mkdir()
    code = """
        import os
        for name in ("left", "right", "elsewhere"):
            open(name + "/a", "x").close()
        os.rename("left/a", "right/b")
    """
    recording = record(python(code), [tmp_path / "left", tmp_path / "right"], cwd=tmp_path)
    assert described(recording) == ["create left/a", "create right/a", "rename left/a to right/b"]
    last_tree(recording).write_to(tmp_path / "copy")
    assert Tree.read_from(tmp_path / "copy").files() == last_tree(recording).files()
    with pytest.raises(ValueError, match="inside another"):
        record(python(code), [tmp_path, tmp_path / "left"])


def test_what_comes_from_outside_is_new_and_what_leaves_is_gone(tmp_path: Path, root: Path, python: Python) -> None:
    (tmp_path / "outside").write_bytes(b"from outside")
    (root / "inside").write_bytes(b"from inside")
    code = """
        import os
        os.rename("outside", "root/arrived")
        os.rename("root/inside", "left")
    """
    recording = record(python(code), root, cwd=tmp_path)
    assert described(recording) == ["create arrived", "write arrived 0+12", "unlink inside"]
    assert last_tree(recording).files() == {"arrived": b"from outside"}


def test_env_cwd_stderr_and_exit_code(root: Path, python: Python) -> None:
    code = """
        import os, sys
        print(os.environ["WORD"], os.getcwd(), len(os.environ) < 4, repr(sys.stdin.read()))
        sys.exit("a complaint")
    """
    recording = record(python(code), root, env={"WORD": "grüezi", "LC_ALL": "C.UTF-8"}, cwd=root)
    assert recording.stdout.decode() == f"grüezi {root} True ''\n"
    assert recording.stderr == b"a complaint\n"
    assert recording.returncode == 1


def test_a_command_that_dies_by_a_signal(root: Path, python: Python) -> None:
    recording = record(python("import os; os.write(1, b'x'); os.kill(os.getpid(), 9)"), root)
    assert (recording.returncode, recording.stdout) == (-9, b"x")


def test_a_recording_is_kept_on_disk(tmp_path: Path, root: Path, python: Python) -> None:
    (root / "a").write_bytes(b"before")
    recording = record(python("import sys; open(sys.argv[1] + '/b', 'x')", root), root)
    recording.save(tmp_path / "recording")
    assert Recording.load(tmp_path / "recording") == recording


UNTRACEABLE = {
    "shared for writing": "import mmap; file = open('a', 'r+b'); mmap.mmap(file.fileno(), 0)",
    "hard link that leaves": "import os; os.link('a', '../b')",
    "folder that arrives": "import os; os.mkdir('../folder'); os.rename('../folder', 'folder')",
    "pipe": "import os; os.mkfifo('pipe')",
    "collapse": "import ctypes; f = open('a', 'r+b'); ctypes.CDLL(None).fallocate(f.fileno(), 8, 0, 4096)",
    "made writable later": """if True:
        import ctypes, os
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        address = libc.mmap(None, 4096, 1, 1, os.open('a', os.O_RDWR), 0)
        libc.mprotect(ctypes.c_void_p(address), 4096, 3)
        print('not seen', flush=True)
    """,
}


@pytest.mark.parametrize("code", UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_a_change_that_cannot_be_recorded_is_an_error_not_a_gap(code: str, root: Path, python: Python) -> None:
    (root / "a").write_bytes(bytes(8192))
    with pytest.raises(UntraceableCall):
        record(python(code), root, cwd=root)


def test_the_shared_memory_index_of_sqlite_is_ignored(root: Path, python: Python) -> None:
    code = "import mmap; f = open('a-shm', 'w+b'); f.truncate(4096); mmap.mmap(f.fileno(), 0)[0] = 1"
    assert record(python(code), root, cwd=root).events == ()


def test_writing_past_the_tracer_is_refused_as_on_an_old_kernel(root: Path, python: Python) -> None:
    code = "import ctypes; lib = ctypes.CDLL(None, use_errno=True); print(lib.syscall(425, 1, 0), ctypes.get_errno())"
    assert record(python(code), root).stdout == b"-1 38\n"


def test_no_such_program(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        record(["no-such-program"], root)
    (root / "broken").write_bytes(b"#!/no/such/interpreter\n")
    (root / "broken").chmod(0o755)
    with pytest.raises(OSError, match="could not start"):
        record([str(root / "broken")], root)


def test_a_command_that_hangs_is_ended_with_all_it_started(root: Path, python: Python) -> None:
    code = """
        import os, signal, sys
        child = os.fork()
        if child == 0:
            os.setsid()
        with open(f"{sys.argv[1]}/{os.getpid()}", "x"):
            signal.pause()
    """
    with pytest.raises(CommandTimedOut):
        record(python(code, root), root, timeout_s=1.5)
    pids = [int(path.name) for path in root.iterdir()]
    assert pids
    assert not any(is_running(pid) for pid in pids)


def test_the_children_of_others_are_left_alone(root: Path, python: Python) -> None:
    other = subprocess.Popen([sys.executable, "-I", "-S", "-c", "raise SystemExit(7)"])
    assert record(python("print()"), root).returncode == 0
    assert other.wait() == 7


def test_job_control_does_not_confuse_the_tracer(root: Path, python: Python) -> None:
    code = """
        import os, signal, sys
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            open(sys.argv[1] + "/a", "x").close()
            os._exit(0)
        os.waitpid(child, os.WUNTRACED)
        os.kill(child, signal.SIGCONT)
        os.waitpid(child, 0)
    """
    assert described(record(python(code, root), root)) == ["create a"]


RANDOM_PROGRAM = """
    import os, random, sys
    os.chdir(sys.argv[1])
    chance = random.Random(int(sys.argv[2]))
    names = [folder + name for folder in ("", "x/", "y/", "x/z/") for name in "abc"]
    def write(name):
        mode = os.O_RDWR | chance.choice((0, os.O_CREAT, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_APPEND))
        file = os.open(name, mode)
        for _ in range(3):
            os.pwrite(file, bytes([chance.randrange(256)]) * chance.randrange(1, 40000), chance.randrange(60000))
            os.write(file, b"here")
        os.ftruncate(file, chance.randrange(90000))
        if chance.random() < 0.3:
            os.fsync(file)
        os.close(file)
    actions = [
        lambda: write(chance.choice(names)),
        lambda: os.rename(chance.choice(names), chance.choice(names)),
        lambda: os.link(chance.choice(names), chance.choice(names)),
        lambda: os.symlink("a", chance.choice(names)),
        lambda: os.unlink(chance.choice(names)),
        lambda: os.mkdir(chance.choice(("x", "y", "x/z", "y/z"))),
        lambda: os.rename(chance.choice(("x", "y", "x/z", "y/z")), chance.choice(("x", "y", "x/z", "y/z"))),
        lambda: os.rmdir(chance.choice(("x", "y", "x/z", "y/z"))),
    ]
    os.mkdir("x")
    os.mkdir("y")
    for _ in range(120):
        try:
            chance.choice(actions)()
        except OSError:
            pass
"""


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_program_does_the_last_state_is_what_is_on_disk(seed: int, root: Path, python: Python) -> None:
    (root / "a").write_bytes(random.Random(seed).randbytes(50000))
    (root / "b").hardlink_to(root / "a")
    recording = record(python(RANDOM_PROGRAM, root, seed), root)
    assert (recording.returncode, recording.stderr) == (0, b"")
    assert len(recording.events) > 40
    assert last_tree(recording) == Tree.read_from(root)


def test_said_is_only_what_was_written_to_standard_output(root: Path, python: Python) -> None:
    code = """
        import os, subprocess
        os.write(2, b"complaint")
        os.dup2(1, 5)
        os.write(5, b"by another number;")
        subprocess.run(["sh", "-c", "echo swallowed"], stdout=subprocess.DEVNULL)
        os.writev(1, [b"in ", b"parts"])
    """
    recording = record(python(code), root)
    assert recording.events == (Said(b"by another number;"), Said(b"in parts"))
