"""Looking at bytes: each pin is ended once, whatever comes between."""

from __future__ import annotations

from holdfast.blocks.buffered.views import Parts, Pinned, View


class Block:
    """Counts as a block does; the first end may be interrupted before it counts."""

    def __init__(self, *, is_interrupted: bool = False) -> None:
        self.pins = set[Pinned]()
        self.is_interrupted = is_interrupted

    def unpin(self, pinned: Pinned) -> None:
        if self.is_interrupted:
            self.is_interrupted = False
            raise KeyboardInterrupt
        self.pins.discard(pinned)


def test_a_view_ends_once() -> None:
    block = Block()
    view = View(memoryview(b"abc"), block.unpin)
    block.pins.add(view)
    with view as data:
        assert data == b"abc"
        assert block.pins == {view}
    view.release()
    assert block.pins == set()


def test_bytes_of_nobody_need_no_end() -> None:
    with View(memoryview(b"abc")) as data:
        assert data == b"abc"


def test_an_interrupted_end_is_ended_by_another() -> None:
    block = Block(is_interrupted=True)
    parts = Parts([memoryview(b"ab"), memoryview(b"c")], block.unpin)
    block.pins.add(parts)
    try:
        with parts as found:
            assert b"".join(found) == b"abc"
    except KeyboardInterrupt:
        parts.release()
    parts.release()
    assert block.pins == set()
