"""Pieces of many contents from tape at once: each cartridge is mounted once, and each content read once.

A content is read whole, whatever is wanted of it, as only its last byte proves the first; so what was handed out counts only
if the content is not among those that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.catalog import Cartridge, TapePlace
from holdfast.errors import HoldfastError, SourceError
from holdfast.restoring.ways import Ways
from holdfast.tape.library import TapeLibrary
from holdfast.tape.recall import TapeContents
from holdfast.values import Content
from holdfast.vault import Vault


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes of a content from `begin` to before `end`. `write` gets them in parts, with the place of each from 0."""

    begin: int
    end: int
    write: Callable[[int, memoryview], object]


def read_pieces(vault: Vault, wanted: Mapping[Content, Sequence[Piece]]) -> dict[Content, HoldfastError]:
    """Hand out the pieces; a copy that turns out to be bad is followed by the next one, from the begin.

    Returns the contents of which no copy was good, each with what was wrong with the last one.
    """
    ways = Ways(vault.catalog, "tape")
    left = {content: ways.places(content) for content in wanted}
    failures: dict[Content, HoldfastError] = {content: _no_copy(content) for content in left}
    with TapeLibrary(vault.settings, vault.catalog) as library:
        for turn in ways.turns:
            barcodes = {item.barcode for item in turn.cartridges}
            here = [content for content in left if any(place.barcode in barcodes for place in left[content])]
            if not here:
                continue

            def told(_: Cartridge, error: HoldfastError, here: list[Content] = here) -> None:
                failures.update(dict.fromkeys(here, error))

            with library.mounted_sides(turn.pair, told, swapped=turn.swapped, wanted=turn.cartridges) as mounted:
                reader = TapeContents(mounted)
                for content in sorted(here, key=lambda item: _first(left[item], barcodes)):
                    if _read(reader, left[content], content, wanted[content], failures):
                        del left[content]
    return {content: failures[content] for content in left}


def _first(places: list[TapePlace], barcodes: set[str]) -> tuple[int, int]:
    """Where the first copy on these cartridges lies: contents are read in that order."""
    return min((place.tape_file, place.data_offset) for place in places if place.barcode in barcodes)


def _read(
    reader: TapeContents,
    places: list[TapePlace],
    content: Content,
    pieces: Sequence[Piece],
    failures: dict[Content, HoldfastError],
) -> bool:
    def failed(error: HoldfastError) -> None:
        failures[content] = error

    return reader.read_any(places, content, lambda: _Catcher(pieces).catch, failed)


class _Catcher:
    """Takes what is wanted out of the bytes of a content as they pass."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = sorted(pieces, key=lambda piece: piece.begin)
        self._at = 0

    def catch(self, data: memoryview) -> None:
        begin, end = self._at, self._at + len(data)
        self._at = end
        self._pieces = [piece for piece in self._pieces if piece.end > begin]
        for piece in self._pieces:
            if piece.begin >= end:
                break
            first, last = max(begin, piece.begin), min(end, piece.end)
            piece.write(first - piece.begin, data[first - begin : last - begin])


def _no_copy(content: Content) -> SourceError:
    return SourceError("no copy on tape can be read", place=f"a content with SHA-256 {content.sha256.hex()}")
