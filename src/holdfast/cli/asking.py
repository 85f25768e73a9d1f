"""Asking the person at the drives: on the terminal, if there is one."""

from __future__ import annotations

import sys
from typing import TextIO

from holdfast.cli import stopping
from holdfast.tape.changer.operator import Asker, NobodyThere
from holdfast.values import Side


class TerminalAsker:
    """Prompts on `out`, answers from `answers`. When these end, nobody is there: `OperatorNeeded`."""

    def __init__(self, answers: TextIO, out: TextIO) -> None:
        self._answers, self._out = answers, out

    def put_in(self, barcode: str, drive: str, because: str) -> None:
        if self._asked(f"put {barcode} into drive {drive}, then press Enter", because) is None:
            NobodyThere().put_in(barcode, drive, because)

    def name_new(self, side: Side, proposed: str, because: str) -> str:
        text = f"a new, blank cartridge for side {side.value}: type its barcode, or press Enter for {proposed}"
        said = self._asked(text, because)
        return NobodyThere().name_new(side, proposed, because) if said is None else said.strip().upper()

    def tell(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def _asked(self, text: str, because: str) -> str | None:
        if because:
            self.tell(because)
        self._out.write(f"{text}: ")
        self._out.flush()
        said = self._answers.readline()
        stopping.check()
        return said or None


def asker() -> Asker:
    """The terminal, if a person can be asked there."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        return TerminalAsker(sys.stdin, sys.stderr)
    return NobodyThere()
