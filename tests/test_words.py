"""One name for one thing (docs/glossary.md), and what the pages name in the code is there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "narrows"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ("CHANGELOG.md", "experiments.md")]  # history
PAGES += sorted((ROOT / "spin").glob("*.pml"))  # the comments say which code a step is
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+ \| [^|]+) \|$", re.MULTILINE)
SUFFIXES = ("py", "toml", "json", "jsonl", "crt", "key", "db")
HOMES = re.compile(r"((?:`[A-Z]\w+(?:\.\w+)?`(?:, )?)+) in `([\w/.]+)`")


@cache
def trees() -> dict[str, ast.Module]:
    """Path below src/narrows, without its suffix, to the module's tree."""
    return {
        str(path.relative_to(SOURCE).with_suffix("")): ast.parse(path.read_text(encoding="utf-8"))
        for path in SOURCE.rglob("*.py")
    }


@cache
def classes() -> dict[str, list[tuple[str, ast.ClassDef]]]:
    """Public class name to where classes of that name are."""
    found: dict[str, list[tuple[str, ast.ClassDef]]] = defaultdict(list)
    for place, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append((place, node))
    return found


def named_in(body: ast.AST) -> set[str]:
    """Functions, classes, variables and attributes of ``self`` that a class or module has."""
    found: set[str] = set()
    for node in ast.walk(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def members(name: str) -> set[str]:
    found: set[str] = set()
    for _, node in classes().get(name, []):
        found |= named_in(node)
        for base in node.bases:
            found |= members(base.id) if isinstance(base, ast.Name) else set()
    return found


def test_no_two_public_classes_have_the_same_name() -> None:
    places = {name: [place for place, _ in found] for name, found in classes().items()}
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_the_glossary_gives_a_word_one_meaning() -> None:
    rows = ROW.findall((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))[2:]
    words = [word for word, _ in rows]
    assert len(words) > 30
    assert words == sorted(set(words))
    for word, said in rows:
        for names, place in HOMES.findall(said):
            for name in re.findall(r"`(\w+)", names):
                homes = [home for home, _ in classes().get(name, [])]
                assert any(f"{home}.py".startswith(place) for home in homes), f"{word}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_classes_methods_and_functions_are_there(page: Path) -> None:
    """`Class.member` and `module.name`, where the first part is a class or module of ours."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".pml":
        text = re.sub(r"\b([A-Z]\w+\.\w+)", r"`\1`", "".join(COMMENT.findall(text)))
    modules: dict[str, set[str]] = defaultdict(set)
    for place, tree in trees().items():
        modules[place.rpartition("/")[2]] |= named_in(tree)
    gone = []
    for owner, member in re.findall(r"`(\w+)\.(\w+)(?:\(\))?`", text):
        if owner in classes():
            known = members(owner)
        elif owner in modules and member not in SUFFIXES and member.islower():  # not Go's note.Open
            known = modules[owner]
        else:
            continue
        if member not in known:
            gone.append(f"{owner}.{member}")
    assert not gone
