"""docs/trusted-base.md lists every file that the claim rests on, with its true size."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "narrows"
TEXT = (ROOT / "docs" / "trusted-base.md").read_text(encoding="utf-8")
ROWS = {
    name: int(lines)
    for name, lines in re.findall(r"^\| ((?:[a-z]+/)?\w+\.py) \| ([\d,]+) \|", TEXT, re.MULTILINE)
}


def _section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _lines(name: str) -> int:
    return len((SOURCE / name).read_text(encoding="utf-8").splitlines())


def test_every_listed_file_has_its_size() -> None:
    """Where this fails, the right rows are in the message."""
    right = {name: _lines(name) for name in ROWS}
    wrong = [f"| {name} | {right[name]} |" for name in ROWS if ROWS[name] != right[name]]
    assert not wrong, "docs/trusted-base.md should say:\n" + "\n".join(wrong)


def test_every_total_is_the_sum_of_its_table() -> None:
    for title, words in (("The gate", "Gate total"), ("The ledger", "Ledger total")):
        table = _section(title).partition(f"\n{words}: ")
        said = int(re.match(r"[\d,]+", table[2]).group().replace(",", ""))  # type: ignore[union-attr]
        names = re.findall(r"^\| ((?:[a-z]+/)?\w+\.py) \|", table[0], re.MULTILINE)
        assert len(names) > 5
        assert said == sum(map(_lines, names)), words


def test_every_file_of_the_gate_is_listed() -> None:
    files = {f"gate/{path.name}" for path in (SOURCE / "gate").glob("*.py") if path.stat().st_size}
    assert files == {name for name in ROWS if name.startswith("gate/")}


def test_every_file_of_the_ledger_is_listed_or_named_as_outside() -> None:
    outside = _section("The ledger").partition(" are not in this base")[0].rpartition("\n\n")[2]
    for path in (SOURCE / "ledger").glob("*.py"):
        if path.stat().st_size and f"ledger/{path.name}" not in ROWS:
            assert f"`{path.name}`" in outside, path.name


def test_what_the_base_imports_of_ours_is_in_it() -> None:
    """A file that decides may not lean on one that nobody counts. ``errors`` is named in the
    text; the gate's and the witness's mains are where outside meets inside."""
    named = {"errors"}
    # setup and admin are named as outside, on purpose; the isolated start reads every section
    edges = {"gate/main.py", "ledger/ledger.py", "deploy/isolated.py"}
    for name in ROWS.keys() - edges:
        tree = ast.parse((SOURCE / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("narrows."):
                inner = node.module.removeprefix("narrows.")  # type: ignore[union-attr]
                parts = {inner} | {f"{inner}.{alias.name}" for alias in node.names}
                files = {part.replace(".", "/") + ".py" for part in parts}
                known = {file for file in files if (SOURCE / file).is_file()}
                assert known <= ROWS.keys() or inner in named, (name, known)
