"""What is to be written again, and whose only bytes beside fenced cartridges are in a source that cannot be read now.

An object has room for every member that was planned, so what cannot be read would be zeros on both tapes, on every
run anew. Such versions are left out of the plans and told; they stay to be written, and the fenced cartridges that
hold them are still read by a restore.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from holdfast.catalog import PresentVersion, tapes
from holdfast.errors import HoldfastError, SourceError
from holdfast.reports import counted
from holdfast.tape.contents import ContentSource
from holdfast.tape.library import TapeLibrary
from holdfast.values import show_path


@dataclass(slots=True)
class OutOfReach:
    """Versions that no plan may contain, and why; one reason for each source."""

    ids: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    size_bytes: int = 0
    first: dict[str, tuple[PresentVersion, str]] = field(default_factory=dict[str, tuple[PresentVersion, str]])
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, item: PresentVersion, why: str) -> None:
        name = item.version.source
        self.ids.add(item.version.id)
        self.size_bytes += item.version.size_bytes
        self.first.setdefault(name, (item, why))
        self.counts[name] = self.counts.get(name, 0) + 1

    def errors(self, roots: Mapping[str, bytes]) -> Iterator[HoldfastError]:
        """What a person is told, a source at a time; `roots` are the folders of the sources, by name."""
        for name, (item, why) in self.first.items():
            files = counted(self.counts[name], "file")
            yield SourceError(
                "what lost both its copies on tape cannot be read from its source, so it was not written again",
                place=show_path(roots[name]),
                expected=f"{files} as they were archived",
                found=f"{show_path(item.version.full_path)}: {why}",
                hint="mount the source, then run the same command again; until then, restore reads what it can "
                "from the fenced cartridges, which must be kept",
            )


def find_out_of_reach(library: TapeLibrary, contents: ContentSource) -> OutOfReach:
    """Try to open what only a source can give again; nothing is read."""
    found = OutOfReach()
    with library.catalog.reading() as connection:
        for item in tapes.unwritten_that_only_sources_have(connection):
            try:
                with contents.open(item):
                    pass
            except HoldfastError as error:
                found.add(item, error.message)
            except OSError as error:
                found.add(item, error.strerror or str(error))
    return found
