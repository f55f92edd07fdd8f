"""Reading scenarios: every mistake at once, each on its line; layers; presets; fuzz."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.errors import InputError
from narrows.plan.fields import DEMANDS, FIELDS
from narrows.plan.scenario import build, load, preset_names
from narrows.tomlfile import parse_toml

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "scenarios").glob("*.toml"))

GOOD = """\
name = "good"
[model]
parameters = "70B"
[demand]
tokens_per_day = "1B..4B tokens/day"
"""

BAD = """\
name = "bad"
colour = "red"
[model]
parameters = -5
weights = "140 GB"
bytes_per_parameter = 2
training_tokens = "1T"
tokens_per_parameter = 20
[demand]
tokens_per_day = "1 TB/day"
users = 5
hidden_share = "120%"
lifetime = 2
growth_curve = "sideways"
[coding]
compresed = "2 bits/token"
[attacker]
accounts = "10"
[defender]
cap = { fortnight = "1 GB", hour = "2 GB/day", day = "0 B" }
verification = "maybe"
"""


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        build(parse_toml(text, "s.toml"))
    return caught.value.problems


def test_every_mistake_at_once_with_its_line_and_remedy() -> None:
    found = problems(BAD)
    for line, words in [
        (2, "'colour' is not one of"),
        (4, "model.parameters: must not be negative; write it as '671B'"),
        (6, "weights and bytes_per_parameter exclude each other"),
        (8, "training_tokens and tokens_per_parameter exclude each other"),
        (10, "does not fit tokens/day"),
        (10, "tokens_per_day, users exclude each other"),
        (12, "120 % is over 100 %"),
        (13, "needs a unit, as in '2 years'"),
        (14, "must be one of exponential, linear, logistic"),
        (16, "perhaps 'coding.compressed'"),
        (18, "add the missing one"),
        (20, "cap.fortnight: a cap by window has minute, hour, day, week"),
        (20, "cap.hour: bytes take no '/'"),
        (20, "cap.day: the cap of the day must be above 0"),
        (21, "must be true or false"),
    ]:
        assert any(
            problem.startswith(f"s.toml:{line}:") and words in problem for problem in found
        ), (line, words, found)
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines), "in the order of the file"


def test_missing_fields() -> None:
    found = problems('name = "empty"\n')
    assert any("model: missing; give parameters" in problem for problem in found)
    assert any("demand: missing; give one of" in problem for problem in found)
    (found_half,) = problems(GOOD.replace("tokens_per_day", "users").replace(" tokens/day", ""))
    assert "users and tokens_per_user_per_day belong together" in found_half


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('growth = "2x/year"\ngrowth_curve = "logistic"', "needs growth_ceiling"),
        ('growth = "2x/year"\ngrowth_ceiling = 10', "only growth_curve = 'logistic'"),
        ('growth_curve = "linear"', "growth_curve needs growth"),
        ('growth = "0.5x/year"\ngrowth_curve = "linear"', "a decline is exponential"),
    ],
)
def test_growth_rules(lines: str, words: str) -> None:
    (problem,) = problems(GOOD + lines + "\n")
    assert words in problem


@pytest.mark.parametrize("group", DEMANDS, ids=lambda group: group[-1])
def test_each_way_to_state_demand_works(group: tuple[str, ...]) -> None:
    flags = {"parameters": "70B", "training_tokens": "1T"}
    flags |= {key: FIELDS[key].dimension.example for key in group}
    assert build(None, None, flags).given >= set(group)


def test_later_layers_replace_another_kind_of_demand_and_weights() -> None:
    changed = build(None, "llama-3.1-405b", {"tokens_per_day": "1B", "weights": "1 TB"})
    assert not changed.has("demand.training_multiple")
    assert not changed.has("model.bytes_per_parameter")
    assert changed.numbers["model.weights"].p5 == 1e12
    kept = build(None, "research-model", {"users": "10"})
    assert kept.has("demand.tokens_per_user_per_day")


def test_a_file_may_stand_on_a_preset() -> None:
    text = 'preset = "deepseek-v3"\n[attacker]\nweight_compression = 2\n'
    scenario = build(parse_toml(text, "mine.toml"))
    assert scenario.numbers["model.parameters"].p5 == 671e9
    assert scenario.numbers["attacker.weight_compression"].p5 == 2


@pytest.mark.parametrize("name", preset_names())
def test_presets_state_their_sources(name: str) -> None:
    scenario = load(None, name)
    assert scenario.sources
    assert {"demand.lifetime", "attacker.weight_compression"} <= scenario.given
    assert len(scenario.description) > 20


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(InputError, match=r"perhaps 'llama-3.1-405b'"):
        load(None, "llama-3-405b")
    with pytest.raises(InputError) as caught:
        load(None, "deepseek-v3", {"weight_compresion": "2"})
    assert "perhaps 'weight_compression'" in caught.value.problems[0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_load(path: Path) -> None:
    assert load(str(path)).description


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


_VALUES = st.one_of(
    st.integers(-10, 10**20),
    st.floats(allow_nan=True),
    st.text(max_size=20),
    st.booleans(),
    st.sampled_from(["1..2", "5%", "1 GB/day", "2 years", "true", "$1/token", "70B"]),
)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c for c in value if c.isalnum() or c in " ./%$") + '"'
    return str(value)


@settings(max_examples=150)
@given(
    st.dictionaries(st.sampled_from([*FIELDS, "model.x", "defender.coding"]), _VALUES, max_size=8)
)
def test_any_scenario_is_read_or_refused_with_problems(entries: dict[str, object]) -> None:
    sections: dict[str, list[str]] = {}
    for path, value in entries.items():
        section, key = path.split(".")
        sections.setdefault(section, []).append(f"{key} = {_toml(value)}")
    text = "".join(f"[{name}]\n" + "\n".join(rows) + "\n" for name, rows in sections.items())
    try:
        document = parse_toml(text, "fuzz.toml")
    except InputError:
        return
    try:
        scenario = build(document)
    except InputError as error:
        explained = error.problems
    else:
        explained = ("read",)
        assert scenario.has("model.weights") or scenario.has("model.parameters")
    assert explained


@settings(max_examples=100)
@given(st.text(max_size=200))
def test_any_text_is_a_scenario_or_an_input_error(text: str) -> None:
    with pytest.raises(InputError):
        build(parse_toml(text, "fuzz.toml"))
