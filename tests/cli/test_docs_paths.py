"""What the documentation names is there: files, commands and their options, sections and keys."""

from __future__ import annotations

import fnmatch
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from narrows.cli.dispatch import CommandTable
from narrows.cli.main import app
from narrows.cli.plan.forecast import forecast_app
from narrows.cli.plan.table import app as plan_app
from narrows.config import load_sections
from narrows.edge.config import EdgeConfig
from narrows.enclave.config import EnclaveConfig
from narrows.errors import InputError
from narrows.gate.config import GateConfig
from narrows.metrics.config import MetricsConfig

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "SECURITY.md"]
PAGES += [ROOT / "CONTRIBUTING.md"]
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
TREE = {
    f"/{path.relative_to(ROOT)}"
    for folder in ("src", "tests", "spin", "examples", "engines")
    for path in (ROOT / folder).rglob("*")
}
PLAN_COMMANDS = plan_app.subcommands
SECTIONS = {
    "enclave": EnclaveConfig,
    "gate": GateConfig,
    "edge": EdgeConfig,
    "metrics": MetricsConfig,
}


def ids(page: Path) -> str:
    return page.name


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_are_there(page: Path) -> None:
    text = prose(page)
    new = set(re.findall(r"Write `([^`]+)`", text))  # a recipe makes it
    named = set(re.findall(r"`([\w./*-]+\.(?:py|pml))`", text)) - new
    assert not {name for name in named if not fnmatch.filter(TREE, f"*/{name}")}


def commands_in(page: Path) -> Iterator[list[str]]:
    """The words behind ``narrows`` of each command line in a fenced block or between backticks."""
    spans = re.findall(r"`(narrows [^`]+)`", prose(page))
    signed = ("narrows change v1", "narrows credit v1")
    spans = [span for span in spans if not span.startswith(signed)]
    for block in [*(block for _, block in FENCED.findall(page.read_text())), *spans]:
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ |sudo |exec )*(?:[\w./-]+/)?narrows( .*|$)", line)
            if found is None or "…" in line:
                continue
            lexer = shlex.shlex(found[1], posix=True, punctuation_chars=True)
            lexer.wordchars += "…:@,{}[]"
            words: list[str] = []
            for word in lexer:
                if set(word) <= set("|&;<>()"):
                    break
                words.append(word)
            yield words


def check(words: list[str]) -> str:
    """What is wrong with a command line; empty where nothing is."""
    table: object = app
    rest = list(words)
    while isinstance(table, CommandTable):
        if not rest or rest[0].startswith("-"):
            return ""
        if rest[0] not in table.commands:
            return f"no command {rest[0]}"
        table = importlib.import_module(table.commands[rest.pop(0)][0]).app
    if not isinstance(table, typer.Typer):  # ``plan``: options of its own, and commands below it
        below = PLAN_COMMANDS
        table = below[rest.pop(0)] if rest and rest[0] in below else forecast_app
    command = get_command(table)
    while hasattr(command, "commands"):
        if not rest or rest[0].startswith("-"):
            break
        if rest[0] not in command.commands:
            return f"no command {rest[0]}"
        command = command.commands[rest.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    options |= {name for parameter in command.params for name in parameter.secondary_opts}
    wrong = [
        word
        for word in (word.split("=")[0] for word in rest)
        if re.fullmatch(r"--[a-z][a-z-]*", word) and word not in options | {"--help"}
    ]
    return f"no option {wrong}" if wrong else ""


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_are_there(page: Path) -> None:
    wrong = {" ".join(words): problem for words in commands_in(page) if (problem := check(words))}
    assert not wrong


def test_commands_are_found() -> None:
    """The pages have command lines, and a wrong one is seen."""
    assert sum(1 for page in PAGES for _ in commands_in(page)) > 40
    assert check(["weak", "trian"])
    assert check(["up", "--budgte", "1"])
    assert not check(["key", "operator", "new", "alice", "--out", "x"])


@pytest.mark.parametrize("page", PAGES[:-1], ids=ids)  # recipes make keys of their own
def test_configuration_keys_are_there(page: Path, tmp_path: Path) -> None:
    """Every block with a section of ours; only what is unknown counts, values may be examples."""
    for _, block in FENCED.findall(page.read_text()):
        if not re.search(r"^ *\[+(enclave|gate|edge|metrics)\b", block, re.MULTILINE):
            continue
        path = tmp_path / "narrows.toml"
        path.write_text(block)
        try:
            load_sections(path, SECTIONS)
        except InputError as error:
            unknown = [line for line in error.problems if "no such key" in line]
            unknown += [line for line in error.problems if "is no section" in line]
            assert not unknown, block
