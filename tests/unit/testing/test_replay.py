"""The replay model: the rules one by one, and against a reference that computes each state from the whole prefix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.testing import (
    Create,
    Event,
    ImpossibleEvent,
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
    Variant,
    Write,
    distinct_states,
    states,
)
from holdfast.testing.recording import StartFile, StartFolder, StartNode

ROOT: tuple[StartNode, ...] = (StartFolder(".", 0o755),)


def recording(*events: Event, start: Sequence[StartNode] = ROOT) -> Recording:
    return Recording((".",), tuple(start), events)


def tree(variant: Variant, made: Recording, seed: int = 0) -> Tree:
    replayer = Replayer(made)
    replayer.advance_to(len(made.events))
    return replayer.tree(variant, seed)


def sync_file(file_id: int, begin_seq: int = 10**6) -> Sync:
    return Sync("?", file_id, is_folder=False, begin_seq=begin_seq)


def sync_folder(path: str, begin_seq: int = 10**6) -> Sync:
    return Sync(path, None, is_folder=True, begin_seq=begin_seq)


# ---- the rules ----------------------------------------------------------------------------------------------------


def test_a_write_that_is_not_synced_survives_a_kill_but_not_a_power_cut() -> None:
    made = recording(Create("a", 1), sync_folder("."), Write(1, "a", 0, b"data"))
    assert tree("killed", made).files() == {"a": b"data"}
    assert tree("dropped", made).files() == {"a": b""}


def test_syncing_a_file_does_not_make_its_name_durable() -> None:
    made = recording(Create("a", 1), Write(1, "a", 0, b"data"), sync_file(1))
    assert tree("dropped", made).files() == {}
    named = recording(*made.events, sync_folder("."))
    assert tree("dropped", named).files() == {"a": b"data"}


def test_a_sync_covers_only_what_came_back_before_it_began() -> None:
    events = [Create("a", 1), Write(1, "a", 0, b"one"), Write(1, "a", 3, b"two"), Create("b", 2)]
    made = recording(*events, sync_file(1, begin_seq=2), sync_folder(".", begin_seq=3))
    assert tree("dropped", made).files() == {"a": b"one"}
    assert tree("dropped", recording(*made.events, sync_file(1), SyncAll(10))).files() == {"a": b"onetwo", "b": b""}


def test_the_old_content_and_the_old_names_stay_until_they_are_synced_away() -> None:
    start = [*ROOT, StartFile("a", 1, b"old", 0o644), StartFile("b", 2, b"other", 0o644)]
    events = [Truncate(1, "a", 0), Write(1, "a", 0, b"new"), Rename("a", "b"), MakeFolder("c"), Unlink("b")]
    made = recording(*events, start=start)
    assert tree("dropped", made).files() == {"a": b"old", "b": b"other"}
    assert set(tree("killed", made)) == {".", "c"}
    assert set(tree("dropped", recording(*events, sync_folder("."), start=start))) == {".", "c"}


def test_a_folder_without_a_durable_name_takes_all_it_holds_with_it() -> None:
    inner = [MakeFolder("f"), Create("f/a", 1), Write(1, "f/a", 0, b"x"), sync_file(1), sync_folder("f")]
    assert set(tree("dropped", recording(*inner))) == {"."}
    assert tree("dropped", recording(*inner, sync_folder("."))).files() == {"f/a": b"x"}


def test_a_rename_between_folders_is_atomic_and_brings_along_only_what_it_needs() -> None:
    start = [*ROOT, StartFolder("f", 0o755), StartFolder("g", 0o755)]
    events = [Create("f/a", 1), Create("f/b", 2), Rename("f/a", "g/a"), Rename("f/b", "f/c")]
    by_either = [recording(*events, sync_folder(folder), start=start) for folder in ("f", "g")]
    assert set(tree("dropped", by_either[0])) == {".", "f", "f/c", "g", "g/a"}
    assert set(tree("dropped", by_either[1])) == {".", "f", "g", "g/a"}


def test_a_chain_of_renames_is_not_torn_apart_by_a_sync_of_its_end() -> None:
    start = [*ROOT, StartFolder("f", 0o755), StartFolder("g", 0o755), StartFile("f/a", 1, b"x", 0o644)]
    events = [Rename("f/a", "g/a"), Rename("g/a", "a")]
    assert tree("dropped", recording(*events, sync_folder("."), start=start)).files() == {"a": b"x"}
    assert tree("dropped", recording(*events, sync_folder("f"), start=start)).files() == {"g/a": b"x"}


def test_a_torn_rename_between_folders_is_whole_and_what_follows_it_never_comes_first() -> None:
    start = [*ROOT, StartFolder("f", 0o755), StartFolder("g", 0o755), StartFile("f/a", 1, b"x", 0o644)]
    made = recording(Create("g/first", 2), Rename("f/a", "g/a"), Create("f/later", 3), start=start)
    found = {frozenset(tree("torn", made, seed).files()) for seed in range(100)}
    expected = [{"f/a"}, {"f/a", "g/first"}, {"g/first", "g/a"}, {"g/first", "g/a", "f/later"}]
    assert found == {frozenset(paths) for paths in expected}


def test_a_root_made_by_the_command_is_there_once_its_holder_is_synced() -> None:
    made = recording(MakeFolder("."), Create("a", 1), sync_folder("."), start=())
    assert set(tree("dropped", made)) == set()
    assert set(tree("dropped", recording(*made.events, sync_folder("./.."), start=()))) == {".", "a"}


def test_an_unnamed_file_and_hard_links() -> None:
    made = recording(Create("", 1, "unnamed"), Write(1, "", 0, b"x"), sync_file(1), Link(1, "a"), Link(1, "b"))
    assert set(tree("dropped", made)) == {"."}
    whole = tree("dropped", recording(*made.events, sync_folder(".")))
    assert whole.files() == {"a": b"x", "b": b"x"}
    assert whole != tree(
        "killed", recording(Create("a", 1), Create("b", 2), Write(1, "", 0, b"x"), Write(2, "", 0, b"x"))
    )


def test_torn_states_cut_writes_at_sectors_and_keep_a_prefix_of_the_names() -> None:
    old, new = b"o" * 2000, b"n" * 2000
    start = [*ROOT, StartFile("a", 1, old, 0o644)]
    made = recording(Write(1, "a", 100, new), Create("b", 2), Create("c", 3), start=start)
    contents: set[bytes] = set()
    names: set[frozenset[str]] = set()
    for seed in range(300):
        torn = tree("torn", made, seed)
        contents.add(torn.read("a"))
        names.add(frozenset(torn) - {".", "a"})
    assert names == {frozenset(), frozenset("b"), frozenset("bc")}
    killed = tree("killed", made).read("a")
    cuts = [512, 1024, 1536, 2048]
    grown = {old.ljust(2100, b"\0"), *((killed[:cut] + old[cut:]).ljust(2100, b"\0") for cut in cuts)}
    shorter = {killed[:cut] + old[cut:] for cut in cuts}
    tails = {old[:cut].ljust(cut, b"\0") + killed[cut:] for cut in cuts}
    assert contents == {old, killed} | grown | shorter | tails


def test_torn_states_are_the_same_in_every_run_and_never_touch_what_is_synced() -> None:
    events = [
        Create("a", 1),
        Write(1, "a", 0, bytes(5000)),
        sync_file(1),
        sync_folder("."),
        Write(1, "a", 5000, b"x" * 900),
    ]
    made = recording(*events)
    for seed in range(30):
        assert tree("torn", made, seed) == tree("torn", made, seed)
        assert tree("torn", made, seed).read("a")[:5000] == bytes(5000)


def test_an_event_that_does_not_fit_is_an_error() -> None:
    for event in (
        Write(9, "a", 0, b"x"),
        Unlink("a"),
        Rename("a", "b"),
        Create("f/a", 1),
        sync_folder("f"),
        Link(3, "a"),
    ):
        with pytest.raises(ImpossibleEvent):
            tree("killed", recording(event))


# ---- all states ---------------------------------------------------------------------------------------------------

CAREFUL = recording(
    Create("a.tmp", 1),
    Write(1, "a.tmp", 0, b"x" * 3000),
    sync_file(1),
    Rename("a.tmp", "a"),
    sync_folder("."),
    Said(b"stored a\n"),
)


def test_states_are_labelled_with_what_was_cut_where() -> None:
    found = {state.label: state for state in states(CAREFUL, seeds=[3])}
    assert len(found) == 3 * 7
    assert "before the first event" in next(iter(found))
    state = found["power cut after event 5 (fsync .), unsynced dropped"]
    assert (state.prefix, state.said) == (5, b"")
    assert state.tree.files() == {"a": b"x" * 3000}
    assert "power cut after event 2 (write a.tmp 0+3000), unsynced torn (seed 3)" in found
    assert found["killed after event 6 (said b'stored a\\n')"].said == b"stored a\n"


def test_equal_states_come_once_and_none_is_missed() -> None:
    distinct = [(state.tree, state.said) for state in distinct_states(CAREFUL, seeds=range(5))]
    assert len(distinct) == len(set(distinct))
    assert set(distinct) == {(state.tree, state.said) for state in states(CAREFUL, seeds=range(5))}


def test_a_share_is_part_of_the_whole_the_same_each_time_with_first_and_last() -> None:
    many = recording(*(Create(f"f{number}", number) for number in range(1, 400)))
    part = [state.prefix for state in distinct_states(many, ["killed"], share=0.1, seed=1)]
    assert part == [state.prefix for state in distinct_states(many, ["killed"], share=0.1, seed=1)]
    assert part != [state.prefix for state in distinct_states(many, ["killed"], share=0.1, seed=2)]
    assert (part[0], part[-1]) == (0, 399)
    assert 15 < len(part) < 70


# ---- against the reference ----------------------------------------------------------------------------------------

FILE_NAMES = ["a", "b", "f/a", "f/b", "g/a"]
FOLDER_NAMES = ["f", "g"]
FILE, ANYTHING = st.sampled_from(FILE_NAMES), st.sampled_from(FILE_NAMES + FOLDER_NAMES)
LATE = st.sampled_from([0, 0, 0, 1, 2, 3])
STEPS = {
    "create": (FILE,),
    "symlink": (FILE,),
    "write": (FILE, st.integers(0, 40), st.binary(min_size=1, max_size=20)),
    "truncate": (FILE, st.integers(0, 40)),
    "rename": (FILE, FILE),
    "link": (FILE, FILE),
    "unlink": (FILE,),
    "mkdir": (st.sampled_from(FOLDER_NAMES),),
    "rmdir": (st.sampled_from(FOLDER_NAMES),),
    "fsync": (st.sampled_from([*FILE_NAMES, *FOLDER_NAMES, "."]), LATE),
    "sync": (LATE,),
}
MOVE = st.tuples(st.just("rename"), ANYTHING, ANYTHING)
STEP = st.one_of(MOVE, *(st.tuples(st.just(name), *args) for name, args in STEPS.items()))


class Reference:
    """A tiny file system that keeps its whole history and works out what is durable from the rules, naively.

    Inodes are numbers; folders are inodes too, the root is 0. `changes` are the directory changes, each a list of
    (folder, name, inode or None); `writes` the content changes; `syncs` what each sync covers.
    """

    def __init__(self) -> None:
        self.kind: dict[int, str] = {0: "folder"}
        self.events: list[Event] = []
        self.changes: list[tuple[int, list[tuple[int, str, int | None]]]] = []
        self.writes: list[tuple[int, Event]] = []
        self.syncs: list[tuple[int | None, int]] = []  # (inode or None for all, first event not covered)
        for name in ("f", "g"):
            self.do_mkdir(name)
        for name in ("a", "f/a"):
            self.do_create(name)

    def entries(self, chosen: set[int]) -> dict[tuple[int, str], int]:
        found: dict[tuple[int, str], int] = {}
        for index, change in self.changes:
            for folder, name, inode in change if index in chosen else []:
                found.pop((folder, name), None)
                if inode is not None:
                    found[folder, name] = inode
        return found

    def now(self) -> dict[tuple[int, str], int]:
        return self.entries({index for index, _ in self.changes})

    def durable_changes(self) -> set[int]:
        """The least set that holds what syncs cover and, with a change, the earlier ones of the names it touches."""
        durable = {
            index
            for index, change in self.changes
            for inode, end in self.syncs
            if index < end and (inode is None or any(folder == inode for folder, _, _ in change))
        }
        for (one, first), (two, second) in itertools.combinations(reversed(self.changes), 2):
            if one in durable and two < one and {key[:2] for key in first} & {key[:2] for key in second}:
                durable.add(two)
        return durable

    def content(self, inode: int, end: int) -> bytes:
        data = b""
        for index, event in self.writes:
            if index >= end or getattr(event, "file_id", None) != inode:
                continue
            if isinstance(event, Write):
                data = data.ljust(event.offset_bytes, b"\0")
                data = data[: event.offset_bytes] + event.data + data[event.offset_bytes + len(event.data) :]
            elif isinstance(event, Truncate):
                data = data[: event.size_bytes].ljust(event.size_bytes, b"\0")
        return data

    def tree(self, variant: str) -> dict[str, bytes | str]:
        entries = self.now() if variant == "killed" else self.entries(self.durable_changes())
        found: dict[str, bytes | str] = {}

        def walk(folder: int, prefix: str) -> None:
            for (holder, name), inode in entries.items():
                if holder != folder:
                    continue
                ends = [end for synced, end in self.syncs if synced in (inode, None)]
                end = 10**6 if variant == "killed" else max(ends, default=0)
                found[prefix + name] = self.content(inode, end) if self.kind[inode] == "file" else self.kind[inode]
                if self.kind[inode] == "folder":
                    walk(inode, prefix + name + "/")

        walk(0, "")
        return found

    def lookup(self, path: str) -> tuple[int | None, str, int | None]:
        """(folder, name, inode) of a path, None for what is not there."""
        folder, _, name = path.rpartition("/")
        holder = self.now().get((0, folder)) if folder else 0
        if holder is None or self.kind[holder] != "folder":
            return None, name, None
        return holder, name, self.now().get((holder, name))

    def new(self, kind: str) -> int:
        self.kind[len(self.kind)] = kind
        return len(self.kind) - 1

    def change(self, event: Event, *entries: tuple[int, str, int | None]) -> None:
        self.changes.append((len(self.events), list(entries)))
        self.events.append(event)

    def step(self, name: str, *args: object) -> None:
        getattr(self, f"do_{name}")(*args)

    def do_create(self, path: str) -> None:
        folder, name, inode = self.lookup(path)
        if folder is not None and inode is None:
            inode = self.new("file")
            self.change(Create(path, inode), (folder, name, inode))

    def do_symlink(self, path: str) -> None:
        folder, name, inode = self.lookup(path)
        if folder is not None and inode is None:
            inode = self.new("link")
            self.change(Symlink(path, inode, "link"), (folder, name, inode))

    def do_mkdir(self, path: str) -> None:
        folder, name, inode = self.lookup(path)
        if folder is not None and inode is None:
            self.change(MakeFolder(path), (folder, name, self.new("folder")))

    def do_write(self, path: str, offset: int, data: bytes) -> None:
        inode = self.lookup(path)[2]
        if inode is not None and self.kind[inode] == "file":
            self.writes.append((len(self.events), Write(inode, path, offset, data)))
            self.events.append(self.writes[-1][1])

    def do_truncate(self, path: str, size: int) -> None:
        inode = self.lookup(path)[2]
        if inode is not None and self.kind[inode] == "file":
            self.writes.append((len(self.events), Truncate(inode, path, size)))
            self.events.append(self.writes[-1][1])

    def do_rename(self, old: str, new: str) -> None:
        (folder, name, inode), (to, to_name, replaced) = self.lookup(old), self.lookup(new)
        if folder is None or inode is None or to is None or inode in (to, replaced):
            return
        if (self.kind[inode] == "folder") != (new in FOLDER_NAMES) or (
            replaced is not None and not self.is_empty(replaced)
        ):
            return
        if replaced is None or (self.kind[replaced] == "folder") == (self.kind[inode] == "folder"):
            self.change(Rename(old, new), (folder, name, None), (to, to_name, inode))

    def do_link(self, old: str, new: str) -> None:
        inode, (folder, name, there) = self.lookup(old)[2], self.lookup(new)
        if inode is not None and self.kind[inode] != "folder" and folder is not None and there is None:
            self.change(Link(inode, new), (folder, name, inode))

    def do_unlink(self, path: str) -> None:
        folder, name, inode = self.lookup(path)
        if folder is not None and inode is not None and self.kind[inode] != "folder":
            self.change(Unlink(path), (folder, name, None))

    def do_rmdir(self, path: str) -> None:
        folder, name, inode = self.lookup(path)
        if folder is not None and inode is not None and self.kind[inode] == "folder" and self.is_empty(inode):
            self.change(RemoveFolder(path), (folder, name, None))

    def is_empty(self, inode: int) -> bool:
        return not any(folder == inode for folder, _ in self.now())

    def do_fsync(self, path: str, late: int) -> None:
        """`late`: so many of the last events came back only after the sync had begun."""
        inode = 0 if path == "." else self.lookup(path)[2]
        if inode is None or self.kind[inode] == "link":
            return
        begin_seq = max(0, len(self.events) - late)
        is_folder = self.kind[inode] == "folder"
        self.syncs.append((inode, begin_seq))
        self.events.append(Sync(path, None if is_folder else inode, is_folder, begin_seq))

    def do_sync(self, late: int) -> None:
        begin_seq = max(0, len(self.events) - late)
        self.syncs.append((None, begin_seq))
        self.events.append(SyncAll(begin_seq))


def plain(found: Tree) -> dict[str, bytes | str]:
    files = found.files()
    others = {path: type(node).__name__.lower() for path, node in found.nodes.items() if path not in files}
    others.pop(".")
    return {**files, **others}


@settings(max_examples=max(300, settings.default.max_examples if settings.default else 0))
@given(st.lists(STEP, min_size=3, max_size=40))
def test_the_model_agrees_with_the_reference_after_every_event(steps: list[tuple[object, ...]]) -> None:
    reference = Reference()
    wanted: dict[int, tuple[dict[str, bytes | str], dict[str, bytes | str]]] = {}
    for name, *args in steps:
        reference.step(str(name), *args)
        wanted[len(reference.events)] = reference.tree("killed"), reference.tree("dropped")
    replayer = Replayer(recording(*reference.events))
    for prefix in sorted(wanted):
        replayer.advance_to(prefix)
        assert (plain(replayer.tree("killed")), plain(replayer.tree("dropped"))) == wanted[prefix]
        torn = replayer.tree("torn", seed=prefix)
        names = {name for _, change in reference.changes for _, name, _ in change}
        assert {path.rpartition("/")[2] for path in torn} <= names | {"."}


@given(st.lists(STEP, max_size=40))
def test_nothing_is_torn_right_after_everything_is_synced(steps: list[tuple[object, ...]]) -> None:
    reference = Reference()
    for name, *args in steps:
        reference.step(str(name), *args)
    made = recording(*reference.events, SyncAll(len(reference.events)))
    assert tree("torn", made) == tree("dropped", made) == tree("killed", made)
