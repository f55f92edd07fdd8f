"""docs/gate.md names every setting of a gate, with its default where it is one number."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from narrows.gate import link
from narrows.gate.config import GateConfig, PortConfig
from narrows.wire.gatestate import REASONS
from narrows.wire.keepalive import INTERVAL_S

LEDGER = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text(encoding="utf-8")
TEXT = (Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
TABLE = TEXT.partition("## Configuration: `[gate]`")[2].partition("\n## ")[0]
SIZES = {"MiB": 1 << 20, "KiB": 1 << 10}


def _number(text: str) -> float:
    value, _, unit = text.partition(" ")
    return float(value) * SIZES.get(unit.split(" ")[0], 1)


def test_every_setting_is_named_with_its_default() -> None:
    said: dict[str, str] = {}
    for row in re.findall(r"^\| (`.+?) \| (.+?) \|", TABLE, re.MULTILINE):
        names, defaults = re.findall(r"`(\w+)`", row[0]), row[1].split(", ")
        said |= dict(
            zip(names, defaults if len(defaults) == len(names) else [""] * 9, strict=False)
        )
    for field in dataclasses.fields(GateConfig):
        assert field.name in said, field.name
        if isinstance(field.default, int | float) and re.match(r"\d", said[field.name]):
            assert _number(said[field.name]) == field.default, field.name
    for field in dataclasses.fields(PortConfig):
        assert f"`{field.name}`" in TABLE, field.name


def test_every_reason_is_explained() -> None:
    states = re.search(r"^`state` is `ok`, (.+?)\. `retry", TEXT, re.MULTILINE | re.DOTALL)
    assert states
    assert set(re.findall(r"`(\w+)`", states.group(1))) == set(REASONS)
    table = LEDGER.partition("| denied because of |")[2].partition("\n\n")[0]
    assert {*re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)} == {*REASONS} - {
        "kernel",
        "machine",
    }


def test_dead_peers_are_found_when_the_page_says() -> None:
    said = re.search(r"TCP keepalive \(about (\d+) s\)", TEXT)
    assert said
    assert int(said.group(1)) == link.IDLE_S + link.PROBES * INTERVAL_S
