"""Parameters of real model servers at the edge: passed inward within bounds, or refused by name."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from edge.harness import Rig, chat, mutations
from narrows.coding.events import Coding, Failed, Failure, Opened
from narrows.edge.api.request import parse_chat
from narrows.edge.config import EdgeLimits
from narrows.edge.problems import ApiError
from narrows.wire.parameters import PARAMETERS, shapes_draw

DEEP: dict[str, Any] = {"type": "object"}
for _ in range(40):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
GOOD: dict[str, Any] = {
    "presence_penalty": 0.5,
    "frequency_penalty": -2,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "top_k": 40,
    "min_p": 0.05,
    "typical_p": 0.9,
    "logit_bias": {"17": -100, "18": 2.5},
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": False, "style": "plain"},
    "ignore_eos": True,
    "min_tokens": 3,
    "stop_token_ids": [2, 3],
}
FORMATS: dict[str, Any] = {
    "guided_json": {"type": "object"},
    "guided_regex": "[0-9]+",
    "guided_choice": ["yes", "no"],
    "guided_grammar": 'root ::= "a"',
    "structured_outputs": {"regex": "[0-9]+"},
    "grammar": 'root ::= "a"',
    "json_schema": {"type": "object"},
    "regex": "a+",
    "ebnf": 'root ::= "a"',
}
BAD: dict[str, list[Any]] = {
    "presence_penalty": [2.1, "1", True],
    "frequency_penalty": [-2.1, [0]],
    "repetition_penalty": [0, 11],
    "repeat_penalty": [-1],
    "top_k": [-2, 1.5, 1 << 40, True],
    "min_p": [1.1, "x"],
    "typical_p": [-0.1],
    "logit_bias": [{"a": 1}, {"-1": 1}, {"1": 101}, {"1": "x"}, [1], {"9" * 7: 1}],
    "reasoning_effort": ["Very", 1],
    "chat_template_kwargs": [{"enable_thinking": 1}, {"messages": "x"}, {"a": []}, {"a b": 1}, 5],
    "ignore_eos": [1, "true"],
    "min_tokens": [-1, 0.5],
    "stop_token_ids": [["2"], [-1], [0] * 65, 2],
    "guided_json": ['{"type": "object"}', DEEP, {"a": "x" * 200_000}, {"a": [0] * 20_000}],
    "guided_regex": ["", "x" * 5000, 1],
    "guided_choice": [[], ["a"] * 257, [1], "ab", [""]],
    "guided_grammar": [1, "x" * 70_000],
    "structured_outputs": [{}, {"regex": "a", "json": {}}, {"n": 2}, {"json": DEEP}],
    "grammar": [[]],
    "json_schema": ["x", DEEP],
    "regex": [{}],
    "ebnf": [0],
}


def parse(**fields: Any) -> dict[str, Any]:
    return parse_chat(chat(**fields), "test-model", EdgeLimits()).body


def test_all_are_passed_as_they_are() -> None:
    assert GOOD.keys() | FORMATS.keys() == PARAMETERS.keys() == BAD.keys()
    assert {name: parse(**GOOD)[name] for name in GOOD} == GOOD
    for name, value in FORMATS.items():
        assert parse(**{name: value})[name] == value


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in BAD.items() for v in vs])
def test_what_is_out_of_bounds_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ApiError) as refused:
        parse(**{name: value})
    assert refused.value.status == 400
    assert str(refused.value.param).split(".")[0] == name
    assert refused.value.message.startswith(name)


@pytest.mark.parametrize(
    "name",
    ["prompt_logprobs", "return_tokens_as_token_ids", "return_token_ids", "echo", "best_of"],
)
def test_nothing_makes_a_server_say_more(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(**{name: 1})
    assert (refused.value.code, refused.value.param) == ("unknown_parameter", name)


def test_one_form_at_most_and_no_more_tokens_than_there_may_be() -> None:
    for other in ({"guided_regex": "a"}, {"response_format": {"type": "json_object"}}):
        for schema in ({"type": "object"}, {}):
            with pytest.raises(ApiError, match="send one"):
                parse(guided_json=schema, **other)
    with pytest.raises(ApiError, match="repetition_penalty and repeat_penalty"):
        parse(repetition_penalty=1.1, repeat_penalty=1.2)
    with pytest.raises(ApiError, match="above max_tokens"):
        parse(min_tokens=9, max_tokens=8)


def test_a_schema_of_a_format_is_bounded_too() -> None:
    for form in (
        {"type": "json_object", "schema": DEEP},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": DEEP}},
    ):
        with pytest.raises(ApiError, match="nests deeper than 32"):
            parse(response_format=form)


def test_the_enclaves_refusal_is_said_with_the_names(tmp_path) -> None:
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: [Opened(Coding.TEXT), Failed(Failure.BAD_REQUEST)]
        for fields, param in (
            ({"top_k": 5}, "top_k"),
            ({"top_k": -1, "min_p": 0.1}, "min_p"),
            ({"top_k": 5, "min_p": 0.1}, None),
        ):
            reply = rig.post(chat(**fields))
            error = reply.json()["error"]
            assert (reply.status_code, error["code"]) == (400, "unsupported_by_model")
            assert error["param"] == param
            assert all(name in error["message"] for name, value in fields.items() if value != -1)


def test_what_shapes_the_draw_is_not_held_against_an_answer() -> None:
    """The noise test's null is false there, as behind a forced format."""
    for name, value in (GOOD | FORMATS).items():
        quiet = name in ("reasoning_effort", "chat_template_kwargs")
        assert shapes_draw({"messages": [], name: value}) != quiet, name
    assert not shapes_draw({"messages": [], "top_k": -1, "logit_bias": {}, "min_p": 0})


def test_hostile_values_are_parsed_or_refused() -> None:
    junk = [1 << 70, "\ud800", {"\ud800": 1}, {"1": {}}, ["\0"], 1e308]
    for body in mutations(chat(**GOOD, guided_json=FORMATS["guided_json"]), junk, 1500):
        if isinstance(body, dict):
            with contextlib.suppress(ApiError):
                parse_chat(body, "test-model", EdgeLimits())
