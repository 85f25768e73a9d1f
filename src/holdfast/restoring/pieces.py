"""Pieces of many contents from tape at once: each cartridge is mounted once, and each content read once.

A content is read whole, whatever is wanted of it, as only its last byte proves the first: so what is handed out is on trial,
until it is said to be proven.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.catalog import Cartridge, TapePlace
from holdfast.errors import HoldfastError, SourceError
from holdfast.restoring.ways import Ways
from holdfast.tape.library import TapeLibrary
from holdfast.tape.recall import Sink, TapeContents
from holdfast.values import Content
from holdfast.vault import Vault


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes of a content from `begin` to before `end`, which are wanted at byte `at` of the target."""

    begin: int
    end: int
    at: int


class Target(Protocol):
    """Who wants pieces."""

    def try_out(self, data: memoryview, at: int) -> object:
        """Take bytes that may turn out to be wrong."""
        ...

    def accept(self, pieces: Sequence[Piece]) -> object:
        """What was last tried out for these pieces is right."""
        ...


def read_pieces(
    vault: Vault, wanted: Mapping[Content, Sequence[Piece]], target: Target, heed: Callable[[], object]
) -> dict[Content, HoldfastError]:
    """Hand out the pieces; a copy that turns out to be bad is followed by the next one, from the begin.

    Returns the contents of which no copy was good, each with what was wrong with the last one. `heed` is called again and
    again, and may stop it.
    """
    ways = Ways(vault.catalog, "tape")
    left = {content: ways.places(content) for content in wanted}
    failures: dict[Content, HoldfastError] = {content: _no_copy(content) for content in left}
    if not any(left.values()):
        return failures  # no drive need be asked
    with TapeLibrary(vault.settings, vault.catalog) as library:
        for turn in ways.turns:
            barcodes = {item.barcode for item in turn.cartridges}
            here = [content for content in left if any(place.barcode in barcodes for place in left[content])]
            if not here:
                continue

            def told(_: Cartridge, error: HoldfastError, here: list[Content] = here) -> None:
                failures.update(dict.fromkeys(here, error))

            heed()
            with library.mounted_sides(turn.pair, told, swapped=turn.swapped, wanted=turn.cartridges) as mounted:
                reader = TapeContents(mounted)
                for content in sorted(here, key=lambda item: _first(left[item], barcodes)):
                    make_sink = catcher(wanted[content], target, heed)
                    if _read(reader, left[content], content, make_sink, failures):
                        target.accept(wanted[content])
                        del left[content]
    return {content: failures[content] for content in left}


def _first(places: list[TapePlace], barcodes: set[str]) -> tuple[int, int]:
    """Where the first copy on these cartridges lies: contents are read in that order."""
    return min((place.tape_file, place.data_offset) for place in places if place.barcode in barcodes)


def _read(
    reader: TapeContents,
    places: list[TapePlace],
    content: Content,
    make_sink: Callable[[], Sink],
    failures: dict[Content, HoldfastError],
) -> bool:
    def failed(error: HoldfastError) -> None:
        failures[content] = error

    return reader.read_any(places, content, make_sink, failed)


def catcher(pieces: Sequence[Piece], target: Target, heed: Callable[[], object]) -> Callable[[], Sink]:
    """Makes sinks for the whole of a content, each from its begin, that hand the pieces on to the target."""
    return lambda: _Catcher(pieces, target, heed).catch


class _Catcher:
    """Takes what is wanted out of the bytes of a content as they pass."""

    def __init__(self, pieces: Sequence[Piece], target: Target, heed: Callable[[], object]) -> None:
        self._pieces = sorted(pieces, key=lambda piece: piece.begin)
        self._target = target
        self._heed = heed
        self._at = 0

    def catch(self, data: memoryview) -> None:
        self._heed()
        begin, end = self._at, self._at + len(data)
        self._at = end
        self._pieces = [piece for piece in self._pieces if piece.end > begin]
        for piece in self._pieces:
            if piece.begin >= end:
                break
            first, last = max(begin, piece.begin), min(end, piece.end)
            self._target.try_out(data[first - begin : last - begin], piece.at + first - piece.begin)


def _no_copy(content: Content) -> SourceError:
    return SourceError("no copy on tape can be read", place=f"a content with SHA-256 {content.sha256.hex()}")
