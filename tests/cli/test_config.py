"""The configuration file: every mistake at once, each with its line and what is right."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from narrows.config import load_sections
from narrows.errors import InputError


@dataclass(frozen=True)
class Port:
    name: str = "answers"
    max_links: int = 4


@dataclass(frozen=True)
class Gate:
    tick_ms: int = 20
    pacing: str = "variable"
    port: tuple[Port, ...] = field(default_factory=lambda: (Port(),))


def load(tmp_path: Path, text: str) -> dict[str, object]:
    path = tmp_path / "narrows.toml"
    path.write_text(text)
    return load_sections(path, {"gate": Gate})


def test_every_value_has_a_default() -> None:
    assert load_sections(None, {"gate": Gate}) == {"gate": Gate()}


def test_values_and_tables_are_read(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[gate]\ntick_ms = 50\n[[gate.port]]\nname = 'x'\n")
    assert loaded["gate"] == Gate(50, "variable", (Port("x"),))


def test_all_mistakes_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = "[gate]\ntick_ms = 'soon'\npacin = 'x'\n\n[[gate.port]]\nmax_link = 3\n[gaet]\n"
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "narrows.toml:2: gate.tick_ms: " in problems
    assert "integer" in problems
    assert "narrows.toml:3: gate.pacin: no such key; did you mean pacing?" in problems
    assert "narrows.toml:6: gate.port.0.max_link: no such key; did you mean max_links?" in problems
    assert "narrows.toml:7: [gaet] is no section; did you mean gate?" in problems


def test_a_file_that_is_not_toml_says_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2"):
        load(tmp_path, "[gate]\ntick_ms = \n")
