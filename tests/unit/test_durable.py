"""Law 1's page: what these functions said to be durable is, and what a power cut tore off is no entry."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import durable
from holdfast.durable import Journal
from holdfast.errors import CapacityError, IntegrityError


class Recorded:
    """The order of what is made and what is synced, by path."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        for name in ("fsync", "fdatasync"):
            self._record_descriptor(monkeypatch, name)
        for name in ("open", "mkdir", "replace"):
            self._record_path(monkeypatch, name)

    def _record_descriptor(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real: Callable[[int], None] = getattr(os, name)

        def call(descriptor: int) -> None:
            self.calls.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
            real(descriptor)

        monkeypatch.setattr(os, name, call)

    def _record_path(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real: Callable[..., object] = getattr(os, name)

        def call(path: str, *arguments: object, **named: object) -> object:
            result = real(path, *arguments, **named)
            if name != "open" or (arguments and isinstance(arguments[0], int) and arguments[0] & os.O_CREAT):
                self.calls.append((name, os.path.basename(path)))
            return result

        monkeypatch.setattr(os, name, call)


# -- names


def test_law_1_every_folder_that_is_made_is_synced_into_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    durable.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    base = tmp_path.name
    assert [call for call in recorded.calls if call[0] != "open"] == [
        ("sync", tmp_path.parent.name),
        ("mkdir", "a"),
        ("sync", base),
        ("mkdir", "b"),
        ("sync", "a"),
        ("mkdir", "c"),
        ("sync", "b"),
    ]


def test_law_1_a_folder_that_a_killed_run_made_is_synced_when_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()  # and then the run was killed, before it synced the parent
    recorded = Recorded(monkeypatch)
    durable.make_folder(tmp_path / "made")
    assert ("sync", tmp_path.name) in recorded.calls


def test_a_parent_that_may_not_be_listed_does_not_hinder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = durable.sync_folder

    def sync(folder: Path) -> None:
        if folder == tmp_path.parent:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(folder)

    monkeypatch.setattr(durable, "sync_folder", sync)
    durable.make_folder(tmp_path / "new")
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_folder_cannot_be_made_of_a_file(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(OSError, match="file"):
        durable.make_folder(tmp_path / path)
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_law_1_a_new_file_is_synced_into_its_folder_and_never_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    os.close(durable.create_file(tmp_path / "new"))
    assert recorded.calls == [("open", "new"), ("sync", tmp_path.name)]
    with pytest.raises(FileExistsError):
        durable.create_file(tmp_path / "new")


def test_a_file_whose_name_cannot_be_synced_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _fails_with(errno.EIO))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Input/output"):
        durable.create_file(tmp_path / "new")
    assert len(os.listdir("/proc/self/fd")) == before


def _fails_with(number: int) -> Callable[..., object]:
    def fails(*_: object) -> object:
        raise OSError(number, os.strerror(number))

    return fails


# -- bytes


def test_all_bytes_are_written_however_few_the_kernel_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    data = os.urandom(100)
    durable.write_all(descriptor, data)
    durable.write_all(descriptor, b"")
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == data


def test_law_1_a_replaced_file_is_synced_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    durable.replace_file(path, b"old")
    (tmp_path / "file.new").write_bytes(b"left by a killed run, and longer than what comes")
    recorded = Recorded(monkeypatch)
    durable.replace_file(path, b"new")
    assert recorded.calls == [
        ("open", "file.new"),
        ("sync", "file.new"),
        ("replace", "file.new"),
        ("sync", tmp_path.name),
    ]
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    durable.replace_file(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _fails_with(errno.ENOSPC))
        with pytest.raises(CapacityError, match="the disk is full") as caught:
            durable.replace_file(path, b"new")
    assert caught.value.place == str(path)
    assert caught.value.hint
    assert path.read_bytes() == b"old"


def test_only_a_full_disk_is_called_a_full_disk(tmp_path: Path) -> None:
    for number, kind in [(errno.ENOSPC, CapacityError), (errno.EDQUOT, CapacityError), (errno.EIO, OSError)]:
        with pytest.raises(kind), durable.disk_full_explained(tmp_path):
            raise OSError(number, os.strerror(number))
    with pytest.raises(KeyError), durable.disk_full_explained(tmp_path):
        raise KeyError


# -- journals

ENTRIES = [{"n": 1}, {"text": "zwölf\n\0"}, {"list": [1, None, {"deep": True}]}, {"n": 2**70}, {}]


def test_a_journal_gives_back_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    assert list(journal.entries()) == []
    journal.append()
    assert not path.exists()
    for entry in ENTRIES:
        journal.append(entry)
    journal.append(*ENTRIES)
    assert list(journal.entries()) == list(Journal(path).entries()) == ENTRIES * 2
    assert path.read_bytes().count(b"\n") == 2 * len(ENTRIES)


def test_law_1_the_first_entry_makes_the_name_durable_and_each_entry_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    journal = Journal(tmp_path / "journal")
    journal.append({"n": 1})
    assert [call for call in recorded.calls if call[0] == "sync"] == [("sync", tmp_path.name), ("sync", "journal")]
    recorded.calls.clear()
    journal.append({"n": 2})
    assert [call for call in recorded.calls if call[0] == "sync"] == [("sync", "journal")]


def test_law_1_a_journal_that_a_killed_run_made_gets_its_name_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "journal").touch()
    recorded = Recorded(monkeypatch)
    Journal(tmp_path / "journal").append({"n": 1})
    assert recorded.calls.index(("sync", tmp_path.name)) < recorded.calls.index(("sync", "journal"))


def whole(*entries: object) -> bytes:
    return b"".join(json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in entries)


FIRST, TORN = [{"n": 1}, {"text": "two"}], [{"torn": "off"}, {"by": "a power cut"}]


@pytest.mark.parametrize("kept", range(len(whole(*TORN)) + 1))
def test_law_1_a_torn_tail_is_no_entry_at_any_byte(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal"
    tail = whole(*TORN)[:kept]
    path.write_bytes(whole(*FIRST) + tail)
    entries = FIRST + TORN[: tail.count(b"\n")]
    assert list(Journal(path).entries()) == entries
    Journal(path).append({"after": True})
    assert list(Journal(path).entries()) == [*entries, {"after": True}]
    assert path.read_bytes() == whole(*entries, {"after": True})


@given(st.integers(0, 60), st.integers(1, 40), st.integers(0, 8200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_law_1_pages_that_never_reached_the_disk_are_no_entries(
    tmp_path: Path, start: int, length: int, behind: int
) -> None:
    """Zeros somewhere in the last append, and perhaps behind it: entries before them count, those behind do not."""
    path = tmp_path / "journal"
    tail = bytearray(whole(*TORN, {"last": "line of the same append"}))
    start = min(start, len(tail) - 1)
    tail[start : start + length] = bytes(len(tail[start : start + length]))
    path.write_bytes(whole(*FIRST) + tail + bytes(behind))
    entries = FIRST + TORN[: bytes(tail[:start]).count(b"\n")]
    assert list(Journal(path).entries()) == entries
    Journal(path).append({"after": True})
    assert list(Journal(path).entries()) == [*entries, {"after": True}]


@pytest.mark.parametrize("line", [b"not json", b"[1]", b"null", b'"text"', b"\xff", b"", b'{"n":1}{"n":2}'])
def test_law_7_a_damaged_line_is_named_and_not_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(whole(*FIRST) + line + b"\n" + whole({"n": 3}))
    entries = Journal(path).entries()
    assert [next(entries), next(entries)] == FIRST
    with pytest.raises(IntegrityError, match="damaged line") as caught:
        next(entries)
    assert caught.value.place == f"{path} line 3"
    Journal(path).append({"n": 4})  # appending does not hide it
    assert path.read_bytes() == whole(*FIRST) + line + b"\n" + whole({"n": 3}, {"n": 4})


@pytest.mark.parametrize(("owner", "call"), [(os, "write"), (durable, "sync_file")])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_law_1_an_append_that_failed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str, number: int
) -> None:
    """After a failed sync the kernel calls its pages clean: such a line would stand, unsynced, before later ones."""
    journal = Journal(tmp_path / "journal")
    journal.append(*FIRST)
    real = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) < 10:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, half if call == "write" else _fails_with(number))
        with pytest.raises(CapacityError if number == errno.ENOSPC else OSError):
            journal.append(*TORN)
    assert (tmp_path / "journal").read_bytes() == whole(*FIRST)
    journal.append({"n": 3})
    assert list(journal.entries()) == [*FIRST, {"n": 3}]


def test_law_9_an_append_does_not_read_the_whole_journal_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append(*({"n": number} for number in range(1000)))
    seen: list[int] = []
    real = durable._whole_lines  # pyright: ignore[reportPrivateUsage]

    def counting(file: object) -> object:
        for line in real(file):  # type: ignore[arg-type]
            seen.append(len(line))
            yield line

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "_whole_lines", counting)
        for number in range(20):
            journal.append({"more": number})
    assert len(seen) == 0
    assert len(list(journal.entries())) == 1020


def test_a_journal_that_another_one_appended_to_or_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, other = Journal(path), Journal(path)
    journal.append({"n": 1})
    other.append({"n": 2})
    journal.append({"n": 3})
    assert list(other.entries()) == [{"n": 1}, {"n": 2}, {"n": 3}]
    durable.replace_file(path, whole({"n": 1}) + b'{"torn')
    journal.append({"n": 4})
    other.append({"n": 5})
    assert list(journal.entries()) == [{"n": 1}, {"n": 4}, {"n": 5}]
    path.unlink()
    journal.append({"n": 6})
    assert list(other.entries()) == [{"n": 6}]


APPENDER = """
import sys
from pathlib import Path
from holdfast.durable import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(50):
    journal.append({"who": sys.argv[2], "n": number, "long": "x" * 3000})
"""


def test_law_10_two_processes_do_not_tear_each_others_entries(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    processes = [subprocess.Popen([sys.executable, "-c", APPENDER, str(path), who]) for who in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    entries = list(Journal(path).entries())
    for who in "ab":
        assert [entry["n"] for entry in entries if entry["who"] == who] == list(range(50))
