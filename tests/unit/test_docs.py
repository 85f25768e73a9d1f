"""The documents keep up with the code: commands, options, errors, laws, settings, formats and links."""

from __future__ import annotations

import itertools
import re
import tomllib
import uuid
from pathlib import Path
from typing import Any

import pytest
import typer

import holdfast
from holdfast import errors, jsonform, values
from holdfast.blocks import packformat, store
from holdfast.catalog import Evidence, schema
from holdfast.catalog.files import PAGE_ROWS
from holdfast.cli import app as cli
from holdfast.config import InitOptions, settings_text
from holdfast.tape import dump, fan, label, plan, prepare
from holdfast.tape.facts import evidence_fields
from holdfast.trees import plant
from holdfast.values import Side

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
}
MANUAL = "\n".join(text for name, text in PAGES.items() if name != "docs/decisions.md")
DESIGN = PAGES["docs/design.md"]
README = PAGES["README.md"]
NOT_OURS = {"--all"}  # an option of the written design that decisions.md says we do otherwise


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of the same level or above."""
    level = heading.partition(" ")[0]
    match = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert match is not None, f"no heading {heading!r}"
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the tables in a text; headings and rules are left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = {index for index, row in enumerate(cells) if set("".join(row)) <= {"-", " "} and any(row)}
    return [row for index, row in enumerate(cells) if index not in rules and index + 1 not in rules]


# -- commands and options


def commands() -> dict[str, set[str]]:
    """Every command of the program, with its options; those of the program itself under the empty name."""
    group: Any = typer.main.get_command(cli.app)
    found = {"": {text for option in group.params for text in option.opts} | {"--help"}}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        members = {name: command} if inner is None else {f"{name} {key}": item for key, item in inner.items()}
        for key, item in members.items():
            options = {text for option in item.params for text in option.opts if text.startswith("--")}
            found[key] = options | {"--help"}
    return found


COMMANDS = commands()


def code_of(page: str) -> list[str]:
    """What a page shows as code to be typed: spans, shell blocks, and lines behind a `$ ` in other blocks."""
    found: list[str] = []
    for kind, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL):
        lines = [line.strip() for line in block.splitlines()]
        found += lines if kind == "sh" else [line[2:] for line in lines if line.startswith("$ ")]
    prose = re.sub(r"^ *```.*?^ *```", "", page, flags=re.MULTILINE | re.DOTALL)
    found += [line.strip() for line in prose.splitlines() if re.match(r"    (make|holdfast) ", line)]
    prose = "\n".join(line for line in prose.splitlines() if not line.startswith("    "))
    found += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return found


def calls_of(code: str) -> list[list[str]]:
    """The words of each call of `holdfast` in a piece of code."""
    calls = re.findall(r"(?<![\w.=/(\"-])(?:\.venv/bin/)?holdfast((?: +[^\s|;&<>()#]+)+)", code)
    return [call.split() for call in calls]


def command_of(words: list[str]) -> str:
    """The command of a call: its first word that is no option, or the first two of a group; else the empty name."""
    plain = [word for word in words if not word.startswith("-")][:2]
    return " ".join(plain) if " ".join(plain) in COMMANDS else "".join(plain[:1])


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_has_its_place_in_the_documents(command: str) -> None:
    assert f"holdfast {command}".rstrip() in MANUAL, f"no page tells of holdfast {command}"
    for option in COMMANDS[command] - {"--help"}:
        assert re.search(rf"{option}\b", MANUAL), f"no page tells of {option} of holdfast {command}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_command_and_option_in_the_documents_exists(page: str) -> None:
    known = set[str]().union(*COMMANDS.values()) | NOT_OURS
    for code in code_of(PAGES[page]):
        for words in calls_of(code):
            command = command_of(words)
            if command in ("COMMAND", "…"):
                continue
            assert command in COMMANDS, f"{page} names a command that does not exist: holdfast {' '.join(words)}"
            for option in (word for word in words if word.startswith("--")):
                assert option in COMMANDS[command] | COMMANDS[""], f"{page}: holdfast {command} has no {option}"
        if code.startswith("--"):
            assert code.split()[0] in known, f"{page} names an option that does not exist: {code}"


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for page in PAGES.values()
        for code in code_of(page)
        for target in re.findall(r"(?:^|\s)make ([a-z-]+)", code)
    }
    assert {"demo", "test"} <= named <= targets


def test_the_checks_see_what_is_wrong() -> None:
    assert calls_of("if holdfast archive /data --json > report") == [["archive", "/data", "--json"]]
    assert calls_of("comment=holdfast version 12") == []
    assert calls_of("(cd x && holdfast nothing)") == [["nothing"]]
    assert code_of("a `holdfast\nls` and\n```console\n$ holdfast cat x\nshown\n```\n") == [
        "holdfast cat x",
        "holdfast ls",
    ]


# -- errors and exit codes


def error_classes() -> dict[str, int]:
    found = vars(errors).values()
    return {c.__name__: c.exit_code for c in found if isinstance(c, type) and issubclass(c, errors.HoldfastError)}


def test_every_error_and_its_exit_code_are_in_the_design() -> None:
    table = rows(section(DESIGN, "## Errors and exit codes"))
    assert {row[0].strip("`"): int(row[2]) for row in table if row[0]} == error_classes()


def test_every_exit_code_is_in_the_readme() -> None:
    codes = {number for name, number in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(row[0]) for row in rows(section(README, "## Exit codes"))} == codes
    assert {int(code) for code in re.findall(r"(\d+) [a-zA-Z]", cli.EPILOG)} == codes


# -- laws


def laws() -> dict[int, list[str]]:
    """The rows of the laws by number."""
    found: dict[int, list[str]] = {}
    for row in rows(section(DESIGN, "## Laws")):
        match = re.match(r"\*\*(\d+)\. ", row[0])
        assert match is not None, row[0]
        found[int(match[1])] = row
    return found


def test_the_design_tells_all_ten_laws() -> None:
    assert list(laws()) == list(range(1, 11))


@pytest.mark.parametrize("number", sorted(set(range(1, 11)) - {2}))
def test_every_law_that_applies_has_tests_that_bear_its_name(number: int) -> None:
    text, code, tests = laws()[number]
    name = re.compile(rf"^ *def test_(?:\w+_)?law_{number}_", re.MULTILINE)
    others = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(name.search(path.read_text()) for path in others), f"no test bears the name of this law: {text}"
    named = re.findall(r"`(tests/[^`]+\.py)`", tests)
    assert named
    for path in named:
        assert name.search((ROOT / path).read_text()), f"{path} has no test of law {number}"
    for path in re.findall(r"`([a-z_/]+\.py)`", code):
        assert (ROOT / "src" / "holdfast" / path).exists(), f"law {number} names {path}, which is not there"


def test_law_two_is_told_as_not_built_as_long_as_nothing_reads_from_kafka() -> None:
    sources = (ROOT / "src" / "holdfast").rglob("*.py")
    reads = any(re.search("^ *(from|import) confluent_kafka", path.read_text(), re.MULTILINE) for path in sources)
    assert (laws()[2][2] == "none yet") == (not reads)


# -- formats and figures


def fields_in(text: str) -> set[str]:
    return set(re.findall(r'"(\w+)"', text))


def test_the_settings_in_the_design_are_those_of_a_new_vault() -> None:
    block = re.search(r"```toml\n(.*?)```", DESIGN, re.DOTALL)
    assert block is not None
    shown, made = tomllib.loads(block[1]), tomllib.loads(settings_text(Path("vault"), InitOptions()))
    shown["vault"]["id"] = made["vault"]["id"]
    assert shown == made


def test_every_key_and_table_is_in_the_design() -> None:
    lines = section(DESIGN, "### Lines of versions, sources and ends")
    for line in (jsonform.VersionLine, jsonform.SourceLine, jsonform.EndLine):
        assert set(line.__struct_fields__) <= fields_in(lines)
    nothing = Evidence(
        id=uuid.uuid4(),
        barcode="",
        tape_file=0,
        object_id=None,
        drive="",
        begun_ns=0,
        ended_ns=0,
        size_bytes=0,
        members=0,
        expected=bytes(32),
        found=bytes(32),
        matched=True,
        reloaded=True,
    )
    assert set(evidence_fields(nothing)) == fields_in(section(DESIGN, "### Evidence"))
    who = label.Label(
        barcode="",
        volume_id=uuid.uuid4(),
        pair_id=uuid.uuid4(),
        vault_id=uuid.uuid4(),
        side=Side.A,
        twin_barcode="",
        record_bytes=1024,
        created="",
    )
    assert fields_in(label.encode_volume(who).decode()) - {"A"} <= fields_in(section(DESIGN, "### Tape"))
    named = {name for row in rows(section(DESIGN, "### Catalog")) for name in re.findall(r"`(\w+)`", row[0])}
    assert named == set(schema.metadata.tables)


@pytest.mark.parametrize(
    ("first", "total"),
    [
        ("superblock, at", packformat.SUPERBLOCK_BYTES),
        ("record, at", packformat.HEADER_BYTES),
        ("footer, at", packformat.FOOTER_BYTES),
    ],
)
def test_the_byte_tables_leave_no_byte_out(first: str, total: int) -> None:
    table = section(DESIGN, "### Pack").partition(f"| {first} |")[2].partition("\n\n")[0]
    fixed = [(int(row[0]), int(row[1])) for row in rows(f"| {first} |{table}") if row[1].isdigit()]
    assert fixed[0][0] == 0
    for (offset, size), (following, _) in itertools.pairwise(fixed):
        assert offset + size == following
    assert sum(fixed[-1]) == total


def test_the_byte_tables_say_where_things_are() -> None:
    pack, vault, digest = uuid.uuid4(), uuid.uuid4(), bytes(range(32))
    block = packformat.encode_superblock(packformat.Superblock(vault, pack, 7))
    assert (block[32:48], block[48:64], block[64:72]) == (vault.bytes, pack.bytes, (7).to_bytes(8, "little"))
    payload = memoryview(bytes(70_000))
    table = packformat.piece_table(payload)
    head = packformat.encode_header(
        packformat.RecordType.MANIFEST, digest, len(payload), table, pack_id=pack, number=5, offset=9216
    )
    numbers = {8: (1, 2), 9: (1, 1), 12: (4, 2), 16: (8, 70_000), 24: (8, 5), 80: (8, 9216)}
    for offset, (size, number) in numbers.items():
        assert int.from_bytes(head[offset : offset + size], "little") == number, f"record, at {offset}"
    assert (head[32:48], head[48:80]) == (pack.bytes, digest)
    assert len(table) == 16
    assert packformat.record_bytes(len(payload)) == packformat.aligned(128 + 70_000 + 16)
    footer = packformat.encode_footer(packformat.Footer(9216, 6, pack))
    assert (footer[16], int.from_bytes(footer[16:24], "little"), footer[24]) == (0, 9216, 6)
    assert footer[32:48] == pack.bytes


def test_the_figures_in_the_design_are_those_of_the_code() -> None:
    mib = 2**20
    assert 64 * mib == values.BLOCK_LIMIT_BYTES
    assert f"{store.GROUP_VERSIONS:,} versions" in DESIGN
    assert f"{store.GROUP_BYTES // mib} MiB of new bytes" in " ".join(DESIGN.split())
    assert f"{store.BUFFER_COUNT} blocks of `block_size`" in DESIGN
    assert f"{plan.OBJECT_MEMBERS:,} members" in DESIGN
    assert f"{dump.COMMIT_MEMBERS:,} members" in DESIGN
    assert f"a ring of {fan.RING_BYTES // mib} MiB" in DESIGN
    assert f"{prepare.LEDGER_LIMIT_BYTES // mib} MiB or a thousandth" in DESIGN
    assert f"pages of {PAGE_ROWS:,} rows" in DESIGN
    assert f"up to {plant.GROUP_FILES} files or {plant.GROUP_BYTES // mib} MiB are synced" in " ".join(DESIGN.split())


# -- links and form

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: str) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*sorted(PAGES), "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in LINK.findall(path.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), f"{page}: {target} is not there"
        if anchor:
            assert anchor in anchors(other.read_text()), f"{page}: {target} has no such heading"


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    left = [ROOT / "README.md"]
    while left:
        path = left.pop()
        if path not in reached and path.suffix == ".md":
            reached.add(path)
            left += [
                (path.parent / target.partition("#")[0]).resolve()
                for target in LINK.findall(path.read_text())
                if not target.startswith(("https://", "#"))
            ]
    assert {ROOT / page for page in PAGES} <= reached


@pytest.mark.parametrize("page", sorted(PAGES))
def test_pages_name_no_place_on_anybodys_machine(page: str) -> None:
    paths = re.findall(r"(?<![\w.…>/$:}])/(?!archive/|data/|dev/|tmp/)\w+/", PAGES[page])
    assert not paths


def test_a_word_has_one_meaning() -> None:
    words = re.findall(r"\*\*([^*]+)\*\*", PAGES["docs/glossary.md"])
    twice = {word for word in words if words.count(word) > 1}
    assert not twice


def test_the_changelog_tells_of_this_release() -> None:
    assert f"\n## {holdfast.__version__} - " in PAGES["CHANGELOG.md"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == holdfast.__version__
    assert project["readme"] == "README.md"
