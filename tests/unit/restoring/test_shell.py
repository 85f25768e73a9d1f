"""The words of restore scripts: any name survives the shell, and reads as what it is."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.restoring.shell import END_OF_LIST, head, printf_form, quoted, seconds_form, sum_form

SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]
NAMES = st.lists(st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name), min_size=1, max_size=20)


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=25, deadline=None)
@given(names=NAMES)
def test_any_name_survives_as_argument_and_as_line(shell: str, names: list[bytes]) -> None:
    as_arguments = "".join(f"printf -- {quoted(name)}'\\000'\n" for name in names)
    lines = "".join(printf_form(name) + "\n" for name in names)
    as_lines = f"while IFS= read -r line; do printf -- \"$line\\\\000\"; done <<'{END_OF_LIST}'\n{lines}{END_OF_LIST}\n"
    done = subprocess.run([shell, "-c", as_arguments + as_lines], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"".join(name + b"\0" for name in names) * 2, b"")


@given(st.binary())
def test_the_form_is_plain_ascii_without_a_sign_of_the_shell(name: bytes) -> None:
    assert printf_form(name).isascii()
    assert printf_form(name).isprintable()
    assert not set(printf_form(name)) & set(" '\"`$%\n")


def test_a_plain_name_stands_as_it_is() -> None:
    assert printf_form(b"night/zen.2458661.23480.HH.uvh5") == "night/zen.2458661.23480.HH.uvh5"
    assert printf_form(b"a b\n\xff%'") == r"a\040b\012\377\045\047"


def test_lines_of_sums_are_those_of_sha256sum() -> None:
    assert sum_form(b"\xab" * 32, b"night/a b") == "ab" * 32 + "  night/a b"
    assert sum_form(b"\xab" * 32, b"new\nline") == r"\134" + "ab" * 32 + r"  new\134nline"


def test_times_before_1970_too() -> None:
    assert seconds_form(1_795_215_600_000_000_007) == "@1795215600.000000007"
    assert seconds_form(-1_500_000_000) == "@-1.500000000"
    assert seconds_form(0) == "@0.000000000"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_head_is_good_shell_wherever_it_restores_to(shell: str) -> None:
    text = head("1 file", b"/tmp/it's @BY@ $HOME\n", "Holdfast")
    assert subprocess.run([shell, "-n"], input=text.encode("ascii"), check=False).returncode == 0
    assert text.count("Made by Holdfast") == 1
