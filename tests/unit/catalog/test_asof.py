"""Versions come and go at random; at every moment the catalog gives what a plain list gives."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.catalog.kit import OTHER, SOURCE, content, quick_folder, version

from holdfast.catalog import Catalog, files
from holdfast.values import FileVersion, VersionEnd, parent_path

PATHS = [b"a", b"a/x", b"a/y", b"b", b"a/x\xff"]


@dataclass
class Known:
    version: FileVersion
    ended_ns: int | None = None
    void: bool = False

    def is_there(self, moment_ns: int | None) -> bool:
        if self.void:
            return False
        if moment_ns is None:
            return self.ended_ns is None
        return self.version.seen_ns <= moment_ns and (self.ended_ns is None or self.ended_ns > moment_ns)


class CatalogAgainstList(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        self.folder = self.stack.enter_context(quick_folder())
        self.catalog = Catalog(self.folder / "catalog.db")
        self.known: list[Known] = []
        self.now_ns = 100
        with self.catalog.transaction() as connection:
            files.record_sources(connection, [SOURCE, OTHER])

    def teardown(self) -> None:
        if hasattr(self, "catalog"):
            self.catalog.close()
            self.stack.close()

    @rule(step=st.integers(0, 3))
    def time_passes(self, step: int) -> None:
        self.now_ns += step

    @rule(path=st.sampled_from(PATHS), data=st.integers(0, 3) | st.none(), source=st.sampled_from([SOURCE, OTHER]))
    def see(self, path: bytes, data: int | None, source: object) -> None:
        held = None if data is None else content(data, 10)
        item = version(path, held, seen_ns=self.now_ns, source=source)  # type: ignore[arg-type]
        if held is None:
            item = replace(item, size_bytes=10)
        with self.catalog.transaction() as connection:
            files.record_versions(connection, [(item, None)])
        self.known.append(Known(item))

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def see_again(self, data: st.DataObject) -> None:
        which = data.draw(st.sampled_from(self.known))
        with self.catalog.transaction() as connection:
            files.record_versions(connection, [(which.version, None), (which.version, None)])

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        which = data.draw(st.sampled_from(self.known))
        with self.catalog.transaction() as connection:
            files.record_ends(connection, [VersionEnd(which.version.id, self.now_ns)])
        if which.ended_ns is None:
            which.ended_ns = self.now_ns

    @precondition(lambda self: self.known)
    @rule(data=st.data(), void=st.booleans())
    def read_in_place(self, data: st.DataObject, void: bool) -> None:
        which = data.draw(st.sampled_from(self.known))
        learnt = content("learnt", 10)
        with self.catalog.transaction() as connection:
            if void:
                files.record_void(connection, [which.version.id])
            else:
                files.record_read_contents(connection, {which.version.id: learnt})
        if which.version.content is None and not which.void:
            if void:
                which.void, which.ended_ns = True, which.version.seen_ns
            else:
                which.version = replace(which.version, content=learnt)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def as_of(self, data: st.DataObject) -> None:
        moment = data.draw(st.integers(98, self.now_ns + 1))
        assert self.versions_at(moment) == [item.version for item in self.known if item.is_there(moment)]

    @rule()
    def reopen(self) -> None:
        self.catalog.close()
        self.catalog = Catalog(self.folder / "catalog.db")

    @invariant()
    def the_present_is_as_the_list_has_it(self) -> None:
        if not hasattr(self, "catalog"):
            return
        there = [item.version for item in self.known if item.is_there(None)]
        assert self.versions_at(None) == there
        for source in (SOURCE.name, OTHER.name):
            mine = [item for item in there if item.source == source]
            with self.catalog.reading() as connection:
                for folder in (b"", b"a"):
                    wanted = {item.path: item for item in mine if parent_path(item.path) == folder}
                    found = files.present_in_folder(connection, source, folder)
                    assert {path: item.version for path, item in found.items()} == wanted
                for path in PATHS:
                    at = files.present_at(connection, source, path)
                    assert (None if at is None else at.version) == next(
                        (item for item in reversed(mine) if item.path == path), None
                    )
                    history = [
                        (item.version, item.ended_ns)
                        for item in reversed(self.known)
                        if (item.version.source, item.version.path) == (source, path)
                    ]
                    assert [(p.version, e) for p, e in files.versions_of_path(connection, source, path)] == history

    def versions_at(self, moment_ns: int | None) -> list[FileVersion]:
        with self.catalog.reading() as connection:
            return [item.version for item in files.versions_at(connection, moment_ns)]


TestCatalogAgainstList = CatalogAgainstList.TestCase
TestCatalogAgainstList.settings = settings(max_examples=8, stateful_step_count=20)
