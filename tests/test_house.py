"""The house as docs/design.md draws it: who imports whom, and how full a room may be."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "narrows"
MAX_FILES = 16


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in SOURCE.rglob("*.py")}


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module to the modules of ours that it imports, at whatever depth of its code."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "narrows":
                assert node.level == 0
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found[name].add(full if full in MODULES else str(node.module))
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in MODULES}
        found[name] -= {name}
    return {name: frozenset(targets) for name, targets in found.items()}


def part(module: str) -> str:
    """The part of the design's table that a module belongs to; empty for the package itself."""
    return [*module.split("."), ""][1]


def table() -> dict[str, frozenset[str]]:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", text, re.MULTILINE)
    return {name: frozenset(re.findall(r"\w+", said.partition(":")[0])) for name, said in rows}


def test_the_table_names_every_part_and_the_code_keeps_to_it() -> None:
    allowed = table()
    parts = {part(name) for name in MODULES} - {"", "py"}
    assert parts == set(allowed)
    for name, targets in imports().items():
        if part(name) in ("", "cli"):
            continue
        for target in targets:
            if part(target) not in ("", part(name)):
                assert part(target) in allowed[part(name)], f"{name} imports {target}"
    used = {
        name: {part(t) for m, ts in imports().items() if part(m) == name for t in ts}
        for name in parts
    }
    for name in parts - {"cli"}:
        said = allowed[name] & parts
        assert said <= used[name], f"design.md: {name} does not import {sorted(said - used[name])}"


def test_nothing_imports_the_commands() -> None:
    assert not [
        (name, target)
        for name, targets in imports().items()
        for target in targets
        if part(target) == "cli" and part(name) != "cli"
    ]


def test_no_module_imports_in_a_circle() -> None:
    """Depth first: a module that is met again while it is still open closes a circle."""
    done: set[str] = set()

    def visit(name: str, open_: tuple[str, ...]) -> None:
        assert name not in open_, " -> ".join((*open_[open_.index(name) :], name))
        if name not in done:
            for target in imports().get(name, ()):
                # a package's own modules are reached through its face, which is no circle
                if not name.startswith(target + "."):
                    visit(target, (*open_, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_no_room_is_too_full() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MAX_FILES, f"{folder.relative_to(ROOT)} has {len(files)} files"


# The gate's figures are of no use after a crash, a restored ledger is a file that SQLite wrote, and
# the keys of an isolated start are a folder. A spool's files grow.
REPLACES_BY_HAND = {
    "narrows.durable": {"os.fsync", "os.replace", "os.link"},
    "narrows.ledger.office.backup": {"os.rename"},
    "narrows.gate.stats_file": {"replace"},
    "narrows.wire.spool.writer": {"os.fsync"},
    "narrows.wire.spool.receive": {"os.fsync"},
    "narrows.deploy.isolated": {"rename"},
}


def test_files_are_put_in_their_place_by_durable_alone() -> None:
    """A write, an fsync and a rename that are made by hand forget one of the three, or the
    folder's fsync."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
                if node.attr in ("fsync", "replace", "rename", "link"):
                    found[name].add(f"os.{node.attr}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                # of a path: that of a text has two arguments
                one = len(node.args) == 1 and not node.keywords
                if one and node.func.attr in ("replace", "rename"):
                    found[name].add(node.func.attr)
    assert found == REPLACES_BY_HAND


def test_the_trusted_base_never_visits_the_office() -> None:
    """What a gate and a witness run: every module that their processes import, office excluded."""
    base = [
        name
        for name in MODULES
        if part(name) == "gate"
        or (part(name) == "ledger" and not name.startswith("narrows.ledger.office"))
    ]
    assert len(base) > 30
    for name in base:
        visits = [t for t in imports().get(name, ()) if t.startswith("narrows.ledger.office")]
        assert not visits, f"{name} imports {visits}"
