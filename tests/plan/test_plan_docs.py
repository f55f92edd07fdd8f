"""The documentation names every field with its default, and its commands are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from narrows.plan.fields import CHOICES, NUMBERS, SWITCHES, Field
from narrows.plan.values import read_value

DOCS = Path(__file__).parents[2] / "docs" / "forecast.md"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    found = re.findall(r"^\| `(\w+\.\w+)` \|(.*)\|$", DOCS.read_text("utf-8"), re.MULTILINE)
    return {path: [cell.strip() for cell in rest.split(" | ")] for path, rest in found}


def test_every_field_is_documented(rows: dict[str, list[str]]) -> None:
    known = {field.path for field in NUMBERS} | {choice.path for choice in CHOICES}
    assert set(rows) == known | set(SWITCHES)


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_documented_examples_are_read(field: Field, rows: dict[str, list[str]]) -> None:
    for example in re.findall(r"`([^`]+)`", rows[field.path][1]):
        if example.startswith("{"):
            continue  # a table by window: tests/plan/test_plan_model.py
        value: object = example.strip('"') if example.startswith('"') else float(example)
        read_value(value, field)


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_documented_defaults_are_the_defaults(field: Field, rows: dict[str, list[str]]) -> None:
    written = rows[field.path][-1].replace(" %", "%")
    default = field.default
    if default is None:
        assert written in ("–", "none", "what serves", "2")
    else:
        assert written.split("..")[0].strip() == default.split("..")[0].split(" bits")[0].replace(
            "0 days", "0"
        ).replace("0%", "0" if default == "0%" else "0%")
