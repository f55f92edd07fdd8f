"""The configuration file: every mistake at once, each with its line and what is right."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from narrows.config import load_sections
from narrows.deploy.config import load_config
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


def test_values_that_no_role_takes_come_with_the_rest(tmp_path: Path) -> None:
    """Ranges too, in every section, beside mistakes of type in the same section."""
    text = """
[enclave]
threads = -4
kv_mib = "many"
listen = "nowhere"
[enclave.upstream]
url = "ftp://x"
model = "m"
[gate]
tick_ms = 0
pacin = "x"
[[gate.ports]]
allow = ["nonsense"]
[edge]
listen_port = 99999
link_options = { max_hold_ms = -4, foo = 3 }
[edge.limits]
n = 0
"""
    path = tmp_path / "narrows.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    found = {
        (problem.split(":")[1], word)
        for problem in caught.value.problems
        for word in ("threads", "kv_mib", "listen", "ftp", "tick_ms", "pacin", "nonsense")
        if word in problem.partition(": ")[2]
    }
    assert {("3", "threads"), ("4", "kv_mib"), ("5", "listen"), ("7", "ftp")} <= found
    assert {("10", "tick_ms"), ("11", "pacin"), ("13", "nonsense")} <= found
    rest = [problem for problem in caught.value.problems if ": edge: " in problem]
    assert [problem.split(":")[1] for problem in rest] == ["15", "16", "16", "18"]


def test_the_defaults_are_right(tmp_path: Path) -> None:
    config = load_config(None)
    for section in (config.enclave, config.gate, config.edge):
        section.check()


def test_a_gate_reads_its_section_without_the_other_roles(tmp_path: Path) -> None:
    """Neither weak models nor the codec are loaded into the gate's process."""
    path = tmp_path / "narrows.toml"
    path.write_text("[gate]\ntick_ms = 30\n[edge]\nlisten_port = 99999\n")
    code = (
        "import sys\n"
        "import narrows.cli.gate, narrows.gate.main\n"
        "from pathlib import Path\n"
        "from narrows.deploy.gate_section import load_gate\n"
        f"assert load_gate(Path({str(path)!r})).tick_ms == 30\n"
        "roles = ('coding', 'weak', 'edge', 'enclave')\n"
        "print([m for m in sys.modules if m.startswith('narrows.') and m.split('.')[1] in roles])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_size_may_be_an_option_of_the_link(tmp_path: Path) -> None:
    path = tmp_path / "narrows.toml"
    path.write_text('[edge]\nlink_options = { text_base_bytes = "64KB" }\n')
    assert load_config(path).edge.link_options == {"text_base_bytes": 64_000}
